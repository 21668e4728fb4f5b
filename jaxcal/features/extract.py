"""Batches of image features: from pixels by the image tower, or from a store.

Either way a batch is split over the devices of a mesh, and knows which images
of the set its rows are.
"""

from collections.abc import Callable, Iterator, Sequence
import functools
from typing import NamedTuple

import jax
from jax.sharding import Mesh
import numpy as np

from jaxcal import memory
from jaxcal import sharding
from jaxcal.clip import checkpoint
from jaxcal.clip import towers
from jaxcal.data import image_set as image_sets
from jaxcal.data import pairs
from jaxcal.data import pipeline
from jaxcal.data import views
from jaxcal.features import encoding
from jaxcal.features import store as stores
from jaxcal.typing import Array
from jaxcal.typing import Bool
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Pooled
from jaxcal.typing import Positions
from jaxcal.typing import UInt8


def recipe_of(
    model: checkpoint.Model, *, num_views: int = 64) -> views.Recipe:
  """How views are cut for a model, random ones as published."""
  preprocess = model.preprocess
  return views.Recipe(
      size=preprocess.crop, resize=preprocess.resize,
      resample=preprocess.resample, offset=preprocess.offset,
      num_views=num_views)


# Called with what is being done, and the number of batches that are done; one
# that is half done counts half.
OnStep = Callable[[str, float], None]


class Batch(NamedTuple):
  """Features of a batch; each process knows the rows of its own devices.

  Attributes:
    view_features: Features [b v d] over all devices, unit norm; view 0 is the
      clean one.
    pooled: Activations [b .] of view 0, what the projection sees; None where it
      is not at hand.
    positions: Positions of this process's rows in the set.
    mask: Mask, false for rows of this process that only fill the batch up, or
      whose image cannot be used.
    states: States of all views that enter a block of the image tower; None
      where nobody asked for them.
  """

  view_features: Float[Array, "b v d"]
  pooled: Pooled | None
  positions: Int[np.ndarray, "r"]
  mask: Bool[np.ndarray, "r"]
  states: Float[Array, "b v t w"] | None = None


def from_images(
    model: checkpoint.Model,
    image_set: image_sets.ImageSet | pairs.PairSet,
    batches: Sequence[Positions],
    *,
    recipe: views.Recipe,
    seed: int,
    mesh: Mesh,
    batch_size: int,
    num_threads: int,
    max_bytes: int = memory.GIGABYTE,
    block: int | None = None,
    on_step: OnStep | None = None,
    on_unusable: Callable[[int, str], None] | None = None,
) -> Iterator[Batch]:
  """Reads images, cuts their views and runs the image tower.

  Args:
    model: Model from `checkpoint.load`.
    image_set: The images; of pairs, the captions are not looked at.
    batches: Positions of the images in each batch, at most `batch_size` per
      device, see `batches_of`. Every process of the mesh gives the same ones
      and reads those of its own rows.
    recipe: Recipe of the views.
    seed: Seed of the views.
    mesh: Devices that share the work.
    batch_size: Images per device.
    num_threads: Threads that read images.
    max_bytes: See `encoding.image_encoder`.
    block: See `encoding.image_encoder`.
    on_step: Function called before each step of the image tower.
    on_unusable: See `pipeline.batches`; the mask is then false for such an
      image, and its features mean nothing.

  Raises:
    ValueError: An image that cannot be read, which is named; too many positions
      for a batch.
  """
  encode = encoding.image_encoder(
      model, recipe, mesh, max_bytes=max_bytes, block=block)
  shares = [_share(batch, mesh, batch_size) for batch in batches]
  num_rows = len(sharding.local_rows(mesh, batch_size))
  read = pipeline.batches(
      image_set, shares, seed=seed, batch_size=num_rows,
      num_threads=num_threads, recipe=recipe, on_unusable=on_unusable)
  for number, (share, images) in enumerate(zip(shares, read)):
    positions, _ = _filled(share, num_rows)
    told = None if on_step is None else functools.partial(
        _told, on_step, number)
    view_features, pooled, states = encode(images, told)
    yield Batch(view_features, pooled, positions, images.mask, states)


def views_from_images(
    image_set: image_sets.ImageSet,
    batches: Sequence[Positions],
    *,
    recipe: views.Recipe,
    seed: int,
    batch_size: int,
    num_threads: int,
) -> Iterator[tuple[UInt8[Array, "b v s s 3"], Bool[np.ndarray, "b"]]]:
  """The views themselves, on one device, for what trains the image tower.

  Arguments and errors as in `from_images`; the mask is false in rows that only
  fill the batch up.
  """
  mesh = sharding.data_mesh(jax.local_devices()[:1])
  for images in pipeline.batches(
      image_set, batches, seed=seed, batch_size=batch_size,
      num_threads=num_threads, recipe=recipe):
    yield encoding.views_of(images, recipe, mesh), images.mask


def from_store(
    store: stores.Store,
    batches: Sequence[Positions],
    *,
    config: towers.ClipConfig | None,
    mesh: Mesh,
    batch_size: int,
    max_bytes: int = 2**28,
) -> Iterator[Batch]:
  """The same from a store; other arguments as in `from_images`.

  Args:
    store: The features.
    batches: Positions in the store.
    config: Sizes of the model whose features are stored; without, `pooled` is
      None.
    mesh: Devices that share the work.
    batch_size: Images per device.
    max_bytes: Features that are held at a time, in the stored dtype. Where
      positions do not ascend, the store is read once for each time that it
      does not fit.

  Raises:
    FileNotFoundError: Features that are not in the store yet.
    ValueError: Features that were damaged, or of another model; too many
      positions for a batch.
  """
  num_rows = len(sharding.local_rows(mesh, batch_size))
  shares = [_share(batch, mesh, batch_size) for batch in batches]
  for window in _windows(shares, max_bytes // _row_bytes(store)):
    needed, rows = np.unique(np.concatenate(window), return_inverse=True)
    arrays = stores.read(store, needed)
    stops = np.cumsum([len(share) for share in window])[:-1]
    for share, taken in zip(window, np.split(rows, stops)):
      # float16 is a form of storage, not of computing.
      view_features, pooled = (
          array[_filled(taken, num_rows)[0]].astype(np.float32)
          for array in arrays)
      positions, mask = _filled(share, num_rows)
      view_features, pooled = sharding.split(
          (view_features, None if config is None else
           split_pooled(config, pooled)), mesh)
      yield Batch(view_features, pooled, positions, mask)


def from_arrays(
    view_features: Float[np.ndarray, "n v d"],
    batches: Sequence[Positions],
    *,
    mesh: Mesh,
    batch_size: int,
) -> Iterator[Batch]:
  """The same from features in memory, without `pooled`.

  Args:
    view_features: View features of all images.
    batches: Positions in them.
    mesh: Devices that share the work.
    batch_size: Images per device.
  """
  num_rows = len(sharding.local_rows(mesh, batch_size))
  for batch in batches:
    positions, mask = _filled(_share(batch, mesh, batch_size), num_rows)
    yield Batch(sharding.split(view_features[positions], mesh), None,
                positions, mask)


def join_pooled(pooled: Pooled) -> Float[np.ndarray, "n w"]:
  """Activations followed by the residual, as a store keeps them; on the host.
  """
  return np.concatenate(
      [part for part in pooled if part is not None], axis=-1)


def split_pooled(
    config: towers.ClipConfig, joined: Float[np.ndarray, "n w"]
) -> Pooled:
  """Undoes `join_pooled`.

  Args:
    config: Settings of the model whose features they are.
    joined: Pooled features as `store.read_pooled` gives them.

  Raises:
    ValueError: They are of another size than the model's.
  """
  size, residual = config.pooled_sizes
  if joined.shape[-1] != size + residual:
    raise ValueError(f"expected pooled features of {size} + {residual} values, "
                     f"as the model has them, got {joined.shape=}")
  return Pooled(
      joined[..., :size], joined[..., size:] if residual else None)


def batches_of(
    positions: Positions, size: int) -> list[Int[np.ndarray, "r"]]:
  """Positions in batches of `size`; the last one may be smaller."""
  every = np.asarray(positions, np.int64)
  return [every[first:first + size] for first in range(0, len(every), size)]


def _windows(shares, num_rows):
  """Batches in groups of about so many rows, one batch at least."""
  window: list[Int[np.ndarray, "r"]] = []
  size = 0
  for share in shares:
    if window and size + len(share) > num_rows:
      yield window
      window, size = [], 0
    window.append(share)
    size += len(share)
  if window:
    yield window


def _row_bytes(store):
  manifest = store.manifest
  values = manifest.num_views * manifest.feature_size + manifest.pooled_size
  return values * np.dtype(manifest.dtype).itemsize


def _told(on_step, number, what, share):
  on_step(what, number + share)


def _share(batch, mesh, batch_size):
  """Positions of a batch that fall on the rows of this process."""
  batch = np.asarray(batch, np.int64)
  if len(batch) > mesh.devices.size * batch_size:
    raise ValueError(f"{len(batch)} images for a batch of {mesh.devices.size} "
                     f"devices with {batch_size} each; see `batches_of`")
  mine = sharding.local_rows(mesh, batch_size)
  return batch[mine[mine < len(batch)]]


def _filled(share, size):
  """Positions filled up to a batch, and which of them are meant."""
  filling = np.repeat(share[-1:] if len(share) else [0], size - len(share))
  return (np.concatenate([share, filling]).astype(np.int64),
          np.arange(size) < len(share))
