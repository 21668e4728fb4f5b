"""Functions of arrays as one program each, whoever calls them.

Left alone, a function that is called by itself runs operation by operation:
each is compiled for each shape, in about 20 ms, and dispatched on its own.
Called by a function that JAX is tracing, one of these leaves no trace of its
own: the program around it is the same as without, but for the order of
operations in a derivative (see `compiled_alone`).
"""

from collections.abc import Callable
import functools
from typing import Any, Concatenate, ParamSpec, TypeVar

import jax

_P = ParamSpec("_P")
_R = TypeVar("_R")


def compiled(function: Callable[_P, _R]) -> Callable[_P, _R]:
  """The function of arrays, compiled where it is called by itself."""
  return jax.jit(function, inline=True)


def compiled_with(
    *static: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
  """`compiled` for functions of arrays and of what shapes a program.

  Args:
    static: Names of the arguments that are no arrays, such as a number of bins.
      Their values must be hashable; each compiles a program of its own.
  """
  return functools.partial(  # type: ignore[return-value]
      jax.jit, inline=True, static_argnames=static)


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


def compiled_alone(
    *static: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
  """`compiled_with`, and a traced call gets the function as it is.

  For what programs that take time differentiate: the derivative of a compiled
  function has its operations in another order than that of the function.

  Args:
    static: Names of the arguments that are no arrays, if any.
  """

  def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
    program: Callable[_P, _R] = compiled_with(*static)(function)

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
      traced = any(isinstance(leaf, jax.core.Tracer)
                   for leaf in jax.tree.leaves((args, kwargs)))
      return (function if traced else program)(*args, **kwargs)

    return call

  return decorate
