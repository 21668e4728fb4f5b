"""Weights and margins that follow the classes: what they are, and refusals."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
import numpy as np
import pytest

import jaxcal
from jaxcal.adapt import base
from jaxcal.adapt import numbers
from jaxcal.adapt import run
from jaxcal.adapt.prompt import diagnostics
from jaxcal.adapt.prompt import engine
from jaxcal.adapt.prompt import family
from jaxcal.adapt.prompt import methods
from jaxcal.testbed import sets
from tests import quick

_VIEWS, _WIDTH = 12, 6
_OWN = methods.Regularised(
    regulariser=lambda features: jnp.mean(features[0] * features[1]),
    weight=-1.0)
_METHODS = (
    methods.CTpt(), methods.CTptTwoStep(), methods.OTpt(),
    methods.OTptPublished(), methods.ATpt(), methods.ATptInverted(),
    methods.Soc(), _OWN)


def _features(weights, context):
  hidden = 0.5 + jnp.tanh(jnp.einsum("kdmw,mw->kd", weights, context))
  return hidden / jnp.linalg.norm(hidden, axis=-1, keepdims=True)


def _task(classes, seed=0):
  """A task whose classes are rows of five, and the views of two images."""
  rng = np.random.default_rng(seed)
  every = rng.standard_normal((5, _WIDTH, 2, 4))
  encode, context = jax.device_put((
      Partial(_features, every[list(classes)]),
      0.3 * rng.standard_normal((2, 4))))
  views = rng.standard_normal((2, _VIEWS, _WIDTH))
  views /= np.linalg.norm(views, axis=-1, keepdims=True)
  return base.Task(_encoded(encode, context), *jax.device_put((
      np.asarray(10.0), encode, context))), jax.device_put(views)


_encoded = quick.jit(lambda encode, context: encode(context))
_compiled = quick.jit(engine.prepare)


def _prepared(task, prepare=engine.prepare):
  return prepare(task.encode, task.context, task.logit_scale)


def _alone(method, task, views):
  return quick.call(run.episodic, method.method(), task, views)


class EffectiveWeightTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.enterContext(jax.enable_x64(True))
    self.task, self.views = _task(range(5))

  @parameterized.named_parameters(
      (type(method).__name__, method) for method in _METHODS)
  def test_weight_times_norm_is_what_was_asked_for(self, method):
    prepared = _prepared(self.task, _compiled)
    asked = dataclasses.replace(method, effective_weight=3.5)
    found = methods.resolved(asked, prepared)
    self.assertIsNone(found.effective_weight)
    slope = quick.jit(jax.grad(
        lambda context, encode, objective: objective.regulariser(
            encode(context))))(
                self.task.context, self.task.encode, method.objective())
    np.testing.assert_allclose(
        found.weight, np.copysign(3.5, method.weight) / np.linalg.norm(slope))
    pulls = diagnostics.by_context({"found": found}, prepared)
    np.testing.assert_allclose(pulls.effective_weights, [3.5])

  @parameterized.named_parameters(
      (type(method).__name__, method) for method in _METHODS)
  @pytest.mark.slow
  def test_predictions_are_those_of_the_weight(self, method):
    """Alone and in the family, in all steps."""
    method = dataclasses.replace(
        method, selection_fraction=0.25, num_steps=2)
    asked = dataclasses.replace(method, effective_weight=0.7)
    prepared = _prepared(self.task)
    given = dataclasses.replace(
        method, weight=float(methods.resolved(asked, prepared).weight))
    expected = _alone(given, self.task, self.views)
    shared = family.share(self.task.encode, prepared, {
        "asked": asked, "given": given,
        "tpt": methods.Tpt(selection_fraction=0.25)})
    together = quick.call(
        run.episodic, family.family(shared), self.task, self.views)
    for found in (_alone(asked, self.task, self.views), together["asked"],
                  together["given"]):
      # Not to the last digits: AdamW divides small gradients by their own size,
      # and with them what other programs round otherwise.
      jax.tree.map(lambda a, b: np.testing.assert_allclose(
          a, b, rtol=1e-5, atol=1e-7), found, expected)
    np.testing.assert_allclose(found.info["effective_weight"], 0.7)
    np.testing.assert_allclose(found.info["weight"], abs(given.weight))
    self.assertGreater(np.abs(
        found.scores - together["tpt"].scores).max(), 1e-4)

  @pytest.mark.slow
  def test_info_is_of_the_first_step(self):
    method = methods.SocQuantile(selection_fraction=0.25)
    prepared = _prepared(self.task)
    info = _alone(method, self.task, self.views).info
    pulled = engine.penalty(prepared, method.objective())
    norm = lambda x: np.sqrt(np.sum(np.square(x)))
    for image, views in enumerate(self.views):
      start = engine.begin(prepared, views, 0.25)
      weight = 30 * start.entropy / pulled.value
      np.testing.assert_allclose(
          [info[name][image] for name in (
              "weight", "effective_weight", "entropy_gradient")],
          [weight, weight * norm(pulled.gradient), norm(start.gradient)])
    np.testing.assert_allclose(
        info["gradient_ratio"],
        info["effective_weight"] / info["entropy_gradient"])
    for name in ("weight", "effective_weight"):
      np.testing.assert_array_equal(
          _alone(methods.Tpt(selection_fraction=0.25), self.task,
                 self.views).info[name], 0)

  @parameterized.product(classes=((2,), (1, 1, 1)), bits=(32, 64))
  @pytest.mark.slow
  def test_without_a_gradient_the_weight_is_zero(self, classes, bits):
    task, views = _task(classes)
    task, views = jax.tree.map(
        lambda x: jnp.asarray(x, f"float{bits}"), (task, views))
    asked = {type(method).__name__: dataclasses.replace(
        method, effective_weight=2.0, selection_fraction=0.25, num_steps=1)
             for method in _METHODS if method is not _OWN}

    @quick.jit
    def adapt(task, views):
      return family.adapt(family.share(task.encode, _prepared(task), {
          "tpt": methods.Tpt(selection_fraction=0.25), **asked}), views)

    found = adapt(task, views[0])
    for name, method in asked.items():
      np.testing.assert_array_equal(found[name].info.weight, 0)
      np.testing.assert_allclose(
          found[name].logits, found["tpt"].logits, rtol=1e-5)
      with self.assertRaisesRegex(
          ValueError, f"{name} has no gradient at these classes"):
        family.share(task.encode, _prepared(task), {"it": method})
    alone = _alone(asked["CTpt"], task, views)
    np.testing.assert_array_equal(alone.info["weight"], 0)
    self.assertTrue(np.isfinite(alone.scores).all())

  @parameterized.parameters(
      (methods.CTpt(weight=3.0, effective_weight=2.0),
       "CTpt has weight 3 and effective_weight 2, .*give one of them"),
      (methods.Soc(effective_weight=-1.0), "effective_weight of Soc is -1"),
      (methods.Soc(effective_weight=np.inf), "expected a finite number"),
      (methods.Soc(delta=0.5, delta_quantile=0.2), "delta 0.5 and delta_quant"),
      (methods.Soc(delta_quantile=1.5), "a finite number from 0 to 1"))
  def test_refused(self, method, words):
    with self.assertRaisesRegex(ValueError, words):
      method.method()
    with self.assertRaisesRegex(ValueError, words):
      jaxcal.predict({"it": method}, self.task, self.views)

  def test_a_weight_that_follows_the_entropy_takes_none(self):
    with self.assertRaisesRegex(TypeError, "effective_weight"):
      methods.SocQuantile(effective_weight=2.0)
    with self.assertRaisesRegex(ValueError, "has no 'effective_weight'; it ha"):
      jaxcal.adapt.methods.method("soc_quantile", effective_weight=2.0)

  def test_never_taken_for_the_weight(self):
    asked = methods.CTpt(effective_weight=2.0)
    with self.assertRaisesRegex(ValueError, "resolved.*give weight there"):
      diagnostics.by_features({"c_tpt": asked}, self.task.text_features)

  def test_identity_is_what_was_asked_for(self):
    asked = methods.Soc(effective_weight=2.0, delta_quantile=0.8)
    plain = numbers.identity_of(methods.Soc())
    self.assertEqual(
        numbers.identity_of(asked),
        {name: value for name, value in plain.items()
         if name not in ("method.weight", "method.delta")} |
        {"method.effective_weight": 2.0, "method.delta_quantile": 0.8})
    self.assertNotIn("method.effective_weight", plain)

  @pytest.mark.slow
  def test_settings_say_the_weight_too(self):
    found = jaxcal.predict(
        {"c_tpt": methods.CTpt(effective_weight=2.0, selection_fraction=0.25),
         "plain": methods.CTpt(selection_fraction=0.25)},
        self.task, self.views)
    expected = methods.resolved(
        methods.CTpt(effective_weight=2.0), _prepared(self.task)).weight
    self.assertAlmostEqual(
        found["c_tpt"].settings["numbers"]["weight"], float(expected), places=5)
    self.assertNotIn("numbers", found["plain"].settings)

  @pytest.mark.slow
  def test_settings_say_the_margin_too(self):
    found = jaxcal.predict(
        {"soc": methods.Soc(delta_quantile=0.6, selection_fraction=0.25)},
        self.task, self.views)
    features = np.asarray(self.task.text_features, np.float64)
    pairs = (features @ features.T)[np.triu_indices(len(features), 1)]
    self.assertAlmostEqual(
        found["soc"].settings["numbers"]["delta"], np.quantile(pairs, 0.6),
        places=5)


class MarginTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.enterContext(jax.enable_x64(True))

  @pytest.mark.slow
  def test_margin_at_a_quantile_of_the_zero_shot_cosines(self):
    task, views = _task(range(5))
    asked = methods.Soc(delta_quantile=0.6, selection_fraction=0.25)
    features = np.asarray(task.text_features)
    margin = np.quantile((features @ features.T)[np.triu_indices(5, k=1)], 0.6)
    found = methods.resolved(asked, _prepared(task))
    self.assertAlmostEqual(float(found.delta), margin, places=12)
    given = dataclasses.replace(
        asked, delta=float(margin), delta_quantile=None)
    both = {"asked": asked, "given": given}
    shared = family.share(task.encode, _prepared(task), both)
    together = family.adapt(shared, views[0])
    for found in (_alone(asked, task, views).scores[0],
                  together["asked"].logits):
      np.testing.assert_allclose(found, together["given"].logits, rtol=1e-9)

  def test_margins_that_are_none(self):
    apart = jnp.asarray([[1.0, 0], [-0.6, 0.8]])
    method = methods.Soc(delta_quantile=0.5)
    with self.assertRaisesRegex(ValueError, "quantile 0.5 .* is -0.6.*raise"):
      method.of_classes(apart)
    traced = jax.jit(lambda x: method.of_classes(x).delta)(apart)
    self.assertGreater(float(traced), 0)
    self.assertEqual(method.of_classes(apart[:1]), methods.Soc())


class OneKnobTest(absltest.TestCase):
  """At one effective weight the regularisers are one method.

  The shipped model and images, one step: labels are equal and confidences
  within a few ten-thousandths, far closer than any of them is to TPT.
  """

  @pytest.mark.slow
  def test_four_regularisers(self):
    model, images = jaxcal.load("testbed"), sets.load("shades", limit=60)
    task = jaxcal.task_of(model, images.class_names)
    kinds = {"c_tpt": methods.CTpt, "o_tpt": methods.OTpt,
             "o_tpt_published": methods.OTptPublished, "soc": methods.Soc,
             "a_tpt": methods.ATpt}
    effects = (0.2, 2.0, 18.8)
    found = jaxcal.predict({"tpt": methods.Tpt()} | {
        f"{name} {effect}": kind(effective_weight=effect)
        for name, kind in kinds.items() for effect in effects},
                           task, images, model=model)
    probs = {name: np.asarray(jax.nn.softmax(one.logits))
             for name, one in found.items()}
    distance = lambda one, other: np.abs(
        probs[one].max(1) - probs[other].max(1)).mean()
    for effect in effects:
      reference = f"c_tpt {effect}"
      for name in kinds:
        with self.subTest(f"{name} {effect}"):
          at = f"{name} {effect}"
          np.testing.assert_allclose(
              found[at].info["effective_weight"], effect, rtol=1e-4)
          np.testing.assert_array_equal(
              probs[at].argmax(1), probs[reference].argmax(1))
          self.assertLess(distance(at, reference),
                          0.0012 if name == "a_tpt" else 0.0004)
          self.assertGreater(distance(at, "tpt"), 0.002)


if __name__ == "__main__":
  absltest.main()
