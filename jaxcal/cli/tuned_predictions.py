"""What `jaxcal tune` saved, for `jaxcal evaluate`: starts, and predictions."""

from collections.abc import Iterable, Mapping
import pathlib
from typing import Any

import numpy as np

from jaxcal import predictions as predictions_lib
from jaxcal.cli import experiment
from jaxcal.cli import identities
from jaxcal.cli import progress
from jaxcal.clip import checkpoint as models
from jaxcal.data import image_set as image_sets
from jaxcal.tuning import checkpoint
from jaxcal.tuning import methods
from jaxcal.tuning import predict
from jaxcal.tuning import protocol

# Of what is in Tuned.about, what predictions need not repeat: it is long.
_LONG = ("class_names", "labels", "losses", "identity")


def start(config, model: models.Model) -> checkpoint.Tuned | None:
  """The context that config.method.context names by path; None without one.

  Raises:
    FileNotFoundError: Nothing lies there.
    ValueError: It is damaged, of another model, or has no context that every
      class and image could start from.
  """
  if not experiment.is_tuned(config.context):
    return None
  one = checkpoint.load(pathlib.Path(config.context), model)
  if one.params.keys() != {"context"} or one.params["context"].ndim != 2:
    raise ValueError(
        f"--config.method.context is of {one.spec.name}: "
        f"{_other_than(one.spec)}; images can start from contexts of coop, "
        "kgcoop and prograd. To predict with it as it is: "
        f"--config.method.tuned={config.context}")
  return one


def load(config, model: models.Model) -> dict[str, checkpoint.Tuned]:
  """What config.method.tuned names, as METHOD-SEED.

  Raises:
    FileNotFoundError: Nothing lies there.
    ValueError: It is damaged or of another model, or two are called alike.
  """
  loaded: dict[str, checkpoint.Tuned] = {}
  paths: dict[str, pathlib.Path] = {}
  for path in experiment.tuned_files(config.tuned):
    one = checkpoint.load(path, model)
    name = f"{one.spec.name}-{path.stem.removeprefix('seed-')}"
    if name in loaded:
      raise ValueError(f"--config.method.tuned has two of the name {name}: "
                       f"{paths[name]} and {path}; predict with them in runs "
                       "of their own")
    loaded[name] = one._replace(
        about={**one.about, "content": experiment.content_of(path)})
    paths[name] = path
  return loaded


def check_classes(
    seeds: Mapping[str, checkpoint.Tuned], sets: Iterable[image_sets.ImageSet]
) -> None:
  """Refuses classes that parameters of single classes do not know.

  Raises:
    ValueError: Says which, see `protocol.class_positions`.
  """
  for images in sets:
    for name, one in seeds.items():
      if one.spec.kind.own_classes:
        try:
          protocol.class_positions(images.class_names, one.class_names)
        except ValueError as error:
          raise ValueError(f"{name} cannot predict {images.name}: {error}"
                           ) from error


def missing(
    seeds: Mapping[str, checkpoint.Tuned],
    identity: Mapping[str, Any],
    folder: pathlib.Path,
    template: str,
) -> list[str]:
  """Names of the predictions that are to be computed.

  Args:
    seeds: Tuned parameters, from `load`.
    identity: Identity of images and model.
    folder: Folder of the predictions.
    template: See `predict.logits`.

  Raises:
    ValueError: Predictions of something else lie there.
  """
  return [name for name, one in _identities(
      seeds, identity, template).items()
          if not identities.is_there(folder / name, one)]


def predict_set(
    config,
    model: models.Model,
    images: image_sets.ImageSet,
    seeds: Mapping[str, checkpoint.Tuned],
    about: Mapping[str, Any],
    identity: Mapping[str, Any],
    folder: pathlib.Path,
    *,
    template: str,
    features: pathlib.Path,
) -> None:
  """Saves what they predict; what is there already is not computed again.

  Args:
    config: Fields of the experiment.
    model: Model that they were tuned for.
    images: The image set.
    seeds: Tuned parameters, from `load`.
    about: Settings to write into the predictions of all.
    identity: Identity of images and model.
    folder: Folder of the predictions.
    template: See `predict.logits`.
    features: Folder that keeps the features of the images.
  """
  alike: dict[Any, Any] = {}
  asked = _identities(seeds, identity, template)
  for name in missing(seeds, identity, folder, template):
    alike.setdefault(seeds[name].spec, {})[name] = seeds[name]
  for group in alike.values():
    with progress.reported(images.name) as report:
      predicted = predict.logits(
          model, images, list(group.values()), template=template,
          features=features, max_bytes=experiment.max_bytes(config),
          batch_size=experiment.clean_batch_size(config),
          num_threads=config.num_threads, progress=report)
    for (name, one), logits in zip(group.items(), predicted, strict=True):
      training = {key: value for key, value in one.about.items()
                  if key not in _LONG}
      predictions_lib.save(predictions_lib.Predictions(
          logits, np.asarray(images.labels), images.ids, images.class_names,
          {}, {**about, "method": name, "tuned": training,
               "identity": asked[name]}), folder / name)


def _identities(seeds, identity, template):
  return {name: {**identity, "prompt.template": template,
                 "tuned": one.about["content"]}
          for name, one in seeds.items()}


def _other_than(spec: methods.Spec) -> str:
  """Why a method's parameters are not one context."""
  if spec.kind.per_class:
    return "its contexts belong to a class of the training each"
  if spec.kind.from_pixels:
    return "it has prompts in deeper layers and in the image tower, too"
  if spec.base_method == "cocoop":
    return "its context is another one for every image"
  return "it has no context"
