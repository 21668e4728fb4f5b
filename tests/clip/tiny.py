"""A tiny random CLIP, others, and the files of checkpoints with them."""

import json
import pathlib

import jax
import numpy as np
from safetensors import numpy as safetensors

from jaxcal.clip import layout
from jaxcal.clip import towers
from jaxcal.testbed import shipped
from tests.clip import make_oracle
from tests.clip import make_resnet_oracle

CONFIG = towers.ClipConfig(
    text=towers.TowerConfig(width=16, layers=2, heads=2, mlp_width=24),
    vision=towers.TowerConfig(width=12, layers=1, heads=3, mlp_width=20),
    vocab_size=30, context_length=8, eos_token_id=29, image_size=6,
    patch_size=3, projection=5)

SETTINGS = {
    "model_type": "clip",
    "projection_dim": 5,
    "text_config": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 24, "vocab_size": 30, "max_position_embeddings": 8,
        "eos_token_id": 29,
    },
    "vision_config": {
        "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3,
        "intermediate_size": 20, "image_size": 6, "patch_size": 3,
    },
}


def params(config=CONFIG, seed=0):
  """Random numbers everywhere, also where fresh models have zeros and ones."""
  shapes = jax.eval_shape(
      towers.init, config, jax.eval_shape(jax.random.key, 0))
  rng = np.random.default_rng(seed)
  return jax.tree.map(
      lambda leaf: 0.3 * rng.standard_normal(leaf.shape, np.float32) + 0.1,
      shapes)


def write(folder, tensors=None, settings=SETTINGS):
  """Writes config.json and model.safetensors; returns the folder."""
  folder = pathlib.Path(folder)
  if tensors is None:
    tensors = layout.to_torch_names(params())
  write_json(folder / "config.json", settings)
  safetensors.save_file(tensors, folder / "model.safetensors")
  return folder


def siglip_weights():
  """Those of the stored SigLIP, under their names in PyTorch."""
  return {key.removeprefix("weights/"): array
          for key, array in make_oracle.read("siglip").items()
          if key.startswith("weights/")}


def write_siglip(folder, tensors=None, **changes):
  """Writes the stored SigLIP; `changes` go into config.json."""
  settings = json.loads(str(make_oracle.read("siglip")["config"])) | changes
  return write(folder, tensors or siglip_weights(), settings)


def write_resnet(folder, tensors=None, case="small-quickgelu", **vision):
  """Writes a stored residual network, with the tokenizer of the testbed.

  Args:
    folder: The folder; returned.
    tensors: Weights by name, or those of the case.
    case: One of `make_resnet_oracle.MODELS`.
    **vision: Settings of the image tower that are others.
  """
  folder = pathlib.Path(folder)
  model = make_resnet_oracle.MODELS[case]
  model = model | {"vision_cfg": model["vision_cfg"] | vision}
  if tensors is None:
    tensors = make_resnet_oracle.weights(model)
  write_json(folder / "open_clip_config.json",
             {"model_cfg": model, "preprocess_cfg": {}})
  safetensors.save_file(tensors, folder / "open_clip_model.safetensors")
  for file in ("vocab.json", "merges.txt"):
    (folder / file).write_bytes((shipped.folder() / file).read_bytes())
  return folder


def write_json(path, content):
  path.write_text(json.dumps(content), "utf-8")
