"""Tuned parameters on disk, and what they answer."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any, NamedTuple

from flax import traverse_util
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
import numpy as np

from jaxcal.cli import experiment
from jaxcal.cli import pooled
from jaxcal.clip import checkpoint
from jaxcal.clip import towers
from jaxcal.data import catalogue
from jaxcal.data import image_set as image_sets
from jaxcal.features import extract
from jaxcal.storage import atomic
from jaxcal.storage import pair
from jaxcal.tuning import method as method_lib
from jaxcal.tuning import methods
from jaxcal.tuning import protocol
from jaxcal.tuning import taskres
from jaxcal.tuning import tip_adapter
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Pooled
from jaxcal.typing import PyTree

ENDING = "safetensors"


class Tuned(NamedTuple):
  """One seed of a method.

  Attributes:
    spec: The method.
    params: As trained.
    class_names: Of the training.
    labels: Of the few shots, where the method looks them up; else empty.
    about: All that made them, as JSON has it.
  """

  spec: methods.Spec
  params: method_lib.Params
  class_names: tuple[str, ...]
  labels: Int[np.ndarray, "n"]
  about: Mapping[str, Any]


def save(path: pathlib.Path, tuned: Tuned) -> None:
  """Writes PATH.safetensors and PATH.json, seen together or not at all."""
  from safetensors import numpy as safetensors
  flat = traverse_util.flatten_dict(
      jax.tree.map(np.asarray, dict(tuned.params)), sep=".")
  atomic.make_folder(path.parent)
  content = safetensors.save({name: np.ascontiguousarray(value)
                              for name, value in flat.items()})
  pair.write(path, ENDING, content, {
      **tuned.about, "spec": tuned.spec._asdict(),
      "class_names": tuned.class_names,
      "labels": np.asarray(tuned.labels).tolist()})


def about(path: pathlib.Path) -> dict[str, Any]:
  """What PATH.json says of tuned parameters."""
  return pair.about(path, ENDING)


def load(path: pathlib.Path, model: checkpoint.Model) -> Tuned:
  """What `save` wrote; PATH may have one of the endings.

  Raises:
    FileNotFoundError: one of the two files is missing.
    ValueError: it is damaged, not such a file, or of another model.
  """
  from safetensors import numpy as safetensors
  from safetensors import SafetensorError
  path = pathlib.Path(path)
  if path.suffix in (f".{ENDING}", ".json"):
    path = path.with_suffix("")
  arrays, text = (atomic.with_ending(path, ending)
                  for ending in (ENDING, "json"))
  for file in (arrays, text):
    if not file.exists():
      raise FileNotFoundError(
          f"no {file}; `jaxcal tune` writes tuned/SET/METHOD/seed-N.{ENDING} "
          "with a .json beside it")
  content, made = pair.read(path, ENDING)
  try:
    params = traverse_util.unflatten_dict(safetensors.load(content), sep=".")
    spec = methods.Spec(**made["spec"])
    names, labels = made["class_names"], made["labels"]
  except (SafetensorError, KeyError, TypeError) as error:
    raise ValueError(f"{path}.* is not what `jaxcal tune` writes: {error!r}; "
                     "run it again") from error
  methods.check(spec.name)
  trained = made.get("model.fingerprint")
  if trained != model.fingerprint:
    raise ValueError(
        f"{path} was tuned for the model with the fingerprint {trained}, but "
        f"{model.name} has {model.fingerprint}; give that model with "
        "--config.model.name")
  return Tuned(spec, params, tuple(names), np.asarray(labels, np.int64), made)


def logits(
    config,
    model: checkpoint.Model,
    images: image_sets.ImageSet,
    seeds: Sequence[Tuned],
    *,
    template: str,
    folder: pathlib.Path,
) -> Float[np.ndarray, "s n k"]:
  """What tuned parameters answer for every image, among its set's classes.

  Args:
    config: Of the experiment.
    model: The one they were tuned for.
    images: The images.
    seeds: Of one method.
    template: Of the set, for what is not tuned.
    folder: Keeps features of the images, where a method needs no pixels.

  Raises:
    ValueError: classes that are not those of the training, for methods that
      answer for these alone.
  """
  spec = seeds[0].spec
  prompts = methods.prompts_of(
      spec, model, images.class_names, template=template,
      max_bytes=int(config.memory_gb * 2**30))
  prepared = [_for_classes(one, model, images.class_names) for one in seeds]
  asked = [prompts] * len(seeds)
  if spec.kind.from_pixels:
    batches = _pixels(config, model, images)
    # Once, not for every batch of images.
    asked = [prompts._replace(encode=Partial(
        _known, _text_features(*one, prompts))) for one in prepared]
  else:
    batches = [features(config, model, images, folder)]
  found = [np.stack([np.asarray(_logits(*one, names, batch))
                     for one, names in zip(prepared, asked)])
           for batch in batches]
  return np.concatenate(found, axis=1)


def template(config, data: str) -> str:
  """That of an image set in few-shot tuning, for what is not tuned."""
  if config.tune.template is not None:
    return config.tune.template
  if data in catalogue.CATALOGUE:
    return catalogue.CATALOGUE[data].few_shot_template
  return config.data.template


def features(config, model, images, folder) -> method_lib.Images:
  """Of the clean views of all images, computed or from `folder`."""
  return from_pooled(model, pooled.pooled_images(config, model, images, folder))


def from_pooled(model, found: Pooled) -> method_lib.Images:
  """Both forms of the features of a frozen image tower."""
  embeddings = jnp.asarray(towers.project(
      jnp.asarray(found.activations),
      towers.image_projection(model.config, model.params), found.residual))
  return method_lib.Images(towers.normalize(embeddings), embeddings)


def divergence(
    config, model: checkpoint.Model, images: image_sets.ImageSet, one: Tuned,
    *, template: str,
) -> float | None:
  """The FD score of tuned class features; None where images have their own."""
  method, params = _for_classes(one, model, images.class_names)
  if method.text_features is None or one.spec.host == "cocoop":
    return None
  prompts = methods.prompts_of(
      one.spec, model, images.class_names, template=template,
      max_bytes=int(config.memory_gb * 2**30))
  return float(protocol.fd_score(
      _text_features(method, params, prompts)))


def _for_classes(one: Tuned, model, class_names) -> tuple[
    method_lib.Method, PyTree]:
  """The method and the parameters for these classes."""
  kind, params, cache = one.spec.kind, one.params, None
  if kind.cached:
    cache = tip_adapter.Cache(params["keys"], jax.nn.one_hot(
        one.labels, len(one.class_names)))
  if kind.own_classes:
    positions = protocol.class_positions(class_names, one.class_names)
    if kind.cached:
      cache = tip_adapter.take_classes(cache, positions)
    elif kind.per_class:
      params = {"context": params["context"][positions]}
    else:
      params = taskres.take_classes(params, positions)
  # The outliers' weight has no part in what is answered.
  return methods.build(one.spec, model, cache), params


def _pixels(config, model, images):
  """Batches of images, for methods that answer through the image tower."""
  with experiment.progress(images.name, len(images.ids)) as bar:
    for views, mask in extract.views_from_images(
        images, extract.batches_of(np.arange(len(images.ids)), config.batch_size
                                   * pooled.IMAGES_PER_IMAGE),
        recipe=experiment.clean_view(model), seed=0,
        batch_size=config.batch_size * pooled.IMAGES_PER_IMAGE,
        num_threads=config.num_threads):
      yield method_lib.Images(None, pixels=views[mask, 0])
      bar.update(int(mask.sum()))


def _known(text_features, context, deep=None):
  """In the place of an encoder whose answer is known."""
  del context, deep
  return text_features


@jax.jit
def _logits(method, params, prompts, images):
  return method.logits(params, prompts, images)


@jax.jit
def _text_features(method, params, prompts):
  return method.text_features(params, prompts, None)
