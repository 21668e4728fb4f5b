"""Pytrees of arrays on disk, so that long work goes on where it stopped."""

import io
import pathlib

import jax
import numpy as np

from jaxcal.storage import atomic
from jaxcal.typing import PyTree


def save(path: pathlib.Path, tree: PyTree) -> None:
  """Writes the leaves, whole or not at all; the first process alone."""
  if jax.process_index():
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  content = io.BytesIO()
  np.savez(content, *(
      jax.random.key_data(leaf) if _is_key(leaf) else leaf
      for leaf in jax.tree.leaves(tree)))
  atomic.write_whole(path, content.getvalue())


def load(path: pathlib.Path, like: PyTree) -> PyTree:
  """What `save` wrote, in the structure of `like`; `like` if there is none.

  Raises:
    ValueError: arrays of other shapes lie there.
  """
  if not path.exists():
    return like
  with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
    leaves = [stored[f"arr_{number}"] for number in range(len(stored.files))]
  old, structure = jax.tree.flatten(like)
  if [np.shape(_data(leaf)) for leaf in old] != [x.shape for x in leaves]:
    raise ValueError(f"{path} is of another run; remove it, or give another "
                     "--output")
  return jax.tree.unflatten(structure, [
      jax.random.wrap_key_data(new) if _is_key(leaf) else new
      for leaf, new in zip(old, leaves)])


def _data(leaf):
  return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _is_key(leaf):
  return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(
      leaf.dtype, jax.dtypes.prng_key)
