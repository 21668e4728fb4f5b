"""Corruptions of images that are arithmetic on arrays: one image, on a device.

Each is a pure function of an image, of what was drawn at random, and of the
severity, 1 to 5, which is static as are the shapes; `jax.vmap` adds images.
Drawing is apart, see `draw`, so that other draws can be put in.

Values are those of Hendrycks & Dietterich, Benchmarking Neural Network
Robustness to Common Corruptions and Perturbations, ICLR 2019, in float32 where
the released program has float64; outputs are truncated to 8 bits, as there.
"""

from collections.abc import Callable
import functools
import math
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from jaxcal import precision
from jaxcal.compiled import compiled_with
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Key
from jaxcal.typing import UInt8

_Image = UInt8[Array, "h w 3"]

# By severity.
_GAUSSIAN_NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)  # standard deviation
_SHOT_NOISE = (60, 25, 12, 5, 3)  # photons at full brightness
_IMPULSE_NOISE = (0.03, 0.06, 0.09, 0.17, 0.27)  # share of the values
_SPECKLE_NOISE = (0.15, 0.2, 0.35, 0.45, 0.6)
_GAUSSIAN_BLUR = (1, 2, 3, 4, 6)
_DEFOCUS = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))  # radius, edge
_ZOOM = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))
_FOG = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))  # amount, decay
_BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)
_CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)
_SATURATE = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))  # factor, more
_PIXELATE = (0.6, 0.5, 0.4, 0.3, 0.25)
# Of images of 224 pixels: size of the displacement, sigma, shift of corners.
# (The released program has 244 here, by a slip that it keeps.)
_ELASTIC_INET = ((244 * 2, 244 * 0.7, 244 * 0.1),
                 (244 * 2, 244 * 0.08, 244 * 0.2),
                 (244 * 0.05, 244 * 0.01, 244 * 0.02),
                 (244 * 0.07, 244 * 0.01, 244 * 0.02),
                 (244 * 0.12, 244 * 0.01, 244 * 0.02))
_ELASTIC_INET_SIDE = 224
_ELASTIC_IC = (12.5, 16.25, 21.25, 25, 30)
_FIRST_WIBBLE = 100
_COEFFICIENT_BITS = 22  # of Pillow's filters
# What float32 may lose of a whole number, which truncating would make one of.
_SLACK = 2**-12


class Corruption(NamedTuple):
  """A corruption of this module.

  Attributes:
    draw: Function from key, image and severity to what is random; None where
      nothing is.
    make: Function from image, draws and severity to the corrupted image.
  """

  draw: Callable[[Key[Array, ""], _Image, int], Any]
  make: Callable[[_Image, Any, int], _Image]


@compiled_with("severity")
def gaussian_noise(
    image: _Image, noise: Float[Array, "h w 3"], severity: int) -> _Image:
  """Adds standard normal `noise`, the wider the more severe."""
  return _truncated(_unit(image) + noise * _GAUSSIAN_NOISE[severity - 1])


@compiled_with("severity")
def shot_noise(
    image: _Image, counts: Int[Array, "h w 3"], severity: int) -> _Image:
  """Shows `counts` of photons, Poisson with the mean `photons`."""
  del image  # is in the counts
  return _truncated(jnp.float32(counts) / _SHOT_NOISE[severity - 1])


@compiled_with("severity")
def photons(image: _Image, severity: int) -> Float[Array, "h w 3"]:
  """Photons to be expected at each value of an image."""
  return _unit(image) * _SHOT_NOISE[severity - 1]


@compiled_with("severity")
def impulse_noise(
    image: _Image, draws: Float[Array, "2 h w 3"], severity: int) -> _Image:
  """Makes some values black or white.

  Args:
    image: Image, uint8.
    draws: Uniform numbers in [0, 1): whether a value is changed, and to what.
    severity: Severity, 1 to 5.
  """
  changed = draws[0] <= _IMPULSE_NOISE[severity - 1]
  return jnp.where(
      changed, jnp.where(draws[1] <= 0.5, 255, 0), image).astype(jnp.uint8)


@compiled_with("severity")
def speckle_noise(
    image: _Image, noise: Float[Array, "h w 3"], severity: int) -> _Image:
  """Adds standard normal `noise` times the image."""
  x = _unit(image)
  return _truncated(x + x * (noise * _SPECKLE_NOISE[severity - 1]))


@compiled_with("severity")
def gaussian_blur(image: _Image, _: None, severity: int) -> _Image:
  """Blurs with a Gaussian that sees the edge's values beyond the edge."""
  sigma = _GAUSSIAN_BLUR[severity - 1]
  return _truncated(_smoothed(_unit(image), (sigma, sigma), "edge", 4))


@compiled_with("severity")
@precision.highest
def defocus_blur(image: _Image, _: None, severity: int) -> _Image:
  """Averages over a disk, as a lens out of focus does."""
  kernel = _disk(*_DEFOCUS[severity - 1])
  radius = len(kernel) // 2
  rows, columns = (
      _inside(np.arange(-radius, side + radius), side, "mirror")
      for side in image.shape[:2])
  padded = _unit(image)[rows][:, columns]
  blurred = lax.conv_general_dilated(
      jnp.moveaxis(padded, -1, 0)[:, None], jnp.asarray(kernel)[None, None],
      (1, 1), "VALID")
  return _truncated(jnp.moveaxis(blurred[:, 0], 0, -1))


@compiled_with("severity")
def zoom_blur(image: _Image, _: None, severity: int) -> _Image:
  """Averages the image and what a lens sees of it that zooms in."""
  stop, step = _ZOOM[severity - 1]
  factors = np.arange(1, stop, step)
  x = _unit(image)
  total = x
  for factor in factors:
    zoomed = x
    for axis in (0, 1):
      low, high, share = zoomed_taps(image.shape[axis], factor)
      share = share.astype(np.float32).reshape((-1, 1, 1) if axis == 0 else
                                               (1, -1, 1))
      zoomed = (jnp.take(zoomed, low, axis) * (1 - share) +
                jnp.take(zoomed, high, axis) * share)
    total = total + zoomed
  return _truncated(total / (len(factors) + 1))


@compiled_with("severity")
def fog(
    image: _Image, draws: tuple[Float[Array, "3 _ _"], ...], severity: int
) -> _Image:
  """Adds a plasma fractal, and keeps the brightest value.

  Args:
    image: Image, uint8.
    draws: Uniform numbers in [-1, 1), see `plasma`.
    severity: Severity, 1 to 5.
  """
  amount, decay = _FOG[severity - 1]
  height, width, _ = image.shape
  x = _unit(image)
  brightest = jnp.max(x)
  layer = plasma(draws, decay)[:height, :width, None]
  return _truncated((x + amount * layer) * brightest / (brightest + amount))


@compiled_with("decay")
def plasma(
    draws: tuple[Float[Array, "3 _ _"], ...], decay: float
) -> Float[Array, "side side"]:
  """A height map in [0, 1] by the diamond-square algorithm, on a torus.

  Args:
    draws: Uniform numbers in [-1, 1), for each doubling of the map those of the
      new points amid four, right of, and below the old ones.
    decay: Factor by which the draws count less from one doubling to the next.

  Source: Fournier, Fussell & Carpenter, Computer Rendering of Stochastic
  Models, CACM 1982; scaled as in the released program of ImageNet-C, where a
  draw counts with the square of what decays.
  """
  heights = jnp.zeros((1, 1), jnp.float32)
  wibble = float(_FIRST_WIBBLE)
  for amid, right, below in draws:
    size = wibble**2
    pairs = heights + jnp.roll(heights, -1, 0)
    centres = (pairs + jnp.roll(pairs, -1, 1)) / 4 + size * amid
    tops = (centres + jnp.roll(centres, 1, 0) + heights +
            jnp.roll(heights, -1, 1)) / 4 + size * right
    sides = (centres + jnp.roll(centres, 1, 1) + heights +
             jnp.roll(heights, -1, 0)) / 4 + size * below
    old, new = (jnp.stack(pair, axis=-1).reshape(len(heights), -1)
                for pair in ((heights, tops), (sides, centres)))
    heights = jnp.stack([old, new], axis=1).reshape(old.shape[1], -1)
    wibble /= decay
  heights = heights - jnp.min(heights)
  return heights / jnp.max(heights)


@compiled_with("severity")
def brightness(image: _Image, _: None, severity: int) -> _Image:
  """Adds to the value of HSV; hue and saturation stay."""
  x = _unit(image)
  value = jnp.max(x, axis=-1, keepdims=True)
  brighter = jnp.minimum(value + _BRIGHTNESS[severity - 1], 1)
  return _truncated(
      jnp.where(value > 0, x * (brighter / _nonzero(value)), brighter))


@compiled_with("severity")
def contrast(image: _Image, _: None, severity: int) -> _Image:
  """Moves values towards the mean of their channel."""
  x = _unit(image)
  mean = jnp.mean(x, axis=(0, 1), keepdims=True)
  return _truncated((x - mean) * _CONTRAST[severity - 1] + mean)


@compiled_with("severity")
def saturate(image: _Image, _: None, severity: int) -> _Image:
  """Changes the saturation of HSV; hue and value stay.

  The hue of what is grey counts as red, as in the released program.
  """
  factor, more = _SATURATE[severity - 1]
  # Of whole numbers, so that what is grey is so in whatever order a device
  # multiplies and adds.
  x = image.astype(jnp.float32)
  value = jnp.max(x, axis=-1, keepdims=True)
  away = value - x
  most = jnp.max(away, axis=-1, keepdims=True)
  saturation = most / _nonzero(value)
  changed = jnp.clip(saturation * factor + more, 0, 1)
  directions = jnp.where(
      most > 0, away / _nonzero(most), jnp.float32([[[0, 1, 1]]]))
  return _truncated((value - value * changed * directions) / 255)


@compiled_with("severity")
def pixelate(image: _Image, _: None, severity: int) -> _Image:
  """Shrinks by Pillow's box filter, and shows each pixel large."""
  x = image.astype(jnp.int32)
  for axis in (1, 0):
    weights = _box_weights(
        x.shape[axis], int(x.shape[axis] * _PIXELATE[severity - 1]) or 1)
    x = jnp.moveaxis(jnp.tensordot(
        jnp.asarray(weights), x, (1, axis),
        preferred_element_type=jnp.int32), 0, axis)
    x = jnp.clip((x + 2**(_COEFFICIENT_BITS - 1)) >> _COEFFICIENT_BITS, 0, 255)
  rows, columns = (
      _nearest(small, large) for small, large in zip(x.shape, image.shape[:2]))
  return x[rows][:, columns].astype(jnp.uint8)


@compiled_with("severity")
def elastic_inet(
    image: _Image,
    draws: tuple[Float[Array, "3 2"], Float[Array, "2 h w"]],
    severity: int,
) -> _Image:
  """Stretches the image as in the published ImageNet-C.

  An affine map first (coordinates in 1/32 of a pixel), then smooth
  displacements. Severities 1 and 2 are rather waves, 3 to 5 ripples.

  Args:
    image: Image, uint8.
    draws: Uniform numbers in [-1, 1): shifts of three corners in x and y, and
      displacements in x and y before they are smoothed.
    severity: Severity, 1 to 5.

  Differs from the released code in: other sizes than 224 pixels, for which
  numbers of pixels grow with the shorter side.
  """
  height, width, _ = image.shape
  scale = min(height, width) / _ELASTIC_INET_SIDE
  size, sigma, shift = (
      scale * number for number in _ELASTIC_INET[severity - 1])
  corners, fields = draws
  rows, columns = _affine(height, width, shift * corners)
  x = _sampled(_unit(image), rows, columns, "mirror")
  down, right = (
      size * _smoothed(field[..., None], (sigma, sigma), "reflect", 3)[..., 0]
      for field in (fields[1], fields[0]))
  return _truncated(_displaced(x, down, right))


@compiled_with("severity")
def elastic_ic(
    image: _Image, fields: Float[Array, "2 h w"], severity: int) -> _Image:
  """Stretches the image as the package imagecorruptions does.

  The same idea as `elastic_inet`, but milder, stronger from one severity to the
  next, and with numbers of pixels that grow with the image.

  Args:
    image: Image, uint8.
    fields: Uniform numbers in [-1, 1), displacements in x and y before they are
      smoothed.
    severity: Severity, 1 to 5.

  Source: Michaelis et al., Benchmarking Robustness in Object Detection,
  arXiv:1907.07484 (imagecorruptions 1.1.2).
  """
  height, width, _ = image.shape
  size = _ELASTIC_IC[severity - 1] * 0.005 * height
  down, right = (
      size * _smoothed(field[..., None], (height * 0.01, width * 0.01),
                       "reflect", 3)[..., 0]
      for field in (fields[1], fields[0]))
  return _truncated(_displaced(_unit(image), down, right))


def zoomed_taps(
    side: int, factor: float
) -> tuple[Int[np.ndarray, "s"], Int[np.ndarray, "s"], Float[np.ndarray, "s"]]:
  """Where the pixels of an image's enlarged middle come from, on one axis.

  Args:
    side: Pixels of the image.
    factor: Enlargement, 1 at least.

  Returns:
    Positions to the left and to the right of each pixel's place, and the share
    of the right one.
  """
  cut = math.ceil(side / factor)
  enlarged = round(cut * factor)
  first = (side - cut) // 2
  step = (cut - 1) / (enlarged - 1) if enlarged > 1 else 0.0
  trimmed = (enlarged - side) // 2
  at = np.arange(trimmed, trimmed + side) * step
  low = np.minimum(at.astype(int), cut - 1)
  high = np.minimum(low + 1, cut - 1)
  return first + low, first + high, at - low


@functools.lru_cache(maxsize=64)
def blur_matrix(
    side: int, sigma: float, beyond: str, truncate: float
) -> Float[np.ndarray, "s s"]:
  """A Gaussian filter of one axis as a matrix, what is beyond the edge put in.

  Args:
    side: Pixels of the axis.
    sigma: Standard deviation, in pixels.
    beyond: What is seen beyond an edge: "edge", its own value, "mirror", the
      image mirrored at the last pixel, or "reflect", with the last one twice.
    truncate: Standard deviations at which the filter ends.
  """
  radius = int(truncate * sigma + 0.5)
  offsets = np.arange(-radius, radius + 1)
  weights = np.exp(-0.5 * (offsets / sigma)**2)
  matrix = np.zeros((side, side))
  rows = np.arange(side)
  for offset, weight in zip(offsets, weights / weights.sum()):
    np.add.at(matrix, (rows, _inside(rows + offset, side, beyond)), weight)
  return matrix


def _nothing(key, image, severity):
  del key, image, severity


def _normal(key, image, severity):
  del severity
  return jax.random.normal(key, image.shape, jnp.float32)


def _poisson(key, image, severity):
  return jax.random.poisson(
      key, photons(image, severity), dtype=jnp.int32)


def _two_uniform(key, image, severity):
  del severity
  return jax.random.uniform(key, (2, *image.shape), jnp.float32)


def _doublings(key, image, severity):
  del severity
  doublings = (max(image.shape[:2]) - 1).bit_length()
  return tuple(
      _signed(one, (3, 2**number, 2**number))
      for number, one in enumerate(jax.random.split(key, max(doublings, 1))))


def _fields(key, image, severity):
  del severity
  return _signed(key, (2, *image.shape[:2]))


def _corners_and_fields(key, image, severity):
  corners, fields = jax.random.split(key)
  return _signed(corners, (3, 2)), _fields(fields, image, severity)


def _signed(key, shape):
  return jax.random.uniform(key, shape, jnp.float32, -1, 1)


CORRUPTIONS = {
    "gaussian_noise": Corruption(_normal, gaussian_noise),
    "shot_noise": Corruption(_poisson, shot_noise),
    "impulse_noise": Corruption(_two_uniform, impulse_noise),
    "speckle_noise": Corruption(_normal, speckle_noise),
    "gaussian_blur": Corruption(_nothing, gaussian_blur),
    "defocus_blur": Corruption(_nothing, defocus_blur),
    "zoom_blur": Corruption(_nothing, zoom_blur),
    "fog": Corruption(_doublings, fog),
    "brightness": Corruption(_nothing, brightness),
    "contrast": Corruption(_nothing, contrast),
    "saturate": Corruption(_nothing, saturate),
    "pixelate": Corruption(_nothing, pixelate),
    "elastic_inet": Corruption(_corners_and_fields, elastic_inet),
    "elastic_ic": Corruption(_fields, elastic_ic),
}


@functools.partial(jax.jit, static_argnums=(0, 3))
def corrupt(
    name: str, image: _Image, key: Key[Array, ""], severity: int) -> _Image:
  """The corrupted image, of the same shape.

  Args:
    name: Name of a corruption of `CORRUPTIONS`.
    image: Image, uint8.
    key: Key that randomness is drawn from.
    severity: Severity, 1 to 5.
  """
  kind = CORRUPTIONS[name]
  return kind.make(image, kind.draw(key, image, severity), severity)


def _unit(image):
  return image.astype(jnp.float32) / 255


def _truncated(x):
  """From [0, 1] to 8 bits; not rounded, as in the released program."""
  return (jnp.clip(x, 0, 1) * 255 + _SLACK).astype(jnp.uint8)


def _nonzero(x):
  return jnp.where(x > 0, x, 1)


def _inside(positions, side, beyond):
  """Positions beyond an edge as those of what is seen there."""
  if beyond == "edge":
    return np.clip(positions, 0, side - 1)
  # Whole numbers of numpy where they are known, of jax where they are traced.
  module = jnp if isinstance(positions, jax.Array) else np
  if beyond == "mirror":
    period = max(2 * side - 2, 1)
    folded = positions % period
    return module.minimum(folded, period - folded) % side
  folded = positions % (2 * side)
  return module.minimum(folded, 2 * side - 1 - folded)


@precision.highest
def _smoothed(x, sigmas, beyond, truncate):
  """A Gaussian filter of the first two of three axes."""
  rows, columns = (
      jnp.asarray(blur_matrix(side, sigma, beyond, truncate), jnp.float32)
      for side, sigma in zip(x.shape, sigmas))
  return jnp.einsum("ij,kl,jlc->ikc", rows, columns, x)


def _sampled(x, down, right, beyond):
  """Values between the pixels, bilinear, at [h w] places."""
  top, left = jnp.floor(down), jnp.floor(right)
  lower, further = down - top, right - left
  top, left = top.astype(jnp.int32), left.astype(jnp.int32)
  total = jnp.float32(0)
  for row, share in ((top, 1 - lower), (top + 1, lower)):
    for column, part in ((left, 1 - further), (left + 1, further)):
      total = total + (share * part)[..., None] * x[
          _inside(row, x.shape[0], beyond), _inside(column, x.shape[1], beyond)]
  return total


def _displaced(x, down, right):
  height, width, _ = x.shape
  return _sampled(x, jnp.arange(height)[:, None] + down,
                  jnp.arange(width)[None] + right, "reflect")


@precision.highest
def _affine(height, width, shifts):
  """Rows and columns [h w] that show an image whose corners were shifted."""
  side = max(min(height, width) // 3, 1)
  centre = jnp.float32([width // 2, height // 2])
  before = centre[None] + side * jnp.float32([[1, 1], [1, -1], [-1, -1]])
  after = jnp.concatenate(
      [before + shifts, jnp.ones((3, 1), jnp.float32)], axis=1)
  # From where the corners went to where they were.
  back = jnp.linalg.solve(after, before)
  y, x = jnp.mgrid[:height, :width]
  columns, rows = (
      jnp.floor((back[0, i] * x + back[1, i] * y + back[2, i]) * 32 + 0.5) / 32
      for i in (0, 1))
  return rows, columns


@functools.lru_cache(maxsize=16)
def _disk(radius, edge):
  """A disk of mean 1 with a soft edge; float32 [n n]."""
  reach, around = (8, 1) if radius <= 8 else (radius, 2)
  y, x = np.mgrid[-reach:reach + 1, -reach:reach + 1]
  disk = (x**2 + y**2 <= radius**2).astype(float)
  soft = blur_matrix(2 * reach + 1, edge, "mirror", around / edge)
  return (soft @ (disk / disk.sum()) @ soft.T).astype(np.float32)


def _nearest(small, large):
  """Pixels that Pillow shows where it enlarges without a filter."""
  step = small / large
  # Added up one by one, as there: it decides where a place is a whole number.
  steps = np.full(large, step)
  steps[0] = step / 2
  return np.cumsum(steps).astype(int)


@functools.lru_cache(maxsize=64)
def _box_weights(large, small):
  """Pillow's box filter from many pixels to few; int32 [small large]."""
  scale = large / small
  weights = np.zeros((small, large))
  for row in range(small):
    centre = (row + 0.5) * scale
    first = max(int(centre - scale / 2 + 0.5), 0)
    stop = min(int(centre + scale / 2 + 0.5), large)
    at = (np.arange(first, stop) - centre + 0.5) / scale
    inside = (at > -0.5) & (at <= 0.5)
    weights[row, first:stop] = inside / inside.sum()
  return np.floor(weights * 2**_COEFFICIENT_BITS + 0.5).astype(np.int32)
