"""Images of other classes in the streams of `jaxcal evaluate`."""

import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image
import pytest

from jaxcal import predictions
from jaxcal.data import load
from jaxcal.report import summary
from tests.cli import command

_SHARE = ("--config.data.out_of_distribution=shades",
          "--config.stream.outlier_share=0.2")
_METHODS = "--config.method.name=zero_shot,tda"


def _rows(output, name="results"):
  return list(map(json.loads, (output / f"{name}.jsonl").read_text(
      "utf-8").splitlines()))


class OutliersTest(parameterized.TestCase):

  def _folder(self, name="run"):
    return pathlib.Path(self.create_tempdir().full_path, name)

  def _run(self, *arguments, name="evaluate", output=None):
    output = output or self._folder()
    status, printed, error = command.here(
        name, *command.SMALL, *arguments, f"--output={output}")
    self.assertEqual(status, 0, error)
    return output, printed

  def _refused(self, *arguments, name="evaluate"):
    status, printed, error = command.here(
        name, *command.SMALL, *arguments, f"--output={self._folder()}")
    self.assertEqual((status, printed), (2, ""))
    return error

  @pytest.mark.slow
  def test_rows_are_of_the_own_images_and_detection_of_both(self):
    few = ("--config.data.limit=80", "--config.stream.orders=2",
           "--config.method.name=zero_shot,tda")
    output, printed = self._run(*few, *_SHARE)
    self.assertIn(
        "digits: 20 images of shades are in its stream of 100, a share of "
        "0.2; every score but those of detection is of its own images alone",
        printed)
    folder = output / "predictions/digits"
    outside_ids = load.images("shades", limit=20).ids
    positions = []
    for name in ("tda-order0", "tda-order1", "zero_shot"):
      one, outside = (predictions.load(at / name) for at in (
          folder, folder / "out_of_distribution"))
      self.assertEqual(one.ids, load.images("digits", limit=80).ids)
      self.assertEqual(outside.ids, outside_ids)
      if name != "zero_shot":
        positions = np.concatenate([
            of.info["stream_position"] for of in (one, outside)])
        np.testing.assert_array_equal(np.sort(positions), np.arange(100))
    row = next(row for row in _rows(output) if row["method"] == "zero_shot")
    self.assertEqual(row["num_images"], 80)
    expected = summary.detect(one, outside, summary.Conventions(
        num_resamples=50))
    for name, value in expected.items():
      self.assertAlmostEqual(row[name], value)
    along = _rows(output, "stream")
    self.assertGreater(along[3]["outside_entries"], 0)
    self.assertGreater(
        along[3]["wrong_entries"], along[3]["outside_entries"])
    for text in (printed, (output / "report.html").read_text("utf-8")):
      self.assertIn("of other classes in cache", text)
    # Without others zero-shot is the same, so that runs can be compared.
    apart, printed = self._run(*few, _SHARE[0])
    self.assertNotIn("other classes", printed)
    self.assertAlmostEqual(
        next(row for row in _rows(apart) if row["method"] == "zero_shot")[
            "nll"], row["nll"], places=5)
    status, printed, error = command.here("compare", output, apart)
    self.assertEqual(status, 0, error)
    self.assertRegex(printed, r": zero_shot +\| 80 \| +0.0 \[0.0, 0.0\]")
    self.assertIn(": tda-order1", printed)

  @pytest.mark.slow
  def test_with_fewer_images_than_asked_for(self):
    root = self._folder("boats")
    self._write(root / "yacht", 2)
    output, printed = self._run(
        f"--config.data.out_of_distribution={root}", _METHODS,
        "--config.stream.outlier_share=0.5", "--config.stream.order=given")
    self.assertIn("2 images of boats are in its stream of 8, a share of "
                  "0.25, all that there are where 0.5 was asked for", printed)
    own, outside = (
        predictions.load(output / f"predictions/digits/{place}tda")
        for place in ("", "out_of_distribution/"))
    np.testing.assert_array_equal(
        outside.info["stream_position"], [2, 6])
    np.testing.assert_array_equal(
        own.info["stream_position"], [0, 1, 3, 4, 5, 7])

  def _write(self, folder, count, seed=0):
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
      Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(
          folder / f"{number}.png")

  @pytest.mark.slow
  def test_replaced_pictures_of_either_set_are_noticed(self):
    root = self._folder("root")
    for name in ("pets/cat", "pets/dog", "boats/yacht"):
      self._write(root / name, 4)
    given = (f"--config.data.name={root / 'pets'}", _METHODS,
             f"--config.data.out_of_distribution={root / 'boats'}",
             "--config.stream.outlier_share=0.25", "--config.stream.orders=2")
    output, _ = self._run(*given)
    self._run(*given, output=output)
    # Where the views are kept, before there are predictions, too.
    self.assertTrue((output / "features/pets.views").exists())
    for path in (output / "predictions").rglob("*.*"):
      path.unlink()
    self._write(root / "boats/yacht", 4, seed=1)
    error = self._stale(*given, f"--output={output}")
    self.assertIn("contents_fingerprint: stored", error)
    self._write(root / "boats/yacht", 4)
    self._run(*given, output=output)
    self._write(root / "boats/yacht", 4, seed=1)
    error = self._stale(*given, f"--output={output}")
    self.assertIn("out_of_distribution.data.contents: stored", error)

  def _stale(self, *arguments):
    status, _, error = command.here(
        "evaluate", *command.SMALL, *arguments)
    self.assertEqual(status, 2)
    return error

  @parameterized.parameters((), ("--config.stream.orders=2",))
  @pytest.mark.slow
  def test_killed_at_any_file_and_resumed_is_the_undisturbed_run(self, *given):
    arguments = (
        *_SHARE, "--config.method.name=zero_shot,mta,tda,dmn", *given)
    whole, _ = self._run(*arguments)
    names = [path.relative_to(whole) for path in sorted(
        (whole / "predictions").rglob("*.npz"))]
    self.assertLen(names, 2 * (6 if given else 4))
    killed = 0
    for number in range(2, 100, 7):
      output = self._folder()
      with command.stopped_at_write(number) as writes:
        command.here("evaluate", *command.SMALL, *arguments,
                     f"--output={output}")
      if not writes[1]:
        break
      killed += 1
      self._run(*arguments, output=output)
      self.assertEqual(_rows(output), _rows(whole))
      for name in names:
        ours, theirs = (predictions.load((of / name).with_suffix(""))
                        for of in (output, whole))
        np.testing.assert_array_equal(ours.logits, theirs.logits)
        self.assertEqual(ours.ids, theirs.ids)
    self.assertGreater(killed, 2)

  @pytest.mark.slow
  def test_a_dry_run_counts_both(self):
    given = (*_SHARE, _METHODS)
    output, printed = self._folder(), None
    for views in (8 * (6 + 2), 0):
      _, printed = self._run(*given, "--dry_run", output=output)
      self.assertIn(f"Views through the image tower: {views};", printed)
      self.assertRegex(printed, r"\| digits +\| 8 ")
      self.assertNotIn("out_of_distribution", printed)
      self._run(*given, output=output)

  @pytest.mark.slow
  def test_among_its_own_set_there_are_none(self):
    output, printed = self._run(
        "--config.data.name=shades", *_SHARE, _METHODS)
    self.assertIn("shades: no images of other classes are in its stream, as "
                  "shades is the set itself", printed)
    self.assertFalse(
        (output / "predictions/shades/out_of_distribution").exists())
    self.assertLen(predictions.load(
        output / "predictions/digits/out_of_distribution/tda").ids, 2)

  @parameterized.parameters(
      (("--config.stream.outlier_share=0.2",),
       "outlier_share is 0.2, expected 0 without --config.data.out_of_"),
      (("--config.stream.outlier_share=0.2", "--config.data.store=features"),
       "outlier_share is 0.2, expected 0 without --config.data.out_of_"),
      ((*_SHARE, "--config.stream.outlier_share=1"), r"expected in \[0, 1\)"))
  def test_refused(self, arguments, message):
    self.assertRegex(self._refused(*arguments), message)

  def test_stored_features_are_refused(self):
    store = self._folder("store")
    status, _, error = command.here(
        "features", *command.small("features"), f"--store={store}")
    self.assertEqual(status, 0, error)
    self.assertIn(
        "--config.data.out_of_distribution needs images, which a store does "
        "not have", self._refused(*_SHARE, f"--config.data.store={store}"))

  def test_a_sweep_refuses_them(self):
    self.assertIn("--config.stream.outlier_share has no effect on `jaxcal "
                  "sweep`", self._refused(
                      *_SHARE[1:], "--sweep=method.name=tda,dmn",
                      name="sweep"))
    self.assertIn("stream.outlier_share", self._refused(
        "--sweep=stream.outlier_share=0.1,0.2", name="sweep"))


if __name__ == "__main__":
  absltest.main()
