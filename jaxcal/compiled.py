"""Functions of arrays as one program each, where they are called by themselves.

Left alone, such a function runs operation by operation: each is compiled for
each shape, in tens of milliseconds, and dispatched on its own. Called with what
JAX is tracing (under `jit`, `grad` or `vmap`), one of these is the plain
function: the program around it is the same as without, to its last bit.
"""

from collections.abc import Callable
import functools
from typing import Any, Concatenate, ParamSpec, TypeVar

import jax

_P = ParamSpec("_P")
_R = TypeVar("_R")


def compiled(function: Callable[_P, _R]) -> Callable[_P, _R]:
  """The function of arrays, compiled where it is called by itself."""
  return compiled_with()(function)


def compiled_with(
    *static: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
  """`compiled` for functions of arrays and of what shapes a program.

  Args:
    static: Names of the arguments that are no arrays, such as a number of bins.
      Their values must be hashable; each compiles a program of its own.
  """

  def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
    program: Callable[_P, _R] = jax.jit(
        function, inline=True, static_argnames=static)

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
      # An inlined jit would do, but for derivatives: they would have their
      # operations in another order.
      traced = any(isinstance(leaf, jax.core.Tracer)
                   for leaf in jax.tree.leaves((args, kwargs)))
      return (function if traced else program)(*args, **kwargs)

    return call

  return decorate


def compiled_after(
    check: Callable[[Any], None]
) -> Callable[[Callable[Concatenate[Any, _P], _R]],
              Callable[Concatenate[Any, _P], _R]]:
  """`compiled` for functions whose first argument is checked before.

  Args:
    check: Check of the argument's values, which are not there in a program.
  """

  def decorate(function):
    program = compiled(function)

    @functools.wraps(function)
    def checked(first, *args, **kwargs):
      check(first)
      return program(first, *args, **kwargs)

    return checked

  return decorate
