"""What a config says of the numbers of a run: its run.json."""

import json
import pathlib
from typing import Any

from jaxcal import config as config_lib
from jaxcal import config_choice
from jaxcal import config_file
from jaxcal import config_inputs
from jaxcal import provenance
from jaxcal.adapt import numbers
from jaxcal.clip import checkpoint
from jaxcal.data import load
from jaxcal.posterior import head
from jaxcal.tuning import checkpoint as tuned_files

_Config = config_lib.ExperimentConfig


def describe(
    config: _Config, model: checkpoint.Model,
    posterior: head.Chosen | None = None
) -> dict[str, Any]:
  """Everything that decides the numbers, by dotted name, as JSON has it.

  Args:
    config: Settings of the experiment.
    model: Model from `config_inputs.load_model`.
    posterior: Posterior on top; None without.
  """
  settings = {field.name: field.value for field in config_lib.fields(config)
              if field.name not in config_lib.FREE and not (
                  field.value is None and field.is_of_one_method)}
  settings[config_file.OWN_METHODS] = {
      name: numbers.definition_of(method)
      for name, method in config.methods.items()}
  settings |= _by_content(config.method, config.choice) | {
      "model.fingerprint": model.fingerprint,
      "model.image_precision": model.config.vision.precision,
      "model.features": load.kind_of_features(
          config.data.store, config.data.name[0])}
  about = {} if posterior is None else posterior.about
  settings |= {f"posterior.{key}": value for key, value in about.items()}
  settings |= {f"provenance.{key}": value
               for key, value in provenance.describe().items()}
  return json.loads(json.dumps(settings))


def _by_content(
    config: config_lib.MethodConfig, choice: config_lib.ChoiceConfig
) -> dict[str, Any]:
  """Fields that name files, by what these hold: they may move, not change."""
  fields: dict[str, Any] = {"config.method.tuned": [
      tuned_files.content_of(path) for path in tuned_files.find(config.tuned)]}
  if config_inputs.is_tuned(config.context):
    fields["config.method.context"] = tuned_files.content_of(
        pathlib.Path(config.context))
  if choice.sweep is not None:
    fields["config.choice.sweep"] = config_choice.content_of(choice)
  if config.adapter is not None:
    fields["config.method.adapter"] = tuned_files.content_of(
        pathlib.Path(config.adapter))
  return fields
