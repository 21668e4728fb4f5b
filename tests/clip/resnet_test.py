"""OpenAI's residual networks against OpenCLIP's, stored and live, and numpy."""

import functools
import json
import logging
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxcal.clip import checkpoint
from jaxcal.clip import open_clip
from jaxcal.clip import preprocess
from jaxcal.clip import prompts
from jaxcal.clip import resnet
from jaxcal.clip import towers
from tests import quick
from tests.clip import make_resnet_oracle
from tests.clip import tiny

_TEXT = {"context_length": 77, "vocab_size": 49408, "layers": 12}
# From OpenCLIP's files: embed_dim; side, layers and width of the images; width
# and heads of the text; then parameters, and statistics of batch norms, as its
# models have them.
_PUBLISHED = {
    "RN50": (1024, 224, (3, 4, 6, 3), 64, 512, 8, 102_007_137, 53_248),
    "RN101": (512, 224, (3, 4, 23, 3), 64, 512, 8, 119_688_033, 105_472),
    "RN50x4": (640, 288, (4, 6, 10, 6), 80, 640, 10, 178_300_601, 109_760),
    "RN50x16": (768, 384, (6, 8, 18, 8), 96, 768, 12, 290_979_217, 193_920),
    "RN50x64": (1024, 448, (3, 15, 36, 10), 128, 1024, 16, 623_258_305,
                410_624),
}


def _settings(name, **more):
  out, side, layers, width, text_width, heads, *_ = _PUBLISHED[name]
  return {"model_cfg": {
      "embed_dim": out, **more,
      "vision_cfg": {"image_size": side, "layers": list(layers), "width": width,
                     "patch_size": None},
      "text_cfg": _TEXT | {"width": text_width, "heads": heads}}}


def _outputs(model, pixels, ids):
  """What our towers say, under the names of `make_resnet_oracle.outputs`."""
  ends = prompts.end_positions(ids, model.config.eos_token_id)
  return _programs(model.config, model.params, pixels, ids, ends)


@quick.jit
def _programs(config, params, pixels, ids, ends):
  pooled = towers.pooled_image(config, params, pixels)
  return {
      "image_raw": towers.project(
          pooled.activations, towers.image_projection(config, params)),
      "image_pooled": pooled.activations,
      "text_embeds": towers.text_features(
          config, params, towers.token_embeddings(params, ids), ends)}


def _unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


class ParityTest(parameterized.TestCase):

  def assert_same(self, ours, theirs, tolerance):
    self.assertEqual(ours.keys(), theirs.keys())
    for name, value in ours.items():
      np.testing.assert_allclose(
          value, theirs[name], rtol=tolerance, err_msg=name,
          atol=tolerance * np.abs(theirs[name]).mean())

  @parameterized.parameters("small", "small-quickgelu")
  def test_stored_outputs(self, case):
    folder = tiny.write_resnet(self.create_tempdir().full_path, case=case)
    pixels, ids = make_resnet_oracle.inputs(make_resnet_oracle.MODELS[case])
    stored = make_resnet_oracle.read(case)
    self.assert_same(
        _outputs(checkpoint.load(folder), pixels, ids), stored, 1e-5)
    with jax.enable_x64(True):
      model = checkpoint.load(folder, dtype=jnp.float64)
      self.assert_same(
          _outputs(model, pixels.astype(np.float64), ids), stored, 1e-9)

  def test_texts_tell_the_activations_apart(self):
    exact, quick_one = (make_resnet_oracle.read(case)["text_embeds"]
                        for case in ("small", "small-quickgelu"))
    self.assertGreater(np.abs(exact - quick_one).max(), 1e-3)

  def test_rn50(self):
    settings = make_resnet_oracle.MODELS["RN50-quickgelu"]
    config = open_clip.config({"model_cfg": settings})
    params = open_clip.from_open_clip_names(
        make_resnet_oracle.weights(settings))
    pixels, _ = make_resnet_oracle.inputs(settings)
    stored = make_resnet_oracle.read("RN50-quickgelu")
    pooled = towers.pooled_image(config, params, pixels)
    np.testing.assert_allclose(
        pooled.activations, stored["image_pooled"], rtol=1e-4,
        atol=1e-5 * np.abs(stored["image_pooled"]).mean())
    features = towers.normalise(towers.project(
        pooled.activations, towers.image_projection(config, params)))
    np.testing.assert_allclose(features, _unit(stored["image_raw"]), atol=1e-6)

  @parameterized.parameters(
      {"layers": [1, 2, 1, 3], "width": 6, "head_width": 16, "image_size": 96},
      {"layers": [1, 1, 1, 1], "width": 2, "head_width": 64, "image_size": 32})
  @pytest.mark.needs("open_clip")
  def test_live(self, **vision):
    settings = make_resnet_oracle.MODELS["small"] | {
        "vision_cfg": vision, "embed_dim": 7, "quick_gelu": True}
    pixels, ids = make_resnet_oracle.inputs(settings)
    params = open_clip.from_open_clip_names(
        make_resnet_oracle.weights(settings))
    config = open_clip.config({"model_cfg": settings})
    ends = prompts.end_positions(ids, config.eos_token_id)
    self.assert_same(_programs(config, params, pixels, ids, ends),
                     make_resnet_oracle.outputs(settings), 1e-5)


def _convolve(x, kernel, stride=1):
  """Sums over shifted copies, [n h w c] and [side side c d], zeros around."""
  side = len(kernel)
  x = np.pad(x, ((0, 0), *2 * [(side // 2,) * 2], (0, 0)))
  height, width = (size - side + 1 for size in x.shape[1:3])
  return sum(
      x[:, i:i + height:stride, j:j + width:stride] @ kernel[i, j]
      for i in range(side) for j in range(side))


def _norm(x, p):
  return (x - p["mean"]) / np.sqrt(p["var"] + 1e-5) * p["scale"] + p["bias"]


def _halve(x):
  return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] +
          x[:, 1::2, 1::2]) / 4


def _block(x, p, stride):
  """A block as the paper describes it, in numpy."""
  y = np.maximum(_norm(_convolve(x, p["conv1"]["kernel"]), p["batch_norm1"]), 0)
  y = np.maximum(_norm(_convolve(y, p["conv2"]["kernel"]), p["batch_norm2"]), 0)
  if stride == 2:
    x, y = _halve(x), _halve(y)
  y = _norm(_convolve(y, p["conv3"]["kernel"]), p["batch_norm3"])
  if "downsample_conv" in p:
    x = _norm(_convolve(x, p["downsample_conv"]["kernel"]),
              p["downsample_norm"])
  return np.maximum(x + y, 0)


def _pool(x, p, heads):
  """An attention pool, image by image and head by head."""
  out = []
  for tokens in x.reshape(len(x), -1, x.shape[-1]):
    tokens = np.concatenate([tokens.mean(0)[None], tokens])
    tokens = tokens + p["position_embedding"]["embedding"]
    query, key, value = (
        np.split(tokens @ p[name]["kernel"] + p[name]["bias"], heads, axis=1)
        for name in ("q_proj", "k_proj", "v_proj"))
    out.append(np.concatenate([
        scipy.special.softmax(k @ q[0] / np.sqrt(len(q[0]))) @ v
        for q, k, v in zip(query, key, value)]))
  return np.stack(out)


class LayersTest(parameterized.TestCase):
  """In float64, against what is written out above."""

  def setUp(self):
    super().setUp()
    self.rng = np.random.default_rng(0)

  def _params(self, module, x):
    shapes = jax.eval_shape(
        lambda: module.init(jax.random.key(0), x))["params"]
    return jax.tree.map(
        lambda leaf: self.rng.uniform(0.5, 1.5, leaf.shape) *
        self.rng.choice([-1, 1] if len(leaf.shape) > 1 else [1], leaf.shape),
        shapes)

  @parameterized.parameters((12, 3, 1), (8, 3, 1), (12, 3, 2), (8, 3, 2))
  def test_block(self, before, width, stride):
    module = resnet.Bottleneck(width, stride)
    with jax.enable_x64(True):
      x = self.rng.standard_normal((2, 6, 4, before))
      params = self._params(module, x)
      ours = quick.jit(module.apply)({"params": params}, x)
      self.assertEqual("downsample_conv" in params,
                       before != 12 or stride == 2)
      np.testing.assert_allclose(ours, _block(x, params, stride), rtol=1e-9,
                                 atol=1e-9)

  def test_stem(self):
    module = resnet.Stem(6)
    with jax.enable_x64(True):
      x = self.rng.standard_normal((2, 8, 12, 3))
      p = self._params(module, x)
      ours = quick.jit(module.apply)({"params": p}, x)
      y = x
      for number, stride in ((1, 2), (2, 1), (3, 1)):
        y = np.maximum(_norm(_convolve(y, p[f"conv{number}"]["kernel"], stride),
                             p[f"batch_norm{number}"]), 0)
      np.testing.assert_allclose(ours, _halve(y), rtol=1e-9, atol=1e-9)

  def test_pool(self):
    config = resnet.ResNetConfig(width=2, layers=(1,) * 4, heads=4)
    module = resnet.AttentionPool(config)
    with jax.enable_x64(True):
      x = 0.1 * self.rng.standard_normal((3, 2, 3, config.last_width))
      params = self._params(module, x)
      pool = quick.jit(module.apply)
      found = pool({"params": params}, x)
      np.testing.assert_allclose(found.activations, _pool(x, params, heads=4),
                                 rtol=1e-9, atol=1e-9)
      self.assertIsNone(found.residual)
      # Softmax does not see what is the same for all keys.
      params["k_proj"]["bias"] = params["k_proj"]["bias"] + 1
      np.testing.assert_allclose(pool({"params": params}, x)[0],
                                 found.activations, rtol=1e-9, atol=1e-9)

  def test_norms_stay_in_float32(self):
    module = resnet.FrozenBatchNorm()
    half = lambda x: np.asarray(x, jnp.bfloat16)
    x = half(50 + self.rng.standard_normal((2, 3, 3, 5)))
    params = jax.tree.map(half, self._params(module, x))
    params["mean"] = half(np.full(5, 49.75))
    norm = quick.jit(module.apply)
    found = norm({"params": params}, x)
    self.assertEqual(found.dtype, jnp.bfloat16)
    full = functools.partial(jax.tree.map, np.float32)
    exact = norm({"params": full(params)}, full(x))
    np.testing.assert_array_equal(found, half(exact))


class ConfigTest(parameterized.TestCase):

  @parameterized.product(name=tuple(_PUBLISHED), quick_gelu=(False, True))
  @pytest.mark.slow
  def test_published(self, name, quick_gelu):
    out, side, layers, width, text_width, heads, count, statistics = (
        _PUBLISHED[name])
    config = open_clip.config(_settings(name, quick_gelu=quick_gelu))
    self.assertEqual(config, resnet.ResNetClipConfig(
        text=towers.TowerConfig(
            text_width, 12, heads, 4 * text_width,
            "quick_gelu" if quick_gelu else "gelu"),
        vision=resnet.ResNetConfig(width, layers, heads=width // 2),
        vocab_size=49408, context_length=77, eos_token_id=2, image_size=side,
        projection=out))
    if quick_gelu:
      return
    self.assertEqual(config.pooled_sizes, (32 * width, 0))
    shapes = jax.eval_shape(
        towers.init, config, jax.eval_shape(jax.random.key, 0))
    found = jax.tree_util.tree_leaves_with_path(shapes)
    self.assertEqual(sum(leaf.size for _, leaf in found), count + statistics)
    self.assertEqual(statistics, sum(
        leaf.size for path, leaf in found
        if path[-1].key in ("mean", "var")))
    positions = shapes["vision_model"]["attnpool"]["position_embedding"]
    self.assertEqual(positions["embedding"].shape,
                     ((side // 32)**2 + 1, 32 * width))
    self.assertEqual(
        towers.image_projection(config, jax.tree.map(
            lambda leaf: np.broadcast_to(np.float32(0), leaf.shape),
            shapes)).bias.shape, (out,))

  def test_an_activation_that_is_not_named_is_warned_of(self):
    with self.assertLogs("absl", logging.WARNING) as logs:
      config = open_clip.config(_settings("RN50"))
    self.assertIn("exact GELU", "".join(logs.output))
    self.assertEqual(config.text.activation, "gelu")
    with self.assertNoLogs("absl", logging.WARNING):
      open_clip.config(_settings("RN50", quick_gelu=False))

  def test_what_the_network_does_not_read(self):
    settings = _settings("RN50", quick_gelu=True)
    plain = open_clip.config(settings)
    settings["model_cfg"]["vision_cfg"] |= {"patch_size": 16, "mlp_ratio": 2.0}
    self.assertEqual(open_clip.config(settings), plain)

  @parameterized.parameters(
      ({"layers": [3, 4, 6]}, "four numbers of blocks"),
      ({"layers": [3, 4, 6, 0]}, "blocks|layers is 0"),
      ({"layers": [3, 4, 6, "3"]}, "blocks|layers is '3'"),
      ({"layers": [3, 4, 6, True]}, "blocks|layers is True"),
      ({"width": 63}, "an even width"),
      ({"width": 0}, "an even width|width is 0"),
      ({"head_width": 60}, "width 2048 does not split into 34 heads"),
      ({"head_width": 4096}, "into 0 heads"),
      ({"image_size": 250}, "a multiple of 32 pixels"),
      ({"image_size": 0}, "a multiple of 32 pixels|image_size is 0"),
      ({"image_size": -32}, "a multiple of 32 pixels|image_size is -32"),
      ({"ls_init_value": 1e-5}, "vision_cfg has ls_init_value=1e-05"))
  def test_refused(self, changes, message):
    settings = _settings("RN50", quick_gelu=True)
    settings["model_cfg"]["vision_cfg"] |= changes
    with self.assertRaisesRegex(ValueError, message):
      open_clip.config(settings)


class CheckpointTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def test_the_tree_of_a_fresh_model(self):
    model = checkpoint.load(tiny.write_resnet(self.folder))
    fresh = jax.eval_shape(
        towers.init, model.config, jax.eval_shape(jax.random.key, 0))
    shapes = functools.partial(jax.tree.map, lambda x: (x.shape, x.dtype))
    self.assertEqual(shapes(fresh), shapes(model.params))
    self.assertEqual(model.config.pooled_sizes, (128, 0))
    self.assertEqual(model.preprocess,
                     preprocess.Preprocess(64, 64, offset="round"))

  @pytest.mark.slow
  def test_bytes_to_features(self):
    model = checkpoint.load(tiny.write_resnet(self.folder))
    pixels = np.random.default_rng(0).integers(
        0, 256, (3, 64, 64, 3), np.uint8)
    normalised = preprocess.normalise_pixels(
        pixels, preprocess.CLIP_MEAN, preprocess.CLIP_STD)
    features = model.image_features(pixels)
    np.testing.assert_allclose(features, towers.image_features(
        model.config, model.params, normalised), atol=1e-6)
    projection = towers.image_projection(model.config, model.params)
    np.testing.assert_allclose(
        features, _unit(model.pooled(pixels).activations @ projection.kernel +
                        projection.bias[None]), atol=1e-6)
    half = checkpoint.in_precision(model, image="bfloat16", text="highest")
    self.assertEqual(half.pooled(pixels).activations.dtype, jnp.bfloat16)
    np.testing.assert_allclose(half.image_features(pixels), features, atol=0.05)
    self.assertEqual(half.fingerprint, model.fingerprint)

  def _refuses(self, message):
    with self.assertRaisesRegex(ValueError, message):
      checkpoint.load(self.folder)

  def test_missing_left_over_and_misshapen(self):
    weights = make_resnet_oracle.weights(make_resnet_oracle.MODELS["small"])
    del weights["visual.layer1.0.bn1.running_var"]
    weights["visual.layer1.2.conv1.weight"] = np.ones((4, 16, 1, 1))
    weights["visual.attnpool.c_proj.weight"] = np.ones((12, 64))
    weights["visual.layer3.1.bn2.bias"] = np.full(16, np.nan, np.float32)
    tiny.write_resnet(self.folder, weights)
    self._refuses(
        r"(?s)attnpool/c_proj/kernel: expected \[128, 12\], found \[64, 12\].*"
        r"layer1/0/batch_norm1/var: missing, expected \[4\].*"
        r"layer1/2/conv1/kernel: not of this model.*"
        r"layer3/1/batch_norm2/bias: 16 values are not finite")

  def test_a_variance_below_0(self):
    weights = make_resnet_oracle.weights(make_resnet_oracle.MODELS["small"])
    weights["visual.layer2.0.downsample.1.running_var"][3] = -1e-3
    tiny.write_resnet(self.folder, weights)
    self._refuses("layer2/0/downsample_norm/var: a variance is below 0")

  def test_another_number_of_blocks(self):
    weights = make_resnet_oracle.weights(make_resnet_oracle.MODELS["small"])
    tiny.write_resnet(self.folder, weights, layers=[1, 1, 2, 1])
    self._refuses(r"layer1/1/batch_norm1/bias: not of this model")

  def test_the_configuration_of_a_transformer(self):
    weights = make_resnet_oracle.weights(make_resnet_oracle.MODELS["small"])
    tiny.write_resnet(self.folder, weights, layers=1, width=64, patch_size=16)
    self._refuses(r"(?s)attnpool/\S+: not of this model.*position_embedding")

  def test_images_take_no_prompts(self):
    model = checkpoint.load(tiny.write_resnet(self.folder))
    with self.assertRaisesRegex(ValueError, "takes no prompts"):
      towers.pooled_image(model.config, model.params,
                          np.zeros((1, 64, 64, 3)), np.zeros((1, 2, 4)))

  def test_the_size_of_images_that_keep_their_aspect_stays(self):
    model = checkpoint.load(tiny.write_resnet(self.folder))
    with self.assertRaisesRegex(ValueError, "only squares"):
      checkpoint.at_image_size(model, 96)

  def test_the_format_says_all_of_it(self):
    """What is told of a model is what its fingerprint is of."""
    model = checkpoint.load(tiny.write_resnet(self.folder))
    settings = json.loads((self.folder / "open_clip_config.json").read_text())
    settings["model_cfg"]["quick_gelu"] = False
    tiny.write_json(self.folder / "open_clip_config.json", settings)
    self.assertNotEqual(checkpoint.load(self.folder).fingerprint,
                        model.fingerprint)


if __name__ == "__main__":
  absltest.main()
