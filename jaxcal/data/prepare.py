"""A benchmark set from the archives of its home: unpacked where it belongs.

Nothing is downloaded. A second run goes on where the first one was stopped, and
puts right what is there with another content.
"""

from collections.abc import Callable, Iterator
import dataclasses
import os
import pathlib
import shutil

from jaxcal.data import archives as archives_lib
from jaxcal.data import catalogue
from jaxcal.data import check_lists
from jaxcal.storage import atomic

# The archives of a set as their homes call them, without the suffix, and the
# folder below the root that their paths start from.
_ARCHIVES: dict[str, tuple[tuple[str, str], ...]] = {
    "imagenet_a": (("imagenet-a", ""),),
    "imagenet_v2": (("imagenetv2-matched-frequency", ""),
                    ("imagenetv2-matched-frequency-format-val", "")),
    "imagenet_r": (("imagenet-r", ""),),
    "imagenet_sketch": (("ImageNet-Sketch", "imagenet-sketch"),),
    "dtd": (("dtd-r1.0.1", ""), ("dtd-r1.0", "")),
    "oxford_flowers": (("102flowers", "oxford_flowers"),),
    "food101": (("food-101", ""),),
    "stanford_cars": (("cars_train", "stanford_cars"),
                      ("cars_test", "stanford_cars"),
                      ("car_devkit", "stanford_cars")),
    "sun397": (("SUN397", "sun397"),),
    "fgvc_aircraft": (("fgvc-aircraft-2013b", ""),),
    "oxford_pets": (("images", "oxford_pets"), ("annotations", "oxford_pets")),
    # The first one holds the second one.
    "caltech101": (("caltech-101", ""),
                   ("101_ObjectCategories", "caltech-101")),
    "ucf101": (("UCF-101-midframes", "ucf101"),),
    "eurosat": (("EuroSAT", "eurosat"),),
    "cifar10": (("cifar-10-binary", ""),),
    "cifar100": (("cifar-100-binary", ""),),
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Step:
  """An archive to be unpacked.

  Attributes:
    archive: Path of the archive.
    folder: Folder that its paths start from.
    num_files: Number of files in it.
    num_bytes: Bytes of them, as the archive declares.
    inner: Archives of the set among them.
  """

  archive: pathlib.Path
  folder: pathlib.Path
  num_files: int
  num_bytes: int
  inner: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
  """What is to be done for a set.

  Attributes:
    name: Name in the catalogue.
    root: Folder below which the sets lie; nothing is written elsewhere.
    steps: Archives in the order of unpacking.
    split_file: Split file that is put in place; None where none was found, or
      the set needs none.
    split_place: Where it is put.
  """

  name: str
  root: pathlib.Path
  steps: tuple[Step, ...]
  split_file: pathlib.Path | None = None
  split_place: pathlib.Path | None = None


def archive_names(name: str) -> tuple[str, ...]:
  """What the archives of a set are called at its home, without suffixes.

  Args:
    name: Name in the catalogue.
  """
  return tuple(stem for stem, _ in _ARCHIVES.get(name, ()))


def plan(
    name: str, archives: str | os.PathLike, root: str | os.PathLike) -> Plan:
  """What would be done; all archives are looked through, nothing is written.

  Args:
    name: Name in the catalogue.
    archives: Folder with the archives, as their homes call them, and with the
      split file.
    root: Folder below which the set is to lie; need not be there.

  Raises:
    FileNotFoundError: There is no such folder, or nothing of the set in it;
      says what was looked for and how to obtain it.
    ValueError: The set is unknown or not known by its archives, an archive is
      not to be unpacked, the split file is of another set, or there is not
      enough room.
  """
  entry = catalogue.row(name)
  source, root = pathlib.Path(archives), pathlib.Path(root)
  if name not in _ARCHIVES:
    raise ValueError(
        f"the archives of {name} are not unpacked here; lay it out as "
        f"{entry.folders[0]}/{entry.images[0].replace('{split}', 'val')}/WNID, "
        f"then check it: jaxcal data check {name} --root={root}")
  if not source.is_dir():
    raise FileNotFoundError(f"no folder {source}; give the one that has the "
                            "archives (--archives)")
  steps = tuple(_steps(name, source, root))
  split = _split_file(entry, source)
  if not steps and split is None:
    wanted = [f"{stem}{archives_lib.SUFFIXES[0]}" for stem in archive_names(
        name)] + ([entry.split_file] if entry.split_file else [])
    raise FileNotFoundError(
        f"{source} has none of {', '.join(wanted)} (or .tgz, .tar, .zip). "
        f"{catalogue.how_to_obtain(entry)}")
  _check_room(root, sum(step.num_bytes for step in steps))
  return Plan(name=name, root=root, steps=steps, split_file=split,
              split_place=(
                  catalogue.split_file_home(entry, root) if split else None))


def text(planned: Plan) -> str:
  """What will be done, in lines."""
  lines = [
      f"{step.archive}: {step.num_files:,} files of {step.num_bytes:,} bytes "
      f"go below {step.folder}" for step in planned.steps]
  if planned.split_file is not None:
    lines.append(f"{planned.split_file} goes to {planned.split_place}")
  return "\n".join([f"{planned.name} in {planned.root}:", *(
      f"  {line}" for line in lines)])


def carry_out(
    planned: Plan, *,
    progress: Callable[[str, int, int], None] | None = None
) -> Iterator[str]:
  """Does it, and yields a sentence on each step that is done.

  Archives of the set that lie in another one are unpacked, too.

  Args:
    planned: What is to be done.
    progress: Function called with (archive, files done, files in all).

  Raises:
    OSError: A file cannot be written; names it and says what to do.
    ValueError: See `plan`.
  """
  atomic.make_folder(planned.root)
  for folder in {step.folder for step in planned.steps}:
    if folder.is_dir():
      atomic.remove_leftovers(folder)
  for step in planned.steps:
    yield _unpack(step, planned.root, progress)
    for name in step.inner:
      archive = step.folder / name
      for inner in _steps(planned.name, archive.parent, planned.root):
        if inner.archive == archive:
          yield _unpack(inner, planned.root, progress)
  if planned.split_file is not None and planned.split_place is not None:
    atomic.make_folder(planned.split_place.parent)
    atomic.write_whole(planned.split_place, planned.split_file.read_bytes())
    yield f"{planned.split_place} is in place"


def _unpack(step, root, progress) -> str:
  name = step.archive.name
  report = progress and (lambda done, total: progress(name, done, total))
  done = archives_lib.unpack(
      step.archive, step.folder, root=root, progress=report)
  return (f"{name}: {done.written:,} files written, {done.replaced:,} "
          f"replaced, {done.kept:,} there already")


def _steps(name, source, root) -> Iterator[Step]:
  """The archives of a set in a folder."""
  for stem, into in _ARCHIVES[name]:
    for suffix in archives_lib.SUFFIXES:
      archive = source / f"{stem}{suffix}"
      if archive.is_file():
        members = archives_lib.members(archive)
        yield Step(
            archive=archive, folder=root / into if into else root,
            num_files=len(members),
            num_bytes=sum(member.size for member in members),
            inner=tuple(member.name for member in members
                        if _is_archive_of(name, member.name)))
        break


def _is_archive_of(name, path):
  """Whether a file is called like an archive of a set."""
  file = path.rpartition("/")[2]
  return any(file == f"{stem}{suffix}" for stem in archive_names(name)
             for suffix in archives_lib.SUFFIXES)


def _split_file(entry, source):
  """The split file among the archives, once it is known to be the set's."""
  if entry.split_file is None:
    return None
  for folder in (source, source / "data_splits"):
    path = folder / entry.split_file
    if not path.is_file():
      continue
    lists = check_lists.read_coop(path, "bring it again")
    if lists.findings:
      raise ValueError(lists.findings[0].what)
    other = check_lists.of_other_set(entry, lists)
    if other is not None:
      raise ValueError(f"{path} has the classes of {other}, not of "
                       f"{entry.name}; bring the published one")
    return path
  return None


def _check_room(root, needed):
  """Refuses what the disk cannot hold."""
  place = root.absolute()
  while not place.exists():
    place = place.parent
  free = shutil.disk_usage(place).free
  if needed > free:
    raise ValueError(f"{root} has room for {free:,} bytes, and {needed:,} are "
                     "needed; make room, or choose another folder (--root)")
