"""Images with captions: what the curvature of a model is estimated on.

Pairs come from tars as img2dataset writes them, from a list in a CSV file, or
from a labelled image set and templates; those that tensorflow-datasets has
prepared are read by `tfds.read_pairs`.
"""

import collections
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
import csv
import glob
import io
import json
import os
import pathlib
import re
import tarfile
from typing import BinaryIO, NamedTuple

from absl import logging
import numpy as np

from jaxcal.data import decoding
from jaxcal.data import image_set as image_sets
from jaxcal.data import text_files
from jaxcal.typing import UInt8

# Why a pair was left out. A damaged tar is used as far as it goes, and counts
# one, whatever number of pairs it lost.
NO_IMAGE = "no image"
NO_CAPTION = "no caption"
EMPTY_CAPTION = "empty caption"
UNDECODABLE_CAPTION = "undecodable caption"
DAMAGED_TAR = "damaged tar"

# Where a pair has several images, the first of these is taken.
IMAGES = ("jpg", "jpeg", "png", "webp")
_PARTS = (*IMAGES, "txt", "json")
_BLOCK = 512


class Place(NamedTuple):
  """Where an image lies: a file, or a part of one.

  Attributes:
    path: The file.
    start: First byte of the image in it.
    length: Bytes of the image; None for all that follow.
  """

  path: pathlib.Path
  start: int = 0
  length: int | None = None


class PairSet(NamedTuple):
  """Images, each with a caption; decoded only when they are read.

  It has what `pipeline.batches` and `extract.from_images` take of an image set
  (name, ids and reader) and can be handed to either.

  Attributes:
    name: What the set is called in records.
    ids: One stable, distinct id per pair.
    captions: One sentence per pair, not empty.
    read: Position -> uint8 [h w 3], RGB. Called from several threads at once.
    skipped: How many pairs (or damaged tars) had to be left out, by the reason.
    place: Position -> where the image lies; None where images are no files,
      but made by code or read from a data base.
  """

  name: str
  ids: tuple[str, ...]
  captions: tuple[str, ...]
  read: Callable[[int], UInt8[np.ndarray, "h w 3"]]
  skipped: Mapping[str, int]
  place: Callable[[int], Place] | None = None


def check(pair_set: PairSet) -> None:
  """Refuses a set whose ids and captions do not fit together.

  No image is read.

  Args:
    pair_set: The set to look at.

  Raises:
    ValueError: If there is no pair (says what was left out), an id occurs
      twice, there is not one caption per id, or a caption is empty.
  """
  name, ids, captions, _, skipped, _ = pair_set
  if not ids:
    reasons = ", ".join(f"{why}: {count}" for why, count in skipped.items())
    raise ValueError(f"{name!r} has no pairs of image and caption, but needs "
                     f"one at least; left out: {reasons or 'none'}.")
  if len(captions) != len(ids):
    raise ValueError(f"{name!r} has {len(ids)} ids but {len(captions)} "
                     "captions; expected one caption per id.")
  repeated, count = collections.Counter(ids).most_common(1)[0]
  if count > 1:
    raise ValueError(f"{name!r} has the id {repeated!r} {count} times; expected"
                     " each pair once.")
  for example_id, caption in zip(ids, captions):
    if not caption.strip():
      raise ValueError(f"{name!r} has an empty caption for {example_id!r}.")


def limit(pair_set: PairSet, num_pairs: int) -> PairSet:
  """The first `num_pairs` pairs; all where there are no more.

  Args:
    pair_set: The set to shorten; what it says of skipped pairs is kept.
    num_pairs: How many pairs to keep, at least 1.

  Raises:
    ValueError: If `num_pairs` is below 1.
  """
  if num_pairs < 1:
    raise ValueError(f"expected at least 1 pair to keep, got {num_pairs}.")
  return pair_set._replace(
      ids=pair_set.ids[:num_pairs], captions=pair_set.captions[:num_pairs])


def webdataset(
    tars: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    max_pairs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PairSet:
  """Pairs in tars with the files KEY.jpg, KEY.txt and KEY.json of each pair.

  This is how img2dataset writes LAION and its like. KEY is a member's path up
  to the first dot of its last part, the image is a jpg, jpeg, png or webp, and
  the caption is the text file or, without one, "caption" in the JSON file;
  other members are left alone. Only headers and captions are read here, once;
  images are read from their place in the tar, so nothing is unpacked.

  A pair without image or caption, with a caption that is empty or no UTF-8,
  and what lies behind damage in a tar (mostly one that was cut off) is left out
  and counted. An image that is damaged itself is found when it is read.

  Args:
    tars: A folder of tars, a pattern (`*`, `?`, `[ab]`, `**` for folders, and
      `{00000..00059}` or `{a,b}` as in a shell), a tar, or a sequence of such.
      Tars are not compressed.
    max_pairs: Number of pairs to keep; no further tars are looked into then.
      All if None.
    progress: Function called with (tars looked into, tars in all) after each of
      them.

  Returns:
    The pairs in the order of the sorted paths of the tars, then as they lie in
    the tar. Ids are the tar's path below the folder that is common to all, and
    the key; that folder's name is the name of the set.

  Raises:
    FileNotFoundError: If a pattern, or one of its expansions, matches no tar.
    ValueError: If there is no pair at all (says what was left out), a tar has a
      file twice, or `max_pairs` is below 1.
  """
  if max_pairs is not None and max_pairs < 1:
    raise ValueError(f"expected max_pairs of at least 1, got {max_pairs}.")
  paths = tar_paths(tars)
  root = pathlib.Path(os.path.commonpath([path.parent for path in paths]))
  skipped: collections.Counter[str] = collections.Counter()
  ids, captions, places = [], [], []
  for number, path in enumerate(paths, start=1):
    below = path.relative_to(root).as_posix()
    with path.open("rb") as file:
      for key, caption, place in _pairs_in(file, skipped):
        ids.append(f"{below}/{key}")
        captions.append(caption)
        places.append(Place(path, *place))
    if progress is not None:
      progress(number, len(paths))
    if max_pairs is not None and len(ids) >= max_pairs:
      break

  def read(position):
    path, start, length = places[position]
    with path.open("rb", buffering=0) as file:
      file.seek(start)
      return decoding.decode_bytes(file.read(length), ids[position])

  pair_set = PairSet(
      root.name, tuple(ids), tuple(captions), read, dict(skipped),
      places.__getitem__)
  check(pair_set)
  return pair_set if max_pairs is None else limit(pair_set, max_pairs)


def tar_paths(
    tars: str | os.PathLike | Sequence[str | os.PathLike],
) -> list[pathlib.Path]:
  """The tars that `webdataset` means by its argument, sorted, each once.

  Of folders and patterns, only files that end in `.tar` count.

  Raises:
    FileNotFoundError: If a pattern, or one of its expansions, matches no tar.
    ValueError: If an empty sequence is given.
  """
  entries = [tars] if isinstance(tars, (str, os.PathLike)) else list(tars)
  if not entries:
    raise ValueError("expected at least one tar, got an empty list.")
  found: set[pathlib.Path] = set()
  for entry in entries:
    for pattern in _expanded(os.fspath(entry)) or [os.fspath(entry)]:
      matching = _matching(pattern)
      if not matching:
        raise FileNotFoundError(f"no tar matches {pattern}; expected a folder "
                                "of tars, a tar, or a pattern such as "
                                "'{00000..00059}.tar'.")
      found.update(pathlib.Path(os.path.abspath(path)) for path in matching)
  return sorted(found)


def csv_file(path: str | os.PathLike) -> PairSet:
  """A list of images with their captions.

  The first line names the columns; `path` and `caption` are needed, others are
  left alone. Paths start from the folder of the file.

  Args:
    path: The file (comma separated), in an encoding as `text_files.read` takes
      it. Its stem becomes the name of the set.

  Returns:
    The pairs in the order of the file; the ids are the paths.

  Raises:
    FileNotFoundError: If the list or a listed image is missing.
    ValueError: If a column or a value is missing, a path is repeated, or
      nothing is listed; names the line.
  """
  path = pathlib.Path(path)
  rows = {}
  with io.StringIO(text_files.read(path), newline="") as file:
    reader = csv.DictReader(file, strict=True)
    try:
      columns = reader.fieldnames or []
      if not {"path", "caption"} <= set(columns):
        raise ValueError("expected a first line with 'path' and 'caption', got "
                         f"{columns}.")
      for row in reader:
        image, caption = _path_and_caption(row)
        if image in rows:
          raise ValueError(f"{image} is listed before; expected each image "
                           "once, with one caption.")
        if not os.path.isfile(path.parent / image):
          raise FileNotFoundError(f"{path}, line {reader.line_num}: no file "
                                  f"{path.parent / image}")
        rows[image] = caption
    except (ValueError, csv.Error) as error:
      line = reader.reader.line_num
      raise ValueError(f"{path}, line {line}: {error}") from error
  if not rows:
    raise ValueError(f"{path} lists no pairs; expected a line for each below "
                     "the names of the columns.")
  ids = tuple(rows)
  return PairSet(
      path.stem, ids, tuple(rows.values()),
      lambda position: decoding.decode(path.parent / ids[position]), {},
      lambda position: Place(path.parent / ids[position]))


def labelled(
    image_set: image_sets.ImageSet, templates: str | Sequence[str]) -> PairSet:
  """A labelled image set whose captions are its class names in templates.

  Images of a class share a caption, or a few. In a contrastive likelihood they
  are then each other's wrong predictions, so the curvature is that of a task
  which cannot be solved; photos with captions of their own are the better data.

  Args:
    image_set: The images; ids, order and reader are kept.
    templates: Templates, one, or several that go round by position: of T
      templates the image at position i has number i modulo T. Each has `{}`
      once, for the class name, in which "_" becomes a space.

  Raises:
    ValueError: If there is no template, or one has not exactly one `{}`.
  """
  templates = [templates] if isinstance(templates, str) else list(templates)
  if not templates:
    raise ValueError("expected at least one template, got an empty list.")
  for template in templates:
    if template.count("{}") != 1:
      raise ValueError("expected templates with '{}' exactly once, got "
                       f"{template!r}.")
  names = [" ".join(name.replace("_", " ").split())
           for name in image_set.class_names]
  captions = tuple(
      templates[position % len(templates)].replace("{}", names[label])
      for position, label in enumerate(image_set.labels))
  path = image_set.path or image_set.holder
  pair_set = PairSet(
      image_set.name, image_set.ids, captions, image_set.read, {},
      path and (lambda position: Place(path(position))))
  check(pair_set)
  return pair_set


def join(pair_sets: Sequence[PairSet]) -> PairSet:
  """Several sets one after the other, under their names joined by "+".

  Raises:
    ValueError: No sets, or an id that occurs in two of them.
  """
  if not pair_sets:
    raise ValueError("expected at least one set of pairs, got none.")
  starts = np.cumsum([0, *(len(one.ids) for one in pair_sets)])

  def at(position):
    number = int(np.searchsorted(starts, position, side="right")) - 1
    return pair_sets[number], position - int(starts[number])

  def read(position):
    pair_set, row = at(position)
    return pair_set.read(row)

  def place(position):
    pair_set, row = at(position)
    return pair_set.place(row)

  skipped: collections.Counter[str] = collections.Counter()
  for one in pair_sets:
    skipped.update(one.skipped)
  joined = PairSet(
      "+".join(one.name for one in pair_sets),
      tuple(i for one in pair_sets for i in one.ids),
      tuple(caption for one in pair_sets for caption in one.captions),
      read, dict(skipped),
      place if all(one.place for one in pair_sets) else None)
  check(joined)
  return joined


def usable_caption(
    content: bytes | str | None, skipped: collections.Counter) -> str | None:
  """A caption as text without spaces at its ends.

  Args:
    content: The caption (bytes are UTF-8), None where there is none.
    skipped: Counts, by its reason, a caption that cannot be used.

  Returns:
    The caption; None where it cannot be used.
  """
  if content is None:
    skipped[NO_CAPTION] += 1
    return None
  try:
    caption = content.decode() if isinstance(content, bytes) else content
    caption.encode()  # JSON can hold halves of characters.
  except UnicodeError:
    skipped[UNDECODABLE_CAPTION] += 1
    return None
  caption = caption.strip()
  if not caption:
    skipped[EMPTY_CAPTION] += 1
  return caption or None


def _pairs_in(
    file: BinaryIO, skipped: collections.Counter
) -> Iterator[tuple[str, str, tuple[int, int]]]:
  """Key, caption and the image's place of each pair in a tar."""
  for key, parts in members(file, skipped, _PARTS).items():
    image = next((parts[part] for part in IMAGES if part in parts), None)
    if image is None:
      skipped[NO_IMAGE] += 1
      continue
    caption = usable_caption(_caption(file, parts), skipped)
    if caption is not None:
      yield key, caption, image


def _caption(file, parts):
  """What the text file of a pair says, or else its JSON file."""
  name = next((name for name in ("txt", "json") if name in parts), None)
  if name is None:
    return None
  start, length = parts[name]
  file.seek(start)
  content = file.read(length)
  if name == "txt":
    return content
  try:
    about = json.loads(content)
  except (ValueError, RecursionError):
    return None
  caption = about.get("caption") if isinstance(about, dict) else None
  return caption if isinstance(caption, str) else None


def members(
    file: BinaryIO, skipped: collections.Counter[str],
    wanted: Collection[str],
) -> dict[str, dict[str, tuple[int, int]]]:
  """Start and length of the files of each key in a tar, by their endings.

  Args:
    file: The tar, not compressed.
    skipped: Counts a tar that is damaged, of which the keys before that count.
    wanted: Endings in lower case; other files are left alone.

  Raises:
    ValueError: A file is there twice.
  """
  found: dict[str, dict[str, tuple[int, int]]] = {}
  size = os.fstat(file.fileno()).st_size
  try:
    # What is no UTF-8 in names is spelled out, so that ids are plain text.
    with tarfile.open(
        fileobj=file, mode="r:", errors="backslashreplace") as tar:
      for member in tar:
        start, length = member.offset_data, member.size
        if length < 0 or start + length > size:
          raise tarfile.ReadError(f"{member.name!r} is cut off")
        folder, _, name = member.name.removeprefix("./").rpartition("/")
        stem, _, part = name.partition(".")
        part = part.lower()
        if not member.isreg() or not stem or part not in wanted:
          continue
        parts = found.setdefault(f"{folder}/{stem}".lstrip("/"), {})
        if part in parts:
          raise _Repeated(f"{file.name} has {member.name!r} twice; expected "
                          "one file of a kind for each key.")
        parts[part] = start, length
      file.seek(tar.offset)
      # The reader ends silently at what is no header. The proper end is zeros.
      if file.read(_BLOCK) != bytes(_BLOCK):
        raise tarfile.ReadError("it has no end mark")
  except _Repeated:
    raise
  except (tarfile.TarError, ValueError) as error:
    skipped[DAMAGED_TAR] += 1
    logging.warning("%s is damaged or no plain tar (%s); the %d keys before "
                    "that are used.", file.name, error, len(found))
  return found


class _Repeated(ValueError):
  """A tar that has the same file twice."""


def _expanded(pattern):
  """A pattern without braces for each choice that they leave."""
  braces = re.search(r"\{([^{}]*)\}", pattern)
  if not braces or os.path.exists(pattern):
    return [pattern]
  span = re.fullmatch(r"(\d+)\.\.(\d+)", braces[1])
  if span:
    first, last = span.groups()
    padded = first.startswith("0") and len(first) > 1
    width = max(len(first), len(last)) if padded else 1
    choices = [f"{number:0{width}}"
               for number in range(int(first), int(last) + 1)]
  else:
    choices = braces[1].split(",")
  before, after = pattern[:braces.start()], pattern[braces.end():]
  return [expanded for choice in choices
          for expanded in _expanded(before + choice + after)]


def _matching(pattern):
  """The tars in a folder or of a pattern without braces; a tar itself."""
  if os.path.isfile(pattern):
    return [pattern]
  if os.path.isdir(pattern):
    pattern = os.path.join(glob.escape(pattern), "*")
  return [path for path in glob.glob(pattern, recursive=True)
          if path.endswith(".tar") and os.path.isfile(path)]


def _path_and_caption(row):
  """What one row of a list says."""
  caption = (row["caption"] or "").strip()
  # Too many values come under None: a comma that is not quoted.
  if None in row or not row["path"] or not caption:
    raise ValueError("expected a path and a caption (quoted where it has a "
                     f"comma), got {list(row.values())}.")
  return pathlib.PurePath(row["path"]).as_posix(), caption
