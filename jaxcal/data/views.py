"""The clean view and the random views of one image, by Pillow's geometry.

Views are uint8 and not normalised: the model's mean and standard deviation are
applied on the device. Every random view has a generator of its own, made from
the run's seed, the image's id and the view's number, so that a view depends
neither on the batch, the order or the thread it is made in nor on how many
other views there are.
"""

import hashlib
import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from jaxcal.typing import UInt8

_RESAMPLE = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_MAX_TRIES = 10


class Box(NamedTuple):
  """A part of an image, in pixels."""

  top: int
  left: int
  height: int
  width: int


def view_rng(seed: int, image_id: str, view: int) -> np.random.Generator:
  """The random generator of one view of one image.

  Args:
    seed: The run's seed.
    image_id: The image's id in its set.
    view: The view's number.

  Returns:
    A fresh generator, the same on every machine and in every process.
  """
  name = f"{seed}/{view}/{image_id}".encode("utf-8", "surrogateescape")
  digest = hashlib.sha256(name).digest()
  return np.random.default_rng(np.frombuffer(digest, "<u4"))


def random_box(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
  """A box of random area, aspect ratio and place inside an image.

  The area is uniform, the ratio log-uniform, the place uniform. A box that does
  not fit is drawn again, ten times at most; then the largest centred box of an
  allowed ratio is taken.

  Args:
    rng: The generator to draw from.
    height: Of the image, in pixels.
    width: Of the image, in pixels.
    area: Range of the box's share of the image, within (0, 1].
    ratio: Range of width / height, positive.

  Returns:
    A box of at least one pixel that lies inside the image. Sides are rounded to
    pixels, so small boxes may leave the ranges by a pixel.

  Raises:
    ValueError: if a range is empty or outside its bounds.

  References:
    Szegedy et al., Going deeper with convolutions, CVPR 2015, section 6.
    Defaults and tries as in torchvision's RandomResizedCrop, which the
    test-time tuning codes use. Differs from the released code in: the random
    numbers (numpy's generator, one per view, instead of one global stream).
  """
  if not 0 < area[0] <= area[1] <= 1:
    raise ValueError(f"expected 0 < low <= high <= 1, got {area=}.")
  if not 0 < ratio[0] <= ratio[1]:
    raise ValueError(f"expected 0 < low <= high, got {ratio=}.")
  for _ in range(_MAX_TRIES):
    box_area = height * width * rng.uniform(*area)
    box_ratio = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
    box_width = round(math.sqrt(box_area * box_ratio))
    box_height = round(math.sqrt(box_area / box_ratio))
    if 0 < box_width <= width and 0 < box_height <= height:
      top = int(rng.integers(height - box_height + 1))
      left = int(rng.integers(width - box_width + 1))
      return Box(top, left, box_height, box_width)
  return _centred_box(height, width, ratio)


def crop_resized(
    image: UInt8[np.ndarray, "h w 3"],
    box: Box,
    size: int,
    *,
    resample: str = "bilinear",
) -> UInt8[np.ndarray, "s s 3"]:
  """A box of an image, resized to a square with antialiasing.

  The box is cut out before resizing, so no pixel outside of it has a say; a
  resize that is merely told the box would let the filter look beyond its edges.

  Args:
    image: uint8 [h w 3].
    box: The part to show; it must lie inside the image.
    size: Side of the result, in pixels.
    resample: "nearest", "bilinear", "bicubic" or "lanczos", as Pillow has them.

  Returns:
    uint8 [size size 3].

  Raises:
    ValueError: if the image is not uint8 [h w 3], the box is empty or leaves
      it, or the filter is unknown.
  """
  _check_image(image)
  top, left, height, width = (int(edge) for edge in box)
  if (
      min(top, left) < 0 or min(height, width) < 1 or
      top + height > image.shape[0] or left + width > image.shape[1]
  ):
    raise ValueError(
        f"the box (top {top}, left {left}, height {height}, width {width}) is "
        f"not inside the image of {image.shape[0]} by {image.shape[1]} pixels."
    )
  part = image[top:top + height, left:left + width]
  return _resize(part, (size, size), resample)


def clean_view(
    image: UInt8[np.ndarray, "h w 3"],
    *,
    resize: int | tuple[int, int],
    crop: int,
    resample: str = "bicubic",
    offset: str = "round",
) -> UInt8[np.ndarray, "s s 3"]:
  """The image resized and cropped at its centre, without randomness.

  Args:
    image: uint8 [h w 3].
    resize: Length of the shorter edge, the longer one following rounded down;
      or (height, width) exactly.
    crop: Side of the central square. Where the resized image is smaller, it is
      padded with black.
    resample: "nearest", "bilinear", "bicubic" or "lanczos", as Pillow has them.
    offset: Where the crop starts if the margin is odd. "round" is half the
      margin rounded to even, as in torchvision and so in OpenAI's and the
      test-time tuning codes; "floor" is rounded down, as in Hugging Face's
      image processors. They differ by at most one pixel.

  Returns:
    uint8 [crop crop 3].

  Raises:
    ValueError: if the image is not uint8 [h w 3], a size is below 1, or the
      filter or the offset is unknown.
  """
  _check_image(image)
  if np.ndim(resize) == 0:
    height, width = image.shape[:2]
    short = min(height, width)
    target = (int(resize * height / short), int(resize * width / short))
  else:
    target = tuple(resize)
  return _centre_crop(_resize(image, target, resample), crop, offset)


def random_view(
    rng: np.random.Generator,
    image: UInt8[np.ndarray, "h w 3"],
    *,
    size: int,
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    resample: str = "bilinear",
    flip_probability: float = 0.5,
) -> UInt8[np.ndarray, "s s 3"]:
  """A random part of the image, resized and perhaps mirrored.

  Args:
    rng: The generator to draw from.
    image: uint8 [h w 3], the original and not its clean view.
    size: Side of the result, in pixels.
    area: See `random_box`.
    ratio: See `random_box`.
    resample: See `crop_resized`.
    flip_probability: How often left and right change places, in [0, 1].

  Returns:
    uint8 [size size 3].
  """
  _check_image(image)
  box = random_box(rng, *image.shape[:2], area=area, ratio=ratio)
  view = crop_resized(image, box, size, resample=resample)
  return view[:, ::-1] if rng.random() < flip_probability else view


def make_views(
    image: UInt8[np.ndarray, "h w 3"],
    image_id: str,
    *,
    seed: int,
    num_views: int,
    resize: int | tuple[int, int],
    crop: int,
    resample: str = "bicubic",
    offset: str = "round",
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    random_resample: str = "bilinear",
    flip_probability: float = 0.5,
) -> UInt8[np.ndarray, "v s s 3"]:
  """The clean view of an image, then random ones.

  Args:
    image: uint8 [h w 3].
    image_id: The image's id in its set.
    seed: The run's seed.
    num_views: How many views in all, at least 1.
    resize: Of the clean view, see `clean_view`.
    crop: Side of every view, in pixels.
    resample: Of the clean view.
    offset: Of the clean view.
    area: Of the random views, see `random_box`.
    ratio: Of the random views, see `random_box`.
    random_resample: Of the random views.
    flip_probability: Of the random views.

  Returns:
    uint8 [num_views crop crop 3]. View 0 is the clean one; view i is the same
    for every `num_views` above i.

  Raises:
    ValueError: if `num_views` is below 1, or for the reasons of `clean_view`
      and `random_box`.

  References:
    Shu et al., Test-Time Prompt Tuning, NeurIPS 2022: one clean and 63 random
    views, without AugMix. Differs from the released code in: the random
    numbers (see `random_box`).
  """
  if num_views < 1:
    raise ValueError(f"expected at least 1 view, got {num_views=}.")
  clean = clean_view(
      image, resize=resize, crop=crop, resample=resample, offset=offset
  )
  views = np.empty((num_views, crop, crop, 3), np.uint8)
  views[0] = clean
  for view in range(1, num_views):
    views[view] = random_view(
        view_rng(seed, image_id, view),
        image,
        size=crop,
        area=area,
        ratio=ratio,
        resample=random_resample,
        flip_probability=flip_probability,
    )
  return views


def _centred_box(height, width, ratio):
  """The largest centred box whose aspect ratio is within the range."""
  box_height, box_width = height, width
  if width / height < ratio[0]:
    box_height = max(1, round(width / ratio[0]))
  elif width / height > ratio[1]:
    box_width = max(1, round(height * ratio[1]))
  top, left = (height - box_height) // 2, (width - box_width) // 2
  return Box(top, left, box_height, box_width)


def _resize(image, size, resample):
  """Resizes to (height, width); Pillow counts the other way round."""
  if resample not in _RESAMPLE:
    raise ValueError(
        f"unknown filter {resample!r}; choose from: {', '.join(_RESAMPLE)}."
    )
  height, width = size
  if min(height, width) < 1:
    raise ValueError(f"cannot resize to {height} by {width} pixels.")
  resized = Image.fromarray(image).resize((width, height), _RESAMPLE[resample])
  return np.asarray(resized)


def _centre_crop(image, size, offset):
  """The central square, on black where the image does not reach."""
  if size < 1:
    raise ValueError(f"expected a crop of at least 1 pixel, got {size}.")
  result = np.zeros((size, size, 3), np.uint8)
  top, left = (_start(edge - size, offset) for edge in image.shape[:2])
  inside = image[max(top, 0):top + size, max(left, 0):left + size]
  height, width = inside.shape[:2]
  top, left = max(-top, 0), max(-left, 0)
  result[top:top + height, left:left + width] = inside
  return result


def _start(margin, offset):
  """First row or column of a centred crop; negative: so much padding first."""
  if offset == "floor":
    return margin // 2
  if offset == "round":
    # With padding, torchvision puts the odd pixel last, whatever its parity.
    return round(margin / 2) if margin >= 0 else -(-margin // 2)
  raise ValueError(f"unknown offset {offset!r}; choose from: floor, round.")


def _check_image(image):
  if (
      not isinstance(image, np.ndarray) or image.dtype != np.uint8 or
      image.ndim != 3 or image.shape[2] != 3 or not image.size
  ):
    raise ValueError(
        "expected an image as uint8 [h w 3], got "
        f"{getattr(image, 'dtype', type(image).__name__)} "
        f"{list(getattr(image, 'shape', []))}."
    )
