"""Means over orders of the images in tables, files, pictures and reports."""

import json
import pathlib

from absl.testing import absltest
import numpy as np
import pytest

from jaxcal import predictions
from jaxcal import stages
from jaxcal.report import measured
from jaxcal.report import over_orders
from jaxcal.report import redrawn
from jaxcal.report import resampled
from jaxcal.report import saved_runs
from jaxcal.report import seeds
from tests.report import drawn

_SEEDS = (0, 1, 10)
_STAGES = {f"tda-order{seed}": stages.Stages("tda", order_seed=seed)
           for seed in _SEEDS}


def _predictions():
  """zero_shot, and tda in three orders that differ in some of the images."""
  def one(seed, of):
    found = drawn.random(seed)
    if seed:  # the same images
      found = found._replace(labels=labels)
    return found._replace(
        info={"filled": np.full(len(found.ids), seed, np.float32)},
        settings={"method": of.label, stages.SETTING: stages.fields(of)})

  labels = drawn.random(0).labels
  return {"zero_shot": one(0, stages.Stages("zero_shot"))} | {
      name: one(1 + of.order_seed, of) for name, of in _STAGES.items()}


class OverOrdersTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.predictions = _predictions()
    cls.found = measured.measure([measured.Predicted(
        "pets", cls.predictions,
        measured.references(list(cls.predictions)))], drawn.QUICK)
    cls.sampled = {name: resampled.of(one, drawn.QUICK)
                   for name, one in cls.predictions.items()}

  @pytest.mark.slow
  def test_a_row_for_each_method(self):
    zero_shot, tda = self.found.rows
    self.assertEqual((zero_shot["method"], tda["method"]), ("zero_shot", "tda"))
    self.assertEqual(tda["order_seeds"], list(_SEEDS))
    self.assertNotIn("order_seed", tda)
    self.assertNotIn("order_seeds", zero_shot)
    each = [self.sampled[name] for name in _STAGES]
    expected = seeds.pool(each, drawn.QUICK.level)
    for name in ("accuracy", "accuracy_low", "ece_high", "gap", "nll_std",
                 "ece_total_low", "accuracy_seeds"):
      self.assertEqual(tda[name], expected[name])
    for name in ("ece_floor", "confidence_gap", "median_filled", "mce"):
      self.assertAlmostEqual(
          tda[name], np.mean([row[name] for row in self.found.by_order]))
    self.assertEqual(tda["num_images"], zero_shot["num_images"])

  def test_each_order_is_there_by_itself(self):
    self.assertEqual(
        [stages.of(row) for row in self.found.by_order], [*_STAGES.values()])
    alone = measured.measure([measured.Predicted(
        "pets", {"tda-order1": self.predictions["tda-order1"]}, {})],
                             drawn.QUICK)
    # A single order is not a mean.
    self.assertEqual(alone.rows, [self.found.by_order[1]])
    self.assertEmpty(alone.by_order)

  def test_differences_are_of_means_and_paired(self):
    row, = self.found.differences
    expected = seeds.difference_row(
        [self.sampled[name] for name in _STAGES], [self.sampled["zero_shot"]],
        drawn.QUICK.level)
    self.assertEqual(stages.pairs(row), dict.fromkeys(_STAGES, "zero_shot"))
    for name in ("ece_difference", "ece_difference_low",
                 "nll_difference_total_high"):
      self.assertEqual(row[name], expected[name])
    # As many tests as a method of a single order has.
    self.assertLen([name for name in row if name.endswith("_p")], 5)

  def test_the_best_is_told_among_means(self):
    means = {"zero_shot": self.sampled["zero_shot"], "tda": resampled.mean(
        [self.sampled[name] for name in _STAGES])}
    best = resampled.best(means, drawn.QUICK.level)
    self.assertEqual([row["best"] for row in self.found.rows],
                     [best["zero_shot"], best["tda"]])

  def test_one_without_an_order_beside_them(self):
    through = {"tda": stages.Stages("tda"), **_STAGES}
    self.assertEqual(
        over_orders.groups(through),
        {of: [name] for name, of in through.items()})
    del through["tda"]
    self.assertEqual(
        over_orders.groups(through), {stages.Stages("tda"): [*_STAGES]})

  def test_orders_on_both_sides(self):
    recalibrated = {
        f"{name}+vector": one._replace(
            logits=2 * one.logits,
            settings={stages.SETTING: stages.fields(
                _STAGES[name]._replace(recalibrator="vector"))})
        for name, one in self.predictions.items() if name in _STAGES}
    found = measured.measure([measured.Predicted(
        "pets", recalibrated | self.predictions,
        {f"{name}+vector": name for name in _STAGES})], drawn.QUICK)
    row, = found.differences
    self.assertEqual(
        stages.pairs(row), {f"{name}+vector": name for name in _STAGES})
    self.assertEqual(row["accuracy_difference"], 0)

  def test_written_and_redrawn(self):
    run = pathlib.Path(self.create_tempdir().full_path)
    for name, one in self.predictions.items():
      predictions.save(one, run / "predictions" / "pets" / name)
    about = {"config.metrics.num_resamples": drawn.QUICK.num_resamples}
    (run / "run.json").write_text(json.dumps(about))
    written = measured.write(
        run, self.found, about=about, conventions=drawn.QUICK, with_images=True)
    text = (run / "results.md").read_text()
    self.assertIn(text.strip(), written.text)
    table, *_ = text.split("\n\n")
    self.assertLen(table.splitlines(), 4)
    self.assertIn("tda: means over 3 orders of the images, those of the seeds "
                  "0, 1, 10", text)
    self.assertIn("Over orders of the images:", text)
    page = (run / "report.html").read_text()
    for said in ("Each order by itself", "<b>tda-order0</b>"):
      self.assertTrue(said in page, said)
    self.assertLen(saved_runs.rows(run, "orders"), 3)
    lines = (run / "images-pets.csv").read_text().splitlines()
    self.assertLen(lines, 1 + 4 * len(self.predictions["zero_shot"].ids))
    again = redrawn.write(run, drawn.QUICK, run)
    self.assertEqual(again.text, written.text.replace(", images-*.csv", ""))
    self.assertEqual(
        [one.name for one in saved_runs.predictions_of(
            run, saved_runs.rows(run, "results"))],
        ["zero_shot", *_STAGES])
    # What was several is none any more.
    (run / "predictions" / "pets" / "tda-order1.npz").unlink()
    with self.assertRaisesRegex(FileNotFoundError, "pets, tda-order1"):
      redrawn.write(run, drawn.QUICK, run)

  def test_damaged_orders_of_a_row(self):
    run = pathlib.Path(self.create_tempdir().full_path)
    row = {"data": "pets", "method": "tda", "ece": 0, "order_seeds": ["0"]}
    (run / "results.jsonl").write_text(json.dumps(row) + "\n")
    with self.assertRaisesRegex(ValueError, "order_seeds are"):
      saved_runs.rows(run, "results")


if __name__ == "__main__":
  absltest.main()
