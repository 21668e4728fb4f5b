"""What classes are called: one spelling, names that are one, files of names."""

import collections
from collections.abc import Sequence
import os
import unicodedata

from jaxcal.data import text_files


def normalised(folder_or_label: str) -> str:
  """A name with spaces for "_", one where there are several, accents in NFC."""
  text = unicodedata.normalize("NFC", folder_or_label.replace("_", " "))
  return " ".join(text.split())


def alike(class_names: Sequence[str]) -> list[tuple[str, ...]]:
  """Names of several classes that are one to a model or to a reader.

  Args:
    class_names: Names in label order.

  Returns:
    Those that are equal but for upper and lower case, the number of spaces, the
    Unicode form of their letters and marks that nobody sees, together.
  """
  groups = collections.defaultdict(list)
  for name in class_names:
    seen = "".join(letter for letter in unicodedata.normalize("NFKC", name)
                   if unicodedata.category(letter) != "Cf")
    groups[normalised(seen).casefold()].append(name)
  return [tuple(names) for names in groups.values() if len(names) > 1]


def read(path: str | os.PathLike) -> tuple[str, ...] | dict[str, str]:
  """Class names in label order from a text file, one per line.

  Args:
    path: The file, see `text_files.read`. Lines hold either a name each, or
      each the name of a class folder, a tab and a name.

  Returns:
    The names, or the mapping from folder to name, as `sources.image_folder`
    takes them.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If it is empty, a line is blank, only some lines have a tab, or
      a folder is named twice.
  """
  lines = text_files.read(path).splitlines()
  if not lines:
    raise ValueError(f"{path} is empty; expected one class name per line.")
  pairs = [[part.strip() for part in line.split("\t")] for line in lines]
  width = len(pairs[0])
  for number, pair in enumerate(pairs, start=1):
    if len(pair) != width or width > 2 or not all(pair):
      raise ValueError(
          f"{path}, line {number}: expected a class name, or in every line a "
          f"folder, a tab and a class name, got {lines[number - 1]!r}."
      )
  if width == 1:
    return tuple(name for name, in pairs)
  names = dict(pairs)
  if len(names) < len(pairs):
    raise ValueError(f"{path} names a folder twice.")
  return names
