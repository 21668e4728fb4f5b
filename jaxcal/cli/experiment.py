"""What the sub-commands share: flags, help texts, and what a config names."""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

from absl import flags

from jaxcal import config as config_lib
from jaxcal import config_inputs
from jaxcal import config_methods
from jaxcal import listing
from jaxcal import peers
from jaxcal import progress
from jaxcal import sharding
from jaxcal.cli import config_files
from jaxcal.cli import output_files
from jaxcal.cli import shared_flags
from jaxcal.data import image_set as image_sets
from jaxcal.data import load
from jaxcal.report import saved_runs
from jaxcal.report import summary
from jaxcal.storage import output_folder as folders

_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0 where several processes share "
    "the work, or 'auto' on a cluster that JAX knows; all see the same output")
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "how many, with --coordinator=HOST:PORT")
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "of this one, from 0, with --coordinator=HOST:PORT")
FLAGS_OF_ONE_PROCESS = (
    "config", "output", "overwrite", "compilation_cache", "debug")
SHARED_FLAGS = (*FLAGS_OF_ONE_PROCESS, "coordinator", "num_processes",
                "process_id")

_Config = config_lib.ExperimentConfig


def help_text(
    about: str, example: str, flag_names: Sequence[str],
    names: Sequence[str], methods: str = ""
) -> str:
  """What --help prints of a command that has these flags and config fields."""
  data = [listing.data(), ""] if "config.data.name" in names else []
  return "\n".join([
      about, "", "Example:", f"  {example}", "", *filter(None, [methods]),
      *data, "Flags:", *shared_flags.flag_help(*flag_names), "",
      "Fields of the config, with their defaults:", *listing.fields(names)])


def checked_config() -> _Config:
  """The config of --config with its overrides, every field in range.

  Raises:
    ValueError: A field is out of range.
  """
  config = config_files.CONFIG.value
  config_methods.prefer(config, config_files.overrides())
  config_lib.check(config)
  return config


def join_processes() -> None:
  """Makes this process one of several, where the flags say so.

  Raises:
    ValueError: Flags that do not go together.
  """
  count, number = _NUM_PROCESSES.value, _PROCESS_ID.value
  if _COORDINATOR.value is None:
    if count is not None or number is not None:
      raise ValueError("--num_processes and --process_id need --coordinator")
    return
  if _COORDINATOR.value == "auto":
    peers.join()
    return
  if count is None or number is None or not 0 <= number < count:
    raise ValueError("--coordinator=HOST:PORT needs --num_processes and "
                     f"--process_id from 0 to one less, got {(count, number)}")
  peers.join(_COORDINATOR.value, count, number)


def load_sets(
    config: config_lib.DataConfig, corrupted_share: float = 1.0
) -> dict[str, image_sets.ImageSet]:
  """The image sets by name, checked; of some classes, shortened, corrupted."""
  loaded = {}
  what = "headers" if config.on_bad_image == "fail" else "images"
  for name in config.name:
    with progress.reported(f"{load.name_of(name)}: {what}") as looked_at:
      images = load.images(
          name, root=config.root, split=config.split, domain=config.domain,
          source=config.source, partial=config.partial,
          class_names=config.class_names, store=config.store,
          classes=config.classes, limit=config.limit, skip=config.skip,
          on_bad_image=config.on_bad_image,
          corruption=config_inputs.corruption(config, corrupted_share),
          progress=looked_at)
    if images.name in loaded:
      raise ValueError(f"two image sets are called {images.name!r}")
    loaded[images.name] = images
  return loaded


def as_streams(
    config: config_lib.StreamConfig, sets: Mapping[str, image_sets.ImageSet]
) -> dict[str, image_sets.ImageSet]:
  """The image sets by name, of later classes as few images as is asked for."""
  return {data: image_sets.imbalanced(images, config.imbalance)
          for data, images in sets.items()}


def load_apart(
    config: config_lib.DataConfig, target: image_sets.ImageSet,
    names: Sequence[str], *, split: str, limit: int
) -> list[image_sets.ImageSet]:
  """Image sets with the classes of the target and without its images.

  They are as they were taken, also where those of the target are corrupted.

  Args:
    config: Settings of the target.
    target: Image set that is judged.
    names: Names as in config.name.
    split: Split of these sets; folders and CSV files have one only.
    limit: Images of each; 0 for all.

  Raises:
    ValueError: A set has other classes, or images of the target.
  """
  config_inputs.refuse_store(
      config, f"the split {split!r} of {', '.join(names)}")
  loaded = list(load_sets(dataclasses.replace(
      config, name=tuple(names), split=split, limit=limit, skip=0,
      corruption=None, severity=None)).values())
  for one in loaded:
    image_sets.check_apart(target, one, split=split)
  return loaded


def load_validation(
    config: _Config, sets_by_name: Mapping[str, image_sets.ImageSet]
) -> dict[str, image_sets.ImageSet]:
  """Images of config.temperature.split beside each set, if it names one."""
  split, limit = config.temperature.split, config.temperature.limit
  if split is None:
    return {}
  return {data: images
          for name, data in zip(config.data.name, sets_by_name)
          for images in load_apart(
              config.data, sets_by_name[data], [name], split=split,
              limit=limit)}


def identity_of_images(
    config: _Config, images: image_sets.ImageSet, output: pathlib.Path | None,
    place: str
) -> dict[str, Any]:
  """The identity of a set, whose digests the folder of the run keeps."""
  name = f"{place.replace('/', ' ')}.digests.npz"
  with progress.reported(f"{place}: files", delay=3) as report:
    return load.identity_of(
        images, store=config.data.store,
        memory=None if output is None else output / "digests" / name,
        num_threads=config.num_threads, progress=report)


def posterior_to_fill(config: config_lib.PosteriorConfig) -> pathlib.Path:
  """The folder that receives a posterior.

  Raises:
    ValueError: None is named.
  """
  if config.folder is None:
    raise ValueError("--config.posterior.folder is None: name the folder to "
                     "fill, with --config.posterior.folder=...")
  return pathlib.Path(config.folder)


def conventions(config: config_lib.MetricsConfig) -> summary.Conventions:
  """How predictions become numbers."""
  return summary.Conventions(**dataclasses.asdict(config))


def output_path(settings: Mapping[str, Any]) -> pathlib.Path:
  """Where a run with these settings writes; nothing is made."""
  if shared_flags.OUTPUT.value:
    return pathlib.Path(shared_flags.OUTPUT.value)
  return pathlib.Path("runs", folders.hashed(config_files.chosen(), {
      name: value for name, value in settings.items()
      if name.startswith(("config.", "flags."))}))


def take(output: pathlib.Path) -> None:
  """Makes a run's folder and keeps it from other runs until the command ends.

  A run with other settings may lie there: whatever is used again is compared
  by its own identity. After that, `write_settings` says what is run.

  Raises:
    ValueError: Another run holds it.
    OSError: It cannot be written to.
  """
  sharding.first_does(f"take {output}", lambda: output_files.take(
      output, folders.remove_written))


def write_settings(output: pathlib.Path, settings: Mapping[str, Any]) -> None:
  """Says in run.json what is run, and by which command; the first process
  alone."""
  if sharding.is_first():
    folders.write_settings(output, {
        **settings, saved_runs.COMMAND: shared_flags.command_line()})
