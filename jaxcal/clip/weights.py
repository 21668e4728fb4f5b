"""Files of weights become the arrays of a model, exactly those of its sizes.

Read are safetensors, in one file or in shards, and Flax's msgpack; nothing is
unpickled.
"""

from collections.abc import Callable, Mapping
import os
import pathlib
from typing import Any

from flax import serialization
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.clip import sizes
from jaxcal.clip import towers
from jaxcal.storage import damage
from jaxcal.storage import paths
from jaxcal.typing import DTypeLike
from jaxcal.typing import PyTree

_MAX_LISTED = 20
_LARGEST_LOG_SCALE = 88  # of float32

Flat = dict[str, np.ndarray]


def expected(config: towers.ClipConfig) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of a model's parameters by their paths; nothing is allocated.

  Raises:
    ValueError: There are more than `sizes.MAX_PARAMETERS`.
  """
  # Not in a function made here: what JAX knows, it does not trace again.
  found = traverse_util.flatten_dict(jax.eval_shape(
      towers.init, config, jax.eval_shape(jax.random.key, 0)), sep="/")
  sizes.check_parameters(found)
  return found


def read(
    path: pathlib.Path, to_tree: Callable[[Mapping[str, np.ndarray]], PyTree]
) -> Flat:
  """The arrays in a file of weights by their paths in our tree.

  Args:
    path: Place of a .safetensors, of the index of shards, or of a .msgpack.
    to_tree: Function from tensors by the names of PyTorch to our tree; what a
      msgpack holds is one already.

  Raises:
    FileNotFoundError: A shard is missing.
    damage.DamagedFile: A file is empty, cut off, or not of its format.
  """
  if path.suffix == ".msgpack":
    tree = _msgpack(path)
  elif path.suffix == ".json":
    tree = _tree(_shards(path), to_tree, path)
  else:
    tree = _tree(_safetensors(path), to_tree, path)
  return _flat(tree, path)


def checked(
    found: Flat, wanted: Mapping[str, jax.ShapeDtypeStruct],
    dtype: DTypeLike, path: pathlib.Path) -> Flat:
  """The arrays in `dtype`; exactly the model's, all finite.

  Args:
    found: Arrays from `read`.
    wanted: Shapes from `expected`.
    dtype: Type that they become.
    path: Place of the file, for the error.

  Raises:
    ValueError: Arrays are missing, left over, of another shape, no real
      numbers, or not finite; names them.
  """
  problems = [
      f"{name}: missing, expected {list(leaf.shape)}"
      for name, leaf in wanted.items() if name not in found]
  problems += [
      f"{name}: not of this model, found {list(leaf.shape)}"
      for name, leaf in found.items() if name not in wanted]
  flat = {}
  for name in wanted.keys() & found.keys():
    array, shape = found[name], wanted[name].shape
    if not shape and array.shape == (1,):
      array = array.reshape(())  # a scale of the logits, as some tools write it
    if array.shape != shape:
      problems.append(f"{name}: expected {list(shape)}, found "
                      f"{list(array.shape)}")
    elif not jnp.issubdtype(array.dtype, jnp.floating):
      problems.append(f"{name}: expected real numbers, found {array.dtype}")
    else:
      with np.errstate(over="ignore"):  # counted in the next line
        flat[name] = np.asarray(array).astype(dtype)
      wrong = int(np.size(array) - np.isfinite(flat[name]).sum())
      if wrong:
        problems.append(f"{name}: {wrong} values are not finite in {dtype}")
      elif name == "logit_scale" and not flat[name] < _LARGEST_LOG_SCALE:
        problems.append(f"{name}: {flat[name]} is the logarithm of a scale "
                        "that is not finite")
      elif name.endswith("/var") and (flat[name] < 0).any():
        problems.append(f"{name}: a variance is below 0")
  if problems:
    raise ValueError(_describe(problems, path))
  return flat


def _describe(problems, path):
  problems = sorted(problems)
  more = len(problems) - _MAX_LISTED
  lines = problems[:_MAX_LISTED] + ([f"and {more} more"] if more > 0 else [])
  return (f"{path} does not hold the model that its configuration describes:"
          + "".join(f"\n  {line}" for line in lines))


def _safetensors(path) -> dict[str, Any]:
  from safetensors import numpy as safetensors
  damage.refuse_stub(path)
  with damage.told(path):
    return safetensors.load_file(path)


def _shards(path):
  parts = damage.read_object(path).get("weight_map")
  if not isinstance(parts, dict) or not parts or not all(
      isinstance(file, str) for file in parts.values()):
    raise damage.DamagedFile(
        path, "weight_map is no object with the file of each tensor")
  tensors: dict[str, Any] = {}
  for file in sorted(set(parts.values())):
    with damage.told(path):
      shard = paths.inside(path.parent, file)
    if not os.path.exists(shard):
      raise FileNotFoundError(
          f"no {shard}, which {path.name} names as a part of the weights; get "
          "it from where they came from")
    tensors.update(_safetensors(shard))
  return tensors


def _msgpack(path):
  damage.refuse_stub(path)
  with damage.told(path):
    return serialization.msgpack_restore(path.read_bytes())


def _tree(tensors, to_tree, path):
  # A name that another one begins with is a folder and a file at once.
  folders = {name[:place] for name in tensors
             for place, letter in enumerate(name) if letter == "."}
  both = sorted(folders & tensors.keys())
  if both:
    raise damage.DamagedFile(
        path, f"a tensor {both[0]!r}, and tensors below that name")
  with damage.told(path):
    return to_tree(tensors)


def _flat(tree, path):
  if not isinstance(tree, dict):
    raise damage.DamagedFile(
        path, f"expected arrays by name, but it holds a {type(tree).__name__}")
  with damage.told(path):
    flat = traverse_util.flatten_dict(tree, sep="/")
  for name, value in flat.items():
    if not isinstance(value, (np.ndarray, np.generic)):
      raise damage.DamagedFile(
          path, f"expected an array {name}, but it holds a "
          f"{type(value).__name__}")
  return {name: np.asarray(value) for name, value in flat.items()}
