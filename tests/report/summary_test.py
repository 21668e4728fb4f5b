"""Rows of numbers against recorded ones and against plain loops."""


from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest
from sklearn import metrics

from jaxcal.report import resampled
from jaxcal.report import scores
from jaxcal.report import summary
from tests.report import drawn


def _compare(ours, theirs):
  ours, theirs = (resampled.of(one, drawn.QUICK) for one in (ours, theirs))
  return resampled.difference_row(ours, theirs, drawn.QUICK.level)


class SummaryTest(parameterized.TestCase):

  def test_against_loops(self):
    given = drawn.random()
    row = summary.summarise(given, drawn.QUICK)
    for name, value in drawn.by_loops(given).items():
      self.assertAlmostEqual(row[name], value, places=10, msg=name)
    self.assertAlmostEqual(
        row["confidence_gap"], row["confidence"] - row["accuracy"])
    self.assertEqual(row["num_images"], 300)
    self.assertEqual(row["median_context_shift"], 149.5)
    for name in scores.SCORES:
      self.assertLess(row[f"{name}_low"], row[name])
      self.assertGreater(row[f"{name}_high"], row[name])

  @pytest.mark.slow
  def test_intervals_stay_within_the_range_of_the_metric(self):
    sure = drawn.predictions(np.eye(4)[[0, 1, 2, 3]] * 50, [0, 1, 2, 3])
    row = summary.summarise(sure, drawn.QUICK)
    # All resamples are right, too; of the binomial distribution more is left.
    self.assertAlmostEqual(row["accuracy_low"], 0.025**(1 / 4), 9)
    self.assertEqual(row["accuracy_high"], 1)
    none = summary.summarise(
        drawn.predictions(np.eye(9) * 50, (np.arange(9) + 1) % 9), drawn.QUICK)
    self.assertEqual((none["accuracy"], none["accuracy_low"]), (0, 0))
    self.assertAlmostEqual(none["accuracy_high"], 1 - 0.025**(1 / 9), 9)
    few = drawn.predictions(
        np.random.default_rng(0).normal(size=(4, 3)), [0, 1, 2, 0])
    row = summary.summarise(few, summary.Conventions(num_resamples=200))
    for name, largest in scores.SCORES.items():
      self.assertGreaterEqual(row[f"{name}_low"], 0)
      self.assertLessEqual(row[f"{name}_high"], largest)

  @pytest.mark.slow
  def test_spread_is_that_of_the_seeds(self):
    seeds = [drawn.random(seed) for seed in range(3)]
    row = summary.spread(iter(seeds), drawn.QUICK)
    for name in ("accuracy", "ece", "nll", "brier"):
      values = [drawn.by_loops(one)[name] for one in seeds]
      for key, value in ((name, np.mean(values)), (f"{name}_low", min(values)),
                         (f"{name}_high", max(values))):
        self.assertAlmostEqual(row[key], value, places=10, msg=key)

  @pytest.mark.slow
  def test_floor_of_a_calibrated_model_is_near_its_error(self):
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(4000, 3)) * 1.5
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    labels = (rng.random((4000, 1)) > probs.cumsum(-1)).sum(-1)
    row = summary.summarise(drawn.predictions(logits, labels), drawn.QUICK)
    self.assertLess(abs(row["ece"] - row["ece_floor"]), 0.01)
    self.assertGreater(row["ece_floor"], 0.005)

  def test_paired_differences(self):
    ours, theirs = drawn.random(0), drawn.random(0)
    same = _compare(ours, theirs)
    self.assertEqual(
        {value for name, value in same.items() if not name.endswith("_p")},
        {0.0})
    self.assertEqual(
        {value for name, value in same.items() if name.endswith("_p")}, {1.0})
    sharper = ours._replace(logits=ours.logits * 3)
    row = _compare(sharper, ours)
    difference = (drawn.by_loops(sharper)["ece"] - drawn.by_loops(ours)["ece"])
    self.assertAlmostEqual(row["ece_difference"], difference, places=10)
    self.assertEqual(row["accuracy_difference"], 0)
    self.assertGreater(row["nll_difference_low"], 0)

  def test_paired_differences_need_the_same_images(self):
    ours = drawn.random()
    with self.assertRaisesRegex(ValueError, "same images in the same order"):
      _compare(ours, ours._replace(ids=ours.ids[::-1]))

  @pytest.mark.slow
  def test_estimates_are_those_with_intervals(self):
    given, conventions = drawn.random(), summary.Conventions(
        num_bins=7, edges="left", num_resamples=2)
    row = summary.summarise(given, conventions)
    found = summary.estimate(given, conventions)
    self.assertEqual(set(found), set(scores.SCORES))
    for name, value in found.items():
      self.assertAlmostEqual(row[name], value, places=12, msg=name)

  def test_risk_over_coverage_and_clamped_likelihood(self):
    given = drawn.random(n=80)
    given.logits[3] = [0, 0, 90, 0, 0]
    given.labels[3] = 0  # surely wrong
    logits = given.logits.astype(float)
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    wrong = probs.argmax(-1) != given.labels
    order = np.argsort(-probs.max(-1), kind="stable")
    risks = [wrong[order[:kept]].mean() for kept in range(1, 81)]
    own = probs[np.arange(80), given.labels]
    row = summary.summarise(given, drawn.QUICK)
    self.assertAlmostEqual(row["aurc"], np.mean(risks), places=10)
    self.assertAlmostEqual(
        row["nll_clamped"],
        -np.log(np.clip(own, 2.0**-23, 1 - 2.0**-23)).mean(), places=10)
    self.assertLess(row["nll_clamped"], row["nll"] - 0.5)

  @parameterized.parameters((40, 25), (1, 3))
  @pytest.mark.slow
  def test_detection_out_of_distribution(self, num_inside, num_outside):
    rng = np.random.default_rng(0)
    # Few values, so that some are equal.
    kinds = {name: rng.integers(0, 6, num_inside + num_outside).astype(
        np.float32) for name in ("variance", "epistemic")}
    inside, outside = (
        drawn.random(seed, n)._replace(info={
            name: values[rows] for name, values in kinds.items()})
        for seed, n, rows in ((0, num_inside, slice(num_inside)),
                              (1, num_outside, slice(num_inside, None))))
    row = summary.detect(
        inside, outside, summary.Conventions(num_resamples=200))
    logits = np.concatenate([inside.logits, outside.logits]).astype(float)
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    is_outside = np.arange(len(logits)) >= num_inside
    for name, values in (kinds | {"confidence": -probs.max(-1)}).items():
      area = row[f"auroc_{name}"]
      self.assertAlmostEqual(
          area, metrics.roc_auc_score(is_outside, values), places=10)
      # Also where resamples have images of one kind only.
      low, high = row[f"auroc_{name}_low"], row[f"auroc_{name}_high"]
      self.assertBetween(low, 0, area)
      self.assertBetween(high, area, 1)
      self.assertLess(low, high)
    self.assertNotIn("auroc_image_variance", row)
    unlabelled = (one._replace(labels=None) for one in (inside, outside))
    self.assertEqual(summary.detect(*unlabelled, summary.Conventions(
        num_resamples=200)), row)

  def test_detection_needs_the_same_classes(self):
    known = drawn.random()
    with self.assertRaisesRegex(ValueError, "same classes, but got 5 and 5"):
      summary.detect(
          known, known._replace(class_names=tuple("abcde")), drawn.QUICK)

  def test_detection_by_numbers_only(self):
    broken = drawn.random(n=4)._replace(
        info={"variance": np.float32([1, 2, np.nan, 3])})
    with self.assertRaisesRegex(ValueError, "'variance' is not finite"):
      summary.detect(broken, broken, drawn.QUICK)

  def test_bins_add_up(self):
    bins = summary.bins_of(
        *summary.confidence_and_hits(drawn.random()),
        summary.Conventions(num_bins=7))
    self.assertEqual(bins.count.sum(), 300)
    self.assertLen(bins.count, 7)

  def test_a_method_twice_is_refused(self):
    row = {"data": "digits", "method": "tpt"}
    with self.assertRaisesRegex(ValueError, "two rows for method 'tpt'"):
      summary.by_data([row, row])
    groups = summary.by_data([row, row | {"method": "soc"},
                              row | {"posterior": "full"},
                              row | {"data": "shapes"}])
    self.assertEqual(list(groups), ["digits", "shapes"])


if __name__ == "__main__":
  absltest.main()
