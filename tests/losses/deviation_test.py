"""Cosine deviation by hand."""

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.losses import deviation
from tests import quick


class CosineDeviationTest(absltest.TestCase):

  def test_by_hand(self):
    tuned = jnp.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    frozen = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, -1.0]])
    np.testing.assert_allclose(
        deviation.cosine_deviation(tuned, frozen), 1 - (1 + 0.6 - 1) / 3,
        rtol=1e-6)

  def test_zero_where_nothing_moved(self):
    np.testing.assert_allclose(
        deviation.cosine_deviation(jnp.eye(4), jnp.eye(4)), 0)

  def test_only_the_tuned_side_learns(self):
    tuned = np.eye(3, dtype=np.float32)
    frozen = tuned[::-1]
    gradients = quick.jit(jax.grad(
        deviation.cosine_deviation, argnums=(0, 1)))(tuned, frozen)
    np.testing.assert_allclose(gradients[0], -frozen / 3, rtol=1e-6)
    np.testing.assert_array_equal(gradients[1], np.zeros((3, 3)))

  def test_unequal_shapes_raise(self):
    with self.assertRaisesRegex(ValueError, r"pairs.*\(3, 3\).*\(2, 3\)"):
      deviation.cosine_deviation(jnp.eye(3), jnp.eye(3)[:2])
    with self.assertRaisesRegex(ValueError, r"\[classes, dimensions\]"):
      deviation.cosine_deviation(jnp.ones(3), jnp.ones(3))


if __name__ == "__main__":
  absltest.main()
