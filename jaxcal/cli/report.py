"""`jaxcal report`: saved predictions become other tables and another page."""

import pathlib
from typing import Any

from jaxcal import config as config_lib
from jaxcal.cli import config_files
from jaxcal.cli import output_files
from jaxcal.cli import printing
from jaxcal.cli import shared_flags
from jaxcal.report import redrawn
from jaxcal.report import saved_runs
from jaxcal.report import summary

EXAMPLE = "jaxcal report runs/mine --config.metrics.num_bins=15"
_ABOUT = f"""\
RUN is the output folder of `jaxcal evaluate` or `jaxcal recalibrate`. Writes
results.jsonl, results.md, differences.jsonl, report.html and diagram-*.svg \
anew,
into RUN or into --output, and prints a table. What the predictions are and
how the run measured them stays in run.json; the page says how it is done now.

Example:
  {EXAMPLE}

Flags:
  --output
      folder to write to; RUN itself if absent"""

FLAGS = ("output", "compilation_cache", "debug")
FIELDS = config_lib.field_names("metrics")


def help_text() -> str:
  """What `jaxcal report --help` prints."""
  fields = config_lib.describe(config_lib.MetricsConfig(), "config.metrics")
  return "\n".join([
      _ABOUT, *shared_flags.flag_help("compilation_cache", "debug"), "",
      "Fields of the config; what is not given is as in the run:",
      *(f"  --{name}\n      {about}" for name, _, about in fields)])


def main(run: str) -> None:
  """Measures what a folder holds, as the flags say."""
  folder = pathlib.Path(run).expanduser()
  conventions = saved_runs.conventions(saved_runs.about(folder), _given())
  _check(conventions)
  output = output_files.of_run(folder)
  printing.show(*redrawn.write(folder, conventions, output))


def _given() -> dict[str, Any]:
  """Conventions on the command line, those that are the defaults, too."""
  return {name.removeprefix("metrics."): value
          for name, value in config_files.overrides().items()}


def _check(conventions: summary.Conventions) -> None:
  """Refuses values out of range, by the name of the field."""
  config = config_lib.ExperimentConfig()
  config.metrics = config_lib.MetricsConfig(**conventions._asdict())
  config_lib.validate(config)
