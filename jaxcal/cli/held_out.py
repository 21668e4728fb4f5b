"""Images beside those that are judged by, and none of them."""

from collections.abc import Sequence

from jaxcal import config as config_lib
from jaxcal.cli import experiment
from jaxcal.data import image_set as image_sets


def load(
    config: config_lib.ExperimentConfig,
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
    image_sets.check_apart(target, one, split=split)
  return loaded
