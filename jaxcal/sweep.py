"""The plan of a sweep: its points, which of them share work, their names.

A sweep is the product of a few fields' values. Points that differ only in how
an image is predicted (method, weight, learning rate, ...) share a pass over the
images; those that differ in model, data, views or initial context do not.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import typing
from typing import Any, NamedTuple

from jaxcal import config
from jaxcal import spelling
from jaxcal.adapt import numbers as numbers_lib
from jaxcal.adapt.prompt import methods as prompt_methods


class Axis(NamedTuple):
  """A field and the values that it takes in turn."""

  name: str
  values: tuple[Any, ...]


class Point(NamedTuple):
  """One setting of a sweep.

  Attributes:
    method: Name of the method.
    numbers: Values of the fields that this method has.
    name: The method and all of its numbers, fit for a file name; so that it
      stays what it is when a default changes.
    label: The method and its numbers other than their defaults, for tables.
  """

  method: str
  numbers: Mapping[str, Any]
  name: str
  label: str


def parse_axis(text: str, types_of: Mapping[str, Any]) -> Axis:
  """Reads "method.weight=1,3,10", each value by the type of its field.

  Args:
    text: Field, equals sign and values separated by commas; a value with a
      comma in it stands in double quotes.
    types_of: Annotation of every field by its dotted name; `T | None` takes
      "none", a tuple of names one name per value.

  Raises:
    ValueError: No such field, no values, one twice, or one of another type.
  """
  name, equals, values = text.partition("=")
  name = name.strip().removeprefix("config.")
  if not equals or not values:
    raise ValueError(f"--sweep={text} is not FIELD=VALUE,VALUE,...")
  if name not in types_of:
    raise ValueError(f"--sweep={text}: no field {name!r}; "
                     f"{spelling.choices(name, sorted(types_of))}")
  try:
    parsed = tuple(_parse(value, types_of[name])
                   for value in config.split(values))
  except ValueError as error:
    raise ValueError(f"--sweep={text}: {error}") from error
  if len(set(parsed)) < len(parsed):
    raise ValueError(f"--sweep={text} has a value twice")
  return Axis(name, parsed)


def product(axes: Sequence[Axis]) -> list[dict[str, Any]]:
  """Every combination of values, the last axis changing fastest.

  Raises:
    ValueError: A field has two axes.
  """
  names = [axis.name for axis in axes]
  if len(set(names)) < len(names):
    raise ValueError(f"a field is swept twice: {', '.join(names)}")
  return [dict(zip(names, values))
          for values in itertools.product(*(axis.values for axis in axes))]


def point(
    name: str, method: Any, numbers: Mapping[str, Any]) -> Point:
  """A setting with the numbers that its method has; the others are dropped.

  So are those in whose place another one stands.

  Args:
    name: Name of the method.
    method: Dataclass of the method's numbers with its defaults; its code is
      not needed.
    numbers: Values by the name of the number, None for the default.
  """
  fields = () if _never_tunes(method) else [
      field.name
      for field in dataclasses.fields(method)  # type: ignore[arg-type]
      if isinstance(getattr(method, field.name),
                    (bool, int, float, str, type(None)))]
  defaults = {field: getattr(method, field) for field in fields}
  kept = numbers_lib.in_force({
      field: value if numbers.get(field) is None else numbers[field]
      for field, value in defaults.items()})
  shown = {field: _shown(field, value) for field, value in kept.items()}
  changed = [shown[field] for field, value in kept.items()
             if value != defaults[field]]
  return Point(name, kept, "-".join([name, *shown.values()]),
               "-".join([name, *changed]))


def variants(
    points: Sequence[Mapping[str, Any]], shared: Sequence[str]
) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
  """Points apart by the fields that cannot share a pass over the images.

  Args:
    points: Points from `product`.
    shared: Names of the fields that can.

  Returns:
    (the other fields, the shared fields of each point), in order.
  """
  groups: dict[Any, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
  for one in points:
    apart = {name: value for name, value in one.items() if name not in shared}
    _, rest = groups.setdefault(tuple(apart.items()), (apart, []))
    rest.append({name: value for name, value in one.items()
                 if name in shared})
  return list(groups.values())


def unused(points: Sequence[Point], fields: Sequence[str]) -> list[str]:
  """Fields that none of the points has.

  Args:
    points: Settings of the sweep.
    fields: Numbers, either of all methods, as in "delta", or of one, as in
      "soc.delta".
  """
  known = {name for one in points for name in one.numbers} | {
      f"{one.method}.{name}" for one in points for name in one.numbers}
  return [field for field in fields if field not in known]


def _never_tunes(method):
  """Whether predictions are zero-shot, so that no number enters them."""
  return isinstance(method, prompt_methods.ZeroShot)


def _shown(field, value):
  """A number as short as can be, and yet no two alike."""
  if isinstance(value, (bool, str)):
    return f"{field}={value}"
  short = f"{value:g}"
  return f"{field}={short if float(short) == value else repr(value)}"


def _parse(value, annotation):
  if not value:
    raise ValueError("a value is empty")
  if typing.get_origin(annotation) is tuple:
    return (value,)
  return config.parse(value, annotation)
