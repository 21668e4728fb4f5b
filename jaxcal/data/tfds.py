"""Data sets that tensorflow-datasets prepared become image sets or pairs.

Reading needs the package tensorflow-datasets but not TensorFlow; preparing a
data set of images does. Nothing is downloaded. The file formats array_record
(recommended) and tfrecord (the default of `tfds build`) are read.
"""

import collections
from collections.abc import Collection, Mapping, Sequence
import os
import pathlib
import re
import struct

import numpy as np

from jaxcal.data import decoding
from jaxcal.data import image_set as image_sets
from jaxcal.data import pairs

# What the file's name is called in the data sets that keep it.
_FILE_NAMES = (
    "file_name", "filename", "image/file_name", "image/filename", "id")
# What captions are called, alone or in a sequence.
_CAPTIONS = ("caption", "captions", "text")


def read(
    root: str | os.PathLike,
    name: str,
    *,
    split: str,
    class_names: Sequence[str],
    renamed: Mapping[str, str] | None = None,
    unused: Collection[str] = (),
) -> image_sets.ImageSet:
  """The images of one split of a prepared data set.

  Labels are joined by name, see `join_labels`: the set's own label order does
  not matter. All records are gone through once, to learn labels and names;
  images are decoded when they are read, by `decoding.decode_bytes`, so that the
  pixels do not depend on whether OpenCV is installed.

  Args:
    root: The data folder of tensorflow-datasets.
    name: The data set below it, with its config where it has some, such as
      `dtd` or `imagenet_v2/matched-frequency`. The newest version is taken.
    split: Split in the language of tensorflow-datasets: `test`, `train+test`,
      ...
    class_names: The candidates in label order, as in the label's feature.
    renamed: The name in the label's feature of the class names that differ.
    unused: Further names in the label's feature; their images are left out.

  Returns:
    The images. Ids are the file names that the set keeps, without a leading
    slash; where they repeat, the class's name in the feature comes first, as in
    `faces/image_0001.jpg`; the order is that of the labels, then of the ids.
    Without file names, ids are positions in the stored order, `test/000012`.

  Raises:
    ImportError: If tensorflow-datasets is not installed.
    FileNotFoundError: If the data set is not prepared below the root.
    ValueError: If the split is unknown, image or label is missing among the
      features, the names cannot be joined, or no image is left.
  """
  folder = prepared_folder(root, name)
  info, records, decoders = _open(folder, split)
  if not {"image", "label"} <= set(info.features):
    raise ValueError(f"{folder} has the features {sorted(info.features)}; "
                     "expected image and label.")
  theirs = info.features["label"].names
  labels_of = join_labels(theirs, class_names, renamed=renamed, unused=unused)
  file_key = next((key for key in _FILE_NAMES if key in info.features), None)
  rows = []
  for position in range(len(records)):
    example = _example(info, records[position], decoders)
    label = int(example["label"])
    if label < 0:
      raise ValueError(f"split {split!r} of {folder} has images without label.")
    file = example[file_key].decode().lstrip("/") if file_key else ""
    rows.append((labels_of[label], file, theirs[label], position))
  rows = [row for row in rows if row[0] is not None]
  if not rows:
    raise ValueError(f"split {split!r} of {folder} has no images of the "
                     f"{len(class_names)} classes.")
  ids = _ids(rows, split, bool(file_key))
  order = list(range(len(rows)))
  if file_key:
    order.sort(key=lambda i: (rows[i][0], ids[i]))
  ids = [ids[i] for i in order]
  positions = [rows[i][-1] for i in order]
  image = lambda i: _example(info, records[positions[i]], decoders)["image"]
  image_set = image_sets.ImageSet(
      name=name,
      class_names=tuple(class_names),
      ids=tuple(ids),
      labels=np.asarray([rows[i][0] for i in order], np.int32),
      read=lambda i: _pixels(image(i), ids[i]),
      encoded=image if "image" in decoders else None,
  )
  image_sets.check(image_set)
  return image_set


def read_pairs(
    root: str | os.PathLike, name: str, *, split: str) -> pairs.PairSet:
  """The images of one split of a prepared data set with their captions.

  The caption is the feature caption, captions or text. Where it is a sequence,
  of texts or of records with a text (coco_captions), the first one is taken,
  so that no image occurs twice. All records are gone through once; images are
  decoded when they are read.

  Args:
    root: The data folder of tensorflow-datasets.
    name: The data set below it, with its config where it has some, such as
      `coco_captions/2014`. The newest version is taken.
    split: Split in the language of tensorflow-datasets.

  Returns:
    The pairs in the stored order, which is shuffled, the same at each reading.
    Ids are the file names that the set keeps where all are distinct, else
    positions in the stored order, `train/000012`. Images without a caption,
    with an empty one or one that is no UTF-8 are left out and counted.

  Raises:
    ImportError: If tensorflow-datasets is not installed.
    FileNotFoundError: If the data set is not prepared below the root.
    ValueError: If the split is unknown, image or caption is missing among the
      features, or no pair is left.
  """
  folder = prepared_folder(root, name)
  info, records, decoders = _open(folder, split)
  key = next((key for key in _CAPTIONS if key in info.features), None)
  if key is None or "image" not in info.features:
    raise ValueError(f"{folder} has the features {sorted(info.features)}; "
                     f"expected image and one of {', '.join(_CAPTIONS)}.")
  file_key = next((key for key in _FILE_NAMES if key in info.features), None)
  skipped: collections.Counter[str] = collections.Counter()
  files, captions, positions = [], [], []
  for position in range(len(records)):
    example = _example(info, records[position], decoders)
    caption = pairs.usable_caption(_first_text(example[key]), skipped)
    if caption is not None:
      files.append(_text(example[file_key]) if file_key else "")
      captions.append(caption)
      positions.append(position)
  ids = files
  if len(set(files)) < len(files) or not file_key:
    ids = [f"{split}/{position:06}" for position in positions]
  pair_set = pairs.PairSet(
      name=name,
      ids=tuple(ids),
      captions=tuple(captions),
      read=lambda i: _pixels(
          _example(info, records[positions[i]], decoders)["image"], ids[i]
      ),
      skipped=dict(skipped),
  )
  pairs.check(pair_set)
  return pair_set


def prepared_folder(root: str | os.PathLike, name: str) -> pathlib.Path:
  """The folder of the newest version of a prepared data set.

  Args:
    root: The data folder of tensorflow-datasets.
    name: The data set below it, with its config where it has some.

  Raises:
    FileNotFoundError: If there is none; says how to prepare it.
  """
  folder = pathlib.Path(root, name)
  found = [path.parent for path in folder.glob("*/dataset_info.json")
           if re.fullmatch(r"\d+(\.\d+)*", path.parent.name)]
  if not found:
    raise FileNotFoundError(
        f"no prepared data set in {folder} (no VERSION/dataset_info.json); "
        f"prepare it where TensorFlow is installed: tfds build {name} "
        f"--file_format=array_record --data_dir={root}"
    )
  return max(found, key=lambda path: [int(n) for n in path.name.split(".")])


def join_labels(
    theirs: Sequence[str],
    ours: Sequence[str],
    *,
    renamed: Mapping[str, str] | None = None,
    unused: Collection[str] = (),
) -> list[int | None]:
  """Our label of each of their labels, by the names of the classes.

  Names are alike if they have the same words. Case, the order of words and what
  stands between them (space, `_`, `-`, `/`) do not count, nor does a leading
  `/x/` of one letter: "outdoor apartment_building" is
  "/a/apartment_building/outdoor".

  Args:
    theirs: Names in their label order.
    ours: Names in ours.
    renamed: Names that it has for those of ours that are called otherwise.
    unused: Names among theirs that are none of ours.

  Returns:
    One of our labels for each of theirs, each once; None for the unused.

  Raises:
    ValueError: If two names on a side are alike, or a name on either side has
      no partner; names up to ten.
  """
  renamed = renamed or {}
  left_out = {_words(name) for name in unused}
  labels = _unique({}, [renamed.get(name, name) for name in ours])
  partners = _unique(left_out, theirs)
  only_ours = [ours[label] for words, label in labels.items()
               if words not in partners]
  only_theirs = [theirs[label] for words, label in partners.items()
                 if words not in labels]
  if only_ours or only_theirs:
    raise ValueError(
        f"the classes cannot be joined by name: {len(only_ours)} expected ones "
        f"were not found ({_few(only_ours)}), {len(only_theirs)} found ones "
        f"were not expected ({_few(only_theirs)}). Is it the right data set "
        "and config?"
    )
  return [None if _words(name) in left_out else labels[_words(name)]
          for name in theirs]


def _words(name):
  name = re.sub(r"^/[a-z]/", "", name.lower())
  return tuple(sorted(re.findall(r"[a-z0-9]+", name)))


def _unique(left_out, names):
  """The position of each name by its words."""
  positions: dict[tuple[str, ...], int] = {}
  for position, name in enumerate(names):
    words = _words(name)
    if words in left_out:
      continue
    if words in positions:
      raise ValueError(
          f"the classes {names[positions[words]]!r} and {name!r} cannot be "
          "told apart by their words; join by another name, such as the "
          "WordNet id."
      )
    positions[words] = position
  return positions


def _few(names):
  more = len(names) - 10
  shown = ", ".join(map(repr, names[:10])) or "none"
  return shown + (f" and {more} more" if more > 0 else "")


def _ids(rows, split, named):
  if not named:
    return [f"{split}/{position:06}" for *_, position in rows]
  repeated = len({file for _, file, _, _ in rows}) < len(rows)
  return [f"{name}/{file}" if repeated else file for _, file, name, _ in rows]


def _open(folder, split):
  """What describes a prepared set, its records as bytes, and decoders."""
  try:
    import tensorflow_datasets
  except ImportError as error:
    raise ImportError(
        f"reading {folder} needs tensorflow-datasets and array_record: "
        "pip install 'jaxcal[data]'"
    ) from error
  builder = tensorflow_datasets.builder_from_directory(folder)
  info = builder.info
  try:
    files = info.splits[split].file_instructions
  except ValueError as error:
    raise ValueError(f"{folder}: {error}") from error
  if info.file_format.value == "tfrecord":
    records = _TfRecords(files)
  else:
    records = builder.as_data_source(
        split,
        deserialize_method=(
            tensorflow_datasets.decode.DeserializeMethod.RAW_BYTES),
    )
  decoders = {
      key: tensorflow_datasets.decode.SkipDecoding()
      for key, feature in info.features.items()
      if isinstance(feature, tensorflow_datasets.features.Image)
  }
  return info, records, decoders


def _first_text(value):
  """A text as bytes, the first one of a sequence; None of an empty one."""
  if isinstance(value, dict):
    value = value["text"]
  if isinstance(value, bytes):
    return value
  return value[0] if len(value) else None


def _text(value):
  return value.decode() if isinstance(value, bytes) else str(value)


def _example(info, record, decoders):
  return info.features.deserialize_example_np(record, decoders=decoders)


def _pixels(image, name):
  """Encoded or stored pixels as red, green and blue."""
  if isinstance(image, bytes):
    return decoding.decode_bytes(image, name)
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (
      1, 3
  ):
    raise ValueError(
        f"image {name!r} is stored as {image.dtype} {image.shape}; expected "
        "uint8 [h w 3] or [h w 1]."
    )
  return np.broadcast_to(image, (*image.shape[:-1], 3))


class _TfRecords:
  """Records of TFRecord files by position.

  A record is its length (8 bytes), a checksum of it (4), the content and a
  checksum of that (4). The checksums are not looked at.
  """

  def __init__(self, files):
    self._places: list[tuple[str, int, int]] = []
    for file in files:
      places = list(_places(file.filename))
      self._places.extend(
          (file.filename, *place)
          for place in places[file.skip:file.skip + file.take]
      )

  def __len__(self):
    return len(self._places)

  def __getitem__(self, position):
    path, start, length = self._places[position]
    with open(path, "rb") as file:
      file.seek(start)
      return file.read(length)


def _places(path):
  """Where the content of each record starts, and its length."""
  size, start = os.path.getsize(path), 0
  with open(path, "rb") as file:
    while start < size:
      file.seek(start)
      header = file.read(8)
      length = struct.unpack("<Q", header)[0] if len(header) == 8 else size
      end = start + 12 + length + 4
      if end > size:
        raise ValueError(
            f"{path} is cut off, damaged or compressed: a record from byte "
            f"{start} would end at byte {end} of {size}."
        )
      yield start + 12, length
      start = end
