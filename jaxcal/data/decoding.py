"""An image file becomes pixels, and its header tells beforehand if it can."""

import io
import os
import pathlib
import stat

import numpy as np
import PIL
from PIL import Image

from jaxcal.data import views
from jaxcal.typing import UInt8

IMAGE_SUFFIXES = (
    ".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"
)
# Programs that draw, which Pillow would have another program run.
_PROGRAMS = ("EPS", "WMF")
_KINDS = (
    (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def decode(path: str | os.PathLike) -> UInt8[np.ndarray, "h w 3"]:
  """An image file as red, green and blue.

  Grey and palette images and CMYK are converted as Pillow does it; of animated
  files the first frame is taken; transparency is dropped, not laid over a
  colour. The orientation noted by a camera (EXIF) is not applied. These are the
  ways of the loaders that CLIP and the test-time tuning codes were released
  with.

  Differs from the released code in: 16-bit grey values keep their upper 8 bits;
  Pillow's conversion cuts them at 255, which leaves an almost white image.

  Args:
    path: The file; its content, not its suffix, tells the format.

  Returns:
    uint8 [h w 3].

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If it is no file that ends (a FIFO, a device), is not an image,
      is cut off or damaged, is too large for Pillow to trust, or holds numbers
      without a known range (32-bit grey); names the file.
  """
  if not os.path.lexists(path):
    raise FileNotFoundError(f"no file {path}")
  return _decode(path, path)


def decode_bytes(encoded: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
  """What `decode` makes of a file, from the file's content.

  Args:
    encoded: The bytes of an image file.
    name: What errors call the image.

  Returns:
    uint8 [h w 3].

  Raises:
    ValueError: As `decode` does.
  """
  return _decode(io.BytesIO(encoded), name)


def check_header(file: str | os.PathLike | io.BufferedIOBase) -> None:
  """Refuses an image of which the header tells that it cannot be used.

  That is: what is no image or no file, what Pillow does not trust for its size,
  what `views` can make no views of, what `decode` refuses for its kind. Damage
  behind the header, as in a file that was cut off, is found by decoding alone.

  Args:
    file: The path, which is not opened unless a regular file lies there, or an
      open file, such as an `io.BytesIO` of a file's content.

  Raises:
    OSError: If there is no such file, or it cannot be opened.
    ValueError: If the image cannot be used; says why, and names no file.
  """
  with _opened(file) as image:
    width, height = image.size
    views.canvas_shape(height, width)
    _check_kind(image)


def _check_is_file(path):
  """Refuses what is not a regular file: opening it may wait for ever."""
  try:
    mode = os.stat(path).st_mode
  except OSError:
    if not os.path.islink(path):
      raise
    raise ValueError(f"it is a link to {os.readlink(path)}, where no file can "
                     "be found") from None
  if not stat.S_ISREG(mode):
    kind = next((name for is_one, name in _KINDS if is_one(mode)), "special")
    raise ValueError(f"it is {kind}, not a file")


def _decode(file, name):
  try:
    if not isinstance(file, io.BytesIO):
      # From memory, where a length that a header lies about allocates nothing.
      _check_is_file(file)
      file = io.BytesIO(pathlib.Path(file).read_bytes())
    with _opened(file) as image:
      return np.asarray(_to_rgb(image))
  # What Pillow raises for damage depends on the format and on the damage: there
  # is hardly an error that it does not.
  except Exception as error:
    raise ValueError(
        f"cannot read {name} as an image: {str(error) or repr(error)}"
    ) from error


def _opened(file):
  """The image in a file, of which the header alone has been read."""
  if isinstance(file, (str, os.PathLike)):
    _check_is_file(file)
  try:
    image = Image.open(file)
  except PIL.UnidentifiedImageError:
    raise ValueError(
        "it is no image, or of a format that is not known here") from None
  except OSError:
    raise
  except Exception as error:  # as in `_decode`
    raise ValueError(str(error) or repr(error)) from error
  if image.format in _PROGRAMS:
    image.close()
    raise ValueError(f"it is a drawing ({image.format}), not pixels; save it "
                     "as PNG")
  return image


def _check_kind(image):
  """Refuses grey values without a known range."""
  # 16 bits of grey are mode "I" in PPM, and were in PNG before Pillow 10.2.
  if image.mode == "F" or (
      image.mode == "I" and image.format not in ("PNG", "PPM")):
    raise ValueError(
        f"32-bit grey values (mode {image.mode}) have no known range; save the "
        "image with 8 or 16 bits."
    )


def _to_rgb(image):
  """Converts a Pillow image; see `decode` for the rules."""
  _check_kind(image)
  if image.mode.startswith("I"):
    values = np.asarray(image).astype(np.uint16) >> 8
    return Image.fromarray(values.astype(np.uint8)).convert("RGB")
  if image.mode == "P" and "transparency" in image.info:
    image = image.convert("RGBA")  # Straight to RGB, Pillow warns.
  return image.convert("RGB")
