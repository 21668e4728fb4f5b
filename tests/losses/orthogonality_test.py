"""Orthogonality against explicit reflections, loops and finite differences."""

import math

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np

from jaxcal.losses import orthogonality
from tests import quick


def _unit(seed, k, d, shift=2.0):
  features = np.random.default_rng(seed).normal(size=(k, d))
  features[:, 0] += shift
  return features / np.linalg.norm(features, axis=1, keepdims=True)


def _normalise(features):
  return features / jnp.linalg.norm(features, axis=1, keepdims=True)


def _explicit_reflections(text_features):
  """The published construction: K reflectors of size [K, K]."""
  similarity = text_features @ text_features.T
  identity = jnp.eye(len(similarity))
  norms = jnp.linalg.norm(similarity, axis=1)
  normals = similarity - norms[:, None] * identity
  normals = normals / jnp.linalg.norm(normals, axis=1, keepdims=True)
  outer = normals[:, :, None] * normals[:, None, :]
  reflectors = identity[None] - 2 * outer
  reflected = jnp.einsum("kij,kj->ki", reflectors, similarity)
  return jnp.mean(jnp.linalg.norm(reflected - identity, axis=1))


def _loop_huber(x, delta):
  if abs(x) <= delta:
    return x * x / 2
  return delta * (abs(x) - delta / 2)


def _loop_pairs(features):
  k = len(features)
  return [sum(a * b for a, b in zip(features[i], features[j]))
          for i in range(k) for j in range(i + 1, k)]


def _loop_delta(features, quantile):
  pairs = sorted(_loop_pairs(features))
  scaled = [(p - pairs[0]) / (pairs[-1] - pairs[0]) for p in pairs]
  position = quantile * (len(scaled) - 1)
  low = math.floor(position)
  high = min(low + 1, len(scaled) - 1)
  return scaled[low] + (position - low) * (scaled[high] - scaled[low])


def _loop_quantile_loss(features, delta):
  pairs = _loop_pairs(features)
  low, high = min(pairs), max(pairs)
  losses = [_loop_huber((p - low) / (high - low), delta) for p in pairs]
  return sum(losses) / len(losses)


class HouseholderTest(parameterized.TestCase):

  def test_two_classes_by_hand(self):
    # Cosine 3/4: both rows of S have the norm 5/4.
    features = jnp.array([[1.0, 0.0], [0.75, math.sqrt(7) / 4]])
    np.testing.assert_allclose(
        orthogonality.householder_orthogonality(features), 0.25, rtol=1e-6)

  @parameterized.parameters((10, 16), (47, 32), (100, 64))
  def test_explicit_reflections_value_and_gradient(self, k, d):
    with jax.enable_x64(True):
      features = _unit(k, k, d)
      explicit, closed = (
          quick.jit(jax.value_and_grad(lambda x, f=f: f(_normalise(x))))(
              features)
          for f in (_explicit_reflections,
                    orthogonality.householder_orthogonality))
      np.testing.assert_allclose(closed[0], explicit[0], rtol=1e-13)
      np.testing.assert_allclose(closed[1], explicit[1], rtol=0, atol=1e-11)

  def test_orthogonal_features_are_the_zero(self):
    value, gradient = quick.jit(jax.value_and_grad(
        orthogonality.householder_orthogonality))(np.eye(6)[:4])
    self.assertEqual(value, 0)
    np.testing.assert_array_equal(gradient, np.zeros((4, 6)))

  def test_largest_for_equal_classes(self):
    features = jnp.tile(jnp.array([1.0, 0.0, 0.0]), (9, 1))
    np.testing.assert_allclose(
        orthogonality.householder_orthogonality(features), 2, rtol=1e-6)


class FullTest(absltest.TestCase):

  def test_frobenius_norm(self):
    features = _unit(0, 6, 5)
    expected = np.linalg.norm(features @ features.T - np.eye(6), "fro")**2
    with jax.enable_x64(True):
      np.testing.assert_allclose(
          orthogonality.full_orthogonality(jax.device_put(features)), expected,
          rtol=1e-12)

  def test_two_classes_by_hand(self):
    features = jnp.array([[1.0, 0.0], [0.6, 0.8]])
    np.testing.assert_allclose(
        orthogonality.full_orthogonality(features), 0.72, rtol=1e-6)


class SemanticTest(parameterized.TestCase):

  @parameterized.parameters((1.0, 0.18), (0.6, 0.18), (0.2, 0.1))
  def test_two_classes_by_hand(self, delta, expected):
    features = jnp.array([[1.0, 0.0], [0.6, 0.8]])
    value = orthogonality.semantic_orthogonality(features, delta=delta)
    np.testing.assert_allclose(value, expected, rtol=1e-6)

  @parameterized.product(delta=(0.1, 0.5, 1.0), shift=(0.0, 2.0))
  def test_plain_loop(self, delta, shift):
    features = _unit(1, 7, 4, shift)
    losses = [_loop_huber(p, delta) for p in _loop_pairs(features)]
    with jax.enable_x64(True):
      value = orthogonality.semantic_orthogonality(
          jax.device_put(features), delta=delta)
      np.testing.assert_allclose(value, sum(losses) / 21, rtol=1e-12)

  @parameterized.parameters(0.0, -0.5, 1.5, float("nan"))
  def test_delta_out_of_range_raises(self, delta):
    with self.assertRaisesRegex(ValueError, r"\(0, 1\], but delta="):
      orthogonality.semantic_orthogonality(jnp.eye(3), delta=delta)


class HuberTest(absltest.TestCase):

  def test_values_and_slopes_on_both_sides(self):
    x = jnp.array([-2.0, -0.5, -0.25, 0.0, 0.25, 0.5, 2.0])
    np.testing.assert_allclose(
        orthogonality.huber(x, 0.5),
        [0.875, 0.125, 0.03125, 0, 0.03125, 0.125, 0.875], rtol=1e-6)
    slope = quick.jit(jax.vmap(jax.grad(
        lambda one: orthogonality.huber(one, 0.5))))(x)
    np.testing.assert_allclose(
        slope, [-0.5, -0.5, -0.25, 0, 0.25, 0.5, 0.5], rtol=1e-6)

  def test_gradients_in_float64(self):
    with jax.enable_x64(True):
      x = jnp.array([-2.0, -0.3, 0.1, 0.7, 3.0])
      check_grads(
          jax.jit(lambda one: orthogonality.huber(one, 0.5)), (x,), 1,
          rtol=1e-6)


class QuantileTest(parameterized.TestCase):

  @parameterized.parameters(0.0, 0.2, 0.5, 1.0)
  def test_plain_loop(self, quantile):
    features = _unit(2, 7, 4)
    expected = _loop_quantile_loss(features, _loop_delta(features, quantile))
    with jax.enable_x64(True):
      value = orthogonality.quantile_semantic_orthogonality(
          jax.device_put(features), quantile=quantile)
      np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12)

  def test_gradient_flows_through_the_range_but_not_delta(self):
    features = _unit(3, 5, 4)
    # Only parts across the features: along them their length would change,
    # and the diagonal of S with it.
    direction = np.random.default_rng(4).normal(size=features.shape)
    direction -= features * np.sum(features * direction, 1, keepdims=True)
    delta = _loop_delta(features, 0.2)
    step = 1e-6
    expected = (
        _loop_quantile_loss(features + step * direction, delta) -
        _loop_quantile_loss(features - step * direction, delta)) / (2 * step)
    with jax.enable_x64(True):
      gradient = quick.jit(jax.grad(
          orthogonality.quantile_semantic_orthogonality))(features)
      np.testing.assert_allclose(
          np.sum(np.asarray(gradient) * direction), expected, rtol=1e-7)

  def test_two_classes_have_no_range(self):
    value, gradient = quick.jit(jax.value_and_grad(
        orthogonality.quantile_semantic_orthogonality))(
            _unit(5, 2, 4).astype(np.float32))
    self.assertEqual(value, 0)
    np.testing.assert_array_equal(gradient, np.zeros((2, 4)))

  @parameterized.parameters(-0.1, 1.1, float("nan"))
  def test_quantile_out_of_range_raises(self, quantile):
    with self.assertRaisesRegex(ValueError, r"\[0, 1\], but quantile="):
      orthogonality.quantile_semantic_orthogonality(
          jnp.eye(3), quantile=quantile)


class SweepTest(parameterized.TestCase):

  @parameterized.parameters(
      (orthogonality.semantic_orthogonality, "delta"),
      (orthogonality.quantile_semantic_orthogonality, "quantile"))
  def test_the_margin_may_be_traced(self, function, name):
    features = jax.device_put(_unit(6, 6, 4).astype(np.float32))
    margins = np.array([0.1, 0.4, 1.0], np.float32)
    swept = quick.jit(jax.vmap(lambda one: function(features, **{name: one})))(
        margins)
    loop = [function(features, **{name: float(one)}) for one in margins]
    np.testing.assert_allclose(swept, loop, rtol=1e-5)
    self.assertLess(swept[0], swept[2])


class EntropyProportionalWeightTest(absltest.TestCase):

  def test_value_and_no_gradient(self):
    weight = orthogonality.entropy_proportional_weight
    np.testing.assert_allclose(
        weight(30.0, jnp.float32(0.5), jnp.float32(0.25)), 60, rtol=1e-6)
    self.assertEqual(
        quick.jit(jax.grad(weight, argnums=(1, 2)))(30.0, 0.5, 0.25), (0, 0))

  def test_a_regulariser_of_zero_is_finite(self):
    weight = orthogonality.entropy_proportional_weight(
        30.0, jnp.float32(0.5), jnp.float32(0))
    self.assertTrue(np.isfinite(weight))


if __name__ == "__main__":
  absltest.main()
