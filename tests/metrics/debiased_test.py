"""Debiased errors against simulation and plain loops."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
from scipy import stats

from jaxcal.metrics import binning
from jaxcal.metrics import calibration
from jaxcal.metrics import debiased
from tests import error_bars


def _draws(seed, shift, *, n=200, num_draws=400):
  """Test sets of a model that is right `shift` less often than it says."""
  generator = np.random.default_rng(seed)
  confidence = generator.uniform(0.4, 1, size=(num_draws, n))
  return confidence, generator.uniform(size=(num_draws, n)) < confidence - shift


class DebiasedTest(parameterized.TestCase):

  def _check(self, norm, expected):
    confidence, correct = _draws(1, 0.15, n=60, num_draws=1)
    confidence, correct = confidence[0], correct[0]
    bins = binning.bin_statistics(confidence, correct, num_bins=4)
    found = debiased.debiased_error(bins, norm=norm)
    count, conf, acc = (np.asarray(x, float) for x in bins)
    filled = count > 0
    count = count[filled]
    conf, acc = conf[filled] / count, acc[filled] / count
    np.testing.assert_allclose(found, expected(count, conf, acc), rtol=1e-4)

  def test_absolute_gaps_by_the_mean_of_a_folded_normal(self):

    def expected(count, conf, acc):
      gap = np.abs(acc - conf)
      noisy, excess = acc * (1 - acc) > 0, np.zeros_like(gap)
      deviation = np.sqrt(acc * (1 - acc) / count)[noisy]
      excess[noisy] = stats.foldnorm.mean(
          gap[noisy] / deviation, scale=deviation) - gap[noisy]
      return np.sum(count / 60 * (gap - excess))

    self._check("l1", expected)

  def test_squared_gaps_by_a_loop(self):

    def expected(count, conf, acc):
      total = 0.
      for n, c, a in zip(count, conf, acc):
        total += n / 60 * ((c - a)**2 - a * (1 - a) / (n - 1))
      return total**0.5

    self._check("l2", expected)

  @parameterized.parameters(0.0, 0.1)
  def test_nearer_to_the_truth_than_the_plain_error(self, shift):
    n = 2000 if shift == 0 else 50
    confidence, correct = _draws(2, shift, n=n)
    plain, corrected = (
        np.asarray(jax.jit(jax.vmap(error))(confidence, correct))
        for error in (calibration.expected_calibration_error,
                      debiased.debiased_calibration_error))
    if shift == 0:
      # Of |x| for a Gaussian x, (2 - sqrt(2)) of its mean is left.
      error_bars.assert_means(corrected - (2 - 2**0.5) * plain, 0)
    # Too large, and less so; nor is it farther off on the other side.
    for excess in (plain - shift, plain - corrected,
                   plain + corrected - 2 * shift):
      self.assertGreater(
          excess.mean(), error_bars.LEVEL * error_bars.of_mean(excess))

  def test_the_square_is_unbiased(self):
    # Before the root: its expectation is that of infinitely many labels.
    confidence, correct = _draws(3, 0.3, n=300)
    found = np.asarray(jax.jit(jax.vmap(
        lambda c, a: debiased.debiased_calibration_error(
            c, a, num_bins=5, norm="l2")))(confidence, correct))
    error_bars.assert_means(found**2, 0.09)

  def test_bins_of_one_and_bins_without_noise(self):
    one_each = np.array([0.15, 0.55]), np.array([False, True])
    plain = calibration.expected_calibration_error(*one_each)
    np.testing.assert_allclose(
        debiased.debiased_calibration_error(*one_each), plain, rtol=1e-6)
    self.assertEqual(
        debiased.debiased_calibration_error(*one_each, norm="l2"), 0)

  def test_order_and_merging(self):
    confidence, correct = (x[0] for x in _draws(4, 0.1, num_draws=1))
    order = np.random.default_rng(5).permutation(len(correct))
    parts = [binning.bin_statistics(confidence[part], correct[part])
             for part in (order[:70], order[70:])]
    for norm in ("l1", "l2"):
      np.testing.assert_allclose(
          debiased.debiased_error(parts[0] + parts[1], norm=norm),
          debiased.debiased_calibration_error(
              confidence, correct, norm=norm), rtol=1e-5)

  def test_refuses(self):
    with self.assertRaisesRegex(ValueError, "norm='max'.*l1, l2"):
      debiased.debiased_calibration_error([0.5], [True], norm="max")


if __name__ == "__main__":
  absltest.main()
