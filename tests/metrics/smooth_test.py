"""Errors without bins against plain sums, stored numbers and their order."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
import pytest
from scipy import special

from jaxcal.metrics import calibration
from jaxcal.metrics import smooth
from tests import shared

_ALL = {
    "ks": smooth.kolmogorov_smirnov_error,
    "smece": smooth.smooth_calibration_error,
    "smece_wide": functools.partial(
        smooth.smooth_calibration_error, bandwidth=0.1),
    "mmce": smooth.maximum_mean_calibration_error,
}


def _data(seed, n, power=1.0):
  generator = np.random.default_rng(seed)
  confidence = generator.uniform(size=n)
  return confidence, generator.uniform(size=n) < confidence**power


def _smooth_by_quadrature(confidence, correct, width):
  """The definition: a Gaussian and its mirror images at 0 and 1."""
  points = np.linspace(0, 1, 20_001)
  gaps = np.zeros_like(points)
  for c, a in zip(confidence, correct):
    for centre in [2 * j + side * c for j in range(-3, 4) for side in (-1, 1)]:
      gaps += (a - c) * np.exp(-((points - centre) / width)**2 / 2)
  gaps /= len(confidence) * width * np.sqrt(2 * np.pi)
  return np.trapezoid(np.abs(gaps), points)


class DefinitionTest(parameterized.TestCase):

  @parameterized.parameters(0.02, 0.1, 0.7)
  def test_a_reflected_kernel(self, width):
    confidence, correct = _data(0, 40, 2.0)
    with jax.enable_x64(True):
      found = smooth.smooth_calibration_error(
          confidence, correct, bandwidth=width)
    np.testing.assert_allclose(
        found, _smooth_by_quadrature(confidence, correct, width), rtol=1e-5)

  def test_the_width_is_the_error(self):
    confidence, correct = _data(1, 60, 2.0)
    with jax.enable_x64(True):
      found = smooth.smooth_calibration_error(confidence, correct)
      again = smooth.smooth_calibration_error(
          confidence, correct, bandwidth=found)
    np.testing.assert_allclose(again, found, rtol=1e-9)

  def test_a_narrow_kernel_leaves_all_gaps(self):
    # Then no two gaps of other confidences cancel.
    confidence, correct = np.array([0.2, 0.5, 0.8]), np.array([0, 1, 1])
    with jax.enable_x64(True):
      found = smooth.smooth_calibration_error(
          confidence, correct, bandwidth=0.002)
    np.testing.assert_allclose(found, (0.2 + 0.5 + 0.2) / 3, rtol=1e-4)

  @parameterized.parameters(0.05, 0.4, 3.0)
  def test_all_pairs(self, bandwidth):
    confidence, correct = _data(2, 50, 2.0)
    confidence[5:9] = confidence[5]
    gaps = confidence - correct
    kernel = np.exp(-np.abs(confidence[:, None] - confidence) / bandwidth)
    with jax.enable_x64(True):
      found = smooth.maximum_mean_calibration_error(
          confidence, correct, bandwidth=bandwidth)
    np.testing.assert_allclose(
        found, np.sqrt(gaps @ kernel @ gaps) / 50, rtol=1e-12)

  def test_summed_gaps(self):
    # -0.2, +0.3 and -0.1 from the left; 0.4 of them are of one confidence.
    confidence = np.array([0.8, 0.3, 0.3, 0.9])
    correct = np.array([1, 0, 0, 1])
    with jax.enable_x64(True):
      np.testing.assert_allclose(
          smooth.kolmogorov_smirnov_error(confidence, correct), 0.6 / 4)

  @parameterized.parameters("val", "test", "new")
  def test_stored_numbers(self, split):
    path = shared.path("oracles/few_shot") / "calibration_oracle.npz"
    with np.load(path) as stored, jax.enable_x64(True):
      logits = stored[f"data/{split}_logits"]
      probs = special.softmax(logits, axis=-1)
      confidence = probs.max(-1)
      correct = probs.argmax(-1) == stored[f"data/{split}_labels"]
      of = lambda name: stored[f"metrics/{split}/{name}"]
      np.testing.assert_allclose(
          smooth.kolmogorov_smirnov_error(confidence, correct), of("ks"),
          rtol=0, atol=1e-9)
      error = smooth.smooth_calibration_error(confidence, correct)
      np.testing.assert_allclose(
          error, of("smece_quadrature"), rtol=0, atol=1e-7)
      # The library sums 200 points.
      np.testing.assert_allclose(error, of("smece"), rtol=0, atol=3e-3)
      for width in (0.05, 0.1):
        np.testing.assert_allclose(
            smooth.smooth_calibration_error(
                confidence, correct, bandwidth=width),
            of(f"smece_sigma{width}_quadrature"), rtol=0, atol=1e-7)


class PropertyTest(parameterized.TestCase):

  @parameterized.named_parameters(*_ALL.items())
  def test_order_and_copies(self, function):
    confidence, correct = _data(3, 60, 2.0)
    confidence[:7] = confidence[7]
    order = np.random.default_rng(4).permutation(60)
    copies = np.random.default_rng(5).permutation([0, 0, 1, 1, 1, 3] * 10)
    with jax.enable_x64(True):
      np.testing.assert_allclose(
          function(confidence[order], correct[order]),
          function(confidence, correct), rtol=1e-9)
      np.testing.assert_allclose(
          function(confidence, correct, weights=copies),
          function(np.repeat(confidence, copies), np.repeat(correct, copies)),
          rtol=1e-9)

  @parameterized.named_parameters(*_ALL.items())
  def test_jit_vmap_and_single_precision(self, function):
    data = [_data(seed, 60, 2.0) for seed in range(3)]
    confidence = np.asarray([c for c, _ in data], np.float32)
    correct = np.asarray([a for _, a in data])
    with jax.numpy_dtype_promotion("strict"):
      batched = jax.jit(jax.vmap(function))(confidence, correct)
    self.assertEqual(batched.dtype, np.float32)
    with jax.enable_x64(True):
      np.testing.assert_allclose(
          batched, [function(c.astype(np.float32).astype(float), a)
                    for c, a in data], rtol=1e-4)

  @pytest.mark.slow
  def test_a_calibrated_model_has_little(self):
    confidence, correct = _data(6, 20_000)
    for name, function in _ALL.items():
      with self.subTest(name):
        self.assertLess(function(confidence, correct), 0.02)
        self.assertGreater(function(confidence, confidence > 0.5), 0.05)

  def test_what_bounds_what(self):
    for seed, power in ((7, 0.4), (8, 1.0), (9, 3.0)):
      confidence, correct = _data(seed, 300, power)
      with jax.enable_x64(True):
        gap = abs(calibration.confidence_gap(confidence, correct))
        self.assertGreaterEqual(
            smooth.kolmogorov_smirnov_error(confidence, correct), gap - 1e-12)
        wide, narrow = (smooth.smooth_calibration_error(
            confidence, correct, bandwidth=width) for width in (0.3, 0.03))
        self.assertLessEqual(wide, narrow + 1e-12)
        self.assertGreaterEqual(wide, gap - 1e-9)

  def test_refuses(self):
    good, hits = np.array([0.2, 0.9]), np.array([True, False])
    for function in _ALL.values():
      with self.assertRaisesRegex(ValueError, r"confidence must lie in \[0, 1"):
        function(np.array([0.2, 90]), hits)
    with self.assertRaisesRegex(ValueError, "bandwidth must be at least 0.002"):
      smooth.smooth_calibration_error(good, hits, bandwidth=0.0)
    with self.assertRaisesRegex(ValueError, "bandwidth must be positive"):
      smooth.maximum_mean_calibration_error(good, hits, bandwidth=0.0)


if __name__ == "__main__":
  absltest.main()
