"""What `jaxcal tune` predicted becomes rows, tables and figures."""

from collections.abc import Mapping, Sequence
import pathlib

import jax
import numpy as np

from jaxcal import stages
from jaxcal.predictions import Predictions
from jaxcal.report import figures
from jaxcal.report import per_image
from jaxcal.report import resampled
from jaxcal.report import saved_runs
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


def write(
    output: pathlib.Path,
    tasks: Sequence[task_lib.Task],
    specs: Sequence[methods.Spec],
    shared: Mapping[str, Sequence[str] | None],
    conventions: summary.Conventions,
) -> str:
  """Writes results, differences and figures; returns the tables for people.

  Args:
    output: Folder with predictions and tuned parameters.
    tasks: The data sets, all with the same halves of classes.
    specs: The methods.
    shared: Names of new classes among the outliers, by data set; None where
      there are no outliers.
    conventions: What ECE and intervals mean.
  """
  rows, differences = [], []
  for task in tasks:
    found = _predictions(output, task, specs)
    with_names = {spec.stages for spec in specs if spec.outliers == "names"}
    sampled = {of: {half: seeds_lib.sample(seeds, conventions)
                    for half, seeds in by_half.items()}
               for of, by_half in found.items()}
    rows += [_row(task, of, by_half, sampled[of], conventions.level) | _shared(
        task, shared[task.name] if of in with_names else None)
             for of, by_half in found.items()]
    differences += _differences(task, sampled, conventions.level)
    _draw(output, task, specs, found, conventions)
  for name, some in (("results", rows), ("differences", differences)):
    saved_runs.write_rows(output / f"{name}.jsonl", some)
  task = tasks[0]
  columns = tables.BASE_TO_NEW if "new" in task.tests else tables.ALL_CLASSES
  text = "\n\n".join([
      tables.markdown(rows, columns), _legend(task, conventions),
      "Paired differences:",
      tables.markdown(differences, tables.TUNED_DIFFERENCES),
      tables.set_p_value_note(differences, conventions.num_resamples)])
  _write(output / "results.md", f"{text}\n")
  return text


def _predictions(output, task, specs) -> _Found:
  count = {saved.ZERO_SHOT: 1, **dict.fromkeys(
      (spec.stages for spec in specs), len(task.seeds))}
  return {of: {half: saved.over_seeds(output, task.name, of, half, number)
               for half in task.tests} for of, number in count.items()}


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


def _shared(task, names):
  """How many of the new classes' names are among the outliers."""
  if "new" not in task.tests:
    return {}
  return {"num_new": len(task.tests["new"].class_names),
          "shared_names": None if names is None else len(names)}


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
      for of, reference in pairs]) for half in task.tests]
  return [row for rows in zip(*by_half) for row in rows]


def _draw(output, task, specs, found: _Found, conventions):
  """Reliability diagrams, a row per half of the classes, and loss curves."""
  panels = {}
  for half in task.tests:
    for of, by_half in found.items():
      bins = [per_image.of(one).bins(conventions) for one in by_half[half]]
      panels[f"{of.label}\n{half} classes"] = jax.tree.map(
          lambda *x: sum(x), *bins)
  _write(output / f"diagram-{task.name}.svg", figures.svg(
      figures.reliability_diagrams(panels, per_row=len(found))))
  losses = {}
  for spec in specs:
    folder = output / "tuned" / task.name / spec.name
    curves = np.array([checkpoint.about(folder / f"seed-{seed}")["losses"]
                       for seed in task.seeds])
    if curves.size:
      losses[spec.name] = curves
  if losses:
    _write(output / f"losses-{task.name}.svg",
           figures.svg(figures.loss_curves(losses)))


def _write(path, text):
  atomic.write_whole(path, text.encode())


def _legend(task, conventions):
  text = (
      f"Means over {len(task.seeds)} seeds; +-: standard deviation over "
      f"seeds; brackets: {100 * conventions.level:g} % bootstrap over the test "
      "images, same seeds; in parentheses, of two seeds or more: "
      f"{100 * conventions.level:g} % for other images and other seeds. p: for "
      f"these seeds. ECE: {conventions.num_bins} "
      f"{conventions.edges}-closed bins. conf - acc: positive where "
      "over-confident. FD: mean distance of class features to their nearest "
      "five.")
  if "new" in task.tests:
    text += (" HM, AM: harmonic and arithmetic mean of base and new. new "
             "names: how many of the new classes' names are among the "
             "outliers.")
  return text
