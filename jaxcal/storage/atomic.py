"""Files that a reader sees whole or not at all, whoever else writes them.

A file is written beside its place, under a name that no other writer has, made
safe on the disk, and only then renamed. So it is whole between processes, after
a kill and after a power loss; what a kill leaves behind is known by its name.
"""

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import errno
import os
import pathlib
import re
import secrets
import time

from jaxcal.storage import process

Path = str | os.PathLike
# What tells a file from the one that took its place.
Stamp = tuple[int, int]

_HALF = re.compile(r"\.([0-9a-f]{8})-(\d+)-(\d+)-[0-9a-f]{8}\.half")
# Half files of processes that cannot be seen from here are no longer written.
_STALE_SECONDS = 3600
_WAYS_OUT = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
        "make room and give the same command again, it goes on from here"),
    **dict.fromkeys(
        (errno.EROFS, errno.EACCES, errno.EPERM),
        "choose a place that can be written to, or change who may write here"),
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "the folder above it is gone, or is none that can be written "
                  "to; choose another place",
    errno.ENOTDIR: "a file lies where a folder is needed; choose another place",
}
# Of file systems on which a folder has nothing to make safe.
_NOTHING_TO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


def write_whole(path: Path, content: bytes) -> None:
  """Writes a file so that a reader sees all of it or what was there before.

  Args:
    path: Place of the file; its folder is there already.
    content: What the file will hold.

  Raises:
    OSError: Of the same kind as the system's, but names the file and says what
      to do.
  """
  write_together({path: content})


def write_together(contents: Mapping[Path, bytes]) -> dict[Path, Stamp | None]:
  """Writes files of which each is whole, and that appear close together.

  All are safe on the disk before the first one takes its place. They take it in
  the order given.

  Args:
    contents: What each file will hold.

  Returns:
    The stamps of the new files, see `stamp`.

  Raises:
    OSError: See `write_whole`.
  """
  halves = {}
  stamps = {}
  try:
    for path, content in contents.items():
      halves[path] = _beside(path)
      with explained(path):
        _write(halves[path], content)
        stamps[path] = stamp(halves[path])
    for path in contents:
      with explained(path):
        _rename(halves[path], path)
  finally:
    for half in halves.values():
      _remove(half)
  _sync_folders(contents)
  return stamps


def write_parts(
    path: Path, parts: Iterable[bytes], *, on_disk: bool = True) -> None:
  """`write_whole` of what is not in memory at once.

  Args:
    path: Place of the file; its folder is there already.
    parts: What the file will hold, one after the other. What they raise leaves
      what was there before.
    on_disk: Whether to wait until the file is safe from a power cut.

  Raises:
    OSError: See `write_whole`.
  """
  half = _beside(path)
  try:
    with explained(path), open(half, "xb") as file:
      for part in parts:
        file.write(part)
      file.flush()
      if on_disk:
        os.fsync(file.fileno())
    with explained(path):
      _rename(half, path)
  finally:
    _remove(half)
  if on_disk:
    _sync_folders([path])


def write_new(path: Path, content: bytes) -> bool:
  """Writes a file where there is none; of several writers, one succeeds.

  Args:
    path: Place of the file; its folder is there already.
    content: What the file will hold.

  Returns:
    Whether it was this call that wrote the file.

  Raises:
    OSError: See `write_whole`.
  """
  half = _beside(path)
  try:
    with explained(path):
      _write(half, content)
      if not _appear(half, path):
        return False
  finally:
    _remove(half)
  _sync_folders([path])
  return True


def make_folder(folder: Path) -> None:
  """Makes a folder and those above it, where they are missing.

  Raises:
    OSError: Names the folder and says what to do.
  """
  with explained(folder, "making the folder"):
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def explained(path: Path, doing: str = "writing") -> Iterator[None]:
  """What goes wrong in here names the file and says what to do.

  Args:
    path: The file.
    doing: What is being done with it.

  Raises:
    OSError: Of the kind that was raised in here.
  """
  try:
    yield
  except OSError as error:
    if error.errno is None:
      raise
    way_out = _WAYS_OUT.get(error.errno)
    raise OSError(error.errno, f"{error.strerror} while {doing} "
                  f"{os.fspath(path)}" + (f"; {way_out}" if way_out else "")
                  ) from error


def stamp(path: Path) -> Stamp | None:
  """What changes whenever a file is written anew; None without a file."""
  try:
    found = os.stat(path)
  except FileNotFoundError:
    return None
  return found.st_ino, found.st_mtime_ns


def set_aside(path: Path) -> pathlib.Path:
  """Renames a damaged file to NAME.damaged, or NAME.damaged-2 and so on.

  Args:
    path: The file. Where another process has set it aside, nothing happens.

  Returns:
    What the file is called now.
  """
  number, aside = 1, with_ending(path, "damaged")
  while aside.exists():
    number += 1
    aside = with_ending(path, f"damaged-{number}")
  with contextlib.suppress(FileNotFoundError):
    with explained(path, "setting aside"):
      os.rename(path, aside)
  return aside


def is_leftover(name: str) -> bool:
  """Whether a file of this name was to be renamed when it was whole."""
  return _HALF.fullmatch(name) is not None


def remove_leftovers(folder: Path) -> list[pathlib.Path]:
  """Removes what killed writers left in a folder and below.

  Files that are still being written stay: those of processes that run, and
  those less than an hour old of processes on other machines.

  Args:
    folder: Where to look.

  Returns:
    The files that were removed.
  """
  removed = []
  # Unlike `rglob`, this minds no folder that is removed meanwhile.
  for below, _, names in os.walk(os.fspath(folder)):
    for path in (pathlib.Path(below, name) for name in filter(
        is_leftover, names)):
      if _is_stale(path):
        _remove(path)
        removed.append(path)
  return removed


def with_ending(path: Path, ending: str) -> pathlib.Path:
  """`path`.`ending`; unlike `with_suffix`, a dot in the name stays."""
  return pathlib.Path(f"{os.fspath(path)}.{ending}")


def leftover_name(writer: process.Process) -> str:
  """A new name for a file that this process has not written to its end."""
  machine, pid, started = writer
  # Without the name of the file, beside which there may be no room.
  return f".{machine}-{pid}-{started}-{secrets.token_hex(4)}.half"


def _beside(path):
  return pathlib.Path(path).with_name(leftover_name(process.current()))


def _write(half, content):
  with open(half, "xb") as file:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


def _rename(half, path):
  os.replace(half, path)


def _appear(half, path):
  """Gives a file its name unless the name is taken; whether it got it."""
  try:
    os.link(half, path)
  except FileExistsError:
    return False
  except OSError as error:
    if error.errno not in _NO_LINKS:
      raise
    # On such file systems two that come at the same instant both succeed.
    if os.path.lexists(path):
      return False
    os.replace(half, path)
  return True


def _remove(half):
  # What cannot be removed either must not hide the error that led here.
  with contextlib.suppress(OSError):
    half.unlink(missing_ok=True)


def _sync_folders(paths):
  """Makes the names of files safe, not their content alone."""
  if os.name != "posix":
    return
  for folder in dict.fromkeys(pathlib.Path(path).parent for path in paths):
    try:
      descriptor = os.open(folder, os.O_RDONLY)
      try:
        os.fsync(descriptor)
      finally:
        os.close(descriptor)
    except OSError as error:
      if error.errno not in _NOTHING_TO_SYNC:
        raise OSError(error.errno, f"{error.strerror} while making the names "
                      f"in {folder} safe on the disk") from error


def _is_stale(half):
  name = _HALF.fullmatch(half.name)
  if name is None:
    return False
  machine, pid, started = name.groups()
  running = process.runs(process.Process(machine, int(pid), int(started)))
  if running is None:
    try:
      return time.time() - half.stat().st_mtime > _STALE_SECONDS
    except FileNotFoundError:
      return False
  return not running
