"""Array annotations, and the letters that name their axes.

  b  batch of images        n  examples of a data set
  v  views of one image     k  classes
  d  joint embedding        w  width of a tower
  t  tokens                 m  tokens of the context
  s  pixels of a side       p  pixels of a patch side

`Float[Array, "k d"]` reads: a floating point array of shape [k, d].
"""

from jaxtyping import Array
from jaxtyping import ArrayLike
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Key
from jaxtyping import PyTree
from jaxtyping import UInt8

__all__ = [
    "Array", "ArrayLike", "Bool", "Float", "Int", "Key", "PyTree", "UInt8"
]
