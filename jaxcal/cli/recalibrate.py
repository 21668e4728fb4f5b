"""`jaxcal recalibrate`: predictions on disk become better calibrated ones."""

from collections.abc import Mapping
import functools
import pathlib
from typing import Any

from absl import flags

from jaxcal.cli import output_files
from jaxcal.cli import printing
from jaxcal.cli import shared_flags
from jaxcal.recalibration import calibrators
from jaxcal.report import recalibrated
from jaxcal.storage import output_folder

EXAMPLES = ("jaxcal recalibrate runs/mine --share=0.2",
            "jaxcal recalibrate runs/mine --on=validation",
            "jaxcal recalibrate runs/mine --on=runs/of_other_images",
            "jaxcal recalibrate runs/mine --recalibrator=sals",
            "jaxcal recalibrate runs/mine --recalibrator=cots,temperature "
            "--share=0.2")
_ABOUT = """\
RUN is the output folder of `jaxcal evaluate`. Each METHOD of each image set
is fitted to labelled images and becomes METHOD+NAME, which is measured beside
it on the same images, none of them fitted to. What needs no labels, see
`jaxcal list recalibrators`, takes neither --on nor --share. Writes
predictions/, results.jsonl, results.md, differences.jsonl, report.html,
diagram-*.svg and run.json, and prints a table."""

_RECALIBRATOR = flags.DEFINE_string(
    "recalibrator", "temperature", "which calibrator; `jaxcal list "
    "recalibrators` lists them; of several, as in A,B, B comes after A and is "
    "fitted to what A made of the same images")
_ON = shared_flags.define_path(
    "on", None, "labelled images to fit to: the name of a split that RUN holds "
    "predictions of (--config.temperature.split), the output folder of another "
    "run with the same sets and methods, or a file of predictions")

_FLAGS = ("recalibrator", "on", "share", "seed")
FLAGS = (*_FLAGS, "output", "overwrite", "compilation_cache", "debug")
FIELDS: tuple[str, ...] = ()  # the files of RUN say all that a config would
help_text = functools.partial(
    shared_flags.help_of_run, _ABOUT, EXAMPLES, _FLAGS,
    "folder to write to; RUN/recalibrated-NAME-HASH if absent, with a hash of "
    "all that it was made from", ("overwrite", "compilation_cache", "debug"))


def main(run: str) -> None:
  """Recalibrates what a folder holds, as the flags say."""
  calibrator = calibrators.calibrator(_RECALIBRATOR.value)
  plan = recalibrated.plan(pathlib.Path(run).expanduser(), _on(), calibrator)
  printing.notes(plan.left_out)
  output = pathlib.Path(shared_flags.OUTPUT.value or plan.folder)
  recalibrated.check_output(plan, output)
  _take(output, plan.inputs)
  printing.show(*recalibrated.write(plan, output))


def _on() -> str | recalibrated.Share | None:
  """The images to fit to; None where no flag says so.

  Raises:
    ValueError: Flags that do not go together or are out of range.
  """
  share = shared_flags.share()
  if _ON.value is not None and share is not None:
    raise ValueError(
        "give one of --on=SPLIT|RUN|FILE, labelled images to fit to, and "
        "--share=0.2, a share of the images themselves")
  if share is None:
    return _ON.value
  return recalibrated.Share(share, shared_flags.SEED.value)


def _take(output: pathlib.Path, inputs: Mapping[str, Any]) -> None:
  """Takes the folder to write to; with --overwrite, clears another's.

  Raises:
    ValueError: It holds something else.
  """
  output_files.take(output)
  path = output / "run.json"
  before = output_folder.read_settings(path) if path.exists() else inputs
  if any(before.get(name) != value for name, value in inputs.items()):
    if not shared_flags.OVERWRITE.value or "recalibrator" not in before:
      raise ValueError(
          f"{output} holds another run; give another --output, or "
          "--overwrite to remove it if it is a recalibration")
    output_files.clear(output)
