"""Properties that tuning must have, on a small smooth text encoder."""

import dataclasses
import functools
from typing import NamedTuple

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcal.adapt import methods
from jaxcal.adapt.prompt import engine
from jaxcal.adapt.prompt import methods as prompt_methods
from jaxcal.losses import angular
from jaxcal.losses import dispersion
from jaxcal.losses import orthogonality
from tests import quick

_K, _M, _W, _D, _V = 6, 2, 5, 7, 20
_TUNED = ("tpt", "c_tpt", "soc", "soc_quantile", "o_tpt", "a_tpt")


def _features(weights, context):
  hidden = jnp.tanh(jnp.einsum("kdmw,mw->kd", weights, context))
  return hidden / jnp.linalg.norm(hidden, axis=-1, keepdims=True)


# One program each for all tests, which have the same shapes.
_encoded = quick.jit(lambda encode, context: encode(context))
_prepare = quick.jit(engine.prepare, static_argnames="linearisation")
_begin = quick.jit(engine.begin, static_argnums=2)
_entropy_at = quick.jit(engine.entropy_at)
_penalty = quick.jit(engine.penalty)
_combine = quick.jit(engine.combine, static_argnums=3)
_pulled_back = quick.jit(lambda prepared, cotangent: prepared.pull_back(
    cotangent))


def _setting(seed=0, dtype=np.float64, k=_K):
  """An encoder, what is prepared for it, and the views of three images."""
  rng = np.random.default_rng(seed)
  normal = lambda *shape: rng.standard_normal(shape).astype(dtype)
  encode = jax.tree_util.Partial(
      _features, jax.device_put(normal(k, _D, _M, _W)))
  context = (0.3 * normal(_M, _W)).astype(dtype)
  prepared = _prepare(encode, context, np.asarray(10, dtype))
  views = normal(3, _V, _D)
  views /= np.linalg.norm(views, axis=-1, keepdims=True)
  return encode, prepared, views


def _objective(name, **numbers):
  return methods.method(name, **numbers).objective()


def _optimiser(learning_rate=5e-3):
  return prompt_methods.Tpt(learning_rate=learning_rate).optimiser


def _adapt_eager(method, encode, prepared, views, learning_rate=5e-3,
                 selection_fraction=0.25):
  adapt = functools.partial(
      engine.adapt, optimiser=_optimiser(learning_rate),
      selection_fraction=selection_fraction)
  if views.ndim == 3:
    adapt = jax.vmap(adapt, in_axes=(None, None, 0, None))
  return adapt(encode, prepared, views, method)


# Where every bit counts, the program must be the one that users run.
_adapt_compiled = jax.jit(_adapt_eager, static_argnums=4)
_adapt_quick = quick.jit(_adapt_eager, static_argnums=5)


def _adapt(method, encode, prepared, views, learning_rate=5e-3,
           selection_fraction=0.25):
  return _adapt_quick(
      method, encode, prepared, views, learning_rate, selection_fraction)


class EngineTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.enterContext(jax.enable_x64(True))

  @parameterized.parameters(
      ("tpt", False), ("c_tpt", True), ("soc_quantile", True))
  def test_zero_learning_rate_is_zero_shot_bit_for_bit(self, name, batched):
    encode, prepared, views = _setting(dtype=np.float32)
    views = views if batched else views[1]
    zero_shot = _adapt_compiled(
        _objective("zero_shot"), encode, prepared, views)
    still = _adapt_compiled(
        _objective(name), encode, prepared, views, 0.0)
    np.testing.assert_array_equal(still.logits, zero_shot.logits)
    np.testing.assert_array_equal(still.info.context_shift, 0)

  @parameterized.parameters("c_tpt", "soc_quantile")
  def test_zero_steps_are_zero_shot_bit_for_bit(self, name):
    encode, prepared, views = _setting(dtype=np.float32)
    method = dataclasses.replace(_objective(name), num_steps=0)
    zero_shot = _adapt_compiled(
        _objective("zero_shot"), encode, prepared, views)
    np.testing.assert_array_equal(
        _adapt_compiled(method, encode, prepared, views).logits,
        zero_shot.logits)

  def test_zero_shot_is_the_scaled_cosine(self):
    encode, prepared, views = _setting()
    expected = [[10 * sum(v * t for v, t in zip(image[0], text))
                 for text in np.asarray(prepared.text_features)]
                for image in np.asarray(views)]
    got = _adapt(_objective("zero_shot"), encode, prepared, views)
    np.testing.assert_allclose(got.logits, expected, rtol=1e-12)

  @parameterized.parameters(("c_tpt", 1), ("soc", 2))
  @pytest.mark.slow
  def test_weight_zero_is_tpt_bit_for_bit(self, name, num_steps):
    encode, prepared, views = _setting(dtype=np.float32)
    several = lambda m: dataclasses.replace(m, num_steps=num_steps)
    tpt = _adapt_compiled(several(_objective("tpt")), encode, prepared, views)
    zero = _adapt_compiled(
        several(_objective(name, weight=0.0)), encode, prepared, views)
    np.testing.assert_array_equal(zero.context, tpt.context)
    np.testing.assert_array_equal(zero.logits, tpt.logits)

  @parameterized.parameters(*_TUNED)
  def test_first_step_moves_every_coordinate_by_the_learning_rate(self, name):
    encode, prepared, views = _setting()
    adapted = _adapt(_objective(name), encode, prepared, views)
    decayed = np.asarray(prepared.context) * (1 - 5e-3 * 1e-2)
    # Exact up to the 1e-8 that AdamW adds to the size of a gradient.
    np.testing.assert_allclose(
        np.abs(np.asarray(adapted.context) - decayed), 5e-3, rtol=1e-3)

  @parameterized.parameters(*_TUNED)
  def test_order_of_random_views_does_not_matter(self, name):
    encode, prepared, views = _setting()
    method = _objective(name)
    order = np.r_[0, 1 + np.random.default_rng(0).permutation(_V - 1)]
    np.testing.assert_allclose(
        _adapt(method, encode, prepared, views[:, order]).logits,
        _adapt(method, encode, prepared, views).logits, rtol=1e-9)

  @parameterized.parameters(*_TUNED)
  def test_order_of_classes_orders_the_predictions(self, name):
    encode, prepared, views = _setting()
    order = np.random.default_rng(1).permutation(_K)
    permuted = jax.tree_util.Partial(
        _features, np.asarray(encode.args[0])[order])
    prepared_too = _prepare(permuted, prepared.context, np.asarray(10.0))
    method = _objective(name)
    np.testing.assert_allclose(
        _adapt(method, permuted, prepared_too, views).logits,
        np.asarray(_adapt(
            method, encode, prepared, views).logits)[:, order], rtol=1e-9)

  @parameterized.parameters(
      ("tpt", 2), ("c_tpt", 1), ("soc", 1), ("soc_quantile", 2), ("o_tpt", 1),
      ("a_tpt", 2), ("c_tpt_two_step", 2))
  def test_vmapped_is_one_by_one(self, name, num_steps):
    encode, prepared, views = _setting()
    method = dataclasses.replace(
        _objective(name), num_steps=num_steps)
    together = _adapt(method, encode, prepared, views)
    for image in range(len(views)):
      alone = _adapt(method, encode, prepared, views[image])
      jax.tree.map(
          lambda a, b, i=image: np.testing.assert_allclose(
              np.asarray(a)[i], b, rtol=1e-9, atol=1e-12), together, alone)

  def test_one_compilation_for_all_weights_and_images(self):
    encode, prepared, views = _setting()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def adapt(image, objective):
      return engine.adapt(
          encode, prepared, image, objective, optimiser=_optimiser())

    for image, weight in ((0, 1.0), (0, 3.0), (1, 10.0), (2, 30.0)):
      adapt(views[image], _objective("soc", weight=weight, delta=weight / 100))

  @parameterized.parameters(
      ("c_tpt", dispersion.text_dispersion, +1),
      ("o_tpt", orthogonality.householder_orthogonality, -1),
      ("o_tpt_published", orthogonality.full_orthogonality, -1),
      ("a_tpt", angular.nearest_angle, +1),
      ("a_tpt_inverted", angular.nearest_angle, -1),
      ("soc", functools.partial(
          orthogonality.semantic_orthogonality, delta=0.5), -1))
  def test_heavy_regulariser_moves_its_measure_the_right_way(
      self, name, measure, direction):
    encode, prepared, views = _setting(seed=3)
    adapted = _adapt(
        _objective(name, weight=1e6), encode, prepared, views, 1e-4)
    contexts = np.concatenate([prepared.context[None], adapted.context])
    before, *after = quick.jit(jax.vmap(
        lambda context: measure(encode(context))))(contexts)
    for value in after:
      self.assertGreater(direction * (value - before), 0)

  def test_tpt_lowers_the_entropy_it_minimises(self):
    encode, prepared, views = _setting()
    info = _adapt(_objective("tpt"), encode, prepared, views, 1e-4).info
    np.testing.assert_array_less(info.entropy_after, info.entropy_before)

  def test_gradient_is_that_of_the_sum(self):
    encode, prepared, views = _setting()
    kept = np.arange(_V) < 5

    def total(context):
      features = encode(context)
      probs = jax.nn.softmax(10 * views[0] @ features.T)[:5].mean(0)
      spread = jnp.linalg.norm(features - features.mean(0)[None], axis=-1)
      return -(probs * jnp.log(probs)).sum() - 50 * spread.mean()

    start = _entropy_at(prepared, views[0], kept)
    first = _penalty(prepared, _objective("c_tpt"))
    step = _combine(_objective("c_tpt"), start, first, 0)
    value, gradient = quick.jit(jax.value_and_grad(total))(prepared.context)
    np.testing.assert_allclose(step.gradient, gradient, rtol=1e-9)
    np.testing.assert_allclose(
        start.entropy + step.weight * first.value, value)

  def test_pull_is_the_weighted_share(self):
    encode, prepared, views = _setting()
    method = _objective("c_tpt", weight=3.0)
    start = _begin(prepared, views[0], 0.25)
    first = _penalty(prepared, method)
    step = _combine(method, start, first, 0)
    np.testing.assert_allclose(
        step.pull, -3 * np.asarray(first.gradient), rtol=1e-12)
    tuned = quick.jit(lambda *given: engine.tune(*given, _optimiser()))(
        encode, prepared, views[0], start, first, method)
    size = lambda x: np.sqrt((np.asarray(x)**2).sum())
    np.testing.assert_allclose(
        tuned.gradient_ratio, 3 * size(first.gradient) / size(start.gradient))

  def test_two_step_takes_turns(self):
    _, prepared, views = _setting()
    method = _objective("c_tpt_two_step", weight=7.0)
    start = _begin(prepared, views[0], 0.25)
    first = _penalty(prepared, method)
    for number in (0, 2):
      step = _combine(method, start, first, number)
      np.testing.assert_array_equal(step.gradient, start.gradient)
      np.testing.assert_array_equal(step.pull, 0)
      self.assertEqual(step.weight, 0)
    step = _combine(method, start, first, 1)
    np.testing.assert_allclose(
        step.gradient, -7 * np.asarray(first.gradient), rtol=1e-12)
    np.testing.assert_array_equal(step.pull, step.gradient)
    self.assertEqual(step.weight, -7)

  @parameterized.parameters(("tpt", 1), ("soc_quantile", 2))
  @pytest.mark.slow
  def test_adapt_is_its_parts(self, name, num_steps):
    encode, prepared, views = jax.device_put(_setting())
    method = dataclasses.replace(_objective(name), num_steps=num_steps)
    optimiser = _optimiser()
    start = engine.begin(prepared, views[0], 0.25)
    tuned = engine.tune(
        encode, prepared, views[0], start, engine.penalty(prepared, method),
        method, optimiser)
    parts = engine.predict(encode, prepared, views[0], start, tuned)
    whole = _adapt_eager(method, encode, prepared, views[0])
    jax.tree.map(np.testing.assert_array_equal, whole, parts)

  def test_prediction_is_the_tuned_context_s(self):
    encode, prepared, views = _setting()
    adapted = _adapt(_objective("c_tpt"), encode, prepared, views)
    for image, context, logits, shift, after, kept in zip(
        views, *map(np.asarray, (
            adapted.context, adapted.logits, adapted.info.context_shift,
            adapted.info.entropy_after)),
        [_lowest_entropies(prepared, image, 5) for image in views]):
      every = 10 * image @ np.asarray(_encoded(encode, context)).T
      np.testing.assert_allclose(logits, every[0], rtol=1e-12)
      np.testing.assert_allclose(
          shift, np.linalg.norm(context - np.asarray(prepared.context)))
      probs = np.exp(every[kept])
      mean = (probs / probs.sum(-1, keepdims=True)).mean(0)
      np.testing.assert_allclose(after, -(mean * np.log(mean)).sum())

  def test_own_regulariser(self):
    encode, prepared, views = _setting()
    own = prompt_methods.Regularised(
        regulariser=lambda features: jnp.mean(features[0] * features[1]),
        weight=-40.0).objective()
    start = _begin(prepared, views[0], 0.25)
    first = _penalty(prepared, own)
    step = _combine(own, start, first, 0)
    first_two = lambda context: (encode(context)[:2]).prod(axis=0).mean()
    value, gradient = map(np.asarray, quick.jit(
        jax.value_and_grad(first_two))(prepared.context))
    np.testing.assert_allclose(first.value, value)
    np.testing.assert_allclose(
        np.asarray(step.gradient) - np.asarray(start.gradient),
        -40 * gradient, rtol=1e-9)
    self.assertFalse(np.allclose(
        _adapt(own, encode, prepared, views).logits,
        _adapt(_objective("tpt"), encode, prepared, views).logits))

  @parameterized.parameters(*_TUNED)
  def test_equal_class_names_give_finite_predictions(self, name):
    encode, prepared, views = _setting()
    twice = jax.tree_util.Partial(
        _features, np.asarray(encode.args[0])[[0, 0, 1, 2, 3, 4]])
    prepared = _prepare(twice, prepared.context, np.asarray(10.0))
    logits = np.asarray(
        _adapt(_objective(name), twice, prepared, views).logits)
    self.assertTrue(np.isfinite(logits).all())
    np.testing.assert_allclose(logits[:, 0], logits[:, 1])

  @parameterized.parameters(*_TUNED)
  def test_one_class_gives_finite_predictions(self, name):
    encode, prepared, views = _setting(k=1)
    adapted = _adapt(_objective(name), encode, prepared, views)
    self.assertTrue(np.isfinite(adapted.logits).all())
    self.assertTrue(np.isfinite(adapted.context).all())

  @pytest.mark.slow
  def test_any_optimiser(self):
    encode, prepared, views = jax.device_put(_setting())
    adapted = engine.adapt(
        encode, prepared, views[0], _objective("tpt"),
        optimiser=optax.sgd(0.1))
    kept = _lowest_entropies(prepared, np.asarray(views[0]), 2)
    start = _entropy_at(prepared, views[0], kept)
    np.testing.assert_allclose(
        adapted.context, prepared.context - 0.1 * start.gradient, rtol=1e-12)

  def test_too_few_views_are_refused(self):
    encode, prepared, views = _setting()
    with self.assertRaisesRegex(ValueError, "8 views keeps none"):
      _adapt(_objective("tpt"), encode, prepared, views[0, :8],
             selection_fraction=0.1)

  def test_features_of_another_width_are_refused(self):
    encode, prepared, views = _setting()
    with self.assertRaisesRegex(ValueError, r"shape \[v, 7\] expected"):
      _adapt(_objective("tpt"), encode, prepared, views[0, :, :5])


class _WithJacobian(NamedTuple):
  """The small encoder with its derivative."""

  weights: jax.Array

  def __call__(self, context):
    return _features(self.weights, context)

  def jacobian(self, context):
    return jax.jacfwd(self)(context)


class PrepareTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.enterContext(jax.enable_x64(True))

  @parameterized.parameters("tpt", "c_tpt", "c_tpt_two_step", "soc_quantile")
  def test_linearisations_agree(self, name):
    encode, prepared, views = _setting()
    other = _prepare(
        _WithJacobian(*encode.args), prepared.context, np.asarray(10.0),
        linearisation="jacobian")
    np.testing.assert_allclose(
        other.text_features, prepared.text_features, rtol=1e-12)
    cotangent = np.random.default_rng(5).standard_normal((_K, _D))
    np.testing.assert_allclose(
        *(_pulled_back(one, cotangent) for one in (other, prepared)), rtol=1e-9)
    method = _objective(name)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-12),
        _adapt(method, encode, other, views),
        _adapt(method, encode, prepared, views))

  def test_jacobian_where_there_is_none(self):
    encode, prepared, _ = _setting()
    with self.assertRaisesRegex(ValueError, "no Jacobian.*linearisation='vjp'"):
      engine.prepare(
          encode, prepared.context, 10.0, linearisation="jacobian")

  def test_without_a_derivative(self):
    encode, prepared, views = _setting()
    other = _prepare(
        encode, prepared.context, np.asarray(10.0), linearisation="none")
    self.assertEmpty(jax.tree.leaves(other.pull_back))
    zero_shot = _objective("zero_shot")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12),
        _adapt(zero_shot, encode, other, views),
        _adapt(zero_shot, encode, prepared, views))
    with self.assertRaisesRegex(ValueError, "take no step.*a gradient"):
      _adapt(_objective("tpt"), encode, other, views)

  def test_unknown_linearisation(self):
    encode, prepared, _ = _setting()
    with self.assertRaisesRegex(
        ValueError, "'jvp'; choose from: jacobian, none, vjp"):
      engine.prepare(encode, prepared.context, 10.0, linearisation="jvp")

  @parameterized.parameters(
      # k d (m w) floats of four bytes: 100 x 512 x 2048 are 419,430,400.
      (2049, 419_430_400, "jacobian"),
      (2049, 419_430_399, "vjp"),
      (2048, 419_430_400, "vjp"),
      (1, 10**15, "vjp"))
  def test_choice(self, num_images, max_bytes, expected):
    self.assertEqual(expected, engine.choose_linearisation(
        100, 512, 2048, num_images=num_images, max_bytes=max_bytes))

  @parameterized.parameters(
      "c_tpt", "o_tpt", "o_tpt_published", "a_tpt", "soc", "soc_quantile")
  def test_no_array_larger_than_the_pairs_of_classes(self, name):
    k = 1000
    weights = np.ones((k, 2, 1, 3), np.float32)

    def penalty(weights, context):
      encode = jax.tree_util.Partial(_features, weights)
      return engine.penalty(
          engine.prepare(encode, context, 10.0), _objective(name))

    program = jax.make_jaxpr(penalty)(weights, np.ones((1, 3), np.float32))
    largest = max(_sizes(program.jaxpr))
    # The pairs' two indices are the only thing larger than one number each.
    self.assertLessEqual(largest, 2 * k * k)
    if name != "c_tpt":
      self.assertGreaterEqual(largest, k * k)  # so they were looked at


def _sizes(jaxpr):
  """Elements of every array that a program makes, at any depth."""
  for equation in jaxpr.eqns:
    yield from (out.aval.size for out in equation.outvars)
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      yield from _sizes(inner)


def _lowest_entropies(prepared, views, count):
  probs = np.exp(10 * views @ np.asarray(prepared.text_features).T)
  probs /= probs.sum(-1, keepdims=True)
  order = np.argsort(-(probs * np.log(probs)).sum(-1))
  return np.isin(np.arange(len(views)), order[:count])


if __name__ == "__main__":
  absltest.main()
