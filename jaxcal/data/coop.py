"""Splits in the JSON files of the few-shot benchmark that CoOp introduced."""

from collections.abc import Sequence
import os
import pathlib

from jaxcal.data import image_set as image_sets
from jaxcal.data import sources
from jaxcal.data import text_files

_ENTRY = [str, int, str]
SPLITS = ("train", "val", "test")


def read(
    path: str | os.PathLike,
    root: str | os.PathLike,
    *,
    split: str = "test",
    partial: bool = False,
) -> image_sets.ImageSet:
  """The images of one split of a split file (`split_zhou_*.json`).

  The file holds under the keys train, val and test a list of [path below the
  image folder, label, class name] each. Class names are gathered from all three
  splits, so that a class without images in one of them stays a candidate.

  Args:
    path: The file. Its stem becomes the name of the set.
    root: The folder that the paths start from.
    split: One of `SPLITS`.
    partial: Whether to leave out listed images that are absent, with a warning
      in the log.

  Returns:
    The images in the order of the file; ids are the paths in it.

  Raises:
    FileNotFoundError: If the file, the folder, or (without `partial`) a listed
      image is absent.
    ValueError: If the file is not of that form, a label has two names, or the
      labels are not 0, 1, 2 and so on without a gap.

  Source: Zhou et al., Learning to Prompt for Vision-Language Models, IJCV 2022.
  Differs from the released code in: nothing is cached beside the data.
  """
  path = pathlib.Path(path)
  class_names, rows = entries(path, split)
  return sources.listed_files(
      path.stem, class_names, rows, root, partial=partial
  )


def entries(
    path: str | os.PathLike, split: str
) -> tuple[tuple[str, ...], Sequence[tuple[str, int]]]:
  """What a split file says: class names in label order, and (path, label).

  No image is looked for.

  Args:
    path: The file; see `read`.
    split: One of `SPLITS`.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: As `read` does.
  """
  path = pathlib.Path(path)
  if split not in SPLITS:
    raise ValueError(f"unknown split {split!r}; choose from: "
                     f"{', '.join(SPLITS)}.")
  lists = _lists(path)
  names: dict[int, str] = {}
  for _, label, name in (row for part in SPLITS for row in lists[part]):
    if names.setdefault(label, name) != name:
      raise ValueError(
          f"{path} calls label {label} both {names[label]!r} and {name!r}."
      )
  if sorted(names) != list(range(len(names))):
    missing = min(set(range(len(names))) - set(names))
    raise ValueError(
        f"{path} has {len(names)} labels from {min(names)} to {max(names)}, "
        f"but none is {missing}; expected 0, 1, 2 and so on without a gap."
    )
  if not lists[split]:
    raise ValueError(f"{path} lists no images under {split!r}; expected a list "
                     "of [path, label, class name].")
  class_names = tuple(names[label] for label in range(len(names)))
  return class_names, [(image, label) for image, label, _ in lists[split]]


def lists(path: str | os.PathLike) -> dict[str, list]:
  """The lists of a split file by split; their entries may be anything.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If it is not JSON, or no object of a list for each split.
  """
  found = text_files.read_json(path)
  if not isinstance(found, dict) or not set(SPLITS) <= set(found):
    keys = sorted(found) if isinstance(found, dict) else type(found).__name__
    raise ValueError(
        f"{path}: expected the keys {', '.join(SPLITS)}, found {keys}."
    )
  for split in SPLITS:
    if not isinstance(found[split], list):
      raise ValueError(f"{path}, {split}: expected a list of images, found a "
                       f"{type(found[split]).__name__}.")
  return {split: found[split] for split in SPLITS}


def odd_entries(rows: list) -> list[int]:
  """Where a list has something else than a path, a label and a class name."""
  return [number for number, row in enumerate(rows)
          if not isinstance(row, list) or list(map(type, row)) != _ENTRY]


def _lists(path):
  """The lists of the file by split, looked through."""
  found = lists(path)
  for split in SPLITS:
    for number in odd_entries(found[split]):
      raise ValueError(
          f"{path}, {split}, entry {number}: expected [path, label, class "
          f"name], found {found[split][number]!r}."
      )
  return found
