"""What of a method's miscalibration is scale alone: before and after a fit.

A temperature changes the scale of logits and nothing else. What it repairs was
a matter of scale, as is the factor of a method's scores; what is left is not.
"""

from collections.abc import Iterator, Sequence

from jaxcal import stages
from jaxcal.report import figures
from jaxcal.report import page
from jaxcal.report import summary
from jaxcal.report import tables

# Scores that a temperature changes, with their headings.
_SCORES = {"ece": "ECE %", "nll": "NLL", "aurc": "AURC %"}
_AFTER = "_after"
# With fewer methods the tables say all.
_LEAST = 3
_ABOUT = (
    "Before and after one temperature for each method, fitted to other images "
    "of the same sets: what it repairs was a matter of scale alone. Filled "
    "points are before, hollow ones after; the axis of the NLL is logarithmic. "
    "Accuracy stays as it is.")


def rows(results: Sequence[summary.Row]) -> list[summary.Row]:
  """A row for each method that is there with a temperature and without.

  Args:
    results: Rows of an image set, or of means over several.

  Returns:
    Rows with the stages of the method, its accuracy, and `ece`, `nll` and
    `aurc` with and without "_after".
  """
  by_stages = {stages.of(row): row for row in results}
  found = []
  for of, row in by_stages.items():
    after = by_stages.get(of._replace(recalibrator="temperature"))
    if of.recalibrator is None and after is not None:
      found.append(
          stages.fields(of) | {name: row[name] for name in ("accuracy",
                                                            *_SCORES)} |
          {f"{name}{_AFTER}": after[name] for name in _SCORES})
  return found


def section(results: Sequence[summary.Row], of: str) -> page.Section:
  """Table and drawing of `rows`; one without blocks where there are few.

  Args:
    results: Rows of an image set, or of means over several.
    of: Name of what they are of, for the heading.
  """
  found = rows(results)
  if len(found) < _LEAST:
    return page.Section("", [])
  return page.Section(f"What a temperature repairs: {of}", [
      _ABOUT,
      page.Table(found, [tables.MEASURED["method"], *_columns()]),
      page.Figures([
          page.Figure(
              figures.svg(figures.before_and_after(found, score, heading),
                          inline=True),
              f"Accuracy against {heading.removesuffix(' %')}")
          for score, heading in _SCORES.items()]),
      "Points: " + ", ".join(
          f"{number}\N{NO-BREAK SPACE}{tables.method(row)}"
          for number, row in enumerate(found, start=1)) + "."])


def _columns() -> Iterator[tables.Column]:
  yield tables.Column("accuracy %", lambda row: tables.percent(row["accuracy"]))
  for score, heading in _SCORES.items():
    yield _column(score, heading)
    yield _column(f"{score}{_AFTER}", f"{heading}, after")


def _column(name, heading):
  cell = tables.percent if "%" in heading else "{:.3f}".format
  return tables.Column(heading, lambda row: cell(row[name]))
