"""Image sets and class names before the projections, for the posterior."""

from collections.abc import Callable, Iterator
import pathlib
import tempfile
from typing import NamedTuple

import jax
import numpy as np

from jaxcal import parts as parts_lib
from jaxcal import sharding
from jaxcal import tasks
from jaxcal.cli import experiment
from jaxcal.data import contents
from jaxcal.data import image_set as image_sets
from jaxcal.data import pairs
from jaxcal.features import extract
from jaxcal.storage import identity
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Pooled

# A clean view is one where an evaluated image is 64 of them.
IMAGES_PER_IMAGE = 8


class Task(NamedTuple):
  """A labelled image set as the posterior sees it."""

  images: Pooled
  labels: Int[np.ndarray, "n"]
  texts: Float[np.ndarray, "k w"]


def task(config, model, images: image_sets.ImageSet,
         folder: pathlib.Path | None = None) -> Task:
  """Clean views of all images and the prompts of all classes.

  Args:
    config: Of the experiment.
    model: From `experiment.load_model`.
    images: The image set.
    folder: Keeps what an interrupted run has computed; none if None.
  """
  text = tasks.unencoded_task(
      model, images.class_names, template=config.data.template)
  return Task(pooled_images(config, model, images, folder),
              np.asarray(images.labels),
              np.asarray(text.encode.pooled(text.context), np.float32))


def pooled_images(config, model, images: image_sets.ImageSet,
                  folder: pathlib.Path | None = None) -> Pooled:
  """Clean views of all images; arguments as in `task`."""
  with tempfile.TemporaryDirectory() as scratch:
    folder = folder or pathlib.Path(scratch)
    parts_lib.open_folder(
        folder, images.ids, ("image",), identity=_identity(model, images))
    todo = parts_lib.missing(folder, len(images.ids))
    with experiment.progress(images.name, len(images.ids)) as bar:
      bar.update(len(images.ids) - len(todo))
      for asked, batch in batches(config, model, images, todo):
        write(folder, asked, "image", jax.tree.map(
            lambda x, count=len(asked): x[:count],
            sharding.gather_local(batch.pooled)))
        bar.update(len(asked))
    return gather(folder, "image")


def _identity(model, images):
  """What clean views of these images are of."""
  return {
      **contents.identity_of(images), "model": model.fingerprint,
      "computation": identity.COMPUTATION,
      "model.image_precision": model.config.vision.precision}


def batches(
    config,
    model,
    images: image_sets.ImageSet | pairs.PairSet,
    positions: Int[np.ndarray, "n"],
    *,
    on_unusable: Callable[[int, str], None] | None = None,
) -> Iterator[tuple[Int[np.ndarray, "r"], extract.Batch]]:
  """Clean views of images at some positions: these, and their features.

  By one process with all of its devices; the rows of a batch begin with those
  that were asked for.

  Args:
    config: Of the experiment.
    model: From `experiment.load_model`.
    images: Or pairs.
    positions: Of the images.
    on_unusable: See `extract.from_images`.
  """
  mesh = sharding.data_mesh()
  rows = config.batch_size * IMAGES_PER_IMAGE
  asked = extract.batches_of(positions, rows * mesh.devices.size)
  return zip(asked, extract.from_images(
      model, images, asked, recipe=experiment.clean_view(model), seed=0,
      mesh=mesh, batch_size=rows, num_threads=config.num_threads,
      on_unusable=on_unusable))


def write(folder: pathlib.Path, positions, name: str,
          rows: Pooled, **more) -> None:
  """Writes rows of `Pooled`, and other answers by name, as a part."""
  fields = {field: value for field, value in rows._asdict().items()
            if value is not None}
  parts_lib.write(folder, positions, {name: fields, **more})


def gather(folder: pathlib.Path, name: str) -> Pooled:
  """All rows that `write` wrote."""
  fields = parts_lib.gather(folder, name)
  return Pooled(fields["activations"], fields.get("residual"))
