"""How exactly matrices are multiplied: the one home of the policy.

Left alone, a TPU multiplies float32 matrices in a single pass of bfloat16 and
an NVIDIA GPU in TensorFloat-32. Three digits are left of a cosine then, and a
logit of 100 times it is off by 0.1. A CPU knows no such difference.

What is asked of a product, or of a convolution, is settled while its function
is traced, by the innermost of these contexts; derivatives take over what was
asked of that which they are derivatives of. So a context stands in the body of
a function that is compiled, not around its calls, and a tower has its own
within that of the program around it.
"""

from collections.abc import Callable
import contextlib
import functools
from typing import ParamSpec, TypeVar

import jax

# From the most exact to the fastest:
#   highest   float32, in effect too
#   high      float32 stored; three passes of bfloat16 on a TPU, and on a GPU
#             what JAX has between the two others, which is TensorFloat-32
#   default   float32 stored; whatever the hardware does when nobody asks
#   bfloat16  parameters and activations are bfloat16
PRECISIONS = ("highest", "high", "default", "bfloat16")

_P = ParamSpec("_P")
_R = TypeVar("_R")


def at(precision: str) -> contextlib.AbstractContextManager[None]:
  """Context of what is multiplied at one of `PRECISIONS`.

  Raises:
    ValueError: An unknown precision.
  """
  check(precision)
  # The product of two bfloat16 numbers is exact in a single pass.
  return jax.default_matmul_precision(
      "default" if precision == "bfloat16" else precision)


def highest(function: Callable[_P, _R]) -> Callable[_P, _R]:
  """The function, with its products at "highest" wherever it is called.

  Only a tower within it has its own precision.
  """

  @functools.wraps(function)
  def exact(*args: _P.args, **kwargs: _P.kwargs) -> _R:
    with at("highest"):
      return function(*args, **kwargs)

  return exact


def check(precision: str) -> None:
  """Raises ValueError unless it is one of `PRECISIONS`."""
  if precision not in PRECISIONS:
    raise ValueError(f"unknown precision {precision!r}; choose from: "
                     f"{', '.join(PRECISIONS)}.")
