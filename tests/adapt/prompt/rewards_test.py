"""RLCF with a reward model of its own, against the gradient written out."""

from absl.testing import absltest
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
import numpy as np
import pytest

from jaxcal.adapt import base
from jaxcal.adapt.prompt import engine
from jaxcal.adapt.prompt import rewards

_K, _M, _W, _D, _V = 5, 2, 3, 6, 8


def _features(weights, context):
  hidden = jnp.tanh(jnp.einsum("kdmw,mw->kd", weights, context))
  return hidden / jnp.linalg.norm(hidden, axis=-1, keepdims=True)


def _unit(rng, *shape):
  x = rng.standard_normal(shape)
  return jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


class RewardModelTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.enterContext(jax.enable_x64(True))
    rng = np.random.default_rng(0)
    self.encode = Partial(_features, jnp.asarray(
        rng.standard_normal((_K, _D, _M, _W))))
    self.context = jnp.asarray(0.3 * rng.standard_normal((_M, _W)))
    self.prepared = engine.prepare(self.encode, self.context, 10.0)
    self.views = _unit(rng, _V, _D)
    # Of another width than what is tuned.
    self.reward = rewards.RewardModel(_unit(rng, _K, 11), _unit(rng, _V, 11))

  def _loss(self, context):
    """By plain indexing, of two views that are chosen where images start."""
    logits = 10 * self.views @ self.encode(context).T
    start = 10 * self.views @ self.prepared.text_features.T
    probs = jax.nn.softmax(start)
    kept = np.argsort(-(probs * jnp.log(probs)).sum(-1))[:2]
    total = 0
    for view in kept:
      top = np.argsort(-np.asarray(jax.lax.stop_gradient(logits[view])))[:3]
      cosines = self.reward.text_features @ self.reward.view_features[view]
      scores = np.maximum(0, 2.5 * np.asarray(cosines)[top])
      total -= ((scores - scores.mean()) *
                jax.nn.log_softmax(logits[view])[top]).sum() / 3
    return total / 2

  @pytest.mark.slow
  def test_first_step(self):
    numbers = rewards.Rlcf(num_steps=1, selection_fraction=0.25)
    adapted = rewards.adapt(
        numbers, self.encode, self.prepared, self.views, self.reward)
    gradient = jax.grad(self._loss)(self.context)
    np.testing.assert_allclose(
        adapted.context, self.context - 7e-3 * (
            np.sign(gradient) + 5e-4 * self.context), atol=1e-6)
    np.testing.assert_allclose(
        adapted.info.entropy_gradient, np.linalg.norm(gradient), rtol=1e-9)
    own = engine.adapt(
        self.encode, self.prepared, self.views, numbers.objective(),
        optimiser=numbers.optimiser, selection_fraction=0.25)
    self.assertGreater(np.abs(own.context - adapted.context).max(), 1e-3)

  def test_classes_to_sample_are_looked_at_before_the_work(self):
    task = base.Task(self.prepared.text_features, 10.0, self.encode,
                     self.context)
    rewards.Rlcf(num_sampled=5, selection_fraction=0.25).check(task, _V)
    for number in (1, 6):
      with self.assertRaisesRegex(ValueError, "between 2 and .* 5, got"):
        rewards.Rlcf(num_sampled=number, selection_fraction=0.25).check(
            task, _V)


if __name__ == "__main__":
  absltest.main()
