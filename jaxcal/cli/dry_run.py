"""--dry_run: what a command would compute, how much is there, what it costs."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

from absl import flags

from jaxcal import plan
from jaxcal import sharding

ASKED = flags.DEFINE_bool(
    "dry_run", False, "print what would be computed, how much of it is there "
    "and what the rest costs, and write nothing")


def show(rows: Sequence[Mapping[str, Any]], output: pathlib.Path) -> None:
  """Prints rows of `plan.row` for a folder; the first process alone."""
  if sharding.is_first():
    print(f"{plan.text(rows)}\nNothing was written to {output}.")
