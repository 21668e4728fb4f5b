"""--dry_run: what a command would compute, how much is there, what it costs."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

from absl import flags
import jax

from jaxcal.report import tables

ASKED = flags.DEFINE_bool(
    "dry_run", False, "print what would be computed, how much of it is there "
    "and what the rest costs, and write nothing")

_COLUMNS = {
    "data": "images of", "num_images": "n", "there": "predictions there",
    "missing": "to be computed", "images_left": "for images",
    "views": "views, image tower", "prompts": "prompts, text tower"}


def show(rows: Sequence[Mapping[str, Any]], output: pathlib.Path) -> None:
  """Prints the rows of `plan.row`, and the sums; the first process alone.

  Args:
    rows: Rows, one per set.
    output: Folder that would be written to.
  """
  if jax.process_index():
    return
  text = lambda name: lambda row: (
      f"{row[name]:,}" if isinstance(row[name], int) else row[name])
  print(tables.markdown(rows, [
      tables.Column(heading, text(name))
      for name, heading in _COLUMNS.items()]))
  print(f"\nViews through the image tower: "
        f"{sum(row['views'] for row in rows):,}; prompts through the text "
        f"tower, for tuned contexts: {sum(row['prompts'] for row in rows):,}."
        f"\nNothing was written to {output}.")
