"""Annotations of jaxcal are checked by every call that a test makes.

Shapes and dtypes of arrays are, too. JAXTYPING_DISABLE=1 turns it off.
"""

from collections.abc import Iterable
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
    if not isinstance(function, types.FunctionType):
      return _all_jaxtyped(function, typechecker=typechecker)
    annotations = function.__annotations__.values()
    if not annotations:
      return function
    checked = typechecker(function)
    has_shapes = _mentions_arrays(annotations)

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


def _mentions_arrays(annotations: Iterable[object]) -> bool:
  """Whether some of them have shapes, or are text that may have."""
  return any(
      isinstance(one, str) or
      (inspect.isclass(one) and issubclass(one, jaxtyping.AbstractArray)) or
      _mentions_arrays(one if isinstance(one, list) else typing.get_args(one))
      for one in annotations)


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
