"""Array annotations, the letters that name their axes, and widths of floats.

  b  batch of images        n  examples of a data set
  v  views of one image     k  classes
  d  joint embedding        w  width of a tower
  t  tokens                 m  tokens of the context
  s  pixels of a side       p  pixels of a patch side

`Float[Array, "k d"]` reads: a floating point array of shape [k, d].
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import ArrayLike
from jaxtyping import Bool
from jaxtyping import DTypeLike
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Integer
from jaxtyping import Key
from jaxtyping import PyTree
from jaxtyping import Shaped
from jaxtyping import UInt8
from jaxtyping import UInt32
import numpy as np

__all__ = [
    "AnyArray", "Array", "ArrayLike", "Bool", "DTypeLike", "Float", "Int",
    "Integer", "Key", "Labels", "Number", "Pooled", "Positions", "PyTree",
    "Scores", "Shaped", "UInt8", "UInt32", "Values", "as_numpy",
    "at_least_float32"
]

# On a device or on the host.
AnyArray = Array | np.ndarray

# A number that enters arithmetic alone; an array under `jit` and `vmap`.
Number = float | Float[Array, ""]

# Rows of a table, or images of a set.
Positions = Sequence[int] | Integer[AnyArray, "_"]

# Read from any holder: arrays of jax and numpy, tensors of torch, lists.
# One number for each example; booleans count as 0 and 1.
Values = Shaped[Any, "n"] | Sequence[Any]
# One number for each example and class.
Scores = Shaped[Any, "*n k"] | Sequence[Any]
# The position of a class for each example.
Labels = Integer[Any, "*n"] | Sequence[Any]


class Pooled(NamedTuple):
  """Images before the last linear map, and what that map's output lacks.

  Attributes:
    activations: What the map sees, without the one of a bias.
    residual: Residual added to its output; None where the tower adds nothing.
  """

  activations: Float[AnyArray, "*n p"]
  residual: Float[AnyArray, "*n d"] | None = None


def at_least_float32(x: ArrayLike) -> Float[Array, "..."]:
  """Floating point values, half precision widened to float32.

  For what must not be computed in less: a bfloat16 sum of ones stops growing
  at 256. Integers and booleans become floats of the default width.
  """
  x = jnp.asarray(x)
  if not jnp.issubdtype(x.dtype, jnp.floating):
    return x.astype(float)
  # Not by promotion, which strict dtype rules refuse.
  return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def as_numpy(x: Any) -> np.ndarray:
  """Numbers as an array of the host, whatever holds them.

  Args:
    x: Array of numpy or jax, tensor of torch (wherever it lies, with or without
      a gradient), number, or nested lists of any of these.

  Returns:
    The same numbers in their own type, without a copy where the memory can be
    shared; floating point types that numpy lacks, such as bfloat16, as float32.

  Raises:
    ValueError: Parts of a list differ in shape.
  """
  if isinstance(x, (list, tuple)):
    x = [one if isinstance(one, (int, float)) else as_numpy(one) for one in x]
    shapes = sorted({np.shape(one) for one in x})
    if len(shapes) > 1:
      raise ValueError("the parts of a list must have one shape to become an "
                       f"array, but there are {shapes[0]} and {shapes[1]}.")
  elif hasattr(x, "detach"):  # torch, which is not imported for its sake
    x = x.detach().cpu()
    try:
      x = x.numpy()
    except TypeError:  # a type that numpy lacks
      x = x.float().numpy()
  x = np.asarray(x)
  foreign = x.dtype.kind == "V" and jnp.issubdtype(x.dtype, jnp.floating)
  return x.astype(np.float32) if foreign else x
