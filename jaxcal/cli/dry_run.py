"""--dry_run: what a command would compute, how much is there, what it costs."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any, NamedTuple

from absl import flags

from jaxcal import parts
from jaxcal.adapt import base
from jaxcal.adapt.prompt import methods as prompt_methods
from jaxcal.report import tables

ASKED = flags.DEFINE_bool(
    "dry_run", False, "print what would be computed, how much of it is there "
    "and what the rest costs, and write nothing")

_MOST_NAMES = 6  # in a cell of the table


class Planned(NamedTuple):
  """What is predicted for the images of a set.

  Attributes:
    data: Name of the set, and of its part.
    num_images: Number of its images.
    num_classes: Number of classes, each a prompt.
    num_views: Views of an image that go through the image tower; 0 where their
      features are stored.
    methods: The methods by the names of their predictions.
    missing: Names of the predictions that are not there.
    begun: Folders of unfinished work, and the names in each.
  """

  data: str
  num_images: int
  num_classes: int
  num_views: int
  methods: Mapping[str, base.Numbers]
  missing: Sequence[str]
  begun: Mapping[pathlib.Path, Sequence[str]]

  def row(self) -> dict[str, Any]:
    """What is there and what is to be computed, counted."""
    images = {name: self.num_images for name in self.missing}
    for folder, names in self.begun.items():
      if parts.names(folder):
        left = len(parts.missing(folder, self.num_images))
        images |= {name: left for name in names}
    towers = max(images.values(), default=0)
    return {
        "data": self.data, "num_images": self.num_images,
        "there": sum(name not in images for name in self.methods),
        "missing": _listed(list(images)),
        "images_left": towers, "views": towers * self.num_views,
        "prompts": self.num_classes * sum(
            count * _num_steps(self.methods[name])
            for name, count in images.items())}


def show(planned: Sequence[Planned], output: pathlib.Path) -> None:
  """Prints a row for each set, and the sums.

  Args:
    planned: What is planned, set by set.
    output: Folder that would be written to.
  """
  rows = [one.row() for one in planned]
  text = lambda name: lambda row: (
      f"{row[name]:,}" if isinstance(row[name], int) else row[name])
  print(tables.markdown(rows, [
      tables.Column(heading, text(name)) for heading, name in (
          ("images of", "data"), ("n", "num_images"),
          ("predictions there", "there"), ("to be computed", "missing"),
          ("for images", "images_left"), ("views, image tower", "views"),
          ("prompts, text tower", "prompts"))]))
  print(f"\nViews through the image tower: "
        f"{sum(row['views'] for row in rows):,}; prompts through the text "
        f"tower, for tuned contexts: {sum(row['prompts'] for row in rows):,}."
        f"\nNothing was written; output folder: {output}")


def _listed(names):
  """Names, or the first of them and how many follow."""
  more = len(names) - _MOST_NAMES
  listed = ", ".join(names[:_MOST_NAMES]) or "nothing"
  return f"{listed} and {more} more" if more > 0 else listed


def _num_steps(method):
  """How often a context of an image is encoded after the initial one."""
  if not isinstance(method, prompt_methods.PromptMethod):
    return 0
  return method.objective().num_steps
