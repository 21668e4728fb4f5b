"""What `jaxcal tune` predicted becomes rows, tables and figures."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcal import predictions as predictions_lib
from jaxcal import stages
from jaxcal.predictions import Predictions
from jaxcal.report import figures
from jaxcal.report import page
from jaxcal.report import per_image
from jaxcal.report import resampled
from jaxcal.report import saved_runs
from jaxcal.report import sections
from jaxcal.report import seeds as seeds_lib
from jaxcal.report import summary
from jaxcal.report import tables
from jaxcal.storage import atomic
from jaxcal.tuning import checkpoint
from jaxcal.tuning import methods
from jaxcal.tuning import protocol
from jaxcal.tuning import saved
from jaxcal.tuning import task as task_lib

_DOR = "dor"
_KEYS = ("accuracy", "ece", "nll", "brier", "aurc")
_KINDS = ("", "_low", "_high", "_seeds", "_std", "_total_low", "_total_high")

# By method, predictions of every seed by half of the classes.
_Found = Mapping[stages.Stages, Mapping[str, Sequence[Predictions]]]
# The same of their scores on resamples.
_Sampled = Mapping[
    stages.Stages, Mapping[str, Sequence[resampled.Resampled]]]


class Task(NamedTuple):
  """A data set whose predictions are reported.

  Attributes:
    name: Name of the set.
    halves: Names of the halves of the classes that are predicted.
    seeds: Number of seeds by method; zero-shot has one.
    shared: Number of names of new classes among the outliers by method; None
      where a method has no outliers that are names.
  """

  name: str
  halves: tuple[str, ...]
  seeds: Mapping[stages.Stages, int]
  shared: Mapping[stages.Stages, int | None]


def of_tuning(
    given: Sequence[task_lib.Task],
    specs: Sequence[methods.Spec],
    shared: Mapping[str, Sequence[str] | None],
) -> list[Task]:
  """What `jaxcal tune` has predicted.

  Args:
    given: The data sets, all with the same halves of classes.
    specs: The methods.
    shared: Names of new classes among the outliers, by data set; None where
      there are no outliers.
  """
  found = []
  for task in given:
    names = shared[task.name]
    found.append(Task(
        task.name, tuple(task.tests),
        {saved.ZERO_SHOT: 1, **dict.fromkeys(
            (spec.stages for spec in specs), len(task.seeds))},
        {spec.stages: None if names is None else len(names)
         for spec in specs if spec.outliers == "names"}))
  return found


def of_results(results: Sequence[Mapping[str, Any]]) -> list[Task]:
  """The same of a finished run.

  Args:
    results: Rows of results.jsonl, as `write` has them.
  """
  found: dict[str, Task] = {}
  for row in results:
    halves = tuple(half for group in task_lib.HALVES.values() for half in group
                   if f"accuracy_{half}" in row)
    task = found.setdefault(row["data"], Task(row["data"], halves, {}, {}))
    of = stages.of(row)
    found[row["data"]] = task._replace(
        seeds={**task.seeds, of: row["seeds"]},
        shared={**task.shared, of: row.get("shared_names")})
  return list(found.values())


def write(
    run: pathlib.Path,
    tasks: Sequence[Task],
    conventions: summary.Conventions,
    *,
    output: pathlib.Path | None = None,
    remarks: Sequence[str] = (),
    page_by: Sequence[str] = (),
) -> str:
  """Writes results, differences, figures and a page from what a run holds.

  Args:
    run: Folder with predictions and tuned parameters.
    tasks: The data sets, from `of_tuning` or `of_results`.
    conventions: What ECE and intervals mean.
    output: Folder to write to; the run itself if None.
    remarks: Sentences about all of the report.
    page_by: Words of the command line that reports a finished run.

  Returns:
    The tables for people.

  Raises:
    FileNotFoundError: Predictions are gone.
    ValueError: They are damaged.
  """
  output = run if output is None else output
  for task in tasks:
    for path in _paths(run, task):
      saved_runs.check_there(run, f"{task.name}, {path.parent.name}", path)
  rows, differences, parts = [], [], []
  atomic.make_folder(output)
  for task in tasks:
    found = _predictions(run, task)
    sampled = {of: {half: seeds_lib.sample(seeds, conventions)
                    for half, seeds in by_half.items()}
               for of, by_half in found.items()}
    of_task = [_row(task, of, by_half, sampled[of], conventions.level) |
               _shared(task, of, by_half) for of, by_half in found.items()]
    rows += of_task
    differences += _differences(task, sampled, conventions.level)
    parts.append(_draw(run, output, task, found, of_task, conventions))
  for name, some in (("results", rows), ("differences", differences)):
    saved_runs.write_rows(output / f"{name}.jsonl", some)
  about, task = saved_runs.about(run), tasks[0]
  columns = tables.BASE_TO_NEW if "new" in task.halves else tables.ALL_CLASSES
  remarks = [_legend(task, conventions), *saved_runs.remarks(about), *remarks]
  text = "\n\n".join([
      tables.markdown(rows, columns), *remarks,
      "Paired differences:",
      tables.markdown(differences, tables.TUNED_DIFFERENCES),
      tables.set_p_value_note(differences, conventions.num_resamples)])
  _write(output / "results.md", f"{text}\n")
  page.write(output / "report.html", page.Page(
      _title(about), _lead(tasks),
      [page.Section("Summary", [page.Table(rows, columns), *remarks]), *parts,
       page.Section("Paired differences", [
           sections.ON_DIFFERENCES,
           page.Table(differences, tables.TUNED_DIFFERENCES)])],
      saved_runs.measured_by(about, conventions),
      saved_runs.commands(about, page_by)))
  return text


def _paths(run, task):
  return [saved.path_of(run, task.name, of, half, seed)
          for of, number in task.seeds.items() for half in task.halves
          for seed in range(1, number + 1)]


def _predictions(run, task) -> _Found:
  return {of: {half: [_load(run, task, of, half, seed)
                      for seed in range(1, number + 1)]
               for half in task.halves} for of, number in task.seeds.items()}


def _load(run, task, of, half, seed):
  with saved_runs.named(task.name, of.label):
    return predictions_lib.load(
        saved.path_of(run, task.name, of, half, seed))


def _row(task, of, by_half, sampled, level):
  row = {"data": task.name, **stages.fields(of),
         "seeds": len(next(iter(by_half.values())))}
  found = {half: seeds_lib.pool(seeds, level)
           for half, seeds in sampled.items()}
  for half, seeds in by_half.items():
    row |= _half_row(half, found[half])
    scores = [one.settings.get("fd_score") for one in seeds]
    row[f"fd_score_{half}"] = (
        None if None in scores else float(np.mean(scores)))
  return row | _both_halves(found) if "new" in found else row


def _shared(task, of, by_half):
  """How many of the new classes' names are among the outliers."""
  if "new" not in task.halves:
    return {}
  return {"num_new": len(by_half["new"][0].class_names),
          "shared_names": task.shared.get(of)}


def _half_row(half, found):
  """Keys with the half before what tells the kind of number."""
  row = {}
  for key in (*_KEYS, "gap"):
    for kind in _KINDS:
      # There is no spread of a single seed.
      if f"{key}{kind}" in found:
        row[f"{key}_{half}{kind}"] = found[f"{key}{kind}"]
  return row


def _both_halves(found):
  row = {}
  for key in _KEYS:
    both = protocol.summarise(*(
        np.array(found[half][f"{key}_seeds"]) for half in ("base", "new")))
    for name in ("arithmetic_mean", "harmonic_mean"):
      spread = getattr(both, name)
      row[f"{key}_{name}"] = spread.mean
      row[f"{key}_{name}_std"] = None if np.isnan(spread.std) else spread.std
  return row


def _differences(task, found: _Sampled, level):
  """Of every method to zero-shot, and of one with outliers to that without."""
  pairs = [(of, saved.ZERO_SHOT) for of in found if of != saved.ZERO_SHOT]
  for of in found:
    plain = of._replace(additions=tuple(
        one for one in of.additions if one != _DOR))
    if plain != of and plain in found:
      pairs.append((of, plain))
  # Halves have images of their own, so that each is a table of tests.
  by_half = [resampled.adjusted([
      {"data": task.name, **stages.fields(of),
       **stages.reference_fields(reference),
       "classes": half, **seeds_lib.difference_row(
           found[of][half], found[reference][half], level)}
      for of, reference in pairs]) for half in task.halves]
  return [row for rows in zip(*by_half) for row in rows]


def _draw(run, output, task, found: _Found, rows, conventions):
  """Reliability diagrams, a row per half of the classes, and loss curves."""
  panels = {(of, half): jax.tree.map(lambda *x: sum(x), *(
      per_image.of(one).bins(conventions) for one in found[of][half]))
            for half in task.halves for of in found}
  _write(output / f"diagram-{task.name}.svg", figures.svg(
      figures.reliability_diagrams({
          f"{of.label}\n{half} classes": bins
          for (of, half), bins in panels.items()}, per_row=len(found))))
  drawn: list[page.Block] = [page.Figures([
      page.Figure(figures.svg(figures.reliability_diagrams(
          {"": panels[stages.of(row), half]}), inline=True),
                  f"{tables.method(row)}, {half} classes\n"
                  f"ECE {tables.percent(row[f'ece_{half}'])} %")
      for row in rows], are_small=True) for half in task.halves]
  drawn.append(sections.ON_DIAGRAMS)
  losses = _losses(run, task)
  if losses:
    _write(output / f"losses-{task.name}.svg",
           figures.svg(figures.loss_curves(losses)))
    drawn.append(page.Figures([page.Figure(
        figures.svg(figures.loss_curves(losses, narrow=True), inline=True),
        "Losses of the training\nmean and range of the seeds; number of "
        "epochs in parentheses")]))
  return page.Section(task.name, drawn)


def _losses(run, task):
  """Losses by method, of those whose parameters are there."""
  found = {}
  for of, number in task.seeds.items():
    paths = [run / "tuned" / task.name / of.label / f"seed-{seed}"
             for seed in range(1, number + 1)]
    if all(map(checkpoint.exists, paths)):
      curves = np.array([checkpoint.about(path)["losses"] for path in paths])
      if curves.size:
        found[of.label] = curves
  return found


def _title(about):
  settings = saved_runs.settings_of(about)
  return " ".join(["Few-shot tuning", *(
      f"of {model}" for model in (settings.get("config.model.name"),)
      if model)])


def _lead(tasks):
  methods = max(len(task.seeds) for task in tasks) - 1
  halves = "all classes"
  if "new" in tasks[0].halves:
    halves = ("base classes, which were trained, and new ones, each among the "
              "classes of its half")
  return (f"Accuracy and calibration of {methods} tuned "
          f"{'method' if methods == 1 else 'methods'} beside the zero-shot "
          f"model, on {halves}, of {', '.join(task.name for task in tasks)}.")


def _write(path, text):
  atomic.write_whole(path, text.encode())


def _legend(task, conventions):
  seeds = max(task.seeds.values())
  text = (
      f"Means over {seeds} seeds; +-: standard deviation over "
      f"seeds; brackets: {100 * conventions.level:g} % bootstrap over the test "
      "images, same seeds; in parentheses, of two seeds or more: "
      f"{100 * conventions.level:g} % for other images and other seeds. p: for "
      f"these seeds. ECE: {conventions.num_bins} "
      f"{conventions.edges}-closed bins. conf - acc: positive where "
      "over-confident. FD: mean distance of class features to their nearest "
      "five.")
  if "new" in task.halves:
    text += (" HM, AM: harmonic and arithmetic mean of base and new. new "
             "names: how many of the new classes' names are among the "
             "outliers.")
  return text
