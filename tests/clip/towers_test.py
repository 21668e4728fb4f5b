import dataclasses
import functools
import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors
import scipy.special

from jaxcal.clip import checkpoint
from jaxcal.clip import layout
from jaxcal.clip import prompts
from jaxcal.clip import towers
from tests import quick
from tests.clip import make_oracle

TEXT = towers.TowerConfig(width=16, layers=1, heads=2, mlp_width=24)
VISION = towers.TowerConfig(
    width=12, layers=1, heads=3, mlp_width=20, activation="gelu")
CONFIG = towers.ClipConfig(
    text=TEXT, vision=VISION, vocab_size=30, context_length=8, eos_token_id=2,
    image_size=6, patch_size=3, projection=5)


def outputs(model, pixels, ids):
  """What our towers say, under the names of `make_oracle.outputs`."""
  ends = prompts.end_positions(ids, model.config.eos_token_id)
  return _outputs(model.config, model.params, pixels, ids, ends)


@jax.jit
def _outputs(config, params, pixels, ids, ends):
  embeddings = towers.token_embeddings(params, ids)
  text = towers.text_features(config, params, embeddings, ends)
  image = towers.image_features(config, params, pixels)
  return {
      "image_embeds": image,
      "text_embeds": text,
      "image_pooled": towers.pooled_image(config, params, pixels).activations,
      "text_pooled": towers.pooled_text(config, params, embeddings, ends),
      "logits": jnp.exp(params["logit_scale"]) * image @ text.T,
  }


class ParityTest(parameterized.TestCase):

  def assert_same(self, ours, theirs):
    self.assertEqual(ours.keys(), theirs.keys())
    for name in ours:
      np.testing.assert_allclose(
          ours[name], theirs[name], rtol=1e-5, atol=1e-5, err_msg=name)

  @parameterized.parameters(*make_oracle.CONFIGS)
  def test_stored_outputs_of_the_pytorch_towers(self, case):
    mine = make_oracle.read(case)
    folder = pathlib.Path(self.create_tempdir().full_path)
    (folder / "config.json").write_text(str(mine.pop("config")))
    weights = {key.removeprefix("weights/"): mine.pop(key)
               for key in list(mine) if key.startswith("weights/")}
    safetensors.save_file(weights, folder / "model.safetensors")
    model = checkpoint.load(folder)
    ours = outputs(model, mine.pop("pixels"), mine.pop("token_ids"))
    self.assert_same(ours, mine)
    # What comes before the projection, put through the one of the file.
    for side, matrix in (("image", "visual_projection.weight"),
                         ("text", "text_projection.weight")):
      embeds = np.asarray(ours[f"{side}_pooled"]) @ weights[matrix].T
      np.testing.assert_allclose(
          embeds / np.linalg.norm(embeds, axis=-1, keepdims=True),
          mine[f"{side}_embeds"], rtol=1e-5, atol=1e-5)

  @parameterized.parameters(
      ("legacy", 11, {}), ("first", 12, {}),
      ("legacy", 13, {"hidden_act": "gelu"}),
      ("first", 14, {"num_attention_heads": 6, "layer_norm_eps": 1e-6}))
  @pytest.mark.needs("torch")
  def test_pytorch_towers_live(self, case, seed, changes):
    config = json.loads(json.dumps(make_oracle.CONFIGS[case]))
    config["vision_config"] |= changes
    theirs, pixels, ids = make_oracle.model_and_inputs(config, seed)
    folder = self.create_tempdir().full_path
    theirs.save_pretrained(folder)
    ours = outputs(checkpoint.load(folder), pixels, ids)
    self.assert_same(ours, make_oracle.outputs(theirs, pixels, ids))

  @parameterized.parameters(*make_oracle.CONFIGS)
  def test_flax_towers_live(self, case):
    import transformers
    if int(transformers.__version__.split(".")[0]) >= 5:
      self.skipTest("transformers 5 has no Flax towers")
    config = make_oracle.CONFIGS[case]
    theirs = transformers.FlaxCLIPModel(
        transformers.CLIPConfig.from_dict(config), seed=3)
    rng = np.random.default_rng(5)
    theirs.params = jax.tree.map(
        lambda x: x + 0.1 * rng.standard_normal(x.shape, np.float32),
        theirs.params)
    folder = self.create_tempdir().full_path
    theirs.save_pretrained(folder)
    model = checkpoint.load(folder)
    jax.tree.map(np.testing.assert_array_equal, model.params, theirs.params)
    text, side = config["text_config"], config["vision_config"]["image_size"]
    ids = make_oracle.prompts(rng, text, count=3)
    pixels = rng.standard_normal((2, side, side, 3), np.float32)
    with jax.numpy_rank_promotion("allow"):
      out = theirs(ids, pixels.transpose(0, 3, 1, 2))
    self.assert_same(outputs(model, pixels, ids), {
        "image_embeds": out.image_embeds,
        "text_embeds": out.text_embeds,
        "image_pooled": out.vision_model_output.pooler_output,
        "text_pooled": out.text_model_output.pooler_output,
        "logits": out.logits_per_image,
    })


def _deeper():
  return dataclasses.replace(
      CONFIG, vision=dataclasses.replace(VISION, layers=3))


class TowersTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.params = jax.tree.map(
        np.asarray, towers.init(CONFIG, jax.random.key(0)))
    rng = np.random.default_rng(0)
    cls.pixels = rng.standard_normal((3, 6, 6, 3), np.float32)
    cls.tokens = rng.standard_normal((4, 8, 16), np.float32)
    cls.ends = np.array([3, 5, 7, 2])

  def test_activations_match_scipy(self):
    x = np.linspace(-6, 6, 49)
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    expected = (x * scipy.special.ndtr(x), x * scipy.special.expit(1.702 * x),
                x * (1 + np.tanh(inner)) / 2)
    with jax.enable_x64(True):
      found = quick.jit(lambda x: (
          towers.gelu(x), towers.quick_gelu(x), towers.gelu_tanh(x)))(x)
      for ours, theirs in zip(found, expected):
        np.testing.assert_allclose(ours, theirs, atol=1e-14)

  def test_features_have_unit_norm(self):
    text = towers.text_features(CONFIG, self.params, self.tokens, self.ends)
    image = towers.image_features(CONFIG, self.params, self.pixels)
    self.assertEqual(text.shape, (4, 5))
    self.assertEqual(image.shape, (3, 5))
    for features in (text, image):
      np.testing.assert_allclose(
          np.linalg.norm(features, axis=-1), 1, rtol=1e-6)

  def test_projection_by_hand(self):
    rng = np.random.default_rng(3)
    x, kernel, bias, residual = map(
        rng.standard_normal, ((2, 3, 4), (4, 5), 5, (2, 3, 5)))
    expected = np.zeros((2, 3, 5))
    for n, m, d in np.ndindex(2, 3, 5):
      expected[n, m, d] = sum(x[n, m, p] * kernel[p, d] for p in range(4))
    for name, projection, added, want in (
        ("plain", towers.Projection(kernel), None, expected),
        ("bias", towers.Projection(kernel, bias), None,
         expected + bias[None, None]),
        ("all", towers.Projection(kernel, bias), residual,
         expected + bias[None, None] + residual)):
      np.testing.assert_allclose(
          towers.project(x, projection, added), want, rtol=2e-6, atol=1e-6,
          err_msg=name)
      np.testing.assert_allclose(  # a single vector
          towers.project(
              x[1, 2], projection, None if added is None else added[1, 2]),
          want[1, 2], rtol=2e-6, atol=1e-6, err_msg=name)

  def test_nothing_after_the_end_token_matters(self):
    whole = towers.text_features(CONFIG, self.params, self.tokens, self.ends)
    changed = self.tokens.copy()
    changed[1, 6:] += 7.0
    np.testing.assert_array_equal(
        towers.text_features(CONFIG, self.params, changed, self.ends), whole)
    np.testing.assert_allclose(
        towers.text_features(
            CONFIG, self.params, self.tokens[[0, 1, 3], :6],
            self.ends[[0, 1, 3]]),
        np.asarray(whole)[[0, 1, 3]], atol=1e-6)

  def test_everything_up_to_the_end_token_matters(self):
    whole = towers.text_features(CONFIG, self.params, self.tokens, self.ends)
    for position in range(4):
      changed = self.tokens.copy()
      changed[0, position] += np.linspace(-1, 1, 16)
      moved = towers.text_features(CONFIG, self.params, changed, self.ends)
      self.assertGreater(np.abs(
          np.asarray(moved)[0] - np.asarray(whole)[0]).max(), 1e-4)

  def test_without_the_causal_mask_each_token_sees_all(self):
    """In one layer, as much as the last one of a causal tower sees."""
    free = dataclasses.replace(CONFIG, causal=False)
    positions = self.params["text_model"]["embeddings"]["position_embedding"][
        "embedding"]
    for end in (0, 3, 7):
      order = np.r_[np.delete(np.arange(8), end), end]
      # Tokens change places and take their position vectors with them.
      moved = self.tokens[:, order] + (positions[order] - positions)[None]
      np.testing.assert_allclose(
          towers.text_features(free, self.params, self.tokens, np.full(4, end)),
          towers.text_features(CONFIG, self.params, moved, np.full(4, 7)),
          atol=1e-6)

  def test_jit_and_vmap_change_nothing(self):
    alone = towers.image_features(CONFIG, self.params, self.pixels)
    features = jax.jit(towers.image_features)(CONFIG, self.params, self.pixels)
    np.testing.assert_allclose(features, alone, atol=1e-6)
    static = jax.jit(towers.image_features, static_argnums=0)
    np.testing.assert_allclose(
        static(CONFIG, self.params, self.pixels), features, atol=1e-6)
    one_by_one = jax.jit(jax.vmap(
        lambda x: towers.image_features(CONFIG, self.params, x[None])[0]))
    np.testing.assert_allclose(
        one_by_one(self.pixels), features, atol=1e-6)

  @pytest.mark.slow
  def test_image_prompts_that_would_flow_anyway_change_nothing(self):
    config, params = _deeper(), towers.init(_deeper(), jax.random.key(0))
    with jax.enable_x64(True):
      params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
      prompts = np.random.default_rng(1).standard_normal((1, 2, 12))
      states = jax.jit(functools.partial(
          config.image_tower().apply, capture_intermediates=True))
      for image in np.float64(self.pixels)[:2, None]:
        _, seen = states({"params": params["vision_model"]}, image, prompts)
        layers = seen["intermediates"]["encoder"]["layers"]
        flowing = [np.asarray(layers[str(i)]["__call__"][0])[:, -2:]
                   for i in range(2)]
        whole = towers.image_features(config, params, image, prompts)
        without = towers.image_features(config, params, image)
        self.assertGreater(np.abs(whole - without).max(), 1e-3)
        for stop in (1, 2):
          replaced = np.concatenate([prompts, *flowing[:stop]])
          np.testing.assert_allclose(
              towers.image_features(config, params, image, replaced), whole,
              atol=1e-12)
          moved = replaced.copy()
          moved[stop, :, 0] += 9
          self.assertGreater(np.abs(towers.image_features(
              config, params, image, moved) - whole).max(), 1e-4)

  def test_image_prompts_are_more_tokens_without_positions(self):
    prompts = np.random.default_rng(1).standard_normal((1, 2, 12), np.float32)
    # A black patch is its position vector alone, so a larger model whose last
    # positions are the prompts sees what a smaller one does with them.
    bigger = dataclasses.replace(CONFIG, image_size=9)
    params = towers.init(CONFIG, jax.random.key(0))
    grown = jax.tree.map(lambda x: x, params)
    positions = params["vision_model"]["embeddings"]["position_embedding"]
    grown["vision_model"]["embeddings"]["position_embedding"] = {
        "embedding": np.concatenate([
            positions["embedding"], prompts[0], prompts[0], prompts[0, :1]])}
    pixels = np.zeros((3, 9, 9, 3), np.float32)
    # Row by row, the first four of nine patches hold the image.
    patches = self.pixels.reshape(3, 2, 3, 2, 3, 3).swapaxes(2, 3).reshape(
        3, 4, 3, 3, 3)
    pixels[:, :3] = patches[:, :3].swapaxes(1, 2).reshape(3, 3, 9, 3)
    pixels[:, 3:6, :3] = patches[:, 3]
    more = np.concatenate([prompts, prompts, prompts[:, :1]], axis=1)
    np.testing.assert_allclose(
        towers.image_features(CONFIG, params, self.pixels, more),
        towers.image_features(bigger, grown, pixels), atol=1e-6)

  def test_image_prompts_that_do_not_fit(self):
    for shape in ((2, 1, 12), (0, 1, 12), (1, 1, 11), (1, 12)):
      with self.assertRaisesRegex(
          ValueError, r"\[e, n, 12\] expected, with e from 1 to 1, but"):
        towers.image_features(
            CONFIG, self.params, self.pixels, np.zeros(shape))

  def test_bfloat16_stays_close(self):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), self.params)
    features = towers.image_features(
        CONFIG, half, self.pixels.astype(jnp.bfloat16))
    self.assertEqual(features.dtype, jnp.float32)  # normalised in float32
    expected = towers.image_features(CONFIG, self.params, self.pixels)
    cosines = (np.asarray(features) * np.asarray(expected)).sum(-1)
    self.assertGreater(cosines.min(), 0.999)

  def test_parameters_are_those_of_the_pytorch_model(self):
    names = layout.to_torch_names(self.params)
    with np.load(make_oracle.PATH) as oracle:
      stored = {
          key.removeprefix("legacy/weights/") for key in oracle
          if key.startswith("legacy/weights/")}
    # The stored model has second layers, ours has not.
    expected = {name for name in stored if ".layers.1." not in name}
    self.assertEqual(names.keys(), expected)

  def test_init_depends_on_the_key_alone(self):
    again = towers.init(CONFIG, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, again, self.params)
    other = towers.init(CONFIG, jax.random.key(1))
    self.assertFalse(np.array_equal(
        other["visual_projection"]["kernel"],
        self.params["visual_projection"]["kernel"]))

  def test_gradients_reach_every_parameter(self):
    def loss(params):
      ids = jnp.arange(30).reshape(5, 6)
      text = towers.text_features(
          CONFIG, params, towers.token_embeddings(params, ids),
          jnp.full((5,), 5))
      image = towers.image_features(CONFIG, params, self.pixels)
      return jnp.exp(params["logit_scale"]) * (image @ text.T)[0, 0]
    gradients = layout.to_torch_names(quick.jit(jax.grad(loss))(self.params))
    for name, gradient in gradients.items():
      self.assertTrue(np.isfinite(gradient).all(), name)
      # A constant added to all keys of a head cancels in the softmax.
      if not name.endswith("k_proj.bias"):
        self.assertGreater(np.abs(gradient).max(), 0, name)

  def test_errors(self):
    with self.assertRaisesRegex(ValueError, "16 does not split into 3 heads"):
      towers.TowerConfig(width=16, layers=1, heads=3, mlp_width=4)
    with self.assertRaisesRegex(
        ValueError, "unknown activation 'relu'; choose from: gelu, .*quick_ge"):
      towers.TowerConfig(
          width=4, layers=1, heads=2, mlp_width=4, activation="relu")
    with self.assertRaisesRegex(ValueError, "6 pixels does not split"):
      towers.ClipConfig(
          text=TEXT, vision=VISION, vocab_size=30, context_length=8,
          eos_token_id=2, image_size=6, patch_size=4, projection=5)
    with self.assertRaisesRegex(ValueError, r"\[n, 6, 6, 3\] expected"):
      towers.image_features(CONFIG, self.params, self.pixels[:, :3])
    with self.assertRaisesRegex(ValueError, r"\[k, t, 16\] expected"):
      towers.text_features(
          CONFIG, self.params, self.tokens[..., :8], self.ends)
    with self.assertRaisesRegex(ValueError, "9 tokens.* 8 positions"):
      towers.text_features(
          CONFIG, self.params, np.zeros((4, 9, 16)), self.ends)


if __name__ == "__main__":
  absltest.main()
