"""Debiased errors against simulation and plain loops."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.metrics import binning
from jaxcal.metrics import calibration
from jaxcal.metrics import debiased


def _draws(seed, shift, *, n=200, num_draws=400):
  """Test sets of a model that is right `shift` less often than it says."""
  generator = np.random.default_rng(seed)
  confidence = generator.uniform(0.4, 1, size=(num_draws, n))
  return confidence, generator.uniform(size=(num_draws, n)) < confidence - shift


class DebiasedTest(parameterized.TestCase):

  def _check(self, norm, draw):
    # Fixed confidences; the labels of the bins are noise around them.
    generator = np.random.default_rng(0)
    confidence, correct = _draws(1, 0.15, n=60, num_draws=1)
    confidence, correct = confidence[0], correct[0]
    bins = binning.bin_statistics(confidence, correct, num_bins=4)
    found = debiased.debiased_error(bins, norm=norm)
    count, conf, acc = (np.asarray(x, float) for x in bins)
    filled = count > 0
    count = count[filled]
    conf, acc = conf[filled] / count, acc[filled] / count
    np.testing.assert_allclose(
        found, draw(generator, count, conf, acc), rtol=1e-2)

  def test_absolute_gaps_by_drawing(self):

    def draw(generator, count, conf, acc):
      noisy = generator.normal(
          acc, np.sqrt(acc * (1 - acc) / count), size=(100_000, len(acc)))
      excess = np.abs(noisy - conf).mean(0) - np.abs(acc - conf)
      return np.sum(count / 60 * (np.abs(acc - conf) - excess))

    self._check("l1", draw)

  def test_squared_gaps_by_a_loop(self):

    def draw(generator, count, conf, acc):
      total = 0.
      for n, c, a in zip(count, conf, acc):
        total += n / 60 * ((c - a)**2 - a * (1 - a) / (n - 1))
      return total**0.5

    self._check("l2", draw)

  @parameterized.parameters(0.0, 0.1)
  def test_nearer_to_the_truth_than_the_plain_error(self, shift):
    confidence, correct = map(jnp.asarray, _draws(2, shift))
    plain, corrected = (
        np.asarray(jax.jit(jax.vmap(error))(confidence, correct))
        for error in (calibration.expected_calibration_error,
                      debiased.debiased_calibration_error))
    self.assertGreater(plain.mean(), shift + 0.02)
    # Of |x| for a Gaussian x, (2 - sqrt(2)) of its mean is left.
    left = (corrected.mean() - shift) / (plain.mean() - shift)
    self.assertBetween(left, *((0.5, 0.65) if shift == 0 else (-0.1, 0.6)))

  def test_the_square_is_unbiased(self):
    # Before the root: its expectation is that of infinitely many labels.
    confidence, correct = map(jnp.asarray, _draws(3, 0.3, n=300))
    found = np.asarray(jax.jit(jax.vmap(
        lambda c, a: debiased.debiased_calibration_error(
            c, a, num_bins=5, norm="l2")))(confidence, correct))
    error = np.std(found**2) / len(found)**0.5
    np.testing.assert_allclose(np.mean(found**2), 0.09, atol=4 * error)

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
