"""Labelled images in tars, as webdataset writes them.

  000123.jpg  000123.cls     a file with the label
  000124.jpg  000124.json    or {"label": 3}, or {"label": "cat"}

The tars are those of `pairs.webdataset`, with a class in place of a caption.
"""

import collections
from collections.abc import Sequence
import json
import os
import pathlib
from typing import BinaryIO

import numpy as np

from jaxcal.data import class_names as names_lib
from jaxcal.data import decoding
from jaxcal.data import image_set as image_sets
from jaxcal.data import pairs

NAMES_FILE = "classnames.txt"
_KEYS = ("cls", "label", "class", "class_name", "classname")
_PARTS = (*pairs.IMAGES, "cls", "json")
_MAX_BYTES = 2**20  # of what stands beside an image


def read(
    tars: str | os.PathLike, *, class_names: Sequence[str] | None = None
) -> image_sets.ImageSet:
  """The images in tars with the classes that stand beside them.

  The label of KEY.jpg (or jpeg, png, webp) is what KEY.cls says, or one of the
  keys cls, label, class, class_name and classname of KEY.json: a class name, or
  a position from 0.

  Args:
    tars: A folder of tars, a tar or a pattern, see `pairs.webdataset`.
    class_names: The names in label order. If None, the lines of classnames.txt
      beside the tars or in the folder above, or else the sorted labels, which
      must then be names.

  Returns:
    The images in the order of the tars; ids are the tar and the key, and
    the name is that of the folder that is common to all.

  Raises:
    FileNotFoundError: There is no such tar.
    ValueError: A tar is damaged, an image has no label or a label no image, or
      labels do not fit the class names.
  """
  paths = pairs.tar_paths(tars)
  root = pathlib.Path(os.path.commonpath([path.parent for path in paths]))
  ids, labels, places = [], [], []
  for path in paths:
    below = path.relative_to(root).as_posix()
    with path.open("rb") as file:
      for key, label, place in _labelled(file, path):
        ids.append(f"{below}/{key}")
        labels.append((ids[-1], label))
        places.append((path, *place))
  if not ids:
    raise ValueError(f"{os.fspath(tars)} has no labelled images; expected "
                     f"KEY.jpg with KEY.cls or KEY.json for each")
  names, numbers = names_lib.numbered(
      root, labels, class_names or _names_beside(root))

  def encoded(position):
    path, start, length = places[position]
    with path.open("rb", buffering=0) as file:
      file.seek(start)
      return file.read(length)

  found = image_sets.ImageSet(
      root.name, names, tuple(ids), np.array(numbers, np.int32),
      lambda position: decoding.decode_bytes(encoded(position), ids[position]),
      holder=lambda position: places[position][0], encoded=encoded)
  image_sets.check(found)
  return found


def _labelled(file: BinaryIO, path):
  """Key, label and place of each image in a tar."""
  skipped: collections.Counter[str] = collections.Counter()
  found = pairs.members(file, skipped, _PARTS)
  if skipped:
    raise ValueError(f"{path} is cut off or no plain tar, so images of it are "
                     "missing; bring it again")
  for key, parts in found.items():
    image = next((parts[part] for part in pairs.IMAGES if part in parts), None)
    label = _label(file, parts)
    if image is None or label is None:
      lacks = ("image" if image is None else
               "label (.cls, or .json with a label)")
      raise ValueError(f"{path} has no {lacks} for the key {key!r}; expected "
                       "both for every key")
    yield key, label, image


def _label(file, parts):
  """What stands beside an image as its class; None where nothing does."""
  for part in ("cls", "json"):
    if part in parts:
      start, length = parts[part]
      file.seek(start)
      content = file.read(min(length, _MAX_BYTES))
      label = _of_json(content) if part == "json" else _of_text(content)
      if label is not None:
        return label
  return None


def _of_text(content):
  try:
    return content.decode().strip() or None
  except UnicodeDecodeError:
    return None


def _of_json(content):
  try:
    about = json.loads(content)
  except (ValueError, RecursionError):
    return None
  if not isinstance(about, dict):
    return None
  label = next((about[key] for key in _KEYS if key in about), None)
  if isinstance(label, bool) or not isinstance(label, (int, str)):
    return None
  return str(label).strip() or None


def _names_beside(root):
  """Class names that lie beside the tars, or above them."""
  for folder in (root, root.parent):
    if (folder / NAMES_FILE).is_file():
      found = names_lib.read(folder / NAMES_FILE)
      if isinstance(found, dict):
        raise ValueError(f"{folder / NAMES_FILE} has tabs; expected one class "
                         "name per line, in label order")
      return found
  return None
