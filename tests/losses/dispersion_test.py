"""Dispersion by hand and by a plain loop."""

import math

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.losses import dispersion
from tests import quick


class TextDispersionTest(absltest.TestCase):

  def test_two_orthogonal_classes(self):
    # Each lies half a diagonal of the unit square from the centroid.
    np.testing.assert_allclose(
        dispersion.text_dispersion(jnp.eye(2)), math.sqrt(0.5), rtol=1e-6)

  def test_features_that_sum_to_zero(self):
    features = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    np.testing.assert_allclose(
        dispersion.text_dispersion(features), 1, rtol=1e-6)

  def test_plain_loop(self):
    features = np.random.default_rng(0).normal(size=(7, 4))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    centroid = [sum(column) / 7 for column in features.T]
    expected = sum(math.dist(row, centroid) for row in features) / 7
    with jax.enable_x64(True):
      np.testing.assert_allclose(
          dispersion.text_dispersion(jax.device_put(features)), expected,
          rtol=1e-12)

  def test_a_class_on_the_centroid_is_not_pulled(self):
    features = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    gradient = quick.jit(jax.grad(dispersion.text_dispersion))(features)
    np.testing.assert_allclose(
        gradient, [[1 / 3, 0], [-1 / 3, 0], [0, 0]], atol=1e-7)


if __name__ == "__main__":
  absltest.main()
