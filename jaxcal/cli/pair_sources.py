"""The pairs that the flags of `jaxcal posterior fit` name."""

from absl import flags

from jaxcal import config as config_lib
from jaxcal import progress
from jaxcal.cli import experiment
from jaxcal.cli import shared_flags
from jaxcal.data import load as load_lib
from jaxcal.data import pairs as pairs_lib

_PAIRS = shared_flags.define_path(
    "pairs", "testbed", "'testbed' (fresh draws from the shipped model's "
    "training scenes), tars as img2dataset writes them (a folder or a pattern "
    "such as 'laion/{00000..00059}.tar'), a CSV file (path,caption), "
    "'tfds:NAME' for captions that tensorflow-datasets prepared, or 'labels': "
    "the images of --config.data.name with their class names in the template")
_PAIRS_SPLIT = flags.DEFINE_string(
    "pairs_split", "train", "with --pairs=tfds:NAME and --pairs=labels; not "
    "that of the images to evaluate, or their labels enter the posterior")
_CAPTION = flags.DEFINE_multi_string(
    "caption", [], "template for --pairs=labels, with {} for the class name; "
    "given several times they go round; --config.data.template if absent")
_NUM_PAIRS = flags.DEFINE_integer(
    "num_pairs", None, "the first so many pairs; 8,192 of the testbed's and "
    "327,680 (as published) of others if absent")
FLAGS = ("pairs", "pairs_split", "caption", "num_pairs")


def load(config: config_lib.ExperimentConfig) -> pairs_lib.PairSet:
  """The pairs of --pairs, the first --num_pairs of them.

  Raises:
    FileNotFoundError: Nothing lies there.
    ValueError: --num_pairs is not positive, or there are no usable pairs.
  """
  number = _NUM_PAIRS.value
  if number is not None and number < 2:
    raise ValueError(f"--num_pairs is {number}, expected at least 2")
  if _PAIRS.value == "labels":
    return pairs_lib.limit(
        _labelled(config), number or load_lib.PUBLISHED_PAIRS)
  with progress.reported("tars", "tar") as report:
    return load_lib.pairs(
        _PAIRS.value, num_pairs=number, root=config.data.root,
        split=_PAIRS_SPLIT.value, progress=report)


def _labelled(config: config_lib.ExperimentConfig) -> pairs_lib.PairSet:
  """All image sets of the config as one set of pairs."""
  if config.data.store is not None:
    raise ValueError("--pairs=labels needs images, which a store does not "
                     "have; leave out --config.data.store")
  templates = _CAPTION.value or [config.data.template]
  return pairs_lib.join([
      pairs_lib.labelled(images, templates)
      for images in experiment.load_sets(experiment.with_data(
          config, split=_PAIRS_SPLIT.value, limit=0)).values()])
