"""Array annotations, the letters that name their axes, and widths of floats.

  b  batch of images        n  examples of a data set
  v  views of one image     k  classes
  d  joint embedding        w  width of a tower
  t  tokens                 m  tokens of the context
  s  pixels of a side       p  pixels of a patch side

`Float[Array, "k d"]` reads: a floating point array of shape [k, d].
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import ArrayLike
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Key
from jaxtyping import PyTree
from jaxtyping import UInt8

__all__ = [
    "Array", "ArrayLike", "Bool", "Float", "Int", "Key", "Pooled", "PyTree",
    "UInt8", "at_least_float32"
]


class Pooled(NamedTuple):
  """Images before the last linear map, and what that map's output lacks.

  Attributes:
    activations: What the map sees, without the one of a bias.
    residual: Added to its output; None where the tower adds nothing.
  """

  activations: Float[Array, "*n p"]
  residual: Float[Array, "*n d"] | None = None


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
