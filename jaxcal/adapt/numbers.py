"""A method's numbers and definition as JSON has them: what it is, on disk."""

import dataclasses
import hashlib
import inspect
from typing import Any

from jaxcal.adapt import base


def names_of(method: base.Numbers) -> list[str]:
  """Names of the fields of a method."""
  return [field.name
          for field in dataclasses.fields(method)]  # type: ignore[arg-type]


def values_of(method: base.Numbers) -> dict[str, Any]:
  """A method's numbers by name; what is no number or text is left out."""
  return {name: value for name in names_of(method)
          if isinstance(value := getattr(method, name),
                        (bool, int, float, str))}


def definition_of(method: base.Numbers) -> str:
  """A method of one's own: its numbers, and what its source code is."""
  source = inspect.getsource(inspect.getmodule(type(method)))  # type: ignore
  return f"{method} {hashlib.sha256(source.encode()).hexdigest()[:16]}"


def identity_of(method: base.Numbers) -> dict[str, Any]:
  """What decides a method's predictions, see `storage.identity`."""
  ours = type(method).__module__.partition(".")[0] == "jaxcal"
  return {"method": type(method).__name__ if ours else definition_of(method),
          **{f"method.{name}": value
             for name, value in values_of(method).items()}}
