"""The views of one image, made on the device: crop, resize, mirror, AugMix.

Everything is a pure function of one image with static shapes; sizes and boxes
are traced integers, so that one compiled function serves all images on a canvas
of the same shape, and `jax.vmap` adds views and images.

Resizing follows Pillow: two passes with antialiasing, the horizontal one first,
with rounding to 8 bits in between. (From Pillow 13 on, some tall boxes get the
vertical pass first, which changes a part of their pixels by about 1/255.)

What happens to pixels is integer arithmetic throughout. Filter coefficients are
multiples of 2^-15, so that a sum of coefficients times pixels, in units of
2^-15, stays below 2^24: float32 holds every partial sum exactly, and matrix
products give the same result in whatever order a device adds. So a view does
not depend on the canvas around its image, on the batch or on how many devices
share the work.
"""

import dataclasses
import functools
import hashlib
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from jaxcal.compiled import compiled_with
from jaxcal.data import augmix
from jaxcal.typing import AnyArray
from jaxcal.typing import Array
from jaxcal.typing import Bool
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Key
from jaxcal.typing import UInt8
from jaxcal.typing import UInt32

# Pixels per filter unit to either side, before it is stretched to antialias.
_SUPPORT = {"nearest": 0, "bilinear": 1, "bicubic": 2, "lanczos": 3}
_OFFSETS = ("floor", "round")
_MAX_TRIES = 10
_NUM_RATIOS = 4096
# Bounds within which all sums of integers stay below 2^31.
_MAX_IMAGE_SIDE = 2**14
_MAX_LONG_BY_SHORT = 2**20
_COEFFICIENT_BITS = 15
# Resolution of tabulated filters: of the argument and of the value.
_ARGUMENT_BITS = 12
_VALUE_BITS = 14


class Box(NamedTuple):
  """A part of an image, in pixels."""

  top: int | Int[Array, ""]
  left: int | Int[Array, ""]
  height: int | Int[Array, ""]
  width: int | Int[Array, ""]


class Draw(NamedTuple):
  """All that is random about a view.

  Attributes:
    box: The part of the image that it shows.
    mirrored: bool, whether left and right change places.
    mix_key: What AugMix draws from, see `augmix.draw`.
  """

  box: Box
  mirrored: Bool[Array, ""]
  mix_key: Key[Array, ""]


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How the views of an image are made; hashable, so static under `jax.jit`.

  Attributes:
    size: Side of every view, in pixels, at most 1024.
    resize: Size of the clean view: length of the shorter edge, the longer one
      following rounded down; or (height, width) exactly; at most 1024.
    resample: Filter of the clean view: "nearest", "bilinear", "bicubic" or
      "lanczos", as Pillow has them.
    offset: Where the clean view's crop starts if the margin is odd. "round" is
      half the margin rounded to even, as in torchvision and so in OpenAI's and
      the test-time tuning codes; "floor" is rounded down, as in Hugging Face's
      image processors. They differ by at most one pixel.
    num_views: How many views in all: one clean view, then random ones.
    area: Area of the random views, see `random_box`.
    ratio: Ratio of the sides of the random views, see `random_box`.
    random_resample: Filter of the random views.
    flip_probability: How often left and right of a random view change places.
    augmix: Whether random views go through `augmix`.
  """

  size: int
  resize: int | tuple[int, int]
  resample: str = "bicubic"
  offset: str = "round"
  num_views: int = 64
  area: tuple[float, float] = (0.08, 1.0)
  ratio: tuple[float, float] = (3 / 4, 4 / 3)
  random_resample: str = "bilinear"
  flip_probability: float = 0.5
  augmix: bool = False

  def __post_init__(self):
    resize = self.resize if isinstance(self.resize, tuple) else (self.resize,)
    for name, sides in (("size", (self.size,)), ("resize", resize)):
      if not 1 <= min(sides) <= max(sides) <= augmix.MAX_SIDE:
        raise ValueError(
            f"expected {name} in [1, {augmix.MAX_SIDE}] pixels, got {sides}."
        )
    if self.num_views < 1:
      raise ValueError(f"expected at least 1 view, got {self.num_views=}.")
    for resample in (self.resample, self.random_resample):
      _check_choice("filter", resample, _SUPPORT)
    _check_choice("offset", self.offset, _OFFSETS)
    _check_ranges(self.area, self.ratio)
    if not 0 <= self.flip_probability <= 1:
      raise ValueError(
          f"expected {self.flip_probability=} to lie in [0, 1]."
      )


def canvas_shape(height: int, width: int) -> tuple[int, int]:
  """Shape of the canvas for an image: one of a few, to compile few programs.

  Args:
    height: Height of the image, in pixels.
    width: Width of the image, in pixels.

  Returns:
    Height and width of the canvas; each is the side rounded up to a power of
    two, or to three halves of one, 64 at least.

  Raises:
    ValueError: If the image is empty, has a side above 16384 pixels, or is so
      narrow that the square of the longer side is more than 2^20 times the
      shorter one.
  """
  short, long = sorted((height, width))
  too_narrow = long**2 > _MAX_LONG_BY_SHORT * short
  if short < 1 or long > _MAX_IMAGE_SIDE or too_narrow:
    raise ValueError(
        f"cannot make views of an image of {height} by {width} pixels; expected"
        f" sides from 1 to {_MAX_IMAGE_SIDE} that are not too unequal "
        f"(long * long <= {_MAX_LONG_BY_SHORT} * short)."
    )
  return _bucket(height), _bucket(width)


def on_canvas(
    image: UInt8[np.ndarray, "h w 3"], shape: tuple[int, int]
) -> UInt8[np.ndarray, "H W 3"]:
  """The image in the upper left corner of a black canvas; on the host.

  Args:
    image: uint8 [h w 3].
    shape: Height and width of the canvas.

  Returns:
    uint8 [H W 3].

  Raises:
    ValueError: If the image is not uint8 [h w 3] or does not fit.
  """
  check_image(image)
  height, width = image.shape[:2]
  if height > shape[0] or width > shape[1]:
    raise ValueError(
        f"an image of {height} by {width} pixels does not fit on a canvas of "
        f"{shape[0]} by {shape[1]}."
    )
  canvas = np.zeros((*shape, 3), np.uint8)
  canvas[:height, :width] = image
  return canvas


def check_image(image: UInt8[np.ndarray, "h w 3"]) -> None:
  """Raises ValueError if an image is not a nonempty uint8 [h w 3] array."""
  if (
      not isinstance(image, np.ndarray) or image.dtype != np.uint8 or
      image.ndim != 3 or image.shape[2] != 3 or not image.size
  ):
    raise ValueError(
        "expected an image as uint8 [h w 3], got "
        f"{getattr(image, 'dtype', type(image).__name__)} "
        f"{list(getattr(image, 'shape', []))}."
    )


def image_key(seed: int, image_id: str) -> UInt32[np.ndarray, "2"]:
  """What the random views of one image are drawn from; on the host.

  Args:
    seed: The run's seed.
    image_id: The image's id in its set.

  Returns:
    uint32 [2], the data of a threefry key; the same on every machine and in
    every process, whatever the position or the batch of the image.
  """
  name = f"{seed}/{image_id}".encode("utf-8", "surrogateescape")
  return np.frombuffer(hashlib.sha256(name).digest()[:8], "<u4")


_Side = int | Int[Array, ""]


@compiled_with("recipe")
def make_views(
    canvas: UInt8[AnyArray, "H W 3"],
    size: Int[AnyArray, "2"] | tuple[_Side, _Side],
    key: UInt32[AnyArray, "2"],
    recipe: Recipe,
) -> UInt8[Array, "v s s 3"] | Float[Array, "v s s 3"]:
  """The clean view of an image, then random ones.

  Args:
    canvas: uint8 [H W 3], the image in its upper left corner.
    size: int32 [2], height and width of the image.
    key: uint32 [2], from `image_key`. Each view folds in its number, so that
      it is the same for every number of views above it.
    recipe: What to make; static.

  Returns:
    [v s s 3]; view 0 is the clean one. uint8; with AugMix float32 pixel values
    in [0, 255], because mixtures are not rounded.

  Source: Shu et al., Test-Time Prompt Tuning, NeurIPS 2022: one clean and 63
  random views.
  Differs from the released code in: the random numbers (a key per image and
  view instead of global streams).
  """
  canvas, key = jnp.asarray(canvas), jnp.asarray(key)
  size = jnp.asarray(size, jnp.int32)
  clean = clean_view(
      canvas,
      size,
      resize=recipe.resize,
      crop=recipe.size,
      resample=recipe.resample,
      offset=recipe.offset,
  )
  dtype = jnp.float32 if recipe.augmix else jnp.uint8
  clean = clean[None].astype(dtype)
  if recipe.num_views == 1:
    return clean
  make = lambda draw: _random_view(canvas, draw, recipe)
  return jnp.concatenate([clean, jax.vmap(make)(draw(key, size, recipe))])


@compiled_with("recipe")
def draw(
    key: UInt32[Array, "2"], size: Int[Array, "2"], recipe: Recipe) -> Draw:
  """Draws the random views of an image: all views but the first.

  Args:
    key: uint32 [2], from `image_key`.
    size: int32 [2], height and width of the image.
    recipe: Recipe of the views; static.

  Returns:
    What `make_views` shows, with leading axes of `num_views` - 1.
  """
  base = jax.random.wrap_key_data(key, impl="threefry2x32")

  def one(view):
    box_key, flip_key, mix_key = jax.random.split(
        jax.random.fold_in(base, view), 3
    )
    box = random_box(
        box_key, size[0], size[1], area=recipe.area, ratio=recipe.ratio
    )
    mirrored = jax.random.bernoulli(
        flip_key, jnp.float32(recipe.flip_probability))
    return Draw(box, mirrored, mix_key)

  return jax.vmap(one)(jnp.arange(1, recipe.num_views))


def clean_view(
    canvas: UInt8[Array, "H W 3"],
    size: Int[Array, "2"],
    *,
    resize: int | tuple[int, int] | Int[Array, "2"],
    crop: int,
    resample: str = "bicubic",
    offset: str = "round",
) -> UInt8[Array, "s s 3"]:
  """The image resized and cropped at its centre, without randomness.

  Args:
    canvas: uint8 [H W 3], the image in its upper left corner.
    size: int32 [2], height and width of the image.
    resize: See `Recipe`.
    crop: Side of the central square. Where the resized image is smaller, it is
      padded with black.
    resample: See `Recipe`.
    offset: See `Recipe`.

  Returns:
    uint8 [crop crop 3].

  Raises:
    ValueError: If the filter or the offset is unknown.
  """
  size = jnp.asarray(size)
  target = resized(size, resize)
  first = crop_offset(target, crop, offset)
  vertical, horizontal = (
      _coefficients(
          0, size[axis], target[axis], first[axis], crop, canvas.shape[axis],
          resample,
      ) for axis in (0, 1)
  )
  return _resample(canvas, vertical, horizontal)


def resized(
    size: Int[AnyArray, "2"], resize: int | tuple[int, int] | Int[Array, "2"]
) -> Int[AnyArray, "2"]:
  """Height and width that an image of a size is resized to, see `Recipe`."""
  if np.ndim(resize) == 0:
    return resize * size // size.min()  # type: ignore[operator]
  return resize if isinstance(resize, jax.Array) else np.asarray(
      resize, np.int32)


def crop_offset(
    target: Int[AnyArray, "2"], crop: int, offset: str) -> Int[AnyArray, "2"]:
  """Where the central square of a resized image starts, perhaps outside of it.

  Args:
    target: Height and width of the resized image.
    crop: Side of the square.
    offset: See `Recipe`.

  Raises:
    ValueError: If the offset is unknown.
  """
  half = (target - crop) // 2
  if offset == "floor":
    return half
  _check_choice("offset", offset, _OFFSETS)
  # Halves go to the even side; but torchvision, which pads before it crops,
  # puts the odd pixel of padding last.
  odd = target - crop - 2 * half
  outside = target < crop
  return half + (outside * odd + ~outside * (odd & half))


@compiled_with("size", "resample")
def crop_resized(
    canvas: UInt8[Array, "H W 3"],
    box: Box,
    size: int,
    *,
    resample: str = "bilinear",
) -> UInt8[Array, "s s 3"]:
  """A box of an image, resized to a square with antialiasing.

  As if the box were cut out before resizing: no pixel outside of it has a say.

  Args:
    canvas: uint8 [H W 3].
    box: The part to show; it must lie inside the canvas and not be empty,
      which is not checked.
    size: Side of the result, in pixels.
    resample: Filter, "nearest", "bilinear", "bicubic" or "lanczos", as Pillow
      has them.

  Returns:
    uint8 [size size 3].

  Raises:
    ValueError: If the filter is unknown.
  """
  top, left, height, width = box
  vertical = _coefficients(
      top, height, size, 0, size, canvas.shape[0], resample
  )
  horizontal = _coefficients(
      left, width, size, 0, size, canvas.shape[1], resample
  )
  return _resample(canvas, vertical, horizontal)


@compiled_with("area", "ratio")
def random_box(
    key: Key[Array, ""],
    height: int | Int[Array, ""],
    width: int | Int[Array, ""],
    *,
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
  """A box of random area, aspect ratio and place inside an image.

  The area is uniform, the ratio log-uniform, the place uniform. A box that does
  not fit is drawn again, ten times at most; then the largest centred box of an
  allowed ratio is taken.

  Args:
    key: Random key to draw from.
    height: Height of the image, in pixels.
    width: Width of the image, in pixels.
    area: Range of the box's share of the image, within (0, 1].
    ratio: Range of width / height, positive.

  Returns:
    A box of at least one pixel that lies inside the image, of int32 scalars.
    Sides are rounded to pixels, so small boxes may leave the ranges by a pixel.

  Raises:
    ValueError: If a range is empty or outside its bounds.

  Source: Szegedy et al., Going deeper with convolutions, CVPR 2015, section 6.
  Defaults and tries as in torchvision's RandomResizedCrop, which the test-time
  tuning codes use.
  Differs from the released code in: the random numbers (a key per view instead
  of one global stream).
  """
  _check_ranges(area, ratio)
  height, width = jnp.int32(height), jnp.int32(width)
  # All tries at once; the first one that fits counts.
  # Of one type, or 64-bit mode would draw other numbers.
  draws = jax.random.uniform(
      key, (4 * _MAX_TRIES,), jnp.float32).reshape(4, -1)
  # Steps of 2^-20 of the area and 4096 ratios, finer than a pixel, so that no
  # sum or exponential is left that devices might round differently.
  low, high = (round(edge * 2**20) for edge in area)
  share = low + augmix.below(draws[0], high - low + 1)
  box_area = share.astype(jnp.float32) * (height * width) / 2**20
  stretches = jnp.asarray(_stretches(ratio))
  stretch = stretches[augmix.below(draws[1], _NUM_RATIOS)]
  box_height = jnp.round(jnp.sqrt(box_area) / stretch).astype(jnp.int32)
  box_width = jnp.round(jnp.sqrt(box_area) * stretch).astype(jnp.int32)
  top = augmix.below(draws[2], height - box_height + 1)
  left = augmix.below(draws[3], width - box_width + 1)
  fits = (
      (0 < box_height) & (box_height <= height) &
      (0 < box_width) & (box_width <= width)
  )
  first = jnp.argmax(fits)
  drawn = Box(*(edge[first] for edge in (top, left, box_height, box_width)))
  centred = _centred_box(height, width, ratio)
  return jax.tree.map(
      lambda *edges: jnp.where(jnp.any(fits), *edges), drawn, centred
  )


def flip(view: UInt8[Array, "s s 3"]) -> UInt8[Array, "s s 3"]:
  """The view with left and right exchanged."""
  return view[:, ::-1]


def finish(
    view: UInt8[Array, "s s 3"], draw: Draw, recipe: Recipe
) -> UInt8[Array, "s s 3"] | Float[Array, "s s 3"]:
  """A box that was cut out and resized, perhaps mirrored, perhaps mixed."""
  view = jnp.where(draw.mirrored, flip(view), view)
  return augmix.mix(draw.mix_key, view) if recipe.augmix else view


def _random_view(canvas, draw, recipe):
  """One random view: a box of the image, finished."""
  return finish(crop_resized(
      canvas, draw.box, recipe.size, resample=recipe.random_resample
  ), draw, recipe)


def _stretches(ratio):
  """Square roots of ratios, which are log-uniform in their range."""
  low, high = np.log(ratio)
  middle = (np.arange(_NUM_RATIOS) + 0.5) / _NUM_RATIOS
  return np.exp((low + middle * (high - low)) / 2).astype(np.float32)


def _centred_box(height, width, ratio):
  """The largest centred box whose aspect ratio is within the range."""
  wide, high = jnp.float32(width), jnp.float32(height)
  own = wide / high
  most_height = jnp.round(wide / ratio[0]).astype(jnp.int32)
  most_width = jnp.round(high * ratio[1]).astype(jnp.int32)
  box_height = jnp.where(own < ratio[0], jnp.maximum(most_height, 1), height)
  box_width = jnp.where(own > ratio[1], jnp.maximum(most_width, 1), width)
  top, left = (height - box_height) // 2, (width - box_width) // 2
  return Box(top, left, box_height, box_width)


def _coefficients(start, length, target, first, size, side, resample):
  """What each pixel along an axis of the canvas adds to each pixel of a view.

  The part [start, start + length) of the axis is resized to `target` pixels;
  of these, those of [first, first + size) are wanted. Pixels outside of the
  part have no say; wanted pixels outside of the target get nothing, so stay
  black.

  Args:
    start: First pixel of the part.
    length: Pixels of the part.
    target: Pixels that the part becomes.
    first: First wanted pixel, perhaps negative.
    size: How many pixels are wanted; static.
    side: Pixels of the canvas along the axis; static.
    resample: Name of the filter; static.

  Returns:
    float32 [size side], integers; 2^15 stands for one.
  """
  _check_choice("filter", resample, _SUPPORT)
  wanted = (first + jnp.arange(size))[:, None]
  source = (jnp.arange(side) - start)[None]
  # Distance of the pixels' centres, in units of 1 / (2 * target) source pixel.
  distance = (2 * source + 1) * target - (2 * wanted + 1) * length
  # Filters are stretched where the image shrinks; then one filter unit is as
  # long as a pixel of the view. In the same units:
  unit = 2 * jnp.maximum(length, target)
  inside = (
      (0 <= source) & (source < length) & (0 <= wanted) & (wanted < target)
  )
  weight = jnp.where(inside, _filter(distance, unit, target, resample), 0)
  total = jnp.maximum(jnp.sum(weight, axis=1, keepdims=True), 1)
  # Division cuts towards zero, so half a divisor away from it rounds.
  half = jnp.sign(weight) * (total // 2)
  total = jnp.broadcast_to(total, weight.shape)
  scaled = lax.div((weight << _COEFFICIENT_BITS) + half, total)
  return scaled.astype(jnp.float32)


def _filter(distance, unit, target, resample):
  """Filter weights in a common unit, as int32; see `_coefficients`."""
  if resample == "nearest":
    # The one source pixel that the wanted pixel's centre falls into.
    return ((-target < distance) & (distance <= target)).astype(jnp.int32)
  distance = jnp.minimum(jnp.abs(distance), _SUPPORT[resample] * unit)
  # Units of 2^15 at most; sides below 2^14 pixels are not touched by this.
  coarse = 1 + unit // 2**15
  distance, unit = distance // coarse, unit // coarse
  if resample == "bilinear":
    return unit - distance
  step = unit >> 1
  index = ((distance << (_ARGUMENT_BITS - 1)) + (step >> 1)) // step
  return jnp.asarray(_filter_table(resample))[index]


@functools.cache
def _filter_table(resample):
  """Values of a filter at 0, 2^-12, ..., support, in units of 2^-14."""
  count = (_SUPPORT[resample] << _ARGUMENT_BITS) + 1
  x = np.arange(count) / 2**_ARGUMENT_BITS
  if resample == "bicubic":
    # Cubic convolution with the slope -1/2 at the first zero.
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((2.5 - 0.5 * x) * x - 4) * x + 2
    values = np.where(x < 1, near, far)
  else:
    values = np.sinc(x) * np.sinc(x / 3)
  return np.round(values * 2**_VALUE_BITS).astype(np.int32)


def _resample(canvas, vertical, horizontal):
  """Both passes; see `_coefficients` for the matrices."""
  # Views share the planes, and both products contract the last axes.
  planes = jnp.moveaxis(canvas, 2, 0).astype(jnp.float32)
  rows = _rounded(jnp.einsum(
      "xw,chw->xch", horizontal, planes, precision=lax.Precision.HIGHEST
  ))
  return _rounded(jnp.einsum(
      "yh,xch->yxc", vertical, rows, precision=lax.Precision.HIGHEST
  )).astype(jnp.uint8)


def _rounded(total):
  """Sums in units of 2^-15 as pixel values; all steps are exact."""
  one = 2.0**_COEFFICIENT_BITS
  return jnp.clip(jnp.floor((total + one / 2) / one), 0, 255)


def _bucket(side):
  """The side rounded up to a power of two, or to three halves of one."""
  power = max(1 << (side - 1).bit_length(), 64)
  between = 3 * power // 4
  return between if 64 < between >= side else power


def _check_ranges(area, ratio):
  if not 0 < area[0] <= area[1] <= 1:
    raise ValueError(f"expected 0 < low <= high <= 1, got {area=}.")
  if not 0 < ratio[0] <= ratio[1]:
    raise ValueError(f"expected 0 < low <= high, got {ratio=}.")


def _check_choice(kind, name, choices):
  if name not in choices:
    raise ValueError(
        f"unknown {kind} {name!r}; choose from: {', '.join(sorted(choices))}."
    )
