"""AugMix: a view mixed with randomly changed copies, by Pillow's operations.

All of it is integer arithmetic on one view [s s 3], so results are the same on
every device and in every batch; `jax.vmap` adds views. Values are changed by
tables [3 256], one row per channel; places by matrices, see `_transform`.
"""

import functools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from jaxcal.typing import AnyArray
from jaxcal.typing import Array
from jaxcal.typing import Bool
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Key
from jaxcal.typing import Number
from jaxcal.typing import UInt8

# In the order of the numbers in `Draw.operations`; one more does nothing.
OPERATIONS = (
    "autocontrast", "equalize", "posterize", "solarize", "rotate", "shear_x",
    "shear_y", "translate_x", "translate_y",
)
# Sums of integers in `_transform` stay below 2^31 up to this side.
MAX_SIDE = 1024

_WIDTH = 3
_MAX_DEPTH = 3
_WEIGHT_BITS = 15
_STRENGTH_BITS = 12
# Of places in a view, of what sums of them round off, and of the share of the
# way between two pixels.
_PLACE_BITS = 18
_REST_BITS = 12
_FRACTION_BITS = 10


class Levels(NamedTuple):
  """How strong operations are; autocontrast and equalize have no level.

  Attributes:
    bits: Bits of `posterize`.
    threshold: Threshold of `solarize`.
    degrees: Degrees of `rotate`.
    slope: Slope of `shear_x` and `shear_y`.
    pixels: Pixels of `translate_x` and `translate_y`.
  """

  bits: Int[AnyArray, "..."]
  threshold: Int[AnyArray, "..."]
  degrees: Int[Array, "..."]
  slope: Float[Array, "..."]
  pixels: Int[Array, "..."]


class Draw(NamedTuple):
  """All that is random about the mixture of one view.

  Attributes:
    operations: int32 [3 3], for each copy the numbers of its operations, first
      to last; a 9 does nothing.
    levels: Levels of the operations, each [3 3].
    weights: int32 [4], of the view and its copies in units of 2^-15; they add
      up to 2^15.
  """

  operations: Int[Array, "3 3"]
  levels: Levels
  weights: Int[Array, "4"]


def mix(
    key: Key[Array, ""], view: UInt8[Array, "s s 3"]
) -> Float[Array, "s s 3"]:
  """A mixture of a view and three randomly changed copies of it.

  Because the weights add up to one, normalising the mixture is the same as
  mixing what was normalised.

  Args:
    key: Random key to draw from, see `draw`.
    view: uint8 [s s 3], s at most 1024.

  Returns:
    float32 [s s 3] in [0, 255]: multiples of 2^-15, not rounded to pixels.

  Raises:
    ValueError: If the view is larger than 1024 pixels.

  Source: Hendrycks et al., AugMix, ICLR 2020, at severity 1 and width 3 as used
  by Shu et al., Test-Time Prompt Tuning, NeurIPS 2022.
  Differs from the released code in: the random numbers; levels are multiples of
  2^-12 and weights of 2^-15 of their ranges.
  """
  operations, levels, weights = draw(key, view.shape[0])

  def apply(copy, operation_and_levels):
    return apply_operation(copy, *operation_and_levels), None

  # One copy after the other: there are views enough to work on at a time, and
  # this takes a third of the memory.
  copies = lax.map(
      lambda steps: lax.scan(apply, view, steps)[0], (operations, levels)
  )
  images = jnp.concatenate([view[None], copies]).astype(jnp.int32)
  mixed = jnp.sum(weights[:, None, None, None] * images, axis=0)
  return mixed.astype(jnp.float32) / 2**_WEIGHT_BITS


def draw(key: Key[Array, ""], side: int) -> Draw:
  """Draws operations, levels and weights for one view.

  Each copy goes through one to three operations, drawn with replacement, each
  with a strength uniform on [0.1, 1). The copies' weights are uniform on the
  simplex, Dirichlet(1, 1, 1); the view and the mixture of copies have weights
  uniform on [0, 1], Beta(1, 1).

  Args:
    key: Random key to draw from.
    side: Side of the view, in pixels.

  Returns:
    What `mix` applies.
  """
  uniform = jax.random.uniform(
      key, (_WIDTH * (3 * _MAX_DEPTH + 2),), jnp.float32)
  uniform = uniform.reshape(-1, _WIDTH)
  depth, mixing = uniform[:2]
  number, strength, sign = uniform[2:].reshape(3, _WIDTH, _MAX_DEPTH)
  used = jnp.arange(_MAX_DEPTH)[None] <= below(depth, _MAX_DEPTH)[:, None]
  count = len(OPERATIONS)
  operations = jnp.where(used, below(number, count), count)
  least = -(-(1 << _STRENGTH_BITS) // 10)
  strength = least + below(strength, (1 << _STRENGTH_BITS) - least)
  levels = operation_levels(strength, below(sign, 2) == 1, side)
  return Draw(operations, levels, _weights(mixing))


def operation_levels(
    strength: Int[AnyArray, "..."], negative: bool | Bool[AnyArray, "..."],
    side: int
) -> Levels:
  """Levels at severity 1.

  Args:
    strength: Strength in units of 2^-12, 0.1 to below 1.
    negative: bool, whether to rotate, shear or translate the other way.
    side: Side of the view, in pixels.

  Returns:
    Always 4 bits; a threshold from 231 to 254; 0 to 2 degrees; a slope from
    0.003 to 0.03; less than side / 30 pixels (7 of 224 at most).
  """
  sign = jnp.where(negative, -1, 1)
  # The released code gives each operation a tenth of its full range (4 bits,
  # 256 values, 30 degrees, a slope of 0.3, a third of the side).
  tenth = 10 << _STRENGTH_BITS
  return Levels(
      bits=4 - 4 * strength // tenth,
      threshold=256 - 256 * strength // tenth,
      degrees=sign * (30 * strength // tenth),
      slope=sign * strength * (0.3 / tenth),
      pixels=sign * (side * strength // (3 * tenth)),
  )


def apply_operation(
    view: UInt8[Array, "s s 3"], operation: Int[Array, ""], levels: Levels
) -> UInt8[Array, "s s 3"]:
  """The operation with the given number.

  Under `jax.vmap` a branch would compute all operations for every view. So the
  choice is made among what is small, tables and matrices, and every view is
  looked up and transformed just once.

  Args:
    view: uint8 [s s 3].
    operation: Position in `OPERATIONS`, or their number to do nothing.
    levels: Levels of the operation, scalars.

  Returns:
    uint8 [s s 3].
  """
  histogram = _histogram(view)
  tables = jnp.stack([
      _autocontrast_table(histogram),
      _equalize_table(histogram),
      _posterize_table(levels.bits),
      _solarize_table(levels.threshold),
      _same_table(),
  ])
  changes = jnp.stack([
      _rotation(levels.degrees),
      _shear(view.shape[0], x_by_y=levels.slope),
      _shear(view.shape[0], y_by_x=levels.slope),
      _shift(x=levels.pixels),
      _shift(y=levels.pixels),
      _shift(),
  ])
  place = operation - (len(tables) - 1)
  change = changes[jnp.where(place < 0, len(changes) - 1, place)]
  table = tables[jnp.minimum(operation, len(tables) - 1)]
  return _transform(_look_up(view, table), change)


def below(
    uniform: Float[Array, "..."], count: int | Int[Array, "..."]
) -> Int[Array, "..."]:
  """Integers, each in [0, count), from numbers in [0, 1)."""
  return jnp.minimum((uniform * count).astype(jnp.int32), count - 1)


def autocontrast(view: UInt8[Array, "s s 3"]) -> UInt8[Array, "s s 3"]:
  """Stretches each channel to the whole range; a flat one stays as it is."""
  return _look_up(view, _autocontrast_table(_histogram(view)))


def equalize(view: UInt8[Array, "s s 3"]) -> UInt8[Array, "s s 3"]:
  """Makes the values of each channel about equally frequent."""
  return _look_up(view, _equalize_table(_histogram(view)))


def posterize(
    view: UInt8[Array, "s s 3"], bits: int | Int[Array, ""]
) -> UInt8[Array, "s s 3"]:
  """Keeps the upper `bits` bits, 1 to 8, of each value."""
  return _look_up(view, _posterize_table(bits))


def solarize(
    view: UInt8[Array, "s s 3"], threshold: int | Int[Array, ""]
) -> UInt8[Array, "s s 3"]:
  """Inverts the values from `threshold`, 0 to 256, upwards."""
  return _look_up(view, _solarize_table(threshold))


def rotate(
    view: UInt8[Array, "s s 3"], degrees: int | Int[Array, ""]
) -> UInt8[Array, "s s 3"]:
  """Turns the view counter-clockwise about its centre; black comes in."""
  return _transform(view, _rotation(degrees))


def shear_x(
    view: UInt8[Array, "s s 3"], slope: Number
) -> UInt8[Array, "s s 3"]:
  """Shows at (x, y) what was at (x + slope * y, y), |slope| at most 1."""
  return _transform(view, _shear(view.shape[0], x_by_y=slope))


def shear_y(
    view: UInt8[Array, "s s 3"], slope: Number
) -> UInt8[Array, "s s 3"]:
  """Shows at (x, y) what was at (x, y + slope * x), |slope| at most 1."""
  return _transform(view, _shear(view.shape[0], y_by_x=slope))


def translate_x(
    view: UInt8[Array, "s s 3"], pixels: Number | Int[Array, ""]
) -> UInt8[Array, "s s 3"]:
  """Shows at (x, y) what was at (x + pixels, y), |pixels| at most s."""
  return _transform(view, _shift(x=pixels))


def translate_y(
    view: UInt8[Array, "s s 3"], pixels: Number | Int[Array, ""]
) -> UInt8[Array, "s s 3"]:
  """Shows at (x, y) what was at (x, y + pixels), |pixels| at most s."""
  return _transform(view, _shift(y=pixels))


def _weights(uniform):
  """Mixing weights from three numbers in [0, 1); see `Draw`."""
  one = 1 << _WEIGHT_BITS
  own, *cuts = below(uniform, one + 1)
  # Two uniform cuts leave three parts that are uniform on the simplex.
  low, high = jnp.minimum(*cuts), jnp.maximum(*cuts)
  parts = jnp.stack([low, high - low, one - high])
  copies = ((one - own) * parts + one // 2) >> _WEIGHT_BITS
  return jnp.append(one - jnp.sum(copies), copies)


def _histogram(view):
  """How often each value occurs in each channel, int32 [3 256]."""
  place = view.astype(jnp.int32) + 256 * jnp.arange(3)[None, None]
  return jnp.zeros(3 * 256, jnp.int32).at[place].add(1).reshape(3, 256)


def _look_up(view, table):
  place = view.astype(jnp.int32) + 256 * jnp.arange(3)[None, None]
  return table.astype(jnp.uint8).reshape(-1)[place]


def _same_table():
  return jnp.broadcast_to(jnp.arange(256)[None], (3, 256))


def _posterize_table(bits):
  drop = 8 - bits
  return _same_table() >> drop << drop


def _solarize_table(threshold):
  same = _same_table()
  return jnp.where(same < threshold, same, 255 - same)


def _equalize_table(histogram):
  highest = _range(histogram)[1]
  last = jnp.take_along_axis(histogram, highest, axis=1)
  step = (jnp.sum(histogram, axis=1, keepdims=True) - last) // 255
  below = jnp.cumsum(histogram, axis=1) - histogram
  table = (below + step // 2) // jnp.maximum(step, 1)
  return jnp.where(step > 0, jnp.minimum(table, 255), _same_table())


def _autocontrast_table(histogram):
  lowest, highest = _range(histogram)
  length = jnp.maximum(highest - lowest, 1)
  scaled = jnp.clip(_same_table() - lowest, 0, length) * 255
  table = scaled // length
  short = jnp.asarray(_short_of_whole())[lowest, length] >> (table // 15) & 1
  table = table - jnp.where(scaled == table * length, short, 0)
  return jnp.where(highest > lowest, table, _same_table())


@functools.cache
def _short_of_whole():
  """Where Pillow's autocontrast ends one below a result that is whole.

  It computes int(value * scale - lowest * scale) with scale = 255 / length in
  float64. Rounding matters only where the exact result is whole, and some of
  these, the upper end of the range included, come out one too low.

  Returns:
    uint32 [256 256] by lowest value and length of the range; bit r // 15 tells
    whether the whole result r comes out as r - 1. (Whole results are multiples
    of 255 / gcd(255, length), so at least 15 apart except for multiples of 51
    and of 85, which never come out low.)
  """
  shorts = np.zeros((256, 256), np.uint32)
  result = np.arange(256)
  for length in range(1, 256):
    scale = 255.0 / length
    whole = result[result * length % 255 == 0]
    lowest = np.arange(256 - length)[:, None]
    value = lowest + (whole * length // 255)[None]
    computed = (value * scale + -lowest * scale).astype(int)
    bits = (computed < whole[None]).astype(np.uint32) << (whole // 15)[None]
    shorts[:256 - length, length] = np.bitwise_or.reduce(bits, axis=1)
  return shorts


def _range(histogram):
  """Lowest and highest value that occur, each [3 1]."""
  occurs = histogram > 0
  lowest = jnp.argmax(occurs, axis=1, keepdims=True)
  highest = 255 - jnp.argmax(occurs[:, ::-1], axis=1, keepdims=True)
  return lowest, highest


def _shift(*, x=0, y=0):
  """Change of places by a translation; see `_transform`."""
  zero = jnp.float32(0)
  return jnp.stack([
      zero, zero, jnp.float32(x), zero, zero, jnp.float32(y),
  ]).reshape(2, 3)


def _shear(side, *, x_by_y=0, y_by_x=0):
  """Change of places by a shear that leaves the first row or column."""
  x_by_y, y_by_x = jnp.float32(x_by_y), jnp.float32(y_by_x)
  zero = jnp.float32(0)
  return jnp.stack([
      zero, x_by_y, x_by_y * (side / 2), y_by_x, zero, y_by_x * (side / 2),
  ]).reshape(2, 3)


def _rotation(degrees):
  """Change of places by a rotation about the centre."""
  # From a table, because devices differ in the last bit of a sine.
  angle = np.deg2rad(np.arange(360))
  change, sine = np.asarray(
      [-2 * np.sin(angle / 2)**2, np.sin(angle)], np.float32)
  zero = np.zeros(360, np.float32)
  table = np.stack([change, -sine, zero, sine, change, zero], axis=1)
  return jnp.asarray(table)[degrees % 360].reshape(2, 3)


def _transform(view, change):
  """Shows at each place what was at another place.

  Args:
    view: uint8 [s s 3].
    change: float32 [2 3], from a place (x, y, 1), in pixels from the centre of
      the view, to how far away is what is shown there.

  Returns:
    uint8 [s s 3]: bilinear interpolation between pixel centres, cut to whole
    values; edge pixels reach to the edge of the view; outside is black.
  """
  side = view.shape[0]
  if side > MAX_SIDE:
    raise ValueError(
        f"expected a view of at most {MAX_SIDE} pixels, got {side}."
    )
  # Twice the distance from the edge and from the centre are whole numbers.
  from_edge = 2 * jnp.arange(side) + 1
  x, y = (
      (from_edge << _PLACE_BITS).reshape(shape) + _fixed_sum(
          row[0], (from_edge - side)[None],
          row[1], (from_edge - side)[:, None],
          2 * row[2],
      ) for row, shape in zip(change, ((1, side), (side, 1)), strict=True)
  )
  end = 2 * side << _PLACE_BITS
  inside = (0 <= x) & (x < end) & (0 <= y) & (y < end)
  left, right, across = _neighbours(x, side)
  upper, lower, down = _neighbours(y, side)
  values, channels = view.reshape(-1), jnp.arange(3)[None, None]

  def row(number):
    here, there = (
        values[3 * (side * number + column)[..., None] + channels].astype(
            jnp.int32
        ) for column in (left, right)
    )
    return _between(here, there, across)

  value = _between(row(upper), row(lower), down) >> (2 * _FRACTION_BITS)
  return jnp.where(inside[..., None], value, 0).astype(jnp.uint8)


def _fixed_sum(a, x, b, y, c):
  """a x + b y + c for whole x and y, as int32 in units of 2^-18.

  With 12 more bits inside: an error of a thousandth of a pixel would move some
  pixel across the edge of the view, where it turns black.
  """
  (a, a_rest), (b, b_rest), (c, c_rest) = (_parts(value) for value in (a, b, c))
  return a * x + b * y + c + (a_rest * x + b_rest * y + c_rest >> _REST_BITS)


def _parts(value):
  """A float32 as whole units of 2^-18, and the rest in units of 2^-30."""
  scaled = value * 2.0**_PLACE_BITS
  whole = jnp.floor(scaled)
  rest = (scaled - whole) * 2.0**_REST_BITS
  return whole.astype(jnp.int32), rest.astype(jnp.int32)


def _neighbours(place, side):
  """The pixels before and after a place, and how far it is between them.

  Args:
    place: int32, twice the place, in units of 2^-18.
    side: Pixels along the axis.

  Returns:
    Numbers of two pixels, and the share of the way in units of 2^-10.
  """
  # From pixel centres; a shift of a negative number rounds down.
  place = place - (1 << _PLACE_BITS)
  pixel_bits = _PLACE_BITS + 1
  first = place >> pixel_bits
  rest = place & ((1 << pixel_bits) - 1)
  fraction = rest >> (pixel_bits - _FRACTION_BITS)
  edge = lambda number: jnp.clip(number, 0, side - 1)
  return edge(first), edge(first + 1), fraction


def _between(first, second, fraction):
  """2^10 times the value at a share of the way from one to the other."""
  fraction = fraction[..., None]
  return first * ((1 << _FRACTION_BITS) - fraction) + second * fraction
