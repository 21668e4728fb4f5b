"""A finished run's predictions become other tables and another page."""

from collections.abc import Iterator, Mapping, Sequence
import itertools
import os
import pathlib
from typing import Any

from jaxcal import predictions as predictions_lib
from jaxcal import stages
from jaxcal.report import measured
from jaxcal.report import published
from jaxcal.report import saved_runs
from jaxcal.report import summary
from jaxcal.report import thumbnails
from jaxcal.storage import identity


def write(
    run: str | os.PathLike,
    conventions: summary.Conventions | None = None,
    output: str | os.PathLike | None = None,
    *,
    beside_published: bool = False,
    with_images: bool = False,
) -> measured.Written:
  """Measures what a run's folder holds, and writes the report anew.

  What the predictions are and how the run measured them stays in run.json; the
  page says how it is done now.

  Args:
    run: Output folder of `jaxcal evaluate` or `jaxcal recalibrate`.
    conventions: Conventions of the ECE and of intervals; those of the run if
      None, see `saved_runs.conventions` for some of them.
    output: Folder to write to; the run itself if None.
    beside_published: Whether to put published numbers of the same sets and
      methods beside those of the run.
    with_images: Whether to write a line for each image, too: images-SET.csv.

  Raises:
    FileNotFoundError: No run, or predictions that its tables name are gone.
    ValueError: A run of another command, a report of files, images without
      labels, or damaged files.
  """
  run = pathlib.Path(run)
  results, differences = (
      saved_runs.rows(run, name) for name in ("results", "differences"))
  about = saved_runs.about(run)
  _check_kind(run, results, about)
  saved = saved_runs.predictions_of(run, results)
  _check_complete(run, saved, results, differences)
  before = saved_runs.conventions(about)
  now = before if conventions is None else conventions
  found = measured.measure(_predicted(saved, differences), now)
  beside = published.compare(
      found.rows, published.setting_of(saved_runs.settings_of(about)), now
  ) if beside_published else None
  written = measured.write(
      run if output is None else pathlib.Path(output), found,
      about=about, conventions=now, remarks=_changes(before, now),
      beside=beside, small_images=thumbnails.saved(run),
      with_images=with_images)
  return written._replace(notes=written.notes + _older(run, saved, about))


def _check_kind(run, results, about):
  """Refuses runs whose rows are not of a set and a method each."""
  if any(name.startswith(saved_runs.FILES) for name in about):
    raise ValueError(
        f"{run} is a report of files, which are measured as they are, not as "
        "their saved copies; give the files again, with other bins or another "
        "--output: jaxcal report FILE...")
  if any("setting" in row or not {"data", "method", "ece"} <= row.keys()
         for row in results):
    raise ValueError(
        f"{run} is of another command; `jaxcal report` redraws what `jaxcal "
        "evaluate` and `jaxcal recalibrate` have written. Predictions of "
        "`jaxcal sweep`, `tune` and `posterior select` can be measured as "
        "files, `jaxcal report PATH.npz --output=FOLDER`, or in Python: "
        "jaxcal.evaluate(jaxcal.predictions.load(PATH))")


def _check_complete(run, saved, results, differences):
  """Refuses tables that name predictions which are gone."""
  there = {one[:2] for one in saved}
  named = [(row["data"], stages.of(row)) for row in results + differences]
  named += [(row["data"], stages.reference_of(row)) for row in differences]
  for data, one in named:
    if (data, one.label) not in there:
      raise FileNotFoundError(
          f"{run} has results of {data}, {one.label}, but no longer both of "
          f"{run / 'predictions' / data / one.label}.npz and .json; restore "
          "them from a copy, or run `jaxcal evaluate` again")


def _predicted(
    saved: Sequence[saved_runs.Saved], differences: Sequence[Mapping[str, Any]]
) -> Iterator[measured.Predicted]:
  """Sets one after the other, compared as the run has compared them."""
  for folder, group in itertools.groupby(saved, lambda one: one.path.parent):
    yield measured.read(folder, [one.name for one in group], {
        stages.of(row).label: stages.reference_of(row).label
        for row in differences if row["data"] == folder.name})


def _changes(
    before: summary.Conventions, now: summary.Conventions) -> list[str]:
  """A sentence on what is not as in the run, if anything."""
  changed = [f"{name} is {getattr(now, name)}, was {getattr(before, name)}"
             for name in now._fields
             if getattr(now, name) != getattr(before, name)]
  if not changed:
    return []
  return [f"Measured anew, otherwise than in the run: {'; '.join(changed)}."]


def _older(run, saved, about):
  """Tells of a run with which `jaxcal evaluate` would not go on."""
  found = [predictions_lib.settings(one.path).get("identity", {})
           for one in saved]
  if saved_runs.is_recalibration(about) or all(
      one.get("computation") == identity.COMPUTATION for one in found):
    return []
  version = about.get("provenance.jaxcal")
  by = f"jaxcal {version}" if version else "version unknown"
  return [f"{run} was made by other code than this ({by}): it can be reported, "
          "but `jaxcal evaluate` cannot continue it"]
