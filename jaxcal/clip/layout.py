"""Parameter names and axis orders: PyTorch checkpoints against our tree.

Our tree is that of Hugging Face's Flax CLIP. The functions only rename, split
and transpose; whether the result is a whole model is `checkpoint`'s to say.
"""

from collections.abc import Mapping

from flax import traverse_util
import numpy as np

from jaxcal.typing import PyTree

_EMBEDDINGS = ("token_embedding", "position_embedding")

# Buffers of older Hugging Face checkpoints: 0, 1, 2, ... and nothing else.
_BUFFERS = (
    "text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"
)


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


def _weight_name(module):
  if module in _EMBEDDINGS:
    return "embedding"
  return "scale" if "norm" in module else "kernel"


def _kernel(weight):
  if weight.ndim < 2:
    return weight  # of a wrong shape, and reported as such by the check
  return weight.transpose(*range(2, weight.ndim), 1, 0)
