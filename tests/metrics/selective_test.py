"""Selective metrics against scikit-learn, scipy and loops over all orders."""

import functools
import itertools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
from scipy import special
from scipy import stats
from sklearn import metrics as sklearn_metrics

from jaxcal.metrics import selective
from jaxcal.metrics import statistics
from tests import shared

_OF_LOSSES = {
    "risk_coverage_area": selective.risk_coverage_area,
    "excess_risk_coverage_area": selective.excess_risk_coverage_area,
    "risk_at_coverage": functools.partial(
        selective.risk_at_coverage, coverage=0.37),
    "trapezoid": selective.risk_coverage_trapezoid,
    "generalised": selective.generalised_risk_coverage_area,
    "coverage_at_risk": functools.partial(
        selective.coverage_at_risk, risk=0.25),
}
_OF_GROUPS = {
    "roc_area": selective.roc_area,
    "average_precision": selective.average_precision,
    "false_positive_rate": functools.partial(
        selective.false_positive_rate, recall=0.8),
}
_ALL = {
    name: lambda values, scores, weights=None, f=f: f(
        values, scores, weights=weights) for name, f in _OF_LOSSES.items()
} | {
    name: lambda values, scores, weights=None, f=f: f(
        scores, values, weights=weights) for name, f in _OF_GROUPS.items()
}


def _data(seed, n, levels=None):
  """Groups, and scores that tell them apart a little; ties if levels."""
  generator = np.random.default_rng(seed)
  positive = generator.random(n) < 0.4
  positive[:2] = True, False
  scores = generator.normal(positive, 1.5)
  if levels:
    scores = np.round(scores * levels / 4) / 8
  return positive, scores


def _loop_area(losses):
  return np.mean([np.mean(losses[:k + 1]) for k in range(len(losses))])


def _loop_trapezoid(losses):
  risks = [np.mean(losses[:k + 1]) for k in range(len(losses))]
  return np.trapezoid(risks) / (len(losses) - 1)


def _loop_generalised(losses):
  lost = np.concatenate([[0.], np.cumsum(losses)]) / len(losses)
  return np.trapezoid(lost) / len(losses)


def _loop_risk(losses, coverage):
  left, total = coverage * len(losses), 0.
  for loss in losses:
    total += min(left, 1) * loss
    left = max(left - 1, 0)
  return total / (coverage * len(losses))


def _over_orders(losses, scores, metric):
  """Mean of a metric over all orders of descending score."""
  values = []
  for order in itertools.permutations(range(len(losses))):
    ordered = np.asarray(scores)[list(order)]
    if np.all(ordered[:-1] >= ordered[1:]):
      values.append(metric(np.asarray(losses, float)[list(order)]))
  return np.mean(values)


class HandCaseTest(absltest.TestCase):

  def test_four_examples(self):
    # In order of score: right, wrong, right, wrong.
    losses, scores = np.array([0., 1, 0, 1]), np.array([9., 7, 5, 3])
    area = (0 + 1 / 2 + 1 / 3 + 1 / 2) / 4
    np.testing.assert_allclose(
        selective.risk_coverage_area(losses, scores), area, rtol=1e-6)
    for coverage, risk in ((0.25, 0), (0.5, 0.5), (0.75, 1 / 3), (1, 0.5),
                           (0.375, 1 / 3)):
      np.testing.assert_allclose(
          selective.risk_at_coverage(losses, scores, coverage), risk,
          rtol=1e-6)
    np.testing.assert_allclose(
        selective.risk_coverage_trapezoid(losses, scores),
        (0 + 1 / 2) / 6 + (1 / 2 + 1 / 3) / 6 + (1 / 3 + 1 / 2) / 6, rtol=1e-6)
    # Lost among those kept: 0, 0, 1/4, 1/4, 1/2.
    np.testing.assert_allclose(
        selective.generalised_risk_coverage_area(losses, scores),
        (0 + 1 / 8 + 1 / 4 + 3 / 8) / 4, rtol=1e-6)
    for risk, coverage in ((0, 0.25), (0.3, 0.25), (0.4, 0.75), (0.5, 1)):
      np.testing.assert_allclose(
          selective.coverage_at_risk(losses, scores, risk), coverage)
    self.assertEqual(selective.coverage_at_risk(losses, -scores, 0.1), 0)
    # Of the four pairs of wrong and right, three have the wrong one lower.
    wrong = losses == 1
    np.testing.assert_allclose(
        selective.roc_area(-scores, wrong), 3 / 4, rtol=1e-6)
    np.testing.assert_allclose(
        selective.average_precision(-scores, wrong), (1 + 2 / 3) / 2,
        rtol=1e-6)
    self.assertEqual(
        float(selective.false_positive_rate(-scores, wrong)), 0.5)
    self.assertEqual(
        float(selective.false_positive_rate(-scores, wrong, recall=0.5)), 0.)

  def test_perfect_useless_and_inverse_scores(self):
    positive = np.arange(10) < 4
    for scores, area, rate in ((positive, 1, 0), (np.ones(10), 1 / 2, 1),
                               (~positive, 0, 1)):
      self.assertAlmostEqual(float(selective.roc_area(scores, positive)), area)
      self.assertAlmostEqual(
          float(selective.false_positive_rate(scores, positive)), rate)
    self.assertAlmostEqual(
        float(selective.average_precision(positive, positive)), 1)
    self.assertAlmostEqual(
        float(selective.average_precision(np.ones(10), positive)), .4, 6)
    self.assertAlmostEqual(
        float(selective.risk_coverage_area(positive, np.ones(10))), .4, 6)


class OracleTest(parameterized.TestCase):

  @parameterized.parameters(0, 1, 2, 3)
  def test_ties_are_the_mean_over_all_orders(self, seed):
    generator = np.random.default_rng(seed)
    losses = generator.random(7)
    scores = generator.integers(3, size=7) / 2
    with jax.enable_x64(True):
      np.testing.assert_allclose(
          selective.risk_coverage_area(losses, scores),
          _over_orders(losses, scores, _loop_area), rtol=1e-9)
      np.testing.assert_allclose(
          selective.risk_coverage_trapezoid(losses, scores),
          _over_orders(losses, scores, _loop_trapezoid), rtol=1e-9)
      np.testing.assert_allclose(
          selective.generalised_risk_coverage_area(losses, scores),
          _over_orders(losses, scores, _loop_generalised), rtol=1e-9)
      for coverage in (0.1, 0.5, 0.83, 1):
        np.testing.assert_allclose(
            selective.risk_at_coverage(losses, scores, coverage),
            _over_orders(
                losses, scores, lambda x: _loop_risk(x, coverage)),
            rtol=1e-9)

  @parameterized.parameters(None, 3, 8)
  def test_equal_to_scikit_learn_and_scipy(self, levels):
    positive, scores = _data(5, 300, levels)
    with jax.enable_x64(True):
      area = selective.roc_area(scores, positive)
      precision = selective.average_precision(scores, positive)
      rates = [selective.false_positive_rate(scores, positive, recall=recall)
               for recall in (0.3, 0.8, 0.95, 1)]
    u = stats.mannwhitneyu(scores[positive], scores[~positive]).statistic
    np.testing.assert_allclose(
        area, u / positive.sum() / (~positive).sum(), rtol=1e-12)
    np.testing.assert_allclose(
        area, sklearn_metrics.roc_auc_score(positive, scores), rtol=1e-12)
    np.testing.assert_allclose(
        precision, sklearn_metrics.average_precision_score(positive, scores),
        rtol=1e-12)
    false, true, _ = sklearn_metrics.roc_curve(
        positive, scores, drop_intermediate=False)
    for recall, rate in zip((0.3, 0.8, 0.95, 1), rates):
      np.testing.assert_allclose(
          rate, false[np.argmax(true >= recall - 1e-12)], rtol=1e-12)

  @parameterized.parameters(np.float32, np.float64)
  def test_as_many_examples_as_a_test_set_has(self, dtype):
    # In float32 the terms are differences of nearly equal numbers.
    generator = np.random.default_rng(7)
    scores = np.unique(generator.random(50_000).astype(np.float32))
    generator.shuffle(scores)
    losses = generator.random(len(scores)) > scores
    ordered = losses[np.argsort(-scores)].astype(float)
    ranks = np.arange(1, len(ordered) + 1)
    with jax.enable_x64(dtype == np.float64):
      area = selective.risk_coverage_area(losses, scores.astype(dtype))
      roc = selective.roc_area(scores.astype(dtype), losses)
      self.assertEqual(area.dtype, dtype)
    tolerance = 1e-6 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(
        area, np.mean(np.cumsum(ordered) / ranks), rtol=2 * tolerance)
    np.testing.assert_allclose(
        roc, sklearn_metrics.roc_auc_score(losses, scores),
        rtol=2 * tolerance)

  @parameterized.parameters("test", "new")
  def test_stored_areas(self, part):
    path = shared.path("oracles/few_shot") / "calibration_oracle.npz"
    with np.load(path) as stored, jax.enable_x64(True):
      logits = np.asarray(stored[f"data/{part}_logits"], float)
      wrong = logits.argmax(-1) != stored[f"data/{part}_labels"]
      confidence = special.softmax(logits, axis=-1).max(-1)
      for metric, name in ((selective.risk_coverage_area, "aurc"),
                           (selective.risk_coverage_trapezoid,
                            "aurc_trapezoid"),
                           (selective.excess_risk_coverage_area, "eaurc")):
        np.testing.assert_allclose(
            metric(wrong, confidence), stored[f"metrics/{part}/{name}"],
            rtol=1e-9)

  @parameterized.parameters(None, 3)
  def test_generalised_area_and_the_roc_area(self, levels):
    wrong, scores = _data(8, 200, levels)
    with jax.enable_x64(True):
      found = selective.generalised_risk_coverage_area(wrong, scores)
      area = float(selective.roc_area(scores, ~wrong))
    right = 1 - wrong.mean()
    np.testing.assert_allclose(
        found, right * (1 - right) * (1 - area) + (1 - right)**2 / 2,
        rtol=1e-12)

  @parameterized.parameters(None, 3)
  def test_coverage_at_the_risk_of_a_threshold(self, levels):
    wrong, scores = _data(9, 100, levels)
    for risk in (0.05, 0.3, wrong.mean()):
      kept = [np.mean(scores >= threshold) for threshold in scores
              if wrong[scores >= threshold].mean() <= risk + 1e-12]
      np.testing.assert_allclose(
          selective.coverage_at_risk(wrong, scores, risk),
          max(kept, default=0), rtol=1e-6)

  def test_a_whole_share_of_the_positives_is_enough(self):
    # 19 of 20 is 95 %, whatever 0.95 * 20 rounds to.
    for count in (20, 140):
      scores = np.arange(2 * count)[::-1]
      positive = scores % 2 == 1  # In turn, beginning with a positive one.
      rate = selective.false_positive_rate(scores, positive)
      needed = count * 19 // 20
      np.testing.assert_allclose(rate, (needed - 1) / count, rtol=1e-6)


class WeightsTest(parameterized.TestCase):

  @parameterized.product(name=list(_ALL), levels=[None, 4])
  def test_integer_weights_repeat_the_examples(self, name, levels):
    positive, scores = _data(1, 40, levels)
    # As many as before: other shapes would be compiled anew.
    counts = np.random.default_rng(2).multinomial(38, np.ones(38) / 38)
    counts = np.concatenate([[1, 1], counts])
    self.assertContainsSubset((0, 1, 2), counts)
    spoiled = np.where(counts > 0, scores, np.nan)  # Must not matter.
    with jax.enable_x64(True):
      weighted = _ALL[name](positive, spoiled, weights=counts)
      repeated = _ALL[name](
          np.repeat(positive, counts), np.repeat(scores, counts))
      self.assertTrue(np.isfinite(weighted))
      np.testing.assert_allclose(weighted, repeated, rtol=1e-9)

  @parameterized.named_parameters(*_ALL.items())
  def test_jit_vmap_and_bootstrap(self, metric):
    positive, scores = _data(3, 40, 6)
    weights = np.random.default_rng(0).integers(1, 4, size=(3, 40))
    weights = weights.astype(np.float32)
    mapped = jax.jit(jax.vmap(lambda w: metric(positive, scores, w)))(weights)
    np.testing.assert_allclose(
        mapped, [metric(positive, scores, w) for w in weights], rtol=1e-5)
    interval = statistics.bootstrap_interval(
        lambda w: metric(positive, scores, w), 40, key=jax.random.key(1),
        num_samples=20)
    self.assertLess(interval.low, interval.high)
    np.testing.assert_allclose(
        interval.estimate, metric(positive, scores), rtol=1e-5)

  @parameterized.named_parameters(*_ALL.items())
  def test_only_the_order_of_scores_matters(self, metric):
    positive, scores = _data(4, 40, 6)
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_allclose(
        metric(positive[order], np.exp(scores[order])),
        metric(positive, scores), rtol=1e-5)
    scores[0] = np.inf
    self.assertTrue(np.isfinite(metric(positive, scores)))


class EdgeTest(parameterized.TestCase):

  def test_empty_groups_are_nan(self):
    scores = np.arange(3.)
    for name, function in _OF_GROUPS.items():
      self.assertTrue(
          np.isnan(function(scores, np.zeros(3, bool))), name)
      if name != "average_precision":
        self.assertTrue(
            np.isnan(function(scores, np.ones(3, bool))), name)

  @parameterized.named_parameters(*_ALL.items())
  def test_refuses(self, metric):
    with self.assertRaisesRegex(ValueError, r"shapes are \(3,\) and \(2,\)"):
      metric(np.ones(3), np.ones(2))
    with self.assertRaisesRegex(ValueError, "one value per example"):
      metric(np.ones(0), np.ones(0))
    with self.assertRaisesRegex(ValueError, "1 of 2 scores are NaN"):
      metric(np.array([True, False]), np.array([np.nan, 1.]))
    with self.assertRaisesRegex(ValueError, "weights must be finite"):
      metric(np.ones(2), np.ones(2), weights=np.array([1., -1]))

  @parameterized.parameters(0., 1.1, -0.2)
  def test_refuses_shares(self, share):
    ones = np.ones(2)
    with self.assertRaisesRegex(ValueError, "coverage must lie in"):
      selective.risk_at_coverage(ones, ones, share)
    with self.assertRaisesRegex(ValueError, "recall must lie in"):
      selective.false_positive_rate(ones, ones, recall=share)

  def test_a_curve(self):
    losses, scores = _data(6, 40)
    coverages = np.arange(1, 41) / 40
    curve = jax.jit(jax.vmap(lambda coverage: selective.risk_at_coverage(
        losses, scores, coverage)))(coverages)
    np.testing.assert_allclose(
        np.mean(curve), selective.risk_coverage_area(losses, scores),
        rtol=1e-5)


if __name__ == "__main__":
  absltest.main()
