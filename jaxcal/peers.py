"""Processes that share a run: how they meet, and how they end.

When a process is gone, JAX ends the others: those that wait for it by an error,
those that compute by a signal, at once where it was the first one, and else
when its heartbeats are missed. So that all end in words, a small process beside
each (`last_words`) speaks for those that no longer can.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import jax

from jaxcal import sharding
from jaxcal.storage import process

# Within which all must have started, as JAX has it.
MEET_SECONDS = 300
# Without a sign of life, a process counts as gone.
HEARTBEAT_SECONDS = 60
# That those with an error wait for the others, which may have the same.
_LEAVE_SECONDS = 5
# That those which have lost another one leave to the others to see it, too.
_LOST_SECONDS = 1
# By these JAX's errors tell that another process is gone.
_SIGNS = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "coordination",
          "heartbeat")

_beside: list[subprocess.Popen] = []  # the process for last words, if any


def join(
    coordinator: str | None = None,
    count: int | None = None,
    number: int | None = None,
    *,
    meet_seconds: int = MEET_SECONDS,
    heartbeat_seconds: int = HEARTBEAT_SECONDS,
) -> None:
  """Makes this process one of several; waits until all have come.

  Args:
    coordinator: Host and port of the first process; None on a cluster that JAX
      knows.
    count: Number of processes; None on such a cluster, likewise the next.
    number: Number of this process, from 0.
    meet_seconds: Seconds within which all must come.
    heartbeat_seconds: Seconds without a sign of life after which a process
      counts as gone.

  Raises:
    ValueError: The first process cannot open the coordinator's port.
  """
  if number == 0 and coordinator is not None:
    _check_port(coordinator)
  # Not of the folder that the command was called in, as `-m` would have it.
  path = os.pathsep.join(filter(None, sys.path))
  _beside.append(subprocess.Popen(
      [sys.executable, "-m", "jaxcal.last_words"], stdin=subprocess.PIPE,
      stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": path},
      start_new_session=True))  # it hears no Ctrl-C
  _tell(seconds=meet_seconds)
  jax.distributed.initialize(
      coordinator, count, number, initialization_timeout=meet_seconds,
      heartbeat_timeout_seconds=heartbeat_seconds,
      shutdown_timeout_seconds=heartbeat_seconds)
  _tell(number=jax.process_index(), everyone=[
      json.loads(one) for one in sharding.told_by_all(
          json.dumps(process.current()))])


def is_loss(error: Exception) -> bool:
  """Whether an error tells that another process of the run is gone."""
  return (isinstance(error, jax.errors.JaxRuntimeError) and
          sharding.several() and any(sign in str(error) for sign in _SIGNS))


def lost(error: Exception) -> None:
  """Lets it be said that another process is gone; see `is_loss`."""
  first, *_ = str(error).splitlines()
  _tell(lost=first)
  for one in _beside:
    one.wait()
  _beside.clear()
  time.sleep(_LOST_SECONDS)


def leave(status: int, *, at_once: bool = False) -> None:
  """Says that this process ends by itself, and ends it where it has failed.

  JAX waits for all processes at the end, and so for those that wait for this
  one. Of a single process nothing is done.

  Args:
    status: Exit status.
    at_once: Whether the others are not given the time to fail with the same
      error in words of their own.
  """
  if not jax.distributed.is_initialized():
    return
  _tell(done=True)
  if not status:
    return
  if _beside and not at_once:
    farewell = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    farewell.start()
    farewell.join(_LEAVE_SECONDS)
  os._exit(status)


def _check_port(coordinator: str) -> None:
  """Refuses a port that is in use, of which JAX may die without words."""
  _, _, port = coordinator.rpartition(":")
  try:
    with socket.socket() as probe:
      probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      probe.bind(("", int(port)))
  except (OSError, ValueError, OverflowError) as error:
    raise ValueError(f"the processes cannot meet at {coordinator}: {error}; "
                     "give another HOST:PORT to all of them") from error


def _tell(**facts: Any) -> None:
  """Tells facts to the process for last words, see `last_words.Told`."""
  line = json.dumps(facts).encode() + b"\n"
  for one in _beside:
    with contextlib.suppress(OSError):  # somebody has ended it
      os.write(one.stdin.fileno(), line)  # type: ignore[union-attr]
