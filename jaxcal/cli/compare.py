"""`jaxcal compare`: finished runs beside each other, image by image."""

import functools
import pathlib

from absl import flags

from jaxcal.cli import output_files
from jaxcal.cli import shared_flags
from jaxcal.report import compared

EXAMPLES = ("jaxcal compare runs/first runs/second",
            "jaxcal compare runs/mine runs/mine --method=tpt,soc")
_ABOUT = """\
RUN_A, RUN_B and further ones are output folders of `jaxcal evaluate`, `jaxcal
recalibrate` or `jaxcal report`. For each image set and method that both have,
RUN_A minus each of the others, on the images that both have: differences with
intervals and tests, how many predictions agree, how many are right in one only
and which confidence changes most; and what differs between the settings of the
runs. Prints the tables; with --output also writes compare.md, compare.jsonl and
per_image.csv. Files of predictions are compared by `jaxcal report A B`."""

_METHOD = flags.DEFINE_list(
    "method", [], "names of the methods that are compared, one for each run, "
    "such as tpt,soc, or one for all; if absent, all that both runs have")

_FLAGS = ("method",)
FLAGS = (*_FLAGS, "output", "compilation_cache", "debug")
FIELDS: tuple[str, ...] = ()  # the runs' files say all that a config would
help_text = functools.partial(
    shared_flags.help_of_run, _ABOUT, EXAMPLES, _FLAGS,
    "folder to write to, none of the runs; nothing is written if absent")


def main(*runs: str) -> None:
  """Compares what folders hold, as the flags say."""
  planned = compared.plan(
      [pathlib.Path(run).expanduser() for run in runs], _METHOD.value)
  output = shared_flags.OUTPUT.value
  if output is not None:
    compared.check_output(planned, output)
    output_files.take(pathlib.Path(output))
  found = compared.compare(planned)
  print(found)
  if output is not None:
    compared.write(planned, found, output)
    print(f"\nWritten to {output}: compare.md, compare.jsonl, per_image.csv")
