"""Work in a process of its own, which ends when its time is up."""

from collections.abc import Callable
import json
import multiprocessing
import pathlib
import tempfile
import time
from typing import Any, NamedTuple


class Outcome(NamedTuple):
  """What became of a call.

  Attributes:
    result: Result of the function, as JSON has it; None after an error.
    error: Words on what went wrong; None where nothing did.
    seconds: Seconds that it took, the start of the process included.
  """

  result: Any
  error: str | None
  seconds: float


def alone(
    function: Callable[..., Any], *given: Any, limit: float) -> Outcome:
  """Calls a function in a new process.

  Args:
    function: Function of a module's top level; returns what JSON can hold.
    *given: Its arguments, which can be pickled.
    limit: Seconds after which the process is killed.
  """
  start = time.perf_counter()
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, "outcome.json")
    process = multiprocessing.get_context("spawn").Process(
        target=_write, args=(path, function, given))
    process.start()
    process.join(limit)
    late = process.is_alive()
    if late:
      process.kill()
      process.join()
    seconds = time.perf_counter() - start
    if late:
      return Outcome(None, f"not done within {limit:g} s", seconds)
    if not path.exists():
      return Outcome(
          None, f"its process ended with {process.exitcode}", seconds)
    return Outcome(**json.loads(path.read_text("utf-8")), seconds=seconds)


def _write(path, function, given):
  try:
    content = {"result": function(*given), "error": None}
  except Exception as error:  # any: what happens here is told there
    content = {"result": None,
               "error": f"{type(error).__name__}: {error}"[:2000]}
  path.write_text(json.dumps(content), "utf-8")
