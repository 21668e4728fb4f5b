"""Compiling that takes less time than the tiny programs it is for."""

import functools

import jax

# `jax.jit` with hardly any optimisation: for programs of many operations on
# tiny arrays, where compiling takes all the time (a third of it remains).
jit = functools.partial(jax.jit, compiler_options={
    "xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False})


def call(function, *arguments):
  """What a function gives, compiled for this one call.

  Not by way of `jax.jit`'s own memory: in three of some twenty runs of the
  whole suite it took the program of one method for that of another one, whose
  arguments have the same shapes.
  """
  return jit(function).lower(*arguments).compile()(*arguments)
