"""Rows of numbers as tables for people: percent, and few digits."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxcal.report import summary


class Column(NamedTuple):
  """A heading and how a row fills the column."""

  heading: str
  cell: Callable[[summary.Row], str]


def percent(value: float) -> str:
  """A fraction in percent, one decimal."""
  return f"{100 * value:.1f}"


def signed_percent(value: float) -> str:
  """A fraction in percent with its sign, one decimal, no minus zero."""
  text = f"{100 * value:+.1f}"
  return "0.0" if text in ("+0.0", "-0.0") else text


def _interval(name, form):
  def cell(row):
    low, high = form(row[f"{name}_low"]), form(row[f"{name}_high"])
    return f"{form(row[name])} [{low}, {high}]"
  return cell


def _three(value):
  return f"{value:.3f}"


def _signed_three(value):
  text = f"{value:+.3f}"
  return "0.000" if text in ("+0.000", "-0.000") else text


RESULTS = (
    Column("images of", lambda row: row["data"]),
    Column("n", lambda row: str(row["num_images"])),
    Column("method", lambda row: row["method"]),
    Column("accuracy %", _interval("accuracy", percent)),
    Column("ECE %", _interval("ece", percent)),
    Column("floor", lambda row: percent(row["ece_floor"])),
    Column("conf - acc", lambda row: signed_percent(row["confidence_gap"])),
    Column("NLL", _interval("nll", _three)),
    Column("Brier", _interval("brier", _three)),
)

MORE = (
    Column("adaptive ECE %", lambda row: percent(row["adaptive_ece"])),
    Column("MCE %", lambda row: percent(row["mce"])),
)

DIFFERENCES = (
    Column("images of", lambda row: row["data"]),
    Column("method", lambda row: f"{row['method']} - {row['reference']}"),
    Column("accuracy points", _interval("accuracy_difference", signed_percent)),
    Column("ECE points", _interval("ece_difference", signed_percent)),
    Column("NLL", _interval("nll_difference", _signed_three)),
    Column("Brier", _interval("brier_difference", _signed_three)),
)

TUNING = (
    Column("images of", lambda row: row["data"]),
    Column("method", lambda row: row["method"]),
    Column("entropy before",
           lambda row: _three(row["median_entropy_before"])),
    Column("after", lambda row: _three(row["median_entropy_after"])),
    Column("context moved by",
           lambda row: _three(row["median_context_shift"])),
    Column("regulariser", lambda row: _three(row["median_regulariser"])),
    Column("gradients, regulariser : entropy",
           lambda row: f"{row['median_gradient_ratio']:.3g}"),
)


def cells(
    rows: Sequence[summary.Row], columns: Sequence[Column]
) -> list[list[str]]:
  """The text of every cell, row by row."""
  return [[column.cell(row) for column in columns] for row in rows]


def markdown(rows: Sequence[summary.Row], columns: Sequence[Column]) -> str:
  """A markdown table with its columns aligned, readable as plain text too."""
  headings = [column.heading for column in columns]
  lines = [headings, *cells(rows, columns)]
  widths = [max(len(line[i]) for line in lines) for i in range(len(headings))]
  write = lambda line: "| " + " | ".join(
      text.ljust(width) for text, width in zip(line, widths)) + " |"
  rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
  return "\n".join([write(headings), rule, *map(write, lines[1:])])
