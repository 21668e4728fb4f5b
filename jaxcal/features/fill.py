"""Images go through the tower, and what it sees into a store; resumable."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import functools
import os
import pathlib
from typing import Any

import jax
import numpy as np

from jaxcal import memory
from jaxcal import sharding
from jaxcal.clip import checkpoint
from jaxcal.data import contents
from jaxcal.data import image_set as image_sets
from jaxcal.data import views
from jaxcal.features import extract
from jaxcal.features import store as stores


def fill(
    model: checkpoint.Model,
    images: image_sets.ImageSet,
    folder: str | os.PathLike,
    *,
    recipe: views.Recipe | None = None,
    seed: int = 0,
    dtype: str = "float16",
    chunk_size: int = 256,
    share: tuple[int, int] | None = None,
    batch_size: int = 8,
    num_threads: int = 4,
    max_bytes: int = memory.GIGABYTE,
    identity: Mapping[str, Any] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> stores.Store:
  """Computes and writes the chunks that a store lacks.

  An interrupted call goes on where it stopped when it is made again. Processes
  that share a mesh each take chunks of their own, as do those that know nothing
  of each other and are given a share.

  Args:
    model: Model from `tasks.load`.
    images: The images.
    folder: Folder of the store, new or of the same features. Beside it, in
      `.digests`, is kept what the images' files hold.
    recipe: Recipe of the views; that of `extract.recipe_of` if None.
    seed: Seed of the views.
    dtype: Type of the stored values, one of `store.DTYPES`.
    chunk_size: Images per chunk, the unit of writing and resuming.
    share: Number of this process, from 0, and of how many.
    batch_size: Images per device.
    num_threads: Threads that read images.
    max_bytes: Budget of the image tower's activations, on each device.
    identity: Identity of the images from `contents.identity_of`, where it is
      known; their files are looked at if None.
    progress: Function called with a stage ("SET: files" or "SET"), and the
      numbers of its images done and in all.

  Returns:
    The store; complete unless others have a share in it.

  Raises:
    ValueError: See `store.create`; or an image cannot be read.
  """
  folder = pathlib.Path(folder)
  report = progress or (lambda stage, done, total: None)
  recipe = recipe or extract.recipe_of(model)
  if identity is None:
    identity = contents.identity_of(
        images, memory=folder.parent / ".digests" / f"{images.name}.npz",
        num_threads=num_threads,
        progress=functools.partial(report, f"{images.name}: files"))
  store = stores.create(folder, stores.manifest_of(
      model, images, recipe=recipe, seed=seed, dtype=dtype,
      chunk_size=chunk_size, contents=identity["data.contents"]), images)
  todo = stores.missing(
      store, *(share or (jax.process_index(), jax.process_count())))
  # Every process works on chunks of its own, so on its own devices.
  mesh = sharding.data_mesh(jax.local_devices())
  # Batches end with their chunk, so that values do not depend on which chunks
  # were there already.
  positions = [batch for chunk in todo for batch in extract.batches_of(
      stores.chunk_positions(store, chunk), batch_size * mesh.devices.size)]
  _write(store, todo, extract.from_images(
      model, images, positions, recipe=recipe, seed=seed, mesh=mesh,
      batch_size=batch_size, num_threads=num_threads, max_bytes=max_bytes),
         functools.partial(report, images.name))
  return store


def _write(
    store: stores.Store,
    todo: Sequence[int],
    batches: Iterator[extract.Batch],
    report: Callable[[int, int], None],
) -> None:
  """Writes chunks from the batches of their images, one after the other."""
  sizes = [len(stores.chunk_positions(store, chunk)) for chunk in todo]
  total = store.manifest.num_images
  done = total - sum(sizes)
  report(done, total)
  for chunk, size in zip(todo, sizes):
    arrays: list[tuple[np.ndarray, np.ndarray]] = []
    end = done + size
    while done < end:
      arrays.append(_rows(next(batches)))
      done += len(arrays[-1][0])
      report(done, total)
    view_features, pooled = map(np.concatenate, zip(*arrays))
    stores.write_chunk(store, chunk, view_features, pooled)


def _rows(batch: extract.Batch) -> tuple[np.ndarray, np.ndarray]:
  """Features of the views and before the projection, without filling."""
  view_features, pooled = sharding.gather_local(
      (batch.view_features, batch.pooled))
  return view_features[batch.mask], extract.join_pooled(pooled)[batch.mask]
