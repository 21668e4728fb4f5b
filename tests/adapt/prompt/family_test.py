"""A family of methods at once against the engine, one method at a time."""


from absl.testing import absltest
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
import numpy as np
import pytest

from jaxcal import stages
from jaxcal.adapt import base
from jaxcal.adapt import run
from jaxcal.adapt.prompt import engine
from jaxcal.adapt.prompt import family
from jaxcal.adapt.prompt import methods
from jaxcal.adapt.prompt import reliability
from jaxcal.adapt.prompt import rewards
from jaxcal.clip import prompts
from jaxcal.losses import orthogonality
from tests import quick
from tests.clip import tiny

_K, _M, _W, _D, _V, _IMAGES = 5, 2, 4, 6, 12, 2


def _features(weights, context):
  hidden = jnp.tanh(jnp.einsum("kdmw,mw->kd", weights, context))
  return hidden / jnp.linalg.norm(hidden, axis=-1, keepdims=True)


def _data(seed=0):
  """An encoder, what is prepared for it, and the views of the images."""
  rng = np.random.default_rng(seed)
  normal = lambda *shape: rng.standard_normal(shape)
  encode = Partial(_features, jax.device_put(normal(_K, _D, _M, _W)))
  views = normal(_IMAGES, _V, _D)
  views /= np.linalg.norm(views, axis=-1, keepdims=True)
  prepared = _prepare(encode, 0.3 * normal(_M, _W), np.asarray(10.0))
  return encode, prepared, jax.device_put(views)


_prepare = quick.jit(engine.prepare)
_encoded = quick.jit(lambda encode, context: encode(context))
_adapt = quick.jit(jax.vmap(family.adapt, (None, 0)))

_METHODS = {
    "still": methods.ZeroShot(selection_fraction=0.25),
    "still_few": methods.ZeroShot(selection_fraction=0.1),
    "tpt": methods.Tpt(selection_fraction=0.25),
    "tpt_few": methods.Tpt(selection_fraction=0.1),
    "tpt_far": methods.Tpt(
        learning_rate=0.1, weight_decay=0.3, selection_fraction=0.25),
    "tpt_none": methods.Tpt(num_steps=0, selection_fraction=0.25),
    "c_tpt": methods.CTpt(selection_fraction=0.25),
    "c_tpt_light": methods.CTpt(
        weight=0.5, learning_rate=1e-2, selection_fraction=0.25),
    "soc": methods.Soc(delta=0.2, selection_fraction=0.25),
    "soc_wide": methods.Soc(weight=3.0, delta=0.9, selection_fraction=0.25),
    "soc_few": methods.Soc(selection_fraction=0.1),
    "quantile": methods.SocQuantile(quantile=0.4, selection_fraction=0.25),
    "turns": methods.CTptTwoStep(weight=4.0, selection_fraction=0.25),
    "twice": methods.OTpt(num_steps=2, selection_fraction=0.1),
    "r_tpt": reliability.RTpt(num_neighbours=3, selection_fraction=0.25),
    "r_tpt_soft": reliability.RTpt(
        num_neighbours=3, temperature=0.5, selection_fraction=0.25),
    "r_tpt_none": reliability.RTpt(num_steps=0, num_neighbours=3),
    "rlcf": rewards.Rlcf(num_steps=2, selection_fraction=0.25),
    "rlcf_two": rewards.Rlcf(
        num_steps=2, num_sampled=2, selection_fraction=0.25),
}


class AdaptTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.enterContext(jax.enable_x64(True))

  @pytest.mark.slow
  def test_one_by_one(self):
    encode, prepared, views = _data()
    adapted = _adapt(family.share(encode, prepared, _METHODS), views)
    self.assertEqual(set(adapted), set(_METHODS))
    for name, method in _METHODS.items():
      for image in range(_IMAGES):
        alone = engine.adapt(
            encode, prepared, views[image], method.objective(),
            optimiser=method.optimiser,
            selection_fraction=method.selection_fraction,
            weights=method.view_weights(views[image]))
        with self.subTest(f"{name}, image {image}"):
          jax.tree.map(
              lambda a, b, i=image: np.testing.assert_allclose(
                  a[i], b, rtol=1e-7, atol=1e-10), adapted[name], alone)
    # A step of the sign alone leaves little room, but they differ.
    different = {tuple(np.round(np.ravel(a.context), 6))
                 for a in adapted.values()}
    self.assertGreater(len(different), 6)

  @pytest.mark.slow
  def test_order_and_company_do_not_matter(self):
    encode, prepared, views = _data()
    alone = {name: _METHODS[name] for name in ("turns", "c_tpt")}
    both = [_adapt(family.share(encode, prepared, some), views)
            for some in (alone, _METHODS)]
    for name in alone:
      np.testing.assert_allclose(
          both[0][name].logits, both[1][name].logits, rtol=1e-9)

  def test_an_optimiser_of_its_own_numbers(self):
    # From an empty state AdamW moves by the rate against the gradient's sign.
    _, prepared, views = _data()
    gradient = engine.begin(prepared, views[0], 0.25).gradient
    optimiser = methods.Tpt(learning_rate=0.03, weight_decay=0.2).optimiser
    update, _ = optimiser.update(
        gradient, optimiser.init(prepared.context), prepared.context)
    np.testing.assert_allclose(
        update, -0.03 * (np.sign(gradient) + 0.2 * prepared.context), rtol=1e-4)

  @pytest.mark.slow
  def test_gradients_add_up(self):
    """The total's own gradient, through the plain tower of a tiny CLIP."""
    params = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float64), tiny.params())
    bank = prompts.from_token_ids(
        [[28, 3, 4, 5, 29], [28, 3, 4, 8, 29], [28, 3, 4, 12, 29]], [1, 2],
        [4, 4, 4])
    encode = prompts.context_encoder(tiny.CONFIG, params, bank)
    context = prompts.initial_context(params, bank)
    views = np.random.default_rng(0).standard_normal((8, 5))
    views = jnp.asarray(views / np.linalg.norm(views, axis=1, keepdims=True))

    @quick.jit
    def by_parts(encode, context, views):
      prepared = engine.prepare(encode, context, 20.0)
      start = engine.begin(prepared, views, 0.5)
      steps = {}
      for weight in (1.0, 30.0):
        objective = methods.Soc(weight=weight, delta=0.3).objective()
        steps[weight] = engine.combine(
            objective, start, engine.penalty(prepared, objective)).gradient
      return steps

    @quick.jit
    def whole(encode, context, views):
      def total(context, weight):
        features = encode(context)
        probs = jax.nn.softmax(20 * views @ features.T)
        each = -(probs * jnp.log(probs)).sum(-1)
        mean = probs[jax.lax.stop_gradient(jnp.argsort(each)[:4])].mean(0)
        penalty = 0
        for i in range(3):
          for j in range(i):
            cosine = jnp.abs((features[i] * features[j]).sum())
            penalty += jnp.where(
                cosine <= 0.3, cosine**2 / 2, 0.3 * (cosine - 0.15)) / 3
        return -(mean * jnp.log(mean)).sum() + weight * penalty

      return {weight: jax.grad(total)(context, weight)
              for weight in (1.0, 30.0)}

    parts = by_parts(encode, context, views)
    for weight, gradient in whole(encode, context, views).items():
      self.assertGreater(np.abs(gradient).max(), 1e-4)
      np.testing.assert_allclose(parts[weight], gradient, rtol=1e-8)

  def test_one_compilation_for_all_numbers(self):
    traces = []

    def counted(weights, context):
      traces.append(None)
      return _features(weights, context)

    encode, prepared, views = _data()
    encode = Partial(counted, *encode.args)
    adapt = quick.jit(jax.vmap(family.adapt, (None, 0)))

    def traced(weights):
      some = {
          f"soc_{number}": methods.Soc(
              weight=weight, delta=weight / 100, learning_rate=weight * 1e-4)
          for number, weight in enumerate(weights)}
      before = len(traces)
      adapt(family.share(encode, prepared, some), views)
      return len(traces) - before

    few = traced((1.0, 2.0))
    self.assertGreater(few, 0)
    self.assertEqual(traced((8.0, 20.0)), 0)
    # More settings are another program, but not one with more encoders in it.
    self.assertEqual(traced((1.0, 2.0, 3.0, 4.0, 5.0)), few)

  def test_errors_of_the_engine(self):
    encode, prepared, views = _data()
    few = {"tpt": methods.Tpt(selection_fraction=0.05)}
    with self.assertRaisesRegex(ValueError, "12 views keeps none"):
      family.adapt(family.share(encode, prepared, few), views[0])


class FamilyTest(absltest.TestCase):
  """The family behind the contract of all methods."""

  def setUp(self):
    super().setUp()
    self.enterContext(jax.enable_x64(True))

  @pytest.mark.slow
  def test_outputs_are_those_of_each_method_alone(self):
    encode, prepared, views = _data()
    task = base.Task(
        prepared.text_features, prepared.logit_scale, encode, prepared.context)
    some = {name: _METHODS[name] for name in ("still", "tpt", "soc", "turns")}
    together = quick.jit(run.episodic)(
        family.family(family.share(encode, prepared, some)), task, views)
    for name, method in some.items():
      alone = quick.jit(run.episodic)(method.method(), task, views)
      jax.tree.map(lambda a, b: np.testing.assert_allclose(
          a, b, rtol=1e-7, atol=1e-10), together[name], alone)

  def test_random_views_are_the_most_confident_after_tuning(self):
    encode, prepared, views = _data()
    some = {"still": _METHODS["still"], "tpt_far": _METHODS["tpt_far"]}
    adapted = _adapt(
        family.share(encode, prepared, some, random_views=True), views)
    for name, one in adapted.items():
      for image in range(_IMAGES):
        with self.subTest(f"{name}, image {image}"):
          tuned, before = (
              10 * np.asarray(views[image]) @ np.asarray(
                  _encoded(encode, context)).T
              for context in (one.context[image], prepared.context))
          probs = np.exp(tuned) / np.exp(tuned).sum(-1, keepdims=True)
          entropy = -(probs * np.log(probs)).sum(-1)
          rows = 1 + np.argsort(entropy[1:])[:3]  # a quarter of twelve
          np.testing.assert_allclose(
              one.random_views.view_logits[image], tuned[rows], rtol=1e-9)
          np.testing.assert_allclose(
              one.random_views.zero_shot_view_logits[image], before[rows],
              rtol=1e-9)
    output = methods.output(jax.tree.map(lambda x: x[0], adapted["tpt_far"]))
    self.assertEqual(set(output.evidence),
                     {"view_logits", "zero_shot_view_logits"})

  def test_names_of_a_posterior_s_forms(self):
    self.assertEqual(family.names({"tpt": None}),
                     {"tpt": stages.Stages("tpt")})
    self.assertEqual(
        family.names({"tpt": None}, with_posterior=True),
        {"tpt": stages.Stages("tpt"),
         "tpt+diagonal": stages.Stages("tpt", posterior="diagonal"),
         "tpt+full": stages.Stages("tpt", posterior="full"),
         "tpt+tangent": stages.Stages("tpt", posterior="tangent")})


class PenaltiesTest(absltest.TestCase):

  @pytest.mark.slow
  def test_weights_share_the_work(self):
    calls = []

    def counted(features):
      calls.append(None)
      return features.mean()

    _, prepared, _ = _data()
    penalties = family.penalties(prepared, {
        str(weight): methods.Regularised(
            regulariser=counted, weight=weight, learning_rate=weight)
        for weight in (1.0, 2.0, 3.0)})
    self.assertLen(calls, 1)
    self.assertEqual(list(penalties), ["1.0", "2.0", "3.0"])
    for penalty in penalties.values():
      np.testing.assert_allclose(
          penalty.value, np.mean(prepared.text_features), rtol=1e-5)
      np.testing.assert_array_equal(
          penalty.gradient, penalties["1.0"].gradient)
    self.assertGreater(np.abs(penalties["1.0"].gradient).max(), 1e-3)

  def test_a_regulariser_with_arrays_of_its_own(self):
    _, prepared, _ = _data()
    own = lambda anchors, features: (anchors * features).sum()
    anchors = [jnp.ones((_K, _D)), jnp.zeros((_K, _D))]
    penalties = family.penalties(prepared, {
        str(number): methods.Regularised(
            regulariser=Partial(own, one), weight=1.0)
        for number, one in enumerate(anchors)})
    np.testing.assert_allclose(
        penalties["0"].value, np.sum(prepared.text_features), rtol=1e-5)
    self.assertEqual(penalties["1"].value, 0)

  def test_margins_do_not(self):
    _, prepared, _ = _data()
    deltas = {"narrow": 0.1, "wide": 0.6}
    penalties = family.penalties(prepared, {
        name: methods.Soc(delta=delta)
        for name, delta in deltas.items()} | {"none": methods.Tpt()})
    for name, delta in deltas.items():
      np.testing.assert_allclose(
          penalties[name].value, orthogonality.semantic_orthogonality(
              prepared.text_features, delta=delta), rtol=1e-6)
    np.testing.assert_array_equal(penalties["none"].gradient, 0)
    self.assertEqual(penalties["none"].value, 0)


if __name__ == "__main__":
  absltest.main()
