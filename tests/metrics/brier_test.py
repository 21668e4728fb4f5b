"""Brier scores of the predicted class against scikit-learn and loops."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
from sklearn import metrics as sklearn_metrics

from jaxcal.metrics import brier
from jaxcal.metrics import calibration


def _data(seed, n):
  generator = np.random.default_rng(seed)
  confidence = generator.uniform(size=n)
  return confidence, generator.uniform(size=n) < confidence**2


class BrierTest(parameterized.TestCase):

  def test_equal_to_scikit_learn(self):
    confidence, correct = _data(0, 100)
    with jax.enable_x64(True):
      found = brier.top_label_brier_score(confidence, correct)
    np.testing.assert_allclose(
        np.asarray(found).mean(),
        sklearn_metrics.brier_score_loss(correct, confidence), rtol=1e-12)
    np.testing.assert_allclose(
        brier.top_label_brier_score([0.9, 0.4], [True, True]), [0.01, 0.36],
        rtol=1e-5)

  @parameterized.parameters(1, 10, 20)
  def test_the_terms_add_up(self, num_bins):
    confidence, correct = _data(1, 150)
    copies = np.random.default_rng(2).poisson(1.0, size=150)
    kept = np.repeat(np.arange(150), copies)
    with jax.enable_x64(True):
      terms = brier.brier_decomposition(
          confidence, correct, num_bins=num_bins, weights=copies)
      np.testing.assert_allclose(
          terms.reliability - terms.resolution + terms.uncertainty
          + terms.within,
          np.mean((confidence[kept] - correct[kept])**2), rtol=1e-12)
      np.testing.assert_allclose(
          terms.reliability, calibration.expected_calibration_error(
              confidence, correct, num_bins=num_bins, norm="l2",
              weights=copies)**2, rtol=1e-9)
    rate = correct[kept].mean()
    np.testing.assert_allclose(terms.uncertainty, rate * (1 - rate))
    # The rest is 2 cov(confidence, hit) - var(confidence) within bins, less.
    expected = 0.
    index = np.ceil(confidence[kept] * num_bins)
    for b in np.unique(index):
      c, a = confidence[kept][index == b], correct[kept][index == b]
      expected += len(c) / len(kept) * (
          c.var() - 2 * (np.mean(c * a) - c.mean() * a.mean()))
    np.testing.assert_allclose(terms.within, expected, atol=1e-12)

  def test_one_value_in_each_bin_leaves_nothing(self):
    confidence = np.repeat([0.25, 0.75], 8)
    correct = np.array([1, 0, 0, 0] * 2 + [1, 1, 1, 0] * 2, bool)
    terms = brier.brier_decomposition(confidence, correct)
    np.testing.assert_allclose(
        terms, [0, 0.0625, 0.25, 0], rtol=0, atol=1e-6)

  def test_refuses(self):
    with self.assertRaisesRegex(ValueError, r"shapes are \(2,\) and \(1,\)"):
      brier.top_label_brier_score([0.5, 0.5], [True])
    with self.assertRaisesRegex(ValueError, "must be hits.*4 is among"):
      brier.top_label_brier_score([0.5, 0.5], [4, 1])
    with self.assertRaisesRegex(ValueError, r"confidence must lie in \[0, 1\]"):
      brier.brier_decomposition([0.5, 1.5], [True, False])


if __name__ == "__main__":
  absltest.main()
