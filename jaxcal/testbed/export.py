"""Writes a trained model as a folder that Hugging Face's CLIPModel reads."""

import dataclasses
import importlib.metadata
import json
import pathlib
import platform

import jax
import numpy as np

from jaxcal.clip import layout
from jaxcal.clip import preprocess
from jaxcal.clip import towers
from jaxcal.testbed import captions
from jaxcal.testbed import tokenizer

# Root mean square of the vectors of "a photo of a", about that of OpenAI's
# CLIP: prompt tuning steps have a fixed size, so this sets how far they reach.
CONTEXT_RMS = 0.015
_CONTEXT = "a photo of a"


def set_context_rms(
    config: towers.ClipConfig,
    params: towers.Params,
    token_ids: np.ndarray,
    rms: float = CONTEXT_RMS,
) -> tuple[towers.ClipConfig, towers.Params, float]:
  """Rescales the text tower's residual stream without changing its features.

  See `scale_residual_stream`.

  Args:
    config: Sizes of the model.
    params: Parameters of the model.
    token_ids: Tokens whose vectors get the wanted size.
    rms: The wanted root mean square of their entries.

  Returns:
    The new config and parameters, and the factor.
  """
  vectors = np.asarray(params["text_model"]["embeddings"]["token_embedding"][
      "embedding"])[token_ids]
  factor = float(rms / np.sqrt(np.mean(vectors ** 2)))
  return *scale_residual_stream(config, params, factor), factor


def scale_residual_stream(
    config: towers.ClipConfig, params: towers.Params, factor: float
) -> tuple[towers.ClipConfig, towers.Params]:
  """Multiplies the text tower's residual stream; its features stay.

  All that is added to the stream (embeddings, outputs of attention and MLP) is
  multiplied by one factor, and the layer norms' epsilon by its square; as every
  block begins with a norm, the features stay as they are.

  Args:
    config: Sizes of the model.
    params: Parameters of the model.
    factor: Factor of all that is added to the stream.

  Returns:
    The new config and parameters.
  """

  def scale(tree):
    return jax.tree.map(lambda leaf: leaf * np.float32(factor), tree)

  text = params["text_model"]
  layers = {
      index: {
          **layer,
          "self_attn": {**layer["self_attn"],
                        "out_proj": scale(layer["self_attn"]["out_proj"])},
          "mlp": {**layer["mlp"], "fc2": scale(layer["mlp"]["fc2"])},
      }
      for index, layer in text["encoder"]["layers"].items()
  }
  params = {**params, "text_model": {
      **text, "embeddings": scale(text["embeddings"]),
      "encoder": {"layers": layers}}}
  epsilon = config.text.layer_norm_eps * factor ** 2
  tower = dataclasses.replace(config.text, layer_norm_eps=epsilon)
  return dataclasses.replace(config, text=tower), params


def state_dict(params: towers.Params) -> dict[str, np.ndarray]:
  """Parameters under PyTorch names and in PyTorch layout, as float16."""
  return {name: np.asarray(leaf, np.float16, order="C")
          for name, leaf in layout.to_torch_names(params).items()}


def huggingface_config(config: towers.ClipConfig) -> dict:
  """The content of config.json."""
  def tower(sizes):
    return {
        "hidden_size": sizes.width, "intermediate_size": sizes.mlp_width,
        "num_hidden_layers": sizes.layers, "num_attention_heads": sizes.heads,
        "hidden_act": sizes.activation, "layer_norm_eps": sizes.layer_norm_eps,
        "projection_dim": config.projection, "attention_dropout": 0.0,
        "initializer_factor": 1.0, "initializer_range": 0.02,
    }
  return {
      "architectures": ["CLIPModel"], "model_type": "clip",
      "projection_dim": config.projection, "logit_scale_init_value": 2.6592,
      "initializer_factor": 1.0, "dtype": "float16",
      "text_config": {
          "model_type": "clip_text_model", **tower(config.text),
          "vocab_size": config.vocab_size,
          "max_position_embeddings": config.context_length,
          "bos_token_id": config.eos_token_id - 1,  # type: ignore[operator]
          "eos_token_id": config.eos_token_id,
          "pad_token_id": config.eos_token_id,
      },
      "vision_config": {
          "model_type": "clip_vision_model", **tower(config.vision),
          "image_size": config.image_size, "patch_size": config.patch_size,
          "num_channels": 3,
      },
  }


def image_processor(side: int) -> dict:
  """The content of preprocessor_config.json, that of CLIP for any side."""
  return {
      "image_processor_type": "CLIPImageProcessor",
      "do_convert_rgb": True, "do_resize": True, "resample": 3,
      "size": {"shortest_edge": side}, "do_center_crop": True,
      "crop_size": {"height": side, "width": side}, "do_rescale": True,
      "rescale_factor": 1 / 255, "do_normalize": True,
      "image_mean": preprocess.CLIP_MEAN, "image_std": preprocess.CLIP_STD,
  }


def write_folder(
    config: towers.ClipConfig,
    params: towers.Params,
    folder: pathlib.Path,
    *,
    record: dict,
) -> None:
  """Writes weights, config, tokenizer, preprocessor and training record.

  The residual stream of the text tower is rescaled first, see
  `set_context_rms`; the record says by how much.

  Args:
    config: Sizes of the model.
    params: Trained parameters.
    folder: Where to write; made if missing.
    record: What training.json says about the run, next to the rescaling and
      the versions of the libraries.
  """
  from safetensors import numpy as safetensors
  folder.mkdir(parents=True, exist_ok=True)
  vocabulary, _ = tokenizer.build(captions.vocabulary())
  context = np.array(tokenizer.encode(_CONTEXT, vocabulary)[1:-1])
  config, params, factor = set_context_rms(config, params, context)
  safetensors.save_file(
      state_dict(params), folder / "model.safetensors", {"format": "pt"})
  tokenizer.save(captions.vocabulary(), folder)
  _write_json(folder / "config.json", huggingface_config(config))
  _write_json(folder / "preprocessor_config.json",
              image_processor(config.image_size))
  versions = {name: importlib.metadata.version(name)
              for name in ("jax", "flax", "optax", "numpy", "scikit-learn")}
  _write_json(folder / "training.json", record | {
      "context_rms": CONTEXT_RMS,
      "context_rms_rule": (
          f"The vectors of {_CONTEXT!r} have this root mean square. Embeddings "
          "and block outputs of the text tower were multiplied by the factor, "
          "the epsilon of its layer norms by the square; features unchanged."),
      "context_rms_factor": factor,
      "logit_scale": float(np.exp(params["logit_scale"])),
      "versions": {"python": platform.python_version(), **versions},
  })


def _write_json(path, content):
  path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
