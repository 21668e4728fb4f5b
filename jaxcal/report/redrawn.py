"""A finished run's predictions become other tables and another page."""

from collections.abc import Iterator, Mapping, Sequence
import itertools
import os
import pathlib
from typing import Any

from jaxcal import predictions as predictions_lib
from jaxcal import stages
from jaxcal.report import measured
from jaxcal.report import prediction_sets
from jaxcal.report import published
from jaxcal.report import ranked
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
    page_by: Sequence[str] = (),
) -> measured.Written:
  """Measures what a run's folder holds, and writes the report anew.

  What the predictions are and how the run measured them stays in run.json; the
  page says how it is done now.

  Args:
    run: Output folder of `jaxcal evaluate`, `recalibrate`, `sweep`, `tune` or
      `posterior select`.
    conventions: Conventions of the ECE and of intervals; those of the run if
      None, see `saved_runs.conventions` for some of them.
    output: Folder to write to; the run itself if None.
    beside_published: Whether to put published numbers of the same sets and
      methods beside those of the run, of `jaxcal evaluate` or `recalibrate`.
    with_images: Whether to write a line for each image of these, too:
      images-SET.csv.
    page_by: Words of the command line that asks for it.

  Raises:
    FileNotFoundError: No run, or predictions that its tables name are gone.
    ValueError: A report of files, a run that has not come to its end, images
      without labels, or damaged files.
  """
  run = pathlib.Path(run)
  about = saved_runs.about(run)
  results = saved_runs.rows(run, "results")
  kind = kind_of(run, about, results)
  before = saved_runs.conventions(about)
  now = before if conventions is None else conventions
  output = run if output is None else pathlib.Path(output)
  if kind != "evaluate":
    asked = [what for what, given in (
        ("published numbers", beside_published),
        ("a line for each image", with_images)) if given]
    if asked:
      raise ValueError(
          f"{asked[0]}: these are of runs of `jaxcal evaluate` and "
          f"`recalibrate`, but {run} is of `jaxcal {kind}`")
    return _write_other(kind, run, results, before, now, output, page_by)
  saved = saved_of(run, results)
  beside_it, left_out = _beside(run)
  found = measured.measure(read(run, saved), now)
  published_rows = published.compare(
      found.rows, published.setting_of(saved_runs.settings_of(about)), now
  ) if beside_published else None
  written = measured.write(
      output, found, about=about, conventions=now,
      remarks=[*changes(before, now), *left_out], beside=published_rows,
      small_images=thumbnails.saved(run), with_images=with_images,
      more=beside_it, page_by=page_by)
  return written._replace(notes=written.notes + _older(run, saved, about))


def kind_of(
    run: pathlib.Path, about: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]]
) -> str:
  """See `saved_runs.kind`; refuses a report of files, too."""
  if any(name.startswith(saved_runs.FILES) for name in about):
    raise ValueError(
        f"{run} is a report of files, which are measured as they are, not as "
        "their saved copies; give the files again, with other bins or another "
        "--output: jaxcal report FILE...")
  return saved_runs.kind(run, about, results)


def saved_of(
    run: pathlib.Path, results: Sequence[Mapping[str, Any]]
) -> list[saved_runs.Saved]:
  """All predictions of a run of `jaxcal evaluate` or `recalibrate`.

  Args:
    run: Folder of the run.
    results: Rows of its results.

  Raises:
    FileNotFoundError: No run, or predictions that its tables name are gone.
  """
  saved = saved_runs.predictions_of(run, results)
  _check_complete(run, saved, results, saved_runs.rows(run, "differences"))
  return saved


def read(
    run: pathlib.Path, saved: Sequence[saved_runs.Saved]
) -> Iterator[measured.Predicted]:
  """Sets one after the other, compared as the run has compared them.

  Args:
    run: Folder of the run.
    saved: Its predictions, from `saved_of`, or those of some sets.
  """
  differences = saved_runs.rows(run, "differences")
  for folder, group in itertools.groupby(saved, lambda one: one.path.parent):
    yield measured.read(folder, [one.name for one in group], {
        name: reference for row in differences if row["data"] == folder.name
        for name, reference in stages.pairs(row).items()})


def changes(
    before: summary.Conventions, now: summary.Conventions) -> list[str]:
  """A sentence on what is not as in the run, if anything.

  Args:
    before: Conventions of the run.
    now: Conventions of the report.
  """
  changed = [f"{name} is {getattr(now, name)}, was {getattr(before, name)}"
             for name in now._fields
             if getattr(now, name) != getattr(before, name)]
  if not changed:
    return []
  return [f"Measured anew, otherwise than in the run: {'; '.join(changed)}."]


def _write_other(kind, run, results, before, now, output, page_by):
  """What `jaxcal sweep`, `tune` and `posterior select` have written."""
  arguments: dict[str, Any] = dict(
      output=output, remarks=changes(before, now), page_by=page_by)
  # They know methods, so that importing them takes as long as a model's code.
  if kind == "sweep":
    from jaxcal.report import sweeps
    if not (run / "results.md").exists():
      arguments["remarks"].append(
          "The sweep has not come to its end: these are the settings so far.")
    text = sweeps.redraw(run, results, conventions=now, **arguments)
  elif kind == "tune":
    from jaxcal.report import few_shot
    text = few_shot.write(run, few_shot.of_results(results), now, **arguments)
  else:
    from jaxcal.report import posterior
    return measured.Written(posterior.redraw_selection(
        run, results, conventions=now, **arguments), [])
  return measured.Written(
      f"{text}\n\nWritten to {output}: report.html, *.svg, results.md, "
      f"results.jsonl{', differences.jsonl' * (kind == 'tune')}", [])


def _beside(run):
  """Sections on what `jaxcal conformal` and `failure` have written, and
  sentences on what is left out of them."""
  if not any((run / f"{name}.jsonl").exists() for name in ("sets", "failure")):
    return [], []
  current = saved_runs.digests(run)
  both = (prediction_sets.of_run(run, current), ranked.of_run(run, current))
  return ([section for found, _ in both for section in found],
          [sentence for _, said in both for sentence in said])


def _check_complete(run, saved, results, differences):
  """Refuses tables that name predictions which are gone."""
  there = {one[:2] for one in saved}
  named = [(row["data"], label) for row in results + differences
           for label in stages.labels(row)]
  named += [(row["data"], label) for row in differences
            for label in stages.reference_labels(row)]
  for data, label in named:
    if (data, label) not in there:
      saved_runs.check_there(
          run, f"{data}, {label}", run / "predictions" / data / label)


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
