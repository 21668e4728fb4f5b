"""`jaxcal report`: saved predictions become other tables and another page."""

from collections.abc import Iterator, Mapping, Sequence
import itertools
import pathlib
import sys
from typing import Any

from jaxcal import config as config_lib
from jaxcal import predictions as predictions_lib
from jaxcal.cli import config_files
from jaxcal.cli import reporting
from jaxcal.cli import saved_runs
from jaxcal.cli import shared_flags
from jaxcal.report import summary
from jaxcal.storage import identity

EXAMPLE = "jaxcal report runs/mine --config.metrics.num_bins=15"

FLAGS = ("output", "compilation_cache", "debug")
FIELDS = config_files.fields("metrics")

# What the fields begin with that may be given.
_METRICS = "metrics."


def help_text() -> str:
  """What `jaxcal report --help` prints."""
  fields = config_lib.describe(config_lib.MetricsConfig(), "config.metrics")
  return "\n".join([
      "RUN is the output folder of `jaxcal evaluate` or `jaxcal recalibrate`. "
      "Writes", "results.jsonl, results.md, differences.jsonl, report.html and "
      "diagram-*.svg anew,", "into RUN or into --output, and prints a table. "
      "What the predictions are and", "how the run measured them stays in "
      "run.json; the page says how it is done now.", "",
      "Example:", f"  {EXAMPLE}", "", "Flags:",
      "  --output\n      folder to write to; RUN itself if absent",
      *shared_flags.flag_help("compilation_cache", "debug"), "",
      "Fields of the config; what is not given is as in the run:",
      *(f"  --{name}\n      {about}" for name, _, about in fields)])


def main(run: str) -> None:
  """Measures what a folder holds, as the flags say."""
  folder = pathlib.Path(run).expanduser()
  results, differences = (
      saved_runs.rows(folder, name) for name in ("results", "differences"))
  _check_kind(folder, results)
  saved = saved_runs.predictions_of(folder, results)
  _check_complete(folder, saved, results + differences)
  told = saved_runs.about(folder)
  settings = saved_runs.settings_of(told)
  before = saved_runs.conventions(settings)
  now = saved_runs.conventions(settings, _given())
  _check_conventions(now)
  output = _output(folder)
  remarks = saved_runs.remarks(told) if "recalibrator" in told else []
  reporting.write(
      output, reporting.measure(_predicted(saved, differences), now),
      title=saved_runs.title(settings, told.get("recalibrator")),
      conventions=now, remarks=remarks + _changes(before, now),
      settings=saved_runs.page_settings(told, now))
  if "recalibrator" not in told:
    _say_if_older(folder, saved, settings)


def _given() -> dict[str, Any]:
  """Conventions on the command line, those that are the defaults, too."""
  return {name.removeprefix(_METRICS): value
          for name, value in config_files.overrides().items()}


def _check_conventions(conventions: summary.Conventions) -> None:
  """Refuses values out of range.

  Raises:
    ValueError: Names the field.
  """
  config = config_lib.ExperimentConfig()
  config.metrics = config_lib.MetricsConfig(**conventions._asdict())
  config_lib.validate(config)


def _check_kind(run, results):
  """Refuses runs whose rows are not of a set and a method each."""
  if any("setting" in row or not {"data", "method", "ece"} <= row.keys()
         for row in results):
    raise ValueError(
        f"{run} is of another command; `jaxcal report` redraws what `jaxcal "
        "evaluate` and `jaxcal recalibrate` have written. Predictions of "
        "`jaxcal sweep`, `tune` and `posterior select` can be measured in "
        "Python: "
        "jaxcal.evaluate(jaxcal.predictions.load(PATH))")


def _check_complete(run, saved, rows):
  """Refuses tables that name predictions which are gone."""
  there = {one[:2] for one in saved}
  for row in rows:
    for name in (row["method"], row.get("reference", row["method"])):
      if (row["data"], name) not in there:
        raise FileNotFoundError(
            f"{run} has results of {row['data']}, {name}, but no longer both "
            f"of {run / 'predictions' / row['data'] / name}.npz and .json; "
            "restore them from a copy, or run `jaxcal evaluate` again")


def _output(run: pathlib.Path) -> pathlib.Path:
  """The folder to write to.

  Raises:
    ValueError: It is that of another run.
  """
  if shared_flags.OUTPUT.value is None:
    return run
  output = pathlib.Path(shared_flags.OUTPUT.value)
  if (output / "run.json").exists() and output.resolve() != run.resolve():
    raise ValueError(f"{output} holds another run; give another --output")
  return output


def _say_if_older(run, saved, settings):
  """Tells of a run with which `jaxcal evaluate` would not go on."""
  version = settings.get("provenance.jaxcal")
  found = [predictions_lib.settings(one.path).get("identity", {})
           for one in saved]
  if any(one.get("computation") != identity.COMPUTATION for one in found):
    by = f"jaxcal {version}" if version else "version unknown"
    print(f"jaxcal: {run} was made by other code than this ({by}): it can be "
          "reported, but `jaxcal evaluate` cannot continue it",
          file=sys.stderr)


def _predicted(
    saved: Sequence[saved_runs.Saved], differences: Sequence[Mapping[str, Any]]
) -> Iterator[reporting.Predicted]:
  """Sets one after the other, compared as the run has compared them."""
  for data, group in itertools.groupby(saved, lambda one: one.data):
    predictions, outside = {}, {}
    for _, method, path in group:
      with saved_runs.named(data, method):
        predictions[method] = saved_runs.load_labelled(path)
        other = saved_runs.out_of_distribution(path)
        if other is not None:
          outside[method] = saved_runs.load(other)
    references = {row["method"]: row["reference"] for row in differences
                  if row["data"] == data}
    yield reporting.Predicted(
        data, predictions, references or reporting.references(
            list(predictions)), outside)


def _changes(
    before: summary.Conventions, now: summary.Conventions) -> list[str]:
  """A sentence on what is not as in the run, if anything."""
  changed = [f"{name} is {getattr(now, name)}, was {getattr(before, name)}"
             for name in now._fields
             if getattr(now, name) != getattr(before, name)]
  if not changed:
    return []
  return [f"Measured anew, otherwise than in the run: {'; '.join(changed)}."]
