"""Is a data set on disk what it should be, and what puts it right if not?

  from jaxcal.data import check, findings
  print(findings.text(check.benchmark("caltech101", "~/data")))

Nothing is written. What no look at files can tell is said in the notes.
"""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import io
import os
import pathlib
from typing import NamedTuple

from jaxcal.data import catalogue
from jaxcal.data import check_files
from jaxcal.data import check_lists
from jaxcal.data import class_names as names_lib
from jaxcal.data import contents as contents_lib
from jaxcal.data import decoding
from jaxcal.data import findings
from jaxcal.data import image_set as image_sets
from jaxcal.data import layouts
from jaxcal.data import screening
from jaxcal.data.findings import Count
from jaxcal.data.findings import Finding
from jaxcal.data.findings import Report
from jaxcal.storage import identity

_UNKNOWN = (
    "files cannot tell that a picture shows what its class says: two classes "
    "whose pictures were exchanged under the same file names pass. The "
    "contents above differ from those of another copy then, and zero-shot "
    "accuracy is near 0 on both classes")
_HEADERS = ("only headers were looked at; a file that is cut off behind its "
            "header is found by decoding alone")


class _Seen(NamedTuple):
  """What is known of a benchmark set before its images are looked at.

  Attributes:
    layout: Sentence on how it lies on disk.
    folder: Folder that the paths start from.
    paths: Images that are there.
    counts: Images by split.
    num_classes: Number of classes that were found.
    findings: What is wrong.
    notes: What needs no mending.
  """

  layout: str
  folder: pathlib.Path
  paths: Sequence[str]
  counts: Sequence[Count]
  num_classes: int
  findings: Sequence[Finding]
  notes: Sequence[str]


class Look(NamedTuple):
  """How closely images are looked at.

  Attributes:
    headers_only: Whether only the headers of files are read, which is quick;
      images are decoded otherwise.
    num_threads: Number of threads that read.
    progress: Function called with (images looked at, images in all).
  """

  headers_only: bool = False
  num_threads: int = 4
  progress: Callable[[int, int], None] | None = None


def benchmark(
    name: str, root: str | os.PathLike, look: Look = Look()) -> Report:
  """Checks a set of the catalogue below a folder, all of its splits.

  Args:
    name: Name in `catalogue.CATALOGUE`.
    root: Folder below which the sets lie.
    look: How closely the images are looked at.

  Returns:
    Everything that was found, whatever was found first. A set without findings
    is taken by `catalogue.load`.

  Raises:
    ValueError: The name is unknown, or that of a set which has its images once
      for every corruption; says how to check one of them.
  """
  entry = catalogue.row(name)
  if catalogue.is_corrupted(entry):
    raise ValueError(
        f"{name} has its images once for every corruption and severity; check "
        f"the folder of one, such as "
        f"{pathlib.Path(root, entry.folders[0], 'fog', '3')}")
  root = pathlib.Path(root).expanduser()
  if entry.layout == "cifar":
    return _in_records(entry, root, look)
  if not any((root / folder).is_dir() for folder in entry.folders):
    return Report(
        name=name, layout=f"not found below {root}", findings=(Finding(
            kind=findings.ABSENT, mend=_fetch(entry, root),
            what=f"none of the folders {', '.join(entry.folders)} is in "
                 f"{root}."),))
  if entry.layout in ("coop", "aircraft"):
    seen = _listed(entry, root)
  else:
    seen = _by_class(entry, root)
  return _as_loaded(entry, root, _with_images(entry, root, look, seen))


def own(
    found: image_sets.ImageSet, layout: str, look: Look = Look()) -> Report:
  """Checks images of one's own.

  Args:
    found: The images.
    layout: Sentence on how they lie on disk.
    look: How closely the images are looked at.
  """
  damaged = screening.failures(
      _reader(found, look), found.ids, num_threads=look.num_threads,
      progress=look.progress)
  mend = "replace these files, or remove them"
  number, used = len(found.ids), set(found.labels.tolist())
  empty = [name for label, name in enumerate(found.class_names)
           if label not in used]
  return Report(
      name=found.name, layout=layout, num_classes=len(found.class_names),
      counts=(Count(split="images", listed=number, there=number),),
      looked_at=_looked_at(number, look),
      contents=_contents({"images": found}),
      findings=(*_alike(found), *check_files.of_damaged(damaged, mend),
                *_same_content(found)),
      notes=(*([f"{len(empty)} classes have no image and stay candidates: "
                f"{findings.some(empty)}"] if empty else []),
             *([_HEADERS] if look.headers_only else []), _UNKNOWN))


def own_path(
    path: str, look: Look = Look(), *,
    split: str = "test", names_file: str | os.PathLike | None = None
) -> Report:
  """Checks what lies at a path: a folder, a list, parquet files, tars.

  Args:
    path: The path.
    look: How closely the images are looked at.
    split: Split, where the layout has several.
    names_file: Text file with the class names.

  Raises:
    FileNotFoundError: Nothing lies there.
    ImportError: A package is needed that is not installed.
  """
  if not os.path.exists(path) and not set("*?[{") & set(path):
    raise FileNotFoundError(f"no file or folder {path}")
  try:
    found = layouts.read(path, split=split, names_file=names_file)
  except (OSError, ValueError) as error:
    return _not_read(path, error, look)
  if found is None:
    return _not_read(path, "it is no folder, .csv, .txt, .parquet or .tar",
                     look)
  return own(found.images, found.layout, look)


def _not_read(path, why, look):
  """The report on what is no image set, with all that is known of it."""
  wrong = [Finding(kind=findings.LAYOUT, what=str(why),
                   mend="do what it says, then check again")]
  paths: list[str] = []
  if os.path.isdir(path):
    paths = check_files.images_in(check_files.tree(pathlib.Path(path)))
    wrong += check_files.of_damaged(screening.failures(
        lambda position: _look_at(pathlib.Path(path, paths[position]), look),
        paths,
        num_threads=look.num_threads, progress=look.progress),
                                    "replace these files, or remove them")
  elif layouts.suffix_of(path) == ".csv":
    wrong += check_lists.of_csv(pathlib.Path(path))
  return Report(name=layouts.name_of(path), layout="not read as an image set",
                looked_at=_looked_at(len(paths), look), findings=tuple(wrong))


def _listed(entry, root) -> _Seen:
  """A set whose splits are lists of files."""
  lists, where = _lists(entry, root)
  splits = {split: [one.path for one in rows]
            for split, rows in lists.splits.items()}
  listed = list(dict.fromkeys(path for paths in splits.values()
                              for path in paths))
  folder, misplaced = _images(entry, root, listed)
  wrong = [*lists.findings, *misplaced]
  other = check_lists.of_other_set(entry, lists) if listed else None
  there = check_files.tree(folder)
  if other is not None:
    wrong.append(Finding(
        kind=findings.SPLIT_OF_OTHER, mend=_put_split(entry, root),
        what=f"{lists.source} has the classes of {other}, not of "
             f"{entry.name}."))
  elif listed:
    wrong += check_lists.check(entry, lists, _put_split(entry, root))
  on_disk = {path for below, names in there.items()
             for path in (f"{below}/{name}".lstrip("/") for name in names)}
  notes: list[str] = []
  if listed and other is None:
    found, notes = check_files.against_list(
        folder, listed, there, fetch=_fetch(entry, root),
        unused=entry.prepared.unused if entry.prepared else ())
    wrong += found
    paths = [path for path in listed if path in on_disk]
  else:
    notes = ["no file was held against a list"]
    paths = check_files.images_in(there)
  return _Seen(where, folder, paths, [
      Count(split=split, listed=len(files), expected=entry.counts[split],
            there=sum(path in on_disk for path in files))
      for split, files in splits.items()],
               len({one.name for rows in lists.splits.values()
                    for one in rows}), wrong, notes)


def _by_class(entry, root) -> _Seen:
  """A set of one folder per class, called by its id or its label."""
  wrong: list[Finding] = []
  notes: list[str] = []
  counts, paths = [], []
  folders: list[pathlib.Path] = []
  for split, expected in entry.counts.items():
    try:
      places = catalogue.image_folders(entry, root, split)
    except FileNotFoundError as error:
      notes.append(f"no images of the split {split!r}: {error}")
      continue
    folder = max(places, key=lambda place: sum(
        (place / name).is_dir() for name in entry.class_folders))
    if folder in folders:  # validation and test images are the same
      continue
    folders.append(folder)
    there = check_files.tree(folder)
    wrong += _classes(entry, folder, there, _fetch(entry, root))
    images = [path for path in check_files.images_in(there)
              if path.partition("/")[0] in set(entry.class_folders)]
    paths += [folder / path for path in images]
    counts.append(Count(split=split, listed=len(images), there=len(images),
                        expected=expected))
    if len(images) != expected:
      wrong.append(Finding(
          kind=findings.COUNT, mend=_fetch(entry, root),
          what=f"{folder} has {len(images):,} images of the split {split!r}, "
               f"not {expected:,}."))
  if not folders:
    wrong.append(Finding(
        kind=findings.ABSENT, what=notes.pop(), mend=_fetch(entry, root)))
  base = pathlib.Path(os.path.commonpath(folders)) if folders else root
  return _Seen(
      f"a folder for each class in {' and '.join(map(str, folders))}", base,
      [path.relative_to(base).as_posix() for path in paths], counts,
      entry.num_classes, wrong, notes)


def _in_records(entry, root, look):
  """A set that its reader knows whole, split by split."""
  counts, wrong, sets = [], [], {}
  for split, expected in entry.counts.items():
    try:
      found = catalogue.load(entry.name, root, split=split, partial=True)
    except (OSError, ValueError) as error:
      wrong.append(Finding(kind=findings.LAYOUT, mend=_fetch(entry, root),
                           what=f"{split}: {error}"))
      continue
    sets[split] = found
    counts.append(Count(split=split, listed=len(found.ids),
                        there=len(found.ids), expected=expected))
    if len(found.ids) != expected:
      wrong.append(Finding(
          kind=findings.COUNT, mend=_fetch(entry, root),
          what=f"{len(found.ids):,} images of the split {split!r}, not "
               f"{expected:,}."))
    wrong += check_files.of_damaged(screening.failures(
        _reader(found, look), found.ids, num_threads=look.num_threads,
        progress=look.progress), _fetch(entry, root))
  return Report(
      name=entry.name, layout=f"below {root}", counts=tuple(counts),
      num_classes=entry.num_classes if sets else 0, contents=_contents(sets),
      looked_at=_looked_at(sum(count.there for count in counts), look),
      findings=tuple(wrong), notes=(_UNKNOWN,))


def _with_images(entry, root, look, seen) -> Report:
  """The report, once the images were looked at, too."""
  folder, paths = seen.folder, seen.paths
  damaged = screening.failures(
      lambda position: _look_at(folder / paths[position], look), paths,
      num_threads=look.num_threads, progress=look.progress)
  notes = list(seen.notes)
  same = _groups_of_one_content([folder / path for path in paths])
  if same:
    first, second = paths[same[0][0]], paths[same[0][1]]
    notes.append(f"{len(same)} pictures lie there more than once, such as "
                 f"{first} and {second}; some sets were published so")
  return Report(
      name=entry.name, layout=seen.layout, counts=tuple(seen.counts),
      num_classes=seen.num_classes, looked_at=_looked_at(len(paths), look),
      findings=(*seen.findings, *check_files.of_damaged(
          damaged, _fetch(entry, root))),
      notes=(*notes, *([_HEADERS] if look.headers_only else []), _UNKNOWN))


def _as_loaded(entry, root, report):
  """The report with the contents of each split as a run would read it."""
  wrong, found = list(report.findings), {}
  for count in report.counts:
    try:
      found[count.split] = catalogue.load(entry.name, root, split=count.split)
    except (OSError, ValueError) as error:
      # What a run would refuse is never called clean.
      if not report.findings:
        wrong.append(Finding(
            kind=findings.LAYOUT, what=f"{count.split}: {error}",
            mend="do what it says, then check again"))
  return dataclasses.replace(
      report, findings=tuple(wrong), contents=_contents(found))


def _lists(entry, root):
  """The lists of a set, and where they are."""
  mend = _put_split(entry, root)
  if entry.layout == "aircraft":
    try:
      folder = catalogue.image_folders(
          entry, root, "test", marker="variants.txt")[0]
    except FileNotFoundError as error:
      return _no_lists(str(error), mend)
    return (check_lists.read_aircraft(folder, mend),
            f"the authors' lists in {folder}")
  try:
    path = catalogue.split_file(entry, root)
  except FileNotFoundError as error:
    return _no_lists(str(error), mend)
  return check_lists.read_coop(path, mend), f"listed in {path}"


def _no_lists(why, mend):
  return check_lists.Lists({}, "", [Finding(
      kind=findings.SPLIT_ABSENT, what=why, mend=mend)]), "without lists"


def _images(entry, root, listed):
  """The folder that has most of the listed files, and whether it is misplaced.
  """
  sets = [root / folder for folder in entry.folders
          if (root / folder).is_dir()]
  try:
    places = catalogue.image_folders(entry, root, "test")
  except FileNotFoundError:
    places = sets
  some = listed[::max(1, len(listed) // 500)]
  number = lambda place: sum(os.path.isfile(place / path) for path in some)
  best = max(places, key=number)
  if not listed or number(best):
    return best, []
  some = listed[::max(1, len(listed) // 20)]
  deeper = [path for folder in sets for pattern in ("*", "*/*")
            for path in folder.glob(pattern) if path.is_dir()]
  found = max(deeper, key=number, default=None)
  if found is None or not number(found):
    return best, []
  target = sets[0] / entry.images[0]
  return found, [Finding(
      kind=findings.FOLDER_RENAMED,
      what=f"the images are in {found}, where they are not looked for.",
      mend=check_files.move(found, target))]


def _classes(entry, folder, there, fetch) -> Iterator[Finding]:
  """Findings on class folders of which no list of files is known."""
  found = {path.partition("/")[0] for path in check_files.images_in(there)
           if "/" in path}
  absent = [name for name in entry.class_folders if name not in found]
  extra = sorted(found - set(entry.class_folders))
  names = dict(zip(entry.class_folders, map(
      catalogue.plain, entry.class_names)))
  for name in list(absent):
    called = next((one for one in extra if catalogue.plain(one) in (
        names[name], catalogue.plain(name))), None)
    if called is None and len(absent) == len(extra) == 1:
      called = extra[0]
    if called is not None:
      absent.remove(name)
      extra.remove(called)
      yield Finding(
          kind=findings.FOLDER_RENAMED,
          what=f"{folder / called} seems to be the class folder {name} "
               f"({names[name]}).",
          mend=check_files.move(folder / called, folder / name))
  if absent:
    yield Finding(
        kind=findings.FOLDER_ABSENT, mend=fetch,
        what=f"{len(absent)} of {entry.num_classes} class folders are not in "
             f"{folder} or have no images: {findings.some(absent)}.")
  for name in extra:
    yield Finding(
        kind=findings.FOLDER_EXTRA,
        what=f"{folder / name} is no class of the set.",
        mend=f"move it out of {folder}")


def _alike(found):
  """Classes that are one to a model."""
  return [Finding(
      kind=findings.CLASS_NAMES,
      what=f"{' and '.join(map(repr, names))} are one class to a model.",
      mend="put their images into one class, or give other class names "
           "(--class_names)") for names in names_lib.alike(found.class_names)]


def _same_content(found):
  """Files of one content that are of two classes, or count twice."""
  if found.path is None:
    return []
  paths = [found.path(position) for position in range(len(found.ids))]
  groups = _groups_of_one_content(paths)
  between = [rows for rows in groups
             if len({int(found.labels[row]) for row in rows}) > 1]
  told = [" and ".join(found.ids[row] for row in rows) for rows in between]
  if not between:
    return []
  return [Finding(
      kind=findings.CONTENTS, mend="keep each picture in its own class alone",
      what=f"{len(between)} pictures are of two classes: "
           f"{findings.some(told)}.")]


def _groups_of_one_content(
    paths: Sequence[pathlib.Path]) -> list[tuple[int, ...]]:
  """Positions of files that hold the same bytes, together; none are empty."""
  digests = identity.file_digests(paths)
  rows_of: dict[bytes, list[int]] = collections.defaultdict(list)
  for row, (size, digest) in enumerate(zip(digests.sizes, digests.digests)):
    if size:
      rows_of[digest.tobytes()].append(row)
  return [tuple(rows) for rows in rows_of.values() if len(rows) > 1]


def _contents(sets: Mapping[str, image_sets.ImageSet]) -> dict[str, str]:
  """What `run.json` has of each set, too."""
  found = {split: contents_lib.identity_of(one)["data.contents"]
           for split, one in sets.items()}
  return {split: digest for split, digest in found.items()
          if digest is not None}


def _reader(found, look):
  """What looks at the image at a position, and raises if it is damaged."""
  if found.path is not None:
    return lambda position: _look_at(found.path(position), look)
  if found.encoded is not None:
    return lambda position: _look_at(found.encoded(position), look)
  return found.read


def _look_at(image, look):
  """Looks at a file or at the bytes of one."""
  is_bytes = isinstance(image, bytes)
  # What can be decoded may still be too narrow for views.
  decoding.check_header(io.BytesIO(image) if is_bytes else image)
  if not look.headers_only:
    if is_bytes:
      decoding.decode_bytes(image, "it")
    else:
      decoding.decode(image)


def _looked_at(number, look):
  how = "looked at by their headers" if look.headers_only else "decoded"
  return f"{number:,} images {how}"


def _put_split(entry, root):
  """The step that brings the published lists."""
  if entry.layout == "aircraft":
    return ("take variants.txt and images_variant_SPLIT.txt from the archive "
            f"again, see {entry.home}")
  place = catalogue.split_file_home(entry, root)
  return (f"put the published {entry.split_file} at {place}; it is linked from "
          "DATASETS.md in https://github.com/KaiyangZhou/CoOp")


def _fetch(entry, root):
  """The step that brings the published files."""
  return (f"take them from the archive again: jaxcal data prepare {entry.name} "
          f"--root={root} --archives=FOLDER; from {entry.home}")
