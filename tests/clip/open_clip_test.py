import dataclasses
import json
import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors

from jaxcal.clip import checkpoint
from jaxcal.clip import open_clip
from jaxcal.clip import preprocess
from jaxcal.clip import prompts
from jaxcal.clip import towers
from tests import quick
from tests import shared
from tests.clip import tiny

# Written in their format; the heads follow from widths of 4 and 8 per head.
SETTINGS = {
    "model_cfg": {
        "embed_dim": 5,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 6, "layers": 1, "width": 12,
                       "patch_size": 3, "head_width": 4, "mlp_ratio": 2.0},
        "text_cfg": {"context_length": 8, "vocab_size": 30, "width": 16,
                     "heads": 2, "layers": 2, "mlp_ratio": 1.5},
    },
    "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7],
                       "interpolation": "bilinear", "resize_mode": "shortest"},
}
CONFIG = dataclasses.replace(
    tiny.CONFIG, eos_token_id=2,
    vision=dataclasses.replace(tiny.CONFIG.vision, mlp_width=24))


def theirs(params):
  """A tree of ours in OpenCLIP's layout, tensor by tensor."""
  text, vision = params["text_model"], params["vision_model"]
  patches = vision["embeddings"]["patch_embedding"]["kernel"]
  out = {
      "token_embedding.weight":
          text["embeddings"]["token_embedding"]["embedding"],
      "positional_embedding":
          text["embeddings"]["position_embedding"]["embedding"],
      "ln_final.weight": text["final_layer_norm"]["scale"],
      "ln_final.bias": text["final_layer_norm"]["bias"],
      "text_projection": params["text_projection"]["kernel"],
      "logit_scale": params["logit_scale"],
      "visual.proj": params["visual_projection"]["kernel"],
      "visual.class_embedding": vision["embeddings"]["class_embedding"],
      "visual.positional_embedding":
          vision["embeddings"]["position_embedding"]["embedding"],
      "visual.conv1.weight": np.einsum("hwio->oihw", patches),
      "visual.ln_pre.weight": vision["pre_layrnorm"]["scale"],
      "visual.ln_pre.bias": vision["pre_layrnorm"]["bias"],
      "visual.ln_post.weight": vision["post_layernorm"]["scale"],
      "visual.ln_post.bias": vision["post_layernorm"]["bias"],
  }
  for prefix, tower in (("", text), ("visual.", vision)):
    for number, block in tower["encoder"]["layers"].items():
      at = f"{prefix}transformer.resblocks.{number}"
      attention, mlp = block["self_attn"], block["mlp"]
      parts = [attention[name] for name in ("q_proj", "k_proj", "v_proj")]
      out |= {
          f"{at}.ln_1.weight": block["layer_norm1"]["scale"],
          f"{at}.ln_1.bias": block["layer_norm1"]["bias"],
          f"{at}.ln_2.weight": block["layer_norm2"]["scale"],
          f"{at}.ln_2.bias": block["layer_norm2"]["bias"],
          f"{at}.attn.in_proj_weight":
              np.concatenate([part["kernel"].T for part in parts]),
          f"{at}.attn.in_proj_bias":
              np.concatenate([part["bias"] for part in parts]),
          f"{at}.attn.out_proj.weight": attention["out_proj"]["kernel"].T,
          f"{at}.attn.out_proj.bias": attention["out_proj"]["bias"],
          f"{at}.mlp.c_fc.weight": mlp["fc1"]["kernel"].T,
          f"{at}.mlp.c_fc.bias": mlp["fc1"]["bias"],
          f"{at}.mlp.c_proj.weight": mlp["fc2"]["kernel"].T,
          f"{at}.mlp.c_proj.bias": mlp["fc2"]["bias"],
      }
  return {
      name: np.array(value, np.float32, order="C")
      for name, value in out.items()}


class LoadTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.tokenizer = shared.path("oracles/few_shot/hf_clip_tiny")
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def _write(self, vocab_size):
    settings = json.loads(json.dumps(SETTINGS))
    settings["model_cfg"]["text_cfg"]["vocab_size"] = vocab_size
    config = dataclasses.replace(CONFIG, vocab_size=vocab_size)
    params = tiny.params(config)
    tiny.write_json(self.folder / "open_clip_config.json", settings)
    safetensors.save_file(
        theirs(params), self.folder / "open_clip_model.safetensors")
    return config, params

  @pytest.mark.slow
  def test_a_folder(self):
    config, params = self._write(vocab_size=1000)
    for file in ("vocab.json", "merges.txt"):
      (self.folder / file).write_bytes((self.tokenizer / file).read_bytes())
    model = checkpoint.load(self.folder)
    self.assertEqual(model.config, config)
    jax.tree.map(np.testing.assert_array_equal, model.params, params)
    self.assertEqual(model.preprocess, preprocess.Preprocess(
        6, 6, "bilinear", (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), "round"))
    bank = prompts.prompt_bank(
        model.tokenizer, ["a", "photo"], template="a {}.", context_length=8,
        eos_token_id=model.config.eos_token_id)
    self.assertEqual(bank.end_positions.tolist(), [4, 4])
    self.assertEqual(model.text_features(bank).shape, (2, 5))
    # What comes before the projections, put through those of the file.
    weights = theirs(params)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 3), np.uint8)
    pooled = model.pooled(pixels)
    self.assertIsNone(pooled.residual)
    encode = prompts.context_encoder(model.config, model.params, bank)
    context = prompts.initial_context(model.params, bank)
    for pooled, matrix, features in (
        (pooled.activations, "visual.proj", model.image_features(pixels)),
        (encode.pooled(context), "text_projection", encode(context))):
      embeds = np.asarray(pooled) @ weights[matrix]
      np.testing.assert_allclose(
          features, embeds / np.linalg.norm(embeds, axis=-1, keepdims=True),
          atol=1e-6)

  def test_an_absent_tokenizer_is_fetched(self):
    self._write(vocab_size=1000)
    with mock.patch("huggingface_hub.snapshot_download",
                    return_value=str(self.tokenizer)) as download:
      model = checkpoint.load(self.folder)
    self.assertEqual(
        download.call_args.args, ("openai/clip-vit-base-patch32",))
    self.assertLen(model.tokenizer, 1000)

  def test_the_tokenizer_must_fit(self):
    self._write(vocab_size=30)
    with mock.patch("huggingface_hub.snapshot_download",
                    return_value=str(self.tokenizer)):
      with self.assertRaisesRegex(ValueError, "1000 tokens.* only 30"):
        checkpoint.load(self.folder)


class SeveralWeightsTest(LoadTest):
  """With the image tower beside it as timm has it, as on the hub."""

  def _write(self, vocab_size):
    safetensors.save_file({"head.weight": np.zeros((5, 12), np.float32)},
                          self.folder / "model.safetensors")
    tiny.write_json(self.folder / "config.json", {
        "architecture": "vit_tiny_patch3_clip_6", "num_classes": 5})
    return super()._write(vocab_size)

  def test_on_the_hub(self):
    """Of the weights, only those that a configuration describes are taken."""
    self._write(vocab_size=1000)
    taken = []

    def download(name, *, allow_patterns, **_):
      taken.extend(allow_patterns)
      return str(self.folder if name == "timm/tiny" else self.tokenizer)

    with mock.patch("huggingface_hub.snapshot_download", download):
      checkpoint.load("timm/tiny")
    self.assertIn("open_clip_model.safetensors", taken)
    self.assertNotIn("model.safetensors", taken)

  def test_a_model_of_hugging_face_comes_first(self):
    self._write(vocab_size=1000)
    tiny.write(self.folder)
    self.assertEqual(checkpoint.load(self.folder).config, tiny.CONFIG)


class ConvertTest(parameterized.TestCase):

  def test_back_from_their_layout(self):
    params = tiny.params(CONFIG)
    jax.tree.map(
        np.testing.assert_array_equal,
        open_clip.from_open_clip_names(theirs(params)), params)

  def test_strange_names_come_through(self):
    tree = open_clip.from_open_clip_names({
        "visual.trunk.norm.weight": np.zeros(3),
        "transformer.resblocks.0.ls_1.gamma": np.zeros(3)})
    self.assertEqual(tree.keys(), {"visual", "transformer"})

  @pytest.mark.needs("torch")
  def test_the_fused_projection_is_that_of_pytorch(self):
    import torch
    torch.manual_seed(0)
    attention = torch.nn.MultiheadAttention(12, 3, batch_first=True)
    torch.nn.init.normal_(attention.in_proj_bias)
    torch.nn.init.normal_(attention.out_proj.bias)
    x = torch.randn(2, 5, 12)
    allowed = np.tril(np.ones((5, 5), bool))
    expected, _ = attention(x, x, x, attn_mask=torch.from_numpy(~allowed))
    at = "visual.transformer.resblocks.0.attn"
    tree = open_clip.from_open_clip_names({
        f"{at}.{name}": value.detach().numpy()
        for name, value in attention.named_parameters()})
    layer = tree["vision_model"]["encoder"]["layers"]["0"]["self_attn"]
    ours = quick.jit(towers.Attention(CONFIG.vision).apply)(
        {"params": layer}, x.numpy(), allowed[None, None])
    np.testing.assert_allclose(
        ours, expected.detach().numpy(), rtol=1e-5, atol=1e-5)

  # The second one has the heads and the MLP of ViT-bigG, one layer of it.
  @parameterized.parameters(
      {}, {"width": 208, "head_width": 104, "mlp_ratio": 4.9231})
  @pytest.mark.needs("open_clip")
  def test_agrees_with_the_original(self, **vision):
    import open_clip as original
    import torch
    for quick_gelu in (True, False):
      model_cfg = SETTINGS["model_cfg"] | {"quick_gelu": quick_gelu}
      model_cfg["vision_cfg"] = model_cfg["vision_cfg"] | vision
      params = tiny.params(
          open_clip.config({"model_cfg": model_cfg}), seed=int(quick_gelu))
      model = original.CLIP(
          model_cfg["embed_dim"],
          original.model.CLIPVisionCfg(**model_cfg["vision_cfg"]),
          original.model.CLIPTextCfg(**model_cfg["text_cfg"]),
          quick_gelu=quick_gelu).eval()
      model.load_state_dict({
          name: torch.from_numpy(np.array(value))
          for name, value in theirs(params).items()})
      config = open_clip.config({"model_cfg": model_cfg})
      rng = np.random.default_rng(0)
      pixels = rng.standard_normal((3, 6, 6, 3), np.float32)
      ids = rng.integers(1, 29, (4, 8))
      ids[:, 6] = 29
      with torch.no_grad():
        image = model.encode_image(
            torch.tensor(pixels.transpose(0, 3, 1, 2)), normalize=True)
        text = model.encode_text(torch.tensor(ids), normalize=True)
      np.testing.assert_allclose(
          towers.image_features(config, params, pixels), image, atol=1e-5)
      np.testing.assert_allclose(
          towers.text_features(
              config, params, towers.token_embeddings(params, ids),
              prompts.end_positions(ids, config.eos_token_id)),
          text, atol=1e-5)


class SettingsTest(parameterized.TestCase):

  def test_sizes(self):
    self.assertEqual(open_clip.config(SETTINGS), CONFIG)

  def test_a_published_file(self):
    """The text of laion/CLIP-ViT-B-32-laion2B-s34B-b79K."""
    config = open_clip.config({"model_cfg": {
        "embed_dim": 512,
        "vision_cfg": {"image_size": 224, "layers": 12, "width": 768,
                       "patch_size": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512,
                     "heads": 8, "layers": 12}}})
    self.assertEqual(config, towers.ClipConfig(
        text=towers.TowerConfig(512, 12, 8, 2048, "gelu", 1e-5),
        vision=towers.TowerConfig(768, 12, 12, 3072, "gelu", 1e-5),
        vocab_size=49408, context_length=77, eos_token_id=2, image_size=224,
        patch_size=32, projection=512))

  @parameterized.parameters(
      ("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", 1024,
       {"layers": 32, "width": 1280, "head_width": 80},
       {"width": 1024, "heads": 16, "layers": 24}, (16, 5120), 986_109_441),
      ("laion/CLIP-ViT-bigG-14-laion2B-39B-b160k", 1280,
       {"layers": 48, "width": 1664, "head_width": 104, "mlp_ratio": 4.9231},
       {"width": 1280, "heads": 20, "layers": 32}, (16, 8192), 2_539_567_105))
  @pytest.mark.slow
  def test_large_ones(self, name, embed_dim, vision, text, sizes, count):
    """The texts of published files; counts are those of OpenCLIP's models."""
    config = open_clip.config({"model_cfg": {
        "embed_dim": embed_dim,
        "vision_cfg": {"image_size": 224, "patch_size": 14} | vision,
        "text_cfg": {"context_length": 77, "vocab_size": 49408} | text}})
    self.assertEqual((config.vision.heads, config.vision.mlp_width), sizes)
    self.assertEqual(config.text.mlp_width, 4 * text["width"])
    self.assertEqual({config.text.activation, config.vision.activation},
                     {"gelu"})
    shapes = jax.eval_shape(
        towers.init, config, jax.eval_shape(jax.random.key, 0))
    self.assertEqual(
        sum(leaf.size for leaf in jax.tree.leaves(shapes)), count, name)
    positions = shapes["vision_model"]["embeddings"]["position_embedding"]
    self.assertEqual(positions["embedding"].shape, (257, vision["width"]))
    for side, width in (("visual", vision["width"]), ("text", text["width"])):
      self.assertEqual(shapes[f"{side}_projection"]["kernel"].shape,
                       (width, embed_dim))

  @parameterized.parameters(
      ({"vision_cfg": {"timm_model_name": "vit_large"}},
       "vision_cfg has timm_model_name='vit_large'"),
      ({"vision_cfg": {"layers": [3, 4, 6]}}, r"four numbers of blocks"),
      ({"vision_cfg": {"attentional_pool": True}}, "attentional_pool=True"),
      ({"vision_cfg": {"pool_type": "avg"}}, "pool_type='avg'"),
      ({"text_cfg": {"hf_model_name": "roberta-base"}},
       "text_cfg has hf_model_name='roberta-base'"),
      ({"text_cfg": {"embed_cls": True}}, "embed_cls=True"),
      ({"multimodal_cfg": {"width": 8}}, "model_cfg has multimodal_cfg="),
      ({"custom_text": True, "init_logit_bias": -10},
       "init_logit_bias=-10; load a SigLIP from its Hugging Face form"),
      ({"embed_dim": None}, "model_cfg has no embed_dim"),
  )
  def test_other_architectures_are_refused(self, changes, message):
    model = json.loads(json.dumps(SETTINGS["model_cfg"]))
    for key, value in changes.items():
      if isinstance(value, dict):
        model.setdefault(key, {}).update(value)
      else:
        model[key] = value
    with self.assertRaisesRegex(ValueError, message):
      open_clip.config({"model_cfg": model})

  def test_preprocessing(self):
    def read(settings):
      return open_clip.preprocessing({"preprocess_cfg": settings}, 8)

    self.assertEqual(
        open_clip.preprocessing({}, 8),
        preprocess.Preprocess(8, 8, offset="round"))
    self.assertEqual(
        read({"resize_mode": "squash", "size": [8, 8]}).resize, (8, 8))
    with self.assertRaisesRegex(ValueError, "'longest'.*shortest, squash"):
      read({"resize_mode": "longest"})
    with self.assertRaisesRegex(ValueError, "unknown filter 'random'"):
      read({"interpolation": "random"})
    with self.assertRaisesRegex(ValueError, "images of 9"):
      read({"size": 9})


if __name__ == "__main__":
  absltest.main()
