"""A method's numbers and definition as JSON has them: what it is, on disk."""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import inspect
import types
from typing import Any

import jax
import numpy as np

from jaxcal.adapt import base

# Numbers that, where they are not None, take the place of another.
INSTEAD_OF: Mapping[str, str] = {
    "effective_weight": "weight", "delta_quantile": "delta"}


def names_of(method: base.Numbers) -> list[str]:
  """Names of the fields of a method."""
  return [field.name
          for field in dataclasses.fields(method)]  # type: ignore[arg-type]


def values_of(method: base.Numbers) -> dict[str, Any]:
  """A method's numbers by name; what is no number or text is left out."""
  return in_force({name: value for name in names_of(method)
                   if isinstance(value := getattr(method, name),
                                 (bool, int, float, str))})


def in_force(values: Mapping[str, Any]) -> dict[str, Any]:
  """Numbers by name without None, and without those that others stand for."""
  replaced = {other for one, other in INSTEAD_OF.items()
              if values.get(one) is not None}
  return {name: value for name, value in values.items()
          if value is not None and name not in replaced}


def known(value: Any) -> float | None:
  """A number's value; None for None, for arrays and for what is traced."""
  if value is None or isinstance(value, jax.core.Tracer) or (
      not isinstance(value, (int, float, np.ndarray, np.generic, jax.Array))):
    return None
  return float(value) if np.ndim(value) == 0 else None


def refuse_both(method: base.Numbers) -> None:
  """Refuses a number and its alternative, both other than by default.

  A sign does not count: it is the one of the method in any case.

  Raises:
    ValueError: Names both.
  """
  defaults = {field.name: field.default for field in dataclasses.fields(
      method)}  # type: ignore[arg-type]
  for one, other in INSTEAD_OF.items():
    given, value = (known(getattr(method, name, None)) for name in (one, other))
    if given is not None and value is not None and (
        abs(value) != defaults[other]):
      raise ValueError(
          f"{type(method).__name__} has {other} {value:g} and {one} {given:g}, "
          f"which stands in its place; give one of them")


def refuse_no_counts(
    method: base.Numbers, *names: str, least: int = 1) -> None:
  """Refuses numbers that are to be integers of at least `least` and are not.

  Raises:
    ValueError: Names the first one.
  """
  for name in names:
    value = getattr(method, name)
    if not isinstance(value, int) or value < least:
      raise ValueError(f"{name} must be an integer of at least {least}, got "
                       f"{value!r}")


def refuse_outside(
    method: base.Numbers, name: str, low: float, high: float) -> None:
  """Refuses a number outside [low, high]; not what is traced.

  Raises:
    ValueError: Says what was expected.
  """
  value = known(getattr(method, name))
  if value is not None and not low <= value <= high:
    raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {value:g}")


def refuse_unknown(
    method: base.Numbers, name: str, choices: Sequence[str]) -> None:
  """Refuses a choice that there is not.

  Raises:
    ValueError: Lists the choices.
  """
  value = getattr(method, name)
  if value not in choices:
    raise ValueError(
        f"unknown {name} {value!r}; choose from: {', '.join(choices)}.")


def definition_of(method: base.Numbers) -> str:
  """A method of one's own: its numbers, and what its source code is.

  Functions among its numbers are called by their names, and their source code
  counts, too.
  """
  text, functions = str(method), _functions_of(method)
  for function in functions:
    text = text.replace(repr(function), function.__qualname__)
  modules = dict.fromkeys(
      inspect.getmodule(one) for one in (type(method), *functions)
      if not _is_ours(one))
  source = "".join(map(inspect.getsource, modules))  # type: ignore[arg-type]
  return f"{text} {hashlib.sha256(source.encode()).hexdigest()[:16]}"


def identity_of(method: base.Numbers) -> dict[str, Any]:
  """What decides a method's predictions, see `storage.identity`."""
  known = _is_ours(type(method)) and not _functions_of(method)
  return {"method": type(method).__name__ if known else definition_of(method),
          **{f"method.{name}": value
             for name, value in values_of(method).items()}}


def _functions_of(method):
  """Plain functions among a method's numbers, those with bound arguments too.
  """
  values = (getattr(method, name) for name in names_of(method))
  return [function for value in values if isinstance(
      function := getattr(value, "func", value), types.FunctionType)]


def _is_ours(thing):
  """Whether a class or function is jaxcal's, whose version tells of it."""
  return thing.__module__.partition(".")[0] == "jaxcal"
