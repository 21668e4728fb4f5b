"""What a temperature repairs, method by method."""

from absl.testing import absltest
import numpy as np
import pytest

from jaxcal.predictions import Predictions
from jaxcal.recalibration import predicted
from jaxcal.recalibration import temperature
from jaxcal.report import measured
from jaxcal.report import page
from jaxcal.report import repaired
from jaxcal.report import summary


def _predictions(seed, name, factor):
  """Calibrated ones, but for a factor of the logits."""
  rng = np.random.default_rng(seed)
  logits = 2 * rng.normal(size=(800, 5))
  labels = (logits + rng.gumbel(size=logits.shape)).argmax(-1)
  return Predictions(
      (factor * logits).astype(np.float32), labels.astype(np.int32),
      tuple(f"{seed} {i}" for i in range(800)), tuple("abcde"),
      settings={"method": name, "stages": {"method": name}})


class RepairedTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.factors = {"plain": 1.0, "sharp": 3.0, "flat": 0.3}
    found = {}
    for name, factor in cls.factors.items():
      found[name] = _predictions(0, name, factor)
      found[f"{name}+temperature"] = predicted.recalibrate_quietly(
          found[name], _predictions(1, name, factor), temperature.Temperature())
    cls.conventions = summary.Conventions(num_resamples=50)
    scaled = {f"{name}+temperature": name for name in cls.factors}
    cls.pairs = measured.references(list(found), scaled, "plain")
    cls.measured = measured.measure(
        [measured.Predicted("some", found, cls.pairs)], cls.conventions)

  @pytest.mark.slow
  def test_a_wrong_scale_is_repaired_and_no_more(self):
    rows = {row["method"]: row for row in repaired.rows(self.measured.rows)}
    self.assertEqual(list(rows), list(self.factors))
    by_stages = {(row["method"], row.get("recalibrator")): row
                 for row in self.measured.rows}
    for name, row in rows.items():
      for score in ("ece", "nll", "aurc"):
        self.assertEqual(row[score], by_stages[name, None][score])
        self.assertEqual(row[f"{score}_after"],
                         by_stages[name, "temperature"][score])
    # All come to the same, which is the one with the right scale.
    for name in ("sharp", "flat"):
      self.assertGreater(rows[name]["nll"] - rows["plain"]["nll"], 0.05)
      self.assertAlmostEqual(
          rows[name]["nll_after"], rows["plain"]["nll_after"], places=4)

  def test_what_is_recalibrated_is_compared_with_what_it_was(self):
    self.assertEqual(self.pairs, {
        "sharp": "plain", "flat": "plain",
        **{f"{name}+temperature": name for name in self.factors}})
    found = {(row["method"], row.get("recalibrator")): row
             for row in self.measured.differences}
    row = found["sharp", "temperature"]
    self.assertEqual(row["reference"], "sharp")
    self.assertLess(row["nll_difference_high"], 0)
    self.assertEqual(row["accuracy_difference"], 0)

  @pytest.mark.slow
  def test_section(self):
    found = repaired.section(self.measured.rows, "some")
    self.assertEqual(found.heading, "What a temperature repairs: some")
    table, = (one for one in found.blocks if isinstance(one, page.Table))
    self.assertLen(table.rows, 3)
    for column in table.columns:
      for row in table.rows:
        self.assertNotEmpty(column.cell(row))
    drawn, = (one for one in found.blocks if isinstance(one, page.Figures))
    self.assertLen(drawn.figures, 3)
    # Two methods, or none with a temperature, need no drawing.
    self.assertEmpty(repaired.section(self.measured.rows[:4], "some").blocks)
    self.assertEmpty(repaired.section(
        [row for row in self.measured.rows if "recalibrator" not in row],
        "some").blocks)


if __name__ == "__main__":
  absltest.main()
