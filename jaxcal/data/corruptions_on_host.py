"""Corruptions of images that need a codec, pictures or a long chain of steps.

They run on the host, in numpy and Pillow: one image, what was drawn at random,
and the severity, 1 to 5. Drawing is apart, so that other draws can be put in.

Values are those of Hendrycks & Dietterich, Benchmarking Neural Network
Robustness to Common Corruptions and Perturbations, ICLR 2019; outputs are
truncated to 8 bits, as in the released program.
"""

from collections.abc import Callable
import io
import math
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from jaxcal.data import corruptions_on_device as on_device
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import UInt8

_Image = UInt8[np.ndarray, "h w 3"]

# By severity.
_GLASS = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
_MOTION = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))  # radius, sigma
_SNOW = ((0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
         (0.55, 0.3, 4, 0.9, 12, 8, 0.7), (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
         (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55))
_FROST = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))
# Mean, deviation, sigma, threshold; then strength of water, or blur of mud.
_WATER = ((0.65, 0.3, 4, 0.69, 0.6), (0.65, 0.3, 3, 0.68, 0.6),
          (0.65, 0.3, 2, 0.68, 0.5))
_MUD = ((0.65, 0.3, 1, 0.65, 1.5), (0.67, 0.4, 1, 0.65, 1.5))
_JPEG_QUALITY = (25, 18, 15, 10, 7)

_GREY = (0.299, 0.587, 0.114)
_WATER_COLOUR = (175 / 255, 238 / 255, 238 / 255)
_MUD_COLOUR = (63 / 255, 42 / 255, 20 / 255)
_EMBOSS = ((-2, -1, 0), (-1, 1, 1), (0, 1, 2))
# Of OpenCV: thresholds of edges, tangent of 22.5 degrees in 2^-15, lengths of
# steps to pixels beside, across a corner, and as a knight in 2^-16.
_EDGE_WEAK, _EDGE_STRONG = 50, 150
_TANGENT_BITS, _TANGENT = 15, 13573
_STEPS = tuple(round(length * 2**16) for length in (1, 1.4, 2.1969))
_FARTHEST = 20


class Corruption(NamedTuple):
  """A corruption of this module.

  Attributes:
    draw: Function from generator, image, severity and pictures to what is
      random; None where nothing is.
    make: Function from image, draws and severity to the corrupted image.
  """

  draw: Callable[..., Any]
  make: Callable[[_Image, Any, int], _Image]


def glass_blur(
    image: _Image, shifts: Int[np.ndarray, "r _ _ 2"], severity: int) -> _Image:
  """Blurs, lets pixels show others nearby, and blurs again.

  Args:
    image: Image, uint8.
    shifts: Steps to the right and down from each pixel to the one that it
      shows, in the order in which they are looked at: from the lower right
      corner, line by line; [rounds h w 2] without a margin.
    severity: Severity, 1 to 5.

  A pixel shows what the other one shows by then, and the other one stays, as in
  the released program, which means to exchange them.
  """
  sigma, reach, _ = _GLASS[severity - 1]
  shown = _truncated(_smoothed(image / 255, sigma))
  for one in shifts:
    sources = _sources(image.shape[:2], reach, one)
    shown = shown.reshape(-1, 3)[sources].reshape(image.shape)
  return _truncated(_smoothed(shown / 255, sigma))


def motion_blur(image: _Image, angle: float, severity: int) -> _Image:
  """Averages along a line, the more the nearer; `angle` in degrees."""
  radius, sigma = _MOTION[severity - 1]
  return np.clip(_streaked(image, radius, sigma, angle), 0, 255).astype(
      np.uint8)


def snow(
    image: _Image, draws: tuple[Float[np.ndarray, "h w"], float], severity: int
) -> _Image:
  """Whitens the image and adds falling flakes.

  Args:
    image: Image, uint8.
    draws: Standard normal numbers, and the angle of the fall in degrees.
    severity: Severity, 1 to 5.
  """
  noise, angle = draws
  mean, deviation, zoom, least, radius, sigma, kept = _SNOW[severity - 1]
  flakes = mean + deviation * noise
  for axis in (0, 1):
    low, high, share = on_device.zoomed_taps(image.shape[axis], zoom)
    share = share.reshape((-1, 1) if axis == 0 else (1, -1))
    flakes = (np.take(flakes, low, axis) * (1 - share) +
              np.take(flakes, high, axis) * share)
  flakes = _truncated(np.where(flakes < least, 0, flakes))
  # A picture of 8 bits by itself, before and after it is blurred.
  flakes = np.floor(
      _streaked(flakes[..., None], radius, sigma, angle)) / 255
  x = image / 255
  white = np.maximum(x, (x @ np.array(_GREY))[..., None] * 1.5 + 0.5)
  return _truncated(
      kept * x + (1 - kept) * white + flakes + flakes[::-1, ::-1])


def frost(
    image: _Image, ice: UInt8[np.ndarray, "h w 3"], severity: int) -> _Image:
  """Lays a picture of `ice`, of the same size, over the image."""
  kept, added = _FROST[severity - 1]
  return np.clip(kept * image + added * ice, 0, 255).astype(np.uint8)


def spatter(
    image: _Image, noise: Float[np.ndarray, "h w"], severity: int) -> _Image:
  """Drops of water (severities 1 to 3) or of mud on the lens.

  Args:
    image: Image, uint8.
    noise: Standard normal numbers.
    severity: Severity, 1 to 5.
  """
  mean, deviation, sigma, least, last = (*_WATER, *_MUD)[severity - 1]
  drops = _smoothed((mean + deviation * noise)[..., None], sigma)[..., 0]
  drops = np.where(drops < least, 0, drops)
  x = image / 255
  if severity <= len(_WATER):
    wet = _relief((drops * 255).astype(np.uint8))
    wet = wet / max(wet.max(), 1) * last
    return _truncated(x + wet[..., None] * _WATER_COLOUR)
  mud = _smoothed((drops > least).astype(float)[..., None], last)
  mud = np.where(mud < 0.8, 0, mud)
  return _truncated(x * (1 - mud) + mud * _MUD_COLOUR)


def jpeg_compression(image: _Image, _: None, severity: int) -> _Image:
  """Saves the image as a JPEG of low quality.

  The pixels depend on Pillow's codec.
  """
  file = io.BytesIO()
  Image.fromarray(image).save(
      file, "JPEG", quality=_JPEG_QUALITY[severity - 1])
  return np.asarray(Image.open(file))


def _draw_shifts(generator, image, severity, pictures):
  del pictures
  _, reach, rounds = _GLASS[severity - 1]
  height, width = (max(side - 2 * reach, 0) for side in image.shape[:2])
  return generator.integers(-reach, reach, (rounds, height, width, 2))


def _draw_angle(generator, image, severity, pictures):
  del image, severity, pictures
  return generator.uniform(-45, 45)


def _draw_snow(generator, image, severity, pictures):
  del severity, pictures
  return (generator.standard_normal(image.shape[:2]),
          generator.uniform(-135, -45))


def _draw_noise(generator, image, severity, pictures):
  del severity, pictures
  return generator.standard_normal(image.shape[:2])


def _draw_ice(generator, image, severity, pictures):
  """A part of one of the pictures, which is enlarged where it is too small."""
  del severity
  picture = Image.fromarray(pictures[generator.integers(len(pictures))])
  height, width = image.shape[:2]
  scale = max(height / picture.height, width / picture.width)
  if scale > 1:
    picture = picture.resize(
        (math.ceil(picture.width * scale), math.ceil(picture.height * scale)),
        Image.Resampling.BICUBIC)
  top = generator.integers(picture.height - height + 1)
  left = generator.integers(picture.width - width + 1)
  return np.asarray(picture.crop((left, top, left + width, top + height)))


def _draw_nothing(generator, image, severity, pictures):
  del generator, image, severity, pictures


CORRUPTIONS = {
    "glass_blur": Corruption(_draw_shifts, glass_blur),
    "motion_blur": Corruption(_draw_angle, motion_blur),
    "snow": Corruption(_draw_snow, snow),
    "frost": Corruption(_draw_ice, frost),
    "spatter": Corruption(_draw_noise, spatter),
    "jpeg_compression": Corruption(_draw_nothing, jpeg_compression),
}


def _truncated(x):
  """From [0, 1] to 8 bits; not rounded, as in the released program."""
  return (np.clip(x, 0, 1) * 255).astype(np.uint8)


def _smoothed(x, sigma):
  """A Gaussian filter of the first two of three axes."""
  rows, columns = (on_device.blur_matrix(side, sigma, "edge", 4)
                   for side in x.shape[:2])
  return np.einsum("ij,kl,jlc->ikc", rows, columns, x, optimize=True)


def _sources(shape, reach, shifts):
  """The pixel that each one shows in the end, as positions in a flat image.

  Pixels are looked at one after the other, and show what the other one shows by
  then; so there are chains of them. All are followed at once, each step twice
  as far as the one before.
  """
  number = np.arange(math.prod(shape)).reshape(shape)
  rows, columns = (np.arange(side - reach, reach, -1) for side in shape)
  other = number[rows[:, None] + shifts[..., 1], columns + shifts[..., 0]]
  own = number[rows[:, None], columns]
  # An image beside the one that is looked at: what was there before.
  follow = np.arange(2 * number.size)
  follow[:number.size] += number.size
  looked = np.zeros(number.size, bool)
  looked[own] = True
  follow[own] = np.where(
      looked[other] & (other > own), other, other + number.size)
  while True:
    further = follow[follow]
    if np.array_equal(further, follow):
      return follow[:number.size] - number.size
    follow = further


def _streaked(x, radius, sigma, angle):
  """Averages along a line, as ImageMagick does; float [h w c].

  Source: MotionBlurImage of ImageMagick 6, with whole pixels as places.
  """
  weights = np.exp(-np.arange(2 * radius + 1)**2 / (2 * sigma**2))
  total = np.zeros(x.shape)
  down, right = math.sin(math.radians(angle)), math.cos(math.radians(angle))
  rows, columns = (np.arange(side) for side in x.shape[:2])
  for number, weight in enumerate(weights / weights.sum()):
    row, column = (
        np.clip(at + math.ceil(number * step - 0.5), 0, len(at) - 1)
        for at, step in ((rows, down), (columns, right)))
    total += weight * x[row[:, None], column]
  return total


def _relief(drops):
  """How much water shows at each place, from the depth of drops; float [h w].
  """
  depth = _sum_of_nine(_distance(_edges(drops))) // (9 << 16)
  depth = _equalized(depth.astype(np.uint8))
  # Slopes to the lower right are bright.
  slopes = np.clip(ndimage.correlate(
      depth.astype(int), np.array(_EMBOSS), mode="mirror"), 0, 255)
  return drops * np.round(_sum_of_nine(slopes) / 9)


def _sum_of_nine(x):
  return ndimage.correlate(x, np.ones((3, 3), int), mode="mirror")


def _edges(x):
  """Canny's edges, bool [h w], as OpenCV finds them in uint8."""
  x = np.pad(x.astype(int), 1, "edge")
  across = x[:, 2:] - x[:, :-2]
  down = x[2:] - x[:-2]
  dx = across[:-2] + 2 * across[1:-1] + across[2:]
  dy = down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]
  size = np.abs(dx) + np.abs(dy)
  around = np.pad(size, 1)
  at = lambda row, column: around[1 + row:around.shape[0] - 1 + row,
                                  1 + column:around.shape[1] - 1 + column]
  # The slope in three kinds: nearly flat, nearly upright, or between.
  flat = np.abs(dx) * _TANGENT
  upright = flat + (np.abs(dx) << (_TANGENT_BITS + 1))
  steep = np.abs(dy) << _TANGENT_BITS
  # Diagonals rise to the right where the signs agree, as rows count down.
  same = (dx ^ dy) >= 0
  before = np.where(same, at(-1, -1), at(-1, 1))
  after = np.where(same, at(1, 1), at(1, -1))
  highest = np.where(
      steep < flat, (size > at(0, -1)) & (size >= at(0, 1)), np.where(
          steep > upright, (size > at(-1, 0)) & (size >= at(1, 0)),
          (size > before) & (size > after)))
  weak = highest & (size > _EDGE_WEAK)
  labels, count = ndimage.label(weak, np.ones((3, 3)))
  strong = np.zeros(count + 1, bool)
  strong[labels[weak & (size > _EDGE_STRONG)]] = True
  strong[0] = False
  return strong[labels]


def _distance(edges):
  """Length of the shortest way to an edge in steps of OpenCV's 5 x 5 mask.

  In 2^-16 pixels; no more than `_FARTHEST`, and that where there is no edge.
  """
  beside, across, knight = _STEPS
  farthest = _FARTHEST << 16
  moves = [(row, column, length) for length, ways in (
      (beside, ((0, 1), (1, 0))), (across, ((1, 1), (1, -1))),
      (knight, ((1, 2), (2, 1), (1, -2), (2, -1)))) for row, column in ways]
  moves += [(-row, -column, length) for row, column, length in moves]
  found = np.where(edges, 0, farthest)
  height, width = edges.shape
  for _ in range(_FARTHEST):
    around = np.pad(found, 2, constant_values=farthest)
    found = np.minimum.reduce([found, *(
        around[2 + row:2 + row + height, 2 + column:2 + column + width] + length
        for row, column, length in moves)])
  return found


def _equalized(x):
  """Values spread evenly, as OpenCV's equalizeHist does."""
  counts = np.bincount(x.ravel(), minlength=256)
  first = int(np.flatnonzero(counts)[0])
  if counts[first] == x.size:
    return np.full_like(x, first)
  scale = np.float32(255 / (x.size - counts[first]))
  table = np.cumsum(counts) - counts[: first + 1].sum()
  table[:first + 1] = 0
  return np.clip(np.round(table * scale), 0, 255).astype(np.uint8)[x]
