"""Settings of a checkpoint that are impossible: refused before all else."""

import copy
import json

from absl.testing import absltest
from absl.testing import parameterized

from jaxcal.clip import checkpoint
from jaxcal.clip import hugging_face
from jaxcal.clip import open_clip
from jaxcal.clip import sizes
from jaxcal.clip import weights
from jaxcal.storage import damage
from tests.clip import open_clip_test
from tests.clip import tiny


def _changed(settings, place, value):
  settings = copy.deepcopy(settings)
  *path, key = place.split(".")
  part = settings
  for name in path:
    part = part[name]
  part[key] = value
  return settings


class SettingsTest(parameterized.TestCase):

  @parameterized.parameters(
      ("text_config.num_hidden_layers", 10**6, "from 1 to 256"),
      ("vision_config.num_hidden_layers", 0, "from 1 to 256"),
      ("vision_config.num_hidden_layers", 2.0, "a whole number"),
      ("vision_config.num_hidden_layers", True, "a whole number"),
      ("text_config.hidden_size", -16, "a whole number from 1"),
      ("text_config.hidden_size", "16", "a whole number"),
      ("text_config.hidden_size", None, "a whole number"),
      ("text_config.num_attention_heads", 0, "a whole number"),
      ("text_config.num_attention_heads", 3, "does not split into 3 heads"),
      ("vision_config.intermediate_size", [20], "a whole number"),
      ("vision_config.patch_size", 7, "does not hold a patch of 7"),
      ("vision_config.image_size", 10**9, "a whole number from 1"),
      ("text_config.layer_norm_eps", float("nan"), "a positive number"),
      ("vision_config.layer_norm_eps", -1e-5, "a positive number"),
      ("vision_config.layer_norm_eps", float("inf"), "a positive number"),
      ("vision_config.layer_norm_eps", "1e-5", "a positive number"),
      ("text_config.eos_token_id", None, "an id of the 30 tokens"),
      ("text_config.eos_token_id", 30, "an id of the 30 tokens"),
      ("text_config.eos_token_id", -1, "an id of the 30 tokens"),
      ("projection_dim", 0, "a whole number from 1"),
      ("text_config", [], "an object of JSON"),
      ("text_config_dict", "x", "an object of JSON"))
  def test_clip(self, place, value, message):
    with self.assertRaisesRegex(ValueError, f"{place}.* is .*{message}".replace(
        "text_config_dict", "text_config")):
      hugging_face.clip_config(_changed(tiny.SETTINGS, place, value))

  @parameterized.parameters(
      ("model_cfg", None, "an object of JSON"),
      ("model_cfg.text_cfg", 5, "an object of JSON"),
      ("model_cfg.vision_cfg.head_width", 0, "a whole number"),
      ("model_cfg.vision_cfg.head_width", 13, "only 12"),
      ("model_cfg.vision_cfg.patch_size", 7, "does not hold a patch"),
      ("model_cfg.vision_cfg.mlp_ratio", float("nan"), "a positive number"),
      ("model_cfg.vision_cfg.layers", 10**6, "from 1 to 256"),
      ("model_cfg.text_cfg.heads", 5, "does not split into 5"),
      ("model_cfg.text_cfg.width", "16", "a whole number"),
      ("model_cfg.quick_gelu", "yes", "true or false"))
  def test_open_clip(self, place, value, message):
    with self.assertRaisesRegex(ValueError, f"{place.split('.')[-1]}.* is .*"
                                f"{message}|{message}"):
      open_clip.config(_changed(open_clip_test.SETTINGS, place, value))

  @parameterized.parameters(
      ("mean", [0, float("nan"), 0]), ("mean", 0.5), ("std", [1, 0, 1]),
      ("std", [1, 1]), ("std", ["a"] * 3), ("std", [1, float("inf"), 1]))
  def test_pixels_of_open_clip(self, name, value):
    with self.assertRaisesRegex(ValueError, f"preprocess_cfg.{name} is"):
      open_clip.preprocessing({"preprocess_cfg": {name: value}}, 8)

  def test_as_many_parameters_as_are_built(self):
    settings = copy.deepcopy(tiny.SETTINGS)
    settings["text_config"] |= {"hidden_size": 2**20, "vocab_size": 2**20}
    with self.assertRaisesRegex(
        ValueError, "describe [0-9,]+ parameters; .*20,000,000,000 are not"):
      weights.expected(hugging_face.clip_config(settings))
    self.assertEqual(sizes.MAX_PARAMETERS, 20_000_000_000)

  def test_absent_settings_are_those_of_transformers(self):
    import transformers
    full = transformers.CLIPConfig()
    config = hugging_face.clip_config({})
    for ours, theirs in ((config.text, full.text_config),
                         (config.vision, full.vision_config)):
      self.assertEqual(
          (ours.width, ours.layers, ours.heads, ours.mlp_width,
           ours.activation, ours.layer_norm_eps),
          (theirs.hidden_size, theirs.num_hidden_layers,
           theirs.num_attention_heads, theirs.intermediate_size,
           theirs.hidden_act, theirs.layer_norm_eps))
    self.assertEqual(
        (config.vocab_size, config.context_length, config.eos_token_id,
         config.image_size, config.patch_size, config.projection),
        (full.text_config.vocab_size, full.text_config.max_position_embeddings,
         full.text_config.eos_token_id, full.vision_config.image_size,
         full.vision_config.patch_size, full.projection_dim))
    full = transformers.SiglipConfig()
    config = hugging_face.siglip_config({})
    self.assertEqual(
        (config.text.width, config.text.mlp_width, config.text.activation,
         config.text.layer_norm_eps, config.vision.heads, config.patch_size,
         config.vocab_size, config.context_length),
        (full.text_config.hidden_size, full.text_config.intermediate_size,
         full.text_config.hidden_act, full.text_config.layer_norm_eps,
         full.vision_config.num_attention_heads, full.vision_config.patch_size,
         full.text_config.vocab_size,
         full.text_config.max_position_embeddings))

  def test_settings_of_older_files_come_first(self):
    settings = copy.deepcopy(tiny.SETTINGS)
    settings["text_config_dict"] = settings.pop("text_config")
    settings["vision_config_dict"] = None
    self.assertEqual(hugging_face.clip_config(settings), tiny.CONFIG)


class FilesTest(parameterized.TestCase):
  """Which file is meant is said by its name."""

  def setUp(self):
    super().setUp()
    self.folder = tiny.write(self.create_tempdir().full_path)

  @parameterized.product(
      file=("config.json", "preprocessor_config.json", "processor_config.json"),
      content=(b"", b"{", b"[]", b"7", b"\xff\xfe{", b"[" * 100_000,
               b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"))
  def test_no_object(self, file, content):
    (self.folder / file).write_bytes(content)
    with self.assertRaisesRegex(damage.DamagedFile, f"{file} is damaged"):
      checkpoint.load(self.folder)

  @parameterized.parameters(
      {"image_std": [1, 0, 1]}, {"image_mean": [0, float("nan"), 0]},
      {"image_mean": 5}, {"size": -1}, {"size": {"shortest_edge": None}},
      {"crop_size": {"height": 6}}, {"crop_size": []}, {"resample": [3]},
      {"rescale_factor": 0}, {"rescale_factor": float("nan")},
      {"do_resize": "no"}, {"do_normalize": 3})
  def test_settings_of_images(self, **settings):
    tiny.write_json(self.folder / "preprocessor_config.json", settings)
    with self.assertRaisesRegex(ValueError, r"preprocessor_config\.json: "):
      checkpoint.load(self.folder)

  def test_what_is_off_may_be_null(self):
    tiny.write_json(self.folder / "preprocessor_config.json", {
        "size": {"height": 6, "width": 6}, "do_center_crop": None,
        "do_normalize": None})
    self.assertEqual(checkpoint.load(self.folder).preprocess.std, (1, 1, 1))

  def test_settings_of_the_model(self):
    settings = json.loads(json.dumps(tiny.SETTINGS))
    settings["vision_config"]["num_hidden_layers"] = 10**6
    tiny.write(self.folder, settings=settings)
    with self.assertRaisesRegex(ValueError, r"/config\.json: vision_config\."):
      checkpoint.load(self.folder)

  def test_patches_of_any_number(self):
    tiny.write(self.folder, settings={"model_type": "siglip2"})
    with self.assertRaisesRegex(
        ValueError, r"config\.json: .*NaFlex; .*siglip2-base-patch16-256"):
      checkpoint.load(self.folder)


if __name__ == "__main__":
  absltest.main()
