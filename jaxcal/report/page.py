"""A self-contained HTML page: sections of paragraphs, tables and figures.

What a page shows of a run is decided where the run is reported; this is how a
page looks. It asks for nothing from anywhere: style, script, figures and
pictures are in it.
"""

from collections.abc import Mapping, Sequence
import datetime
import importlib.resources
import pathlib
import re
from typing import Any, NamedTuple

from jaxcal.report import tables
from jaxcal.storage import atomic


class Table(NamedTuple):
  """Rows to be sorted by any column.

  Attributes:
    rows: Rows of numbers by name.
    columns: Columns, see `tables`.
    folded: Line that unfolds the table; if empty, it is always to be seen.
  """

  rows: Sequence[Mapping[str, Any]]
  columns: Sequence[tables.Column]
  folded: str = ""


class Figure(NamedTuple):
  """A drawing and what it shows.

  Attributes:
    svg: Drawing as an `<svg>` element, from `figures.svg`.
    caption: Text below it; its first line is the heading.
  """

  svg: str
  caption: str


class Figures(NamedTuple):
  """Figures side by side, as many as fit.

  Attributes:
    figures: Figures.
    are_small: Whether they can be read at half the width of a telephone.
  """

  figures: Sequence[Figure]
  are_small: bool = False


class Picture(NamedTuple):
  """An image and what is said of it.

  Attributes:
    source: Image as a `data:` URI; empty where it is not at hand.
    lines: Lines of text below it.
  """

  source: str
  lines: Sequence[str]


class Pictures(NamedTuple):
  """Pictures side by side, as many as fit."""

  pictures: Sequence[Picture]


class Bullets(NamedTuple):
  """Sentences below each other."""

  lines: Sequence[str]


# A paragraph is a string.
Block = str | Table | Figures | Pictures | Bullets


class Section(NamedTuple):
  """A part of a page, which its contents name.

  Attributes:
    heading: Heading.
    blocks: Paragraphs, tables and figures, from top to bottom.
  """

  heading: str
  blocks: Sequence[Block]


class Page(NamedTuple):
  """A page.

  Attributes:
    title: Heading of the page.
    lead: Sentence on what it shows.
    sections: Sections; those without blocks are left out.
    settings: Settings to run it again with, by dotted name.
    commands: Command lines that it comes from, by what they did.
  """

  title: str
  lead: str
  sections: Sequence[Section]
  settings: Mapping[str, Any]
  commands: Mapping[str, str] = {}


def render(page: Page, *, date: datetime.date) -> str:
  """The page as text.

  Args:
    page: Content of the page.
    date: Day on which it is made.
  """
  import jinja2
  environment = jinja2.Environment(
      autoescape=True, trim_blocks=True, lstrip_blocks=True,
      undefined=jinja2.StrictUndefined)
  environment.tests |= {
      kind.__name__.lower(): lambda block, kind=kind: isinstance(block, kind)
      for kind in (Table, Figures, Pictures, Bullets)}
  environment.globals |= {"cells": tables.marked_cells}
  sections = [one for one in page.sections if one.blocks]
  return environment.from_string(_file("page.html")).render(
      page=page, date=date.isoformat(), sections=dict(zip(
          _anchors([one.heading for one in sections]), sections)),
      style=_file("page.css"), script=_file("page.js"))


def write(path: pathlib.Path, page: Page) -> None:
  """Writes a page, made today."""
  today = datetime.datetime.now(datetime.UTC).date()
  atomic.write_whole(path, render(page, date=today).encode())


def _file(name):
  return importlib.resources.files("jaxcal.report").joinpath(
      name).read_text(encoding="utf-8")


def _anchors(headings):
  """Names that an address can end with, each different."""
  found: list[str] = []
  for heading in headings:
    name = re.sub(r"[^\w]+", "-", heading.lower()).strip("-") or "section"
    same = sum(re.fullmatch(re.escape(name) + r"(-\d+)?", other) is not None
               for other in found)
    found.append(f"{name}-{same + 1}" if same else name)
  return found
