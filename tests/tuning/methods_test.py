"""Methods by name: all of them run, and a name means what it says."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxcal.clip import checkpoint
from jaxcal.clip import prompts as prompts_lib
from jaxcal.clip import towers
from jaxcal.testbed import shipped
from jaxcal.tuning import maple
from jaxcal.tuning import method as method_lib
from jaxcal.tuning import methods
from jaxcal.tuning import presets
from jaxcal.tuning import tip_adapter
from jaxcal.tuning import two_towers
from tests.clip import tiny

_NAMES = ("red circle", "blue square", "star")
_LABELS = jnp.array([0, 1, 2, 0])


@functools.cache
def _model():
  return checkpoint.load(shipped.folder())


@functools.cache
def _images():
  rng = np.random.default_rng(0)
  size = _model().preprocess.crop
  pixels = rng.integers(0, 256, (4, size, size, 3)).astype(np.uint8)
  pooled = _model().pooled(pixels)
  embeddings = jnp.asarray(towers.project(
      pooled.activations, towers.image_projection(
          _model().config, _model().params)))
  return method_lib.Images(
      towers.normalise(embeddings), embeddings, None, jnp.asarray(pixels))


def _spec(name, **changes):
  recipe = presets.recipe(name, "upstream")
  return methods.Spec(
      name, num_context=recipe.num_context, from_words=recipe.from_words,
      outlier_weight=2.0)._replace(**changes)


def _made(spec):
  cache = None
  if spec.kind.cached:
    cache = tip_adapter.make_cache(
        _images().embeddings[None], _LABELS, len(_NAMES))
  method = methods.build(spec, _model(), cache)
  prompts = methods.prompts_of(spec, _model(), _NAMES)
  return method, prompts, method.init(jax.random.key(1), prompts)


def _zero_shot_logits():
  """From the whole text tower, without contexts and shared prefixes."""
  config = _model().config
  bank = prompts_lib.prompt_bank(
      _model().tokenizer, _NAMES, context_length=config.context_length,
      eos_token_id=config.eos_token_id)
  text = _model().text_features(bank)
  scale = jnp.exp(_model().params["logit_scale"])
  return scale * _images().features @ text.T


class MethodsTest(parameterized.TestCase):

  @parameterized.parameters(*methods.METHODS)
  @pytest.mark.slow
  def test_every_name_has_a_loss_of_its_predictions(self, name):
    spec = _spec(name)
    if spec.kind.outliers == "names":
      spec = spec._replace(additions=("dor",))
    method, prompts, params = _made(spec)
    outliers = methods.prompts_of(
        spec, _model(), ("cat", "green dog"), as_table=True)
    loss, parts = method.loss(
        params, prompts, method_lib.Batch(_images(), _LABELS, outliers))
    self.assertTrue(np.isfinite(loss))
    self.assertEqual("outliers" in parts, spec.outliers == "names")
    logits = np.asarray(
        method.logits(params, prompts, _images()), np.float64)
    self.assertEqual(logits.shape, (4, 3))
    expected = np.mean(special.logsumexp(logits, axis=1) -
                       logits[np.arange(4), np.asarray(_LABELS)])
    np.testing.assert_allclose(parts["cross_entropy"], expected, rtol=1e-4)

  @parameterized.parameters(
      ("coop", 4), ("kgcoop", 4), ("prograd", 4), ("coop_class_specific", 4))
  def test_words_begin_as_the_zero_shot_model(self, name, num_context):
    method, prompts, params = _made(
        _spec(name, num_context=num_context, from_words=True))
    np.testing.assert_allclose(
        method.logits(params, prompts, _images()), _zero_shot_logits(),
        atol=2e-4)

  def test_more_vectors_than_words_are_zeros_before_them(self):
    spec = _spec("prograd", num_context=6)
    _, _, params = _made(spec)
    _, _, words = _made(spec._replace(num_context=4))
    np.testing.assert_array_equal(params["context"][:2], 0)
    np.testing.assert_array_equal(params["context"][2:], words["context"])

  def test_fewer_vectors_than_words_are_the_last_ones(self):
    spec = _spec("coop", num_context=2, from_words=True)
    _, prompts, params = _made(spec)
    _, _, words = _made(spec._replace(num_context=4))
    np.testing.assert_array_equal(params["context"], words["context"][2:])
    self.assertEqual(prompts.encode.context_shape[0], 2)

  @parameterized.parameters("front", "middle")
  @pytest.mark.slow
  def test_position_of_the_name(self, position):
    spec = _spec("coop", num_context=4, from_words=False)
    end, moved = (
        _made(spec._replace(class_position=p)) for p in ("end", position))
    logits = [method.logits(params, prompts, _images())
              for method, prompts, params in (end, moved)]
    np.testing.assert_array_equal(end[2]["context"], moved[2]["context"])
    self.assertGreater(np.abs(logits[0] - logits[1]).max(), 1e-2)

  def test_pixels_are_standardised_as_they_are_read(self):
    spec = _spec("maple", from_words=False)
    method, prompts, params = _made(spec)
    settings = _model().preprocess
    pixels = np.asarray(_images().pixels, np.float64) / 255
    pixels = (pixels - np.array(settings.mean)) / np.array(settings.std)
    depth = min(9, _model().config.text.layers, _model().config.vision.layers)
    plain = maple.method(
        _model().config, _model().params, depth=depth, num_context=2,
        logit_scale=jnp.exp(_model().params["logit_scale"]))
    np.testing.assert_allclose(
        method.logits(params, prompts, _images()),
        plain.logits(params, prompts, _images()._replace(
            pixels=jnp.asarray(pixels, jnp.float32))), atol=1e-4)

  @pytest.mark.slow
  def test_a_cache_without_weight_is_the_zero_shot_model(self):
    plain, prompts, params = _made(_spec("tip_adapter"))
    light, _, _ = _made(_spec("tip_adapter", cache_weight=0.0))
    sharp, _, _ = _made(_spec("tip_adapter", cache_sharpness=50.0))
    logits = [np.asarray(one.logits(params, prompts, _images()))
              for one in (plain, light, sharp)]
    np.testing.assert_allclose(logits[1], _zero_shot_logits(), atol=2e-4)
    # Of an image that is in the cache, its own key alone is left: weight 1.
    own = (logits[2] - logits[1])[np.arange(3), np.asarray(_LABELS[:3])]
    np.testing.assert_allclose(own, 1, atol=0.3)
    self.assertGreater(np.abs(logits[0] - logits[2]).max(), 0.1)

  @parameterized.parameters("zs_norm", "penalty")
  def test_logit_range_changes_the_training_alone(self, addition):
    plain, prompts, params = _made(_spec("clip_adapter"))
    regularised, _, _ = _made(_spec("clip_adapter", additions=(addition,)))
    params = jax.tree.map(lambda x: 20 * x, params)  # out of the range
    batch = method_lib.Batch(_images(), _LABELS)
    self.assertNotAlmostEqual(
        float(plain.loss(params, prompts, batch)[0]),
        float(regularised.loss(params, prompts, batch)[0]), places=2)
    np.testing.assert_array_equal(
        plain.logits(params, prompts, _images()),
        regularised.logits(params, prompts, _images()))

  def test_images_as_outliers_of_clip_adapter(self):
    method, prompts, params = _made(_spec("clip_adapter", additions=("dor",)))
    others = jax.tree.map(lambda x: x[::-1][:2], _images())
    _, parts = method.loss(params, prompts, method_lib.Batch(
        _images(), _LABELS, others))
    self.assertGreater(parts["outliers"], 0)

  @parameterized.parameters(
      ("coup", (), "unknown method 'coup'; did you mean coop.* choose from: "),
      ("coop+dor", (), "unknown method 'coop.dor'"),  # no name is taken apart
      ("coop", ("dor", "zs_norm"), "each once, in this order"),
      ("coop", ("dor", "dor"), "each once"),
      ("coop", ("door",), "must be of zs_norm, penalty, dor"),
      ("taskres", ("dor",), "parameters of taskres belong to the classes"),
      ("prograd", ("penalty",), "a direction of its own"))
  def test_what_is_refused(self, name, additions, message):
    with self.assertRaisesRegex(ValueError, message):
      methods.check(name, additions)
      methods.build(methods.Spec(name, additions), _model())

  @parameterized.parameters(tiny.write_siglip, tiny.write_resnet)
  def test_prompts_of_images_need_a_vision_transformer(self, write):
    model = checkpoint.load(write(self.create_tempdir().full_path))
    for name in set(methods.METHODS) - {"maple", "promptsrc"}:
      methods.check_model(_spec(name), model)
    for name in ("maple", "promptsrc"):
      message = f"^{name} learns prompts of images.*choose from: coop,"
      with self.assertRaisesRegex(ValueError, message):
        methods.check_model(_spec(name), model)
      with self.assertRaisesRegex(ValueError, message):
        methods.build(_spec(name), model)
    with self.assertRaisesRegex(ValueError, "takes no prompts"):
      two_towers.bind(
          model.config, model.params, logit_scale=1.0, words=None,
          num_context=2, num_vision=2, text_depth=1, vision_depth=1)


if __name__ == "__main__":
  absltest.main()
