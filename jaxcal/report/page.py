"""One self-contained HTML page per run: tables, diagrams, settings."""

from collections.abc import Mapping, Sequence
import importlib.resources
from typing import Any

from jaxcal.report import published
from jaxcal.report import summary
from jaxcal.report import tables


def render(
    *,
    title: str,
    rows: Sequence[summary.Row],
    differences: Sequence[summary.Row],
    diagrams: Mapping[str, str],
    conventions: summary.Conventions,
    settings: Mapping[str, Any],
    remarks: Sequence[str] = (),
    beside: Sequence[summary.Row] | None = None,
) -> str:
  """The page as text.

  Args:
    title: Heading of the page.
    rows: Rows from `summary.summarise`, with `data` and their stages.
    differences: Differences from `summary.compare`, with `data` and the stages
      of both sides.
    diagrams: Reliability diagrams of each image set, as `<svg>`.
    conventions: What ECE and intervals mean.
    settings: Settings to run it again with, by dotted name.
    remarks: Sentences about all of the page, which stand above the tables.
    beside: Rows from `published.compare`; None for no such part.
  """
  import jinja2
  template = importlib.resources.files("jaxcal.report").joinpath(
      "page.html").read_text(encoding="utf-8")
  environment = jinja2.Environment(
      autoescape=True, trim_blocks=True, lstrip_blocks=True,
      undefined=jinja2.StrictUndefined)
  table = lambda some, columns: {
      "headings": [column.heading for column in columns],
      "rows": tables.cells(some, columns)}
  tuned = [row for row in rows if row.get("median_context_shift", 0) > 0]
  uncertain = [row for row in rows if "median_epistemic" in row]
  detecting = [row for row in rows if "auroc_confidence" in row]
  fitted = [row for row in rows if "recalibration_images" in row]
  by_data = summary.by_data(rows)
  return environment.from_string(template).render(
      title=title, conventions=conventions, settings=settings, remarks=remarks,
      results={data: table(group, tables.RESULTS[1:] + tables.MORE)
               for data, group in by_data.items()},
      notes={data: tables.fit_notes(group) for data, group in by_data.items()},
      fits=table(fitted, tables.FITS),
      differences=table(differences, tables.DIFFERENCES),
      uncertainty=table(uncertain, tables.UNCERTAINTY),
      detection=table(detecting, tables.DETECTION),
      published=table(published.shown(beside or ()), tables.PUBLISHED),
      on_published=None if beside is None else published.remarks(beside),
      tuning=table(tuned, tables.TUNING), diagrams=diagrams)
