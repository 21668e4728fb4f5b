import copy
import json
import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
from flax import serialization
import jax
import jax.numpy as jnp
import numpy as np
from safetensors import flax as safetensors_flax
from safetensors import numpy as safetensors

from jaxcal.clip import checkpoint
from jaxcal.clip import layout
from jaxcal.clip import preprocess
from jaxcal.clip import prompts
from jaxcal.clip import towers
from tests import shared
from tests.clip import tiny

image_features = jax.jit(towers.image_features)


def float64(model):
  """Parameters widened exactly; under `jax.enable_x64` only."""
  return jax.tree.map(lambda x: np.asarray(x, np.float64), model.params)


class ReferenceTest(parameterized.TestCase):
  """Features that other programs computed from the same files."""

  @parameterized.parameters(5, 12)
  def test_test_time_reference(self, k):
    folder = shared.path("oracles/tpt")
    model = checkpoint.load(folder / "hf_clip_tiny")
    self.assertIsNone(model.tokenizer)
    with np.load(folder / "tpt_oracle.npz") as oracle:
      ids = oracle[f"K{k}/input_ids"]
      pixels = oracle[f"K{k}/pixels"].reshape(-1, 3, 32, 32)
      pixels = pixels.transpose(0, 2, 3, 1)
      ends = oracle[f"K{k}/eot_index"]
      expected = {
          f"{name}/{kind}": oracle[f"K{k}/{name}/{kind}"]
          for name in ("image_features", "text_features0", "ctx0")
          for kind in ("f32", "f64")}
    found = prompts.end_positions(ids, model.config.eos_token_id)
    np.testing.assert_array_equal(found, ends)
    bank = prompts.from_token_ids(ids, [1, 2, 3, 4], ends)

    def check(params, kind, atol):
      image = image_features(model.config, params, pixels)
      context = prompts.initial_context(params, bank)
      encode = prompts.context_encoder(model.config, params, bank)
      text = encode(context)
      np.testing.assert_allclose(
          np.reshape(image, (3, 16, -1)),
          expected[f"image_features/{kind}"], rtol=0, atol=atol)
      np.testing.assert_allclose(
          text, expected[f"text_features0/{kind}"], rtol=0, atol=atol)
      np.testing.assert_array_equal(context, expected[f"ctx0/{kind}"])

    check(model.params, "f32", 1e-5)
    np.testing.assert_allclose(
        model.text_features(bank), expected["text_features0/f32"], atol=1e-5)
    with jax.enable_x64(True):
      check(float64(model), "f64", 1e-9)
      wide = checkpoint.load(folder / "hf_clip_tiny", dtype=jnp.float64)
      jax.tree.map(
          np.testing.assert_array_equal, wide.params, float64(model))

  def test_few_shot_reference(self):
    folder = shared.path("oracles/few_shot")
    model = checkpoint.load(folder / "hf_clip_tiny")
    with np.load(folder / "fewshot_oracle.npz") as oracle:
      names = oracle["names/base"].tolist()
      pixels = oracle["images"].transpose(0, 2, 3, 1)
      image = oracle["zs/image_features"]
      raw = oracle["zs/text_raw/pet/base"]
    bank = prompts.prompt_bank(
        model.tokenizer, names, template="a photo of a {}, a type of pet.",
        context_length=model.config.context_length,
        eos_token_id=model.config.eos_token_id)
    text = raw / np.linalg.norm(raw, axis=-1, keepdims=True)
    np.testing.assert_allclose(model.text_features(bank), text, atol=1e-5)
    with jax.enable_x64(True):
      params = float64(model)
      np.testing.assert_allclose(
          image_features(model.config, params, pixels), image,
          atol=1e-9)
      context = prompts.initial_context(params, bank)
      encode = prompts.context_encoder(model.config, params, bank)
      np.testing.assert_allclose(encode(context), text, atol=1e-9)


class FormatTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    self.tensors = layout.to_torch_names(tiny.params())

  def _assert_loads(self, folder):
    model = checkpoint.load(folder)
    self.assertEqual(model.config, tiny.CONFIG)
    jax.tree.map(np.testing.assert_array_equal, model.params, tiny.params())
    return model

  def test_one_file(self):
    model = self._assert_loads(tiny.write(self.folder))
    self.assertEqual(model.name, str(self.folder))
    self.assertEqual(model.preprocess, preprocess.Preprocess(6, 6))
    self._assert_loads(str(self.folder))

  def test_shards(self):
    tiny.write(self.folder)
    (self.folder / "model.safetensors").unlink()
    names = sorted(self.tensors)
    files = {f"model-{i:05}-of-00003.safetensors": names[i::3]
             for i in range(3)}
    for file, part in files.items():
      safetensors.save_file(
          {name: self.tensors[name] for name in part}, self.folder / file)
    weight_map = {name: file for file, part in files.items() for name in part}
    tiny.write_json(self.folder / "model.safetensors.index.json",
                    {"metadata": {}, "weight_map": weight_map})
    self._assert_loads(self.folder)
    (self.folder / "model-00001-of-00003.safetensors").unlink()
    with self.assertRaisesRegex(
        FileNotFoundError, "model-00001-of-00003.*names as a part"):
      checkpoint.load(self.folder)

  def test_msgpack_and_the_fingerprint(self):
    first = self._assert_loads(tiny.write(self.folder))
    (self.folder / "model.safetensors").unlink()
    (self.folder / "flax_model.msgpack").write_bytes(
        serialization.msgpack_serialize(tiny.params()))
    second = self._assert_loads(self.folder)
    self.assertRegex(first.fingerprint, "^[0-9a-f]{64}$")
    self.assertEqual(first.fingerprint, second.fingerprint)

  def test_the_fingerprint_tells_models_apart(self):
    prints = {checkpoint.load(tiny.write(self.folder)).fingerprint}
    settings = copy.deepcopy(tiny.SETTINGS)
    settings["vision_config"]["hidden_act"] = "gelu"  # same weights
    tiny.write(self.folder, settings=settings)
    prints.add(checkpoint.load(self.folder).fingerprint)
    self.tensors["logit_scale"] += 1e-6
    tiny.write(self.folder, self.tensors)
    prints.add(checkpoint.load(self.folder).fingerprint)
    prints.add(checkpoint.load(self.folder, dtype=jnp.bfloat16).fingerprint)
    self.assertLen(prints, 4)

  @parameterized.parameters(jnp.float16, jnp.bfloat16)
  def test_half_precision_files_are_widened(self, dtype):
    tiny.write(self.folder)
    halves = {k: v.astype(dtype) for k, v in self.tensors.items()}
    safetensors_flax.save_file(
        jax.device_put(halves), self.folder / "model.safetensors")
    params = checkpoint.load(self.folder).params
    for name, value in layout.to_torch_names(params).items():
      self.assertEqual(value.dtype, np.float32)
      np.testing.assert_array_equal(value, halves[name].astype(np.float32))

  def test_dtype(self):
    model = checkpoint.load(tiny.write(self.folder), dtype=jnp.bfloat16)
    for leaf in jax.tree.leaves(model.params):
      self.assertEqual(leaf.dtype, jnp.bfloat16)
    self.assertEqual(
        model.pooled(np.zeros((1, 6, 6, 3), np.uint8)).activations.dtype,
        jnp.bfloat16)
    with self.assertRaisesRegex(ValueError, "float64.*enable_x64"):
      checkpoint.load(self.folder, dtype=jnp.float64)

  def test_absent_settings_are_those_of_transformers(self):
    tiny.write(self.folder)
    config = checkpoint.load(self.folder).config
    self.assertEqual(config.text.layer_norm_eps, 1e-5)
    self.assertEqual(config.vision.activation, "quick_gelu")

  def test_buffers_of_older_versions(self):
    self.tensors["text_model.embeddings.position_ids"] = np.arange(8)[None]
    self.tensors["vision_model.embeddings.position_ids"] = np.arange(5)[None]
    self._assert_loads(tiny.write(self.folder, self.tensors))

  @parameterized.parameters("preprocessor_config.json", "processor_config.json")
  def test_preprocessing(self, file):
    tiny.write(self.folder)
    settings = {"size": {"shortest_edge": 7}, "crop_size": 6, "resample": 2,
                "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    if file == "processor_config.json":
      settings = {"image_processor": settings}
    tiny.write_json(self.folder / file, settings)
    self.assertEqual(
        checkpoint.load(self.folder).preprocess, preprocess.Preprocess(
            7, 6, "bilinear", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))


class ModelTest(absltest.TestCase):

  def test_pixels_are_normalised_as_the_checkpoint_says(self):
    folder = tiny.write(self.create_tempdir().full_path)
    mean, std = np.array([0.1, 0.2, 0.3]), np.array([0.4, 0.5, 0.6])
    tiny.write_json(folder / "preprocessor_config.json", {
        "image_mean": mean.tolist(), "image_std": std.tolist()})
    model = checkpoint.load(folder)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 3), np.uint8)
    normalised = np.stack(
        [(pixels[..., c] / 255 - mean[c]) / std[c] for c in range(3)], axis=-1)
    normalised = normalised.astype(np.float32)
    pooled = model.pooled(pixels)
    np.testing.assert_allclose(
        pooled.activations, towers.pooled_image(
            model.config, model.params, normalised).activations, atol=1e-5)
    self.assertIsNone(pooled.residual)
    np.testing.assert_allclose(
        model.image_features(pixels),
        image_features(model.config, model.params, normalised),
        atol=1e-5)
    with self.assertRaisesRegex(TypeError, "uint8 pixels expected"):
      model.image_features(normalised)
    with self.assertRaisesRegex(ValueError, r"\[n, 6, 6, 3\] expected"):
      model.image_features(pixels[:, :5])

  def test_only_squares_can_be_of_another_size(self):
    model = checkpoint.load(tiny.write(self.create_tempdir().full_path))
    with self.assertRaisesRegex(ValueError, "keep their aspect; only squares"):
      checkpoint.at_image_size(model, 6)


class PrecisionTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    folder = tiny.write(self.create_tempdir().full_path)
    self.model = checkpoint.load(folder)
    rng = np.random.default_rng(0)
    self.pixels = rng.integers(0, 256, (2, 6, 6, 3), np.uint8)
    ids = np.array([[28, 3, 4, 29, 0], [28, 5, 6, 7, 29]])
    self.bank = prompts.from_token_ids(ids, [1], [3, 4])

  @parameterized.product(image=("highest", "default", "bfloat16"),
                         text=("highest", "high", "bfloat16"))
  def test_each_tower_has_a_precision_of_its_own(self, image, text):
    half = checkpoint.in_precision(self.model, image=image, text=text)
    self.assertEqual(
        (half.config.vision.precision, half.config.text.precision),
        (image, text))
    stored = lambda name: (
        jnp.bfloat16 if name == "bfloat16" else jnp.float32)
    dtypes = {"vision_model": stored(image), "visual_projection": stored(image),
              "text_model": stored(text), "text_projection": stored(text),
              "logit_scale": jnp.float32}
    self.assertEqual(half.params.keys(), dtypes.keys())
    for name, dtype in dtypes.items():
      # Widened again, what bfloat16 keeps of float32: 8 bits of mantissa.
      for ours, loaded in zip(*map(jax.tree.leaves, (
          half.params[name], self.model.params[name])), strict=True):
        self.assertEqual(ours.dtype, dtype)
        self.assertEqual(loaded.dtype, jnp.float32)
        np.testing.assert_allclose(
            np.asarray(ours, np.float32), loaded,
            rtol=0 if dtype == jnp.float32 else 2**-8)
    np.testing.assert_array_equal(
        half.params["logit_scale"], self.model.params["logit_scale"])

  def test_the_rest_stays(self):
    half = checkpoint.in_precision(
        self.model, image="bfloat16", text="bfloat16")
    for name in ("tokenizer", "preprocess", "name", "fingerprint"):
      self.assertEqual(getattr(half, name), getattr(self.model, name))
    self.assertEqual(
        checkpoint.in_precision(half, image="highest", text="highest").config,
        self.model.config)

  def test_a_tower_of_half_precision_is_widened(self):
    half = checkpoint.in_precision(
        self.model, image="bfloat16", text="bfloat16")
    whole = checkpoint.in_precision(half, image="high", text="highest")
    for leaf in jax.tree.leaves(whole.params):
      self.assertEqual(leaf.dtype, jnp.float32)

  def test_a_precision_that_is_none(self):
    with self.assertRaisesRegex(ValueError, "unknown precision 'float32'"):
      checkpoint.in_precision(self.model, image="highest", text="float32")

  def test_the_other_tower_does_not_notice(self):
    image_half = checkpoint.in_precision(
        self.model, image="bfloat16", text="highest")
    text_half = checkpoint.in_precision(
        self.model, image="highest", text="bfloat16")
    whole = (self.model.image_features(self.pixels),
             self.model.text_features(self.bank))
    images = [half.image_features(self.pixels)
              for half in (image_half, text_half)]
    texts = [half.text_features(self.bank)
             for half in (text_half, image_half)]
    for (low, same), expected in zip((images, texts), whole):
      np.testing.assert_array_equal(same, expected)
      self.assertEqual(low.dtype, jnp.float32)
      np.testing.assert_allclose(np.linalg.norm(low, axis=-1), 1, rtol=1e-6)
      cosines = (np.asarray(low) * np.asarray(expected)).sum(-1)
      self.assertGreater(cosines.min(), 0.99)
      self.assertFalse(np.array_equal(low, expected))


class RefusalTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    self.tensors = layout.to_torch_names(tiny.params())

  def _refuses(self, message, error=ValueError):
    with self.assertRaisesRegex(error, message):
      checkpoint.load(self.folder)

  def test_missing(self):
    del self.tensors["vision_model.encoder.layers.0.mlp.fc1.weight"]
    tiny.write(self.folder, self.tensors)
    self._refuses(
        r"layers/0/mlp/fc1/kernel: missing, expected \[12, 20\]")

  def test_left_over(self):
    for name in ("text_model.encoder.layers.2.mlp.fc1.weight", "head.bias"):
      self.tensors[name] = np.zeros((3,), np.float32)
    tiny.write(self.folder, self.tensors)
    self._refuses(
        r"(?s)head/bias: not of this model, found \[3\].*layers/2/mlp/fc1/")

  @parameterized.parameters(
      ("visual_projection.weight", (5, 13), r"\[12, 5\], found \[13, 5\]"),
      ("visual_projection.weight", (5,), r"\[12, 5\], found \[5\]"),
      ("logit_scale", (2,), r"expected \[\], found \[2\]"),
      ("logit_scale", (1, 1), r"expected \[\], found \[1, 1\]"),
      ("vision_model.embeddings.patch_embedding.weight", (12, 3, 3),
       r"\[3, 3, 3, 12\], found \[3, 3, 12\]"))
  def test_another_shape(self, name, shape, message):
    self.tensors[name] = np.zeros(shape, np.float32)
    tiny.write(self.folder, self.tensors)
    self._refuses(f"{name.rpartition('.')[0].replace('.', '/')}.*{message}")

  @parameterized.parameters(np.nan, np.inf)
  def test_not_finite(self, value):
    self.tensors["text_model.final_layer_norm.bias"][[1, 3]] = value
    tiny.write(self.folder, self.tensors)
    self._refuses("text_model/final_layer_norm/bias: 2 values are not finite")

  def test_too_large_for_the_dtype(self):
    self.tensors["text_model.final_layer_norm.bias"][2] = 1e6
    with self.assertRaisesRegex(ValueError, "1 values are not finite in floa"):
      checkpoint.load(tiny.write(self.folder, self.tensors), dtype=jnp.float16)

  def test_integers(self):
    self.tensors["text_projection.weight"] = np.ones((5, 16), np.int8)
    tiny.write(self.folder, self.tensors)
    self._refuses("text_projection/kernel: expected real numbers, found int8")

  def test_a_long_list_is_cut(self):
    tiny.write(self.folder, {"logit_scale": self.tensors["logit_scale"]})
    self._refuses(r"configuration describes:(\n  [^\n]+){20}\n  and \d+ more$")

  def test_another_kind_of_model(self):
    tiny.write(self.folder, settings={"model_type": "siglip2"})
    self._refuses("type 'siglip2'; supported are 'clip', 'siglip' and")

  @parameterized.parameters(
      ("vision_config", {"num_channels": 4}, "4 channels"),
      ("text_config", {"hidden_act": "relu"}, "choose from: gelu, .*quick_ge"))
  def test_unsupported_settings(self, tower, changes, message):
    settings = copy.deepcopy(tiny.SETTINGS)
    settings[tower] |= changes
    tiny.write(self.folder, settings=settings)
    self._refuses(message)

  def test_only_pickled_weights(self):
    tiny.write(self.folder)
    (self.folder / "model.safetensors").rename(
        self.folder / "pytorch_model.bin")
    self._refuses("Found only pytorch_model.bin.*save_pretrained",
                  FileNotFoundError)

  def test_no_weights(self):
    tiny.write_json(self.folder / "config.json", tiny.SETTINGS)
    self._refuses("no weights in .*looked for model.safetensors, .*msgpack",
                  FileNotFoundError)

  def test_no_configuration(self):
    (tiny.write(self.folder) / "config.json").unlink()
    self._refuses(r"no .*config\.json", FileNotFoundError)

  def test_a_file_instead_of_the_folder(self):
    file = tiny.write(self.folder) / "model.safetensors"
    with self.assertRaisesRegex(ValueError, "is a file; name the folder"):
      checkpoint.load(file)


class HubTest(absltest.TestCase):

  def test_no_folder_and_no_hub_id(self):
    with self.assertRaisesRegex(
        FileNotFoundError, "no such folder.*not an id of the Hugging Face hub"):
      checkpoint.load("/no/such/folder")

  def test_unreachable(self):
    from huggingface_hub import errors
    with mock.patch("huggingface_hub.snapshot_download",
                    side_effect=errors.LocalEntryNotFoundError("offline")):
      with self.assertRaisesRegex(
          FileNotFoundError,
          r"(?s)no checkpoint 'a/b' at revision v1.*offline.*hf download a/b"):
        checkpoint.load("a/b", revision="v1")

  def test_takes_only_what_it_needs(self):
    """A repository with two kinds of weights; only the better one is taken."""
    folder = pathlib.Path(self.create_tempdir().full_path)
    wanted = []

    def download(name, *, revision, cache_dir, allow_patterns):
      self.assertEqual(
          (name, revision, cache_dir), ("a/b", None, "somewhere"))
      wanted.extend(allow_patterns)
      if "flax_model.msgpack" in allow_patterns:
        (folder / "config.json").write_text(json.dumps(tiny.SETTINGS))
        (folder / "flax_model.msgpack").write_bytes(
            serialization.msgpack_serialize(tiny.params()))
      return str(folder)

    with mock.patch("huggingface_hub.snapshot_download", download):
      model = checkpoint.load("a/b", cache_dir="somewhere")
    self.assertEqual(model.name, "a/b")
    self.assertNotIn("open_clip_model.safetensors", wanted)
    self.assertFalse([pattern for pattern in wanted if ".bin" in pattern])

  def test_from_the_cache_without_network(self):
    from huggingface_hub import constants
    cache = pathlib.Path(self.create_tempdir().full_path)
    commit = "0" * 40
    repository = cache / "models--owner--tiny"
    snapshot = repository / "snapshots" / commit
    (repository / "refs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    tiny.write(snapshot)
    with mock.patch.object(constants, "HF_HUB_OFFLINE", True):
      model = checkpoint.load("owner/tiny", cache_dir=cache)
    self.assertEqual(model.config, tiny.CONFIG)


if __name__ == "__main__":
  absltest.main()
