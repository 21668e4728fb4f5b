"""Clean views of all images, up to the last projection: what a posterior sees.

Work that was interrupted goes on where it stopped; what lies in its folder is
used again only where it is of the same images, model and precision.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import json
import pathlib
import tempfile
from typing import Any

import jax
import numpy as np

from jaxcal import memory
from jaxcal import parts
from jaxcal import sharding
from jaxcal.clip import checkpoint
from jaxcal.data import contents
from jaxcal.data import image_set as image_sets
from jaxcal.data import pairs
from jaxcal.data import views
from jaxcal.features import extract
from jaxcal.storage import identity
from jaxcal.typing import Int
from jaxcal.typing import Pooled

# Images per device where the caller names no number.
BATCH_SIZE = 64

_MEMORY = "digests.npz"


def from_images(
    model: checkpoint.Model,
    images: image_sets.ImageSet,
    folder: pathlib.Path | None = None,
    *,
    together: bool = False,
    max_bytes: int = memory.GIGABYTE,
    batch_size: int = BATCH_SIZE,
    num_threads: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> Pooled:
  """What the projection sees of the clean view of every image.

  Args:
    model: Model from `checkpoint.load`.
    images: The images.
    folder: Folder of what an interrupted call has computed; nothing is kept if
      None.
    together: Whether all processes make this call at once, and share the images
      out; it takes a folder that all of them see.
    max_bytes: Budget of the image tower's activations, on each device.
    batch_size: Images per device.
    num_threads: Threads that read images.
    progress: Function called with the numbers of images done and in all.

  Raises:
    ValueError: An image cannot be read, or the folder holds those of other
      images or of another model.
  """
  if folder is None:
    with tempfile.TemporaryDirectory() as scratch:
      return from_images(
          model, images, pathlib.Path(scratch), max_bytes=max_bytes,
          batch_size=batch_size, num_threads=num_threads, progress=progress)
  report = progress or (lambda done, total: None)
  total = len(images.ids)
  parts.open_folder(folder, images.ids, ("image",), identity={
      **identity_of(model),
      **identity_of_images(images, folder, num_threads=num_threads)})
  todo = parts.missing(folder, total)
  size = batch_size * jax.local_device_count()
  with sharding.shared_out(todo, size, together=together) as own:
    done = total - len(own)
    report(done, total)
    for asked, batch in batches(
        model, images, own, max_bytes=max_bytes, batch_size=batch_size,
        num_threads=num_threads):
      write(folder, asked, "image", rows_of(batch, len(asked)))
      done += len(asked)
      report(done, total)
  return gather(folder, "image")


def identity_of(model: checkpoint.Model) -> dict[str, Any]:
  """The identity of a model's image tower and of how it is computed."""
  return {"computation": identity.COMPUTATION, "model": model.fingerprint,
          "model.image_precision": model.config.vision.precision}


def identity_of_towers(model: checkpoint.Model) -> dict[str, Any]:
  """The weights, and how exactly both towers are computed."""
  return {**identity_of(model),
          "model.text_precision": model.config.text.precision}


def identity_of_views(
    model: checkpoint.Model,
    recipe: views.Recipe,
    *,
    seed: int = 0,
    features: str = "computed",
) -> dict[str, Any]:
  """The identity of features of views, as JSON has it, but for the images.

  Args:
    model: Model from `tasks.load`.
    recipe: Recipe of the views.
    seed: Seed of the random views.
    features: Whence the features come, see `load.kind_of_features`.
  """
  return json.loads(json.dumps({
      **identity_of_towers(model), "features": features, "views.seed": seed,
      **{f"views.{name}": value
         for name, value in dataclasses.asdict(recipe).items()}}))


def identity_of_images(
    images: image_sets.ImageSet,
    folder: pathlib.Path,
    *,
    num_threads: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
  """The identity of images whose features a folder keeps.

  Args:
    images: The images; none is decoded.
    folder: Folder of `from_images`, which remembers what the files hold, so
      that only those that have changed are read again.
    num_threads: Threads that read files.
    progress: Function called with (files looked at, files in all).
  """
  return contents.identity_of(images, memory=folder / _MEMORY,
                              num_threads=num_threads, progress=progress)


def batches(
    model: checkpoint.Model,
    images: image_sets.ImageSet | pairs.PairSet,
    positions: Int[np.ndarray, "n"],
    *,
    max_bytes: int = memory.GIGABYTE,
    batch_size: int = BATCH_SIZE,
    num_threads: int = 4,
    on_unusable: Callable[[int, str], None] | None = None,
) -> Iterator[tuple[Int[np.ndarray, "r"], extract.Batch]]:
  """Clean views of images at some positions: these, and their features.

  On all devices of this process; the rows of a batch begin with those that were
  asked for.

  Args:
    model: Model from `checkpoint.load`.
    images: Images, or pairs.
    positions: Positions of the images.
    max_bytes: Budget of the image tower's activations, on each device.
    batch_size: Images per device.
    num_threads: Threads that read images.
    on_unusable: See `extract.from_images`.
  """
  mesh = sharding.data_mesh(jax.local_devices())
  asked = extract.batches_of(positions, batch_size * mesh.devices.size)
  return zip(asked, extract.from_images(
      model, images, asked, recipe=extract.recipe_of(model, num_views=1),
      seed=0, mesh=mesh, batch_size=batch_size, num_threads=num_threads,
      max_bytes=max_bytes, on_unusable=on_unusable))


def rows_of(batch: extract.Batch, count: int) -> Pooled:
  """The first rows of a batch, on the host."""
  return jax.tree.map(
      lambda x: x[:count], sharding.gather_local(batch.pooled))


def write(
    folder: pathlib.Path,
    positions: Int[np.ndarray, "r"],
    name: str,
    rows: Pooled,
    more: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> None:
  """Writes features of some images as a part, see `parts.write`.

  Args:
    folder: Folder from `parts.open_folder`.
    positions: Positions of the images.
    name: Name of the features in the folder.
    rows: Features of these images.
    more: Further arrays of these images, by name and field.
  """
  fields = {field: value for field, value in rows._asdict().items()
            if value is not None}
  parts.write(folder, positions, {name: fields, **(more or {})})


def gather(folder: pathlib.Path, name: str) -> Pooled:
  """All rows that `write` wrote."""
  fields = parts.gather(folder, name)
  return Pooled(fields["activations"], fields.get("residual"))
