"""Tip-Adapter, against plain loops in numpy."""

import math

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcal.tuning import method as method_lib
from jaxcal.tuning import tip_adapter

_SCALE = 20.0


def _unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


class TipAdapterTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.enterContext(jax.enable_x64(True))
    rng = np.random.default_rng(0)
    self.raw = rng.normal(size=(3, 10, 6)) * rng.uniform(.5, 2, (3, 10, 1))
    self.labels = rng.permutation(np.arange(10) % 4)
    self.text = _unit(rng.normal(size=(4, 6)))
    self.images = _unit(rng.normal(size=(30, 6)))
    self.targets = rng.integers(4, size=30)
    self.cache = tip_adapter.make_cache(jnp.asarray(self.raw), self.labels, 4)
    self.prompts = self._prompts(self.text)
    self.batch = method_lib.Batch(
        method_lib.Images(jnp.asarray(self.images)), jnp.asarray(self.targets))

  def _prompts(self, text):
    text = jnp.asarray(text)
    return method_lib.Prompts(None, text[::-1], text, text)

  def _method(self, **grid):
    return tip_adapter.method(self.cache, logit_scale=_SCALE, **grid)

  def _loop(self, keys, image, alpha, beta):
    """Logits of one image, key after key."""
    logits = [_SCALE * float(image @ text) for text in self.text]
    for key, label in zip(keys, self.labels):
      logits[label] += alpha * math.exp(-beta * (1 - float(image @ key)))
    return logits

  def test_cache(self):
    keys = [_unit(sum(self.raw[view][i] for view in range(3)) / 3)
            for i in range(10)]
    np.testing.assert_allclose(self.cache.keys, keys, rtol=1e-12)
    np.testing.assert_array_equal(
        self.cache.values, np.eye(4)[self.labels])

  def test_logits_without_training(self):
    method = self._method(alpha=1.7, beta=5.5)
    params = method.init(jax.random.key(0), self.prompts)
    np.testing.assert_allclose(
        method.logits(params, self.prompts, self.batch.images),
        [self._loop(self.cache.keys, image, 1.7, 5.5)
         for image in self.images], rtol=1e-12)

  @pytest.mark.slow
  def test_training_moves_the_keys_as_adamw_does(self):
    method = self._method(alpha=2.0, beta=3.0)
    params = method.init(jax.random.key(0), self.prompts)
    optimiser = tip_adapter.optimiser(3)
    state = optimiser.init(params)
    keys = np.asarray(self.cache.keys)
    first, second = np.zeros_like(keys), np.zeros_like(keys)
    for step in range(3):
      gradient = jax.grad(
          lambda p: method.loss(p, self.prompts, self.batch)[0])(params)
      updates, state = optimiser.update(gradient, state, params)
      params = optax.apply_updates(params, updates)
      # By hand: the loss's slope key by key, then AdamW as PyTorch has it.
      slope = np.zeros_like(keys)
      for image, target in zip(self.images, self.targets):
        logits = np.array(self._loop(keys, image, 2.0, 3.0))
        error = np.exp(logits - logits.max())
        error = error / error.sum() - np.eye(4)[target]
        for i, label in enumerate(self.labels):
          slope[i] += (error[label] * 2 * 3 * image / len(self.images) *
                       math.exp(-3 * (1 - float(image @ keys[i]))))
      np.testing.assert_allclose(gradient["keys"], slope, atol=1e-12)
      rate = 1e-3 * (1 + math.cos(math.pi * step / 3)) / 2
      first = .9 * first + .1 * slope
      second = .999 * second + .001 * slope ** 2
      keys = keys * (1 - rate * .01) - rate * (
          first / (1 - .9 ** (step + 1)) /
          (np.sqrt(second / (1 - .999 ** (step + 1))) + 1e-4))
      np.testing.assert_allclose(params["keys"], keys, atol=1e-12)

  def test_search(self):
    alphas, betas = [0.5, 4.0, 9.0, 30.0], [1.0, 3.0, 8.0]
    method = self._method()
    params = {"keys": self.cache.keys + .1}
    found = tip_adapter.search(
        params, self.cache, self.prompts, *self.batch[:2],
        logit_scale=_SCALE, alphas=alphas, betas=betas)
    best = (0, None)
    for beta in betas:
      for alpha in alphas:
        right = [
            np.argmax(self._loop(params["keys"], image, alpha, beta)) == target
            for image, target in zip(self.images, self.targets)]
        if np.mean(right) > best[0]:
          best = (np.mean(right), (alpha, beta))
    self.assertEqual((float(found.alpha), float(found.beta)), best[1])
    self.assertAlmostEqual(float(found.accuracy), best[0])
    # What was found is what the method then does.
    method = self._method(alpha=found.alpha, beta=found.beta)
    logits = method.logits(params, self.prompts, self.batch.images)
    self.assertAlmostEqual(
        float(found.accuracy), np.mean(logits.argmax(-1) == self.targets))

  def test_the_first_of_equals(self):
    images = method_lib.Images(jnp.asarray(self.text))
    found = tip_adapter.search(
        {"keys": self.cache.keys}, self.cache, self.prompts, images,
        jnp.arange(4), logit_scale=1000.0)
    self.assertEqual(found, (tip_adapter.ALPHAS[0], tip_adapter.BETAS[0], 1))

  def test_published_grid(self):
    np.testing.assert_allclose(tip_adapter.ALPHAS[:2], [0.1, 0.245])
    np.testing.assert_allclose(tip_adapter.BETAS[-1], 7 - 6.9 / 200)

  def test_some_of_its_classes_but_no_others(self):
    rows = np.array([3, 0])
    whole = self._method()
    params = whole.init(jax.random.key(0), self.prompts)
    some = tip_adapter.method(
        tip_adapter.take_classes(self.cache, rows), logit_scale=_SCALE)
    np.testing.assert_allclose(
        some.logits(params, self._prompts(self.text[rows]), self.batch.images),
        whole.logits(params, self.prompts, self.batch.images)[:, rows],
        rtol=1e-12)
    new = self._prompts(self.text[:3])
    with self.assertRaisesRegex(ValueError, "the 4 classes .* 3 names"):
      whole.logits(params, new, self.batch.images)
    with self.assertRaisesRegex(ValueError, "the 4 classes .* 3 names"):
      tip_adapter.search(
          params, self.cache, new, *self.batch[:2], logit_scale=_SCALE)

  def test_caches_that_are_refused(self):
    with self.assertRaisesRegex(ValueError, r"in \[0, 3\) .* 0 to 3"):
      tip_adapter.make_cache(jnp.asarray(self.raw), self.labels, 3)
    with self.assertRaisesRegex(ValueError, "one label per image"):
      tip_adapter.make_cache(jnp.asarray(self.raw[0]), self.labels, 4)


if __name__ == "__main__":
  absltest.main()
