"""From a decoded image to what the image tower reads, as a checkpoint says.

Resizing and cropping happen where images are decoded, normalising on the
device; this module only carries the numbers and does the latter.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax.numpy as jnp

from jaxcal.clip import sizes
from jaxcal.compiled import compiled_with
from jaxcal.typing import AnyArray
from jaxcal.typing import Array
from jaxcal.typing import DTypeLike
from jaxcal.typing import Float
from jaxcal.typing import UInt8

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# Pillow's numbers, which image processors store.
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


@dataclasses.dataclass(frozen=True)
class Preprocess:
  """How an image of any size becomes the model's input.

  Attributes:
    resize: Length of the shorter edge, or (height, width) exactly.
    crop: Side of the central square that is kept; the model's image size.
    resample: Filter, "nearest", "bilinear", "bicubic" or "lanczos", as Pillow
      has them.
    mean: Mean of each channel, of pixels in [0, 1]; subtracted.
    std: Standard deviation of each channel; divided by.
    offset: Where the crop begins if the margin is odd: "floor" as Hugging
      Face's image processor has it, "round" as torchvision and so OpenCLIP.
  """

  resize: int | tuple[int, int]
  crop: int
  resample: str = "bicubic"
  mean: tuple[float, float, float] = CLIP_MEAN
  std: tuple[float, float, float] = CLIP_STD
  offset: str = "floor"

  def __post_init__(self):
    if self.resample not in _RESAMPLE.values():
      raise ValueError(f"unknown filter {self.resample!r}; choose from: "
                       f"{', '.join(sorted(_RESAMPLE.values()))}.")
    sizes.three(self.mean, "the mean of pixels")
    sizes.three(self.std, "the standard deviation of pixels", above=0)
    edges = self.resize if isinstance(self.resize, tuple) else (self.resize,)
    for side in (*edges, self.crop):
      sizes.whole(side, "a side of images")


@compiled_with("mean", "std", "dtype")
def normalise_pixels(
    pixels: UInt8[AnyArray, "*n s s 3"],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "*n s s 3"]:
  """Pixels in [0, 1], minus `mean`, divided by `std`, channel by channel.

  Raises:
    TypeError: If the pixels are not uint8; normalised pixels go to the
      functions of `towers` directly.
  """
  pixels = jnp.asarray(pixels)
  if pixels.dtype != jnp.uint8:
    raise TypeError(
        f"uint8 pixels expected, but {pixels.dtype=}. Pixels that are already "
        "normalised go to towers.image_features or towers.pooled_image.")
  return standardise(pixels, mean, std, dtype)


def standardise(
    pixels: Array,
    mean: tuple[float, float, float] | Float[Array, "3"],
    std: tuple[float, float, float] | Float[Array, "3"],
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "*n s s 3"]:
  """As `normalise_pixels`, also for values in [0, 255] between whole ones.

  A mixture of views is not rounded to pixels.
  """
  per_channel = (1,) * (pixels.ndim - 1) + (3,)
  middle = jnp.asarray(mean, dtype).reshape(per_channel)
  spread = jnp.asarray(std, dtype).reshape(per_channel)
  return (pixels.astype(dtype) / 255 - middle) / spread


def from_image_processor(
    settings: Mapping[str, Any], image_size: int) -> Preprocess:
  """Reads the settings of Hugging Face's CLIP image processor.

  Sizes may be numbers, as in older files, or dictionaries. Absent keys mean
  what they mean to that processor; the absent size is the model's.

  Args:
    settings: Content of preprocessor_config.json.
    image_size: Side of the images that the model takes.

  Raises:
    ValueError: If images would not come out as squares of that side, or a
      setting is not known.
  """
  # Some files have null for what is off.
  flag = lambda name: settings.get(name, True) is not None and sizes.truth(
      settings.get(name, True), name)
  if not flag("do_resize"):
    raise ValueError("the image processor does not resize (do_resize is false),"
                     f" but the model takes only {image_size} x {image_size}")
  resize = made = _resize(settings.get("size", image_size))
  if flag("do_center_crop"):
    made = _crop(settings.get("crop_size", image_size))
  elif isinstance(resize, int):
    raise ValueError(
        "the image processor resizes the shorter edge and does not crop "
        "(do_center_crop is false), but the model takes only squares")
  if made != (image_size, image_size):
    raise ValueError(
        f"the image processor makes images of {made}, but the model takes "
        f"{image_size} x {image_size}")
  resample = settings.get("resample", 3)
  if not isinstance(resample, int) or resample not in _RESAMPLE:
    raise ValueError(f"unknown resampling number {resample!r}; choose from: "
                     f"{_RESAMPLE}.")
  mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
  if flag("do_normalize"):
    mean = sizes.three(settings.get("image_mean", CLIP_MEAN), "image_mean")
    std = sizes.three(
        settings.get("image_std", CLIP_STD), "image_std", above=0)
  # Our pixels are divided by 255; another factor moves into mean and deviation.
  factor = 255 * sizes.positive(
      settings.get("rescale_factor", 1 / 255), "rescale_factor")
  if not flag("do_rescale"):
    factor = 255
  if abs(factor - 1) > 1e-9:
    mean, std = _divided(mean, factor), _divided(std, factor)
  return Preprocess(resize, image_size, _RESAMPLE[resample], mean, std)


def _divided(values, factor):
  first, second, third = values
  return first / factor, second / factor, third / factor


def _resize(size):
  if isinstance(size, dict) and set(size) == {"shortest_edge"}:
    return sizes.whole(size["shortest_edge"], "size.shortest_edge")
  if isinstance(size, dict):
    return _height_and_width(size, "size")
  return sizes.whole(size, "size")


def _crop(size):
  if isinstance(size, dict):
    return _height_and_width(size, "crop_size")
  return (sizes.whole(size, "crop_size"),) * 2


def _height_and_width(size, name):
  if set(size) != {"height", "width"}:
    raise ValueError("a size of 'shortest_edge', or of 'height' and 'width', "
                     f"expected in the image processor, but {size=}")
  return tuple(sizes.whole(size[side], f"{name}.{side}")
               for side in ("height", "width"))
