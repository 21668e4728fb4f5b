"""Nearest angles by hand and by a plain loop."""

import math

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
import pytest

from jaxcal.losses import angular
from tests import quick


def _on_circle(*degrees):
  radians = np.deg2rad(degrees)
  return np.stack([np.cos(radians), np.sin(radians)], 1).astype(np.float32)


class NearestAngleTest(parameterized.TestCase):

  def test_angles_on_a_circle(self):
    # Nearest neighbours at 30, 30 and 60 degrees.
    np.testing.assert_allclose(
        angular.nearest_angle(jax.device_put(_on_circle(0, 30, 90))),
        math.radians(40), rtol=1e-6)

  @pytest.mark.slow
  def test_plain_loop(self):
    features = np.random.default_rng(0).normal(size=(9, 4))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    nearest = [
        min(math.acos(float(a @ b)) for j, b in enumerate(features) if j != i)
        for i, a in enumerate(features)]
    with jax.enable_x64(True):
      np.testing.assert_allclose(
          angular.nearest_angle(jax.device_put(features)), sum(nearest) / 9,
          rtol=1e-12)

  @parameterized.parameters(
      (_on_circle(45, 45), 0.99999), (_on_circle(0, 180), -0.99999))
  def test_clipped_without_gradient(self, features, cosine):
    value, gradient = quick.jit(jax.value_and_grad(angular.nearest_angle))(
        features)
    np.testing.assert_allclose(value, math.acos(cosine), rtol=1e-3)
    np.testing.assert_array_equal(gradient, np.zeros((2, 2)))

  def test_a_class_feels_only_its_nearest(self):
    features = _on_circle(0, 20, 100)
    gradient = quick.jit(jax.grad(angular.nearest_angle))(features)
    # Its own row and that of the class at 20 degrees, away from that class.
    expected = -2 / 3 / math.sin(math.radians(20)) * features[1]
    np.testing.assert_allclose(gradient[0], expected, rtol=1e-5)


if __name__ == "__main__":
  absltest.main()
