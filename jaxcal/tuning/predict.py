"""What tuned parameters predict, for any images and classes."""

from collections.abc import Iterable, Sequence
import pathlib

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
import numpy as np

from jaxcal import memory
from jaxcal import precision
from jaxcal.clip import checkpoint as models
from jaxcal.clip import towers
from jaxcal.data import image_set as image_sets
from jaxcal.tuning import checkpoint
from jaxcal.tuning import classes
from jaxcal.tuning import images as images_lib
from jaxcal.tuning import method as method_lib
from jaxcal.tuning import methods
from jaxcal.tuning import protocol
from jaxcal.tuning import taskres
from jaxcal.tuning import tip_adapter
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import PyTree


def logits(
    model: models.Model,
    images: image_sets.ImageSet,
    seeds: Sequence[checkpoint.Tuned | None],
    *,
    template: str = classes.GENERIC,
    features: pathlib.Path | None = None,
    max_bytes: int = memory.ON_HOST,
    batch_size: int = images_lib.BATCH_SIZE,
    num_threads: int = 4,
    progress: images_lib.Progress = None,
) -> Float[np.ndarray, "s n k"]:
  """What tuned parameters predict for every image, among its set's classes.

  Args:
    model: The model that they were tuned for.
    images: The images; labels are not looked at.
    seeds: Parameters of one method; or a single None, the zero-shot model.
    template: Prompt of what is not tuned.
    features: Folder that keeps features of the images, where a method needs no
      pixels; none if None.
    max_bytes: Budget on each device: of the text tower's activations, and in
      its share (`memory.shares`) of those of the image tower.
    batch_size: Images per step of the image tower.
    num_threads: Threads that read images.
    progress: Function called with the numbers of images done and in all.

  Raises:
    ValueError: Classes that are not those of the training, for methods that
      predict these alone.
  """
  first, *_ = seeds
  tower = memory.shares(max_bytes).image_tower
  if first is None:
    known = images_lib.features(
        model, images, folder=features, max_bytes=tower, batch_size=batch_size,
        num_threads=num_threads, progress=progress).features
    text = _zero_shot(model, images.class_names, template, max_bytes)
    return np.asarray(
        _cosines(jnp.exp(model.params["logit_scale"]), known, text))[None]
  spec = first.spec
  prompts = methods.prompts_of(
      spec, model, images.class_names, template=template, max_bytes=max_bytes)
  prepared = [_for_classes(one, model, images.class_names)
              for one in seeds if one is not None]
  asked = [prompts] * len(seeds)
  if spec.kind.from_pixels:
    batches: Iterable[method_lib.Images] = images_lib.pixels(
        model, images, batch_size=batch_size, num_threads=num_threads,
        progress=progress)
    # Once, not for every batch of images.
    asked = [prompts._replace(encode=Partial(
        _known, _text_features(*one, prompts))) for one in prepared]
  else:
    batches = [images_lib.features(
        model, images, folder=features, max_bytes=tower, batch_size=batch_size,
        num_threads=num_threads, progress=progress)]
  found = [np.stack([np.asarray(_logits(*one, names, batch))
                     for one, names in zip(prepared, asked)])
           for batch in batches]
  return np.concatenate(found, axis=1)


def divergence(
    model: models.Model,
    class_names: Sequence[str],
    one: checkpoint.Tuned | None,
    *,
    template: str = classes.GENERIC,
    max_bytes: int = 2**32,
) -> float | None:
  """The FD score of tuned class features; None where images have their own.

  Args:
    model: The model that they were tuned for.
    class_names: Names of the classes in label order.
    one: The parameters; None for the zero-shot model.
    template: Prompt of what is not tuned.
    max_bytes: Budget of the text tower's activations.
  """
  found = text_features(
      model, class_names, one, template=template, max_bytes=max_bytes)
  return None if found is None else float(protocol.fd_score(found))


def text_features(
    model: models.Model,
    class_names: Sequence[str],
    one: checkpoint.Tuned | None,
    *,
    template: str = classes.GENERIC,
    max_bytes: int = 2**32,
) -> Float[Array, "k d"] | None:
  """Tuned text features, unit norm; None where there are not one for a class.

  That is where images have their own, or the text side is not tuned, or not for
  any names but those of the training.

  Args:
    model: The model that they were tuned for.
    class_names: Names of the classes in label order.
    one: The parameters; None for the zero-shot model.
    template: Prompt of what is not tuned.
    max_bytes: Budget of the text tower's activations.
  """
  if one is None:
    return _zero_shot(model, class_names, template, max_bytes)
  method, params = _for_classes(one, model, class_names)
  if method.text_features is None or one.spec.base_method == "cocoop":
    return None
  prompts = methods.prompts_of(
      one.spec, model, class_names, template=template, max_bytes=max_bytes)
  return _text_features(method, params, prompts)


def _zero_shot(model, class_names, template, max_bytes):
  """Unit-norm text features of the classes in the template."""
  return towers.normalise(classes.template_embeddings(
      model, class_names, template, max_bytes=max_bytes))


@precision.highest
def _cosines(scale, features, text):
  return scale * features @ text.T


def _for_classes(one: checkpoint.Tuned, model, class_names) -> tuple[
    method_lib.Method, PyTree]:
  """The method and the parameters for these classes."""
  kind, params, cache = one.spec.kind, one.params, None
  if kind.cached:
    cache = tip_adapter.Cache(params["keys"], jax.nn.one_hot(
        one.labels, len(one.class_names)))
  if kind.own_classes:
    positions = protocol.class_positions(class_names, one.class_names)
    if kind.cached:
      cache = tip_adapter.take_classes(
          cache, positions)  # type: ignore[arg-type]
    elif kind.per_class:
      params = {"context": params["context"][positions]}
    else:
      params = taskres.take_classes(params, positions)
  # The outliers' weight has no part in what is predicted.
  return methods.build(one.spec, model, cache), params


def _known(text_features, context, deep=None):
  """In the place of an encoder whose features are known."""
  del context, deep
  return text_features


@jax.jit
def _logits(method, params, prompts, images):
  return method.logits(params, prompts, images)


@jax.jit
def _text_features(method, params, prompts):
  return method.text_features(params, prompts, None)
