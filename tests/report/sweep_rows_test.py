"""Rows of a sweep: measured once, and again where anything changed."""

import json
import pathlib
from unittest import mock

from absl.testing import absltest
import numpy as np

from jaxcal import predictions as predictions_lib
from jaxcal.adapt.prompt import methods as prompt
from jaxcal.report import summary
from jaxcal.report import sweeps


class RowsTest(absltest.TestCase):

  def test_a_row_is_measured_again_where_what_it_is_of_has_changed(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    predictions_lib.save(predictions_lib.Predictions(
        np.eye(4, 3, dtype=np.float32), np.array([0, 1, 2, 0]),
        tuple("abcd"), tuple("xyz"), {}, {}), folder / "tpt")
    path = folder / "results.jsonl"
    key = {"data": "digits", "setting": "tpt"}
    plain = summary.Conventions(num_resamples=5)
    measure = lambda conventions, **identity: sweeps.Rows(path).measure(
        key, folder / "tpt", {"method": "tpt"}, conventions, identity)
    measure(plain, seed=0)
    row, = sweeps.Rows(path).all
    self.assertEqual((row["method"], row["accuracy"]), ("tpt", 1.0))
    with mock.patch.object(summary, "summarise", side_effect=AssertionError):
      measure(plain, seed=0)
    for conventions, seed in ((plain, 1), (plain._replace(num_bins=5), 1)):
      with mock.patch.object(summary, "summarise", return_value={}) as again:
        measure(conventions, seed=seed)
      again.assert_called_once()
      self.assertLen(sweeps.Rows(path).all, 1)


class OverSeedsTest(absltest.TestCase):

  def _sweep(self, grid):
    """A sweep of TPT over fields with a pass of their own."""
    folder = pathlib.Path(self.create_tempdir().full_path)
    conventions = summary.Conventions(num_resamples=20)
    rows = sweeps.Rows(folder / "results.jsonl")
    for number, fields in enumerate(grid):
      rng = np.random.default_rng(number)
      logits = rng.normal(size=(30, 3)).astype(np.float32)
      path = folder / "predictions" / "digits" / sweeps.folder_name(
          fields) / "tpt"
      predictions_lib.save(predictions_lib.Predictions(
          logits, np.arange(30) % 3, tuple(map(str, range(30))), tuple("xyz"),
          {}, {}), path)
      rows.measure({"data": "digits", "setting": "tpt", **fields}, path,
                   {"method": "tpt", "learning_rate": 0.1}, conventions,
                   {"number": number})
    text = sweeps.write(folder, rows.all, lambda name: prompt.Tpt(),
                        conventions)
    return folder, rows.all, text

  def test_rows_that_differ_in_a_seed_are_pooled(self):
    folder, rows, text = self._sweep([
        {"views.number": number, "views.seed": seed}
        for number in (8, 16) for seed in (0, 1, 2)])
    pooled = [json.loads(line) for line in
              (folder / "seeds.jsonl").read_text().splitlines()]
    self.assertEqual([row["views.number"] for row in pooled], [8, 16])
    for row, each in zip(pooled, (rows[:3], rows[3:])):
      self.assertEqual((row["data"], row["seeds"]), ("digits", 3))
      self.assertEqual(row["ece_seeds"], [one["ece"] for one in each])
      self.assertAlmostEqual(row["ece"], np.mean(row["ece_seeds"]))
      self.assertLess(row["ece_total_low"], row["ece_low"])
      self.assertNotIn("views.seed", row)
      self.assertNotIn("identity", row)
      self.assertEqual(row["learning_rate"], 0.1)
    self.assertIn("Over seeds:", text)
    self.assertIn("views.number=16 ", text.split("Over seeds:")[1])
    # One curve of means against what else was swept, none against the seed.
    self.assertEqual([path.name for path in folder.glob("*.svg")],
                     ["views.number-digits.svg"])

  def test_the_band_is_that_of_other_seeds_and_images(self):
    with mock.patch.object(
        sweeps.figures, "sweep_curves", wraps=sweeps.figures.sweep_curves
    ) as drawn:
      folder, _, _ = self._sweep([
          {"views.number": number, "views.seed": seed}
          for number in (8, 16) for seed in (0, 1)])
    curves, lines, field = drawn.call_args.args
    self.assertEqual((field, lines), ("views.number", {}))
    curve, = curves.values()
    for row, line in zip(
        curve, (folder / "seeds.jsonl").read_text().splitlines()):
      pooled = json.loads(line)
      self.assertEqual(row["ece"], pooled["ece"])
      self.assertEqual(row["accuracy_high"], pooled["accuracy_total_high"])

  def test_a_grid_of_seeds_with_gaps_is_not_pooled(self):
    folder, _, text = self._sweep([
        {"views.seed": views, "stream.seed": order}
        for views, order in ((0, 0), (0, 1), (1, 0))])
    self.assertIn("digits, tpt: no mean over seeds, as not all combinations of "
                  "views.seed and stream.seed are there.", text)
    self.assertFalse((folder / "seeds.jsonl").exists())

  def test_a_single_seed_is_a_setting_like_others(self):
    folder, _, text = self._sweep([
        {"views.number": number, "views.seed": 0} for number in (8, 16)])
    self.assertNotIn("Over seeds", text)
    self.assertTrue((folder / "views.number-digits.svg").exists())


if __name__ == "__main__":
  absltest.main()
