"""`jaxcal recalibrate` on saved predictions: files, numbers and refusals."""

import json
import pathlib
import re
import shutil
import tempfile
from unittest import mock
import warnings

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image
import pytest
from scipy import optimize
from scipy import special

from jaxcal import predictions
from jaxcal import stages
from jaxcal.clip import checkpoint
from jaxcal.recalibration import base
from jaxcal.recalibration import calibrators
from jaxcal.recalibration import predicted
from tests.cli import command

# Whole commands, trainings or towers.
pytestmark = pytest.mark.slow

# A name given twice is two image sets.
_ZERO_SHOT = (
    *(flag for flag in command.SMALL if "config.data.name" not in flag),
    "--config.method.name=zero_shot", "--config.views.number=1",
    "--config.method.selection_fraction=1.0", "--config.batch_size=8")

_SCALED = stages.Stages("zero_shot", recalibrator="temperature")


def _rows(folder, name="results"):
  return [json.loads(line) for line in
          (folder / f"{name}.jsonl").read_text().splitlines()]


def _names(folder):
  return [stages.of(row).label for row in _rows(folder)]


def _contents(folder, without=()):
  return {path.relative_to(folder).as_posix(): path.read_bytes()
          for path in sorted(folder.rglob("*"))
          if path.is_file() and not set(path.parts) & set(without)}


def _temperature(one):
  """From values of the loss alone."""
  logits, rows = one.logits.astype(float), np.arange(len(one.labels))
  loss = lambda log: np.mean(
      special.logsumexp(logits / np.exp(log), axis=-1) -
      logits[rows, one.labels] / np.exp(log))
  return np.exp(optimize.minimize_scalar(
      loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9}).x)


class RecalibrateTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    """Runs on digits, on their validation split, and on a folder of images."""
    super().setUpClass()
    cls.root = pathlib.Path(
        cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.own, cls.digits, cls.other = (
        cls.root / name for name in ("own", "digits_run", "other_run"))
    rng = np.random.default_rng(0)
    for name, count in (("cat", 16), ("hot_dog", 8)):
      folder = cls.root / "my_pets" / name
      folder.mkdir(parents=True)
      for number in range(count):
        pixels = rng.integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    for output, *arguments in (
        (cls.own, f"--config.data.name={cls.root / 'my_pets'}",
         "--config.data.limit=0"),
        (cls.digits, "--config.data.name=digits",
         "--config.temperature.split=validation",
         "--config.temperature.limit=40", "--config.data.limit=24",
         "--config.evidence=image_features,zero_shot_logits"),
        (cls.other, "--config.data.name=digits",
         "--config.data.split=validation",
         "--config.data.limit=40")):
      status, _, error = command.here(
          "evaluate", *_ZERO_SHOT, *arguments, f"--output={output}")
      assert status == 0, error

  def _recalibrate(self, run, *arguments):
    """Without a model, in a folder of its own unless told otherwise."""
    output = pathlib.Path(self.create_tempdir().full_path, "out")
    with mock.patch.object(checkpoint, "load", side_effect=AssertionError):
      status, printed, error = command.here(
          "recalibrate", run, f"--output={output}", *arguments)
    self.assertEqual(status, 0, error)
    return output, printed, error

  def _fails(self, message, run, *arguments):
    status, printed, error = command.here("recalibrate", run, *arguments)
    self.assertEqual(status, 2, printed)
    self.assertRegex(error, message)
    self.assertNotIn("Traceback", error)
    return error

  def test_on_a_split_of_the_run(self):
    before = _contents(self.digits)
    output, printed, error = self._recalibrate(
        self.digits, "--on=validation")
    self.assertEqual(_contents(self.digits), before)
    folder = self.digits / "predictions" / "digits"
    seen = predictions.load(folder / "validation" / "zero_shot")
    fitted = _temperature(seen)
    plain, scaled = rows = _rows(output)
    self.assertEqual(plain, _rows(self.digits)[0])
    self.assertEqual(stages.of(scaled), _SCALED)
    np.testing.assert_allclose(scaled["temperature"], fitted, rtol=1e-5)
    self.assertEqual(scaled["recalibrator"], "temperature")
    self.assertEqual(scaled["recalibration_images"], 40)
    self.assertEqual(
        set(scaled) - set(plain),
        {"recalibrator", "recalibration_images", "recalibration_notes",
         "temperature"})
    self.assertEqual(rows[1], _rows(self.digits)[1])  # as evaluate does it
    difference, = _rows(output, "differences")
    self.assertEqual(
        (stages.of(difference), stages.reference_of(difference)),
        (_SCALED, stages.Stages("zero_shot")))
    np.testing.assert_allclose(
        difference["nll_difference"], scaled["nll"] - plain["nll"], atol=1e-9)
    after = predictions.load(
        output / "predictions" / "digits" / "zero_shot+temperature")
    np.testing.assert_allclose(
        after.logits, predictions.load(folder / "zero_shot").logits / fitted,
        rtol=1e-4)
    self.assertEqual(after.settings["method"], "zero_shot+temperature")
    self.assertEqual(after.settings["stages"], stages.fields(_SCALED))
    run = json.loads((output / "run.json").read_text())
    fit = run["fits"]["digits"]["zero_shot"]
    self.assertEqual(
        (fit["fitted_on"], fit["fitted_to"], fit["measured_on"]),
        ("digits/validation", 40, 24))
    for note in scaled["recalibration_notes"]:
      said = f"digits, zero_shot+temperature: {note}"
      self.assertIn(f"jaxcal: {said}\n", error)
      self.assertIn(f"- {said}.", (output / "results.md").read_text())
    said = "40 images of digits/validation were fitted to; everything is"
    for text in (printed, (output / "report.html").read_text()):
      self.assertIn(said, text)
    self.assertIn(f"Written to {output}", printed)

  def test_on_another_run_or_one_of_its_files(self):
    output, *_ = self._recalibrate(self.digits, f"--on={self.other}")
    fit = json.loads((output / "run.json").read_text())["fits"]["digits"]
    self.assertEqual(fit["zero_shot"]["fitted_on"], "digits of other_run")
    file = self.other / "predictions" / "digits" / "zero_shot.npz"
    again, *_ = self._recalibrate(self.digits, f"--on={file}")
    self.assertEqual(_rows(again), _rows(output))
    # The same images as the run's own split, up to the batches they were in.
    np.testing.assert_allclose(
        _rows(output)[1]["temperature"], _rows(self.digits)[1]["temperature"],
        rtol=1e-4)

  def test_a_share_of_a_folder_of_images_of_ones_own(self):
    run = pathlib.Path(self.create_tempdir().full_path, "run")
    shutil.copytree(self.own, run)
    path = run / "predictions" / "my_pets" / "zero_shot"
    whole = predictions.load(path)
    self.assertEqual(whole.class_names, ("cat", "hot dog"))
    # The images are noise: other logits, of which every third is wrong.
    right = np.arange(24) % 3 > 0
    logits = np.random.default_rng(1).uniform(1, 3, (24, 2))
    logits[np.arange(24), np.where(right, 1 - whole.labels, whole.labels)] = 0
    whole = whole._replace(logits=logits.astype(np.float32))
    predictions.save(whole, path)
    output, printed, _ = self._recalibrate(run, "--share=0.25", "--seed=5")
    folder = output / "predictions" / "my_pets"
    plain, scaled = (predictions.load(folder / name) for name in (
        "zero_shot", "zero_shot+temperature"))
    self.assertEqual(plain.ids, scaled.ids)
    self.assertEqual(np.bincount(plain.labels).tolist(), [12, 6])
    rest = np.array([image_id in plain.ids for image_id in whole.ids])
    np.testing.assert_array_equal(plain.logits, whole.logits[rest])
    for row in _rows(output):
      self.assertEqual(row["num_images"], 18)
      self.assertAlmostEqual(row["accuracy"], right[rest].mean())
    # Fitted to those that are left out, and to none of the others.
    left_out = predictions.take(whole, np.flatnonzero(~rest))
    fitted = _temperature(left_out)
    self.assertBetween(fitted, 0.1, 10)
    np.testing.assert_allclose(
        scaled.settings["temperature"], fitted, rtol=1e-5)
    np.testing.assert_allclose(
        scaled.logits, plain.logits / fitted, rtol=1e-4)
    said = ("my_pets: 6 of its 24 images, a share of 0.25 drawn at random "
            "(seed 5), were fitted to; everything here, the plain methods too, "
            "is measured on the other 18 alone.")
    for text in (printed, (output / "results.md").read_text(),
                 (output / "report.html").read_text()):
      self.assertIn(said, text)
    other, *_ = self._recalibrate(run, "--share=0.25", "--seed=6")
    self.assertNotEqual(predictions.load(
        other / "predictions" / "my_pets" / "zero_shot").ids, plain.ids)

  def test_again_in_the_folder_of_the_run_gives_the_same_bytes(self):
    run = pathlib.Path(self.create_tempdir().full_path, "run")
    shutil.copytree(self.own, run)
    before = _contents(run)
    arguments = ("recalibrate", run, "--share=0.5")
    status, printed, error = command.here(*arguments)
    self.assertEqual(status, 0, error)
    written, = run.glob("recalibrated-temperature-*")
    first = _contents(written)
    self.assertContainsSubset(
        {"report.html", "results.md", "results.jsonl", "differences.jsonl",
         "diagram-my_pets.svg", "run.json",
         "predictions/my_pets/zero_shot+temperature.npz"}, first)
    self.assertEqual(command.here(*arguments), (0, printed, error))
    self.assertEqual(_contents(written), first)
    self.assertEqual(_contents(run, without=[written.name]), before)
    # Another draw is another folder; what is recalibrated is not done again.
    status, _, error = command.here(*arguments, "--seed=1")
    self.assertEqual(status, 0, error)
    self.assertLen(list(run.glob("recalibrated-temperature-*")), 2)
    self.assertEqual(_contents(written), first)

  def test_a_recalibration_names_the_chain(self):
    output, *_ = self._recalibrate(self.own, "--share=0.5")
    self._fails("out is itself a recalibration of the run own, by temperature; "
                ".*with --recalibrator=temperature,vector,sals, which fits "
                "both", output, "--share=0.5", "--recalibrator=vector,sals")

  def test_one_after_the_other(self):
    output, _, error = self._recalibrate(
        self.digits, "--recalibrator=temperature,top_label_isotonic",
        "--on=validation")
    name = "zero_shot+temperature+top_label_isotonic"
    self.assertEqual(_names(output), ["zero_shot", name])
    folder = self.digits / "predictions" / "digits"
    whole, seen = (predictions.load(folder / one) for one in (
        "zero_shot", "validation/zero_shot"))
    scale = _temperature(seen)
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", base.FitWarning)
      expected = predicted.recalibrate(
          whole.logits / scale, (seen.logits / scale, seen.labels),
          calibrators.calibrator("top_label_isotonic"))
    found = predictions.load(output / "predictions" / "digits" / name)
    np.testing.assert_allclose(found.logits, expected, rtol=1e-4, atol=1e-5)
    row = _rows(output)[1]
    self.assertEqual(stages.of(row), stages.Stages(
        "zero_shot", recalibrator="temperature+top_label_isotonic"))
    self.assertEqual(row["recalibration_images"], 40)
    np.testing.assert_allclose(
        row["temperature.temperature"], scale, rtol=1e-5)
    self.assertRegex(
        (output / "results.md").read_text(),
        rf"\| {re.escape(name)} +\| 40 +\| {scale:.4g} ")
    for note in row["recalibration_notes"]:
      self.assertRegex(note, "^(temperature|top_label_isotonic): ")
      self.assertIn(note, error)
    difference, = _rows(output, "differences")
    self.assertEqual(difference["reference"], "zero_shot")
    about = json.loads((output / "run.json").read_text())
    self.assertEqual(about["recalibrator"], "temperature+top_label_isotonic")

  def test_a_chain_needs_labels_where_one_of_it_does(self):
    self._fails("sals.temperature is fitted to labelled images: give one of",
                self.digits, "--recalibrator=sals,temperature")
    output, *_ = self._recalibrate(
        self.digits, "--recalibrator=sals,temperature", "--share=0.5")
    self.assertEqual(
        _names(output), ["zero_shot", "zero_shot+sals+temperature"])
    self._fails("sals.cots needs view_logits, zero_shot_view_logits of the im",
                self.digits, "--recalibrator=sals,cots")
    self._fails("unknown recalibrator 'salz'; did you mean sals",
                self.digits, "--recalibrator=temperature,salz", "--share=0.5")

  def test_methods_without_others_to_fit_to_are_left_out_with_a_word(self):
    run = pathlib.Path(self.create_tempdir().full_path, "run")
    shutil.copytree(self.digits, run)
    folder = run / "predictions" / "digits"
    one = predictions.load(folder / "zero_shot")
    predictions.save(one._replace(settings=one.settings | {"method": "mine"}),
                     folder / "mine")
    output, _, error = self._recalibrate(run, "--on=validation")
    self.assertIn("digits, mine: left out, validation has no predictions by it",
                  error)
    self.assertEqual(_names(output), ["zero_shot", "zero_shot+temperature"])
    # By a share of the images, it is recalibrated like the others.
    output, *_ = self._recalibrate(run, "--share=0.5")
    self.assertEqual(_names(output), [
        "zero_shot", "zero_shot+temperature", "mine", "mine+temperature"])

  def test_what_needs_no_labels_takes_all_images(self):
    before = _contents(self.digits)
    output, printed, error = self._recalibrate(
        self.digits, "--recalibrator=sals")
    self.assertEqual(_contents(self.digits), before)
    self.assertEqual(_names(output), ["zero_shot", "zero_shot+sals"])
    self.assertNotIn("fitted to;", printed)
    self.assertEqual(error, "")
    plain, found = (predictions.load(
        output / "predictions" / "digits" / name) for name in (
            "zero_shot", "zero_shot+sals"))
    self.assertLen(plain.ids, 24)
    np.testing.assert_allclose(found.logits, plain.logits, rtol=1e-5)
    run = json.loads((output / "run.json").read_text())
    self.assertEqual(
        run["fits"]["digits"]["zero_shot"],
        {"fitted_on": None, "fitted_to": 0, "measured_on": 24, "notes": []})
    # A share is left out, so that all can be measured on the same images.
    output, printed, _ = self._recalibrate(
        self.digits, "--recalibrator=sals", "--share=0.25")
    self.assertIn("digits: a share of 0.25 of its images, drawn at random "
                  "(seed 0), is left out; everything here, the plain methods "
                  "too, is measured on the other 18 alone.", printed)
    self.assertEqual({row["num_images"] for row in _rows(output)}, {18})
    self._fails("sals is fitted to no images, so that validation would have no",
                self.digits, "--recalibrator=sals", "--on=validation")

  @parameterized.parameters(
      "procal_density_ratio", "multi_isotonic", "top_label_per_class")
  def test_other_calibrators(self, name):
    output, _, error = self._recalibrate(
        self.digits, f"--recalibrator={name}", "--on=validation")
    folder = self.digits / "predictions" / "digits"
    seen, whole = (predictions.load(folder / one) for one in (
        "validation/zero_shot", "zero_shot"))
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", base.FitWarning)
      expected = predicted.recalibrate(
          whole, seen, calibrators.calibrator(name))
    found = predictions.load(
        output / "predictions" / "digits" / f"zero_shot+{name}")
    np.testing.assert_array_equal(found.logits, expected.logits)
    self.assertGreater(np.abs(found.logits - whole.logits).max(), 0.01)
    for note in expected.settings["recalibration"]["notes"]:
      self.assertIn(note, error)

  def test_evidence_that_is_not_there(self):
    self._fails("zero_shot: cots needs view_logits, zero_shot_view_logits of .*"
                "--config.evidence=view_logits,zero_shot_view_logits",
                self.digits, "--recalibrator=cots")
    run = pathlib.Path(self.create_tempdir().full_path, "run")
    shutil.copytree(self.digits, run)
    folder = run / "predictions" / "digits"
    one = predictions.load(folder / "zero_shot")
    predictions.save(one._replace(
        settings=one.settings | {"method": "mine"}, evidence={}),
                     folder / "mine")
    output, _, error = self._recalibrate(run, "--recalibrator=sals")
    self.assertIn("digits, mine: left out, sals needs zero_shot_logits of it",
                  error)
    self.assertEqual(_names(output), ["zero_shot", "zero_shot+sals"])

  def test_output_that_holds_something_else(self):
    output, *_ = self._recalibrate(self.own, "--share=0.5")
    self._fails("holds another run.*--overwrite", self.own, "--share=0.5",
                "--seed=1", f"--output={output}")
    before = predictions.load(output / "predictions/my_pets/zero_shot").ids
    self._recalibrate(self.own, "--share=0.5", "--seed=1", "--overwrite",
                      f"--output={output}")
    self.assertNotEqual(
        predictions.load(output / "predictions/my_pets/zero_shot").ids, before)
    for folder in (self.own, self.root, self.own / "predictions" / "my_pets"):
      self._fails("would mix with what is read", self.own, "--share=0.5",
                  "--overwrite", f"--output={folder}")
    self._fails("would mix with what is read", self.digits, "--overwrite",
                f"--on={self.other}", f"--output={self.other}")
    self._fails("holds another run", self.own, "--share=0.5", "--overwrite",
                f"--output={self.digits}")

  def test_images_without_labels_and_other_classes(self):
    run = pathlib.Path(self.create_tempdir().full_path, "run")
    shutil.copytree(self.digits, run)
    path = run / "predictions" / "digits" / "validation" / "zero_shot"
    seen = predictions.load(path)
    predictions.save(seen._replace(class_names=seen.class_names[::-1]), path)
    self._fails("digits, zero_shot: temperature must be fitted to the classes",
                run, "--on=validation")
    predictions.save(seen._replace(labels=None), path)
    self._fails("fitted to labels, which the images to fit to do not have", run,
                "--on=validation")
    path = run / "predictions" / "digits" / "zero_shot"
    predictions.save(predictions.load(path)._replace(labels=None), path)
    for how in ("--on=validation", "--share=0.5"):
      self._fails("digits, zero_shot: the images have no labels", run, how)

  def test_on_what_cannot_be_fitted_to(self):
    self._fails("digits, zero_shot: 24 images are among those.*'digits/test/",
                self.digits, f"--on={self.digits}")
    self._fails("no split of which .* holds predictions .it has validation.",
                self.digits, "--on=train")
    self._fails(".it has none.", self.own, "--on=validation")
    self._fails("no predictions of my_pets to fit to", self.own,
                f"--on={self.other}")
    for name in ("out_of_distribution", "unknown"):
      self._fails(f"'{name}' are images of none of the classes", self.digits,
                  f"--on={name}")
    file = self.other / "predictions" / "digits" / "zero_shot"
    one = predictions.load(file)
    mine = pathlib.Path(self.create_tempdir().full_path, "mine")
    predictions.save(one._replace(settings={"method": "mine"}), mine)
    self._fails("of the method mine, of which there are no predictions.*only "
                "of zero_shot", self.digits, f"--on={mine}.npz")

  @parameterized.parameters(
      (("--share=0.5", "--recalibrator=platt"),
       "unknown recalibrator 'platt'; choose from: temperature"),
      ((), "temperature is fitted to labelled images: give one of --on=SPLIT"),
      (("--share=0.5", "--on=validation"), "give one of --on=SPLIT"),
      (("--share=0",), r"--share is 0, expected in \(0, 1\)"),
      (("--share=1.5",), r"--share is 1.5, expected in \(0, 1\)"),
      (("--share=nan",), r"--share is nan, expected in \(0, 1\)"),
      (("--share=0.5", "--config=configs/quickstart.py"),
       "has no effect on `jaxcal recalibrate`"))
  def test_flags(self, arguments, message):
    self._fails(message, self.own, *arguments)

  def test_no_run(self):
    empty = self.create_tempdir().full_path
    self._fails("no predictions in", empty, "--share=0.5")
    self._fails("no run .*nowhere; expected the output folder of `jaxcal eval",
                f"{empty}/nowhere", "--share=0.5")
    status, _, error = command.here("recalibrate", "--share=0.5")
    self.assertEqual(status, 2)
    self.assertIn("expected one RUN", error)

  def test_help(self):
    status, printed, _ = command.here("recalibrate", "--help")
    self.assertEqual(status, 0)
    for flag in ("recalibrator", "on", "share", "seed", "output"):
      self.assertIn(f"--{flag}\n", printed)


if __name__ == "__main__":
  absltest.main()
