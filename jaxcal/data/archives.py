"""Archives that others made: looked through, then unpacked into one folder.

Nothing is unpacked of an archive that would write elsewhere, holds what is no
file, or grows beyond what archives of pictures do. A file appears under its
name when it is whole, so unpacking may be interrupted at any time.
"""

from collections.abc import Callable, Iterator
import contextlib
import errno
import gzip
import io
import lzma
import os
import pathlib
import stat
import tarfile
from typing import IO, NamedTuple
import zipfile
import zlib

from jaxcal.data import findings
from jaxcal.data import folders
from jaxcal.storage import atomic

SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip")
_BLOCK = 2**20  # bytes that are read at a time
# An archive of pictures is hardly smaller than they are. One that grows more
# than this, and to more than this, is a trap.
_MAX_GROWTH = 30
_ALWAYS_ALLOWED = 64 * 2**20
# What readers raise: for ways of packing that zipfile does not know, too.
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
            EOFError, NotImplementedError, RuntimeError, OSError)
# Of errors of the system, those of readers: no number, or a place before the
# beginning of the file.
_OF_READERS = (None, errno.EINVAL)


class Member(NamedTuple):
  """A file in an archive.

  Attributes:
    name: Path in the archive.
    size: Bytes, as the archive declares them.
  """

  name: str
  size: int


class Unpacked(NamedTuple):
  """What was done with an archive.

  Attributes:
    written: Number of files that were not there.
    replaced: Number of files that were there with another content.
    kept: Number of files that were there already.
  """

  written: int
  replaced: int
  kept: int


def members(path: str | os.PathLike) -> list[Member]:
  """The files in an archive, once all of it was looked through.

  Folders have no entry, nor what systems leave behind.

  Args:
    path: A .tar, .tar.gz, .tgz or .zip.

  Raises:
    FileNotFoundError: There is no such file.
    ValueError: It is damaged, or what it holds is not unpacked here: names that
      lead elsewhere, links, devices, a name twice, far more bytes than it has
      itself; names up to ten.
  """
  found: list[Member] = []
  refused: list[str] = []
  names: set[str] = set()
  size, limit = 0, _limit(path)
  with _opened(path) as entries:
    for name, declared, problem, open_it in entries:
      plain = "/".join(_parts(name))
      problem = problem or _problem(name) or (
          "is there twice" if plain in names else "")
      if problem:
        refused.append(f"{name!r} {problem}")
        continue
      size += declared
      if size > limit:
        raise ValueError(_too_large(path, limit))
      if open_it is not None and not _is_left_behind(name):
        names.add(plain)
        found.append(Member(plain, declared))
  if refused:
    raise ValueError(
        f"{path} is not unpacked: {findings.some(refused)}. It is not as its "
        "authors made it; bring it from its home again")
  return found


def unpack(
    path: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    root: str | os.PathLike,
    progress: Callable[[int, int], None] | None = None,
) -> Unpacked:
  """Writes the files of an archive; those that are there already are kept.

  Args:
    path: The archive; it is looked through first, see `members`.
    folder: Where its paths begin; is made.
    root: Folder that nothing is written outside of, not by links either.
    progress: Function called with (files done, files in all).

  Raises:
    OSError: A file cannot be written; names it and says what to do.
    ValueError: See `members`; or a folder is a link that leads out of the root.
  """
  total = len(members(path))
  done = [0, 0, 0]
  inside: set[pathlib.Path] = set()
  with _opened(path) as entries:
    for name, declared, problem, open_it in entries:
      if problem or _problem(name):
        raise ValueError(f"{path} has changed meanwhile: {name!r}")
      if open_it is None or _is_left_behind(name):
        continue
      target = pathlib.Path(folder, *_parts(name))
      _make_inside(target.parent, pathlib.Path(root), inside)
      done[_put(target, declared, open_it)] += 1
      if progress is not None:
        progress(sum(done), total)
  return Unpacked(*done)


def _put(target, size, open_it) -> int:
  """Writes one file: 0 for a new one, 1 in place of another, 2 for none."""
  before = target.is_symlink() or target.exists()
  if before and not target.is_symlink() and target.is_file() and (
      target.stat().st_size == size) and _same(target, open_it):
    return 2
  with open_it() as file:
    # What a power cut takes is found by the next comparison.
    atomic.write_parts(target, _blocks(file, size), on_disk=False)
  return int(before)


def _same(target, open_it):
  with open_it() as file, target.open("rb") as other:
    return all(block == other.read(len(block)) for block in _blocks(file))


def _blocks(file, size=None):
  """What a file holds; raises where it is less or more than it declares."""
  left = size
  while block := file.read(_BLOCK):
    yield block
    left = None if left is None else left - len(block)
    if left is not None and left < 0:
      raise ValueError(f"{getattr(file, 'name', 'a file')} is longer than its "
                       "archive declares")
  if left:
    raise EOFError("a file in it is cut off")


def _make_inside(folder, root, known):
  """Makes a folder that lies below the root, wherever links lead."""
  if folder in known:
    return
  real, inside = os.path.realpath(folder), os.path.realpath(root)
  if os.path.commonpath([real, inside]) != inside:
    raise ValueError(
        f"{folder} leads to {real}, outside of {root}: a link; remove it, or "
        f"give the folder it leads to as the one that holds the sets")
  atomic.make_folder(folder)
  known.add(folder)


def _problem(name):
  """Why a name cannot be that of a file below the folder; "" if it can."""
  if name.startswith("/") or "\\" in name or "\0" in name or (
      name[1:2] == ":" and name[:1].isalpha()):
    return "is no path below a folder"
  if ".." in name.split("/"):
    return "leads out of the folder"
  return "" if _parts(name) or name in (".", "./") else "is no name"


def _parts(name):
  return [part for part in name.split("/") if part not in ("", ".")]


def _is_left_behind(name):
  return any(map(folders.is_left_behind, _parts(name)))


def _limit(path):
  if not os.path.isfile(path):
    raise FileNotFoundError(f"no file {path}")
  return max(_ALWAYS_ALLOWED, _MAX_GROWTH * os.path.getsize(path))


def _too_large(path, limit):
  return (f"{path} is not unpacked: it would grow to more than {limit:,} "
          "bytes, which no archive of pictures of its size does; bring it from "
          "its home again")


@contextlib.contextmanager
def _opened(path) -> Iterator[Iterator]:
  """(name, bytes, problem, opener or None of a folder) of each entry."""
  read = _in_zip if str(path).lower().endswith(".zip") else _in_tar
  try:
    with contextlib.ExitStack() as stack:
      yield read(path, stack)
  except _DAMAGED as error:
    if isinstance(error, OSError) and error.errno not in _OF_READERS:
      raise
    raise ValueError(f"{path} is cut off, damaged or no archive of its kind "
                     f"({error}); bring it again") from error


def _in_tar(path, stack):
  file: IO[bytes] = stack.enter_context(open(path, "rb"))
  if not str(path).lower().endswith(".tar"):
    file = stack.enter_context(gzip.GzipFile(fileobj=file))
  bounded = _Bounded(file, _limit(path), path)
  tar = stack.enter_context(tarfile.open(
      fileobj=bounded, mode="r:",  # type: ignore[call-overload]
      errors="backslashreplace"))
  for member in tar:
    # Else the list of all members grows, and with it the memory.
    tar.members = []  # type: ignore[attr-defined]
    problem = "" if member.isreg() or member.isdir() else (
        "is a link" if member.issym() or member.islnk() else
        "is a device, or no file of another kind")
    if member.isreg() and member.size < 0:
      problem = "has less than no bytes"
    yield (member.name, member.size if member.isreg() else 0, problem,
           None if member.isdir() else lambda: tar.extractfile(member))


def _in_zip(path, stack):
  archive = stack.enter_context(zipfile.ZipFile(path))
  for info in archive.infolist():
    mode = info.external_attr >> 16
    kind = stat.S_IFMT(mode)
    problem = "" if kind in (0, stat.S_IFREG, stat.S_IFDIR) else (
        "is a link" if kind == stat.S_IFLNK else
        "is a device, or no file of another kind")
    if info.flag_bits & 1:
      problem = "is encrypted"
    yield (info.orig_filename, info.file_size, problem,
           None if info.filename.endswith("/") else
           lambda: archive.open(info))


class _Bounded(io.RawIOBase):
  """A file that gives no more than an archive may, and not much at once."""

  def __init__(self, file: IO[bytes], limit: int, path: str | os.PathLike):
    self._file, self._path = file, path
    # Headers and padding come on top of what the files have.
    self._limit = 2 * limit

  def read(self, size: int | None = -1) -> bytes:
    if size is None or size < 0 or size > 16 * _BLOCK:
      raise ValueError(f"{self._path} is not unpacked: it has a header of "
                       f"{size:,} bytes")
    content = self._file.read(size)
    if self._file.tell() > self._limit:
      raise ValueError(_too_large(self._path, self._limit // 2))
    return content

  def seek(self, position: int, whence: int = 0) -> int:
    if position > self._limit:
      raise ValueError(_too_large(self._path, self._limit // 2))
    return self._file.seek(position, whence)

  def tell(self) -> int:
    return self._file.tell()

  def seekable(self) -> bool:
    return True

  def readable(self) -> bool:
    return True
