"""The bootstrap against theory, scipy and its own promises."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxcal.metrics import calibration
from jaxcal.metrics import statistics
from tests import error_bars


def _mean_of(values):
  return lambda weights: statistics.weighted_mean(jnp.asarray(values), weights)


def _rejected(level, n):
  """How often a mean of n normal numbers is beyond its bootstrap's level.

  The spread of resamples is that of the numbers, divided by n, not n - 1.
  """
  return 2 * stats.t.sf(
      stats.norm.isf(level / 2) * (1 - 1 / n)**0.5, n - 1)


class WeightedMeanTest(absltest.TestCase):

  def test_by_hand(self):
    values = np.array([1.0, 2.0, np.nan])
    np.testing.assert_allclose(
        statistics.weighted_mean(values, np.array([1, 3, 0])), 1.75)
    np.testing.assert_allclose(
        statistics.weighted_mean(np.array([True, False, True, True])), 0.75)

  def test_no_weight_at_all_is_nan(self):
    self.assertTrue(np.isnan(
        statistics.weighted_mean(np.ones(2), np.zeros(2))))

  def test_wrong_weights_raise(self):
    with self.assertRaisesRegex(ValueError, r"shape \(2,\).*\(3,\)"):
      statistics.weighted_mean(np.ones(2), np.ones(3))
    with self.assertRaisesRegex(ValueError, "not negative"):
      statistics.weighted_mean(np.ones(2), np.array([1.0, -1.0]))


class ResampleTest(absltest.TestCase):

  def test_counts_are_multinomial(self):
    n, num_samples = 12, 4000
    counts = np.asarray(jax.vmap(
        lambda key: statistics.resample_weights(key, n))(
            jax.random.split(jax.random.key(0), num_samples)))
    np.testing.assert_array_equal(counts.sum(axis=1), n)
    np.testing.assert_array_equal(counts, np.round(counts))
    # Each count is binomial(n, 1 / n): mean 1, variance 1 - 1 / n.
    # Any two covary by -1 / n.
    error_bars.assert_means(counts, 1)
    error_bars.assert_means(
        (counts[:, :, None] - 1) * (counts[:, None] - 1), np.eye(n) - 1 / n)

  def test_samples_do_not_depend_on_the_batch(self):
    values = np.random.default_rng(0).normal(size=30)
    draws = [
        statistics.bootstrap_samples(
            _mean_of(values), 30, key=jax.random.key(1), num_samples=23,
            batch_size=size)
        for size in (1, 5, 1000)]
    for other in draws[1:]:
      np.testing.assert_allclose(other, draws[0], rtol=1e-6)

  def test_same_key_gives_paired_differences(self):
    generator = np.random.default_rng(1)
    first = generator.normal(size=40)
    second = first + 0.1 * generator.normal(size=40)

    def draw(values):
      return statistics.bootstrap_samples(
          _mean_of(values), 40, key=jax.random.key(2), num_samples=50)

    np.testing.assert_allclose(
        draw(first) - draw(second), draw(first - second), atol=1e-6)


class IntervalTest(parameterized.TestCase):

  @parameterized.parameters(0.8, 0.95)
  def test_scipy_for_an_unbiased_statistic(self, level):
    values = np.random.default_rng(2).gamma(2.0, size=80)
    ours = statistics.bootstrap_interval(
        _mean_of(values), 80, key=jax.random.key(3), num_samples=20_000,
        level=level)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, confidence_level=level,
        method="percentile", rng=np.random.default_rng(4)).confidence_interval
    # Both are of draws; the law of a mean of 80 is nearly normal.
    error = 2**0.5 * error_bars.of_quantile(
        20_000, (1 - level) / 2, values.std() / 80**0.5)
    np.testing.assert_allclose(ours.estimate, values.mean(), rtol=1e-6)
    np.testing.assert_allclose(
        [ours.low, ours.high], [theirs.low, theirs.high],
        atol=error_bars.LEVEL * error)

  @pytest.mark.slow
  def test_covers_the_mean_as_often_as_it_says(self):
    runs, n, resamples = 800, 60, 200
    values = np.random.default_rng(5).normal(size=(runs, n))
    run = jax.jit(jax.vmap(lambda x, key: statistics.bootstrap_interval(
        lambda weights: statistics.weighted_mean(x, weights), n, key=key,
        num_samples=resamples, level=0.9)))
    intervals = run(
        jnp.asarray(values, jnp.float32),
        jax.random.split(jax.random.key(6), runs))
    covered = np.sum((intervals.low < 0) & (intervals.high > 0))
    # A resample is outside a little more often than one time in ten.
    outside = 2 * (1 + 0.05 * (resamples - 1)) / (resamples + 1)
    self.assertBetween(covered, *error_bars.binomial_band(
        runs, 1 - _rejected(outside, n)))

  @pytest.mark.slow
  def test_contains_its_estimate_where_percentiles_miss_it(self):
    # As often right as it says, in every bin: no resample is.
    confidence = np.repeat([0.25, 0.5, 0.75], 120)
    correct = np.arange(360) % 4 < 4 * confidence

    def ece(weights):
      return calibration.expected_calibration_error(
          confidence, correct, weights=weights)

    interval = statistics.bootstrap_interval(
        ece, 360, key=jax.random.key(8), num_samples=500)
    percentile = np.quantile(
        statistics.bootstrap_samples(
            ece, 360, key=jax.random.key(8), num_samples=500), 0.025)
    self.assertGreater(percentile, interval.estimate)
    self.assertLess(interval.low, interval.estimate)
    self.assertGreater(interval.high, interval.estimate)
    np.testing.assert_allclose(interval.estimate, 0, atol=1e-6)

  def test_arrays_of_statistics_under_jit(self):
    values = jnp.asarray(
        np.random.default_rng(9).normal(size=(3, 50)), jnp.float32)

    @jax.jit
    def run(key):
      return statistics.bootstrap_interval(
          lambda weights: jnp.matmul(values, weights) / 50, 50, key=key,
          num_samples=50)

    interval = run(jax.random.key(10))
    self.assertEqual(interval.low.shape, (3,))
    one = statistics.bootstrap_interval(
        _mean_of(values[1]), 50, key=jax.random.key(10), num_samples=50)
    np.testing.assert_allclose(
        [part[1] for part in interval], one, rtol=1e-4, atol=1e-6)

  def test_errors(self):
    for level in (0, 1, 95, float("nan")):
      with self.assertRaisesRegex(ValueError, r"\(0, 1\), but level="):
        statistics.bootstrap_interval(
            _mean_of(np.ones(3)), 3, key=jax.random.key(0), level=level)
    with self.assertRaisesRegex(ValueError, "num_samples=1"):
      statistics.bootstrap_interval(
          _mean_of(np.ones(3)), 3, key=jax.random.key(0), num_samples=1)
    with self.assertRaisesRegex(ValueError, "num_examples=0"):
      statistics.bootstrap_samples(
          _mean_of(np.ones(3)), 0, key=jax.random.key(0))


class GroupsTest(absltest.TestCase):

  def test_each_group_keeps_its_size(self):
    run = lambda **options: statistics.bootstrap_samples(
        lambda weights: weights, 10, key=jax.random.key(3), num_samples=200,
        **options)
    counts = np.asarray(run(groups=(3, 7)))
    np.testing.assert_array_equal(counts[:, :3].sum(1), np.full(200, 3))
    np.testing.assert_array_equal(counts[:, 3:].sum(1), np.full(200, 7))
    for start, size in ((0, 3), (3, 7)):
      off = counts[:, start:start + size] - 1
      error_bars.assert_means(
          off[:, :, None] * off[:, None], np.eye(size) - 1 / size)
    # Without groups their sizes vary.
    error_bars.assert_variances(
        np.asarray(run())[:, :3].sum(1), 10 * 0.3 * 0.7)
    for wrong in ((3, 6), (0, 10)):
      with self.assertRaisesRegex(ValueError, "must sum to num_examples=10"):
        run(groups=wrong)


class ProportionTest(parameterized.TestCase):

  @parameterized.product(
      counts=((0, 9), (9, 9), (3, 9), (1, 1), (765, 1000)),
      method=("exact", "wilson"), level=(0.9, 0.95))
  def test_equal_to_scipy(self, counts, method, level):
    expected = stats.binomtest(*counts).proportion_ci(level, method)
    with jax.enable_x64(True):
      found = statistics.proportion_interval(
          *counts, level=level, method=method)
    np.testing.assert_allclose(
        found, (counts[0] / counts[1], expected.low, expected.high),
        rtol=1e-9, atol=1e-11)

  def test_none_of_nine_may_be_a_third(self):
    found = statistics.proportion_interval(0, 9)
    self.assertEqual(found.low, 0)
    np.testing.assert_allclose(found.high, 1 - 0.025**(1 / 9), rtol=1e-5)

  def test_traced(self):
    found = jax.jit(jax.vmap(
        lambda hits: statistics.proportion_interval(hits, 9)))(
            np.array([0., 3., 9.]))
    for index, hits in enumerate((0, 3, 9)):
      np.testing.assert_allclose(
          [part[index] for part in found],
          statistics.proportion_interval(hits, 9), rtol=1e-5, atol=1e-7)

  def test_refuses(self):
    for hits, total in ((-1, 9), (10, 9), (0, 0)):
      with self.assertRaisesRegex(ValueError, "must lie between 0 and"):
        statistics.proportion_interval(hits, total)
    with self.assertRaisesRegex(ValueError, "'wald'.*exact, wilson"):
      statistics.proportion_interval(1, 9, method="wald")
    with self.assertRaisesRegex(ValueError, "level must lie in"):
      statistics.proportion_interval(1, 9, level=95)


class SeedsTest(parameterized.TestCase):

  @parameterized.product(number=(2, 3, 10, 200), level=(0.5, 0.95, 0.999))
  def test_a_mean_is_that_of_scipy(self, number, level):
    values = np.random.default_rng(number).normal(3, 2, size=number)
    with jax.enable_x64(True):
      found = statistics.mean_interval(values, level=level)
    expected = stats.t.interval(
        level, number - 1, values.mean(), stats.sem(values))
    np.testing.assert_allclose(
        found, (values.mean(), *expected), rtol=1e-5, atol=1e-6)

  def test_a_mean_of_equal_values_is_a_point(self):
    np.testing.assert_allclose(
        statistics.mean_interval([0.25, 0.25, 0.25]), 3 * [0.25])

  def test_a_mean_refuses(self):
    with self.assertRaisesRegex(ValueError, "two values, but got 1"):
      statistics.mean_interval([1.0])
    with self.assertRaisesRegex(ValueError, "level must lie in"):
      statistics.mean_interval([1.0, 2.0], level=95)

  def test_distances_are_added_in_squares_end_by_end(self):
    ends = lambda *values: statistics.Interval(*map(np.asarray, values))
    found = statistics.combined_interval(
        np.array([1., 2.]), [ends([1., 2.], [-2., 2.], [1., 3.]),
                              ends([1., 2.], [-3., 1.], [6., 2.])])
    np.testing.assert_allclose(found.low, [1 - 5, 2 - 1])
    np.testing.assert_allclose(found.high, [1 + 5, 2 + 1])
    np.testing.assert_allclose(found.estimate, [1, 2])


class TestsOfDifferencesTest(parameterized.TestCase):

  @pytest.mark.slow
  def test_holm_by_hand(self):
    # 4 x 0.005, then 3 x 0.01, then 2 x 0.03, then at least that.
    np.testing.assert_allclose(
        statistics.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02],
        rtol=1e-6)
    np.testing.assert_allclose(statistics.holm([0.7, 0.6]), [1, 1])
    for wrong in ([], [1.5]):
      with self.assertRaises(ValueError):
        statistics.holm(wrong)

  def test_zero_at_the_end_of_the_interval(self):
    samples = np.asarray(np.random.default_rng(11).normal(size=3999))
    for level in (0.8, 0.95):
      around = statistics.recentred_interval(
          np.zeros(()), samples, level=level)
      for end in (around.low, around.high):
        for shift in (0, 5):
          np.testing.assert_allclose(
              statistics.difference_p_value(-end, samples + shift), 1 - level,
              atol=1e-3)

  def test_a_difference_by_a_single_example_is_none(self):
    # A third of the resamples lack it; the mean of the others may lie on
    # either side of the estimate.
    samples = np.asarray(np.random.default_rng(0).poisson(1, size=999) / 250.)
    for estimate in (0.9, 1, 1.1):
      self.assertGreater(statistics.difference_p_value(
          np.asarray(estimate / 250), samples), 0.5)

  @parameterized.parameters((0, 0), (1, 0), (0, 5), (4, 4), (3, 9), (40, 80))
  def test_paired_hits_are_those_of_a_binomial_test(self, ours, theirs):
    expected = (stats.binomtest(ours, ours + theirs).pvalue
                if ours + theirs else 1)
    with jax.enable_x64(True):
      np.testing.assert_allclose(
          statistics.paired_hits_p_value(ours, theirs), expected, rtol=1e-9)

  def test_never_zero_and_one_without_a_difference(self):
    samples = np.asarray(np.random.default_rng(12).normal(size=99))
    np.testing.assert_allclose(
        statistics.difference_p_value(np.asarray(50.), samples), 0.02,
        rtol=1e-6)
    self.assertEqual(
        statistics.difference_p_value(np.zeros(()), np.zeros(99)), 1)

  @pytest.mark.slow
  def test_uniform_where_there_is_no_difference(self):
    generator = np.random.default_rng(13)
    runs, n, resamples = 1000, 40, 200
    values = jnp.asarray(generator.normal(size=(runs, n)), jnp.float32)

    def p_value(values, key):
      samples = statistics.bootstrap_samples(
          _mean_of(values), n, key=key, num_samples=resamples)
      return statistics.difference_p_value(jnp.mean(values), samples)

    found = np.asarray(jax.jit(jax.vmap(p_value))(
        values, jax.random.split(jax.random.key(14), runs)))
    for level in (0.05, 0.2):
      # Values are 2 / 201 apart.
      possible = 2 * np.floor(level * (resamples + 1) / 2) / (resamples + 1)
      self.assertBetween(
          np.sum(found <= level),
          *error_bars.binomial_band(runs, _rejected(possible, n)))


if __name__ == "__main__":
  absltest.main()
