"""`jaxcal features`: what the image tower sees, stored for many runs."""

import functools
import pathlib

from absl import flags

from jaxcal import config as config_lib
from jaxcal import config_inputs
from jaxcal import config_methods
from jaxcal import progress
from jaxcal import sharding
from jaxcal.cli import experiment
from jaxcal.cli import shared_flags
from jaxcal.features import fill
from jaxcal.features import store as stores

EXAMPLE = ("jaxcal features --config=quickstart "
           "--store=features --config.data.name=shades")
_ABOUT = """\
`evaluate` and `sweep` read it with --config.data.store=FOLDER and then need
no images. An interrupted run goes on where it stopped."""

_STORE = shared_flags.define_path(
    "store", None, "folder to write to, a store for each image set in it")
_DTYPE = flags.DEFINE_enum(
    "dtype", "float16", stores.DTYPES, "of the stored features")
_CHUNK_SIZE = flags.DEFINE_integer(
    "chunk_size", 256, "images per chunk, the unit of writing and resuming")
_SHARD = flags.DEFINE_string(
    "shard", None, "I/N: only every N-th chunk from the I-th on, from 0, for "
    "processes that know nothing of each other")

FLAGS = ("store", "dtype", "chunk_size", "shard", *(
    flag for flag in experiment.SHARED_FLAGS
    if flag not in ("output", "overwrite")))
FIELDS = config_lib.field_names(
    "protocol", "model", "data", "views", "batch_size", "num_threads",
    "memory_gb", "stream.corrupted_share",
    without=("data.template", "data.out_of_distribution"))
help_text = functools.partial(
    experiment.help_text, _ABOUT, EXAMPLE, FLAGS, FIELDS)


def main() -> None:
  """Fills the stores of the image sets that the flags name."""
  config = experiment.checked_config()
  if _STORE.value is None:
    raise ValueError(f"--store is missing; for example: {EXAMPLE}")
  shared_flags.check_at_least(1, _CHUNK_SIZE)
  share = _share()
  if config.data.store is not None:
    raise ValueError("--config.data.store is what `evaluate` and `sweep` read; "
                     "here it is --store that is written")
  if config.data.classes != "all" or config.data.domain is not None:
    raise ValueError("a store has whole sets; leave out --config.data.classes "
                     "and --config.data.domain")
  experiment.join_processes()
  sets_by_name = experiment.load_sets(
      config.data, config.stream.corrupted_share)
  model = config_inputs.load_model(config.model)
  for name, images in sets_by_name.items():
    of_set = config_methods.for_set(config, name).views
    with progress.of_stages() as report:
      fill.fill(
          model, images, pathlib.Path(_STORE.value, name),
          recipe=config_inputs.recipe(of_set, model), seed=of_set.seed,
          dtype=_DTYPE.value, chunk_size=_CHUNK_SIZE.value, share=share,
          max_bytes=config_inputs.image_tower_bytes(config),
          batch_size=config.batch_size, num_threads=config.num_threads,
          progress=report)
  sharding.barrier("done")


def _share() -> tuple[int, int] | None:
  """(number, of how many) of this process."""
  if _SHARD.value is None:
    return None
  try:
    number, total = map(int, _SHARD.value.split("/"))
  except ValueError:
    number, total = 0, 0
  if not 0 <= number < total:
    raise ValueError(f"--shard is {_SHARD.value!r}, expected I/N with "
                     "0 <= I < N, such as 0/4")
  return number, total
