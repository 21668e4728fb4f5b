"""Compiling that takes less time than the tiny programs it is for."""

import functools

import jax

from tests import compiler

# `jax.jit` with hardly any optimisation: for programs of many operations on
# tiny arrays, where compiling takes all the time (a third of it remains).
jit = functools.partial(jax.jit, compiler_options=compiler.OPTIONS)


def call(function, *arguments):
  """What a function gives, compiled for this one call.

  Not by way of `jax.jit`'s own memory: in a run of the whole suite it took the
  program of one method for that of another one, whose arguments have the same
  shapes; two earlier runs failed at the same place.
  """
  return jit(function).lower(*arguments).compile()(*arguments)
