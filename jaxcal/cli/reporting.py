"""Predictions of image sets become rows, files for people, and print."""

from collections.abc import Iterable, Mapping, Sequence
import json
import pathlib
import sys
from typing import Any, NamedTuple

import numpy as np

from jaxcal.predictions import Predictions
from jaxcal.report import figures
from jaxcal.report import page
from jaxcal.report import summary
from jaxcal.report import tables
from jaxcal.storage import atomic

# Paired differences are taken to the first of these that is there.
_REFERENCES = ("tpt", "zero_shot")
# What is told of several seeds of a method.
_OVER_SEEDS = ("accuracy", "ece", "nll")


class Predicted(NamedTuple):
  """What is reported of an image set.

  Attributes:
    data: Name of the set.
    predictions: Predictions by method, in the order of the tables.
    references: The method that a method is compared with, where it is.
    out_of_distribution: Predictions for images of none of the classes, by
      method.
  """

  data: str
  predictions: Mapping[str, Predictions]
  references: Mapping[str, str]
  out_of_distribution: Mapping[str, Predictions] = {}


class Measured(NamedTuple):
  """What is reported of all sets.

  Attributes:
    rows: Measures of each method on each set.
    differences: Paired differences.
    diagrams: Reliability diagrams by set.
    over_seeds: Means and standard deviations of the methods of `jaxcal tune`
      of which there are several seeds, rows for `tables.OVER_SEEDS`.
  """

  rows: list[summary.Row]
  differences: list[summary.Row]
  diagrams: dict[str, str]
  over_seeds: list[summary.Row]


def references(methods: Sequence[str]) -> dict[str, str]:
  """The method that each of the others is compared with, if it is there."""
  reference = next((name for name in _REFERENCES if name in methods), None)
  return {name: reference for name in methods
          if reference not in (None, name)}


def measure(
    sets: Iterable[Predicted], conventions: summary.Conventions) -> Measured:
  """All numbers and diagrams; one image set is looked at after the other.

  Rows have the numbers of their methods, by name, as the predictions say them.
  Those of recalibrated predictions say `recalibrator`, `recalibration_images`,
  `recalibration_notes`, and the fitted numbers by their names.
  """
  measured = Measured([], [], {}, [])
  for data, predictions, references, outside in sets:
    rows = [
        {"data": data, "method": name} | one.settings.get("numbers", {}) |
        summary.summarise(one, conventions) |
        (summary.detect(one, outside[name], conventions)
         if name in outside else {}) | _fit(one)
        for name, one in predictions.items()]
    measured.rows.extend(rows)
    measured.over_seeds.extend(_over_seeds(rows, predictions))
    measured.differences.extend(
        {"data": data, "method": name} | summary.compare(
            predictions[name], predictions[reference], conventions) |
        {"reference": reference} for name, reference in references.items())
    measured.diagrams[data] = figures.svg(figures.reliability_diagrams({
        figures.panel_title(row): summary.bins_of(
            predictions[row["method"]], conventions) for row in rows}))
  return measured


def write(
    output: pathlib.Path,
    measured: Measured,
    *,
    title: str,
    conventions: summary.Conventions,
    settings: Mapping[str, Any],
    remarks: Sequence[str] = (),
) -> None:
  """Writes the report and prints its tables; notes on fits go to stderr, too.

  Args:
    output: Folder of the run.
    measured: Measures from `measure`.
    title: Heading of the page.
    conventions: What ECE and intervals mean.
    settings: Settings to run it again with, by dotted name.
    remarks: Sentences about all of the report.
  """
  output.mkdir(parents=True, exist_ok=True)
  rows, differences, diagrams, _ = measured
  for data, diagram in diagrams.items():
    atomic.write_whole(output / f"diagram-{data}.svg", diagram.encode())
  write_rows(output / "results.jsonl", rows)
  write_rows(output / "differences.jsonl", differences)
  text = page.render(
      title=title, rows=rows, differences=differences, diagrams=diagrams,
      conventions=conventions, settings=settings, remarks=remarks)
  atomic.write_whole(output / "report.html", text.encode())
  text = "\n\n".join(_blocks(measured, conventions, remarks))
  atomic.write_whole(output / "results.md", f"{text}\n".encode())
  for note in tables.fit_notes(rows):
    print(f"jaxcal: {note}", file=sys.stderr)
  print(f"{text}\n\nWritten to {output}: report.html, diagram-*.svg, "
        "results.md, results.jsonl, differences.jsonl")


def write_rows(path: pathlib.Path, rows: Sequence[summary.Row]) -> None:
  """A line of JSON for each row."""
  text = "".join(json.dumps(row) + "\n" for row in rows)
  atomic.write_whole(path, text.encode())


def numbers(predictions: Predictions) -> dict[str, float]:
  """What was fitted to recalibrate predictions, apart from arrays."""
  fitted = predictions.settings["recalibration"]["parameters"]
  return {name: value for name, value in fitted.items()
          if isinstance(value, (int, float))}


def _fit(predictions):
  """What the row of recalibrated predictions says of the fit."""
  if "recalibrator" not in predictions.settings:
    return {}
  about = predictions.settings["recalibration"]
  return {"recalibrator": predictions.settings["recalibrator"],
          "recalibration_images": about["num_images"],
          "recalibration_notes": about["notes"], **numbers(predictions)}


def _over_seeds(rows, predictions):
  """Means over the seeds of a set's tuned methods, see `Measured`."""
  groups: dict[str, list[Any]] = {}
  for row in rows:
    method = _tuned_method(predictions[row["method"]].settings)
    if method is not None:
      groups.setdefault(method, []).append(row)
  for method, group in groups.items():
    if len(group) > 1:
      values = np.array([[row[name] for name in _OVER_SEEDS] for row in group])
      yield {
          "data": group[0]["data"], "method": method, "seeds": len(group),
          **dict(zip(_OVER_SEEDS, values.mean(axis=0).tolist())),
          **{f"{name}_std": float(std) for name, std in zip(
              _OVER_SEEDS, values.std(axis=0, ddof=1))}}


def _tuned_method(settings):
  """The method of which predictions are a seed; None where there are none."""
  if "tuned" not in settings:
    return None
  stages = settings["tuned"]["spec"]["name"], settings.get("recalibrator")
  return "+".join(filter(None, stages))


def _blocks(measured, conventions, remarks):
  """Paragraphs and tables of results.md."""
  rows, differences, _, over_seeds = measured
  notes = tables.fit_notes(rows)
  of = lambda key: [row for row in rows if key in row]
  yield tables.markdown(rows, tables.RESULTS)
  if notes:
    yield "On the fits:"
    yield "\n".join(f"- {note}." for note in notes)
  yield from remarks
  yield (f"ECE: {conventions.num_bins} {conventions.edges}-closed bins; floor: "
         "that of a perfectly calibrated model with these confidences; "
         f"brackets: {100 * conventions.level:g} % bootstrap.")
  for heading, some, columns in (
      ("Over seeds, mean and standard deviation:", over_seeds,
       tables.OVER_SEEDS),
      ("Fitted calibrators:", of("recalibrator"), tables.FITS),
      ("Uncertainty, of the median image:", of("median_epistemic"),
       tables.UNCERTAINTY),
      ("In and out of distribution, AUROC %:", of("auroc_confidence"),
       tables.DETECTION),
      ("Paired differences:", differences, tables.DIFFERENCES)):
    if some:
      yield heading
      yield tables.markdown(some, columns)
