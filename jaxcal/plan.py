"""What a run would compute for an image set, counted before it begins."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxcal import parts
from jaxcal import runs
from jaxcal.adapt import base
from jaxcal.adapt.prompt import methods as prompt_methods

_MOST_NAMES = 6  # in a cell of the table


def row(
    of: runs.Asked,
    num_views: int,
    *,
    tuned: Mapping[str, bool] = {},
    tuned_missing: Sequence[str] = (),
) -> dict[str, Any]:
  """What is there and what is to be computed, counted; nothing is written.

  Args:
    of: Predictions of test-time methods.
    num_views: Views of an image that go through the image tower; 0 where their
      features are stored.
    tuned: Whether tuned parameters predict from pixels, by the names of their
      predictions.
    tuned_missing: Names of those that are not there.

  Returns:
    A row with the names of the set and of what is missing, numbers of images,
    of predictions that are there, of views through the image tower, and of
    prompts through the text tower for tuned contexts.

  Raises:
    ValueError: Predictions of something else lie there.
  """
  missing = runs.missing(of)
  left = dict.fromkeys(missing, len(of.images.ids))
  for folder, names in runs.groups(of, missing).items():
    if parts.names(folder):
      left |= dict.fromkeys(names, len(parts.missing(
          folder, len(of.images.ids), set_aside=False)))
  # All that predict from features share one pass over the clean views.
  from_pixels = [tuned[name] for name in tuned_missing]
  passes = sum(from_pixels) + (not all(from_pixels))
  steps = sum(count * _num_steps(of.methods[of.outputs[name].method])
              for name, count in left.items())
  missing += tuned_missing
  return {
      "data": of.place, "num_images": len(of.images.ids),
      "there": len(of.outputs) + len(tuned) - len(missing),
      "missing": _listed(missing),
      "images_left": max([*left.values(), *(
          len(of.images.ids) for _ in tuned_missing)], default=0),
      "views": max(left.values(), default=0) * num_views +
               passes * len(of.images.ids),
      "prompts": len(of.images.class_names) * steps}


def _listed(names):
  """Names, or the first of them and how many follow."""
  more = len(names) - _MOST_NAMES
  listed = ", ".join(names[:_MOST_NAMES]) or "nothing"
  return f"{listed} and {more} more" if more > 0 else listed


def _num_steps(method: base.Numbers) -> int:
  """How often a context of an image is encoded after the initial one."""
  if not isinstance(method, prompt_methods.PromptMethod):
    return 0
  return method.objective().num_steps
