"""CoTS and E-CoTS against optax's Adam and loops."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import special

from jaxcal.recalibration import cots
from jaxcal.recalibration import predicted
from tests import quick
from tests.recalibration import made


@functools.partial(quick.jit, static_argnums=(2, 3))
def _adam(views, reference, num_steps, learning_rate):
  """One image, as the released program does it, but by autodiff of jax."""

  def loss(log_temperature):
    confidence = jax.nn.softmax(views / jnp.exp(log_temperature)).max(-1)
    target = jax.nn.softmax(reference).max(-1)
    return jnp.mean((confidence - target) ** 2)

  optimiser = optax.adam(learning_rate)
  log_temperature = jnp.zeros(())

  def step(_, so_far):
    log_temperature, state = so_far
    updates, state = optimiser.update(jax.grad(loss)(log_temperature), state)
    return optax.apply_updates(log_temperature, updates), state

  log_temperature, _ = jax.lax.fori_loop(
      0, num_steps, step, (log_temperature, optimiser.init(log_temperature)))
  return jnp.exp(log_temperature)


class TemperaturesTest(parameterized.TestCase):

  @parameterized.parameters((50, 0.1), (7, 0.03), (0, 0.1))
  def test_adam(self, num_steps, learning_rate):
    one = made.evidence(0, 5)
    found = cots.temperatures(
        one.view_logits, one.zero_shot_view_logits, num_steps=num_steps,
        learning_rate=learning_rate)
    with jax.enable_x64(True):
      expected = [
          float(_adam(views, reference, num_steps, learning_rate))
          for views, reference in zip(
              one.view_logits, one.zero_shot_view_logits)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)

  def test_blocks_of_images(self):
    one = made.evidence(0, 5)
    found = cots.temperatures(one.view_logits, one.zero_shot_view_logits)
    self.enter_context(absltest.mock.patch.object(cots, "_BLOCK", 30))
    np.testing.assert_allclose(
        cots.temperatures(one.view_logits, one.zero_shot_view_logits), found,
        rtol=1e-12)

  def test_a_known_temperature_is_found(self):
    """All views of an image at one: there it stops."""
    zero_shot = made.evidence(0, 50).zero_shot_view_logits
    factors = np.linspace(0.6, 2, 50)
    found = cots.temperatures(factors[:, None, None] * zero_shot, zero_shot,
                              num_steps=1000, learning_rate=0.02)
    np.testing.assert_allclose(found, factors, rtol=1e-3)
    # The published 50 steps come near.
    found = cots.temperatures(factors[:, None, None] * zero_shot, zero_shot)
    self.assertLess(np.median(np.abs(found / factors - 1)), 0.05)

  @parameterized.parameters(((4, 0, 3), (4, 0, 3)), ((4, 2, 3), (4, 1, 3)))
  def test_refuses(self, shape, other):
    with self.assertRaisesRegex(ValueError, "one random view or more, tuned"):
      cots.temperatures(np.zeros(shape), np.zeros(other))


class CalibratorsTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.target = made.evidence(0, 20)
    self.at = cots.temperatures(
        self.target.view_logits, self.target.zero_shot_view_logits)

  def test_cots(self):
    found = predicted.recalibrate(self.target, recalibrator=cots.Cots())
    np.testing.assert_allclose(
        found, self.target.logits / self.at[:, None], rtol=1e-12)
    self.assertGreater(np.ptp(self.at), 0.05)

  def _mixed(self, share):
    clean = special.softmax(self.target.logits / self.at[:, None], -1)
    views = sum(special.softmax(
        self.target.view_logits[:, s] / self.at[:, None], -1)
                for s in range(3)) / 3
    return share * clean + (1 - share) * views

  def test_e_cots(self):
    found = predicted.recalibrate(self.target, recalibrator=cots.ECots())
    np.testing.assert_allclose(
        special.softmax(found, -1), self._mixed(0.7), rtol=1e-9)

  def test_a_share_of_ones_own_needs_no_mean_cosine(self):
    target = self.target._replace(mean_cosine=None)
    found = predicted.recalibrate(
        target, recalibrator=cots.ECots(share=0.6))
    np.testing.assert_allclose(
        special.softmax(found, -1), self._mixed(0.6), rtol=1e-9, atol=1e-20)
    whole = predicted.recalibrate(target, recalibrator=cots.ECots(share=1.))
    np.testing.assert_allclose(
        special.softmax(whole, -1), self._mixed(1.), rtol=1e-9, atol=1e-20)

  def test_a_negative_mean_cosine_gives_the_views_alone(self):
    target = self.target._replace(mean_cosine=np.asarray(-0.2))
    found = predicted.recalibrate(target, recalibrator=cots.ECots())
    np.testing.assert_allclose(
        special.softmax(found, -1), self._mixed(0.), rtol=1e-9, atol=1e-20)


if __name__ == "__main__":
  absltest.main()
