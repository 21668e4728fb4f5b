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
    raise ValueError(f"{path} names a folder twice; expected each once.")
  return names


def numbered(
    source: str | os.PathLike,
    labels: Sequence[tuple[str, str]],
    class_names: Sequence[str] | None = None,
) -> tuple[tuple[str, ...], list[int]]:
  """Labels as people write them, as positions in class names.

  A label is a class name, see `normalised`, or else a position, from 0.

  Args:
    source: What the labels are from, for messages.
    labels: Place of each label, for messages, and the label.
    class_names: Names in label order. If None, the distinct labels, normalised
      and sorted; they must then be names, and differ in more than upper and
      lower case.

  Returns:
    The class names, and a position among them for each label.

  Raises:
    ValueError: If labels are numbers or alike without class names, or a label
      is none of the names; names the place.
  """
  if class_names is None:
    class_names = sorted({normalised(label) for _, label in labels})
    if all(name.isdecimal() for name in class_names):
      raise ValueError(
          f"the labels of {source} are numbers (such as {class_names[0]!r}), "
          "which name no class; give the class names in label order "
          "(class_names, --config.data.class_names).")
    for names in alike(class_names):
      raise ValueError(
          f"{source} has the labels {' and '.join(map(repr, names))}, which "
          "differ in case or Unicode form alone: one class would become "
          f"{len(names)} with the same prompt. Write them alike, or give the "
          "class names in label order (class_names, --config.data.class_names)."
      )
  positions = collections.defaultdict(list)
  for position, name in enumerate(class_names):
    positions[normalised(name)].append(position)
  found = []
  for place, label in labels:
    try:
      found.append(_position(label, positions, len(class_names)))
    except ValueError as error:
      raise ValueError(f"{source}, {place}: {error}") from None
  return tuple(class_names), found


def _position(value, positions, num_classes):
  """The position of a class that is given by name or by position."""
  named = positions.get(normalised(value), [])
  if len(named) == 1:
    return named[0]
  if named:
    raise ValueError(
        f"{len(named)} classes are called {value!r}; give the position, one of "
        f"{named}."
    )
  position = value.strip()
  if position.isdecimal() and len(position) < 10 and (
      int(position) < num_classes):
    return int(position)
  raise ValueError(
      f"label {value!r:.200} is neither one of the {num_classes} class names "
      f"nor a position in [0, {num_classes})."
  )
