"""Which process wrote something, and whether it still runs."""

import functools
import hashlib
import os
import pathlib
import socket
from typing import NamedTuple

_ENDED = ("Z", "X")  # states of processes that only wait to be forgotten


class Process(NamedTuple):
  """A process of some machine.

  Attributes:
    machine: Eight hexadecimal digits; the same for processes that can see each
      other by their numbers, until the machine starts anew.
    pid: Number of the process.
    started: Time when it began, in ticks of the machine's clock; 0 where the
      system does not say. Numbers of processes are used again, with another
      time.
  """

  machine: str
  pid: int
  started: int


def current() -> Process:
  """The process that asks."""
  pid = os.getpid()
  _, started = _status(pid)
  return Process(_machine(), pid, started)


def runs(process: Process) -> bool | None:
  """Whether a process still runs; None where that cannot be seen from here."""
  if process.machine != _machine() or os.name != "posix":
    return None
  try:
    os.kill(process.pid, 0)  # sends nothing
  except (ProcessLookupError, OverflowError):
    return False
  except PermissionError:
    pass  # it is another user's
  state, started = _status(process.pid)
  same = 0 in (started, process.started) or started == process.started
  return same and state not in _ENDED


@functools.cache
def _machine():
  """Of host, boot and name space: a container counts processes on its own."""
  parts = [socket.gethostname()]
  try:
    parts += [pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(),
              os.readlink("/proc/self/ns/pid")]
  except OSError:
    pass  # no Linux
  return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _status(pid):
  """State and start of a process; ("", 0) where the system does not say."""
  try:
    text = pathlib.Path(f"/proc/{pid}/stat").read_text(errors="replace")
    fields = text.rpartition(")")[2].split()  # the name may have anything in it
    return fields[0], int(fields[19])
  except (OSError, ValueError, IndexError):
    return "", 0
