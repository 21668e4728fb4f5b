"""Means over seeds: against loops, and how often they hold the truth."""

import math

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest
from scipy import stats

from jaxcal.report import resampled
from jaxcal.report import scores
from jaxcal.report import seeds
from jaxcal.report import summary
from tests import error_bars
from tests.report import drawn


def _resampled(values, num_resamples=500, seed=0):
  """Accuracies of images, one row per seed, on the same resamples."""
  rng = np.random.default_rng(seed)
  n = values.shape[1]
  counts = rng.multinomial(n, np.full(n, 1 / n), num_resamples) / n
  return [resampled.Resampled(("gap",), one.mean(keepdims=True),
                              (counts @ one)[:, None]) for one in values]


class SeedsTest(parameterized.TestCase):

  def test_the_mean_of_the_seeds(self):
    each_seed = [drawn.random(seed) for seed in (0, 1, 2)]
    row = seeds.summarise(each_seed, drawn.QUICK)
    each = [drawn.by_loops(one) for one in each_seed]
    for one in each:
      one["gap"] = one["confidence"] - one["accuracy"]
    for name in ("accuracy", "ece", "nll", "brier", "gap"):
      values = [one[name] for one in each]
      np.testing.assert_allclose(row[f"{name}_seeds"], values, atol=1e-10)
      self.assertAlmostEqual(row[name], np.mean(values), places=10)
      self.assertLess(row[f"{name}_low"], row[name])
      self.assertGreater(row[f"{name}_high"], row[name])

  def test_resamples_the_images_of_all_seeds_together(self):
    # Hits of the seeds that cancel image by image leave nothing to vary.
    labels = np.arange(40) % 2
    one = drawn.predictions(3 * np.eye(2)[np.zeros(40, int)], labels)
    other = drawn.predictions(3 * np.eye(2)[np.ones(40, int)], labels)
    row = seeds.summarise([one, other], drawn.QUICK)
    self.assertEqual((row["accuracy_low"], row["accuracy_high"]), (0.5, 0.5))
    alone = seeds.summarise([one], drawn.QUICK)
    self.assertLess(alone["accuracy_low"], 0.45)
    whole = summary.summarise(one, drawn.QUICK)
    for name in scores.SCORES:
      for end in ("low", "high"):
        self.assertAlmostEqual(
            alone[f"{name}_{end}"], whole[f"{name}_{end}"], places=12)

  def test_differences_over_seeds(self):
    ours, theirs = [drawn.random(0), drawn.random(1)], [drawn.random(2)]
    row = seeds.compare(ours, theirs, drawn.QUICK)
    mean = lambda name: (np.mean([drawn.by_loops(x)[name] for x in ours]) -
                         drawn.by_loops(theirs[0])[name])
    self.assertAlmostEqual(row["ece_difference"], mean("ece"), places=10)
    self.assertAlmostEqual(
        row["gap_difference"], mean("confidence") - mean("accuracy"),
        places=10)
    same = seeds.compare(ours, ours[::-1], drawn.QUICK)
    for end in ("", "_low", "_high"):
      self.assertAlmostEqual(same[f"nll_difference{end}"], 0, places=12)

  def test_seeds_of_different_images_are_refused(self):
    with self.assertRaisesRegex(ValueError, "same images in the same order"):
      seeds.summarise([drawn.random(), drawn.random(1, n=200)], drawn.QUICK)

  def test_the_total_adds_images_and_seeds_in_squares(self):
    each_seed = [drawn.random(seed) for seed in range(4)]
    row = seeds.summarise(each_seed, drawn.QUICK)
    for name in ("accuracy", "ece", "nll", "gap"):
      values = row[f"{name}_seeds"]
      self.assertAlmostEqual(row[f"{name}_std"], np.std(values, ddof=1))
      half = (stats.t.ppf(0.975, 3) * np.std(values, ddof=1) / 2)
      self.assertAlmostEqual(
          row[f"{name}_total_low"],
          row[name] - math.hypot(half, row[name] - row[f"{name}_low"]), 6)
      self.assertAlmostEqual(
          row[f"{name}_total_high"],
          row[name] + math.hypot(half, row[f"{name}_high"] - row[name]), 6)
    alone = seeds.summarise(each_seed[:1], drawn.QUICK)
    self.assertIsNone(alone["ece_std"])
    self.assertNotIn("ece_total_low", alone)

  def test_the_total_stays_within_the_range_of_the_score(self):
    labels = np.arange(40) % 4
    right, wrong = (drawn.predictions(9 * np.eye(4)[at], labels)
                    for at in (labels, (labels + 1) % 4))
    row = seeds.summarise([right, wrong], drawn.QUICK)
    self.assertEqual((row["accuracy_total_low"], row["accuracy_total_high"]),
                     (0, 1))
    self.assertEqual(row["gap_total_low"], -1)

  def test_differences_are_paired_by_seed(self):
    ours = [drawn.random(seed) for seed in (0, 1, 2)]
    # Each seed is sharper by the same, so that the seeds hardly matter.
    theirs = [one._replace(logits=one.logits * 1.1) for one in ours]
    paired = seeds.compare(theirs, ours, drawn.QUICK)
    values = [seeds.compare([a], [b], drawn.QUICK)["nll_difference"]
              for a, b in zip(theirs, ours)]
    half = stats.t.ppf(0.975, 2) * np.std(values, ddof=1) / math.sqrt(3)
    low = paired["nll_difference"] - paired["nll_difference_low"]
    self.assertAlmostEqual(
        paired["nll_difference_total_low"],
        paired["nll_difference"] - math.hypot(half, low), 6)
    shuffled = seeds.compare(theirs, ours[1:] + ours[:1], drawn.QUICK)
    width = lambda row: (row["nll_difference_total_high"] -
                         row["nll_difference_total_low"])
    self.assertGreater(width(shuffled), 2 * width(paired))
    with self.assertRaisesRegex(ValueError, "there are 3 and 2"):
      seeds.compare(theirs, ours[:2], drawn.QUICK)

  def test_kinds_of_seeds_vary_by_themselves(self):
    rng = np.random.default_rng(0)
    views, orders = 3 * rng.normal(size=3), rng.normal(size=2)
    images = rng.normal(size=100)
    values = np.array([images + a + b for a in views for b in orders])
    t = lambda some: (stats.t.ppf(0.975, len(some) - 1) * np.std(some, ddof=1) /
                      math.sqrt(len(some)))
    spread = seeds.pool(_resampled(values / 1000), 0.95, [
        [a for a in range(3) for _ in range(2)], [0, 1] * 3])
    self.assertAlmostEqual(
        spread["gap"] - spread["gap_total_low"], math.hypot(
            t(views / 1000), t(orders / 1000),
            spread["gap"] - spread["gap_low"]), 9)
    # Six runs of one kind would look like more than three and two.
    self.assertLess(
        seeds.pool(_resampled(values / 1000), 0.95)["gap_total_high"],
        spread["gap_total_high"])

  @parameterized.parameters(
      # What varies: images, seeds, and both together beside each alone.
      (1, 0, 0), (0, 0.3, 0), (1, 0.3, 0), (1, 0.3, 1), (0, 0, 1))
  @pytest.mark.slow
  def test_covers_crossed_effects(self, of_images, of_seeds, of_both):
    rng = np.random.default_rng(7)
    runs, number, n = 1000, 4, 100
    held = {"total": 0, "images": 0}
    for run in range(runs):
      values = 0.01 * (
          of_images * rng.normal(size=n) +
          of_seeds * rng.normal(size=(number, 1)) +
          of_both * rng.normal(size=(number, n)))
      row = seeds.pool(_resampled(values, seed=run), 0.95)
      held["images"] += row["gap_low"] <= 0 <= row["gap_high"]
      held["total"] += row["gap_total_low"] <= 0 <= row["gap_total_high"]
    # The bootstrap of 100 images covers 94.5 %.
    self.assertGreaterEqual(
        held["total"], error_bars.binomial_band(runs, 0.945)[0])
    if of_seeds:
      # The interval over images alone says nothing of other seeds.
      self.assertLess(
          held["images"], error_bars.binomial_band(runs, 0.945)[0])


if __name__ == "__main__":
  absltest.main()
