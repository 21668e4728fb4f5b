"""What lies at a path of one's own becomes an image set, by its layout.

A folder of images per class, a folder of domains, a list (.csv, .txt), parquet
files and labelled tars are told apart by what lies there, never by a guess
about labels.
"""

import os
import pathlib
from typing import NamedTuple

from jaxcal.data import cifar
from jaxcal.data import class_names as names_lib
from jaxcal.data import domains
from jaxcal.data import folders
from jaxcal.data import image_set as image_sets
from jaxcal.data import labelled_tars
from jaxcal.data import parquet_files
from jaxcal.data import sources
from jaxcal.data import text_lists

_SUFFIXES = (".csv", ".txt", ".parquet", ".tar")


class Found(NamedTuple):
  """What lies at a path.

  Attributes:
    images: The images.
    layout: Words on how they lie there.
  """

  images: image_sets.ImageSet
  layout: str


def read(
    path: str,
    *,
    split: str = "test",
    names_file: str | os.PathLike | None = None,
) -> Found | None:
  """The images at a path; None where neither a folder nor such a file is meant.

  Args:
    path: A folder; a file whose suffix is .csv, .txt, .parquet or .tar; or a
      pattern for tars.
    split: Split, where the layout has several: of parquet files.
    names_file: Text file with the class names, see `class_names.read`.

  Raises:
    FileNotFoundError: There is no such file, or no file that it lists.
    ImportError: A parquet file, and pyarrow is not installed.
    ValueError: What lies there cannot be read; says why.
  """
  names = None if names_file is None else names_lib.read(names_file)
  is_folder, suffix = os.path.isdir(path), suffix_of(path)
  if is_folder and _is_of_class_folders(path):
    return _folder(path, names)
  if not is_folder and suffix is None:
    return None
  if isinstance(names, dict):
    raise ValueError(f"{names_file} names class folders, which the list "
                     f"{path} has none of; write one class name per line")
  if is_folder:
    return (_parquet(path, split, names) if parquet_files.files_in(path) else
            _tars(path, names))
  if suffix == ".csv":
    return Found(sources.csv_file(path, class_names=names), "a list")
  if suffix == ".txt":
    return Found(text_lists.read(path, class_names=names),
                 "a list of paths and labels")
  if suffix == ".tar":
    return _tars(path, names)
  return _parquet(path, split, names)


def suffix_of(path: str) -> str | None:
  """The suffix of a file that `read` takes, in lower case; None of others."""
  suffix = os.path.splitext(path)[1].lower()
  return suffix if suffix in _SUFFIXES else None


def name_of(path: str) -> str:
  """What the images at a path are called."""
  if os.path.isdir(path) or suffix_of(path) is None:
    return folders.name_of(path)
  if suffix_of(path) != ".tar" or os.path.isfile(path):
    return pathlib.Path(path).stem
  folder = os.path.dirname(path)
  while set("*?[{") & set(os.path.basename(folder)):
    folder = os.path.dirname(folder)
  return folders.name_of(folder or ".")


def _is_of_class_folders(path):
  """Whether a folder has neither parquet files nor tars in place of images."""
  entries = folders.entries(path)
  return any(map(_has_images, entries)) or not (
      parquet_files.files_in(path) or
      any(entry.name.endswith(".tar") for entry in entries))


def _folder(path, class_names):
  """Folders of images, by class or by domain and class."""
  cifar.refuse_pickles(path)
  for number in (10, 100):
    if cifar.is_binary(path, number):
      raise ValueError(
          f"{path} is the binary version of CIFAR-{number}; name the set "
          f"cifar{number}, and the folder above it as the one that holds the "
          "benchmark sets (root, --config.data.root)")
  found = domains.names(path)
  if found:
    return Found(domains.read(path, class_names=class_names),
                 f"a folder for each domain ({', '.join(found)}) and class")
  return Found(sources.image_folder(path, class_names=class_names),
               "a folder for each class")


def _has_images(entry):
  return folders.is_folder(entry) and any(
      folders.is_image(one.name) for one in folders.entries(entry.path))


def _tars(path, class_names):
  images = labelled_tars.read(path, class_names=class_names)
  return Found(images._replace(name=name_of(path)), "tars with labels")


def _parquet(path, split, class_names):
  return Found(
      parquet_files.read(path, split=split, class_names=class_names),
      "parquet files")
