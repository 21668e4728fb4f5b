"""A small process beside each of several that share a run: says why one ended.

  python -m jaxcal.last_words

`jaxcal.peers` starts it and writes to its standard input, a JSON object a line
(`Told`). When that ends without `done`, the process beside it was ended by a
signal, its own or one of JAX, and could say nothing. Meanwhile this one looks
who else runs, so that it knows who was gone first.
"""

from collections.abc import Mapping, Sequence
import json
import os
import select
import sys
import time
from typing import Any, NamedTuple

from jaxcal.storage import process

_PAUSE = 1.0  # seconds between two looks
_LAST_SECONDS = 3  # for what JAX says at the end of a process


class Told(NamedTuple):
  """What is known of a run.

  Attributes:
    number: Number of the process that is watched; None before it is known.
    everyone: All processes by their numbers, as `process.Process` has them;
      empty before they have met.
    seconds: Time within which they have to meet.
    lost: Error by which JAX told that another process is gone; None without.
    done: Whether the process says itself how it ends.
  """

  number: int | None = None
  everyone: Sequence[Sequence[Any]] = ()
  seconds: float = 0
  lost: str | None = None
  done: bool = False


def words(told: Told, gone: Sequence[int]) -> str:
  """Why a process has ended, and what to do.

  Args:
    told: Facts that it has told of itself.
    gone: Numbers of those that were gone before it, as far as can be seen from
      its machine.
  """
  if not told.everyone:
    return (
        f"the processes have not met: within {told.seconds:g} s all of them "
        "must start, each with the same --coordinator=HOST:PORT, which process "
        "0 can open and the others reach, the same --num_processes, and a "
        "--process_id of its own. Nothing was computed.")
  name = f"process {told.number} of {len(told.everyone)}"
  detail = f" ({told.lost})" if told.lost else ""
  if gone:
    who = ", ".join(map(str, gone))
    why = (f"{name} ends here, as process {who} is gone{detail}: it says why, "
           "or was killed")
  elif told.lost:
    why = f"{name} ends here, as another one is gone{detail}"
  else:
    why = (f"{name} was ended: killed from outside, or by JAX, as another one "
           "is gone, which JAX names above (its task N has --process_id=N)")
  return (f"{why}. What was computed is kept; start all processes with the "
          "same commands again, and they go on from there.")


def gone(told: Told) -> list[int]:
  """Numbers of the other processes that no longer run on this machine."""
  found = [number for number, one in enumerate(told.everyone)
           if number != told.number and
           process.runs(process.Process(*one)) is False]
  # Without the first one, which coordinates, JAX ends all others at once.
  return [0] if 0 in found else found


def _gone_at_last(told):
  """`gone` for a process that ends, or has been ended.

  Connections of a process close a moment before the system says that it has
  ended. And where they are those of the first one, JAX ends all others, which
  may look as if they were gone before it.
  """
  if not told.everyone or told.number == 0 and not told.lost:
    return gone(told)  # nobody ends the first one but itself, or from outside
  until = time.monotonic() + _PAUSE
  first: list[int] = []
  while time.monotonic() < until:
    found = gone(told)
    if found == [0] or found and told.number == 0:
      return found
    first = first or found
    time.sleep(_PAUSE / 50)
  return first


def main() -> None:
  """Watches until standard input ends."""
  told, content = Told(), b""
  seen: list[int] = []
  while True:
    ready, _, _ = select.select([0], [], [], _PAUSE)
    more = os.read(0, 2**16) if ready else None
    content += more or b""
    told = _read(content)
    ends = told.lost or more == b"" and not told.done
    # Who was gone first; others follow.
    seen = seen or (_gone_at_last if ends else gone)(told)
    if told.lost:  # unless JAX ends the process, too, it waits for this one
      select.select([0], [], [], _LAST_SECONDS)
    if more == b"" or told.lost:
      break
  if not told.done:
    print(f"\njaxcal: {words(told, seen)}", file=sys.stderr, flush=True)


def _read(content: bytes) -> Told:
  """All whole lines, the later ones over the earlier."""
  found: dict[str, Any] = {}
  for line in content.split(b"\n")[:-1]:
    line_of: Mapping[str, Any] = json.loads(line)
    found |= line_of
  return Told(**found)


if __name__ == "__main__":
  main()
