"""SigLIP against PyTorch's towers and its tokenizer, stored and live."""

import functools
import importlib.util
import io
import json
import pathlib
import sys
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcal import tasks
from jaxcal.clip import captions
from jaxcal.clip import checkpoint
from jaxcal.clip import hugging_face
from jaxcal.clip import prefix
from jaxcal.clip import preprocess
from jaxcal.clip import prompts
from jaxcal.clip import siglip
from jaxcal.clip import towers
from tests import quick
from tests import shared
from tests.clip import make_oracle
from tests.clip import tiny

_WORDS = "a photo of the red tall cat dog house tiger".split()


@functools.cache
def _sentencepiece():
  """The bytes of a vocabulary whose words are one token each."""
  import sentencepiece
  rng = np.random.default_rng(0)
  written = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=(" ".join(rng.choice(_WORDS, 6)) for _ in range(400)),
      model_writer=written, vocab_size=60, hard_vocab_limit=False, pad_id=0,
      eos_id=1, unk_id=2, bos_id=-1, num_threads=1, minloglevel=2)
  return written.getvalue()


def _outputs(model, pixels, ids):
  """What our towers say, under the names of `make_oracle.siglip_outputs`."""
  ends = prompts.end_positions(ids, model.config.eos_token_id)
  return _programs(model.config, model.params, pixels, ids, ends)


@quick.jit
def _programs(config, params, pixels, ids, ends):
  embeddings = towers.token_embeddings(params, ids)
  pooled = towers.pooled_image(config, params, pixels)
  text_pooled = towers.pooled_text(config, params, embeddings, ends)
  image = towers.image_features(config, params, pixels)
  text = towers.text_features(config, params, embeddings, ends)
  return {
      "image_embeds": image,
      "text_embeds": text,
      "image_raw": towers.project(
          pooled.activations, towers.image_projection(config, params),
          pooled.residual),
      "text_raw": towers.project(
          text_pooled, towers.text_projection(config, params)),
      "image_pooled": pooled.activations,
      "image_residual": pooled.residual,
      "text_pooled": text_pooled,
      "logits": (jnp.exp(params["logit_scale"]) * image @ text.T +
                 params["logit_bias"]),
  }


class ParityTest(parameterized.TestCase):

  def assert_same(self, ours, theirs):
    self.assertEqual(ours.keys(), theirs.keys())
    for name in ours:
      np.testing.assert_allclose(
          ours[name], theirs[name], rtol=1e-5, atol=1e-5, err_msg=name)

  def test_stored_outputs_of_the_pytorch_towers(self):
    model = checkpoint.load(tiny.write_siglip(self.create_tempdir().full_path))
    case = make_oracle.read("siglip")
    ours = _outputs(model, case["pixels"], case["token_ids"])
    self.assert_same(ours, {name: case[name] for name in ours})

  # The third one has the heads and the patches of so400m, one layer of it.
  @parameterized.parameters(
      (21, {}), (22, {"image_size": 12, "num_attention_heads": 1}),
      (23, {"hidden_size": 144, "num_attention_heads": 2, "patch_size": 14,
            "num_hidden_layers": 1, "image_size": 34}))
  @pytest.mark.needs("torch")
  def test_pytorch_towers_live(self, seed, changes):
    config = json.loads(json.dumps(make_oracle.SIGLIP))
    config["vision_config"] |= changes
    config["text_config"]["projection_size"] = config["vision_config"][
        "hidden_size"]
    theirs, pixels, ids = make_oracle.siglip_and_inputs(config, seed)
    folder = self.create_tempdir().full_path
    theirs.save_pretrained(folder, max_shard_size="8KB")
    self.assertTrue(
        pathlib.Path(folder, "model.safetensors.index.json").exists())
    ours = _outputs(checkpoint.load(folder), pixels, ids)
    self.assert_same(ours, make_oracle.siglip_outputs(theirs, pixels, ids))

  def test_pool_of_the_posterior_reference(self):
    folder = shared.path("oracles/bayesvlm")
    with np.load(folder / "bayesvlm_oracle.npz") as oracle:
      case = {key.removeprefix("map_head."): oracle[key]
              for key in oracle if key.startswith("map_head.")}
    head = siglip.from_torch_names({
        key.replace("w.", "vision_model.head.", 1): value
        for key, value in case.items() if key.startswith("w.")})
    head = head["vision_model"]["head"]
    config = towers.TowerConfig(
        width=8, layers=1, heads=int(case["num_heads"]), mlp_width=16,
        activation="gelu_pytorch_tanh", layer_norm_eps=1e-6)
    pooled = quick.jit(siglip.AttentionPool(config).apply)(
        {"params": head}, case["tokens"])
    np.testing.assert_allclose(
        pooled.activations, case["activations"], atol=1e-6)
    np.testing.assert_allclose(pooled.residual, case["residuals"], atol=1e-6)
    embeds = towers.project(
        pooled.activations, towers.Projection(**head["mlp"]["fc2"]),
        pooled.residual)
    np.testing.assert_allclose(embeds, case["embeds"], atol=1e-6)
    np.testing.assert_allclose(embeds, case["pooled_hf"], atol=1e-6)


class CheckpointTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def test_config(self):
    model = checkpoint.load(tiny.write_siglip(self.folder))
    self.assertEqual(model.config, siglip.SiglipConfig(
        text=towers.TowerConfig(16, 2, 2, 28, "gelu_pytorch_tanh", 1e-3),
        vision=towers.TowerConfig(20, 2, 4, 44, "gelu_pytorch_tanh", 1e-2),
        vocab_size=60, context_length=9, image_size=14, patch_size=4,
        projection=20))
    self.assertFalse(model.config.causal)
    self.assertIsNone(model.config.eos_token_id)
    self.assertIsNone(model.tokenizer)
    self.assertEqual(model.params["logit_bias"].shape, ())

  def test_the_tree_of_a_fresh_model(self):
    model = checkpoint.load(tiny.write_siglip(self.folder))
    fresh = jax.eval_shape(
        towers.init, model.config, jax.eval_shape(jax.random.key, 0))
    shapes = functools.partial(jax.tree.map, lambda x: (x.shape, x.dtype))
    self.assertEqual(shapes(fresh), shapes(model.params))
    self.assertEqual(model.config.pooled_sizes, (44, 20))

  @pytest.mark.slow
  def test_so400m(self):
    """The sizes of google/siglip-so400m-patch14-384, nothing of it allocated;
    the number of parameters is that of transformers' model."""
    tower = {"hidden_size": 1152, "intermediate_size": 4304,
             "num_hidden_layers": 27, "num_attention_heads": 16}
    config = hugging_face.siglip_config({
        "model_type": "siglip", "text_config": tower | {"vocab_size": 32000},
        "vision_config": tower | {"image_size": 384, "patch_size": 14}})
    self.assertEqual(config.vision, towers.TowerConfig(
        1152, 27, 16, 4304, "gelu_pytorch_tanh", 1e-6))
    self.assertEqual(config.pooled_sizes, (4304, 1152))
    shapes = jax.eval_shape(
        towers.init, config, jax.eval_shape(jax.random.key, 0))
    self.assertEqual(
        sum(leaf.size for leaf in jax.tree.leaves(shapes)), 877_960_498)
    # 27 patches of 14 in a side of 384, and six pixels that are not seen.
    positions = shapes["vision_model"]["embeddings"]["position_embedding"]
    self.assertEqual(positions["embedding"].shape, (27 * 27, 1152))

  @pytest.mark.slow
  def test_bytes_to_features(self):
    model = checkpoint.load(tiny.write_siglip(self.folder))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 14, 14, 3), np.uint8)
    normalised = (pixels / 127.5 - 1).astype(np.float32)
    np.testing.assert_allclose(
        model.image_features(pixels),
        towers.image_features(model.config, model.params, normalised),
        atol=1e-5)
    half = checkpoint.in_precision(model, image="bfloat16", text="highest")
    pooled = half.pooled(pixels)
    self.assertEqual(
        [x.dtype for x in pooled], [jnp.bfloat16, jnp.bfloat16])
    np.testing.assert_array_equal(
        half.params["text_model"]["head"]["bias"],
        model.params["text_model"]["head"]["bias"])

  @parameterized.parameters(
      ({}, preprocess.Preprocess(
          (14, 14), 14, "bicubic", (0.5,) * 3, (0.5,) * 3)),
      ({"do_resize": True, "size": {"height": 14, "width": 14}, "resample": 2,
        "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6],
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True},
       preprocess.Preprocess(
           (14, 14), 14, "bilinear", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))))
  def test_preprocessing(self, settings, expected):
    (tiny.write_siglip(self.folder) / "preprocessor_config.json").write_text(
        json.dumps(settings))
    self.assertEqual(checkpoint.load(self.folder).preprocess, expected)

  def test_preprocessing_of_transformers_own_processor(self):
    import transformers
    backend = getattr(transformers, "SiglipImageProcessorPil",
                      transformers.SiglipImageProcessor)
    settings = json.loads(backend(
        size={"height": 14, "width": 14}).to_json_string())
    self.assertEqual(siglip.preprocessing(settings, 14),
                     siglip.preprocessing({}, 14))
    with self.assertRaisesRegex(ValueError, r"\(14, 14\).*takes 16 x 16"):
      siglip.preprocessing(settings, 16)

  def test_another_image_size(self):
    model = checkpoint.load(tiny.write_siglip(self.folder))
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 15, 15, 3), np.uint8)
    larger = checkpoint.at_image_size(model, 15)
    self.assertEqual(larger.preprocess.resize, (15, 15))
    self.assertEqual(larger.preprocess.crop, 15)
    features = larger.image_features(pixels)
    # Three patches of 4 in each direction: the rest is not seen.
    smaller = checkpoint.at_image_size(model, 12)
    np.testing.assert_array_equal(
        smaller.image_features(pixels[:, :12, :12]), features)
    pixels[:, 11] //= 2
    self.assertFalse(np.allclose(larger.image_features(pixels), features))
    with self.assertRaisesRegex(
        ValueError, "16 pixels hold 4 x 4 patches of 4, but .* 3 x 3"):
      checkpoint.at_image_size(model, 16)

  def test_images_take_no_prompts(self):
    model = checkpoint.load(tiny.write_siglip(self.folder))
    config, side = model.config, model.config.image_size
    with self.assertRaisesRegex(ValueError, "takes no prompts"):
      towers.pooled_image(
          config, model.params, np.zeros((1, side, side, 3)),
          np.zeros((1, 2, config.vision.width)))

  def _refuses(self, message):
    with self.assertRaisesRegex(ValueError, message):
      checkpoint.load(self.folder)

  def test_missing_left_over_and_misshapen(self):
    weights = tiny.siglip_weights()
    del weights["vision_model.head.probe"]
    tiny.write_siglip(self.folder, weights)
    self._refuses(r"vision_model/head/probe: missing, expected \[1, 1, 20\]")
    weights = tiny.siglip_weights()
    weights["vision_model.head.attention.in_proj_weight"] = np.ones((57, 20))
    weights["vision_model.pre_layrnorm.weight"] = np.ones(20)
    weights["logit_bias"] = np.zeros(2)
    tiny.write_siglip(self.folder, weights)
    self._refuses(
        r"(?s)logit_bias: expected \[\], found \[2\].*q_proj/kernel: "
        r"expected \[20, 20\], found \[20, 19\].*pre_layrnorm/scale: not of")

  @parameterized.parameters(
      ("text_config", {"projection_size": 8},
       "text tower projects to 8 dimensions, but images have 20"),
      ("vision_config", {"vision_use_head": False}, "vision_use_head=False"),
      ("vision_config", {"image_size": 3}, "3 pixels does not hold a patch"),
      ("vision_config", {"num_channels": 1}, "1 channels; only 3"))
  def test_unsupported_settings(self, tower, changes, message):
    settings = json.loads(json.dumps(make_oracle.SIGLIP))
    settings[tower] |= changes
    tiny.write_siglip(self.folder, **settings)
    self._refuses(message)


class PromptTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    for package in ("sentencepiece", "google.protobuf"):
      try:
        found = importlib.util.find_spec(package)
      except ModuleNotFoundError:
        found = None
      if not found:
        raise absltest.SkipTest(f"no {package}")
    scratch = tempfile.TemporaryDirectory()
    cls.addClassCleanup(scratch.cleanup)
    folder = pathlib.Path(scratch.name)
    tiny.write_siglip(folder)
    (folder / "spiece.model").write_bytes(_sentencepiece())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "SiglipTokenizer"}))
    cls.model = checkpoint.load(folder)
    cls.folder = folder

  def _bank(self, names, **settings):
    config = self.model.config
    return prompts.prompt_bank(
        self.model.tokenizer, names, context_length=config.context_length,
        eos_token_id=config.eos_token_id, **settings)

  def test_rows_are_those_of_the_tokenizer(self):
    names = ["cat", "Tiger_cat", "tall, red dog!"]
    bank = self._bank(names)
    texts = [f"A photo of a {name.replace('_', ' ')}" for name in names]
    expected = self.model.tokenizer(
        texts, padding="max_length", max_length=9)["input_ids"]
    np.testing.assert_array_equal(bank.token_ids, expected)
    np.testing.assert_array_equal(bank.context_positions, [[0, 1, 2, 3]] * 3)
    np.testing.assert_array_equal(bank.end_positions, [8] * 3)
    # One token a word, then the end token, which is the padding, too.
    self.assertEqual(
        (np.asarray(bank.token_ids) == 1).sum(1).tolist(), [4, 3, 2])

  @parameterized.parameters(
      ("end", "a photo of tall house", [0, 1, 2]),
      ("middle", "a tall house photo of", [0, 3, 4]),
      ("front", "tall house a photo of", [2, 3, 4]))
  def test_class_positions(self, class_position, text, positions):
    bank = self._bank(["tall house"], template="a photo of {}.",
                      class_position=class_position)
    expected = self.model.tokenizer(
        text, padding="max_length", max_length=9)["input_ids"]
    np.testing.assert_array_equal(bank.token_ids, [expected])
    np.testing.assert_array_equal(bank.context_positions, [positions])

  def test_no_context(self):
    bank = self._bank(["cat"], template="{}")
    self.assertEqual(bank.context_positions.shape, (1, 0))
    self.assertEqual(bank.token_ids.shape, (1, 9))

  def test_too_long(self):
    with self.assertRaisesRegex(ValueError, "9 positions, but .* needs 10"):
      self._bank(["the red tall cat dog"])

  @pytest.mark.needs("torch")
  def test_text_features_are_pytorchs(self):
    import torch
    import transformers
    theirs = transformers.SiglipModel.from_pretrained(self.folder).eval()
    ids = self.model.tokenizer(
        ["a photo of a cat.", "a photo of a red house."], return_tensors="pt",
        padding="max_length", max_length=9)["input_ids"]
    with torch.no_grad():
      expected = theirs.text_model(ids).pooler_output.numpy()
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    features = self.model.text_features(self._bank(["cat", "red house"]))
    np.testing.assert_allclose(features, expected, atol=1e-5)

  def test_tuning_goes_through_the_plain_encoder(self):
    text = tasks.unencoded_task(self.model, ["cat", "red house"])
    self.assertIsInstance(text.encode, prompts.Encoder)
    self.assertEqual(text.context.shape, (4, 16))
    bank = self._bank(["cat", "red house"])
    np.testing.assert_allclose(
        text.encode(text.context), self.model.text_features(bank), atol=1e-6)
    with self.assertRaisesRegex(ValueError, "only in a causal"):
      prefix.context_encoder(self.model.config, self.model.params, bank)

  def test_captions_are_read_off_at_the_last_position(self):
    bank = self._bank(["cat", "red house"])
    texts = ["a photo of a cat.", "a photo of a red house."]
    ids, ends = captions.tokenise(self.model, texts)
    np.testing.assert_array_equal(ids, bank.token_ids)
    np.testing.assert_array_equal(ends, bank.end_positions)

  def test_gradient_by_the_context_against_differences(self):
    bank = self._bank(["cat", "red house"])
    with jax.enable_x64(True):
      params = jax.tree.map(
          lambda x: np.asarray(x, np.float64), self.model.params)
      encode = prompts.context_encoder(self.model.config, params, bank)
      weights = np.random.default_rng(1).standard_normal((2, 20))
      program = quick.jit(jax.value_and_grad(
          lambda c, encode: (weights * encode(c)).sum()))
      context = np.asarray(prompts.initial_context(params, bank))
      step = 1e-5 * np.random.default_rng(2).standard_normal(context.shape)
      (above, _), (below, _), (_, gradient) = (
          map(np.asarray, program(context + moved, encode))
          for moved in (step, -step, 0 * step))
      slope = (above - below) / 2
      np.testing.assert_allclose((gradient * step).sum(), slope, rtol=1e-6)
      self.assertGreater(np.abs(slope), 1e-7)

  def test_without_the_packages_of_the_tokenizer(self):
    with mock.patch.dict(sys.modules, {"sentencepiece": None}):
      with self.assertRaisesRegex(
          ImportError, r"pip install 'jaxcal\[siglip\]'"):
        checkpoint.load(self.folder)


class NoTokenizerTest(absltest.TestCase):

  def test_prompts_need_one(self):
    with self.assertRaisesRegex(ValueError, "came without a tokenizer"):
      prompts.prompt_bank(None, ["cat"], context_length=9, eos_token_id=None)


if __name__ == "__main__":
  absltest.main()
