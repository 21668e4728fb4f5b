"""What tuned parameters predict, in files; what is there is not done again."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
import functools
import pathlib
from typing import Any, NamedTuple

import numpy as np

from jaxcal import memory
from jaxcal import predictions as predictions_lib
from jaxcal import sharding
from jaxcal import stages
from jaxcal.clip import checkpoint as models
from jaxcal.data import image_set as image_sets
from jaxcal.tuning import checkpoint
from jaxcal.tuning import classes
from jaxcal.tuning import evidence as evidence_lib
from jaxcal.tuning import images as images_lib
from jaxcal.tuning import predict
from jaxcal.tuning import protocol
from jaxcal.tuning import task as task_lib

ZERO_SHOT = stages.Stages("zero_shot")

# Of what is in Tuned.about, what predictions need not repeat: it is long.
_LONG = ("class_names", "labels", "losses", "identity")


class Asked(NamedTuple):
  """Predictions of one seed, or of the model before tuning.

  Attributes:
    path: Path of the predictions, without an ending.
    stages: Stages of the predictions.
    tuned: The parameters; None for the zero-shot model.
    identity: What the predictions are of.
    about: Anything else to be written beside them.
    evidence: Names of the arrays that they are to carry, of `evidence.NAMES`,
      as far as the method has them.
  """

  path: pathlib.Path
  stages: stages.Stages
  tuned: checkpoint.Tuned | None
  identity: Mapping[str, Any]
  about: Mapping[str, Any] = {}
  evidence: tuple[str, ...] = ()


def load(
    paths: Sequence[pathlib.Path], model: models.Model
) -> dict[stages.Stages, checkpoint.Tuned]:
  """Tuned parameters side by side, by their stages.

  Args:
    paths: Files, see `checkpoint.find`.
    model: The model that they were tuned for.

  Raises:
    FileNotFoundError: Nothing lies there.
    ValueError: It is damaged or of another model, or two are called alike.
  """
  loaded: dict[stages.Stages, checkpoint.Tuned] = {}
  places: dict[stages.Stages, pathlib.Path] = {}
  for path in paths:
    one = checkpoint.load(path, model)
    of = one.spec.stages._replace(tuned_seed=one.about.get("seed", 1))
    if of in loaded:
      raise ValueError(
          f"two tuned parameters have the name {of.label}: {places[of]} and "
          f"{path}; predict with them in runs of their own")
    loaded[of], places[of] = one, path
  return loaded


def check_classes(
    seeds: Mapping[stages.Stages, checkpoint.Tuned],
    sets: Iterable[image_sets.ImageSet],
) -> None:
  """Refuses classes that parameters of single classes do not know.

  Raises:
    ValueError: Says which, see `protocol.class_positions`.
  """
  for images in sets:
    for of, one in seeds.items():
      if one.spec.kind.own_classes:
        try:
          protocol.class_positions(images.class_names, one.class_names)
        except ValueError as error:
          raise ValueError(f"{of.label} cannot predict {images.name}: {error}"
                           ) from error


def asked(
    seeds: Mapping[stages.Stages, checkpoint.Tuned],
    folder: pathlib.Path,
    identity: Mapping[str, Any],
    about: Mapping[str, Any],
    *,
    template: str,
    evidence: tuple[str, ...] = (),
) -> list[Asked]:
  """What several tuned parameters are to predict for an image set.

  Args:
    seeds: Tuned parameters from `load`.
    folder: Folder of the set's predictions.
    identity: Identity of images and model.
    about: Anything else to be written beside the predictions.
    template: Prompt of what is not tuned.
    evidence: Names of the arrays that predictions are to carry.
  """
  return [Asked(
      folder / of.label, of, one,
      {**identity, "prompt.template": template,
       "tuned": checkpoint.digest(one)},
      {**about, "tuned": {name: value for name, value in one.about.items()
                          if name not in _LONG}},
      evidence)
          for of, one in seeds.items()]


def asked_of_half(
    output: pathlib.Path,
    task: task_lib.Task,
    half: str,
    seeds: Mapping[int, checkpoint.Tuned | None],
    identity: Mapping[str, Any],
    about: Mapping[str, Any],
) -> list[Asked]:
  """What the seeds of a method are to predict for a half of the classes.

  Args:
    output: Folder of the run.
    task: The data set.
    half: Name of the half, of `task.HALVES`.
    seeds: Parameters by seed; None for the zero-shot model.
    identity: Identity of images and model.
    about: Anything else to be written beside the predictions.
  """
  found = []
  for seed, one in seeds.items():
    of = ZERO_SHOT if one is None else one.spec.stages
    tuned = {} if one is None else {"tuned": checkpoint.digest(one)}
    found.append(Asked(
        path_of(output, task.name, of, half, seed), of, one,
        {**identity, "prompt.template": task.template, "method": of.label,
         **tuned}, {**about, "data": task.name}))
  return found


def path_of(output: pathlib.Path, data: str, of: stages.Stages, half: str,
            seed: int) -> pathlib.Path:
  """Where the predictions of a seed for a half of the classes are.

  Args:
    output: Folder of the run.
    data: Name of the image set.
    of: Stages of the predictions.
    half: Name of the half, of `task.HALVES`.
    seed: Seed of the training.
  """
  return output / "predictions" / data / of.label / f"{half}-{seed}"


def missing(asked: Iterable[Asked]) -> list[Asked]:
  """Those that are not there with all that they are to carry.

  Raises:
    ValueError: Predictions of something else lie there.
  """
  return [one for one in asked if not predictions_lib.is_there(
      one.path, one.identity, evidence=one.evidence)]


def save(
    model: models.Model,
    images: image_sets.ImageSet,
    asked: Iterable[Asked],
    *,
    template: str = classes.GENERIC,
    with_fd_score: bool = False,
    features: pathlib.Path | None = None,
    together: bool = False,
    max_bytes: int = memory.ON_HOST,
    batch_size: int = images_lib.BATCH_SIZE,
    num_threads: int = 4,
    progress: images_lib.Progress = None,
) -> None:
  """Predicts for the images of a set, and saves what was `missing`.

  Args:
    model: The model that they were tuned for.
    images: The image set.
    asked: Everything that is to be there afterwards.
    template: Prompt of what is not tuned.
    with_fd_score: Whether settings tell `fd_score`, see `predict.divergence`.
    features: See `predict.logits`.
    together: Whether all processes make this call at once; they share the
      images out first, then the predictions. It takes `features`.
    max_bytes: Budget on each device: of the text tower's activations, and in
      its share (`memory.shares`) of those of the image tower.
    batch_size: Images per step of the image tower.
    num_threads: Number of threads that read images.
    progress: Function called with the numbers of images done and in all.

  Raises:
    ValueError: Predictions of something else lie there; or see
      `predict.logits`.
  """
  todo = missing(asked)
  if together and sharding.several() and not all(
      one.tuned and one.tuned.spec.kind.from_pixels for one in todo):
    images_lib.features(
        model, images, folder=features, together=True,
        max_bytes=memory.shares(max_bytes).image_tower, batch_size=batch_size,
        num_threads=num_threads, progress=progress)
  predicted = functools.partial(
      predict.logits, model, images, template=template, features=features,
      max_bytes=max_bytes, batch_size=batch_size, num_threads=num_threads,
      progress=progress)
  arrays = functools.partial(
      evidence_lib.arrays, model, images, template=template, features=features,
      max_bytes=max_bytes, batch_size=batch_size, num_threads=num_threads)
  divergence = functools.partial(
      predict.divergence, model, images.class_names, template=template,
      max_bytes=max_bytes) if with_fd_score else None
  groups: dict[Any, list[Asked]] = {}
  with sharding.shared_out(np.arange(len(todo)), 1, together=together) as own:
    for one in (todo[number] for number in own):
      groups.setdefault(one.tuned and one.tuned.spec, []).append(one)
    for group in groups.values():
      _save(model, images, group, predicted, arrays, divergence)


def _save(model, images, group, predicted, arrays, divergence):
  """What the seeds of one method predict, or the zero-shot model."""
  found = predicted([one.tuned for one in group])
  # The seeds of a method share all that tuning leaves as it is.
  alike: dict[Hashable, Any] = {}
  for one, logits in zip(group, found, strict=True):
    carried: dict[str, Any] = {}
    if one.tuned is not None:
      keys = {name: evidence_lib.shared_by(name, one.tuned)
              for name in one.evidence}
      carried = arrays(
          one.tuned, [name for name, key in keys.items() if key not in alike])
      alike |= {keys[name]: values for name, values in carried.items()
                if keys[name] is not None}
      carried |= {name: alike[key] for name, key in keys.items()
                  if key in alike}
    about = {**one.about, **stages.setting(one.stages),
             **_scale(model, one.tuned), "identity": one.identity,
             "evidence": list(one.evidence)}
    if divergence is not None:
      about["fd_score"] = divergence(one.tuned)
    predictions_lib.save(predictions_lib.Predictions(
        np.asarray(logits, np.float32), np.asarray(images.labels),
        images.ids, images.class_names, {}, about, carried), one.path)


def _scale(model, tuned):
  """What settings say of the logit scale, where logits are scaled cosines."""
  if tuned is not None and tuned.spec.kind.cached:
    return {}
  scale = np.exp(np.asarray(model.params["logit_scale"]))
  return {predictions_lib.LOGIT_SCALE: float(scale)}
