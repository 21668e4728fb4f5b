"""Predictions of image sets become rows, files for people, and print."""

from collections.abc import Iterable, Mapping, Sequence
import pathlib
import sys
from typing import Any, NamedTuple

from jaxcal.cli import experiment
from jaxcal.predictions import Predictions
from jaxcal.report import figures
from jaxcal.report import page
from jaxcal.report import summary
from jaxcal.report import tables
from jaxcal.storage import atomic


class Predicted(NamedTuple):
  """What is reported of an image set.

  Attributes:
    data: Name of the set.
    predictions: By method, in the order of the tables.
    references: The method that a method is compared with, where it is.
    unknown: By method, predictions for images of none of the classes.
  """

  data: str
  predictions: Mapping[str, Predictions]
  references: Mapping[str, str]
  unknown: Mapping[str, Predictions] = {}


class Measured(NamedTuple):
  """Of all sets: rows, paired differences, and diagrams by set."""

  rows: list[summary.Row]
  differences: list[summary.Row]
  diagrams: dict[str, str]


def measure(
    sets: Iterable[Predicted], conventions: summary.Conventions) -> Measured:
  """All numbers and diagrams; one image set is looked at after the other.

  Rows of recalibrated predictions say `recalibrator`, `recalibration_images`,
  `recalibration_notes`, and the fitted numbers by their names.
  """
  measured = Measured([], [], {})
  for data, predictions, references, unknown in sets:
    rows = [
        {"data": data, "method": name} | summary.summarize(one, conventions) |
        (summary.detect(one, unknown[name], conventions)
         if name in unknown else {}) | _fit(one)
        for name, one in predictions.items()]
    measured.rows.extend(rows)
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
    over_seeds: Sequence[summary.Row] = (),
    remarks: Sequence[str] = (),
) -> None:
  """Writes the report and prints its tables; notes on fits go to stderr, too.

  Args:
    output: Folder of the run.
    measured: From `measure`.
    title: Heading of the page.
    conventions: What ECE and intervals mean.
    settings: Everything needed to run it again, by dotted name.
    over_seeds: Rows for `tables.OVER_SEEDS`.
    remarks: Sentences about all of the report.
  """
  rows, differences, diagrams = measured
  for data, diagram in diagrams.items():
    atomic.write_whole(output / f"diagram-{data}.svg", diagram.encode())
  experiment.write_rows(output / "results.jsonl", rows)
  experiment.write_rows(output / "differences.jsonl", differences)
  text = page.render(
      title=title, rows=rows, differences=differences, diagrams=diagrams,
      conventions=conventions, settings=settings, remarks=remarks)
  atomic.write_whole(output / "report.html", text.encode())
  text = "\n\n".join(_blocks(measured, conventions, over_seeds, remarks))
  atomic.write_whole(output / "results.md", f"{text}\n".encode())
  for note in tables.fit_notes(rows):
    print(f"jaxcal: {note}", file=sys.stderr)
  print(f"{text}\n\nWritten to {output}: report.html, diagram-*.svg, "
        "results.md, results.jsonl, differences.jsonl, predictions/")


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


def _blocks(measured, conventions, over_seeds, remarks):
  """Paragraphs and tables of results.md."""
  rows, differences, _ = measured
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
      ("Doubt, of the median image:", of("median_epistemic"), tables.DOUBT),
      ("Known from unknown images, AUROC %:", of("auroc_distrust"),
       tables.DETECTION),
      ("Paired differences:", differences, tables.DIFFERENCES)):
    if some:
      yield heading
      yield tables.markdown(some, columns)
