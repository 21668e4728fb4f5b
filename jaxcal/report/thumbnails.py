"""Small images for a page, kept in a run's folder beside its predictions."""

import base64
from collections.abc import Callable, Iterable, Mapping
import io
import json
import os
import pathlib

import numpy as np

from jaxcal.report import per_image
from jaxcal.storage import atomic
from jaxcal.typing import UInt8

# Thumbnails as `data:` URIs, by image set and id.
Thumbnails = Mapping[str, Mapping[str, str]]
# From the name of a set and an id to the image, RGB.
Read = Callable[[str, str], UInt8[np.ndarray, "h w 3"]]

_FILE = "thumbnails.json"
_LONGER_SIDE = 96


def make(
    images: Mapping[str, Mapping[str, per_image.PerImage]], read: Read
) -> Thumbnails:
  """Thumbnails of the images that a page shows.

  Args:
    images: Predictions per image, by set and method.
    read: Function that reads an image. Those that are no longer to be read are
      left out.
  """
  return {data: dict(_made(data, (
      one.id for one in per_image.confident_mistakes(by_method)), read))
          for data, by_method in images.items()}


def save(folder: str | os.PathLike, thumbnails: Thumbnails) -> None:
  """Keeps thumbnails in a run's folder, as thumbnails.json."""
  atomic.write_whole(pathlib.Path(folder, _FILE),
                     json.dumps(thumbnails, indent=1).encode())


def saved(folder: str | os.PathLike) -> Thumbnails:
  """The thumbnails of a run; none where it has none.

  Raises:
    ValueError: The file is damaged.
  """
  path = pathlib.Path(folder, _FILE)
  if not path.exists():
    return {}
  try:
    found = {data: dict(by_id)
             for data, by_id in json.loads(path.read_text("utf-8")).items()}
    if not all(isinstance(image, str) and image.startswith("data:image/")
               for by_id in found.values() for image in by_id.values()):
      raise ValueError("an image is no `data:` URI")
    return found
  except (
      AttributeError, TypeError, ValueError, RecursionError) as error:
    raise ValueError(f"{path} is damaged ({error}); remove it: the page then "
                     "has no images") from error


def encode(image: UInt8[np.ndarray, "h w 3"]) -> str:
  """A JPEG of at most 96 x 96 pixels, as a `data:` URI."""
  from PIL import Image
  small = Image.fromarray(image)
  small.thumbnail((_LONGER_SIDE, _LONGER_SIDE))
  content = io.BytesIO()
  small.save(content, format="JPEG", quality=80)
  return "data:image/jpeg;base64," + base64.b64encode(
      content.getvalue()).decode()


def _made(data: str, ids: Iterable[str], read: Read):
  for one in ids:
    try:
      yield one, encode(read(data, one))
    except (OSError, ValueError):
      continue
