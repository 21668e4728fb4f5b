"""A tuned adapter below test-time methods, which see features alone.

CLIP-Adapter moves the features of images, TaskRes those of classes; what comes
out are cosines as before, so any test-time method may begin with them:

  one = checkpoint.adapter(path, model)
  views = adapters.image_features(one, views)                     # CLIP-Adapter
  text = adapters.text_features(one, model, class_names)          # TaskRes
"""

from collections.abc import Sequence
from typing import Any

import jax

from jaxcal.clip import checkpoint as models
from jaxcal.tuning import checkpoint
from jaxcal.tuning import classes
from jaxcal.tuning import clip_adapter
from jaxcal.tuning import method as method_lib
from jaxcal.tuning import protocol
from jaxcal.tuning import taskres
from jaxcal.typing import Array
from jaxcal.typing import Float


def moves_images(one: checkpoint.Tuned) -> bool:
  """Whether the adapter is on the side of the images."""
  return one.spec.base_method == "clip_adapter"


def template_of(one: checkpoint.Tuned, otherwise: str) -> str:
  """The prompt that an adapter was trained with.

  Args:
    one: Parameters from `checkpoint.adapter`.
    otherwise: Prompt for files of earlier versions, which do not say it.
  """
  return one.about.get("identity", {}).get("prompt.template", otherwise)


def image_features(
    one: checkpoint.Tuned, features: Float[Array, "*n d"]
) -> Float[Array, "*n d"]:
  """What an adapter of images makes of unit-norm features: unit norm again.

  Its layers have no biases and are positively homogeneous, so that the norm of
  what they see, which features in a store have lost, does not matter.

  Args:
    one: Parameters of CLIP-Adapter, from `checkpoint.adapter`.
    features: Features of images or of their views.
  """
  return _image_features(one.params, features)


def text_features(
    one: checkpoint.Tuned,
    model: models.Model,
    class_names: Sequence[str],
    *,
    template: str = classes.GENERIC,
    max_bytes: int = 2**32,
) -> Float[Array, "k d"]:
  """What an adapter of classes makes of their names: unit norm.

  Args:
    one: Parameters of TaskRes, from `checkpoint.adapter`.
    model: The model that they were tuned for.
    class_names: Names in label order, of classes of the training.
    template: Prompt of the training.
    max_bytes: Budget of the text tower's activations.

  Raises:
    ValueError: Names of other classes than those of the training.
  """
  positions = protocol.class_positions(class_names, one.class_names)
  embeddings: Any = classes.template_embeddings(
      model, class_names, template, max_bytes=max_bytes)
  return taskres.text_features(
      taskres.take_classes(one.params, positions), embeddings)


@jax.jit
def _image_features(params, features):
  rows = features.reshape(-1, features.shape[-1])
  return clip_adapter.image_features(
      params, method_lib.Images(rows, rows)).reshape(features.shape)
