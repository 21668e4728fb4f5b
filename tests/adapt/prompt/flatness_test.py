"""Pre-training against the plain tower and a loop over AdamW's formulas."""

import dataclasses

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcal.adapt.prompt import engine
from jaxcal.adapt.prompt import flatness
from jaxcal.clip import prefix
from jaxcal.clip import prompts
from jaxcal.clip import towers
from tests import error_bars
from tests import quick
from tests.clip import tiny

_IDS = [[28, 3, 4, 9, 29, 0, 0], [28, 3, 4, 5, 6, 10, 29],
        [28, 3, 4, 7, 8, 29, 0]]
_ENDS = [4, 6, 5]
_K, _M = 3, 2
_RECIPE = flatness.Recipe(num_steps=4, num_draws=3)

# Compiled once for all tests.
_advance = quick.jit(flatness.advance, static_argnames="num_steps")
_pretrain = quick.jit(flatness.pretrain)
_call = quick.jit(lambda encode, context: encode(context))


@quick.jit
def _gradients(encode, context, shift, noise, weight):
  """Of the total, where the target depends on the context and must not count.
  """

  def total(context, noise):
    return flatness.losses(
        encode, context, encode(context - shift), noise, weight).total

  return jax.grad(total, (0, 1))(context, noise)


def _bank(positions=(1, 2)):
  return prompts.from_token_ids(_IDS, positions, _ENDS)


def _setting(dtype=jnp.float64, **options):
  """Parameters, an encoder, the template's context and its features."""
  params = jax.tree.map(lambda x: jnp.asarray(x, dtype), tiny.params())
  encode = prefix.context_encoder(
      tiny.CONFIG, params, _bank(), max_groups=1, **options)
  context = prompts.initial_context(params, _bank())
  return params, encode, context, _call(encode, context)


def _plain_features(params, context, noise):
  """The plain tower on token vectors with noise [t w]."""
  embeddings = towers.token_embeddings(params, jnp.asarray(_IDS))
  embeddings = embeddings.at[:, 1:1 + _M].set(context[None])
  return towers.text_features(
      tiny.CONFIG, params, embeddings + noise[None, :embeddings.shape[1]],
      jnp.asarray(_ENDS))


@quick.jit
def _plain_pulled(params, context, cotangent, noise):
  """The features, and a gradient by them as one by the context."""
  features, pull_back = jax.vjp(
      lambda context: _plain_features(params, context, noise), context)
  return features, pull_back(cotangent)[0]


def _reference(params, context, target, noise, weight):
  """Losses and the gradient, the features t^r being numbers."""
  silent = jnp.zeros_like(noise[0])
  pulled = lambda *given: map(
      np.asarray, _plain_pulled(params, context, *given))
  target = np.asarray(target)
  clean, _ = pulled(target, silent)
  noisy = [next(pulled(target, one)) for one in noise]
  alignment, cosine = 0, 0
  cotangent = np.zeros_like(clean)
  for k in range(_K):
    alignment += ((clean[k] - target[k])**2).sum() / _K
    cotangent[k] += 2 * (clean[k] - target[k]) / _K
    for moved in noisy:
      cosine += (clean[k] * moved[k]).sum() / _K / len(noisy)
      cotangent[k] -= weight * moved[k] / _K / len(noisy)
  _, gradient = pulled(cotangent, silent)
  return (alignment - weight * cosine, alignment, -cosine), gradient


class FlatnessTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.enterContext(jax.enable_x64(True))

  @pytest.mark.slow
  def test_steps_against_formulas(self):
    params, encode, _, target = _setting()
    key = jax.random.key(7)
    start = flatness.random_context(jax.random.key(1), (_M, 16))
    state = flatness.begin(start, _RECIPE)
    context = np.asarray(start)
    first, second = np.zeros_like(context), np.zeros_like(context)
    for step in range(4):
      if step % 2 == 0:
        state, losses = _advance(
            encode, target, key, state, _RECIPE, num_steps=2)
      noise = flatness.draw_noise(
          jax.random.fold_in(key, step), encode, _RECIPE)
      parts, gradient = _reference(
          params, jnp.asarray(context), target, noise, 1 + 15 / _K)
      np.testing.assert_allclose(
          [part[step % 2] for part in losses], parts, rtol=1e-7)
      rate = 1e-4 + (1e-2 - 1e-4) * (1 + np.cos(np.pi * step / 4)) / 2
      first = 0.9 * first + 0.1 * gradient
      second = 0.999 * second + 0.001 * gradient**2
      size = np.sqrt(second / (1 - 0.999**(step + 1))) + 1e-8
      context = (1 - rate * 1e-2) * context - (
          rate * first / (1 - 0.9**(step + 1)) / size)
    np.testing.assert_allclose(state.context, context, rtol=1e-7)
    self.assertEqual(state.step, 4)

  @pytest.mark.slow
  def test_noisy_features_and_target_carry_no_gradient(self):
    params, encode, template, target = _setting()
    context = template + 0.1
    noise = flatness.draw_noise(jax.random.key(0), encode, _RECIPE)
    _, expected = _reference(params, context, target, noise, 2.0)
    for size in (None, 1):
      encode = dataclasses.replace(encode, classes_per_chunk=size)
      by_context, by_noise = _gradients(encode, context, 0.1, noise, 2.0)
      np.testing.assert_allclose(by_context, expected, atol=1e-10)
      np.testing.assert_array_equal(by_noise, 0)

  def test_the_template_is_where_alignment_alone_stays(self):
    _, encode, template, _ = _setting()
    noise = flatness.draw_noise(jax.random.key(0), encode, _RECIPE)
    aligned, flat = (
        np.abs(_gradients(encode, template, 0.0, noise, weight)[0]).max()
        for weight in (0.0, 1.0))
    self.assertLess(aligned, 1e-13)
    self.assertGreater(flat, 1e-3)

  def test_noise_by_position(self):
    _, encode, _, _ = _setting()
    recipe = dataclasses.replace(_RECIPE, num_draws=2000)
    noise = np.asarray(
        flatness.draw_noise(jax.random.key(3), encode, recipe))
    self.assertEqual(noise.shape, (2000, 8, 16))
    expected = np.full(8, 0.02**0.5)
    expected[1:3] = 0.005**0.5
    for position, deviation in enumerate(expected):
      error_bars.assert_normal(noise[:, position], deviation)
    # No two positions, nor two draws, share their noise.
    flat = noise[:, :, 0] / expected[None]
    error_bars.assert_means(flat[:, :, None] * flat[:, None], np.eye(8))
    error_bars.assert_means(flat[:-1] * flat[1:], 0)

  def test_random_context(self):
    context = flatness.random_context(jax.random.key(0), (40, 500))
    error_bars.assert_normal(context, 0.02**0.5)
    np.testing.assert_allclose(
        flatness.random_context(jax.random.key(0), (40, 500), std=1.0),
        context / 0.02**0.5, rtol=1e-12)

  @pytest.mark.slow
  def test_losses_go_down(self):
    _, encode, _, target = _setting()
    recipe = dataclasses.replace(_RECIPE, final_learning_rate=1e-2)
    # Far away: this tower tells nearer contexts hardly apart.
    start = flatness.random_context(jax.random.key(3), (_M, 16), std=3.0)
    state, parts = flatness.begin(start, recipe), []
    for _ in range(80):
      state, losses = _advance(
          encode, target, jax.random.key(0), state, recipe, num_steps=2)
      parts.append([part.mean() for part in losses])
    before, after = np.mean(parts[:10], axis=0), np.mean(parts[-10:], axis=0)
    self.assertLess(after[0], before[0] - 3e-3)
    self.assertLess(after[1], before[1] / 2)

  def test_learning_rate_falls_along_a_cosine(self):
    # A constant gradient makes AdamW move by the learning rate.
    recipe = flatness.Recipe(weight_decay=0.0)
    one = jnp.ones(())
    state = recipe.optimiser.init(one)
    rates = []
    update = jax.jit(recipe.optimiser.update)
    for _ in range(1001):
      step, state = update(one, state, one)
      rates.append(-float(step))
    np.testing.assert_allclose(rates[0], 1e-2, rtol=1e-6)
    np.testing.assert_allclose(rates[500], (1e-2 + 1e-4) / 2, rtol=1e-6)
    np.testing.assert_allclose(rates[1000], 1e-4, rtol=1e-6)

  @pytest.mark.slow
  def test_two_parts_are_one_go(self):
    _, encode, template, target = _setting()
    key = jax.random.key(5)
    whole, losses = _pretrain(encode, template, target, key, _RECIPE)
    state, parts = flatness.begin(template, _RECIPE), []
    for _ in range(2):
      state, part = _advance(
          encode, target, key, state, _RECIPE, num_steps=2)
      parts.append(part.total)
    np.testing.assert_allclose(state.context, whole, rtol=1e-12)
    np.testing.assert_allclose(
        jnp.concatenate(parts), losses.total, rtol=1e-12)
    _, others = _pretrain(
        encode, template, target, jax.random.key(6), _RECIPE)
    self.assertFalse(np.allclose(others.total, losses.total, rtol=1e-6))

  @pytest.mark.slow
  def test_methods_start_from_the_new_context(self):
    _, encode, template, target = _setting()
    context, _ = _pretrain(
        encode, template, target, jax.random.key(0), _RECIPE)

    @quick.jit
    def zero_shot(encode, context, views):
      prepared = engine.prepare(encode, context, 10.0)
      return engine.adapt(
          encode, prepared, views, engine.Objective(num_steps=0),
          optimiser=optax.identity(), selection_fraction=0.5)

    adapted = zero_shot(encode, context, target[:2])
    np.testing.assert_array_equal(adapted.context, context)
    np.testing.assert_allclose(
        adapted.logits, 10 * target[0] @ _call(encode, context).T, rtol=1e-9)

  @pytest.mark.slow
  def test_another_place_of_the_context_is_refused(self):
    params, encode, template, target = _setting()
    banks = [_bank((2, 3)), _bank((1, 3))]
    for other in (
        *(prefix.context_encoder(tiny.CONFIG, params, bank) for bank in banks),
        prompts.context_encoder(tiny.CONFIG, params, _bank())):
      with self.assertRaisesRegex(ValueError, "class_position='end'"):
        flatness.pretrain(other, template, target, jax.random.key(0), _RECIPE)

  def test_another_target_is_refused(self):
    _, encode, template, target = _setting()
    with self.assertRaisesRegex(ValueError, r"shape \(3, 5\) expected"):
      flatness.pretrain(
          encode, template, target[:2], jax.random.key(0), _RECIPE)


if __name__ == "__main__":
  absltest.main()
