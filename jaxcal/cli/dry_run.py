"""--dry_run: what a command would compute, how much is there, what it costs."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any, NamedTuple

from absl import flags
import jax

from jaxcal import parts
from jaxcal.adapt import base
from jaxcal.adapt.prompt import methods as prompt_methods
from jaxcal.report import tables
from jaxcal.tuning import checkpoint

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
    methods: The methods by the names of their predictions; None for tuned
      parameters.
    missing: Names of the predictions that are not there.
    begun: Folders of unfinished work, and the names in each.
    clean_views: Views that go through the image tower apart, for tuned
      parameters.
  """

  data: str
  num_images: int
  num_classes: int
  num_views: int
  methods: Mapping[str, base.Numbers | None]
  missing: Sequence[str]
  begun: Mapping[pathlib.Path, Sequence[str]]
  clean_views: int = 0

  def with_tuned(
      self, seeds: Mapping[str, checkpoint.Tuned], missing: Sequence[str]
  ) -> "Planned":
    """The same with what tuned parameters predict.

    Args:
      seeds: Tuned parameters by the names of their predictions.
      missing: Names of those that are not there.
    """
    from_pixels = [seeds[name].spec.kind.from_pixels for name in missing]
    # All that predict from features share these.
    passes = sum(from_pixels) + (not all(from_pixels))
    return self._replace(
        methods={**self.methods, **dict.fromkeys(seeds)},
        missing=[*self.missing, *missing],
        clean_views=passes * self.num_images)

  def row(self) -> dict[str, Any]:
    """What is there and what is to be computed, counted."""
    images = {name: self.num_images for name in self.missing}
    for folder, names in self.begun.items():
      if parts.names(folder):
        left = len(parts.missing(
            folder, self.num_images, set_aside=False))
        images |= {name: left for name in names}
    shared = max((left for name, left in images.items()
                  if self.methods[name] is not None), default=0)
    return {
        "data": self.data, "num_images": self.num_images,
        "there": sum(name not in images for name in self.methods),
        "missing": _listed(list(images)),
        "images_left": max(images.values(), default=0),
        "views": shared * self.num_views + self.clean_views,
        "prompts": self.num_classes * sum(
            count * _num_steps(self.methods[name])
            for name, count in images.items())}


def show(planned: Sequence[Planned], output: pathlib.Path) -> None:
  """Prints a row for each set, and the sums; the first process alone.

  Args:
    planned: Plans, one per set.
    output: Folder that would be written to.
  """
  if jax.process_index():
    return
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
        f"\nNothing was written to {output}.")


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
