"""`jaxcal features`: what the image tower sees, stored for many runs."""

import pathlib

from absl import flags
import jax
import numpy as np

from jaxcal import progress
from jaxcal import sharding
from jaxcal.cli import config_files
from jaxcal.cli import experiment
from jaxcal.cli import shared_flags
from jaxcal.data import contents
from jaxcal.data import image_set as image_sets
from jaxcal.features import extract
from jaxcal.features import store as stores

EXAMPLE = ("jaxcal features --config=quickstart "
           "--store=features --config.data.name=shades")

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
FIELDS = config_files.fields(
    "protocol", "model", "data", "views", "batch_size", "num_threads",
    without=("data.template", "data.out_of_distribution"))


def help_text() -> str:
  """What `jaxcal features --help` prints."""
  return "\n".join([
      "`evaluate` and `sweep` read it with --config.data.store=FOLDER and then "
      "need no images.", "An interrupted run goes on where it stopped.", "",
      "Example:", f"  {EXAMPLE}", "", experiment.DATA_HELP, "",
      *experiment.help_lines(FLAGS, FIELDS)])


def main() -> None:
  """Fills the stores of the image sets that the flags name."""
  config = experiment.checked_config()
  if _STORE.value is None:
    raise ValueError(f"--store is missing; for example: {EXAMPLE}")
  if _CHUNK_SIZE.value < 1:
    raise ValueError(f"expected --chunk_size of at least 1, got "
                     f"{_CHUNK_SIZE.value}")
  share = _share()
  if config.data.store is not None:
    raise ValueError("--config.data.store is what `evaluate` and `sweep` read; "
                     "here it is --store that is written")
  if config.data.classes != "all":
    raise ValueError("a store has whole sets; leave out --config.data.classes")
  experiment.join_processes()
  sets_by_name = experiment.load_sets(config.data)
  model = experiment.load_model(config.model)
  for name, images in sets_by_name.items():
    _fill(config, model, images, pathlib.Path(_STORE.value, name), share)
  sharding.barrier("done")


def _share():
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


def _fill(config, model, images: image_sets.ImageSet, folder, share):
  """Computes and writes the chunks that the store lacks."""
  with progress.bar(
      f"{images.name}: files", len(images.ids), delay=3) as bar:
    found = contents.identity_of(
        images, memory=folder.parent / ".digests" / f"{images.name}.npz",
        num_threads=config.num_threads, progress=bar.update)
  manifest = experiment.manifest(
      config, model, images, _DTYPE.value, _CHUNK_SIZE.value,
      found["data.contents"])
  store = stores.create(folder, manifest, images)
  share = share or (jax.process_index(), jax.process_count())
  # Every process works on chunks of its own, so on its own devices.
  mesh = sharding.data_mesh(jax.local_devices())
  todo = stores.missing(store, *share)
  rows = config.batch_size * mesh.devices.size
  # Batches end with their chunk, so that values do not depend on which chunks
  # were there already.
  batches = extract.from_images(
      model, images,
      [batch for chunk in todo for batch in extract.batches_of(
          stores.chunk_positions(store, chunk), rows)],
      recipe=experiment.recipe(config.views, model), seed=config.views.seed,
      mesh=mesh, batch_size=config.batch_size, num_threads=config.num_threads)
  with progress.bar(images.name, len(images.ids)) as bar:
    bar.update(len(images.ids) - sum(
        len(stores.chunk_positions(store, chunk)) for chunk in todo))
    for chunk in todo:
      _write_chunk(store, chunk, batches, bar)


def _write_chunk(store, chunk, batches, bar):
  """Takes the batches of one chunk and writes it."""
  wanted, arrays, num_rows = len(stores.chunk_positions(store, chunk)), [], 0
  while num_rows < wanted:
    batch = next(batches)
    view_features, pooled = sharding.gather_local(
        (batch.view_features, batch.pooled))
    arrays.append([array[batch.mask] for array in (
        view_features, extract.join_pooled(pooled))])
    num_rows += int(batch.mask.sum())
    bar.update(int(batch.mask.sum()))
  stores.write_chunk(store, chunk, *map(np.concatenate, zip(*arrays)))
