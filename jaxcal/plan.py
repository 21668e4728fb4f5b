"""What a run would compute for image sets, counted before it begins."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

from jaxcal import parts
from jaxcal import runs
from jaxcal import streams
from jaxcal.adapt import base
from jaxcal.features import store as stores
from jaxcal.report import tables
from jaxcal.tuning import saved

_MOST_NAMES = 6  # in a cell of the table
_COLUMNS = {
    "data": "images of", "num_images": "n", "there": "predictions there",
    "missing": "to be computed", "images_left": "for images",
    "views": "views, image tower", "prompts": "prompts, text tower"}


def row(
    of: runs.Asked,
    num_views: int,
    tuned: Sequence[saved.Asked] = (),
) -> dict[str, Any]:
  """What is there and what is to be computed, counted; nothing is written.

  Args:
    of: Predictions of test-time methods.
    num_views: Views of an image that go through the image tower; 0 where their
      features are stored.
    tuned: Predictions of tuned parameters.

  Returns:
    A row with the names of the set and of what is missing, numbers of images,
    of predictions that are there, of views through the image tower, and of
    prompts through the text tower for tuned contexts.

  Raises:
    ValueError: Predictions of something else lie there.
  """
  missing = runs.missing(of)
  groups = runs.groups(of, missing)
  count_of = {folder: _images_left(of, folder, names)
              for folder, names in groups.items()}
  left = {name: count_of[folder] for folder, names in groups.items()
          for name in names if name in missing}
  # All that predict from features share one pass over the clean views.
  lacking = saved.missing(tuned)
  from_pixels = [one.tuned is not None and one.tuned.spec.kind.from_pixels
                 for one in lacking]
  passes = sum(from_pixels) + (not all(from_pixels))
  steps = sum(count * base.num_contexts(of.methods[of.outputs[name].method])
              for name, count in left.items())
  missing += [one.stages.label for one in lacking]
  return {
      "data": of.place, "num_images": len(of.images.ids),
      "there": len(of.outputs) + len(tuned) - len(missing),
      "missing": _listed(missing),
      "images_left": max([*left.values(), *(
          len(of.images.ids) for _ in lacking)], default=0),
      "views": _images_seen(of, groups, count_of) * num_views +
               passes * of.num_own,
      "prompts": len(of.images.class_names) * steps}


def text(rows: Sequence[Mapping[str, Any]]) -> str:
  """The rows of `row` as a table, and their sums."""
  cell = lambda name: lambda row: (
      f"{row[name]:,}" if isinstance(row[name], int) else row[name])
  table = tables.markdown(rows, [
      tables.Column(heading, cell(name))
      for name, heading in _COLUMNS.items()])
  return (f"{table}\n\nViews through the image tower: "
          f"{sum(row['views'] for row in rows):,}; prompts through the text "
          f"tower, for tuned contexts: {sum(row['prompts'] for row in rows):,}."
          )


def _images_left(of, folder, names):
  """How many images unfinished work has no outputs of, in some order."""
  seeds = [of.outputs[name].order_seed for name in names]
  if None in seeds:
    return len(parts.missing(folder, len(of.images.ids), set_aside=False))
  return len(streams.missing(folder, seeds, len(of.images.ids)))


def _images_seen(
    of: runs.Asked, groups: Mapping[pathlib.Path, Sequence[str]],
    count_of: Mapping[pathlib.Path, int]
) -> int:
  """How many images all views are computed of, those of each pass counted.

  Passes over images whose features the run keeps fill its store once. What
  adapts the image tower does not read there.
  """
  passes = [folder for folder in groups if count_of[folder]]
  direct = [folder for folder in passes if of.store is None or any(
      base.image_blocks(of.methods[of.outputs[name].method])
      for name in groups[folder])]
  seen = sum(count_of[folder] for folder in direct)
  if of.store is not None and len(passes) > len(direct):
    seen += stores.num_missing_images(of.store, len(of.images.ids))
  return seen


def _listed(names):
  """Names, or the first of them and how many follow."""
  more = len(names) - _MOST_NAMES
  listed = ", ".join(names[:_MOST_NAMES]) or "nothing"
  return f"{listed} and {more} more" if more > 0 else listed
