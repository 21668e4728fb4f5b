"""A number shown is of these images, this model, these settings.

Every way for saved results to become those of something else ends in the right
new number or in a refusal that names what differs.
"""

import json
import os
import pathlib
import shutil

from absl.testing import absltest
import numpy as np
import pytest

from jaxcal import predictions
from jaxcal.testbed import shipped
from tests.cli import command
from tests.data import miniatures

# Whole commands, trainings or towers.
pytestmark = pytest.mark.slow

_SMALL = ("--config.views.number=8", "--config.method.selection_fraction=0.5",
          "--config.metrics.num_resamples=20")


class StaleTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)
    self.images, self.output = self.root / "pets", self.root / "out"
    for label, name in enumerate(("cat", "dog")):
      for number in range(3):
        miniatures.picture(
            self.images / name / f"{number}.png", 10 * label + number)
    self._evaluate()
    self.before = self._logits()

  def _run(self, *arguments, methods="zero_shot"):
    return command.here(
        "evaluate", f"--config.data.name={self.images}",
        f"--config.method.name={methods}", f"--output={self.output}", *_SMALL,
        *arguments)

  def _evaluate(self, *arguments, methods="zero_shot"):
    status, _, error = self._run(*arguments, methods=methods)
    self.assertEqual(status, 0, error)
    return self._rows()

  def _refused(self, message, *arguments):
    status, printed, error = self._run(*arguments)
    self.assertEqual((status, printed), (2, ""), error)
    self.assertRegex(error, message)
    self.assertIn("give another --output, or --overwrite", error)
    # The way out is one.
    return self._evaluate(*arguments, "--overwrite")

  def _rows(self):
    return [json.loads(line) for line in
            (self.output / "results.jsonl").read_text().splitlines()]

  def _logits(self, name="zero_shot"):
    return predictions.load(
        self.output / "predictions" / "pets" / name).logits

  def test_overwriting_leaves_nothing(self):
    status, _, error = self._run("--overwrite")
    self.assertEqual(status, 0, error)
    self.assertNotIn("kept in", error)

  def test_nothing_changed(self):
    path = self.output / "predictions" / "pets" / "zero_shot.npz"
    written = path.stat().st_mtime_ns
    self._evaluate()
    self.assertEqual(path.stat().st_mtime_ns, written)

  def test_images_moved_to_another_class(self):
    (self.images / "cat" / "0.png").rename(self.images / "dog" / "9.png")
    row, = self._refused("(?s)data.ids: stored .*data.labels: stored")
    self.assertEqual(row["num_images"], 6)

  def test_a_class_more(self):
    miniatures.picture(self.images / "hen" / "0.png", 99)
    row, = self._refused("data.num_classes: stored 2, asked 3")
    self.assertEqual((row["num_images"], row["num_classes"]), (7, 3))

  def test_other_names(self):
    names = self.root / "names.txt"
    flag = f"--config.data.class_names={names}"
    names.write_text("kitten\npuppy\n")
    self._refused("data.class_names: stored", flag)
    names.write_text("lion\nwolf\n")
    self._refused("data.class_names: stored", flag)
    self.assertEqual(predictions.load(
        self.output / "predictions" / "pets" / "zero_shot").class_names,
                     ("lion", "wolf"))

  def test_replaced_pictures(self):
    miniatures.picture(self.images / "dog" / "1.png", 77)
    self._refused("data.contents: stored '.*', asked")
    changed = np.abs(self._logits() - self.before).max(axis=1) > 1e-3
    self.assertEqual(changed.tolist(), [False] * 4 + [True, False])

  def test_touched_pictures_are_the_same(self):
    for path in self.images.rglob("*.png"):
      os.utime(path, ns=(10**18, 10**18))
    self._evaluate()

  def test_run_json_lost_or_cut(self):
    for content in (None, b"", b'{"config.views'):
      path = self.output / "run.json"
      path.unlink()
      if content is not None:
        path.write_bytes(content)
      self._evaluate()
    self._refused("views.seed: stored 0, asked 1", "--config.views.seed=1")

  def test_foreign_predictions(self):
    other = self.root / "other"
    for name in ("cat", "dog"):
      miniatures.picture(other / name / "0.png", 5)
    images, output, self.output = self.images, self.output, self.root / "out2"
    self.images = other
    self._evaluate()
    self.images, self.output = images, output
    for ending in ("npz", "json"):
      shutil.copy(
          self.root / f"out2/predictions/other/zero_shot.{ending}",
          self.output / f"predictions/pets/zero_shot.{ending}")
    self._refused("data.num_images: stored 2, asked 6")
    np.testing.assert_array_equal(self._logits(), self.before)

  def test_another_checkpoint_of_the_same_name(self):
    model = self.root / "model"
    shutil.copytree(shipped.folder(), model)
    given = f"--config.model.name={model}"
    self._evaluate(given)  # the same weights, wherever they lie
    weights = model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1000] ^= 1  # the last bit of a number
    weights.write_bytes(content)
    self._refused("model: stored '.*', asked", given)

  def test_methods_of_an_earlier_version(self):
    path = self.output / "predictions" / "pets" / "zero_shot.json"
    about = json.loads(path.read_text())
    for key in ("sha256", "sha256_json"):
      about.pop(key, None)
    del about["settings"]["identity"]
    path.write_text(json.dumps(about))
    status, _, error = self._run()
    self.assertEqual(status, 2)
    self.assertIn("of an earlier version of jaxcal", error)
    self.assertIn("can be reported", error)

  def test_a_run_grows(self):
    path = self.output / "predictions" / "pets" / "zero_shot.npz"
    written = path.stat().st_mtime_ns
    rows = self._evaluate(methods="mta,tpt,zero_shot")
    self.assertEqual([row["method"] for row in rows],
                     ["mta", "tpt", "zero_shot"])
    # Bins, intervals, batches and threads do not enter the predictions.
    rows = self._evaluate(
        "--config.metrics.num_bins=15", "--config.batch_size=3",
        "--config.num_threads=1", methods="zero_shot,soc,tda")
    self.assertEqual([row["method"] for row in rows],
                     ["zero_shot", "soc", "tda"])
    self.assertEqual(path.stat().st_mtime_ns, written)
    self.assertLen(list(path.parent.glob("*.npz")), 5)

  def test_evidence_that_was_not_asked_for_before(self):
    self._evaluate("--config.evidence=image_features")
    found = predictions.load(
        self.output / "predictions" / "pets" / "zero_shot")
    self.assertEqual(found.evidence["image_features"].shape[0], 6)
    np.testing.assert_array_equal(found.logits, self.before)

  def test_another_order_matters_to_methods_with_a_state_alone(self):
    self._evaluate(methods="zero_shot,tda")
    status, _, error = self._run(
        "--config.stream.seed=1", methods="zero_shot,tda")
    self.assertEqual(status, 2)
    self.assertRegex(error, "tda holds .*\n  stream.seed: stored 0, asked 1")
    self._evaluate("--config.stream.seed=1")

  def test_pictures_replaced_after_they_were_stored(self):
    store = self.root / "store"
    arguments = (f"--config.data.name={self.images}", _SMALL[0])
    status, _, error = command.here(
        "features", *arguments, f"--store={store}")
    self.assertEqual(status, 0, error)
    stored = f"--config.data.store={store}"
    self.output = self.root / "from_store"
    self._evaluate(stored)
    miniatures.picture(self.images / "cat" / "2.png", 55)
    status, _, error = self._run(stored)
    self.assertEqual(status, 2)
    self.assertIn("its images or their names have changed since", error)
    status, _, error = command.here(
        "features", *arguments, f"--store={store}")
    self.assertEqual(status, 2)
    self.assertRegex(error, "contents_fingerprint: stored")


if __name__ == "__main__":
  absltest.main()
