"""What recalibrators look at beside logits, of tuned predictions."""

from collections.abc import Callable, Hashable, Sequence
import pathlib

import numpy as np

from jaxcal import memory
from jaxcal.clip import checkpoint as models
from jaxcal.data import image_set as image_sets
from jaxcal.tuning import checkpoint
from jaxcal.tuning import classes
from jaxcal.tuning import images as images_lib
from jaxcal.tuning import predict
from jaxcal.typing import Float

# Those of `predictions.EVIDENCE` that can be told.
NAMES = ("image_features", "text_features", "zero_shot_text_features",
         "base_text_features", "base_zero_shot_text_features",
         "zero_shot_logits")
# What neither tuning nor the classes of a seed's training change.
_OF_ALL_SEEDS = ("image_features", "zero_shot_text_features",
                 "zero_shot_logits")


def shared_by(name: str, one: checkpoint.Tuned) -> Hashable:
  """What is the same for seeds of a method that have the same array.

  Args:
    name: Name of the array.
    one: Parameters of a seed.

  Returns:
    A key; None where each seed has an array of its own.
  """
  if name in _OF_ALL_SEEDS:
    return name
  if name == "base_zero_shot_text_features":
    return name, tuple(one.class_names)
  return None


def arrays(
    model: models.Model,
    images: image_sets.ImageSet,
    one: checkpoint.Tuned,
    names: Sequence[str],
    *,
    template: str = classes.GENERIC,
    features: pathlib.Path | None = None,
    max_bytes: int = memory.ON_HOST,
    batch_size: int = images_lib.BATCH_SIZE,
    num_threads: int = 4,
) -> dict[str, Float[np.ndarray, "..."]]:
  """The arrays that are asked for, as far as the method has them.

  A method that tunes the image side has no `image_features` here, and one whose
  text features depend on the image has no `text_features`.

  Args:
    model: The model that the parameters were tuned for.
    images: The images.
    one: The parameters.
    names: Names of `NAMES`.
    template: Prompt of what is not tuned.
    features: Folder that keeps features of the images; none if None.
    max_bytes: Budget on each device: of the text tower's activations, and in
      its share (`memory.shares`) of those of the image tower.
    batch_size: Images per step of the image tower.
    num_threads: Number of threads that read images.
  """
  def text(class_names, tuned):
    if tuned is not None and tuned.spec.base_method == "clip_adapter":
      tuned = None  # which leaves the text side as it is
    return predict.text_features(
        model, class_names, tuned, template=template, max_bytes=max_bytes)

  def image_features():
    if one.spec.kind.from_pixels or one.spec.base_method == "clip_adapter":
      return None
    return images_lib.features(
        model, images, folder=features,
        max_bytes=memory.shares(max_bytes).image_tower,
        batch_size=batch_size, num_threads=num_threads).features

  def zero_shot_logits():
    return predict.logits(
        model, images, [None], template=template, features=features,
        max_bytes=max_bytes, batch_size=batch_size, num_threads=num_threads)[0]

  base_names = one.class_names
  known: dict[str, Callable] = {
      "image_features": image_features,
      "text_features": lambda: text(images.class_names, one),
      "zero_shot_text_features": lambda: text(images.class_names, None),
      "base_text_features": lambda: text(base_names, one),
      "base_zero_shot_text_features": lambda: text(base_names, None),
      "zero_shot_logits": zero_shot_logits}
  found = {name: known[name]() for name in names}
  return {name: np.asarray(value, np.float32)
          for name, value in found.items() if value is not None}
