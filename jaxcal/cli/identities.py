"""What the saved numbers of a run are of, from a config."""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcal import predictions as predictions_lib
from jaxcal import run
from jaxcal.adapt import base
from jaxcal.cli import experiment
from jaxcal.cli import posteriors
from jaxcal.cli import progress
from jaxcal.clip import checkpoint
from jaxcal.data import contents
from jaxcal.data import image_set as image_sets
from jaxcal.data import load
from jaxcal.features import pooled
from jaxcal.posterior import head
from jaxcal.storage import identity
from jaxcal.storage import paths

# Where digests of image files are kept, below the output folder.
_MEMORY = "digests"
_WAY_OUT = "give another --output, or --overwrite to remove what is there"


class OfSet(NamedTuple):
  """What the predictions for an image set are of.

  Attributes:
    common: Identity of all that methods share: images, model, views, prompts.
    by_name: Identity of each one's predictions, `common` among it.
  """

  common: dict[str, Any]
  by_name: dict[str, dict[str, Any]]

  @property
  def of_pass(self) -> str:
    """A digest of what is common, for names of folders."""
    return identity.of_lines([json.dumps(self.common, sort_keys=True)])


def of_set(
    config,
    model: checkpoint.Model,
    images: image_sets.ImageSet,
    methods: Mapping[str, base.Numbers],
    posterior: posteriors.Chosen | None,
    output: pathlib.Path | None,
    place: str,
) -> OfSet:
  """The identities of everything that is predicted for an image set.

  Args:
    config: Fields of the experiment.
    model: Model from `experiment.load_model`.
    images: The images.
    methods: Numbers of the methods by name.
    posterior: What predicts in its forms, too.
    output: Folder of the run, which keeps digests of files; none are kept if
      None.
    place: Place of the set among the predictions.
  """
  common = {**of_images(config, images, output, place),
            **of_features(config, model), **of_prompts(config, model),
            "evidence": list(config.evidence)}
  own = of_methods(config, methods, len(images.class_names), model)
  added = of_posterior(config.posterior, posterior)
  by_name = {}
  for name, method in run.output_names(
      methods, with_posterior=posterior is not None).items():
    by_name[name] = {**common, **own[method]}
    del by_name[name]["evidence"]  # more of it does no harm
    if name != method:
      by_name[name] |= {**added, "posterior.form": name.removeprefix(method)}
  return OfSet(common, by_name)


def is_there(
    path: pathlib.Path,
    asked: Mapping[str, Any],
    evidence: Sequence[str] = (),
) -> bool:
  """Whether predictions of the same lie there, with all the evidence.

  Args:
    path: Path of the predictions.
    asked: Identity that they should have.
    evidence: Names that they are to carry.

  Raises:
    ValueError: Predictions of something else lie there.
  """
  return predictions_lib.is_there(path, asked, way_out=_WAY_OUT) and (
      set(evidence) <= set(predictions_lib.settings(path).get("evidence", ())))


def missing(
    folder: pathlib.Path, asked: OfSet, evidence: Sequence[str] = ()
) -> list[str]:
  """Names of the predictions of a set that are to be computed.

  Args:
    folder: Folder of the set's predictions.
    asked: Identities of all of them.
    evidence: Names that they are to carry.

  Raises:
    ValueError: Predictions of something else lie there.
  """
  return [name for name, one in asked.by_name.items()
          if not is_there(paths.inside(folder, name), one, evidence)]


def of_images(
    config,
    images: image_sets.ImageSet,
    output: pathlib.Path | None,
    place: str,
) -> dict[str, Any]:
  """The identity of an image set; files that did not change are not read.

  Args:
    config: Settings of the experiment.
    images: The images; of a store, what it was made of counts.
    output: Folder of the run, which keeps digests; none are kept if None.
    place: Place of the set among the predictions.
  """
  if config.data.store is not None:
    manifest = load.open_store(config.data.store, images.name).manifest
    return identity.of_data(
        images.ids, images.labels, images.class_names) | {
            "data.contents": manifest.contents_fingerprint}
  name = f"{place.replace('/', ' ')}.digests.npz"
  with progress.bar(
      f"{place}: files", len(images.ids), delay=3) as bar:
    return contents.identity_of(
        images, memory=None if output is None else output / _MEMORY / name,
        num_threads=config.num_threads, progress=bar.update)


def of_features(config, model: checkpoint.Model) -> dict[str, Any]:
  """How images become features: model, precision, views."""
  views = dataclasses.asdict(experiment.recipe(config.views, model))
  found = {
      **pooled.identity_of_towers(model),
      "features": experiment.features_are(config.data),
      "views.seed": config.views.seed,
      **{f"views.{name}": value for name, value in views.items()}}
  return json.loads(json.dumps(found))


def of_prompts(config, model: checkpoint.Model) -> dict[str, Any]:
  """How class names become text features."""
  found = {
      "prompt.template": config.data.template,
      "prompt.context": config.method.context}
  if experiment.is_tuned(config.method.context):
    found["prompt.context"] = experiment.content_of(
        pathlib.Path(config.method.context))
  if config.method.context == "fpp":
    found |= {f"fpp.{name}": value
              for name, value in dataclasses.asdict(config.fpp).items()}
  return found


def of_methods(
    config,
    methods: Mapping[str, base.Numbers],
    num_classes: int,
    model: checkpoint.Model,
) -> dict[str, dict[str, Any]]:
  """A method's numbers, and the order of the images where it matters to it."""
  features: Any = jax.ShapeDtypeStruct(
      (num_classes, model.config.projection), np.float32)
  found = {}
  for name, method in methods.items():
    own = {"method": type(method).__name__} | {
        f"method.{number}": value
        for number, value in experiment.numbers_of(method).items()}
    if type(method).__module__.partition(".")[0] != "jaxcal":
      own["method"] = experiment.definition_of(method)
    if base.has_state(method.method(), base.Task(features, 1.0)):
      own |= {"stream.order": config.stream.order,
              "stream.seed": config.stream.seed}
    found[name] = own
  return found


def of_posterior(
    config, chosen: posteriors.Chosen | None) -> dict[str, Any]:
  """The posterior's covariances and what is drawn from it; nothing if None."""
  if chosen is None:
    return {}
  return {**head.identity_of(chosen),
          "posterior.num_samples": config.num_samples,
          "posterior.seed": config.seed}
