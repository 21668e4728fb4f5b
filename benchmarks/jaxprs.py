"""What a traced program multiplies, and a digest that names all of it.

Both are read off the jaxpr, so they need no device, and they are of one device
where the work is shared out.
"""

from collections.abc import Iterator
import dataclasses
import enum
import hashlib
import math
from typing import Any

import jax
from jax.extend import core
import jax.numpy as jnp
import numpy as np

# By what is asked of a product; `jaxcal.precision` says what that is.
_PRECISIONS = {jax.lax.Precision.HIGHEST: "highest",
               jax.lax.Precision.HIGH: "high",
               jax.lax.Precision.DEFAULT: "default", None: "default"}

# Parameters of equations that say nothing of what is computed: names of
# functions, and where it is computed.
_SAYS_NOTHING = frozenset({
    "compiler_options_kvs", "ctx_mesh", "debug_info", "donated_invars",
    "in_layouts", "in_shardings", "inline", "keep_unused", "mesh", "name",
    "out_layouts", "out_shardings", "out_sharding", "sharding"})


def trace(function: Any, *arguments: Any) -> core.ClosedJaxpr:
  """The jaxpr of a function; arguments may be shapes."""
  return jax.make_jaxpr(function)(*arguments)


def flop(program: core.ClosedJaxpr) -> dict[str, float]:
  """Multiplications and additions of matrix products and convolutions.

  A body of a loop counts as often as it runs; of branches, all do. Products of
  integers are left out.

  Returns:
    Numbers by what is asked of the products: a precision, or "bfloat16" where
    that is what is multiplied.
  """
  counts: dict[str, float] = {}
  for equation, times in _equations(program.jaxpr, 1):
    number = _flop_of(equation)
    if number:
      asked = _asked(equation)
      counts[asked] = counts.get(asked, 0) + times * number
  return counts


def digest(program: core.ClosedJaxpr) -> str:
  """SHA-256 of the program, in hexadecimal.

  It depends on the operations, their order and their numbers, on shapes and
  types; not on names of variables and functions, on files or on devices. Other
  versions of JAX, Flax and Optax may trace the same source differently.
  """
  return hashlib.sha256(_text(program).encode()).hexdigest()


def _equations(jaxpr, times) -> Iterator[tuple[Any, float]]:
  """All equations, and how often each of them runs; unknown loops once."""
  for equation in jaxpr.eqns:
    yield equation, times
    inner = times * (
        equation.params["length"] if equation.primitive.name == "scan" else 1)
    for one in core.jaxprs_in_params(equation.params):
      yield from _equations(one, inner)


def _flop_of(equation):
  name = equation.primitive.name
  if name not in ("dot_general", "conv_general_dilated"):
    return 0
  types = [x.aval.dtype for x in equation.invars[:2]]
  if not jnp.issubdtype(jnp.result_type(*types), jnp.inexact):
    return 0
  left, right = (x.aval.shape for x in equation.invars[:2])
  size = math.prod(equation.outvars[0].aval.shape)
  if name == "dot_general":
    (contracted, _), _ = equation.params["dimension_numbers"]
    return 2 * size * math.prod(left[axis] for axis in contracted)
  outputs = equation.params["dimension_numbers"].rhs_spec[0]
  return 2 * size * math.prod(right) // right[outputs]


def _asked(equation):
  if all(x.aval.dtype == jnp.bfloat16 for x in equation.invars[:2]):
    return "bfloat16"
  precision = equation.params["precision"]
  # Of both sides; where they differ, the less exact one counts.
  names = [_PRECISIONS[one] for one in (
      precision if isinstance(precision, tuple) else (precision,))]
  return max(names, key=list(_PRECISIONS.values()).index)


def _text(value) -> str:
  """What a value says, the same in every process."""
  if isinstance(value, core.ClosedJaxpr):
    return f"{_jaxpr_text(value.jaxpr)} {_text(value.consts)}"
  if isinstance(value, core.Jaxpr):
    return _jaxpr_text(value)
  if value is None or isinstance(value, (bool, int, float, complex, str)):
    return repr(value)
  if isinstance(value, enum.Enum):
    return value.name
  if isinstance(value, jax.core.AbstractValue):
    return _aval_text(value)
  if isinstance(value, np.dtype):
    return value.name
  if isinstance(value, (np.ndarray, np.generic, jax.Array)):
    value = np.asarray(value)
    content = hashlib.sha256(value.tobytes()).hexdigest()
    return f"{value.dtype}{value.shape}{content}"
  if isinstance(value, dict):
    return _text([(key, value[key]) for key in sorted(value, key=str)])
  if isinstance(value, (frozenset, set)):
    return _text(sorted(value, key=str))
  if isinstance(value, (tuple, list)):
    return f"({' '.join(map(_text, value))})"
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return _text({field.name: getattr(value, field.name)
                  for field in dataclasses.fields(value)})
  # Functions and devices among them.
  return type(value).__name__


def _jaxpr_text(jaxpr):
  numbers: dict[Any, int] = {}

  def named(variable):
    if isinstance(variable, core.Literal):
      return f"{_text(variable.val)}{_aval_text(variable.aval)}"
    if isinstance(variable, core.DropVar):
      return f"_{_aval_text(variable.aval)}"
    number = numbers.setdefault(variable, len(numbers))
    return f"{number}{_aval_text(variable.aval)}"

  row = lambda variables: " ".join(map(named, variables))
  lines = [row(jaxpr.constvars), row(jaxpr.invars)]
  for equation in jaxpr.eqns:
    params = {name: value for name, value in equation.params.items()
              if name not in _SAYS_NOTHING}
    lines.append(f"{equation.primitive.name} {row(equation.invars)} -> "
                 f"{row(equation.outvars)} {_text(params)}")
  return "{" + "\n".join([*lines, row(jaxpr.outvars)]) + "}"


def _aval_text(aval):
  weak = "~" if getattr(aval, "weak_type", False) else ""
  shape = ",".join(map(str, getattr(aval, "shape", ())))
  return f":{getattr(aval, 'dtype', aval)}{weak}[{shape}]"
