"""How much memory a run may take, and what programs will need of it.

What a program holds at a time is read off its jaxpr, before it is compiled. The
compiler fuses some of it away, so the count lies a little above what it
allocates.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend import core
import numpy as np

GIGABYTE = 2**30
# Where the host's memory is the device's, what may be taken if nobody says.
ON_HOST = 4 * GIGABYTE
# Of what programs can have on an accelerator.
SHARE_OF_DEVICE = 0.75


class Shares(NamedTuple):
  """A budget shared out; an eighth is left to weights, images and outputs.

  Attributes:
    image_tower: Bytes for activations of the image tower.
    text_tower: Bytes for activations of the text tower.
    jacobian: Bytes for the Jacobian of the text tower.
  """

  image_tower: int
  text_tower: int
  jacobian: int


def budget(gigabytes: float | None = None) -> int:
  """Bytes that a run may take on each device.

  Args:
    gigabytes: Budget that was asked for; three quarters of what programs can
      have on the smallest device of this process if None, and 4 where devices
      do not tell (a CPU).
  """
  # Not what is free at the moment: a run that goes on must choose as before.
  limits = [(device.memory_stats() or {}).get("bytes_limit")
            for device in jax.local_devices()]
  known = [limit for limit in limits if limit is not None]
  if gigabytes is None:
    return int(SHARE_OF_DEVICE * min(known)) if known else ON_HOST
  return min([int(gigabytes * GIGABYTE), *known])


def shares(budget: int) -> Shares:
  """What each part of a run may take of a budget in bytes, all at a time."""
  return Shares(budget // 4, budget // 4, 3 * budget // 8)


def is_exhausted(error: Exception) -> bool:
  """Whether an error says that a device has no memory left."""
  return (isinstance(error, jax.errors.JaxRuntimeError) and
          "RESOURCE_EXHAUSTED" in str(error))


def live_bytes(function: Callable[..., Any], *args: Any) -> int:
  """Most bytes of results that a program holds at a time, its last included.

  Args:
    function: Pure function.
    *args: Trees of arrays or of shapes; they are not counted.
  """
  return _peak(jax.make_jaxpr(function)(*args).jaxpr)


def _peak(jaxpr):
  """Peak over the equations of a jaxpr, each result dropped after its use."""
  last: dict[Any, int] = {}
  for number, equation in enumerate(jaxpr.eqns):
    last |= dict.fromkeys(_variables(equation.invars), number)
  last |= dict.fromkeys(_variables(jaxpr.outvars), len(jaxpr.eqns))
  alive: dict[Any, int] = {}
  peak = 0
  for number, equation in enumerate(jaxpr.eqns):
    results = {x: _bytes(x.aval) for x in equation.outvars}
    inner = max(map(_peak, core.jaxprs_in_params(equation.params)), default=0)
    held = sum(alive.values())
    peak = max(peak, held + max(inner, sum(results.values())))
    if _is_loop(equation):  # what a step holds, beside what steps leave
      peak = max(peak, held + inner + sum(results.values()))
    alive |= {x: size for x, size in results.items() if x in last}
    for x in _variables(equation.invars):
      if last[x] == number:
        alive.pop(x, None)
  return peak


def _is_loop(equation):
  return equation.primitive.name in ("scan", "while")


def _variables(atoms):
  return [x for x in atoms if not isinstance(x, core.Literal)]


def _bytes(aval):
  if not hasattr(aval, "shape") or not hasattr(aval.dtype, "itemsize"):
    return 0
  size = aval.dtype.itemsize
  if size < 4 and jax.default_backend() == "cpu" and jax.numpy.issubdtype(
      aval.dtype, jax.numpy.floating):
    size += 4  # a CPU computes in float32, and holds both
  return int(np.prod(aval.shape)) * size
