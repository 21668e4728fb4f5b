"""Compiling that takes less time than the tiny programs it is for."""

import functools

import jax

# `jax.jit` with hardly any optimisation: for programs of many operations on
# tiny arrays, where compiling takes all the time (a third of it remains).
jit = functools.partial(jax.jit, compiler_options={
    "xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False})
