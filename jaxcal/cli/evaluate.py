"""`jaxcal evaluate`: images in; predictions, a table and a page out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import pathlib
from typing import Any, NamedTuple

from jaxcal import config as config_lib
from jaxcal import config_methods
from jaxcal import plan
from jaxcal import predictions as predictions_lib
from jaxcal import progress
from jaxcal import runs
from jaxcal import sharding
from jaxcal.adapt import methods as methods_lib
from jaxcal.adapt import numbers
from jaxcal.cli import config_files
from jaxcal.cli import dry_run
from jaxcal.cli import experiment
from jaxcal.cli import held_out
from jaxcal.cli import posteriors
from jaxcal.cli import predicting
from jaxcal.cli import printing
from jaxcal.cli import tune
from jaxcal.clip import checkpoint
from jaxcal.data import image_set as image_sets
from jaxcal.posterior import head
from jaxcal.recalibration import predicted
from jaxcal.recalibration import temperature
from jaxcal.report import measured
from jaxcal.report import saved_runs
from jaxcal.tuning import checkpoint as tuned_files
from jaxcal.tuning import evidence
from jaxcal.tuning import saved

EXAMPLE = ("jaxcal evaluate --config=configs/quickstart.py "
           "--config.method.weight=30")

FLAGS = (*experiment.SHARED_FLAGS, "dry_run")
FIELDS = config_files.fields(
    "protocol", "model", "data", "views", "method", "stream", "fpp",
    "posterior", "temperature", "tune.template", "metrics", "batch_size",
    "num_threads", "memory_gb", "evidence", "linearisation")

_Config = config_lib.ExperimentConfig


class _Part(NamedTuple):
  """Images whose predictions have a folder of their own.

  Attributes:
    name: Name of the part beside the set itself; None for the set.
    config: Settings for this image set.
    posterior: What predicts in its forms, too; None without.
    asked: What test-time methods are to predict.
    tuned: What tuned parameters are to predict.
    template: Prompt of what was not tuned.
    about: Settings to be written into all predictions.
  """

  name: str | None
  config: _Config
  posterior: head.Chosen | None
  asked: runs.Asked
  tuned: Sequence[saved.Asked]
  template: str
  about: Mapping[str, Any]


def help_text() -> str:
  """What `jaxcal evaluate --help` prints."""
  return "\n".join([
      "Writes predictions/, results.jsonl, results.md, differences.jsonl, "
      "report.html and", "diagram-*.svg, and prints a table.",
      "An interrupted run goes on where it stopped.", "",
      "Example:", f"  {EXAMPLE}", "",
      "Methods: " + ", ".join(methods_lib.METHODS) + ";",
      "  with --config.method.tuned=FOLDER what `jaxcal tune` saved, "
      "too, as METHOD-SEED",
      experiment.DATA_HELP, "",
      *experiment.help_lines(FLAGS, FIELDS)])


def main() -> None:
  """Runs the experiment that the flags describe."""
  config = experiment.checked_config()
  config_methods.methods_of(config, config_files.overrides())
  tuned = tuned_files.find(config.method.tuned)
  if tuned:
    _check_tuned(config)
  predicting.check_evidence(config)
  experiment.join_processes()
  sets_by_name = experiment.load_sets(config.data)
  remarks = config_methods.remarks(config, sets_by_name)
  validation = _validation_sets(config, sets_by_name)
  outside = _outside_set(config)
  model = experiment.load_model(config.model)
  posterior = posteriors.load(config.posterior, model)
  predicting.start(config, model)  # errors come before the work
  seeds = saved.load(tuned, model)
  saved.check_classes(seeds, sets_by_name.values())
  about = experiment.describe(config, model, posterior) | {
      f"{saved_runs.PROTOCOL}{data}": remark
      for data, remark in remarks.items()}
  output = experiment.output_path(about)
  if not dry_run.ASKED.value:
    experiment.take(output)
  parts = [_part(config_methods.for_set(config, data), model, data, output,
                 seeds, *one)
           for data, target in sets_by_name.items()
           for one in _parts_of(
               config, data, target, validation, outside, posterior)]
  if dry_run.ASKED.value:
    dry_run.show([_planned(part) for part in parts], output)
    return
  for part in parts:  # what lies there, before anything is computed
    runs.missing(part.asked)
    saved.missing(part.tuned)
  experiment.write_settings(output, about)
  for part in parts:
    _predict(model, part, output)
  if experiment.is_first():
    names = [*parts[0].asked.outputs, *(of.label for of in seeds)]
    scaled = [] if not validation else _scale_temperatures(
        output, sets_by_name, config.temperature.split,
        [*config_methods.methods_of(config), *(of.label for of in seeds)])
    _write_report(output, config, list(sets_by_name), names + scaled, about)
  sharding.barrier("done")


def _parts_of(
    config: _Config, data: str, images: image_sets.ImageSet,
    validation: Mapping[str, image_sets.ImageSet],
    outside: image_sets.ImageSet | None, posterior: head.Chosen | None
) -> Iterator[tuple[str | None, image_sets.ImageSet, head.Chosen | None]]:
  """Name, images and posterior of a set and of what is predicted beside it."""
  yield None, images, posterior
  if validation:
    yield config.temperature.split, validation[data], None
  if outside is not None and outside.name != data:
    yield (saved_runs.OUT_OF_DISTRIBUTION,
           image_sets.unlabelled(outside, images.class_names), posterior)


def _part(
    config: _Config, model: checkpoint.Model, data: str, output: pathlib.Path,
    seeds: Mapping[Any, tuned_files.Tuned], name: str | None,
    images: image_sets.ImageSet, posterior: head.Chosen | None
) -> _Part:
  """All that is to be predicted for the images, and what it is of."""
  place = data if name is None else f"{data}/{name}"
  asked = predicting.asked(
      config, model, images, config_methods.methods_of(config), posterior,
      place, output, keep_digests=not dry_run.ASKED.value)
  template = tune.template(config, data)
  about = experiment.describe(config, model, posterior) | {"data": place}
  # More evidence than asked for does no harm to what is there.
  common = {key: value for key, value in asked.common.items()
            if key != "evidence"}
  return _Part(name, config, posterior, asked, saved.asked(
      seeds, asked.folder, common, about, template=template,
      evidence=predicting.evidence_of(config, evidence.NAMES)), template, about)


def _planned(part: _Part) -> dict[str, Any]:
  """What is to be predicted of a part, counted."""
  return plan.row(
      part.asked, experiment.num_views_computed(part.config),
      tuned={one.stages.label: one.tuned.spec.kind.from_pixels
             for one in part.tuned if one.tuned is not None},
      tuned_missing=[one.stages.label for one in saved.missing(part.tuned)])


def _predict(
    model: checkpoint.Model, part: _Part, output: pathlib.Path) -> None:
  """Saves what every method predicts for a part."""
  config, asked = part.config, part.asked
  about = {name: {**part.about, "numbers": numbers.values_of(method)}
           for name, method in asked.methods.items()}
  with progress.reported(asked.place) as report:
    report(0, len(asked.images.ids))
    list(predicting.predict_set(
        config, model, asked, part.posterior, about, on_batch=report))
    saved.save(
        model, asked.images, part.tuned, template=part.template,
        features=output / "features" / asked.place,
        max_bytes=config.max_bytes,
        batch_size=config.clean_batch_size,
        num_threads=config.num_threads, progress=report)


def _check_tuned(config: _Config) -> None:
  """Refuses what goes with the other methods alone."""
  experiment.refuse_processes()
  if config.data.store is not None:
    raise ValueError("--config.method.tuned needs images, which a store does "
                     "not have; leave out --config.data.store")


def _validation_sets(
    config: _Config, sets_by_name: Mapping[str, image_sets.ImageSet]
) -> dict[str, image_sets.ImageSet]:
  """Images whose labels choose a temperature, by the name of their set."""
  split, limit = config.temperature.split, config.temperature.limit
  if split is None:
    return {}
  if split == config.data.split:
    raise ValueError("--config.temperature.split and --config.data.split are "
                     f"both {split!r}: a temperature must not be chosen on the "
                     "images that it is judged by")
  validation = {}
  for name, (data, images) in zip(config.data.name, sets_by_name.items()):
    validation[data], = held_out.load(
        config, images, [name], split=split, limit=limit)
  return validation


def _outside_set(config: _Config) -> image_sets.ImageSet | None:
  """Images of other things than those asked for, or None."""
  if config.data.out_of_distribution is None:
    return None
  if config.data.store is not None:
    raise ValueError("--config.data.out_of_distribution needs images, which a "
                     "store does not have; leave out --config.data.store")
  images, = experiment.load_sets(experiment.with_data(
      config, name=(config.data.out_of_distribution,), classes="all")).values()
  return images


def _scale_temperatures(
    output: pathlib.Path, sets: Iterable[str], split: str | None,
    methods: Sequence[str]
) -> list[str]:
  """Names of the predictions divided by a validated temperature, saved."""
  names: dict[str, None] = {}
  for data in sets:
    folder = output / "predictions" / data
    for name in methods:
      scaled = predicted.recalibrate_quietly(
          saved_runs.load(folder / name),
          saved_runs.load(folder / str(split) / name),
          temperature.Temperature())
      predictions_lib.save(scaled, folder / scaled.settings["method"])
      names[scaled.settings["method"]] = None
  return list(names)


def _write_report(
    output: pathlib.Path, config: _Config, sets: Sequence[str],
    names: Sequence[str], settings: Mapping[str, Any]
) -> None:
  """Predictions on disk become results.jsonl, the page and a printed table."""
  conventions = experiment.conventions(config.metrics)
  found = measured.measure(
      (measured.read(output / "predictions" / data, names) for data in sets),
      conventions)
  printing.show(*measured.write(
      output, found, about=settings, conventions=conventions))
