"""Lists of images and labels in text files, as DomainNet has them.

  clipart/aircraft_carrier/clipart_001_000018.jpg 0
"""

from collections.abc import Iterator, Sequence
import os
import pathlib

from jaxcal.data import class_names as names_lib
from jaxcal.data import image_set as image_sets
from jaxcal.data import sources
from jaxcal.data import text_files


def read(
    path: str | os.PathLike, *, class_names: Sequence[str] | None = None
) -> image_sets.ImageSet:
  """A list with a path and a label in every line.

  Args:
    path: The file. Paths start from its folder; its stem becomes the name of
      the set. A label is a position, from 0.
    class_names: The names in label order. If None, they are the folders of the
      images, of which each label has one; those of labels that the list lacks
      are taken from the other lists in the folder.

  Returns:
    The images in the order of the file.

  Raises:
    FileNotFoundError: The list or a listed file is missing.
    ValueError: A line is no path and label, a label has two folders or none, or
      a path is repeated; names the line.
  """
  path = pathlib.Path(path)
  rows = list(_rows(path))
  if not rows:
    raise ValueError(f"{path} lists no images; expected a path and a label in "
                     "every line.")
  if class_names is None:
    class_names = _folders(path, rows)
  names, labels = names_lib.numbered(
      path, [(f"line {line}", str(label)) for line, _, label in rows],
      class_names)
  return sources.listed_files(
      path.stem, names, [(image, label) for (_, image, _), label in zip(
          rows, labels)], path.parent)


def _rows(path) -> Iterator[tuple[int, str, int]]:
  """Number, path and label of each line."""
  for number, line in enumerate(text_files.read(path).splitlines(), start=1):
    if not line.strip():
      continue
    image, _, label = line.strip().rpartition(" ")
    if not image or not label.isdecimal() or len(label) > 9:
      raise ValueError(f"{path}, line {number}: expected the path of an image, "
                       f"a space and a label from 0, got {line!r:.200}")
    yield number, pathlib.PurePath(image.strip()).as_posix(), int(label)


def _folders(path, rows):
  """The folder of each label's images, the name of its class."""
  found = _named(path, rows, {})
  missing = set(range(max(found) + 1)) - set(found)
  for other in sorted(path.parent.glob("*.txt")) if missing else ():
    try:
      found = _named(other, list(_rows(other)), found)
    except ValueError:  # some other text
      continue
  missing = set(range(max(found) + 1)) - set(found)
  if missing:
    raise ValueError(
        f"{path} has no images of {len(missing)} labels, such as "
        f"{min(missing)}, and no list beside it names their classes; give the "
        "class names in label order (class_names, --config.data.class_names)")
  return [found[label] for label in range(len(found))]


def _named(path, rows, known):
  """The names of labels, with those that are known."""
  found = dict(known)
  for number, image, label in rows:
    name = names_lib.normalised(pathlib.PurePosixPath(image).parent.name)
    if not name or found.setdefault(label, name) != name:
      raise ValueError(
          f"{path}, line {number}: label {label} has images in "
          f"{found.get(label)!r} and in {name!r}, so that folders do not name "
          "the classes; give the names in label order (class_names, "
          "--config.data.class_names)")
  return found
