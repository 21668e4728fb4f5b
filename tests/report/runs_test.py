"""Finished runs from Python: recalibrated and measured anew, by stages."""

import json
import pathlib
import re

from absl.testing import absltest
import numpy as np
import pytest

from jaxcal import predictions
from jaxcal import stages
from jaxcal.report import measured
from jaxcal.report import recalibrated
from jaxcal.report import redrawn
from jaxcal.report import saved_runs
from jaxcal.report import seeds
from jaxcal.report import summary

_CONVENTIONS = summary.Conventions(num_bins=5, num_resamples=20)
_ZERO_SHOT = stages.Stages("zero_shot")
_FULL = stages.Stages("zero_shot", posterior="full")


def _predictions(one, seed=0, **settings):
  """Over-confident ones, the classes drawn from a third of the logits."""
  rng = np.random.default_rng(seed)
  logits = 3 * rng.normal(size=(40, 3)).astype(np.float32)
  labels = (logits / 3 + rng.gumbel(size=(40, 3))).argmax(-1)
  return predictions.Predictions(
      logits, labels.astype(np.int32), tuple(map(str, range(40))),
      ("cat", "dog", "owl"), settings=stages.setting(one) | settings)


def _rows(folder, name="results"):
  return [json.loads(line) for line in
          (folder / f"{name}.jsonl").read_text().splitlines()]


class RunsTest(absltest.TestCase):

  def setUp(self):
    """A run without a table: two methods of which one has a posterior."""
    super().setUp()
    self.run = pathlib.Path(self.create_tempdir().full_path)
    for one in (_ZERO_SHOT, _FULL):
      predictions.save(_predictions(one, seed=len(one.label)),
                       self.run / "predictions" / "pets" / one.label)

  @pytest.mark.slow
  def test_recalibrated_in_a_few_lines(self):
    plan = recalibrated.plan(self.run, recalibrated.Share(0.25, seed=3))
    self.assertFalse(plan.folder.exists())
    said = recalibrated.write(plan, plan.folder)
    scaled = [one._replace(recalibrator="temperature")
              for one in (_ZERO_SHOT, _FULL)]
    rows = _rows(plan.folder)
    self.assertEqual([stages.of(row) for row in rows],
                     [_ZERO_SHOT, scaled[0], _FULL, scaled[1]])
    self.assertEqual([row["num_images"] for row in rows], 4 * [30])
    self.assertEqual(
        [(stages.of(row), stages.reference_of(row))
         for row in _rows(plan.folder, "differences")],
        list(zip(scaled, (_ZERO_SHOT, _FULL))))
    for one in scaled:
      saved = predictions.load(
          plan.folder / "predictions" / "pets" / one.label)
      self.assertEqual(stages.of_settings(saved.settings, ""), one)
      self.assertEqual(saved.settings["method"], one.label)
      self.assertIn(f"| {one.label} ", said.text)
    self.assertIn("zero_shot+full+temperature - zero_shot+full", said.text)
    for row in (rows[1], rows[3]):
      for note in row["recalibration_notes"]:
        self.assertIn(f"pets, {stages.of(row).label}: {note}", said.notes)
    about = plan.folder / "run.json"
    told = json.loads(about.read_text())
    for change, message in ((told, f"of the run {self.run.name}, by temp"),
                            ({"recalibrator": "x"}, "that it does not name")):
      about.write_text(json.dumps(change))
      with self.assertRaisesRegex(ValueError, message):
        recalibrated.plan(plan.folder, recalibrated.Share(0.25))
    # Another draw is another folder.
    other = recalibrated.plan(self.run, recalibrated.Share(0.25))
    self.assertNotEqual(other.folder, plan.folder)
    with self.assertRaisesRegex(ValueError, "would mix with what is read"):
      recalibrated.write(plan, self.run)
    with self.assertRaisesRegex(ValueError, r"a share in \(0, 1\), got 1"):
      recalibrated.plan(self.run, recalibrated.Share(1))

  def test_redrawn_in_a_line(self):
    output = self.run / "other"
    said = redrawn.write(self.run, _CONVENTIONS, output)
    self.assertEqual(
        [stages.of(row) for row in _rows(output)], [_ZERO_SHOT, _FULL])
    self.assertIn("ECE: 5 right-closed bins", said.text)
    self.assertIn("num_bins is 5, was 20", said.text)
    self.assertRegex(" ".join(said.notes), "made by other code than this")
    self.assertFalse((self.run / "results.jsonl").exists())

  @pytest.mark.slow
  def test_an_error_below_its_floor_is_said(self):
    # As confident as right: half of them.
    logits = np.log(np.array([[0.5, 0.3, 0.2]] * 40, np.float32))
    labels = np.repeat([0, 1], 20).astype(np.int32)
    saved = _predictions(_ZERO_SHOT)._replace(logits=logits, labels=labels)
    predictions.save(saved, self.run / "predictions" / "pets" / "zero_shot")
    output = self.run / "other"
    said = redrawn.write(self.run, _CONVENTIONS, output)
    note = ("The ECE of pets, zero_shot is not above its floor: 40 images are "
            "too few to tell it from that of a calibrated model.")
    for text in (said.text, (output / "results.md").read_text(),
                 (output / "report.html").read_text()):
      self.assertIn(note, " ".join(text.split()))

  @pytest.mark.slow
  def test_what_a_run_says_of_its_sets_is_said_again(self):
    remark = "pets: protocol of the papers for the family fine_grained"
    (self.run / "run.json").write_text(json.dumps({"protocol.pets": remark}))
    self.assertIn(f"\n\n{remark}\n\n", redrawn.write(self.run).text)
    plan = recalibrated.plan(self.run, recalibrated.Share(0.25))
    self.assertIn(
        f"\n\n{remark}\n\n", recalibrated.write(plan, plan.folder).text)

  @pytest.mark.slow
  def test_a_copy_goes_by_its_own_name(self):
    folder = self.run / "predictions" / "pets"
    predictions.save(predictions.load(folder / "zero_shot"), folder / "mine")
    redrawn.write(self.run, _CONVENTIONS)
    self.assertEqual([stages.of(row).label for row in _rows(self.run)],
                     ["mine", "zero_shot", "zero_shot+full"])
    self.assertEqual(
        saved_runs.load(folder / "mine").settings["stages"], {"method": "mine"})

  def test_stages_are_fields_of_rows_and_names_of_panels(self):
    found = measured.measure([measured.Predicted(
        "pets", {one.label: _predictions(one, numbers={"weight": 3})
                 for one in (_ZERO_SHOT, _FULL)},
        measured.references(["zero_shot", "zero_shot+full"]))], _CONVENTIONS)
    plain, full = found.rows
    self.assertEqual((full["method"], full["posterior"], full["weight"]),
                     ("zero_shot", "full", 3))
    self.assertNotIn("posterior", plain)
    difference, = found.differences
    self.assertEqual(
        (difference["method"], difference["posterior"],
         difference["reference"]), ("zero_shot", "full", "zero_shot"))
    self.assertNotIn("reference_posterior", difference)
    self.assertIn("zero_shot+full", found.images["pets"])

  def test_means_over_seeds_are_of_all_other_stages(self):
    tuned = [stages.Stages("coop", ("dor",), seed, recalibrator=by)
             for by in (None, "temperature") for seed in (1, 2)]
    found = measured.measure([measured.Predicted("pets", {
        one.label: _predictions(one, seed=one.tuned_seed)
        for one in (*tuned, stages.Stages("coop", (), 1), _ZERO_SHOT)
    }, {})], _CONVENTIONS)
    self.assertEqual(
        [stages.of(row) for row in found.over_seeds],
        [one._replace(tuned_seed=None) for one in tuned[::2]])
    values = [row["accuracy"] for row in found.rows[:2]]
    row = found.over_seeds[0]
    self.assertEqual((row["seeds"], row["accuracy"]), (2, np.mean(values)))
    self.assertAlmostEqual(row["accuracy_std"], np.std(values, ddof=1))
    self.assertEqual(row["accuracy_seeds"], values)
    self.assertLess(row["accuracy_total_low"], row["accuracy_low"])
    (ends,) = re.findall(r"([(]\d.*?[)])", seeds.blocks([row], 0.95)[1].split(
        " | ")[-1])
    self.assertEqual(
        ends, f"({row['nll_total_low']:.3f}, {row['nll_total_high']:.3f})")

  @pytest.mark.slow
  def test_differences_of_a_set_are_tested_together(self):
    labels = _predictions(_ZERO_SHOT).labels
    methods = {one.label: _predictions(one, seed=number)._replace(labels=labels)
               for number, one in enumerate(
                   map(stages.Stages, ("tpt", "soc", "mta")))}
    found = measured.measure([measured.Predicted(
        data, methods, measured.references(list(methods)))
        for data in ("pets", "birds")], _CONVENTIONS)
    wanted = summary.evaluate(methods, conventions=_CONVENTIONS)
    for data in ("pets", "birds"):
      for ours, theirs in ((found.differences, wanted.differences),
                           (found.rows, wanted.rows)):
        self.assertEqual([row for row in ours if row["data"] == data],
                         [{"data": data, **row} for row in theirs])
    text = measured.write(
        self.run / "written", found, about={}, conventions=_CONVENTIONS).text
    self.assertIn("by Holm's method over the differences of an image set. With "
                  "20 resamples the smallest of 10 is 0.95 or more", text)
    self.assertIn("No number is bold", text)

  @pytest.mark.slow
  def test_means_over_sets(self):
    output = self.run / "other"
    one, other = _ZERO_SHOT, _FULL
    sure = _predictions(one)
    sure = sure._replace(logits=9 * np.eye(3, dtype=np.float32)[sure.labels])
    redraw = lambda: redrawn.write(self.run, _CONVENTIONS._replace(
        num_resamples=200), output)
    redraw()
    self.assertFalse((output / "means.jsonl").exists())
    for method, found in ((one, sure), (other, _predictions(other))):
      for data in ("pets", "birds"):
        predictions.save(found, self.run / "predictions" / data / method.label)
    said = redraw()
    rows = _rows(output)
    first, second = _rows(output, "means")
    self.assertEqual((first["sets"], stages.of(second)), (2, other))
    of_first = [row["nll"] for row in rows if stages.of(row) == one]
    self.assertAlmostEqual(first["nll"], np.mean(of_first))
    self.assertContainsSubset(["accuracy", "nll", "brier"], first["best"])
    self.assertEqual(stages.reference_of(second), one)
    for text in (said.text, (output / "report.html").read_text()):
      self.assertIn("Means over 2 sets", text)
      self.assertIn("Each set counts the same.", text)
    self.assertIn("| **100.0 [100.0, 100.0]** | ",
                  said.text.split("Means over 2 sets")[1])
    # One set more, on which a method was not run.
    predictions.save(sure, self.run / "predictions" / "owls" / one.label)
    said = redraw()
    alone, = _rows(output, "means")
    self.assertEqual((alone["sets"], stages.of(alone)), (3, one))
    self.assertNotIn("best", alone)
    sentence = "zero_shot+full has no mean over the sets: it lacks owls."
    for text in (said.text, (output / "report.html").read_text()):
      self.assertIn(sentence, text)
    for path in (self.run / "predictions").glob("[bo]*/*"):
      path.unlink()
    redraw()
    self.assertFalse((output / "means.jsonl").exists())

  def test_methods_of_other_images_are_not_held_against_each_other(self):
    plain, full = (_predictions(one) for one in (_ZERO_SHOT, _FULL))
    found = measured.measure([measured.Predicted(
        "pets", {"zero_shot": plain, "zero_shot+full": full._replace(
            ids=full.ids[::-1])}, {})], _CONVENTIONS)
    self.assertNotIn("best", found.rows[0])
    self.assertEqual(found.notes, [
        "pets: no number is bold, as its methods are not all measured on the "
        "same images."])


if __name__ == "__main__":
  absltest.main()
