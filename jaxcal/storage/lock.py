"""A folder that one run at a time writes to.

The lock is a file with the owner in it. A crash leaves it behind; the next one
takes it over when the owner's process is gone, or, where that cannot be seen
from its machine, when the owner has not touched the file for some minutes.
"""

from collections.abc import Iterator
import contextlib
import datetime
import hashlib
import json
import os
import pathlib
import re
import secrets
import shlex
import socket
import sys
import threading
import time
from typing import NamedTuple

from jaxcal.storage import atomic
from jaxcal.storage import process

NAME = "jaxcal.lock"
_CLAIM = re.compile(re.escape(NAME) + "-[0-9a-f]{16}")
_BEAT_SECONDS = 20
_STALE_SECONDS = 300
_CLAIM_SECONDS = 60  # what a takeover never needs
_TRIES = 20
_PAUSE = 0.05  # seconds


class Owner(NamedTuple):
  """Who holds a folder.

  Attributes:
    host: Name of the machine.
    command: Command line.
    since: Local time with its offset, to seconds.
    machine: See `process.Process`.
    pid: Number of the process.
    started: Time when the process began, see `process.Process`.
    token: Token that tells the locks of one process apart.
  """

  host: str
  command: str
  since: str
  machine: str
  pid: int
  started: int
  token: str


class FolderLocked(ValueError):
  """The folder is another run's.

  Attributes:
    owner: Owner of the folder, that run.
  """

  def __init__(self, folder: pathlib.Path, owner: Owner):
    super().__init__(
        f"{folder} is in use by another run: {describe(owner)}. Wait until it "
        "has ended, or write to another folder. Should it have crashed on "
        f"another machine, its lock ends by itself after {_STALE_SECONDS // 60}"
        " minutes")
    self.owner = owner


def describe(owner: Owner) -> str:
  """An owner in words."""
  return (f"process {owner.pid} on {owner.host}, since {owner.since}, "
          f"`{owner.command}`")


def is_lock(name: str) -> bool:
  """Whether a file of this name is a lock, or belongs to one."""
  return name == NAME or _CLAIM.fullmatch(name) is not None


@contextlib.contextmanager
def hold(folder: str | os.PathLike) -> Iterator[Owner | None]:
  """Keeps other runs out of a folder until the end of the context.

  Args:
    folder: The folder; it is there already.

  Yields:
    The owner that ended without giving the lock back, if it was taken over.

  Raises:
    FolderLocked: A run that has not ended holds the folder; says which.
    OSError: The lock cannot be written; names it.
  """
  path, content = pathlib.Path(folder, NAME), _as_json(_ourselves())
  before = _acquire(path, content)
  ended = threading.Event()
  beat = threading.Thread(
      target=_beat, args=(path, content, ended), daemon=True)
  beat.start()
  try:
    yield before
  finally:
    ended.set()
    beat.join()
    with contextlib.suppress(OSError):
      if _read(path) == content:
        path.unlink()


def _acquire(path, content):
  """Writes the lock; the owner before, if it was taken over."""
  for _ in range(_TRIES):
    if atomic.write_new(path, content):
      return None
    found = _read(path)
    if found is None:
      continue  # given back in this instant
    owner = _owner(found)
    if not _is_stale(path, owner):
      raise FolderLocked(path.parent, owner)
    if _take_over(path, found, content):
      return owner
    time.sleep(_PAUSE)
  raise FolderLocked(path.parent, _owner(_read(path) or b""))


def _take_over(path, stale, content):
  """Writes a lock in the place of a stale one; whether it was this process.

  Of all processes that have seen the same stale lock, the one that writes the
  claim to it may replace it, and the claim goes when the lock is another. So
  none replaces the lock of one that was faster.
  """
  digest = hashlib.sha256(stale).hexdigest()[:16]
  claim = path.with_name(f"{path.name}-{digest}")
  if not atomic.write_new(claim, b""):
    if (_age(claim) or 0) > _CLAIM_SECONDS:  # killed while taking over
      claim.unlink(missing_ok=True)
    return False
  try:
    if _read(path) != stale:
      return False
    atomic.write_whole(path, content)
    return True
  finally:
    claim.unlink(missing_ok=True)


def _is_stale(path, owner):
  running = process.runs(
      process.Process(owner.machine, owner.pid, owner.started))
  if running and owner.started:
    return False  # even if it sleeps, and touches nothing
  if running is False:
    return True
  return (_age(path) or 0) > _STALE_SECONDS


def _age(path):
  """Seconds since a file was touched, by the clock of the file system."""
  probe = path.with_name(atomic.leftover_name(process.current()))
  with atomic.explained(probe):
    probe.touch()
    now = probe.stat().st_mtime
    probe.unlink(missing_ok=True)
  try:
    return now - path.stat().st_mtime
  except FileNotFoundError:
    return None


def _beat(path, content, ended):
  """Touches the lock again and again, for readers on other machines."""
  while not ended.wait(_BEAT_SECONDS):
    with contextlib.suppress(OSError):
      if _read(path) == content:
        os.utime(path)


def _read(path):
  try:
    return path.read_bytes()
  except FileNotFoundError:
    return None


def _ourselves():
  program, *arguments = sys.argv or [""]
  now = datetime.datetime.now().astimezone()
  return Owner(
      socket.gethostname(), shlex.join([os.path.basename(program), *arguments]),
      now.isoformat(" ", "seconds"), *process.current(), secrets.token_hex(8))


def _as_json(owner):
  return (json.dumps(owner._asdict(), indent=1) + "\n").encode()


def _owner(content):
  """The owner in a lock; an unknown one if the lock is damaged."""
  try:
    fields = json.loads(content)
    return Owner(*(kind(fields[name])
                   for name, kind in Owner.__annotations__.items()))
  except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
    return Owner("an unknown machine", "unknown", "an unknown time", "", 0, 0,
                 "")
