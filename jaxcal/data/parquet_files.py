"""Labelled images in parquet files, as `datasets` of Hugging Face writes them.

  FOLDER/README.md                               names of the classes
  FOLDER/data/test-00000-of-00001.parquet        image: bytes; label: number

Nothing is downloaded, and no code of the data set runs.
"""

import bisect
from collections.abc import Mapping, Sequence
import functools
import json
import os
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np

from jaxcal.data import class_names as names_lib
from jaxcal.data import decoding
from jaxcal.data import image_set as image_sets
from jaxcal.data import text_files

_IMAGES = ("image", "img", "jpg", "png", "webp")
_LABELS = ("label", "labels", "cls", "class", "fine_label")
# Other names of our splits.
_ALSO = {"val": ("validation", "valid"), "validation": ("val", "valid")}
_GROUPS = 4  # row groups that are kept in memory


class _Columns(NamedTuple):
  """What columns of a file are called.

  Attributes:
    image: Name of the column with the images.
    label: Name of the column with the labels.
    names: Class names in label order, where the schema says them.
  """

  image: str
  label: str
  names: tuple[str, ...] | None


def files_in(folder: str | os.PathLike) -> list[pathlib.Path]:
  """The parquet files in a folder, and in those below it; sorted."""
  root = pathlib.Path(folder)
  return sorted(path for pattern in ("*.parquet", "*/*.parquet")
                for path in root.glob(pattern)
                if path.is_file() and not path.name.startswith("."))


def read(
    path: str | os.PathLike,
    *,
    split: str = "test",
    class_names: Sequence[str] | None = None,
) -> image_sets.ImageSet:
  """The images of a parquet file, or of one split in a folder of such files.

  Args:
    path: A file, or a folder as `datasets` lays it out. Its name becomes the
      name of the set.
    split: Split in a folder: the beginning of the files' names, or their
      folder.
    class_names: The names in label order. If None, those in the schema or in
      README.md, or else the sorted labels, which must then be names.

  Returns:
    The images in the order of the files; ids are the file and the row.

  Raises:
    FileNotFoundError: There is no such file or split; lists the splits.
    ImportError: pyarrow is not installed.
    ValueError: A file is damaged, has no images or no labels, or the class
      names are not known.
  """
  path = pathlib.Path(path)
  root = path if path.is_dir() else path.parent
  files = _of_split(path, split) if path.is_dir() else [path]
  columns = _columns(files[0], _schema(files[0]))
  labels, rows = [], []
  for file in files:
    _check_schema(file, columns)
    below = file.relative_to(root).as_posix()
    for row, label in enumerate(_labels(file, columns.label)):
      labels.append((f"{below}/{row:06}", label))
      rows.append((file, row))
  if not rows:
    raise ValueError(f"{path} has no images.")
  names, numbers = names_lib.numbered(
      path, labels, class_names or columns.names or _of_readme(
          (root, root.parent), columns.label))
  reader = functools.lru_cache(_GROUPS)(
      lambda file, group: _group(file, group, columns.image))
  places = [_Place(file) for file in files]
  of_file = dict(zip(files, places))

  def encoded(position):
    file, row = rows[position]
    group, offset = of_file[file].of(row)
    cells = reader(file, group)
    if offset >= len(cells):
      raise ValueError(f"{file} is damaged: its row group {group} has "
                       f"{len(cells)} rows, fewer than it says; bring it again")
    return _bytes_of(cells[offset], labels[position][0])

  found = image_sets.ImageSet(
      path.name if path.is_dir() else path.stem, names,
      tuple(row_id for row_id, _ in labels), np.array(numbers, np.int32),
      lambda position: decoding.decode_bytes(
          encoded(position), labels[position][0]),
      holder=lambda position: rows[position][0], encoded=encoded)
  image_sets.check(found)
  return found


class _Place:
  """Row group and place in it of each row of a file."""

  def __init__(self, file: pathlib.Path):
    about = _open(file).metadata
    self._ends: list[int] = []
    for group in range(about.num_row_groups):
      before = self._ends[-1] if self._ends else 0
      self._ends.append(before + about.row_group(group).num_rows)

  def of(self, row: int) -> tuple[int, int]:
    """Group and place of a row."""
    group = bisect.bisect_right(self._ends, row)
    return group, row - (self._ends[group - 1] if group else 0)


def _of_split(folder, split):
  """The files of a split."""
  found = files_in(folder)
  if not found:
    raise FileNotFoundError(f"no .parquet file in {folder}")
  of: dict[str | None, list[pathlib.Path]] = {}
  for path in found:
    of.setdefault(_split_of(path), []).append(path)
  for name in (split, *_ALSO.get(split, ())):
    if name in of:
      return of[name]
  if set(of) == {None}:
    return of[None]
  raise FileNotFoundError(
      f"{folder} has no split {split!r}; choose from: "
      f"{', '.join(sorted(name for name in of if name))} (split, "
      "--config.data.split)")


def _split_of(path):
  """`test` of test-00000-of-00001.parquet and test/0000.parquet."""
  stem = re.fullmatch(r"(\w+?)-\d+-of-\d+(-\w+)?", path.stem)
  if stem:
    return stem[1]
  if re.fullmatch(r"(part-)?\d+", path.stem):
    return path.parent.name
  return path.stem if path.stem in (
      "train", "test", "val", "valid", "validation") else None


def _open(path):
  try:
    import pyarrow
    from pyarrow import parquet
  except ImportError as error:
    raise ImportError(
        f"{path} needs pyarrow, which is not installed: pip install "
        "'jaxcal[parquet]'") from error
  try:
    return parquet.ParquetFile(path)
  except (OSError, ValueError, pyarrow.ArrowException) as error:
    raise ValueError(f"{path} is no whole .parquet: {error}; bring it again"
                     ) from error


def _schema(path):
  return _open(path).schema_arrow


def _columns(path, schema):
  """The columns with images and labels."""
  features = _features(schema.metadata or {})
  kind = lambda name: features.get(name, {}).get("_type")
  image = next((name for name in schema.names if kind(name) == "Image"), None)
  label = next((name for name in schema.names
                if kind(name) == "ClassLabel"), None)
  image = image or next((name for name in _IMAGES if name in schema.names),
                        None)
  label = label or next((name for name in _LABELS if name in schema.names),
                        None)
  if image is None or label is None:
    raise ValueError(
        f"{path} has the columns {', '.join(schema.names)}; expected one with "
        f"images ({', '.join(_IMAGES)}) and one with labels "
        f"({', '.join(_LABELS)})")
  names = features.get(label, {}).get("names")
  sound = isinstance(names, list) and names and all(
      isinstance(name, str) for name in names)
  return _Columns(image, label, tuple(names) if sound else None)


def _features(metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
  """What `datasets` says of the columns in a file's schema."""
  try:
    found = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
    return {name: about for name, about in found.items()
            if isinstance(about, dict)}
  except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
    return {}


def _check_schema(path, columns):
  """Refuses a file of a split that has other columns than the first one."""
  found = _columns(path, _schema(path))
  if found != columns:
    raise ValueError(f"{path} has other columns or class names than the first "
                     f"file of its split: {found}, not {columns}")


def _labels(path, column) -> list[str]:
  """The labels of a file as texts."""
  values = _pylist(path, lambda file: file.read(columns=[column]), column)
  for row, value in enumerate(values):
    if isinstance(value, bool) or not isinstance(value, (int, str)) or (
        isinstance(value, int) and value < 0):
      raise ValueError(f"{path}, row {row}: the label is {value!r}, expected a "
                       "class name or a position from 0 (is it a split "
                       "without labels?)")
  return [str(value) for value in values]


def _group(path, group, column):
  """The cells of a row group."""
  return _pylist(
      path, lambda file: file.read_row_group(group, columns=[column]), column)


def _pylist(path, take, column):
  import pyarrow
  try:
    return take(_open(path)).column(column).to_pylist()
  except (OSError, ValueError, pyarrow.ArrowException) as error:
    raise ValueError(f"{path} is damaged: {error}; bring it again") from error


def _bytes_of(cell, name):
  """What would be an image's file, from a cell."""
  content = cell.get("bytes") if isinstance(cell, dict) else cell
  if not isinstance(content, bytes):
    where = f" but the path {cell.get('path')!r}" if isinstance(
        cell, dict) and cell.get("path") else ""
    raise ValueError(f"{name} has no bytes{where}; write the data set with "
                     "its images embedded (push_to_hub and to_parquet do so)")
  return content


def _of_readme(folders, label) -> tuple[str, ...] | None:
  """Class names of a column in the head of a README.md, if it has them."""
  for folder in folders:
    if not (folder / "README.md").is_file():
      continue
    lines = text_files.read(folder / "README.md").splitlines()
    found: dict[int, str] = {}
    column = None
    for line in lines:
      named = re.fullmatch(r"\s*- name: *(\S+) *", line)
      value = re.fullmatch(r"\s+['\"]?(\d{1,6})['\"]?: *(.+?) *", line)
      if named:
        if found:
          break
        column = named[1]
      elif value and column == label:
        name = value[2]
        if name[0] == name[-1] and name[0] in "'\"" and len(name) > 1:
          name = name[1:-1]
        found[int(value[1])] = name
    if found and sorted(found) == list(range(len(found))):
      return tuple(found[number] for number in range(len(found)))
  return None
