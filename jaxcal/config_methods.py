"""What a config says of test-time methods: which, and with which numbers.

  config = config_file.load("quickstart")
  methods = config_methods.methods_of(config)    # as jaxcal.predict takes them
"""

from collections.abc import Iterable, Mapping
import copy
import dataclasses
from typing import Any

from jaxcal import config as config_lib
from jaxcal import config_choice
from jaxcal.adapt import base
from jaxcal.adapt import methods as methods_lib
from jaxcal.adapt import numbers
from jaxcal.adapt import per_set
from jaxcal.adapt.prompt import methods as prompt
from jaxcal.adapt.prompt import published
from jaxcal.data import catalogue
from jaxcal.storage import paths

_Config = config_lib.ExperimentConfig
# Numbers that say how strong a regulariser is.
_WEIGHTS = ("weight", "effective_weight")


def methods_of(
    config: _Config, given: Iterable[str] = ()) -> dict[str, base.Numbers]:
  """The methods that a config names, each with the numbers that it has.

  Args:
    config: Settings of the experiment.
    given: Dotted names of the fields that were given one by one; those of a
      method that is not named are refused.

  Raises:
    ValueError: An unknown name, one twice, a number that no method has, or one
      and what stands in its place.
  """
  methods = {}
  for name in config.method.name:
    if name in methods:
      raise ValueError(f"--config.method.name has {name!r} twice")
    paths.check_name(name)  # of files
    methods[name] = method_of(config, name)
  known = {key for one in methods.values() for key in numbers.names_of(one)}
  for key, words in (
      ("weight", "a weight"), ("delta", "a delta"), ("quantile", "a quantile"),
      ("effective_weight", "an effective_weight; that of soc_quantile follows "
       "the entropy of each image and cannot be set")):
    if getattr(config.method, key) is not None and key not in known:
      raise ValueError(f"--config.method.{key} is set, but none of the methods "
                       f"{', '.join(methods)} has {words}")
  for name, part in config_lib.method_parts(config.method).items():
    for key in dataclasses.asdict(part):
      if f"method.{name}.{key}" in given and name not in methods:
        raise ValueError(f"--config.method.{name}.{key} is set, but {name} is "
                         f"none of the methods {', '.join(methods)}")
  return methods


def prompt_methods(
    config: _Config, data: str) -> dict[str, prompt.PromptMethod]:
  """The methods that tune prompts, with their numbers for an image set.

  Args:
    config: Settings of the experiment.
    data: Name of the image set, which matters with config.protocol "paper".

  Raises:
    ValueError: None of them does; or see `methods_of` and `for_set`.
  """
  found = {name: method for name, method in methods_of(
      for_set(config, data)).items() if isinstance(method, prompt.PromptMethod)}
  if not found:
    raise ValueError(f"none of the methods {', '.join(config.method.name)} "
                     "tunes a prompt")
  return found


def method_of(config: _Config, name: str) -> base.Numbers:
  """A method with the numbers that a config has for it.

  Its own field comes first, then what stands for all methods.

  Raises:
    ValueError: An unknown name; lists the choices. Or a number is given, and
      so is what stands in its place.
  """
  method = default_of(config, name)
  given, field_of = {}, {}
  for where, part, keys in (
      ("method", config.method, config_lib.NUMBERS),
      (f"method.{name}", _own(config, name), numbers.names_of(method))):
    for key in numbers.names_of(method):
      value = getattr(part, key, None) if key in keys else None
      if value is not None:
        given[key], field_of[key] = value, f"--config.{where}.{key}"
  for one, other in numbers.INSTEAD_OF.items():
    if one in given and other in given:
      raise ValueError(
          f"{field_of[one]} stands in place of {field_of[other]}, and both are "
          f"given for {name}; leave one of them out, or set it to none")
  found = dataclasses.replace(method, **given)  # type: ignore[type-var]
  if isinstance(found, prompt.PromptMethod):
    found.check_numbers()
  return found


def _own(config, name):
  """Numbers of one method that the config has; None without."""
  return (None if name in config.methods else
          config_lib.method_parts(config.method).get(name))


def default_of(config: _Config, name: str) -> base.Numbers:
  """A method with its own defaults; one of the config's, or one by name.

  Raises:
    ValueError: An unknown name; lists the choices.
  """
  return config.methods[name] if name in config.methods else (
      methods_lib.method(name))


def prefer(config: _Config, fields: Mapping[str, Any]) -> None:
  """Numbers of all methods that are given expressly come before older own ones.

  And each comes before an older one in whose place it stands, or the reverse.

  Args:
    config: The experiment; what is older becomes None in it.
    fields: Values of what was given, on the command line or by a sweep, by
      dotted name.
  """
  parts = config_lib.method_parts(config.method)
  for name, part in parts.items():
    for key in dataclasses.asdict(part):
      if f"method.{key}" in fields and f"method.{name}.{key}" not in fields:
        setattr(part, key, None)
  alike = {**numbers.INSTEAD_OF,
           **{other: one for one, other in numbers.INSTEAD_OF.items()}}
  for one, other in alike.items():
    for_all = fields.get(f"method.{one}") is not None
    for prefix, part in {"method": config.method, **{
        f"method.{name}": part for name, part in parts.items()}}.items():
      if (for_all or fields.get(f"{prefix}.{one}") is not None) and (
          hasattr(part, other) and f"{prefix}.{other}" not in fields):
        setattr(part, other, None)


def for_set(config: _Config, data: str) -> _Config:
  """The config with the values of an image set, where it has None.

  First those that were chosen for it, see `config_choice`; then, with
  config.protocol "paper", what is published, see `adapt.prompt.published` and
  `adapt.per_set`. Methods that are given an effective weight need no other.

  Args:
    config: Settings of the experiment.
    data: Name of the image set.

  Raises:
    ValueError: The family of the set is not known; or see
      `config_choice.chosen`.
  """
  if config.protocol != "paper" and config.choice.sweep is None:
    return config
  config = copy.deepcopy(config)
  config_choice.fill(config, data)
  if config.protocol == "paper":
    _publish(config, data)
  return config


def _publish(config, data):
  """Writes what is published for a set to where the config has None."""
  family, augmix = _family(config, data)
  if config.views.number is None:
    config.views.number = published.NUM_VIEWS
  if config.views.augmix is None:
    config.views.augmix = augmix
  parts = config_lib.method_parts(config.method)
  for name, values in _published(config, data, family).items():
    for key, value in values.items():
      if not config_choice.is_given(config, name, key):
        setattr(parts[name], key, value)


def _published(config, data, family):
  """Numbers by method and name, for a set and its family."""
  of_family = {name: {"weight": weight}
               for name, weight in published.WEIGHTS[family].items()}
  # Not for a folder that is called like a set.
  known = per_set.methods_of(data) if data in config.data.name else ()
  return of_family | {name: per_set.numbers(name, data) for name in known}


def remarks(config: _Config, sets: Iterable[str]) -> dict[str, str]:
  """Of each image set, which values were used and whence; {} without any.

  Args:
    config: Settings of the experiment.
    sets: Names of the image sets.
  """
  found = {}
  for data in sets:
    told = [remark(config, data) for remark, holds in (
        (config_choice.remark, config.choice.sweep is not None),
        (_remark, config.protocol == "paper")) if holds]
    if told:
      found[data] = ". ".join(told)
  return found


def _remark(config, data):
  family, _ = _family(config, data)
  used = for_set(config, data)
  told = [_told(name, numbers.values_of(method_of(used, name)))
          for name in config.method.name
          if name in published.WEIGHTS[family] and name not in config.methods]
  before = config_lib.method_parts(config.method)
  given = [field for field, value in (
      *((f"method.{key}", getattr(config.method, key)) for key in _WEIGHTS),
      *((f"method.{name}.{key}", getattr(before[name], key))
        for name in config.method.name if name in published.WEIGHTS[family]
        for key in _WEIGHTS),
      ("views.number", config.views.number),
      ("views.augmix", config.views.augmix)) if value is not None]
  return (
      f"{data}: protocol of the papers for the family {family}: "
      f"{used.views.number} views, AugMix "
      f"{'on' if used.views.augmix else 'off'}, weights "
      f"{', '.join(told) or 'none'}" + _on_test_set(config, data, family) +
      (f"; given: {', '.join(given)}" if given else ""))


def _on_test_set(config, data, family):
  """What a remark says of numbers that were tuned on a test set."""
  told = [
      f"{name} {', '.join(f'{key} {value}' for key, value in values.items())}"
      for name, values in _published(config, data, family).items()
      if name in config.method.name and name not in published.WEIGHTS[family]]
  return "; ".join(["", "tuned on this test set by their authors: " +
                    "; ".join(told)]) if told else ""


def _told(name, of):
  if "weight" in of:
    return f"{name} {of['weight']:g}"
  return f"{name} of effect {of['effective_weight']:g}"


def _family(config, data):
  """The family of a set, and whether the papers' scripts mix its views."""
  given = config.data.family
  # Not of a folder that is called like one.
  row = catalogue.CATALOGUE.get(data) if data in config.data.name else None
  if row is not None and not row.of_papers:
    row = None
  if given is None and row is None:
    raise ValueError(
        f"--config.protocol=paper knows the families of the papers' sets only; "
        f"say that of {data} with --config.data.family="
        f"{' or '.join(published.FAMILIES)}")
  if row is None:
    return given, True
  return given or ("shift" if row.shift else "fine_grained"), (
      row.augmix or row.shift)
