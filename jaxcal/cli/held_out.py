"""Images beside those that are judged by, and none of them."""

from collections.abc import Sequence

import numpy as np

from jaxcal.cli import experiment
from jaxcal.data import image_set as image_sets

# Of the images whose ids are in both sets.
_COMPARED = 8


def load(
    config,
    target: image_sets.ImageSet,
    names: Sequence[str],
    *,
    split: str,
    limit: int,
) -> list[image_sets.ImageSet]:
  """Image sets with the classes of the target and without its images.

  Args:
    config: Settings of the experiment.
    target: Image set that is judged.
    names: Names as in config.data.name.
    split: Split of these sets; folders and CSV files have one only.
    limit: Images of each; 0 for all.

  Raises:
    ValueError: A set has other classes, or images of the target.
  """
  if config.data.store is not None:
    raise ValueError(f"the split {split!r} of {', '.join(names)} needs images, "
                     "which a store does not have; leave out "
                     "--config.data.store")
  loaded = list(experiment.load_sets(experiment.with_data(
      config, name=tuple(names), split=split, limit=limit)).values())
  for one in loaded:
    if one.class_names != target.class_names:
      raise ValueError(f"{one.name} has other classes than {target.name}; both "
                       "must have the same")
    shared = _shared_ids(target, one)
    if shared:
      raise ValueError(
          f"{len(shared)} images of {target.name} are in the split {split!r} "
          f"of {one.name}, too, the first one {shared[0]!r}; choose another "
          "split or set (folders and CSV files have no splits), or none with "
          "--config.temperature.split=none")
  return loaded


def _shared_ids(target, other):
  """Ids of images in both; two folders may call different images alike."""
  position = {image_id: i for i, image_id in enumerate(other.ids)}
  both = [i for i, image_id in enumerate(target.ids) if image_id in position]
  same = any(
      np.array_equal(target.read(i), other.read(position[target.ids[i]]))
      for i in both[:_COMPARED])
  return [target.ids[i] for i in both] if same else []
