"""The reward-weighted likelihood against plain loops."""

import math

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.losses import rewards
from tests import quick


def _data(v=5, k=7):
  rng = np.random.default_rng(0)
  return 3 * rng.standard_normal((v, k)), rng.uniform(-0.5, 1, (v, k))


def _by_hand(logits, cosines, views, number):
  total = []
  for v in views:
    top = sorted(range(len(logits[v])), key=lambda c: -logits[v][c])[:number]
    scores = [max(0.0, 2.5 * cosines[v][c]) for c in top]
    mean = sum(scores) / number
    log_sum = math.log(sum(math.exp(z) for z in logits[v]))
    total += [(score - mean) * (log_sum - logits[v][c])
              for score, c in zip(scores, top)]
  return sum(total) / len(total)


class RewardsTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.enterContext(jax.enable_x64(True))

  @parameterized.parameters(2, 3, 7)
  def test_plain_loop(self, number):
    logits, cosines = _data()
    self.assertAlmostEqual(
        float(rewards.reward_weighted_likelihood(
            jax.device_put(logits), jax.device_put(cosines),
            num_sampled=number)),
        _by_hand(logits, cosines, range(5), number), places=12)

  def test_views_left_out(self):
    logits, cosines = _data()
    where = np.array([True, False, False, True, True])
    loss = lambda logits: rewards.reward_weighted_likelihood(
        logits, jnp.asarray(cosines), where=jnp.asarray(where))
    value, gradient = quick.jit(jax.value_and_grad(loss))(logits)
    self.assertAlmostEqual(
        float(value), _by_hand(logits, cosines, (0, 3, 4), 3), places=12)
    np.testing.assert_array_equal(
        np.any(np.asarray(gradient) != 0, axis=1), where)

  def test_the_gradient_takes_rewards_and_classes_for_constants(self):
    logits, cosines = _data(v=1)
    top = np.argsort(-logits[0])[:3]
    scores = np.maximum(0, 2.5 * cosines[0, top])
    centred = scores - scores.mean()
    probs = np.exp(logits[0]) / np.exp(logits[0]).sum()
    expected = -(np.eye(7)[top] - probs[None]).T @ centred / 3
    gradient, of_cosines = quick.jit(jax.grad(
        rewards.reward_weighted_likelihood, argnums=(0, 1)))(logits, cosines)
    np.testing.assert_allclose(gradient[0], expected, atol=1e-12)
    np.testing.assert_array_equal(of_cosines, np.zeros((1, 7)))

  @parameterized.parameters(1, 8)
  def test_classes_that_cannot_be_sampled(self, number):
    with self.assertRaisesRegex(ValueError, "between 2 and .* 7, got"):
      rewards.reward_weighted_likelihood(
          *map(jnp.asarray, _data()), num_sampled=number)


if __name__ == "__main__":
  absltest.main()
