"""Many settings at once against the engine, one setting and image at a time."""

import dataclasses

from absl.testing import absltest
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
import numpy as np

from jaxcal.adapt import engine
from jaxcal.adapt import objectives
from jaxcal.adapt import settings as settings_lib
from jaxcal.clip import prompts
from jaxcal.losses import orthogonality
from tests import quick
from tests.clip import tiny

_K, _M, _W, _D, _V, _IMAGES = 5, 2, 4, 6, 12, 2
Setting = settings_lib.Setting


def _features(weights, context):
  hidden = jnp.tanh(jnp.einsum("kdmw,mw->kd", weights, context))
  return hidden / jnp.linalg.norm(hidden, axis=-1, keepdims=True)


def _data(seed=0):
  """An encoder, what is prepared for it, and the views of the images."""
  rng = np.random.default_rng(seed)
  normal = lambda *shape: rng.standard_normal(shape)
  encode = Partial(_features, jnp.asarray(normal(_K, _D, _M, _W)))
  views = normal(_IMAGES, _V, _D)
  views /= np.linalg.norm(views, axis=-1, keepdims=True)
  prepared = engine.prepare(encode, jnp.asarray(0.3 * normal(_M, _W)), 10.0)
  return encode, prepared, jnp.asarray(views)


_answer = quick.jit(settings_lib.answer)

_SETTINGS = {
    "still": Setting(objectives.zero_shot(), selection_fraction=0.25),
    "still_few": Setting(objectives.zero_shot(), selection_fraction=0.1),
    "tpt": Setting(objectives.tpt(), selection_fraction=0.25),
    "tpt_few": Setting(objectives.tpt(), selection_fraction=0.1),
    "tpt_far": Setting(objectives.tpt(), learning_rate=0.1, weight_decay=0.3,
                       selection_fraction=0.25),
    "c_tpt": Setting(objectives.c_tpt(), selection_fraction=0.25),
    "c_tpt_light": Setting(
        objectives.c_tpt(weight=0.5), learning_rate=1e-2,
        selection_fraction=0.25),
    "soc": Setting(objectives.soc(delta=0.2), selection_fraction=0.25),
    "soc_wide": Setting(
        objectives.soc(weight=3.0, delta=0.9), selection_fraction=0.25),
    "soc_few": Setting(objectives.soc(), selection_fraction=0.1),
    "quantile": Setting(
        objectives.soc_quantile(quantile=0.4), selection_fraction=0.25),
    "turns": Setting(
        objectives.c_tpt_two_step(weight=4.0), selection_fraction=0.25),
    "twice": Setting(
        dataclasses.replace(objectives.o_tpt(), num_steps=2),
        selection_fraction=0.1),
}


class AnswerTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.enterContext(jax.enable_x64(True))

  def test_one_by_one(self):
    encode, prepared, views = _data()
    answers = _answer(
        encode, prepared, settings_lib.penalties(prepared, _SETTINGS),
        _SETTINGS, views)
    self.assertEqual(set(answers), set(_SETTINGS))
    for name, setting in _SETTINGS.items():
      for image in range(_IMAGES):
        alone = engine.adapt(
            encode, prepared, views[image], setting.method,
            optimizer=setting.optimizer,
            selection_fraction=setting.selection_fraction)
        with self.subTest(f"{name}, image {image}"):
          jax.tree.map(
              lambda a, b, i=image: np.testing.assert_allclose(
                  a[i], b, rtol=1e-7, atol=1e-10), answers[name], alone)
    # A step of the sign alone leaves little room, but they differ.
    different = {tuple(np.round(np.ravel(a.context), 6))
                 for a in answers.values()}
    self.assertGreater(len(different), 6)

  def test_order_and_company_do_not_matter(self):
    encode, prepared, views = _data()
    alone = {name: _SETTINGS[name] for name in ("turns", "c_tpt")}
    both = [
        _answer(encode, prepared, settings_lib.penalties(prepared, some), some,
                views) for some in (alone, _SETTINGS)]
    for name in alone:
      np.testing.assert_allclose(
          both[0][name].logits, both[1][name].logits, rtol=1e-9)

  def test_an_optimizer_of_its_own_numbers(self):
    # From an empty state AdamW moves by the rate against the gradient's sign.
    _, prepared, views = _data()
    setting = Setting(objectives.tpt(), learning_rate=0.03, weight_decay=0.2)
    gradient = engine.begin(prepared, views[0], 0.25).gradient
    optimizer = setting.optimizer
    update, _ = optimizer.update(
        gradient, optimizer.init(prepared.context), prepared.context)
    np.testing.assert_allclose(
        update, -0.03 * (np.sign(gradient) + 0.2 * prepared.context), rtol=1e-4)

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
        method = objectives.soc(weight=weight, delta=0.3)
        steps[weight] = engine.combine(
            method, start, engine.penalty(prepared, method)).gradient
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
    answer = quick.jit(settings_lib.answer)

    def traced(weights):
      settings = {
          f"soc_{number}": Setting(
              objectives.soc(weight=weight, delta=weight / 100),
              learning_rate=weight * 1e-4)
          for number, weight in enumerate(weights)}
      before = len(traces)
      answer(encode, prepared, settings_lib.penalties(prepared, settings),
             settings, views)
      return len(traces) - before

    few = traced((1.0, 2.0))
    self.assertGreater(few, 0)
    self.assertEqual(traced((8.0, 20.0)), 0)
    # More settings are another program, but not one with more encoders in it.
    self.assertEqual(traced((1.0, 2.0, 3.0, 4.0, 5.0)), few)

  def test_errors_of_the_engine(self):
    encode, prepared, views = _data()
    settings = {"tpt": Setting(objectives.tpt(), selection_fraction=0.05)}
    with self.assertRaisesRegex(ValueError, "12 views keeps none"):
      settings_lib.answer(
          encode, prepared, settings_lib.penalties(prepared, settings),
          settings, views)


class PenaltiesTest(absltest.TestCase):

  def test_weights_share_the_work(self):
    calls = []

    def counted(features):
      calls.append(None)
      return features.mean()

    _, prepared, _ = _data()
    settings = {
        str(weight): Setting(objectives.regularised(counted, weight),
                             learning_rate=weight)
        for weight in (1.0, 2.0, 3.0)}
    penalties = settings_lib.penalties(prepared, settings)
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
    penalties = settings_lib.penalties(prepared, {
        str(number): Setting(objectives.regularised(Partial(own, one), 1.0))
        for number, one in enumerate(anchors)})
    np.testing.assert_allclose(
        penalties["0"].value, np.sum(prepared.text_features), rtol=1e-5)
    self.assertEqual(penalties["1"].value, 0)

  def test_margins_do_not(self):
    _, prepared, _ = _data()
    deltas = {"narrow": 0.1, "wide": 0.6}
    penalties = settings_lib.penalties(prepared, {
        name: Setting(objectives.soc(delta=delta))
        for name, delta in deltas.items()} | {
            "none": Setting(objectives.tpt())})
    for name, delta in deltas.items():
      np.testing.assert_allclose(
          penalties[name].value, orthogonality.semantic_orthogonality(
              prepared.text_features, delta=delta), rtol=1e-6)
    np.testing.assert_array_equal(penalties["none"].gradient, 0)
    self.assertEqual(penalties["none"].value, 0)


if __name__ == "__main__":
  absltest.main()
