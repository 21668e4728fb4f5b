"""Properties that tuning must have, on a small smooth text encoder."""

import dataclasses
import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcal.adapt import engine
from jaxcal.adapt import objectives
from jaxcal.losses import angular
from jaxcal.losses import dispersion
from jaxcal.losses import orthogonality

_K, _M, _W, _D, _V = 6, 2, 5, 7, 20
# One of each kind: no regulariser, constant weight, margin, weight per image.
_SOME = ("tpt", "c_tpt", "soc", "soc_quantile")
_TUNED = _SOME + ("o_tpt", "a_tpt")


def _features(weights, context):
  hidden = jnp.tanh(jnp.einsum("kdmw,mw->kd", weights, context))
  return hidden / jnp.linalg.norm(hidden, axis=-1, keepdims=True)


def _unit(key, *shape):
  x = jax.random.normal(key, shape)
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def _setting(seed=0, dtype=jnp.float64, k=_K):
  """An encoder, what is prepared for it, and the views of three images."""
  keys = jax.random.split(jax.random.key(seed), 3)
  weights = jax.random.normal(keys[0], (k, _D, _M, _W)).astype(dtype)
  encode = jax.tree_util.Partial(_features, weights)
  context = 0.3 * jax.random.normal(keys[1], (_M, _W)).astype(dtype)
  prepared = engine.prepare(encode, context, jnp.asarray(10, dtype))
  return encode, prepared, _unit(keys[2], 3, _V, _D).astype(dtype)


def _adapt(method, encode, prepared, views, learning_rate=5e-3,
           selection_fraction=0.25):
  # Not compiled: these programs are small, and compiling takes most time.
  adapt = functools.partial(
      engine.adapt, optimizer=engine.default_optimizer(learning_rate),
      selection_fraction=selection_fraction)
  if views.ndim == 3:
    adapt = jax.vmap(adapt, in_axes=(None, None, 0, None))
  return adapt(encode, prepared, views, method)


# Where every bit counts, the program must be the one that users run.
_adapt_compiled = jax.jit(_adapt, static_argnums=4)


class EngineTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.enterContext(jax.enable_x64(True))

  @parameterized.product(name=_SOME, batched=(False, True))
  def test_zero_learning_rate_is_zero_shot_bit_for_bit(self, name, batched):
    encode, prepared, views = _setting(dtype=jnp.float32)
    views = views if batched else views[1]
    zero_shot = _adapt_compiled(
        objectives.zero_shot(), encode, prepared, views)
    still = _adapt_compiled(
        objectives.method(name), encode, prepared, views, 0.0)
    np.testing.assert_array_equal(still.logits, zero_shot.logits)
    np.testing.assert_array_equal(still.info.context_shift, 0)

  @parameterized.parameters(*_SOME)
  def test_zero_steps_are_zero_shot_bit_for_bit(self, name):
    encode, prepared, views = _setting(dtype=jnp.float32)
    method = dataclasses.replace(objectives.method(name), num_steps=0)
    zero_shot = _adapt_compiled(
        objectives.zero_shot(), encode, prepared, views)
    np.testing.assert_array_equal(
        _adapt_compiled(method, encode, prepared, views).logits,
        zero_shot.logits)

  def test_zero_shot_is_the_scaled_cosine(self):
    encode, prepared, views = _setting()
    expected = [[10 * sum(v * t for v, t in zip(image[0], text))
                 for text in np.asarray(prepared.text_features)]
                for image in np.asarray(views)]
    got = _adapt(objectives.zero_shot(), encode, prepared, views)
    np.testing.assert_allclose(got.logits, expected, rtol=1e-12)

  @parameterized.product(name=("c_tpt", "soc"), num_steps=(1, 2))
  def test_weight_zero_is_tpt_bit_for_bit(self, name, num_steps):
    encode, prepared, views = _setting(dtype=jnp.float32)
    several = lambda m: dataclasses.replace(m, num_steps=num_steps)
    tpt = _adapt_compiled(several(objectives.tpt()), encode, prepared, views)
    zero = _adapt_compiled(
        several(objectives.method(name, weight=0.0)), encode, prepared, views)
    np.testing.assert_array_equal(zero.context, tpt.context)
    np.testing.assert_array_equal(zero.logits, tpt.logits)

  @parameterized.parameters(*_TUNED)
  def test_first_step_moves_every_coordinate_by_the_learning_rate(self, name):
    encode, prepared, views = _setting()
    adapted = _adapt(objectives.method(name), encode, prepared, views)
    decayed = prepared.context * (1 - 5e-3 * 1e-2)
    # Exact up to the 1e-8 that AdamW adds to the size of a gradient.
    np.testing.assert_allclose(
        np.abs(adapted.context - decayed[None]), 5e-3, rtol=1e-3)

  @parameterized.parameters(*_TUNED)
  def test_order_of_random_views_does_not_matter(self, name):
    encode, prepared, views = _setting()
    method = objectives.method(name)
    order = np.r_[0, 1 + np.random.default_rng(0).permutation(_V - 1)]
    np.testing.assert_allclose(
        _adapt(method, encode, prepared, views[:, order]).logits,
        _adapt(method, encode, prepared, views).logits, rtol=1e-9)

  @parameterized.parameters(*_TUNED)
  def test_order_of_classes_orders_the_answers(self, name):
    encode, prepared, views = _setting()
    order = np.random.default_rng(1).permutation(_K)
    permuted = jax.tree_util.Partial(_features, encode.args[0][order])
    prepared_too = engine.prepare(permuted, prepared.context, 10.0)
    method = objectives.method(name)
    np.testing.assert_allclose(
        _adapt(method, permuted, prepared_too, views).logits,
        _adapt(method, encode, prepared, views).logits[:, order], rtol=1e-9)

  @parameterized.product(name=_TUNED, num_steps=(1, 2))
  def test_vmapped_is_one_by_one(self, name, num_steps):
    encode, prepared, views = _setting()
    method = dataclasses.replace(
        objectives.method(name), num_steps=num_steps)
    together = _adapt(method, encode, prepared, views)
    for image in range(len(views)):
      alone = _adapt(method, encode, prepared, views[image])
      jax.tree.map(
          lambda a, b, i=image: np.testing.assert_allclose(
              a[i], b, rtol=1e-9, atol=1e-12), together, alone)

  def test_one_compilation_for_all_weights_and_images(self):
    traces = []

    def encode_counted(weights, context):
      traces.append(None)
      return _features(weights, context)

    encode, prepared, views = _setting()
    encode = jax.tree_util.Partial(encode_counted, *encode.args)
    adapt = jax.jit(functools.partial(
        engine.adapt, optimizer=engine.default_optimizer()))
    adapt(encode, prepared, views[0], objectives.soc(weight=1.0, delta=0.3))
    once = len(traces)
    for image, weight in ((0, 3.0), (1, 10.0), (2, 30.0)):
      adapt(encode, prepared, views[image],
            objectives.soc(weight=weight, delta=weight / 100))
    self.assertLen(traces, once)

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
        objectives.method(name, weight=1e6), encode, prepared, views, 1e-4)
    before = measure(prepared.text_features)
    for context in adapted.context:
      self.assertGreater(direction * (measure(encode(context)) - before), 0)

  def test_tpt_lowers_the_entropy_it_minimises(self):
    encode, prepared, views = _setting()
    info = _adapt(objectives.tpt(), encode, prepared, views, 1e-4).info
    np.testing.assert_array_less(info.entropy_after, info.entropy_before)

  def test_gradient_is_that_of_the_sum(self):
    encode, prepared, views = _setting()
    kept = np.arange(_V) < 5

    def total(context):
      features = encode(context)
      probs = jax.nn.softmax(10 * views[0] @ features.T)[:5].mean(0)
      spread = jnp.linalg.norm(features - features.mean(0)[None], axis=-1)
      return -(probs * jnp.log(probs)).sum() - 50 * spread.mean()

    step = engine.tuning_step(
        encode, prepared.context, views[0], jnp.asarray(kept),
        prepared.logit_scale, objectives.c_tpt())
    np.testing.assert_allclose(
        step.gradient, jax.grad(total)(prepared.context), rtol=1e-9)
    np.testing.assert_allclose(
        step.entropy + step.weight * step.regulariser, total(prepared.context))

  def test_own_regulariser(self):
    encode, prepared, views = _setting()
    own = objectives.regularised(
        lambda features: -jnp.mean(jnp.square(features @ features.T)), -40.0)
    adapted = _adapt(own, encode, prepared, views)
    self.assertEqual(adapted.logits.shape, (3, _K))
    self.assertFalse(np.allclose(
        adapted.logits, _adapt(objectives.tpt(), encode, prepared, views).logits
    ))

  @parameterized.parameters(*_TUNED)
  def test_equal_class_names_give_finite_answers(self, name):
    encode, prepared, views = _setting()
    twice = jax.tree_util.Partial(
        _features, encode.args[0][jnp.asarray([0, 0, 1, 2])])
    prepared = engine.prepare(twice, prepared.context, 10.0)
    adapted = _adapt(objectives.method(name), twice, prepared, views)
    self.assertTrue(np.isfinite(adapted.logits).all())
    np.testing.assert_allclose(adapted.logits[:, 0], adapted.logits[:, 1])

  @parameterized.parameters(*_TUNED)
  def test_one_class_gives_finite_answers(self, name):
    encode, prepared, views = _setting(k=1)
    adapted = _adapt(objectives.method(name), encode, prepared, views)
    self.assertTrue(np.isfinite(adapted.logits).all())
    self.assertTrue(np.isfinite(adapted.context).all())

  def test_any_optimizer(self):
    encode, prepared, views = _setting()
    adapted = engine.adapt(
        encode, prepared, views[0], objectives.tpt(),
        optimizer=optax.sgd(0.1))
    kept = jax.jit(engine.tuning_step)(
        encode, prepared.context, views[0],
        _lowest_entropies(prepared, views[0], 2), prepared.logit_scale,
        objectives.tpt())
    np.testing.assert_allclose(
        adapted.context, prepared.context - 0.1 * kept.gradient, rtol=1e-12)

  def test_too_few_views_are_refused(self):
    encode, prepared, views = _setting()
    with self.assertRaisesRegex(ValueError, "8 views keeps none"):
      _adapt(objectives.tpt(), encode, prepared, views[0, :8],
             selection_fraction=0.1)

  def test_features_of_another_width_are_refused(self):
    encode, prepared, views = _setting()
    with self.assertRaisesRegex(ValueError, r"shape \[v, 7\] expected"):
      _adapt(objectives.tpt(), encode, prepared, views[0, :, :5])


def _lowest_entropies(prepared, views, count):
  probs = np.asarray(jax.nn.softmax(10 * views @ prepared.text_features.T))
  order = np.argsort(-(probs * np.log(probs)).sum(-1))
  return jnp.asarray(np.isin(np.arange(len(views)), order[:count]))


class MethodsTest(parameterized.TestCase):

  def test_unknown_method_lists_the_choices(self):
    with self.assertRaisesRegex(ValueError, "'otpt'; choose from: .*o_tpt"):
      objectives.method("otpt")

  def test_unknown_setting_lists_the_choices(self):
    with self.assertRaisesRegex(ValueError, "'soc' has no setting 'detla'; it "
                                "has: weight, delta"):
      objectives.method("soc", detla=0.5)

  def test_published_defaults(self):
    weights = {name: objectives.settings_of(name).get("weight")
               for name in objectives.METHODS}
    self.assertEqual(weights, {
        "zero_shot": None, "tpt": None, "c_tpt": 50, "o_tpt": 18,
        "o_tpt_published": 18, "a_tpt": 10, "a_tpt_inverted": 80, "soc": 30,
        "soc_quantile": 30})


if __name__ == "__main__":
  absltest.main()
