"""What `jaxcal tune` predicted becomes rows, tables and figures."""

from collections.abc import Mapping, Sequence
import pathlib

import jax
import numpy as np

from jaxcal import config as config_lib
from jaxcal import predictions as predictions_lib
from jaxcal.cli import experiment
from jaxcal.report import figures
from jaxcal.report import measured
from jaxcal.report import summary
from jaxcal.report import tables
from jaxcal.storage import atomic
from jaxcal.tuning import checkpoint
from jaxcal.tuning import methods
from jaxcal.tuning import protocol
from jaxcal.tuning import task as task_lib

ZERO_SHOT = "zero_shot"
_DOR = "+dor"
_KEYS = ("accuracy", "ece", "nll", "brier", "aurc")


def write(
    config: config_lib.ExperimentConfig,
    output: pathlib.Path,
    tasks: Sequence[task_lib.Task],
    shared: Mapping[str, tuple[str, ...] | None],
) -> None:
  """Writes results, differences and figures, and prints the tables.

  Args:
    config: Settings of the experiment.
    output: Where predictions and tuned parameters are.
    tasks: The data sets.
    shared: Names of new classes among the outliers, by data set; None where
      there are no outliers.
  """
  conventions = experiment.conventions(config.metrics)
  rows, differences = [], []
  for task in tasks:
    predictions = _predictions(config, output, task)
    rows += _rows(task, predictions, shared[task.name], conventions)
    differences += _differences(task, predictions, conventions)
    _draw(config, output, task, predictions, conventions)
  measured.write_rows(output / "results.jsonl", rows)
  measured.write_rows(output / "differences.jsonl", differences)
  columns = (tables.BASE_TO_NEW if config.tune.classes == "base"
             else tables.ALL_CLASSES)
  text = "\n\n".join([
      tables.markdown(rows, columns), _legend(config, conventions),
      "Paired differences:",
      tables.markdown(differences, tables.TUNED_DIFFERENCES)])
  atomic.write_whole(output / "results.md", f"{text}\n".encode())
  print(f"{text}\n\nWritten to {output}: results.md, results.jsonl, "
        "differences.jsonl, diagram-*.svg, losses-*.svg, tuned/, predictions/")


def path_of(output: pathlib.Path, task: task_lib.Task, method: str, half: str,
            seed: int) -> pathlib.Path:
  """Where the predictions of a seed for a half of the classes are."""
  return output / "predictions" / task.name / method / f"{half}-{seed}"


def _predictions(config, output, task):
  """By method and half of the classes, the predictions of every seed."""
  seeds = {ZERO_SHOT: 1, **dict.fromkeys(config.tune.name,
                                         config.tune.num_seeds)}
  return {name: {half: [
      predictions_lib.load(path_of(output, task, name, half, number))
      for number in range(1, count + 1)] for half in task.tests}
          for name, count in seeds.items()}


def _rows(task, predictions, shared, conventions):
  rows = []
  for name, by_half in predictions.items():
    row = {"data": task.name, "method": name,
           "seeds": len(next(iter(by_half.values())))}
    found = {half: summary.over_seeds(seeds, conventions)
             for half, seeds in by_half.items()}
    for half, seeds in by_half.items():
      row |= _half_row(half, found[half])
      scores = [one.settings.get("fd_score") for one in seeds]
      row[f"fd_score_{half}"] = (
          None if None in scores else float(np.mean(scores)))
    if "new" in found:
      row |= _both_halves(found)
      row |= {"num_new": len(task.tests["new"].class_names),
              "shared_names": len(shared) if _holds_names(name) else None}
    rows.append(row)
  return rows


def _holds_names(method):
  return method.endswith(_DOR) and methods.Spec(method).outliers == "names"


def _half_row(half, found):
  """Keys with the half before what tells the kind of number."""
  row = {}
  for key in (*_KEYS, "gap"):
    for kind in ("", "_low", "_high", "_seeds"):
      row[f"{key}_{half}{kind}"] = found[f"{key}{kind}"]
    row[f"{key}_{half}_std"] = _std(found[f"{key}_seeds"])
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


def _std(values):
  return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _differences(task, predictions, conventions):
  """Of every method to zero-shot, and of a base method with outliers to it."""
  pairs = [(name, ZERO_SHOT) for name in predictions if name != ZERO_SHOT]
  pairs += [(name, name.removesuffix(_DOR)) for name in predictions
            if name.endswith(_DOR) and name.removesuffix(_DOR) in predictions]
  return [{"data": task.name, "method": name, "reference": reference,
           "classes": half, **summary.compare_seeds(
               predictions[name][half], predictions[reference][half],
               conventions)}
          for name, reference in pairs for half in task.tests]


def _draw(config, output, task, predictions, conventions):
  """Reliability diagrams, a row per half of the classes, and loss curves."""
  panels = {}
  for half in task.tests:
    for name, by_half in predictions.items():
      bins = [summary.bins_of(one, conventions) for one in by_half[half]]
      panels[f"{name}\n{half} classes"] = jax.tree.map(
          lambda *x: sum(x), *bins)
  figure = figures.reliability_diagrams(panels, per_row=len(predictions))
  _write_figure(output / f"diagram-{task.name}.svg", figure)
  losses = {}
  for name in config.tune.name:
    paths = [output / "tuned" / task.name / name / f"seed-{seed}"
             for seed in range(1, config.tune.num_seeds + 1)]
    found = np.array([checkpoint.about(path)["losses"] for path in paths])
    if found.size:
      losses[name] = found
  if losses:
    _write_figure(output / f"losses-{task.name}.svg",
                  figures.loss_curves(losses))


def _write_figure(path, figure):
  atomic.write_whole(path, figures.svg(figure).encode())


def _legend(config, conventions):
  text = (
      f"Means over {config.tune.num_seeds} seeds; +-: standard deviation over "
      f"seeds; brackets: {100 * conventions.level:g} % bootstrap over the test "
      f"images, same seeds. ECE: {conventions.num_bins} "
      f"{conventions.edges}-closed bins. conf - acc: positive where "
      "over-confident. FD: mean distance of class features to their nearest "
      "five.")
  if config.tune.classes == "base":
    text += (" HM, AM: harmonic and arithmetic mean of base and new. new "
             "names: how many of the new classes' names are among the "
             "outliers.")
  return text
