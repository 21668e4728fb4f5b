"""Functions of arrays as one program each, whoever calls them.

Left alone, a function that is called by itself runs operation by operation:
each is compiled for each shape, in about 20 ms, and dispatched on its own.
Called by a function that JAX is tracing, one of these leaves no trace of its
own: the program around it is the same as without.
"""

from collections.abc import Callable
import functools
from typing import ParamSpec, TypeVar

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
