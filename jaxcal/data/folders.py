"""Walks through folders as people have them, and as systems leave them.

No file is opened: what is no file that ends may wait for ever.
"""

from collections.abc import Collection
import functools
import os
import pathlib

from absl import logging

from jaxcal.data import decoding

# What archivers, file servers, file systems and Python leave between a user's
# own folders, in lower case.
_LEFT_BEHIND = frozenset((
    "#recycle", "#snapshot", "$recycle.bin", "@eadir", "@recycle", "__macosx",
    "__pycache__", "lost+found", "network trash folder", "recycler",
    "system volume information", "temporary items"))


@functools.lru_cache(maxsize=4096)  # folders have files of the same names
def is_left_behind(name: str) -> bool:
  """Whether a file or folder of this name is hidden or made by a system."""
  return name.startswith(".") or name.casefold() in _LEFT_BEHIND


@functools.lru_cache(maxsize=4096)
def is_image(name: str) -> bool:
  """Whether a file is called like one of those that are read as images."""
  return pathlib.PurePath(name).suffix.lower() in decoding.IMAGE_SUFFIXES


def entries(
    folder: str | os.PathLike[str], keep: Collection[str] = ()
) -> list[os.DirEntry[str]]:
  """What lies in a folder, sorted by name, without what systems leave behind.

  Args:
    folder: The folder.
    keep: Names that stay whatever they are.

  Raises:
    OSError: If it cannot be listed; names it.
  """
  with os.scandir(folder) as found:
    kept = [entry for entry in found
            if entry.name in keep or not is_left_behind(entry.name)]
  return sorted(kept, key=lambda entry: entry.name)


def is_folder(entry: os.DirEntry[str]) -> bool:
  """Whether an entry is a folder or a link to one; no for links in a circle."""
  try:
    return entry.is_dir()
  except OSError:
    return False


def is_broken_link(entry: os.DirEntry[str]) -> bool:
  """Whether an entry is a link that leads nowhere."""
  return entry.is_symlink() and not os.path.exists(entry.path)


def class_folders(
    root: str | os.PathLike[str], keep: Collection[str] = ()) -> list[str]:
  """Names of the sub-folders that are classes, in label order.

  They are sorted by name, or by number where all names are numbers (so that
  folder "10" follows "9"). Links without an end are told in the log.

  Args:
    root: The folder that has one folder of images per class.
    keep: Names of class folders that are called like those that systems leave
      behind.

  Raises:
    ValueError: If images lie outside of the sub-folders, or there are none.
    OSError: If the folder cannot be listed; names it.
  """
  found = entries(root, keep)
  for entry in found:
    if not is_folder(entry) and is_image(entry.name):
      raise ValueError(
          f"{entry.path} lies outside any class folder; expected a folder of "
          f"images per class below {root}, or a list of the images in a CSV "
          "file.")
    if is_broken_link(entry):
      logging.warning(
          "%s is a link to %s, where nothing can be found; if it was a folder "
          "of images, its class is missing.", entry.path,
          os.readlink(entry.path))
  names = [entry.name for entry in found if is_folder(entry)]
  if not names:
    raise ValueError(
        f"{root} has no sub-folders; expected one folder of images per class.")
  if all(name.isdecimal() for name in names):
    names.sort(key=int)
  return names


def image_names(folder: str | os.PathLike[str]) -> list[str]:
  """Names of the images in a class folder, by their suffix, sorted.

  Among them is what is no file (a FIFO, a link without an end), which
  `decoding.check_header` refuses. Files of other suffixes are left out, with a
  warning in the log.

  Args:
    folder: The folder.

  Raises:
    ValueError: If there are folders in it.
    OSError: If it cannot be listed; names it.
  """
  found = entries(folder)
  for entry in found:
    if is_folder(entry):
      raise ValueError(
          f"{entry.path} is a folder inside a class folder; expected images "
          f"only. Is {folder} rather the root, with one folder per class?")
  names = [entry.name for entry in found if is_image(entry.name)]
  if len(names) < len(found):
    logging.warning(
        "%s: left out %d files that are no images by their suffix.", folder,
        len(found) - len(names))
  if not names:
    logging.warning("%s has no images; its class stays a candidate.", folder)
  return names


def name_of(root: str | os.PathLike[str]) -> str:
  """What the set in a folder is called, where this is '.' or '..', too."""
  path = pathlib.Path(root).absolute()
  # A link to a folder is called as its maker wanted.
  return path.resolve().name if path.name == ".." else path.name


def existing(path: str | os.PathLike[str]) -> pathlib.Path:
  """The path of a folder that is there; raises FileNotFoundError if not."""
  if not os.path.isdir(path):
    raise FileNotFoundError(f"no folder {path}")
  return pathlib.Path(path)
