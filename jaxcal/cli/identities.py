"""What the saved numbers of a run are of, from a config."""

import dataclasses
import json
import pathlib
from typing import Any

from jaxcal import config as config_lib
from jaxcal import progress
from jaxcal.cli import experiment
from jaxcal.clip import checkpoint
from jaxcal.data import contents
from jaxcal.data import image_set as image_sets
from jaxcal.data import load
from jaxcal.features import pooled
from jaxcal.posterior import head
from jaxcal.storage import identity
from jaxcal.tuning import checkpoint as tuned_files

# Where digests of image files are kept, below the output folder.
_MEMORY = "digests"

_Config = config_lib.ExperimentConfig


def of_images(
    config: _Config,
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
  with progress.reported(f"{place}: files", delay=3) as report:
    return contents.identity_of(
        images, memory=None if output is None else output / _MEMORY / name,
        num_threads=config.num_threads, progress=report)


def of_features(config: _Config, model: checkpoint.Model) -> dict[str, Any]:
  """How images become features: model, precision, views."""
  views = dataclasses.asdict(experiment.recipe(config.views, model))
  found = {
      **pooled.identity_of_towers(model),
      "features": experiment.features_are(config.data),
      "views.seed": config.views.seed,
      **{f"views.{name}": value for name, value in views.items()}}
  return json.loads(json.dumps(found))


def of_prompts(config: _Config) -> dict[str, Any]:
  """How class names become text features."""
  context = config.method.context
  found = {"prompt.template": config.data.template, "prompt.context": context}
  if experiment.is_tuned(context):
    found["prompt.context"] = tuned_files.content_of(pathlib.Path(context))
  if context == "fpp":
    found |= {f"fpp.{name}": value
              for name, value in dataclasses.asdict(config.fpp).items()}
  return found


def of_order(config: _Config) -> dict[str, Any]:
  """The order of the images, for methods to which it matters."""
  return {"stream.order": config.stream.order,
          "stream.seed": config.stream.seed}


def of_posterior(
    config: _Config, chosen: head.Chosen | None) -> dict[str, Any] | None:
  """The posterior's covariances and what is drawn from it; None without one."""
  if chosen is None:
    return None
  return {**head.identity_of(chosen),
          "posterior.num_samples": config.posterior.num_samples,
          "posterior.seed": config.posterior.seed}
