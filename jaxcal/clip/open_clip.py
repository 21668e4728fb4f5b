"""Checkpoints of the OpenCLIP project, read as ours.

Ilharco et al., OpenCLIP, https://github.com/mlfoundations/open_clip.
Only the plain vision transformer or OpenAI's residual network, each with the
plain causal text transformer; everything else is refused by the name of the
setting that asks for it.
"""

from collections.abc import Callable, Mapping
import functools
import re
from typing import Any

from absl import logging
import numpy as np

from jaxcal.clip import layout
from jaxcal.clip import preprocess
from jaxcal.clip import resnet
from jaxcal.clip import sizes
from jaxcal.clip import towers
from jaxcal.typing import PyTree

# Settings that are understood, with the values that OpenCLIP takes where they
# are absent (None where they must be there).
_MODEL = {"embed_dim": None, "quick_gelu": False}
_VISION = {"image_size": 224, "patch_size": 16, "width": 768, "layers": 12,
           "head_width": 64, "mlp_ratio": 4.0}
_RESNET = {"image_size": 224, "width": 768, "layers": None, "head_width": 64}
_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 512, "layers": 12,
         "heads": 8, "mlp_ratio": 4.0}

# How settings are looked at that are no whole numbers, or have other bounds.
_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    "quick_gelu": sizes.truth, "layers": sizes.layers,
    "mlp_ratio": functools.partial(sizes.positive, high=64)}

# Settings that change nothing in the plain model, at these values. Any other
# setting must be off (None, False, 0, empty).
_PLAIN = {
    "pool_type": ("tok", "argmax"),
    "pos_embed_type": ("learnable",),
    "proj_type": ("linear",),
    "attn_pooler_queries": (256,),
    "attn_pooler_heads": (8,),
}
# They matter only in training or in creation, or not to a residual network.
_IGNORED = ("patch_dropout", "init_logit_scale", "vision_cfg", "text_cfg")
_NOT_OF_RESNET = ("patch_size", "mlp_ratio")

_ENDS = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding":
        "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
}
# These two multiply from the right, unlike the weight of a linear layer.
_TRANSPOSED = ("text_projection", "visual.proj")

# By what the two kinds of image towers can be told apart: some names are of
# both, but not of the same thing.
_RESIDUAL = "visual.attnpool."

_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)")
_PARTS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def from_open_clip_names(tensors: Mapping[str, np.ndarray]) -> PyTree:
  """Tensors under OpenCLIP's (and OpenAI's) names, as our tree.

  The fused input projection of an attention layer becomes three. Names that are
  not those of the plain models come through, so that a check finds them.

  Args:
    tensors: Arrays by name, such as
      "visual.transformer.resblocks.0.attn.in_proj_weight".

  Returns:
    Nested dictionaries of arrays, in the layout of `towers.init`.
  """
  renamed: dict[str, np.ndarray] = {}
  residual = any(name.startswith(_RESIDUAL) for name in tensors)
  for name, tensor in tensors.items():
    if residual and name.startswith("visual."):
      renamed.update(resnet.rename(name, tensor))
      continue
    if name in _TRANSPOSED:
      tensor = tensor.T
    renamed.update(_rename(name, tensor))
  return layout.from_torch_names(renamed)


def config(settings: Mapping[str, Any]) -> towers.ClipConfig:
  """Hyper-parameters from the content of open_clip_config.json.

  Text is read off where the highest token id stands, as OpenCLIP does.

  Raises:
    ValueError: If the model is not a plain one; names the settings.
  """
  model = sizes.section(settings, "model_cfg")
  shared = _read(model, _MODEL, "model_cfg")
  text = _read(sizes.section(model, "text_cfg"), _TEXT, "text_cfg")
  vision = sizes.section(model, "vision_cfg")
  activation = "quick_gelu" if shared["quick_gelu"] else "gelu"
  sizes.heads(text["heads"], "text_cfg.heads", text["width"])
  common = {
      "text": _tower(text, text["heads"], activation),
      "vocab_size": text["vocab_size"],
      "context_length": text["context_length"],
      "eos_token_id": 2,
      "projection": shared["embed_dim"],
  }
  if isinstance(vision.get("layers"), (list, tuple)):
    return _resnet_config(model, common)
  vision = _read(vision, _VISION, "vision_cfg")
  sizes.patch(
      vision["patch_size"], "vision_cfg.patch_size", vision["image_size"])
  if vision["head_width"] > vision["width"]:
    raise ValueError(f"vision_cfg.head_width is {vision['head_width']}, but "
                     f"vision_cfg.width only {vision['width']}")
  return towers.ClipConfig(
      vision=_tower(
          vision, vision["width"] // vision["head_width"], activation),
      image_size=vision["image_size"], patch_size=vision["patch_size"],
      **common)


def _resnet_config(model, common):
  vision = _read(model["vision_cfg"], _RESNET, "vision_cfg", _NOT_OF_RESNET,
                 _CHECKS | {"layers": _blocks})
  if "quick_gelu" not in model:
    # Its own configuration of RN50 lacks it, and texts of all its weights need
    # it; only programs that know the weights by name can put that right.
    logging.warning(
        "a residual network without quick_gelu: texts are computed with the "
        "exact GELU, but all published weights, OpenAI's among them, were "
        'trained with "quick_gelu": true in model_cfg (RN50-quickgelu); say '
        "true or false there")
  return resnet.ResNetClipConfig(
      vision=resnet.ResNetConfig(
          width=vision["width"], layers=tuple(vision["layers"]),
          heads=vision["width"] * resnet.STRIDE // vision["head_width"]),
      image_size=vision["image_size"], **common)


def preprocessing(
    settings: Mapping[str, Any], image_size: int) -> preprocess.Preprocess:
  """Preprocessing from the content of open_clip_config.json.

  Raises:
    ValueError: If the filter is drawn at random, or images are padded.
  """
  chosen = sizes.section({"preprocess_cfg": {}} | dict(settings),
                         "preprocess_cfg")
  mode = chosen.get("resize_mode", "shortest")
  if mode not in ("shortest", "squash"):
    raise ValueError(f"the resize_mode {mode!r} of preprocess_cfg is not "
                     "supported; supported are: shortest, squash.")
  size = chosen.get("size", image_size)
  if size not in (image_size, [image_size, image_size]):
    raise ValueError(f"preprocess_cfg makes images of {size}, but the model "
                     f"takes {image_size} x {image_size}")
  return preprocess.Preprocess(
      resize=image_size if mode == "shortest" else (image_size, image_size),
      crop=image_size,
      resample=chosen.get("interpolation", "bicubic"),
      mean=sizes.three(
          chosen.get("mean", preprocess.CLIP_MEAN), "preprocess_cfg.mean"),
      std=sizes.three(chosen.get("std", preprocess.CLIP_STD),
                      "preprocess_cfg.std", above=0),
      offset="round",
  )


def _read(settings, known, where, ignored=(), checks=_CHECKS):
  strange = [
      f"{key}={value!r}" for key, value in settings.items()
      if value and key not in (*known, *_IGNORED, *ignored) and
      value not in _PLAIN.get(key, ())
  ]
  if strange:
    raise ValueError(
        "only OpenCLIP's plain vision transformer and OpenAI's residual "
        "network, each with its plain text transformer, are supported, but "
        f"{where} has {', '.join(strange)}; load a SigLIP from its Hugging "
        "Face form (model_type 'siglip'), such as "
        "google/siglip-base-patch16-256")
  values = known | {key: settings[key] for key in known if key in settings}
  absent = [key for key, value in values.items() if value is None]
  if absent:
    raise ValueError(f"{where} has no {', '.join(absent)}, expected there")
  for key, value in values.items():
    checks.get(key, sizes.whole)(value, f"{where}.{key}")
  return values


def _blocks(values, where):
  for value in values:
    sizes.layers(value, where)


def _tower(values, heads, activation):
  return towers.TowerConfig(
      width=values["width"],
      layers=values["layers"],
      heads=heads,
      mlp_width=int(values["width"] * values["mlp_ratio"]),
      activation=activation,
  )


def _rename(name, tensor):
  if name in _ENDS:
    return {_ENDS[name]: tensor}
  match = _BLOCK.fullmatch(name)
  if not match:
    return {name: tensor}
  visual, number, rest = match.groups()
  block = "vision_model" if visual else "text_model"
  block += f".encoder.layers.{number}"
  part, _, leaf = rest.rpartition(".")
  if rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
    leaf = rest.removeprefix("attn.in_proj_")
    return {
        f"{block}.self_attn.{part}_proj.{leaf}": value
        for part, value in zip("qkv", np.array_split(tensor, 3))
    }
  if part not in _PARTS:
    return {name: tensor}
  return {f"{block}.{_PARTS[part]}.{leaf}": tensor}
