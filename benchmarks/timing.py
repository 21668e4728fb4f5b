"""Measuring, and what every benchmark leaves behind: a record and its claims.

A benchmark checks that what it compares is equal, measures all of it in one
run, prints a table, writes a record and ends with `finish`.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import os
import pathlib
import sys
import time
from typing import Any

import jax

from jaxcal import provenance

_RESULTS = pathlib.Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class Claim:
  """A number that must not fall below a floor, or not exceed a ceiling."""

  name: str
  value: float
  floor: float | None = None
  ceiling: float | None = None

  @property
  def holds(self) -> bool:
    # Written so that NaN holds nothing.
    above = self.floor is None or self.value >= self.floor
    return above and (self.ceiling is None or self.value <= self.ceiling)

  def describe(self) -> dict[str, Any]:
    return {**dataclasses.asdict(self), "holds": self.holds}


def measure(fn: Callable[..., Any], *args: Any, repeats: int = 3) -> float:
  """Seconds of one call: the least of `repeats`, after one to warm up.

  The least, because other programs on the machine can only add to it.
  """
  return measure_in_turns({"": lambda: fn(*args)}, repeats)[""]


def measure_in_turns(
    calls: Mapping[str, Callable[[], Any]], repeats: int = 3,
) -> dict[str, float]:
  """`measure` of several calls in turns, for their ratios.

  A machine that is busy for a while is then busy for all of them.
  """
  for call in calls.values():
    jax.block_until_ready(call())
  seconds = [{name: timed(call)[1] for name, call in calls.items()}
             for _ in range(repeats)]
  return {name: min(one[name] for one in seconds) for name in calls}


def timed(fn: Callable[..., Any], *args: Any) -> tuple[Any, float]:
  """What one call returns, and the seconds it took."""
  start = time.perf_counter()
  result = jax.block_until_ready(fn(*args))
  return result, time.perf_counter() - start


def compiled(fn: Callable[..., Any], *args: Any) -> jax.stages.Compiled:
  """The program of `fn` for these arguments; it can tell what memory it needs.
  """
  return jax.jit(fn).lower(*args).compile()


def temporary_bytes(program: jax.stages.Compiled) -> int:
  """Memory of a program beside its arguments and its result."""
  return program.memory_analysis().temp_size_in_bytes


def environment() -> dict[str, Any]:
  """Device, versions, commit and how busy the machine was."""
  return {
      **provenance.describe(),
      "backend": jax.default_backend(),
      # Files by their names: where they lay is the machine's matter.
      "command": " ".join(
          [pathlib.Path(sys.argv[0]).stem,
           *(pathlib.Path(one).name if os.path.exists(one) else one
             for one in sys.argv[1:])]),
      "other_load": os.getloadavg(),
  }


def path_of(name: str, backend: str | None = None) -> pathlib.Path:
  """Where a record lies; that of the backend in use if None is given."""
  return _RESULTS / f"{name}_{backend or jax.default_backend()}.json"


def write(
    name: str,
    record: Mapping[str, Any],
    claims: Sequence[Claim] = (),
    *,
    backend: str | None = None,
) -> pathlib.Path:
  """Writes results/NAME_BACKEND.json, the environment included."""
  path = path_of(name, backend)
  content = {"environment": environment(), **record,
             "claims": [claim.describe() for claim in claims]}
  path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n",
                  "utf-8")
  return path


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Rows of equal keys as text; numbers with four digits, "-" for None."""
  cells = [list(rows[0])] + [[_cell(value) for value in row.values()]
                             for row in rows]
  widths = [max(map(len, column)) for column in zip(*cells)]
  return "\n".join(
      "  ".join(cell.rjust(width) for cell, width in zip(line, widths))
      for line in cells)


def finish(claims: Sequence[Claim]) -> None:
  """Prints the claims; exits with 1 if one of them does not hold."""
  if claims:
    print(table([
        {key: "" if value is None else value
         for key, value in claim.describe().items()} for claim in claims]))
  if not all(claim.holds for claim in claims):
    sys.exit(1)


def _cell(value):
  if value is None:
    return "-"
  return f"{value:.4g}" if isinstance(value, float) else str(value)
