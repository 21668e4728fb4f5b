"""R-TPT: the weights of the views, and what needs how many of them."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.adapt import base
from jaxcal.adapt import run
from jaxcal.adapt.prompt import reliability
from tests import shared


class WeightsTest(parameterized.TestCase):

  def test_oracle(self):
    oracle = shared.arrays("oracles/zoo/zoo_oracle.npz")
    with jax.enable_x64(True):
      views = jax.device_put(oracle["views"])
      numbers = reliability.RTpt(
          num_neighbours=5, num_steps=0, selection_fraction=0.25)
      np.testing.assert_allclose(
          jax.jit(jax.vmap(numbers.view_weights))(views),
          oracle["rtpt_weights_k5/weights"], atol=1e-9)
      task = base.Task(
          *jax.device_put((oracle["text"], np.float64(oracle["logit_scale"]))))
      # Without steps, features are enough.
      outputs = jax.jit(run.episodic)(numbers.method(), task, views)
      np.testing.assert_allclose(
          outputs.scores, oracle["rtpt_weights_k5/zeroshot_ensemble"],
          atol=1e-9)

  def test_copies_of_a_view_are_neighbours(self):
    """Which cosines of one or more cannot tell from the view itself."""
    rng = np.random.default_rng(0)
    views = rng.standard_normal((5, 8))
    views[2] = views[4]
    views /= np.linalg.norm(views, axis=1, keepdims=True)
    weights = reliability.RTpt(num_neighbours=1).view_weights(
        jnp.asarray(views, jnp.float32))
    np.testing.assert_allclose(np.asarray(weights)[[2, 4]], 0.5, atol=1e-3)

  @parameterized.parameters(20, 21)
  def test_views_are_more_than_neighbours(self, num_views):
    views = np.random.default_rng(0).standard_normal((num_views, 8))
    numbers = reliability.RTpt(num_steps=0)
    task = base.Task(np.eye(3, 8, dtype=np.float32), 10.0)
    ways = (lambda: numbers.check(task, num_views),
            lambda: numbers.view_weights(jnp.asarray(views, jnp.float32)))
    for way in ways:
      if num_views > 20:
        way()
      else:
        with self.assertRaisesRegex(
            ValueError, "num_neighbours is 20, but of 20 views each has 19"):
          way()

  def test_no_neighbours(self):
    with self.assertRaisesRegex(ValueError, "num_neighbours must be an integ"):
      reliability.RTpt(num_neighbours=0).method()


if __name__ == "__main__":
  absltest.main()
