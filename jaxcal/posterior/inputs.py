"""What a posterior sees of a model and of images: all before the projections.
"""

from collections.abc import Callable
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcal import memory
from jaxcal import tasks
from jaxcal.clip import checkpoint
from jaxcal.clip import towers
from jaxcal.data import image_set as image_sets
from jaxcal.features import pooled
from jaxcal.typing import at_least_float32
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Pooled

# What says how far long work is: the stage, and what is done and in all of it.
Progress = Callable[[str, int, int], None]

TEMPLATE = "a photo of a {}."


class Task(NamedTuple):
  """A labelled image set before the projections.

  Attributes:
    images: Clean views of all images.
    labels: Positions in the class names.
    texts: Prompts of all classes.
  """

  images: Pooled
  labels: Int[np.ndarray, "n"]
  texts: Float[np.ndarray, "k w"]


def projections(model: checkpoint.Model) -> dict[str, towers.Projection]:
  """The last linear maps of both towers, by side, in float32 at least."""
  return jax.tree.map(at_least_float32, {
      "image": towers.image_projection(model.config, model.params),
      "text": towers.text_projection(model.config, model.params)})


def weight_norm2(projection: towers.Projection) -> float:
  """Sum of squares of a map's weights, the bias among them."""
  return float(sum(np.square(np.asarray(leaf, np.float64)).sum()
                   for leaf in jax.tree.leaves(projection)))


def task(
    model: checkpoint.Model,
    images: image_sets.ImageSet,
    folder: pathlib.Path | None = None,
    *,
    template: str = TEMPLATE,
    max_bytes: int = memory.GIGABYTE,
    batch_size: int = pooled.BATCH_SIZE,
    num_threads: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> Task:
  """Clean views of all images and the prompts of all classes.

  Args:
    model: Model from `tasks.load`.
    images: The image set.
    folder: See `pooled.from_images`, as all that is not named here.
    template: Prompt, with {} for the class name.
    max_bytes: Budget of the image tower's activations, on each device.
    batch_size: Images per device.
    num_threads: Threads that read images.
    progress: Function called with the numbers of images done and in all.
  """
  text: Any = tasks.unencoded_task(model, images.class_names, template=template)
  return Task(
      pooled.from_images(
          model, images, folder, max_bytes=max_bytes, batch_size=batch_size,
          num_threads=num_threads, progress=progress),
      np.asarray(images.labels),
      np.asarray(text.encode.pooled(text.context), np.float32))
