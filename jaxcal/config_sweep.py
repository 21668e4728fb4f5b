"""A config and the fields that a sweep goes over become the settings to run."""

from collections.abc import Callable, Mapping, Sequence
import copy
import dataclasses
from typing import Any, NamedTuple

from jaxcal import config as config_lib
from jaxcal import config_inputs
from jaxcal import config_methods
from jaxcal import sweep
from jaxcal.adapt import base
from jaxcal.adapt import numbers
from jaxcal.clip import checkpoint
from jaxcal.posterior import head

_Config = config_lib.ExperimentConfig

# What a point of the sweep may have of its own: numbers of all methods, and of
# single ones.
_NUMBERS = (*(f"method.{name}" for name in config_lib.NUMBERS), *(
    f"method.{name}.{field.name}" for name, part in config_lib.method_parts(
        config_lib.MethodConfig()).items()
    for field in dataclasses.fields(part)))
# Fields whose values share a pass over the images.
PER_IMAGE = ("method.name", *_NUMBERS)


class Variant(NamedTuple):
  """Points that share a pass over the images of each set.

  Attributes:
    config: Settings that the points have in common.
    fields: Swept fields other than the points' own.
    changes: The points' own swept fields, each with the name of its method.
  """

  config: _Config
  fields: Mapping[str, Any]
  changes: Sequence[Mapping[str, Any]]


def kinds(config: _Config) -> dict[str, Any]:
  """Types of the fields of a config by dotted name, as --sweep has it."""
  return {name: field.kind for name, field in _fields_of(config).items()}


def variants(config: _Config, axes: Sequence[sweep.Axis]) -> list[Variant]:
  """The settings of every variant; refuses what cannot be run.

  Args:
    config: Settings of the experiment; its methods are run where none are
      swept.
    axes: Swept fields with their values.

  Raises:
    ValueError: A value is out of range, no method has a swept number, or the
      config has several orders of a stream or images of other classes in it.
  """
  if config.stream.orders > 1:
    raise ValueError(
        f"--config.stream.orders is {config.stream.orders}, which is for "
        "`jaxcal evaluate`; a sweep goes over --sweep=stream.seed=0,1,2")
  if config.stream.outlier_share:
    raise ValueError(
        f"--config.stream.outlier_share is {config.stream.outlier_share:g}, "
        "which is for `jaxcal evaluate`: a sweep predicts no images of other "
        "classes; set it to 0")
  axes = list(axes)
  if not any(axis.name == "method.name" for axis in axes):
    axes.insert(0, sweep.Axis(
        "method.name", tuple((name,) for name in config.method.name)))
  found = [Variant(_changed(config, fields), fields, rest)
           for fields, rest in sweep.variants(sweep.product(axes), PER_IMAGE)]
  every = [point for one in found
           for point in points(one.config, one.changes).values()]
  idle = sweep.unused(every, [
      axis.name.removeprefix("method.") for axis in axes
      if axis.name in _NUMBERS])
  if idle:
    raise ValueError(f"none of the methods has a {' or a '.join(idle)}, so "
                     "there is nothing to sweep")
  return found


def points(
    config: _Config, changes: Sequence[Mapping[str, Any]]
) -> dict[str, sweep.Point]:
  """The points by their names: methods, each with all of its numbers.

  Args:
    config: Settings that the points have in common, perhaps for one image set.
    changes: The points' own fields, see `Variant`.
  """
  found = {}
  for fields in changes:
    setting = _changed(config, fields)
    name, = setting.method.name
    point = sweep.point(
        name, config_methods.default_of(setting, name),
        numbers.values_of(config_methods.method_of(setting, name)))
    found[point.name] = point
  return found


def methods_of(
    config: _Config, points: Mapping[str, sweep.Point]
) -> dict[str, base.Numbers]:
  """The methods of `points`, from the same config, with their numbers."""
  return {
      name: dataclasses.replace(  # type: ignore[type-var]
          config_methods.default_of(config, point.method), **point.numbers)
      if point.numbers else config_methods.method_of(config, point.method)
      for name, point in points.items()}


def remembered(load: Callable[..., Any]) -> Callable[..., Any]:
  """Remembers what was loaded last, for variants that follow each other.

  Args:
    load: Function of parts of a config, and of numbers.
  """
  last: dict[Any, Any] = {}

  def loaded(*parts):
    key = tuple(part if isinstance(part, int | float) else
                dataclasses.astuple(part) for part in parts)
    if key not in last:
      last.clear()
      last[key] = load(*parts)
    return last[key]

  return loaded


class Loaded:
  """Models and posteriors of variants, each kept until another one is asked."""

  def __init__(self):
    self._model = remembered(config_inputs.load_model)
    self._posterior = remembered(
        lambda posterior, model: config_inputs.load_posterior(
            posterior, self._model(model)))

  def model(self, config: _Config) -> checkpoint.Model:
    """The model of a config."""
    return self._model(config.model)

  def posterior(self, config: _Config) -> head.Chosen | None:
    """The posterior of a config; None without one."""
    return self._posterior(config.posterior, config.model)


def folder_fields(variant: Variant) -> dict[str, Any]:
  """Swept fields with a pass of their own, as the command line has them."""
  return {name: config_lib.plain(value)
          for name, value in variant.fields.items()}


def _fields_of(config):
  return {field.name.removeprefix("config."): field
          for field in config_lib.fields(config)}


def _changed(config, fields):
  """A copy of the config with other values, checked."""
  config = copy.deepcopy(config)
  by_name = _fields_of(config)
  config_methods.prefer(config, fields)
  for name, value in fields.items():
    field = by_name[name]
    setattr(field.part, field.key, config_lib.with_home(value, field))
  try:
    config_lib.validate(config)
  except ValueError as error:
    if any(isinstance(value, str) and f"config.{name} " in str(error)
           for name, value in fields.items()):
      raise ValueError(
          f"{error}\n--sweep=FIELD=VALUE,VALUE separates values by commas; one "
          "with a comma in it stands in double quotes, as in "
          """--sweep='data.template="a {}, a pet.",a {}.'""") from error
    raise
  return config
