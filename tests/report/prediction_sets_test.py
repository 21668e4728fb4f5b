"""Runs become rows, tables and figures of prediction sets."""

import json
import math
import pathlib

from absl.testing import absltest
import numpy as np
import pytest
from scipy import stats

from jaxcal import predictions
from jaxcal import stages
from jaxcal.conformal import predicted
from jaxcal.report import figures
from jaxcal.report import prediction_sets
from jaxcal.report import redrawn
from jaxcal.report import summary

_NAMES = ("plain", "noisy", "noisier", "worst", "best")


def write_run(folder, *, sets=("cats", "dogs"), names=_NAMES, n=60):
  """A folder of predictions, each method with more noise than the last."""
  for number, data in enumerate(sets):
    rng = np.random.default_rng(number)
    labels = rng.integers(0, 4, n).astype(np.int32)
    noise = rng.normal(size=(n, 4))
    for place, name in enumerate(names):
      logits = 3 * np.eye(4)[labels] + (1 + place % 4) * noise
      predictions.save(predictions.Predictions(
          logits.astype(np.float32), labels, tuple(map(str, range(n))),
          tuple("abcd"), settings=stages.setting(stages.Stages(name))),
          folder / "predictions" / data / name)


class PredictionSetsTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.run_folder = pathlib.Path(self.create_tempdir().full_path, "run")
    write_run(self.run_folder)
    self.output = self.run_folder.parent / "out"

  def _write(self, *args, **kwargs):
    planned = prediction_sets.plan(
        self.run_folder, *args, num_splits=5, **kwargs)
    written = prediction_sets.write(planned, self.output)
    return written, [json.loads(line) for line in (
        self.output / "sets.jsonl").read_text().splitlines()]

  def test_rows_files_and_text(self):
    written, rows = self._write(("lac", "aps"))
    self.assertEqual(
        [(row["data"], row["method"], row["score"]) for row in rows],
        [(data, name, score) for data in ("cats", "dogs")
         for name in sorted(_NAMES) for score in ("lac", "aps")])
    one = predictions.load(self.run_folder / "predictions/cats/best")
    expected = predicted.measure(one, score="lac", num_splits=5)
    plain = summary.estimate(one, summary.Conventions())
    self.assertEqual(rows[0], {
        "data": "cats", "method": "best", **expected,
        **{name: plain[name] for name in ("accuracy", "ece", "aurc")}})
    text = (self.output / "sets.md").read_text()
    self.assertStartsWith(written.text, text.strip())
    self.assertRegex(text, r"(?m)^\| cats +\| best +\| aps +\| ")
    for part in ("to cover 90.0 % of them", "(floor ", "(due ", "Rank"):
      self.assertIn(part, text)
    self.assertIn(f"Written to {self.output}", written.text)
    for name in ("cats", "dogs"):
      figure = (self.output / f"sets-{name}.svg").read_text()
      self.assertStartsWith(figure, "<svg")
    self.assertCountEqual(
        [path.name for path in self.output.iterdir()],
        ["sets.jsonl", "sets.json", "sets.md", "sets.html", "sets-cats.svg",
         "sets-dogs.svg"])
    page = (self.output / "sets.html").read_text()
    self.assertEqual(page.count("<svg"), 2 * 2)
    for part in ("90.0 % of the images, by lac, aps", "Sets of dogs",
                 "Mean size against the calibration error", "Rank"):
      self.assertIn(part, page)

  @pytest.mark.slow
  def test_a_report_of_the_run_has_them_while_they_are_of_its_predictions(self):
    prediction_sets.write(prediction_sets.plan(
        self.run_folder, ("lac",), num_splits=5), self.run_folder)
    conventions = summary.Conventions(num_resamples=5)
    said = redrawn.write(self.run_folder, conventions)
    page = (self.run_folder / "report.html").read_text()
    self.assertIn("Prediction sets", page)
    self.assertIn("Mean size against the calibration error", page)
    self.assertNotIn("jaxcal conformal", said.text)
    path = self.run_folder / "predictions/cats/plain"
    one = predictions.load(path)
    predictions.save(one._replace(logits=one.logits + np.float32(1)), path)
    said = redrawn.write(self.run_folder, conventions)
    page = (self.run_folder / "report.html").read_text()
    self.assertNotIn("Mean size against", page)
    for text in (said.text, page):
      self.assertIn(f"make them again: jaxcal conformal {self.run_folder}",
                    text)

  def test_it_says_of_which_predictions_it_is(self):
    self._write(("lac",), alpha=0.2, seed=3)
    about = json.loads((self.output / "sets.json").read_text())
    self.assertEqual(
        (about["run"], about["alpha"], about["seed"], about["scores"]),
        ("run", 0.2, 3, ["lac"]))
    before = about["predictions"]
    self.assertEqual(list(before), ["cats", "dogs"])
    path = self.run_folder / "predictions/cats/plain"
    one = predictions.load(path)
    predictions.save(one._replace(logits=one.logits + np.float32(1)), path)
    self._write(("lac",), alpha=0.2, seed=3)
    after = json.loads((self.output / "sets.json").read_text())["predictions"]
    self.assertEqual(
        [(data, name) for data, of_set in before.items() for name in of_set
         if after[data][name] != of_set[name]], [("cats", "plain")])

  @pytest.mark.slow
  def test_by_class_and_transported(self):
    written, rows = self._write(("lac",), by_class=True, transported=True)
    self.assertTrue(all(row["infinite"] > 0 for row in rows))
    self.assertIn("A threshold for each class", written.text)
    self.assertIn("Conf-OT", written.text)
    self.assertNotIn("(due ", written.text)

  @pytest.mark.slow
  def test_full_conformal_sets_where_there_are_features(self):
    path = self.run_folder / "predictions/cats/plain"
    one, rng = predictions.load(path), np.random.default_rng(0)
    images, text = rng.normal(size=(60, 6)), rng.normal(size=(4, 6))
    predictions.save(one._replace(
        logits=(images @ text.T).astype(np.float32), evidence={
            "image_features": images.astype(np.float32),
            "text_features": text.astype(np.float32)}), path)
    written, rows = self._write(("lac",), full=("so_lda",), by_class=True)
    self.assertEqual(
        [(row["data"], row["method"]) for row in rows
         if row["score"] == "so_lda"], [("cats", "plain")])
    self.assertLen(written.notes, 9)
    self.assertRegex(written.notes[0], "^cats, best: no so_lda, full conformal "
                     "sets need features of images and classes.*evidence=")
    self.assertRegex(written.text, r"plain +\| so_lda +\|.*\| 90.3 +\|")

  def test_refusals_come_first(self):
    with self.assertRaisesRegex(ValueError, "cats, best: a share of 0.001"):
      self._write(share=0.001)
    with self.assertRaisesRegex(ValueError, "unknown score 'lcc'.*mean lac"):
      self._write(("lac", "lcc"))
    with self.assertRaisesRegex(ValueError, "unknown full conformal method"):
      self._write(full=("lda",))
    with self.assertRaisesRegex(ValueError, "nothing to make.*cats, best: no"):
      self._write((), full=("so_lda",))
    with self.assertRaisesRegex(ValueError, "a score or more"):
      self._write(())
    path = self.run_folder / "predictions/dogs/worst"
    predictions.save(predictions.load(path)._replace(labels=None), path)
    with self.assertRaisesRegex(ValueError, "dogs, worst: the images have no"):
      self._write()
    self.assertFalse(self.output.exists())


class FigureTest(absltest.TestCase):

  def test_points_numbers_and_band(self):
    rows = [{"method": name, "score": score, "ece": ece, "alpha": 0.1,
             "mean_size": size, "mean_size_std": 0.1, "coverage": 0.9,
             "coverage_std": 0.01, "promised_low": 0.86, "promised_high": 0.94}
            for name, ece in (("soc", 0.02), ("tpt", 0.05))
            for score, size in (("lac", 1.5), ("aps", 2.5))]
    left, right = figures.set_sizes(rows).axes
    for one, both in ((figures.size_against_error, left),
                      (figures.set_coverage, right)):
      panel, = one(rows).axes
      self.assertEqual(
          [points[0].get_xydata().tolist() for points in panel.containers],
          [points[0].get_xydata().tolist() for points in both.containers])
      with self.assertRaisesRegex(ValueError, "no prediction sets to draw"):
        one([])
    found = {container.get_label(): container[0].get_xydata().tolist()
             for container in left.containers}
    self.assertEqual(found, {"lac": [[2, 1.5], [5, 1.5]],
                             "aps": [[2, 2.5], [5, 2.5]]})
    self.assertEqual([text.get_text() for text in left.texts], ["1", "2"])
    self.assertEqual([text.get_text() for text in right.get_yticklabels()],
                     ["1 soc", "2 tpt"])
    band, = right.patches
    self.assertEqual((band.get_x(), band.get_width()), (86, 8))
    with self.assertRaisesRegex(ValueError, "no prediction sets to draw"):
      figures.set_sizes([])


class CorrelationsTest(absltest.TestCase):

  def test_ranks_of_methods(self):
    rng = np.random.default_rng(0)
    rows = [{"data": "cats", "score": score, "mean_size": rng.integers(1, 5),
             "ece": rng.uniform(), "aurc": rng.integers(0, 4),
             "accuracy": 0.5} for _ in range(7) for score in ("lac", "aps")]
    found = prediction_sets.correlations([*rows, {**rows[0], "data": "dogs"}])
    self.assertEqual(
        [(row["data"], row["score"], row["num_methods"]) for row in found],
        [("cats", "lac", 7), ("cats", "aps", 7)])
    of = lambda name: [row[name] for row in rows[::2]]
    for name, one, other in (("size_ece", "mean_size", "ece"),
                             ("size_aurc", "mean_size", "aurc"),
                             ("ece_aurc", "ece", "aurc")):
      self.assertAlmostEqual(
          found[0][name], stats.spearmanr(of(one), of(other)).statistic)
    self.assertTrue(math.isnan(found[0]["size_accuracy"]))


if __name__ == "__main__":
  absltest.main()
