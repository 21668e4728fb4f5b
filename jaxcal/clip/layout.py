"""Parameter names and axis orders: PyTorch checkpoints against our tree.

Our tree is that of Hugging Face's Flax CLIP. The functions only rename, split
and transpose; whether the result is a whole model is `checkpoint`'s to say.
"""

from collections.abc import Mapping
import re

from flax import traverse_util
import numpy as np

from jaxcal.typing import PyTree

_EMBEDDINGS = ("token_embedding", "position_embedding")

# Buffers of older Hugging Face checkpoints: 0, 1, 2, ... and nothing else.
_BUFFERS = (
    "text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"
)

_OPEN_CLIP_ENDS = {
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
_OPEN_CLIP_TRANSPOSED = ("text_projection", "visual.proj")

_OPEN_CLIP_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)")
_OPEN_CLIP_PARTS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def from_torch_names(tensors: Mapping[str, np.ndarray]) -> PyTree:
  """Tensors under the names of Hugging Face's PyTorch CLIP, as our tree.

  Linear weights turn from [out, in] to [in, out], the patch convolution from
  [w, 3, p, p] to [p, p, 3, w]. Names that are not CLIP's come through, so that
  a check against the model finds them; only the buffers of positions go.

  Args:
    tensors: Arrays by name, such as
      "text_model.encoder.layers.0.self_attn.q_proj.weight".

  Returns:
    Nested dictionaries of arrays.
  """
  flat = {}
  for name, tensor in tensors.items():
    if name in _BUFFERS:
      continue
    *path, leaf = name.split(".")
    if leaf == "weight" and path:
      leaf = _weight_name(path[-1])
    flat[(*path, leaf)] = _kernel(tensor) if leaf == "kernel" else tensor
  return traverse_util.unflatten_dict(flat)


def to_torch_names(params: PyTree) -> dict[str, np.ndarray]:
  """Our tree under Hugging Face's PyTorch names; undoes `from_torch_names`.

  Args:
    params: The whole parameter tree, or any part of it that starts at the root.

  Returns:
    Contiguous arrays by name, ready for `safetensors.numpy.save_file`.
  """
  tensors = {}
  for (*path, leaf), value in traverse_util.flatten_dict(params).items():
    value = np.asarray(value)
    if leaf == "kernel":
      value = value.transpose(-1, -2, *range(value.ndim - 2))
    if leaf in ("kernel", "scale", "embedding"):
      leaf = "weight"
    # ascontiguousarray would turn the scalar logit scale into a vector.
    tensors[".".join((*path, leaf))] = np.asarray(value, order="C")
  return tensors


def from_open_clip_names(tensors: Mapping[str, np.ndarray]) -> PyTree:
  """Tensors under OpenCLIP's (and OpenAI's) names, as our tree.

  The fused input projection of an attention layer becomes three. Names that are
  not those of a plain vision transformer and text transformer come through.

  Args:
    tensors: Arrays by name, such as
      "visual.transformer.resblocks.0.attn.in_proj_weight".

  Returns:
    Nested dictionaries of arrays.
  """
  renamed = {}
  for name, tensor in tensors.items():
    if name in _OPEN_CLIP_TRANSPOSED:
      tensor = tensor.T
    renamed.update(_from_open_clip_name(name, tensor))
  return from_torch_names(renamed)


def _weight_name(module):
  if module in _EMBEDDINGS:
    return "embedding"
  return "scale" if "norm" in module else "kernel"


def _kernel(weight):
  if weight.ndim < 2:
    return weight  # of a wrong shape, and reported as such by the check
  return weight.transpose(*range(2, weight.ndim), 1, 0)


def _from_open_clip_name(name, tensor):
  if name in _OPEN_CLIP_ENDS:
    return {_OPEN_CLIP_ENDS[name]: tensor}
  match = _OPEN_CLIP_BLOCK.fullmatch(name)
  if not match:
    return {name: tensor}
  visual, number, rest = match.groups()
  tower = "vision_model" if visual else "text_model"
  block = f"{tower}.encoder.layers.{number}"
  if rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
    leaf = rest.removeprefix("attn.in_proj_")
    parts = np.array_split(tensor, 3)
    return {
        f"{block}.self_attn.{part}_proj.{leaf}": value
        for part, value in zip("qkv", parts)
    }
  part, _, leaf = rest.rpartition(".")
  if part not in _OPEN_CLIP_PARTS:
    return {name: tensor}
  return {f"{block}.{_OPEN_CLIP_PARTS[part]}.{leaf}": tensor}
