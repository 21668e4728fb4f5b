"""Folders and lists of image files become image sets.

Ids are the files' paths below the root, with `/` between the parts, so they are
the same on every machine. The order is sorted (folders) or as written (lists),
never that of an unsorted directory listing.
"""

from collections.abc import Mapping, Sequence
import csv
import io
import os
import pathlib

from absl import logging
import numpy as np

from jaxcal import spelling
from jaxcal.data import class_names as names_lib
from jaxcal.data import decoding
from jaxcal.data import folders as folders_lib
from jaxcal.data import image_set as image_sets
from jaxcal.data import text_files


def image_folder(
    root: str | os.PathLike,
    *,
    class_names: Sequence[str] | Mapping[str, str] | None = None,
) -> image_sets.ImageSet:
  """A folder with one sub-folder of images per class.

  Sub-folders are sorted by name, or by number where all names are numbers (so
  that folder "10" follows "9"); this order is the label order. Files with
  another suffix than `decoding.IMAGE_SUFFIXES` are left out, with a warning in
  the log; what is hidden or left behind by systems (`folders.is_left_behind`),
  silently. Folders inside a class folder are refused, as they mostly mean that
  `root` is one level too high.

  Args:
    root: The folder. Its own name becomes the name of the set, see
      `folders.name_of`.
    class_names: The names of the sorted sub-folders, one each; or a mapping
      from sub-folder to name, in label order, whose classes stay candidates
      even without a sub-folder. If None, the sub-folders' names with "_"
      replaced by a space, and one space where there are several.

  Returns:
    The images, class by class and sorted within each. A class with an empty
    sub-folder stays a candidate.

  Raises:
    FileNotFoundError: If there is no such folder.
    ValueError: If there are no sub-folders or no images, images lie outside a
      sub-folder or too deep, or the class names do not fit the sub-folders.
  """
  root = folders_lib.existing(root)
  keep = class_names if isinstance(class_names, Mapping) else ()
  folders = folders_lib.class_folders(root, keep)
  names = names_by_folder(root, folders, class_names)
  present = set(folders)
  ids: list[str] = []
  labels: list[int] = []
  for label, folder in enumerate(names):
    files = (
        folders_lib.image_names(root / folder) if folder in present else [])
    ids.extend(f"{folder}/{name}" for name in files)
    labels.extend([label] * len(files))
  if not ids:
    raise ValueError(
        f"the {len(folders)} class folders of {root} hold no images (known "
        f"suffixes: {', '.join(decoding.IMAGE_SUFFIXES)})."
    )
  return _file_set(folders_lib.name_of(root), names.values(), ids, labels, root)


def csv_file(
    path: str | os.PathLike,
    *,
    root: str | os.PathLike | None = None,
    class_names: Sequence[str] | None = None,
) -> image_sets.ImageSet:
  """A list of images with their labels.

  The first line names the columns; `path` and `label` are needed, others are
  left alone. A label is a class name, with "_" and any number of spaces alike
  and accents in one form (NFC), or else a position in the class names, from 0.

  Args:
    path: The file (comma separated), in an encoding as `text_files.read` takes
      it. Its stem becomes the name of the set.
    root: The folder that the paths start from; the file's own if None.
    class_names: The names in label order. If None, the distinct labels of the
      file with "_" replaced by a space, sorted; they must then be names, and
      differ in more than upper and lower case.

  Returns:
    The images in the order of the file.

  Raises:
    FileNotFoundError: If the list, the root or a listed file is missing.
    ValueError: If a column or a value is missing, a label is not among the
      class names, labels are numbers or alike without class names, a path is
      repeated, or nothing is listed; names the line.
  """
  path = pathlib.Path(path)
  rows = _rows(path)
  root = path.parent if root is None else folders_lib.existing(root)
  for line, image, _ in rows:
    if not os.path.isfile(root / image):
      raise FileNotFoundError(
          f"{path}, line {line}: no file {root / image}; should the paths "
          "start from another root?"
      )
  class_names, labels = names_lib.numbered(
      path, [(f"line {line}", label) for line, _, label in rows], class_names)
  ids = [pathlib.PurePath(image).as_posix() for _, image, _ in rows]
  return _file_set(path.stem, class_names, ids, labels, root)


def listed_files(
    name: str,
    class_names: Sequence[str],
    rows: Sequence[tuple[str, int]],
    root: str | os.PathLike,
    *,
    partial: bool = False,
) -> image_sets.ImageSet:
  """Listed images, once it is known that their files are there.

  Args:
    name: What the set is called.
    class_names: Class names in label order.
    rows: The path below the root, with `/` between its parts, and the label of
      each image.
    root: The folder that the paths start from.
    partial: Whether to leave out listed files that are absent, with a warning
      in the log, instead of refusing the list.

  Returns:
    The images in the order of the rows.

  Raises:
    FileNotFoundError: If there is no such folder or none of the files, or some
      are absent and `partial` is not set; names up to ten.
    ValueError: If a path is repeated or a label has no class name.
  """
  root = folders_lib.existing(root)
  # Of a name that no file can have, pathlib would raise.
  absent = [path for path, _ in rows if not os.path.isfile(root / path)]
  if absent and (len(absent) == len(rows) or not partial):
    raise FileNotFoundError(
        f"{len(absent)} of the {len(rows)} images listed for {name!r} are not "
        f"below {root}; bring them there, or correct the list:\n  " +
        "\n  ".join(spelling.shortened(absent))
    )
  if absent:
    logging.warning(
        "%s: left out %d of %d listed images that are not below %s.", name,
        len(absent), len(rows), root
    )
    gone = set(absent)
    rows = [row for row in rows if row[0] not in gone]
  ids, labels = zip(*rows) if rows else ((), ())
  return _file_set(name, class_names, ids, labels, root)


def _file_set(name, class_names, ids, labels, root):
  image_set = image_sets.ImageSet(
      name=name,
      class_names=tuple(class_names),
      ids=tuple(ids),
      labels=np.asarray(labels, np.int32),
      read=lambda position: decoding.decode(root / ids[position]),
      path=lambda position: root / ids[position],
  )
  image_sets.check(image_set)
  return image_set


def names_by_folder(
    root: str | os.PathLike,
    folders: Sequence[str],
    class_names: Sequence[str] | Mapping[str, str] | None,
) -> dict[str, str]:
  """Class folders in label order, with the names of their classes.

  Args:
    root: Folder of the class folders, for messages.
    folders: Names of the class folders in label order.
    class_names: Class names as `image_folder` takes them.

  Raises:
    ValueError: The names do not fit the folders.
  """
  own = {folder: names_lib.normalised(folder) for folder in folders}
  if class_names is None:
    return own
  if isinstance(class_names, Mapping):
    unnamed = [folder for folder in folders if folder not in class_names]
    if unnamed:
      raise ValueError(
          f"{len(unnamed)} folders below {root} have no class name, the first "
          f"one {unnamed[0]!r}; expected a name for each."
      )
    return dict(class_names)
  if len(class_names) != len(folders):
    raise ValueError(
        f"got {len(class_names)} class names for the {len(folders)} class "
        f"folders below {root}; give one per folder or a mapping from folder "
        "to name."
    )
  names = dict(zip(folders, class_names))
  for folder, name in names.items():
    # Names in another order than the folders would silently swap classes.
    name = names_lib.normalised(name)
    if name != own[folder] and name in own.values():
      raise ValueError(
          f"class name {name!r} would be given to folder {folder!r}, but "
          f"another folder below {root} is called so; name the classes in the "
          "order of the sorted folders or by a mapping from folder to name."
      )
  return names


def _rows(path):
  """(line, path, label) of each row of a list of images."""
  rows = []
  with io.StringIO(text_files.read(path), newline="") as file:
    reader = csv.DictReader(file, strict=True)
    try:
      columns = reader.fieldnames or []
      if not {"path", "label"} <= set(columns):
        raise ValueError(
            f"expected a first line with 'path' and 'label', got {columns}."
        )
      for row in reader:
        # Too many values come under None: a comma that is not quoted.
        if None in row or not row["path"] or not (row["label"] or "").strip():
          raise ValueError(
              f"expected values for {columns}, got {list(row.values())}."
          )
        rows.append((reader.line_num, row["path"], row["label"]))
    except (ValueError, csv.Error) as error:
      line = reader.reader.line_num
      raise ValueError(f"{path}, line {line}: {error}") from error
  if not rows:
    raise ValueError(f"{path} lists no images; expected a line for each below "
                     "the names of the columns.")
  return rows
