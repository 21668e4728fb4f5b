"""A posterior, and what was selected with it, are of what is asked for.

The same as `stale_test`, for `jaxcal posterior fit` and `select`: each way ends
in the right new number or in a refusal that names what differs.
"""

import json
import pathlib
import shutil
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image
import pytest

from jaxcal import predictions
from jaxcal.features import encoding
from jaxcal.posterior import files
from jaxcal.testbed import pairs as testbed_pairs
from jaxcal.testbed import shipped
from tests.cli import command
from tests.data import miniatures

_NUM_PAIRS = 8
_CONFIG = ("--config=configs/bayesvlm.py", "--config.batch_size=1")
_ARRAYS = ("factors.npz", "spectra.npz", "posterior.npz")
_PREDICTED = ("before", "random-2-0", "epig-2-0")


def _write_pairs(root):
  root.mkdir(parents=True)
  source = testbed_pairs.load(_NUM_PAIRS)
  for number in range(_NUM_PAIRS):
    Image.fromarray(source.read(number)).save(root / f"{number}.png")
  (root / "pairs.csv").write_text("path,caption\n" + "".join(
      f"{number}.png,{caption}\n"
      for number, caption in enumerate(source.captions)))


def _another_model(folder):
  """A checkpoint of one bit more."""
  shutil.copytree(shipped.folder(), folder)
  weights = folder / "model.safetensors"
  content = bytearray(weights.read_bytes())
  content[-1000] ^= 1  # the last bit of a number
  weights.write_bytes(content)
  return folder


def _fit(root, folder, *arguments):
  return command.here(
      "posterior", "fit", *_CONFIG, f"--pairs={root / 'pairs.csv'}",
      "--candidates=4", f"--config.posterior.folder={folder}", *arguments)


def _arrays(folder):
  return {name: (folder / name).read_bytes() for name in _ARRAYS}


class _StaleTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    scratch = tempfile.TemporaryDirectory()
    cls.addClassCleanup(scratch.cleanup)
    cls.shared = pathlib.Path(scratch.name)
    _write_pairs(cls.shared / "pairs")
    status, _, error = _fit(cls.shared / "pairs", cls.shared / "posterior")
    assert status == 0, error

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path, "root")
    shutil.copytree(self.shared, self.root)
    self.posterior = self.root / "posterior"

  def _succeeds(self, ran):
    status, printed, error = ran
    self.assertEqual(status, 0, error)
    return printed

  def _fails(self, ran, message):
    status, printed, error = ran
    self.assertEqual((status, printed), (2, ""), error)
    self.assertRegex(error, message)
    self.assertNotIn("Traceback", error)


@pytest.mark.slow
class FitTest(_StaleTest):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.whole = _arrays(cls.shared / "posterior")
    # With all features, and the sums of the first of two blocks.
    folder = cls.shared / "unfinished"
    with command.stopped_at_write(5):
      _fit(cls.shared / "pairs", folder)
    with np.load(folder / "work" / "sums.npz") as sums:
      assert sums["arr_0"] == 1

  def setUp(self):
    super().setUp()
    self.pairs = self.root / "pairs"
    self.folders = {"finished": self.posterior,
                    "unfinished": self.root / "unfinished",
                    "features": self.root / "features"}
    # As if it had been stopped before the first sums.
    shutil.copytree(self.folders["unfinished"], self.folders["features"])
    (self.folders["features"] / "work" / "sums.npz").unlink()

  def _refused(self, message, folder, *arguments):
    """Refuses; and the way out gives the numbers of a new folder."""
    before = {path: path.read_bytes() for path in folder.rglob("*.npz")
              if path.name != "digests.npz"}
    self._fails(_fit(self.pairs, folder, *arguments), message)
    for path, content in before.items():
      self.assertEqual(path.read_bytes(), content)
    fresh = self.root / "fresh"
    self._succeeds(_fit(self.pairs, fresh, *arguments))
    self._succeeds(_fit(self.pairs, folder, "--overwrite", *arguments))
    self.assertEqual(_arrays(folder), _arrays(fresh))
    return _arrays(fresh)

  @parameterized.parameters("finished", "unfinished", "features")
  def test_nothing_changed(self, state):
    self._succeeds(_fit(self.pairs, self.folders[state]))
    self.assertEqual(_arrays(self.folders[state]), self.whole)

  @parameterized.parameters("finished", "unfinished", "features")
  def test_replaced_picture(self, state):
    miniatures.picture(self.pairs / "1.png", 77)
    self.assertNotEqual(self._refused(
        "pairs.contents: stored '.*', asked '", self.folders[state]),
                        self.whole)

  @parameterized.parameters("finished", "unfinished", "features")
  def test_edited_caption(self, state):
    path = self.pairs / "pairs.csv"
    path.write_text(path.read_text().replace("a ", "no ", 1))
    self.assertNotEqual(self._refused(
        "pairs.captions: stored '.*', asked '", self.folders[state]),
                        self.whole)

  @parameterized.parameters("finished", "unfinished", "features")
  def test_another_checkpoint_of_the_same_name(self, state):
    model = _another_model(self.root / "model")
    self._refused("\n  model: stored '.*', asked '", self.folders[state],
                  f"--config.model.name={model}")

  @parameterized.parameters("finished", "unfinished", "features")
  def test_other_precision(self, state):
    self._refused("model.text_precision: stored 'highest', asked 'bfloat16'",
                  self.folders[state],
                  "--config.model.text_precision=bfloat16")

  @parameterized.parameters("finished", "unfinished")
  def test_other_candidates(self, state):
    self._refused("candidates: stored 4, asked 8", self.folders[state],
                  "--candidates=8")

  def test_features_serve_other_candidates(self):
    folder, fresh = self.folders["features"], self.root / "fresh"
    with mock.patch.object(encoding, "image_encoder") as encoder:
      self._succeeds(_fit(self.pairs, folder, "--candidates=8"))
    self.assertFalse(encoder.return_value.called)
    self._succeeds(_fit(self.pairs, fresh, "--candidates=8"))
    self.assertEqual(_arrays(folder), _arrays(fresh))

  def test_unfinished_work_that_does_not_say_of_what(self):
    folder = self.folders["unfinished"]
    path = folder / "work/features/about.json"
    content = path.read_bytes()
    path.write_bytes(content[:30])
    self._fails(_fit(self.pairs, folder), "about.json is damaged.*remove that")
    path.unlink()
    self._fails(_fit(self.pairs, folder), "no about.json that says of what")
    shutil.rmtree(folder / "work/features")
    self._succeeds(_fit(self.pairs, folder))
    self.assertEqual(_arrays(folder), self.whole)

  def test_manifest_lost_or_cut(self):
    path = self.posterior / "manifest.json"
    path.write_bytes(path.read_bytes()[:40])
    self._fails(_fit(self.pairs, self.posterior), "is damaged.*--overwrite")
    path.unlink()
    miniatures.picture(self.pairs / "1.png", 77)
    self._succeeds(_fit(self.pairs, self.posterior))  # from the beginning
    self._succeeds(_fit(self.pairs, self.root / "fresh"))
    self.assertEqual(_arrays(self.posterior), _arrays(self.root / "fresh"))

  def test_factors_of_another_fit(self):
    other = self.root / "other"
    self._succeeds(_fit(self.pairs, other, "--num_pairs=6"))
    for name in ("factors.npz", "spectra.npz"):
      shutil.copy(other / name, self.posterior / name)
    self._fails(_fit(self.pairs, self.posterior),
                "other factors than those that manifest.json tells of")

  def test_posteriors_that_do_not_say_of_what(self):
    found = files.read(self.posterior)
    manifest = dict(found.manifest)
    del manifest["identity"]
    files.write(self.posterior, found._replace(manifest=manifest),
                files.maximise_evidence(found))
    self._fails(_fit(self.pairs, self.posterior),
                "does not say which pairs it is of: .*--overwrite")


@pytest.mark.slow
class SelectTest(_StaleTest):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    for place, seed in (("pets", 0), ("pool", 50)):
      for label, name in enumerate(("cat", "dog")):
        for number in range(3):
          miniatures.picture(
              cls.shared / place / name / f"{place}{number}.png",
              seed + 10 * label + number)
    status, _, error = cls._select(cls.shared)
    assert status == 0, error

  @staticmethod
  def _select(root, *arguments, strategies="random,epig", budgets="2",
              seeds=1):
    return command.here(
        "posterior", "select", *_CONFIG, "--config.temperature.split=none",
        f"--config.data.name={root / 'pets'}", f"--pool={root / 'pool'}",
        f"--config.posterior.folder={root / 'posterior'}", "--epochs=1",
        f"--strategies={strategies}", f"--budgets={budgets}",
        f"--seeds={seeds}", "--samples=4", "--learning_rate=0.01",
        f"--output={root / 'out'}", *arguments)

  def setUp(self):
    super().setUp()
    self.before = self._logits()

  def _logits(self):
    folder = self.root / "out" / "predictions" / "pets"
    return {name: predictions.load(folder / name).logits.tobytes()
            for name in _PREDICTED}

  def _times(self):
    folder = self.root / "out" / "predictions" / "pets"
    return {path.name: path.stat().st_mtime_ns
            for path in folder.glob("*.npz")}

  def _rows(self):
    return [json.loads(line) for line in
            (self.root / "out/results.jsonl").read_text().splitlines()]

  def _refused(self, message, *arguments):
    """Refuses; and the way out gives the numbers of a new folder."""
    self._fails(self._select(self.root, *arguments), message)
    self.assertEqual(self._logits(), self.before)
    self._succeeds(self._select(self.root, "--overwrite", *arguments))
    found = self._logits()
    (self.root / "out").rename(self.root / "refused")
    self._succeeds(self._select(self.root, *arguments))
    self.assertEqual(self._logits(), found)

  def test_nothing_changed(self):
    times = self._times()
    self._succeeds(self._select(self.root))
    self.assertEqual(self._times(), times)

  @parameterized.parameters(
      ("pets/dog/pets1.png", "target.contents: stored '.*', asked '"),
      ("pool/dog/pool1.png", "pool-pool.contents: stored '.*', asked '"))
  def test_replaced_pictures(self, path, message):
    miniatures.picture(self.root / path, 99)
    self._refused(message)

  @parameterized.parameters(("pets", "target"), ("pool", "pool-pool"))
  def test_images_moved_to_another_class(self, place, name):
    folder = self.root / place
    (folder / "cat" / f"{place}0.png").rename(folder / "dog" / "9.png")
    self._refused(f"(?s){name}.ids: stored .*{name}.labels: stored")

  def test_another_checkpoint_of_the_same_name(self):
    model = _another_model(self.root / "model")
    given = f"--config.model.name={model}"
    self._fails(self._select(self.root, given),
                "was fitted to other weights than those of")
    self._succeeds(_fit(self.root / "pairs", self.posterior, "--overwrite",
                        given))
    self._refused("(?s)  model: stored '.*', asked '.*posterior: stored", given)

  def test_another_posterior(self):
    self._refused(
        "(?s)posterior: stored .*posterior.pseudo_count: stored 4.0, asked 40",
        "--config.posterior.pseudo_count=40")

  def test_factors_of_another_posterior(self):
    other = self.root / "other"
    self._succeeds(_fit(self.root / "pairs", other, "--num_pairs=6"))
    for name in ("factors.npz", "spectra.npz", "manifest.json"):
      shutil.copy(other / name, self.posterior / name)
    self._fails(self._select(self.root),
                "was not made of the factors in .*--overwrite")

  @parameterized.parameters(
      ("--learning_rate=0.02", "tuning.learning_rate: stored 0.01, asked 0.02"),
      ("--epochs=2", "tuning.num_epochs: stored 1, asked 2"),
      ("--samples=5", "num_samples: stored 4, asked 5"),
      ("--metric=cosine", "metric: stored 'wasserstein', asked 'cosine'"),
      ("--config.data.template={}.", "prompt.template: stored 'a photo"))
  def test_other_numbers(self, flag, message):
    self._fails(self._select(self.root, flag), f"{message}(.|\n)*--overwrite")
    self.assertEqual(self._logits(), self.before)

  def test_run_json_lost_or_cut(self):
    path = self.root / "out" / "run.json"
    times = self._times()
    for content in (None, b"", b'{"config.views'):
      path.unlink()
      if content is not None:
        path.write_bytes(content)
      self._succeeds(self._select(self.root))
      self.assertIn("flags.samples", json.loads(path.read_text()))
    self.assertEqual(self._times(), times)
    path.unlink()
    self._refused("num_samples: stored 4, asked 5", "--samples=5")

  def test_predictions_that_do_not_say_of_what(self):
    path = self.root / "out" / "predictions" / "pets" / "random-2-0"
    found = predictions.load(path)
    settings = dict(found.settings)
    del settings["identity"]
    predictions.save(found._replace(settings=settings), path)
    self._fails(self._select(self.root),
                "which did not say what its predictions are of")

  def test_a_run_grows(self):
    times = self._times()
    self._succeeds(self._select(
        self.root, "--config.metrics.num_bins=7", "--config.batch_size=2",
        strategies="random,epig,entropy", budgets="2,3", seeds=2))
    grown = self._times()
    self.assertLen(grown, 1 + 3 * 2 * 2)
    for name in times:
      if not name.startswith("before"):
        self.assertEqual(grown[name], times[name], name)
    self.assertEqual(
        [(row["strategy"], row["budget"], row["seeds"])
         for row in self._rows()],
        [("before", 0, 1)] + [(strategy, budget, 2) for strategy in (
            "random", "epig", "entropy") for budget in (2, 3)])
    self.assertEqual(self._logits(), self.before)
    # The same as all at once.
    (self.root / "out").rename(self.root / "grown")
    self._succeeds(self._select(
        self.root, strategies="random,epig,entropy", budgets="2,3", seeds=2))
    for path in (self.root / "out" / "predictions").rglob("*-*-*.npz"):
      name = path.relative_to(self.root / "out").with_suffix("")
      np.testing.assert_allclose(
          predictions.load(self.root / "out" / name).logits,
          predictions.load(self.root / "grown" / name).logits, atol=1e-3)
    chosen = [json.loads((self.root / name / "selected-pets.json").read_text())
              for name in ("out", "grown")]
    self.assertEqual(*chosen)


if __name__ == "__main__":
  absltest.main()
