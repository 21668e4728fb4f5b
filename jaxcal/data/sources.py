"""Folders and lists of image files become image sets.

Ids are the files' paths below the root, with `/` between the parts, so they are
the same on every machine. The order is sorted (folders) or as written (lists),
never that of an unsorted directory listing.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
import csv
import io
import os
import pathlib
import struct
import unicodedata

from absl import logging
import numpy as np
from PIL import Image

from jaxcal.data import image_set as image_sets
from jaxcal.typing import UInt8

IMAGE_SUFFIXES = (
    ".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"
)
# What Pillow raises for damaged files, depending on the format and the damage.
_DAMAGED = (
    OSError, SyntaxError, ValueError, EOFError, struct.error,
    Image.DecompressionBombError,
)
_MAX_LISTED = 10


def decode(path: str | os.PathLike) -> UInt8[np.ndarray, "h w 3"]:
  """An image file as red, green and blue.

  Grey and palette images and CMYK are converted as Pillow does it; of animated
  files the first frame is taken; transparency is dropped, not laid over a
  colour. The orientation noted by a camera (EXIF) is not applied. These are the
  ways of the loaders that CLIP and the test-time tuning codes were released
  with.

  Differs from the released code in: 16-bit grey values keep their upper 8 bits;
  Pillow's conversion cuts them at 255, which leaves an almost white image.

  Args:
    path: The file; its content, not its suffix, tells the format.

  Returns:
    uint8 [h w 3].

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If the file is not an image, is cut off or damaged, is too large
      for Pillow to trust, or holds numbers without a known range (32-bit grey);
      names the file.
  """
  return _decode(path, path)


def decode_bytes(encoded: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
  """What `decode` makes of a file, from the file's content.

  Args:
    encoded: The bytes of an image file.
    name: What errors call the image.

  Returns:
    uint8 [h w 3].

  Raises:
    ValueError: As `decode` does.
  """
  return _decode(io.BytesIO(encoded), name)


def verify(
    image_set: image_sets.ImageSet,
    root: str | os.PathLike,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> None:
  """Looks at the header of every file before hours are spent on the set.

  Finds what is missing, empty or no image at all. Damage behind the header, as
  in a file that was cut off, is found only by decoding.

  Args:
    image_set: A set from `image_folder` or `csv_file`.
    root: The folder below which the set's ids are paths.
    progress: Function called with (files looked at, files in all) after each
      file.

  Raises:
    ValueError: After all files were looked at; names up to ten bad ones.
  """
  bad = []
  for number, image_id in enumerate(image_set.ids, start=1):
    try:
      with Image.open(pathlib.Path(root, image_id)):
        pass
    except _DAMAGED as error:
      bad.append(f"{image_id}: {error}")
    if progress is not None:
      progress(number, len(image_set.ids))
  if bad:
    raise ValueError(
        f"{len(bad)} of {len(image_set.ids)} files of {image_set.name!r} below "
        f"{root} cannot be read as images:\n  " + "\n  ".join(_shortened(bad))
    )


def image_folder(
    root: str | os.PathLike,
    *,
    class_names: Sequence[str] | Mapping[str, str] | None = None,
) -> image_sets.ImageSet:
  """A folder with one sub-folder of images per class.

  Sub-folders are sorted by name, or by number where all names are numbers (so
  that folder "10" follows "9"); this order is the label order. Files with
  another suffix than `IMAGE_SUFFIXES` are left out, with a warning in the log;
  hidden files and folders (leading dot) are left out silently. Folders inside a
  class folder are refused, as they mostly mean that `root` is one level too
  high.

  Args:
    root: The folder. Its own name becomes the name of the set, see
      `folder_name`.
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
  root = _existing_folder(root)
  entries = _visible(root)
  folders = [entry.name for entry in entries if entry.is_dir()]
  loose = [entry for entry in entries if _is_image(entry)]
  if loose:
    raise ValueError(
        f"{loose[0].path} lies outside any class folder; expected a folder of "
        f"images per class below {root}, or a list of the images in a CSV file."
    )
  if not folders:
    raise ValueError(
        f"{root} has no sub-folders; expected one folder of images per class."
    )
  if all(name.isdecimal() for name in folders):
    folders.sort(key=int)
  names = _names_by_folder(root, folders, class_names)
  present = set(folders)
  ids: list[str] = []
  labels: list[int] = []
  for label, folder in enumerate(names):
    files = _images_of(root / folder) if folder in present else []
    ids.extend(f"{folder}/{name}" for name in files)
    labels.extend([label] * len(files))
  if not ids:
    raise ValueError(
        f"the {len(folders)} class folders of {root} hold no images (known "
        f"suffixes: {', '.join(IMAGE_SUFFIXES)})."
    )
  return _file_set(folder_name(root), names.values(), ids, labels, root)


def folder_name(root: str | os.PathLike) -> str:
  """What the set in a folder is called, where this is '.' or '..', too."""
  path = pathlib.Path(root).absolute()
  # A link to a folder is called as its maker wanted.
  return path.resolve().name if path.name == ".." else path.name


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
    path: The file (comma separated, UTF-8). Its stem becomes the name of the
      set.
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
  path = _existing_file(path)
  root = path.parent if root is None else _existing_folder(root)
  rows = _rows(path)
  if class_names is None:
    class_names = sorted({_as_name(label) for _, _, label in rows})
    if all(name.isdecimal() for name in class_names):
      raise ValueError(
          f"the labels of {path} are numbers (such as {class_names[0]!r}), "
          "which name no class; give the class names in label order."
      )
    for names in alike(class_names):
      raise ValueError(
          f"{path} has the labels {' and '.join(map(repr, names))}, which "
          "differ in case or Unicode form alone: one class would become "
          f"{len(names)} with the same prompt. Write them alike, or give the "
          "class names in label order (class_names, --config.data.class_names)."
      )
  positions = collections.defaultdict(list)
  for position, name in enumerate(class_names):
    positions[_as_name(name)].append(position)
  ids, labels = [], []
  for line, image, label in rows:
    if not (root / image).is_file():
      raise FileNotFoundError(
          f"{path}, line {line}: no file {root / image}; should the paths "
          "start from another root?"
      )
    ids.append(pathlib.PurePath(image).as_posix())
    try:
      labels.append(_label(label, positions, len(class_names)))
    except ValueError as error:
      raise ValueError(f"{path}, line {line}: {error}") from None
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
  root = _existing_folder(root)
  absent = [path for path, _ in rows if not (root / path).is_file()]
  if absent and (len(absent) == len(rows) or not partial):
    raise FileNotFoundError(
        f"{len(absent)} of the {len(rows)} images listed for {name!r} are not "
        f"below {root}:\n  " + "\n  ".join(_shortened(absent))
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


def class_names_file(
    path: str | os.PathLike,
) -> tuple[str, ...] | dict[str, str]:
  """Class names in label order from a text file, one per line.

  Args:
    path: The file (UTF-8). Lines hold either a name each, or each the name of
      a class folder, a tab and a name.

  Returns:
    The names, or the mapping from folder to name, as `image_folder` takes them.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If it is empty, a line is blank, only some lines have a tab, or
      a folder is named twice.
  """
  path = _existing_file(path)
  try:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
  except UnicodeDecodeError as error:
    raise ValueError(
        f"{path} is not UTF-8 ({error}); save it as such.") from error
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


def alike(class_names: Sequence[str]) -> list[tuple[str, ...]]:
  """Names of several classes that are one to a model.

  Args:
    class_names: Names in label order.

  Returns:
    Those that are equal but for upper and lower case, the number of spaces and
    the Unicode form of their letters, together.
  """
  groups = collections.defaultdict(list)
  for name in class_names:
    key = unicodedata.normalize("NFKC", _as_name(name)).casefold()
    groups[key].append(name)
  return [tuple(names) for names in groups.values() if len(names) > 1]


def _decode(file, name):
  try:
    with Image.open(file) as image:
      return np.asarray(_to_rgb(image))
  except FileNotFoundError:
    raise
  except _DAMAGED as error:
    raise ValueError(f"cannot read {name} as an image: {error}") from error


def _shortened(lines):
  """The first lines of a long list, and how many more there are."""
  more = len(lines) - _MAX_LISTED
  return lines[:_MAX_LISTED] + ([f"and {more} more"] if more > 0 else [])


def _to_rgb(image):
  """Converts a Pillow image; see `decode` for the rules."""
  # 16-bit grey PNGs were mode "I" before Pillow 10.2.
  if image.mode.startswith("I;16") or (image.mode, image.format) == (
      "I", "PNG"
  ):
    values = np.asarray(image).astype(np.uint16) >> 8
    return Image.fromarray(values.astype(np.uint8)).convert("RGB")
  if image.mode in ("I", "F"):
    raise ValueError(
        f"32-bit grey values (mode {image.mode}) have no known range; save the "
        "image with 8 or 16 bits."
    )
  if image.mode == "P" and "transparency" in image.info:
    image = image.convert("RGBA")  # Straight to RGB, Pillow warns.
  return image.convert("RGB")


def _file_set(name, class_names, ids, labels, root):
  image_set = image_sets.ImageSet(
      name=name,
      class_names=tuple(class_names),
      ids=tuple(ids),
      labels=np.asarray(labels, np.int32),
      read=lambda position: decode(root / ids[position]),
      path=lambda position: root / ids[position],
  )
  image_sets.check(image_set)
  return image_set


def _existing_folder(path) -> pathlib.Path:
  path = pathlib.Path(path)
  if not path.is_dir():
    raise FileNotFoundError(f"no folder {path}")
  return path


def _existing_file(path) -> pathlib.Path:
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"no file {path}")
  return path


def _visible(folder):
  """The entries of a folder without the hidden ones, sorted by name."""
  with os.scandir(folder) as entries:
    visible = [entry for entry in entries if not entry.name.startswith(".")]
  return sorted(visible, key=lambda entry: entry.name)


def _is_image(entry):
  suffix = pathlib.PurePath(entry.name).suffix
  return suffix.lower() in IMAGE_SUFFIXES and not entry.is_dir()


def _images_of(folder):
  """Names of the images in a class folder."""
  entries = _visible(folder)
  for entry in entries:
    if entry.is_dir():
      raise ValueError(
          f"{entry.path} is a folder inside a class folder; expected images "
          f"only. Is {folder} rather the root, with one folder per class?"
      )
  images = [entry.name for entry in entries if _is_image(entry)]
  if len(images) < len(entries):
    logging.warning(
        "%s: left out %d files that are no images by their suffix.", folder,
        len(entries) - len(images)
    )
  if not images:
    logging.warning("%s has no images; its class stays a candidate.", folder)
  return images


def _names_by_folder(root, folders, class_names):
  """Class folders in label order, with the names of their classes."""
  own = {folder: _as_name(folder) for folder in folders}
  if class_names is None:
    return own
  if isinstance(class_names, Mapping):
    unnamed = [folder for folder in folders if folder not in class_names]
    if unnamed:
      raise ValueError(
          f"{len(unnamed)} folders below {root} have no class name, the first "
          f"one {unnamed[0]!r}."
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
    if _as_name(name) != own[folder] and _as_name(name) in own.values():
      raise ValueError(
          f"class name {name!r} would be given to folder {folder!r}, but "
          f"another folder below {root} is called so; name the classes in the "
          "order of the sorted folders or by a mapping from folder to name."
      )
  return names


def _rows(path):
  """(line, path, label) of each row of a list of images."""
  rows = []
  with path.open(encoding="utf-8-sig", newline="") as file:
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
    raise ValueError(f"{path} lists no images.")
  return rows


def _label(value, positions, num_classes):
  """The position of a class that is given by name or by position."""
  named = positions.get(_as_name(value), [])
  if len(named) == 1:
    return named[0]
  if named:
    raise ValueError(
        f"{len(named)} classes are called {value!r}; give the position, one of "
        f"{named}."
    )
  if value.strip().isdecimal() and int(value) < num_classes:
    return int(value)
  raise ValueError(
      f"label {value!r} is neither one of the {num_classes} class names nor a "
      f"position in [0, {num_classes})."
  )


def _as_name(folder_or_label):
  text = unicodedata.normalize("NFC", folder_or_label.replace("_", " "))
  return " ".join(text.split())
