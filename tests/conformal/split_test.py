"""Thresholds, sets and coverage: stored, by hand and by simulation."""

import fractions
import functools
import math

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import numpy as np
import pytest
from scipy import stats

from jaxcal.conformal import coverage
from jaxcal.conformal import scores
from jaxcal.conformal import split
from tests import error_bars
from tests.conformal import oracle

_LAC = lambda probabilities, uniforms: scores.least_ambiguous(probabilities)
_PLAIN = lambda score, **numbers: lambda probabilities, uniforms: score(
    probabilities, **numbers)
# By the names of the stored files.
_METHODS = {
    "lac": _LAC, "aps": _PLAIN(scores.adaptive), "aps_u": scores.adaptive,
    "raps": _PLAIN(scores.regularised_adaptive, penalty=0.1, free_rank=2),
    "raps_u": scores.regularised_adaptive,
    "raps_strong_u": functools.partial(
        scores.regularised_adaptive, penalty=0.1, free_rank=2),
    "saps_u": scores.sorted_adaptive,
    "lac_by_class": _LAC, "aps_u_by_class": scores.adaptive}
_MEASURES = {
    "coverage": "coverage", "mean_size": "mean_size",
    "median_size": "median_size", "sscv": "stratum_gap",
    "singletons": "singletons", "singleton_hits": "singleton_hits",
    "empty": "empty", "violated_classes": "classes_below"}


def _thresholds(own, alpha):
  """Of each row, by one program."""
  return np.asarray(jax.vmap(lambda s: split.threshold(s, alpha))(own))


def _own(values, labels):
  return np.asarray(values)[np.arange(len(labels)), labels]


class StoredTest(parameterized.TestCase):
  """As torchcp, MAPIE and a restatement by numpy have it."""

  @parameterized.product(
      name=("vitb32", "rn50", "cifar100"), method=list(_METHODS))
  def test_thresholds_sets_and_measures(self, name, method):
    file = oracle.stored(f"split_{name}")
    probabilities = file["probabilities"].astype(np.float64)
    with jax.enable_x64(True):
      for i in range(int(file["num_splits"])):
        self._check_split(
            {key: file[f"{key}_{i}"] for key in ("cal", "test", "u_cal",
                                                 "u_test")} |
            {key: file[f"{key}_{method}_{i}"] for key in (
                "q", "sets", "metrics")} |
            # Stored where a score is so near its threshold.
            {"near": file.get(f"near_{method}_{i}")},
            probabilities, file["labels"].astype(int), file, method,
            # These depend on rounding.
            with_sets=(name, method) != ("cifar100", "aps"))

  def _check_split(self, one, probabilities, labels, file, method, *,
                   with_sets):
    k = probabilities.shape[1]
    score = _METHODS[method]
    # Of all images at once, so that splits share a program.
    uniforms = np.zeros(len(labels))
    for part in ("cal", "test"):
      uniforms[one[part]] = one[f"u_{part}"]
    found = np.asarray(score(probabilities, uniforms))
    own = _own(found[one["cal"]], labels[one["cal"]])
    found = found[one["test"]]
    true = labels[one["test"]]
    for j, alpha in enumerate(map(float, file["alphas"])):
      if method.endswith("by_class"):
        q = split.group_thresholds(
            own, labels[one["cal"]], alpha, num_groups=k)
      else:
        q = split.threshold(own, alpha)
      np.testing.assert_allclose(q, one["q"][j], atol=1e-6)
      sets = split.prediction_sets(found, q)
      measured = jax.device_get(coverage.measure(sets, true, alpha))
      sets = np.asarray(sets)
      names = file["metric_names"].tolist()
      expected = dict(zip(names, one["metrics"][j]))
      np.testing.assert_allclose(measured.coverage, expected["coverage"])
      if not with_sets:
        continue
      sure = np.ones(sets.shape, bool) if one["near"] is None else (
          ~oracle.unpacked(one["near"][j], k))
      self.assertGreater(sure.mean(), 0.95)
      np.testing.assert_array_equal(
          sets[sure], oracle.unpacked(one["sets"][j], k)[sure])
      if (sets == oracle.unpacked(one["sets"][j], k)).all():
        for theirs, ours in _MEASURES.items():
          np.testing.assert_allclose(
              getattr(measured, ours), expected[theirs], err_msg=theirs)
        np.testing.assert_allclose(100 * measured.class_gap, expected["ccv"])


class ThresholdTest(parameterized.TestCase):

  @parameterized.product(
      alpha=(0.01, 0.05, 0.1, 0.15, 0.2, 0.3, 1 / 3, 0.123456),
      n=(0, 1, 8, 9, 10, 19, 99, 199, 1000, 49_999))
  def test_rank_is_exact(self, alpha, n):
    expected = math.ceil((n + 1) * (1 - fractions.Fraction(str(alpha))))
    self.assertEqual(split.threshold_rank(n, alpha), expected)

  def test_few_scores(self):
    rng = np.random.default_rng(0)
    for n in (0, 1, 8):
      self.assertEqual(split.threshold(rng.uniform(size=n), 0.1), np.inf)
    nine = rng.uniform(size=9).astype(np.float32)
    self.assertEqual(split.threshold(nine, 0.1), nine.max())
    ten = np.append(nine, np.float32(2))
    self.assertEqual(split.threshold(ten, 0.1), 2)  # the 10th, not the 9th

  @parameterized.parameters(0, 5, 9, 10, 40)
  def test_where_is_as_without_the_others(self, n):
    rng = np.random.default_rng(n)
    values = rng.uniform(size=60)
    where = rng.permutation(np.arange(60) < n)
    found = split.threshold(values, 0.1, where=where)
    self.assertEqual(found, split.threshold(values[where], 0.1))
    groups = rng.integers(0, 3, 60)
    np.testing.assert_array_equal(
        split.group_thresholds(values, groups, 0.1, num_groups=3, where=where),
        [split.threshold(values[where & (groups == g)], 0.1)
         for g in range(3)])

  @pytest.mark.slow
  def test_splits_of_any_size_are_compiled_once(self):
    rng = np.random.default_rng(0)
    values = rng.uniform(size=100).astype(np.float32)
    masks = rng.uniform(size=(30, 100)) < rng.uniform(size=(30, 1))
    one = jax.jit(chex.assert_max_traces(
        lambda where: split.threshold(values, 0.1, where=where), 1))
    np.testing.assert_array_equal(
        jax.vmap(one)(masks),
        [split.threshold(values[mask], 0.1) for mask in masks])

  def test_alpha(self):
    for alpha in (0, 1, -0.1, 90, float("nan")):
      with self.assertRaisesRegex(ValueError, r"expected alpha in \(0, 1\)"):
        split.threshold(np.ones(3), alpha)
    long = 0.1234567890123
    split.threshold(np.ones(3), long)
    with self.assertRaisesRegex(ValueError, "too many digits.*to 0.123"):
      split.threshold(np.ones(3), long, where=np.ones(3, bool))


class GroupsTest(absltest.TestCase):

  def test_a_class_of_few_images_is_in_every_set(self):
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], (8, 9, 30))
    q = split.group_thresholds(
        rng.uniform(size=47), labels, 0.1, num_groups=4)
    np.testing.assert_array_equal(np.isinf(q), [True, False, False, True])
    sets = split.prediction_sets(rng.uniform(2, 3, (20, 4)), q)
    np.testing.assert_array_equal(
        sets, np.tile([True, False, False, True], (20, 1)))

  def test_one_group_is_no_group(self):
    values = np.random.default_rng(0).uniform(size=50)
    q = split.group_thresholds(values, np.zeros(50, int), 0.1, num_groups=1)
    self.assertEqual(q.item(), split.threshold(values, 0.1))

  def test_groups_of_classes(self):
    rng = np.random.default_rng(1)
    labels, values = rng.integers(0, 4, 80), rng.uniform(size=80)
    group_of_class = np.array([1, 0, 1, 0])
    q = np.asarray(split.group_thresholds(
        values, group_of_class[labels], 0.1, num_groups=2))[group_of_class]
    self.assertEqual(q[0], q[2])
    self.assertEqual(q[1], split.threshold(values[labels % 2 == 1], 0.1))


class SetsTest(absltest.TestCase):

  def test_a_score_at_the_threshold_is_inside(self):
    sets = split.prediction_sets(np.array([[1., 2., 3.]]), np.asarray(2.))
    np.testing.assert_array_equal(sets, [[True, True, False]])
    same = np.full((5, 3), 0.5)
    q = split.threshold(same[:, 0], 0.5)
    self.assertTrue(np.asarray(split.prediction_sets(same, q)).all())

  def test_nonempty(self):
    values, q = np.array([[2., 1., 3.], [0., 5., 0.]]), np.asarray(0.5)
    np.testing.assert_array_equal(
        split.prediction_sets(values, q), [[0, 0, 0], [1, 0, 1]])
    np.testing.assert_array_equal(
        split.prediction_sets(values, q, nonempty=True),
        [[0, 1, 0], [1, 0, 1]])

  @pytest.mark.slow
  def test_order_of_images_and_one_at_a_time(self):
    rng = np.random.default_rng(3)
    probabilities = rng.dirichlet(np.full(6, 0.5), 90).astype(np.float32)
    labels, uniforms = rng.integers(0, 6, 90), rng.uniform(size=90)
    order = rng.permutation(60)
    for score in (_LAC, scores.adaptive, scores.sorted_adaptive):
      own = _own(score(probabilities, uniforms), labels)[:60]
      q = split.threshold(own, 0.1)
      self.assertEqual(q, split.threshold(own[order], 0.1))
      others = probabilities[60:], uniforms[60:]
      sets = split.prediction_sets(score(*others), q)
      for i in range(30):
        one = score(others[0][i:i + 1], others[1][i:i + 1])
        np.testing.assert_array_equal(
            split.prediction_sets(one, q)[0], sets[i])


class SimulatedTest(parameterized.TestCase):
  """Calibration and one image more, drawn alike, again and again."""

  @parameterized.product(
      name=("lac", "aps", "raps", "saps"), n=(19, 42), alpha=(0.1, 0.25),
      digits=(None, 1))
  def test_coverage_is_within_its_binomial_band(self, name, n, alpha, digits):
    """With digits, probabilities are rounded: scores have many ties."""
    rng = np.random.default_rng(n)
    draws = 500
    probabilities = rng.dirichlet(np.full(5, 0.4), (draws, n + 1))
    cumulated = probabilities.cumsum(-1)
    labels = (rng.uniform(size=(draws, n + 1, 1)) > cumulated).sum(-1)
    labels = np.minimum(labels, 4)
    if digits:
      probabilities = probabilities.round(digits) + 1e-9
    uniforms = rng.uniform(size=(draws, n + 1))
    with jax.enable_x64(True):
      found = scores.SCORES[name](np.log(probabilities), uniforms)
      own = np.take_along_axis(
          np.asarray(found), labels[..., None], axis=-1)[..., 0]
      q = _thresholds(own[:, :n], alpha)
      hits = int((own[:, n] <= q).sum())
    least, most = error_bars.binomial_band(
        draws, split.threshold_rank(n, alpha) / (n + 1))
    self.assertGreaterEqual(hits, least)
    if digits is None:
      self.assertLessEqual(hits, most)

  def test_coverage_of_many_images_is_beta_binomial(self):
    rng = np.random.default_rng(0)
    n, m, draws = 19, 50, 2000
    values = rng.uniform(size=(draws, n + m))
    with jax.enable_x64(True):
      q = _thresholds(values[:, :n], 0.1)
    found = (values[:, n:] <= q[:, None]).mean(axis=1)
    law = coverage.promise(n, m, 0.1)
    error_bars.assert_means(found, law.mean)
    error_bars.assert_variances(found, law.std**2)
    exactly = stats.betabinom(m, 18, 2)
    for hits, share in (
        (found >= 0.895, law.valid),
        ((found >= law.low) & (found <= law.high),
         exactly.cdf(np.round(m * law.high)) -
         exactly.cdf(np.round(m * law.low) - 1))):
      self.assertBetween(
          hits.sum(), *error_bars.binomial_band(draws, float(share)))


if __name__ == "__main__":
  absltest.main()
