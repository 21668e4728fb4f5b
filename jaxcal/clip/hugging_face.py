"""Sizes of a CLIP or SigLIP from config.json, as transformers writes it.

Every setting is looked at before anything is built; see `sizes`.
"""

from collections.abc import Mapping
from typing import Any

from jaxcal.clip import siglip
from jaxcal.clip import sizes
from jaxcal.clip import towers

# What transformers takes where a setting is absent.
_TEXT = {
    "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
    "num_attention_heads": 8, "vocab_size": 49408,
    "max_position_embeddings": 77, "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5, "eos_token_id": 49407}
_VISION = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "num_channels": 3, "image_size": 224,
    "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_OF_SIGLIP = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
_SIGLIP_TEXT = _TEXT | _OF_SIGLIP | {
    "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
    "vocab_size": 32000, "max_position_embeddings": 64, "projection_size": None}
_SIGLIP_VISION = _VISION | _OF_SIGLIP | {
    "patch_size": 16, "vision_use_head": True}
_PROJECTION = 512


def clip_config(settings: Mapping[str, Any]) -> towers.ClipConfig:
  """Sizes of a CLIP.

  Args:
    settings: Content of config.json.

  Raises:
    ValueError: A setting is of another type, out of range or not supported;
      names it.
  """
  text = _tower_settings(settings, "text_config", _TEXT)
  vision = _tower_settings(settings, "vision_config", _VISION)
  shared = _shared(text, vision)
  return towers.ClipConfig(
      **shared, projection=sizes.whole(
          settings.get("projection_dim", _PROJECTION), "projection_dim"),
      eos_token_id=sizes.token(
          text["eos_token_id"], "text_config.eos_token_id",
          shared["vocab_size"]))


def siglip_config(settings: Mapping[str, Any]) -> siglip.SiglipConfig:
  """Sizes of a SigLIP, or of a SigLIP 2 for images of one size.

  Args:
    settings: Content of config.json.

  Raises:
    ValueError: See `clip_config`.
  """
  text = _tower_settings(settings, "text_config", _SIGLIP_TEXT)
  vision = _tower_settings(settings, "vision_config", _SIGLIP_VISION)
  if not vision["vision_use_head"]:
    raise ValueError("only a SigLIP with an attention pool is supported, but "
                     "vision_config has vision_use_head=False")
  shared = _shared(text, vision)
  projection = text["projection_size"]  # older files have no other than width
  return siglip.SiglipConfig(**shared, projection=(
      shared["text"].width if projection is None else
      sizes.whole(projection, "text_config.projection_size")))


def _tower_settings(settings, name, defaults):
  # Files of older versions have the same under another name, which counts.
  found = settings.get(f"{name}_dict")
  if found is None:
    found = settings.get(name)
  if found is None:
    found = {}
  return defaults | dict(sizes.section({name: found}, name))


def _shared(text, vision):
  if vision["num_channels"] != 3:
    raise ValueError(f"the model takes images of {vision['num_channels']} "
                     "channels; only 3 (RGB) are supported")
  image_size = sizes.whole(vision["image_size"], "vision_config.image_size")
  return {
      "text": _tower(text, "text_config"),
      "vision": _tower(vision, "vision_config"),
      "vocab_size": sizes.whole(text["vocab_size"], "text_config.vocab_size"),
      "context_length": sizes.whole(
          text["max_position_embeddings"],
          "text_config.max_position_embeddings"),
      "image_size": image_size,
      "patch_size": sizes.patch(
          vision["patch_size"], "vision_config.patch_size", image_size),
  }


def _tower(tower, where):
  width = sizes.whole(tower["hidden_size"], f"{where}.hidden_size")
  return towers.TowerConfig(
      width=width,
      layers=sizes.layers(
          tower["num_hidden_layers"], f"{where}.num_hidden_layers"),
      heads=sizes.heads(tower["num_attention_heads"],
                        f"{where}.num_attention_heads", width),
      mlp_width=sizes.whole(
          tower["intermediate_size"], f"{where}.intermediate_size"),
      activation=str(tower["hidden_act"]),
      layer_norm_eps=sizes.epsilon(
          tower["layer_norm_eps"], f"{where}.layer_norm_eps"),
  )
