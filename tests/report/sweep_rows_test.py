"""Rows of a sweep: measured once, again where anything changed, and redrawn."""

import json
import pathlib
from unittest import mock

from absl.testing import absltest
import numpy as np

from jaxcal import predictions as predictions_lib
from jaxcal import stages
from jaxcal.adapt.prompt import methods as prompt
from jaxcal.report import redrawn
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


def _saved(path, seed, numbers):
  """Predictions of a setting for 40 images."""
  rng = np.random.default_rng(seed)
  logits = 2 * rng.normal(size=(40, 3)).astype(np.float32)
  labels = (logits / 2 + rng.gumbel(size=(40, 3))).argmax(-1)
  predictions_lib.save(predictions_lib.Predictions(
      logits, labels.astype(np.int32), tuple(map(str, range(40))),
      ("cat", "dog", "owl"), settings={
          "numbers": numbers, "identity": {"seed": seed}}), path)


def _rows(folder):
  return [json.loads(line) for line in
          (folder / "results.jsonl").read_text().splitlines()]


class RedrawTest(absltest.TestCase):

  def setUp(self):
    """A sweep over a weight and a template, of SoC and a method of one's own.
    """
    super().setUp()
    self.run = pathlib.Path(self.create_tempdir().full_path, "sweep")
    self.run.mkdir()
    settings = {"config.model.name": "testbed",
                "config.metrics.num_resamples": 20,
                "protocol.pets": "pets: as the papers have it"}
    (self.run / "run.json").write_text(json.dumps(settings | {
        "command": ["jaxcal", "sweep", "--sweep=method.weight=1,30"]}))
    self.conventions = summary.Conventions(num_resamples=20)
    rows = sweeps.Rows(self.run / "results.jsonl")
    seed = 0
    for template in ("a {}.", "the {}."):
      for method, numbers in (("soc", {"weight": 1.0}),
                              ("soc", {"weight": 30.0}),
                              ("mine", {"reach": 2})):
        fields = {"data.template": template}
        key = {"data": "pets", "setting": f"{method}-{len(rows.all)}", **fields}
        path = (self.run / "predictions" / "pets" /
                sweeps.folder_name(fields) / key["setting"])
        seed += 1
        _saved(path, seed, numbers)
        rows.measure(key, path, {**stages.fields(stages.Stages(method)),
                                 **numbers}, self.conventions, {"seed": seed})
    (self.run / "results.md").write_text("")

  def test_the_same_rows_from_the_predictions(self):
    before = _rows(self.run)
    output = self.run.parent / "again"
    written = redrawn.write(
        self.run, output=output, page_by=("jaxcal", "report", "my sweep"))
    self.assertEqual(_rows(output), before)
    self.assertStartsWith((output / "weight-pets.svg").read_text(), "<svg")
    self.assertIn("soc-weight=1-data.template=a_", written.text)
    self.assertIn("mine-reach=2-data.template=the_", written.text)
    self.assertIn("pets: as the papers have it", written.text)
    page = (output / "report.html").read_text()
    for text in (
        "Sweep of weight with testbed", "6 settings on pets",
        "jaxcal sweep --sweep=method.weight=1,30",
        "jaxcal report &#39;my sweep&#39;", "pets: as the papers have it",
        "accuracy against weight", "ECE against weight", "NLL against weight"):
      self.assertIn(text, page)
    self.assertEqual(page.count("<svg"), 3)
    # The swept number has a column of its own.
    self.assertIn('<td data-of="weight">30</td>', page)

  def test_by_other_conventions(self):
    before = _rows(self.run)
    written = redrawn.write(self.run, self.conventions._replace(num_bins=5))
    self.assertIn("num_bins is 5, was 20", written.text)
    for row, old in zip(_rows(self.run), before):
      self.assertEqual((row["setting"], row["nll"], row["weight"]
                        if "weight" in row else None),
                       (old["setting"], old["nll"], old.get("weight")))
      self.assertNotEqual(row["ece"], old["ece"])
      # So that the sweep measures it by its own again.
      self.assertNotEqual(row["identity"], old["identity"])

  def test_what_is_missing_or_not_at_its_end(self):
    (self.run / "results.md").unlink()
    self.assertIn("has not come to its end", redrawn.write(self.run).text)
    for path in (self.run / "predictions").rglob("soc-0.npz"):
      path.unlink()
    with self.assertRaisesRegex(
        FileNotFoundError, "has results of pets, soc-0, but no longer both"):
      redrawn.write(self.run)
    with self.assertRaisesRegex(ValueError, "published numbers: these are of"):
      redrawn.write(self.run, beside_published=True)


if __name__ == "__main__":
  absltest.main()
