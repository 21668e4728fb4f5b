"""Pytrees of arrays on disk, so that long work goes on where it stopped."""

from collections.abc import Mapping
import json
import pathlib
from typing import Any

from absl import logging
import jax
import numpy as np

from jaxcal.storage import arrays
from jaxcal.storage import atomic
from jaxcal.storage import identity as identity_lib
from jaxcal.typing import PyTree

_IDENTITY = "identity"
_OF_NOTHING = np.frombuffer(b"{}", np.uint8)


def save(
    path: pathlib.Path, tree: PyTree,
    identity: Mapping[str, Any] | None = None, *, own: bool = False,
) -> None:
  """Writes the leaves, whole or not at all.

  Args:
    path: Place of the file; its folder is made.
    tree: Tree of arrays, numbers and keys.
    identity: What the tree is of, anything that JSON holds; see `load`.
    own: Whether the tree is this process's own; of one that all processes have,
      the first alone writes.
  """
  if jax.process_index() and not own:
    return
  atomic.make_folder(path.parent)
  leaves = {f"arr_{number}": np.asarray(_data(leaf))
            for number, leaf in enumerate(jax.tree.leaves(tree))}
  if identity is not None:
    leaves[_IDENTITY] = np.frombuffer(json.dumps(identity).encode(), np.uint8)
  atomic.write_whole(path, arrays.pack(leaves))


def load(
    path: pathlib.Path, like: PyTree,
    identity: Mapping[str, Any] | None = None,
) -> PyTree:
  """What `save` wrote, in the structure of `like`; `like` if there is none.

  A damaged file is set aside as NAME.damaged, with a warning, and `like` is
  returned: the work that led to it is done again.

  Args:
    path: Place of the file.
    like: The tree as it is before any work.
    identity: What the tree must be of; not compared if None.

  Raises:
    ValueError: Arrays of other shapes lie there, or a tree of something else.
  """
  try:
    stored = arrays.unpack(path)
    made_of = json.loads(stored.pop(_IDENTITY, _OF_NOTHING).tobytes())
  except FileNotFoundError:
    return like
  except (ValueError, RecursionError) as error:
    logging.warning(
        "%s is damaged (%s); it is called %s now, and the work since its "
        "beginning is done again", path, error, atomic.set_aside(path).name)
    return like
  if identity is not None:
    identity_lib.check(
        made_of, identity, what=f"{path} is of another run",
        way_out="remove it, or write to another folder")
  old, structure = jax.tree.flatten(like)
  wanted = {f"arr_{number}": _form(leaf) for number, leaf in enumerate(old)}
  leaves = [stored[name] for name in wanted if name in stored]
  if wanted != {name: _form(leaf) for name, leaf in stored.items()}:
    raise ValueError(f"{path} is of another run; remove it, or give another "
                     "--output")
  return jax.tree.unflatten(structure, [
      jax.random.wrap_key_data(jax.numpy.asarray(new)) if _is_key(leaf) else new
      for leaf, new in zip(old, leaves)])


def _form(leaf):
  """Shape and kind of numbers of a leaf."""
  data = _data(leaf)
  return np.shape(data), np.dtype(getattr(data, "dtype", type(data))).kind


def _data(leaf):
  return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _is_key(leaf):
  return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(
      leaf.dtype, jax.dtypes.prng_key)
