"""--config.protocol: what fields left None are for each image set."""

from collections.abc import Iterable
import copy

from jaxcal import config as config_lib
from jaxcal.adapt.prompt import published
from jaxcal.data import catalogue

_Config = config_lib.ExperimentConfig


def for_set(config: _Config, data: str) -> _Config:
  """The config with the published values for an image set, where it has None.

  Args:
    config: Settings of the experiment.
    data: Name of the image set.

  Raises:
    ValueError: The family of the set is not known.
  """
  if config.protocol != "paper":
    return config
  family, augmix = _family(config, data)
  config = copy.deepcopy(config)
  if config.views.number is None:
    config.views.number = published.NUM_VIEWS
  if config.views.augmix is None:
    config.views.augmix = augmix
  parts = config_lib.method_parts(config.method)
  for name, weight in published.WEIGHTS[family].items():
    if config.method.weight is None and parts[name].weight is None:
      parts[name].weight = weight
  return config


def remarks(config: _Config, sets: Iterable[str]) -> dict[str, str]:
  """Of each image set, which values were used and whence; {} without any.

  Args:
    config: Settings of the experiment.
    sets: Names of the image sets.
  """
  if config.protocol != "paper":
    return {}
  return {data: _remark(config, data) for data in sets}


def _remark(config, data):
  family, _ = _family(config, data)
  used = for_set(config, data)
  weights = config_lib.method_parts(used.method)
  told = [f"{name} {weight:g}" for name in config.method.name
          if name in published.WEIGHTS[family] and name not in config.methods
          and (weight := config.method.weight if weights[name].weight is None
               else weights[name].weight) is not None]
  before = config_lib.method_parts(config.method)
  given = [field for field, value in (
      ("method.weight", config.method.weight),
      *((f"method.{name}.weight", before[name].weight)
        for name in config.method.name if name in published.WEIGHTS[family]),
      ("views.number", config.views.number),
      ("views.augmix", config.views.augmix)) if value is not None]
  return (
      f"{data}: protocol of the papers for the family {family}: "
      f"{used.views.number} views, AugMix "
      f"{'on' if used.views.augmix else 'off'}, weights "
      f"{', '.join(told) or 'none'}" +
      (f"; given: {', '.join(given)}" if given else ""))


def _family(config, data):
  """The family of a set, and whether the papers' scripts mix its views."""
  given = config.data.family
  # Not of a folder that is called like one.
  row = catalogue.CATALOGUE.get(data) if data in config.data.name else None
  if given is None and row is None:
    raise ValueError(
        f"--config.protocol=paper knows the families of the benchmark sets "
        f"only; say that of {data} with --config.data.family="
        f"{' or '.join(published.FAMILIES)}")
  if row is None:
    return given, True
  return given or ("shift" if row.shift else "fine_grained"), (
      row.augmix or row.shift)
