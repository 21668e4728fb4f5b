"""What lies on disk, held against what is listed; and what the files hold."""

import collections
from collections.abc import Collection, Iterator, Mapping
import os
import pathlib
import posixpath
import shlex

from jaxcal.data import findings
from jaxcal.data import folders as folders_lib
from jaxcal.data.findings import Finding

# Names of the regular files by their folder, both below the folder of images.
Tree = Mapping[str, Collection[str]]
# Part of the file names of a class by which a folder is known to be its own.
_ALMOST_ALL = 0.95


def tree(root: pathlib.Path) -> Tree:
  """The regular files below a folder, without what systems leave behind.

  Args:
    root: The folder.
  """
  found: dict[str, list[str]] = {}
  # Not by recursion: folders may lie deeper than that goes.
  left: list[tuple[str, str, frozenset]] = [(os.fspath(root), "", frozenset())]
  while left:
    folder, relative, above = left.pop()
    about = os.stat(folder)
    if (about.st_dev, about.st_ino) in above:  # links in a circle
      continue
    above = above | {(about.st_dev, about.st_ino)}
    entries = folders_lib.entries(folder)
    found[relative] = [entry.name for entry in entries
                       if os.path.isfile(entry.path)]
    left += [(entry.path, posixpath.join(relative, entry.name), above)
             for entry in reversed(entries) if folders_lib.is_folder(entry)]
  return found


def images_in(there: Tree) -> list[str]:
  """Paths of what is an image by its suffix."""
  return [posixpath.join(folder, name)
          for folder, names in there.items() for name in names
          if folders_lib.is_image(name)]


def against_list(
    root: pathlib.Path, listed: Collection[str], there: Tree, *,
    unused: Collection[str] = (), fetch: str
) -> tuple[list[Finding], list[str]]:
  """Findings and notes on files and class folders.

  Args:
    root: Folder of the images.
    listed: Paths below it that the lists name.
    there: What lies below it.
    unused: Names of class folders that the set has and the benchmark leaves
      out.
    fetch: Step that brings files that are missing.
  """
  wanted = _by_folder(listed)
  gone = {folder: sorted(names - set(there.get(folder, ())))
          for folder, names in wanted.items()}
  gone = {folder: names for folder, names in gone.items() if names}
  known = {name.lower() for name in unused}
  extra = [folder for folder, names in there.items()
           if folder not in wanted and any(map(folders_lib.is_image, names)) and
           not set(folder.lower().split("/")) & known]
  found: list[Finding] = []
  for first, second in list(_swapped(gone, wanted, there)):
    gone.pop(first)
    gone.pop(second, None)
    found.append(_swap(root, first, second))
  for folder, new in _renamed(gone, wanted, there, extra):
    del gone[folder]
    extra.remove(new)
    found.append(Finding(
        kind=findings.FOLDER_RENAMED,
        what=f"{root / new} has the files that belong into {folder}.",
        mend=move(root / new, root / folder)))
  found += _absent(root, gone, wanted, there, fetch)
  found += [_extra(root, folder, there[folder]) for folder in extra]
  return found, list(_notes(wanted, there, unused))


def of_damaged(bad: Mapping[str, str], fetch: str) -> list[Finding]:
  """The finding on images that cannot be read; none without such.

  Args:
    bad: Reason by id, see `screening.failures`.
    fetch: Step that brings the images anew.
  """
  if not bad:
    return []
  told = [f"{image_id} ({reason})" for image_id, reason in bad.items()]
  return [Finding(
      kind=findings.IMAGES, mend=fetch,
      what=f"{len(bad)} files cannot be read as images: "
           f"{findings.some(told)}.")]


def move(source: pathlib.Path, target: pathlib.Path) -> str:
  """The command that renames a folder or file."""
  return f"mv {shlex.quote(str(source))} {shlex.quote(str(target))}"


def _by_folder(paths) -> dict[str, set[str]]:
  found = collections.defaultdict(set)
  for path in paths:
    folder, name = posixpath.split(posixpath.normpath(path))
    found[folder].add(name)
  return dict(found)


def _swapped(gone, wanted, there) -> Iterator[tuple[str, str]]:
  """Pairs of class folders of which each holds the files of the other."""
  left = [folder for folder in wanted if folder in there]
  for first in [folder for folder in gone if folder in there]:
    second = next((
        folder for folder in left if first in left and folder != first and
        _share(set(there[first]), wanted[folder]) > _ALMOST_ALL and
        _share(set(there[folder]), wanted[first]) > _ALMOST_ALL and
        _share(wanted[first], wanted[folder]) < _ALMOST_ALL), None)
    if second is not None:
      left = [folder for folder in left if folder not in (first, second)]
      yield first, second


def _share(one, other):
  """Part of two sets of names that both have."""
  return len(one & other) / max(len(one), len(other), 1)


def _swap(root, first, second):
  aside = root / f"{first}.aside"
  return Finding(
      kind=findings.FOLDERS_SWAPPED,
      what=f"{root / first} has the files that belong into {second}, and the "
           "other way round.",
      mend=" && ".join((move(root / first, aside),
                        move(root / second, root / first),
                        move(aside, root / second))))


def _renamed(gone, wanted, there, extra) -> list[tuple[str, str]]:
  """Class folders that are gone, and what they may be called now."""
  found, left = [], list(extra)
  for folder, names in gone.items():
    if folder in there or len(names) < len(wanted[folder]):
      continue
    shared = {new: _share(set(there[new]), wanted[folder]) for new in left}
    new = max(left, default=None, key=lambda one: (
        shared[one], one.lower() == folder.lower()))
    if new is not None and shared[new] > 0.5:
      left.remove(new)
      found.append((folder, new))
  return found


def _absent(root, gone, wanted, there, fetch) -> Iterator[Finding]:
  """Class folders and single files that are not there."""
  folders = [folder for folder in gone if folder not in there]
  if folders:
    number = sum(len(gone[folder]) for folder in folders)
    yield Finding(
        kind=findings.FOLDER_ABSENT, mend=fetch,
        what=f"{len(folders)} of {len(wanted)} folders are not below {root}, "
             f"with {number} images: {findings.some(folders)}.")
  single = {folder: names for folder, names in gone.items() if folder in there}
  files = [posixpath.join(folder, name)
           for folder, names in single.items() for name in names]
  if not files:
    return
  moves = []
  for folder, names in single.items():
    others = {_loose(name): name for name in there[folder]
              if name not in wanted[folder]}
    moves += [move(root / folder / others[_loose(name)], root / folder / name)
              for name in names if _loose(name) in others]
  yield Finding(
      kind=findings.FILES_ABSENT, mend="; ".join([*moves[:10], *(
          [fetch] if len(moves) != len(files) else [])]),
      what=f"{len(files)} listed files are not below {root}: "
           f"{findings.some(files)}.")


def _loose(name):
  """A file name without what copies change: case, .jpeg for .jpg."""
  return name.lower().replace(".jpeg", ".jpg")


def _extra(root, folder, names):
  number = sum(map(folders_lib.is_image, names))
  return Finding(
      kind=findings.FOLDER_EXTRA,
      what=f"{root / folder} with {number} images is no class of the set; "
           "nothing of it is read.",
      mend=f"move it out of {root}, or rename it if it is one of the classes")


def _notes(wanted, there, unused):
  known = {name.lower() for name in unused}
  more = sum(1 for folder, names in there.items() if folder in wanted
             for name in names
             if folders_lib.is_image(name) and name not in wanted[folder])
  if more:
    yield f"{more} images beside the listed ones are in no split"
  aside = sorted({part for folder in there for part in folder.split("/")
                  if part.lower() in known})
  if aside:
    yield f"the benchmark leaves out {', '.join(aside)}"
