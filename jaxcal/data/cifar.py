"""CIFAR-10 and CIFAR-100 in the binary version of their authors.

The Python version is made of pickles, which run what they hold when they are
read; it is never read here, see `refuse_pickles`.
"""

import os
import pathlib
from typing import NamedTuple

import numpy as np

from jaxcal.data import image_set as image_sets
from jaxcal.data import text_files

SPLITS = ("train", "test")
_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE


class _Form(NamedTuple):
  """How a set is written.

  Attributes:
    files: Names of the files by split.
    names: Name of the file with the class names.
    label: Bytes in front of the pixels, of which the last one is the label.
    pickles: Names of some files of the Python version.
    archive: Name of the archive with the binary version.
  """

  files: dict[str, tuple[str, ...]]
  names: str
  label: int
  pickles: tuple[str, ...]
  archive: str


_FORMS = {
    10: _Form({"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
               "test": ("test_batch.bin",)},
              "batches.meta.txt", 1, ("data_batch_1", "test_batch"),
              "cifar-10-binary.tar.gz"),
    100: _Form({"train": ("train.bin",), "test": ("test.bin",)},
               "fine_label_names.txt", 2, ("train", "test", "meta"),
               "cifar-100-binary.tar.gz"),
}


def is_binary(folder: str | os.PathLike, num_classes: int) -> bool:
  """Whether a folder has a file of the binary version.

  Args:
    folder: Folder that may have one.
    num_classes: Number of classes of the set, 10 or 100.
  """
  return any(pathlib.Path(folder, name).is_file()
             for names in _FORMS[num_classes].files.values() for name in names)


def refuse_pickles(folder: str | os.PathLike) -> None:
  """Says what to fetch in place of the Python version.

  Raises:
    ValueError: The folder has the Python version and no binary one.
  """
  for num_classes, form in _FORMS.items():
    if is_binary(folder, num_classes):
      return
    found = [name for name in form.pickles
             if pathlib.Path(folder, name).is_file()]
    if len(found) > 1:
      raise ValueError(
          f"{folder} has the Python version of CIFAR-{num_classes} "
          f"({', '.join(found)}): pickles, which may run anything when they "
          f"are read and are not. Fetch the binary version, {form.archive} at "
          "https://www.cs.toronto.edu/~kriz/cifar.html, or write the images "
          "to a folder for each class")


def read(
    folder: str | os.PathLike, *, split: str, class_names: tuple[str, ...]
) -> image_sets.ImageSet:
  """A split of the binary version.

  Args:
    folder: Folder of the .bin files.
    split: One of `SPLITS`.
    class_names: The 10 or 100 names in label order, where the file with them
      is not there.

  Returns:
    The images in their order; ids are such as `test_batch.bin/00042`.

  Raises:
    FileNotFoundError: A file is missing; names it.
    ValueError: A file is cut off or of another kind, or the split is unknown.
  """
  if split not in SPLITS:
    raise ValueError(f"unknown split {split!r}; choose from: "
                     f"{', '.join(SPLITS)}.")
  folder, form = pathlib.Path(folder), _FORMS[len(class_names)]
  ids: list[str] = []
  labels, places = [], []
  for name in form.files[split]:
    found = _labels(folder / name, form.label, len(class_names))
    ids += [f"{name}/{row:05}" for row in range(len(found))]
    places += [(folder / name, row) for row in range(len(found))]
    labels.append(found)
  image_set = image_sets.ImageSet(
      f"cifar{len(class_names)}", _names(folder / form.names, class_names),
      tuple(ids), np.concatenate(labels).astype(np.int32),
      lambda position: _pixels(*places[position], form.label),
      holder=lambda position: places[position][0])
  image_sets.check(image_set)
  return image_set


def _labels(path, start, num_classes):
  """The labels of a file, by which it is known to be one of the set."""
  if not path.is_file():
    raise FileNotFoundError(
        f"no file {path}; take it from {_FORMS[num_classes].archive} again")
  size, step = path.stat().st_size, start + _PIXELS
  if not size or size % step:
    raise ValueError(
        f"{path} has {size:,} bytes, expected a multiple of {step:,}, one "
        f"record of CIFAR-{num_classes} each; it is cut off or another file: "
        f"take it from {_FORMS[num_classes].archive} again")
  labels = np.memmap(path, np.uint8, "r").reshape(-1, step)[:, start - 1]
  if labels.max() >= num_classes:
    raise ValueError(
        f"{path} has the label {labels.max()}, expected less than "
        f"{num_classes}; it is damaged or another file: take it from "
        f"{_FORMS[num_classes].archive} again")
  return np.array(labels)


def _pixels(path, row, start):
  with path.open("rb", buffering=0) as file:
    file.seek(row * (start + _PIXELS) + start)
    content = file.read(_PIXELS)
  if len(content) < _PIXELS:
    raise ValueError(f"{path} was cut off meanwhile; it has no image {row}")
  planes = np.frombuffer(content, np.uint8).reshape(3, _SIDE, _SIDE)
  return np.ascontiguousarray(planes.transpose(1, 2, 0))


def _names(path, class_names):
  """What the authors' list says; the given names where it is not there."""
  if not path.is_file():
    return class_names
  lines = text_files.read(path).splitlines()
  return tuple(line.strip() for line in lines if line.strip())
