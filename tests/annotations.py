"""Annotations of jaxcal are checked by every call that a test makes.

Shapes and dtypes of arrays are, too. JAXTYPING_DISABLE=1 turns it off.
"""

from collections.abc import Iterable, Iterator
import functools
import inspect
import types
import typing
import unittest

import beartype
import jaxtyping

# An int may stand for a float, as for static checkers.
_checked = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))


def check(function):
  """A function that refuses what its annotations forbid.

  Not so the constructors of dataclasses: JAX makes pytrees anew of whatever
  leaves it works with, such as batches of them, axes or nothing at all.
  """
  return function if function.__name__ == "__init__" else _checked(function)


def _jaxtyped(*, typechecker):
  """`jaxtyping.jaxtyped`, with one look at a call in place of four.

  None at a function without annotations.
  """
  def decorate(function):
    parts = list(_parts(getattr(function, "__annotations__", {}).values()))
    # Of text it is jaxtyping that knows what it stands for.
    if not isinstance(function, types.FunctionType) or any(
        isinstance(part, str) for part in parts):
      return _all_jaxtyped(function, typechecker=typechecker)
    if not parts:
      return function
    checked = typechecker(function)
    has_shapes = any(map(_is_of_jaxtyping, parts))

    @functools.wraps(function)
    def call(*args, **kwargs):
      if jaxtyping.config.jaxtyping_disable:
        return function(*args, **kwargs)
      if not has_shapes:
        return checked(*args, **kwargs)
      with _all_jaxtyped("context"):  # in which a name is of one size
        return checked(*args, **kwargs)

    return call

  return decorate


_all_jaxtyped = jaxtyping.jaxtyped


def _parts(annotations: Iterable[object]) -> Iterator[object]:
  """Annotations, and what stands in their brackets."""
  for one in annotations:
    yield one
    yield from _parts(one if isinstance(one, list) else typing.get_args(one))


def _is_of_jaxtyping(part: object) -> bool:
  """Whether a part of an annotation has axes: an array, or a tree of them."""
  return inspect.isclass(part) and any(
      base.__module__.startswith("jaxtyping") for base in part.__mro__)


class _Refusal(unittest.case._AssertRaisesContext):
  """What a test hands in to be refused reaches the function that refuses it.

  Annotations forbid most of it, too, but users run without these checks.
  """

  def __enter__(self):
    self._disabled = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    return super().__enter__()

  def __exit__(self, *error):
    jaxtyping.config.update("jaxtyping_disable", self._disabled)
    return super().__exit__(*error)


def install() -> None:
  """Checks all of jaxcal that is imported from now on."""
  jaxtyping.jaxtyped = _jaxtyped
  jaxtyping.install_import_hook("jaxcal", f"{__name__}.{check.__name__}")
  unittest.case._AssertRaisesContext = _Refusal
