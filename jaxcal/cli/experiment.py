"""What the sub-commands share: flags, and config fields that become objects."""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import json
import pathlib
from typing import Any

from absl import flags
import jax

from jaxcal import config as config_lib
from jaxcal import config_file
from jaxcal import config_methods
from jaxcal import progress
from jaxcal import provenance
from jaxcal import sharding
from jaxcal import tasks
from jaxcal.adapt import methods as methods_lib
from jaxcal.adapt import numbers
from jaxcal.cli import config_files
from jaxcal.cli import output_files
from jaxcal.cli import shared_flags
from jaxcal.clip import checkpoint
from jaxcal.data import catalogue
from jaxcal.data import image_set as image_sets
from jaxcal.data import load
from jaxcal.data import views
from jaxcal.features import extract
from jaxcal.posterior import head
from jaxcal.report import summary
from jaxcal.storage import atomic
from jaxcal.testbed import sets as testbed_sets
from jaxcal.tuning import checkpoint as tuned_files

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

DATA_HELP = (
    "Image sets: " + ", ".join(testbed_sets.NAMES) + ",\n"
    "  with --config.data.root=FOLDER: " + ", ".join(catalogue.CATALOGUE) +
    ",\n  a folder with one sub-folder per class, or a CSV file (path,label)")


_Config = config_lib.ExperimentConfig


def help_lines(flag_names: Sequence[str], names: Sequence[str]) -> list[str]:
  """Lines on the flags and the config fields of a command, with defaults."""
  rows = {name: (value, about) for name, value, about in config_lib.describe(
      config_lib.ExperimentConfig())}
  lines = ["Flags:", *shared_flags.flag_help(*flag_names), "",
           "Fields of the config, with their defaults:"]
  lines += [f"  --{name}={config_lib.plain(value)}\n      {about}"
            for name in names if not _is_own_number(name)
            for value, about in [rows[name]]]
  if any(map(_is_own_number, names)):
    lines += ["  --config.method.METHOD.NUMBER=None",
              "      a number of one method, before those that stand for all; "
              "None is its default:"]
    lines += [f"      {name}: " + ", ".join(
        f"{key}={value}" for key, value in numbers.values_of(
            methods_lib.method(name)).items())
              for name in config_lib.method_parts(config_lib.MethodConfig())]
  return lines


def checked_config() -> config_lib.ExperimentConfig:
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
    jax.distributed.initialize()
    return
  if count is None or number is None or not 0 <= number < count:
    raise ValueError("--coordinator=HOST:PORT needs --num_processes and "
                     f"--process_id from 0 to one less, got {(count, number)}")
  jax.distributed.initialize(_COORDINATOR.value, count, number)


def refuse_processes() -> None:
  """For what one process does, with all of its devices.

  Raises:
    ValueError: The flags ask for several.
  """
  if (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value) != (
      None, None, None):
    raise ValueError("this is done by one process, with all of its devices; "
                     "leave out --coordinator, --num_processes and "
                     "--process_id")


def load_sets(config: config_lib.DataConfig) -> dict[str, image_sets.ImageSet]:
  """The image sets by name, checked; of some classes, shortened."""
  loaded = {}
  for name in config.name:
    with progress.reported(f"{load.name_of(name)}: headers") as headers:
      images = load.images(
          name, root=config.root, split=config.split, source=config.source,
          partial=config.partial, class_names=config.class_names,
          store=config.store, classes=config.classes, limit=config.limit,
          progress=headers)
    if images.name in loaded:
      raise ValueError(f"two image sets are called {images.name!r}")
    loaded[images.name] = images
  return loaded


def with_data(config: _Config, **changes: Any) -> config_lib.DataConfig:
  """The data part of a config with other names, split or limit."""
  return dataclasses.replace(config.data, **changes)


def is_tuned(context: str) -> bool:
  """Whether config.method.context is the path of a tuned one."""
  return context.endswith(f".{tuned_files.ENDING}")


def load_model(config: config_lib.ModelConfig) -> checkpoint.Model:
  """The model, each tower in its precision."""
  model = tasks.load(config.name)
  image = config.image_precision
  if image == "auto":
    image = "highest" if jax.default_backend() == "cpu" else "bfloat16"
  return checkpoint.in_precision(
      model, image=image, text=config.text_precision)


def recipe(
    config: config_lib.ViewsConfig, model: checkpoint.Model,
    number: int | None = None
) -> views.Recipe:
  """How views are made for a model; config.number of them if None."""
  return dataclasses.replace(
      extract.recipe_of(model, num_views=number or config.count),
      area=(config.min_area, config.max_area),
      flip_probability=config.flip_probability, augmix=bool(config.augmix))


def num_views_computed(config: _Config) -> int:
  """Views of an image that go through the tower; 0 where a store has them."""
  return 0 if config.data.store is not None else config.views.count


def conventions(config: config_lib.MetricsConfig) -> summary.Conventions:
  """How predictions become numbers."""
  return summary.Conventions(config.num_bins, config.edges, config.level,
                             config.num_resamples, config.seed)


def describe(
    config: _Config, model: checkpoint.Model,
    posterior: head.Chosen | None = None
) -> dict[str, Any]:
  """Everything that decides the numbers, by dotted name, as JSON has it."""
  settings = {name: value for name, value, _ in config_lib.describe(config)
              if name not in config_lib.FREE and not (
                  value is None and _is_own_number(name))}
  settings[config_file.OWN_METHODS] = {
      name: numbers.definition_of(method)
      for name, method in config.methods.items()}
  settings |= _by_content(config.method)
  settings |= {
      "model.fingerprint": model.fingerprint,
      "model.image_precision": model.config.vision.precision,
      "model.features": features_are(config.data)}
  if posterior is not None:
    settings |= {f"posterior.{key}": value
                 for key, value in posterior.about.items()}
  settings |= {f"provenance.{key}": value
               for key, value in provenance.describe().items()}
  return json.loads(json.dumps(settings))


def _is_own_number(name: str) -> bool:
  """Whether a field is of one method alone."""
  return name.startswith("config.method.") and name.count(".") == 3


def _by_content(config: config_lib.MethodConfig) -> dict[str, Any]:
  """Fields that name files, by what these hold: they may move, not change."""
  fields: dict[str, Any] = {"config.method.tuned": [
      tuned_files.content_of(path) for path in tuned_files.find(config.tuned)]}
  if is_tuned(config.context):
    fields["config.method.context"] = tuned_files.content_of(
        pathlib.Path(config.context))
  return fields


def features_are(config: config_lib.DataConfig) -> str:
  """Whether features are computed or come from a store, and as what."""
  if config.store is None:
    return "computed"
  manifest = load.open_store(config.store, config.name[0]).manifest
  return f"stored as {manifest.dtype}"


def output_path(settings: Mapping[str, Any]) -> pathlib.Path:
  """Where a run with these settings writes; nothing is made."""
  fields = {name: value for name, value in settings.items()
            if name.startswith(("config.", "flags."))}
  if shared_flags.OUTPUT.value:
    return pathlib.Path(shared_flags.OUTPUT.value)
  digest = hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:8]
  return pathlib.Path("runs", f"{config_files.chosen()}-{digest}")


def output_folder(settings: Mapping[str, Any]) -> pathlib.Path:
  """`output_path`, taken."""
  output = output_path(settings)
  take(output)
  return output


def take(output: pathlib.Path) -> None:
  """Makes a run's folder and keeps it from other runs until the command ends.

  A run with other settings may lie there: whatever is used again is compared
  by its own identity. After that, `write_settings` says what is run.

  Raises:
    ValueError: Another run holds it.
    OSError: It cannot be written to.
  """
  refused = None
  if is_first():
    try:
      output_files.take(output)
      if shared_flags.OVERWRITE.value:
        output_files.clear(output)
    except (OSError, ValueError) as error:
      refused = error
  if sharding.any_process(refused is not None):
    raise refused or ValueError(
        f"process 0 could not take {output}; it says why")


def write_settings(output: pathlib.Path, settings: Mapping[str, Any]) -> None:
  """Says in run.json what is run; the first process alone."""
  if is_first():
    atomic.write_whole(
        output / "run.json", json.dumps(settings, indent=2).encode())


def is_first() -> bool:
  """Whether this process writes what is written once."""
  return jax.process_index() == 0
