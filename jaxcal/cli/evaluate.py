"""`jaxcal evaluate`: images in; predictions, a table and a page out."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import pathlib
from typing import Any, NamedTuple

from jaxcal import config as config_lib
from jaxcal import config_choice
from jaxcal import config_inputs
from jaxcal import config_methods
from jaxcal import config_record
from jaxcal import config_runs
from jaxcal import config_tuning
from jaxcal import plan
from jaxcal import predictions as predictions_lib
from jaxcal import progress
from jaxcal import runs
from jaxcal import sharding
from jaxcal import spelling
from jaxcal import stages
from jaxcal.adapt import methods as methods_lib
from jaxcal.adapt import numbers
from jaxcal.cli import config_files
from jaxcal.cli import dry_run
from jaxcal.cli import experiment
from jaxcal.cli import printing
from jaxcal.clip import checkpoint
from jaxcal.data import image_set as image_sets
from jaxcal.report import measured
from jaxcal.report import recalibrated
from jaxcal.report import saved_runs
from jaxcal.report import thumbnails
from jaxcal.tuning import checkpoint as tuned_files
from jaxcal.tuning import saved

EXAMPLE = ("jaxcal evaluate --config=configs/quickstart.py "
           "--config.method.weight=30")
_ABOUT = """\
Writes predictions/, results.jsonl, results.md, differences.jsonl, report.html
and diagram-*.svg, and prints a table. An interrupted run goes on where it
stopped."""

FLAGS = (*experiment.SHARED_FLAGS, "dry_run")
FIELDS = config_lib.field_names(
    "protocol", "choice", "model", "data", "views", "method", "stream", "fpp",
    "posterior", "temperature", "tune.template", "metrics", "reference",
    "batch_size", "num_threads", "memory_gb", "evidence", "linearisation")
help_text = functools.partial(
    experiment.help_text, _ABOUT, EXAMPLE, FLAGS, FIELDS,
    "Methods: " + ", ".join(methods_lib.METHODS) + ";\n  with "
    "--config.method.tuned=FOLDER what `jaxcal tune` saved, too, as "
    "METHOD-SEED")

_Config = config_lib.ExperimentConfig
_Sets = Mapping[str, image_sets.ImageSet]


class _Part(NamedTuple):
  """Images whose predictions have a folder of their own.

  Attributes:
    config: Settings for this image set.
    place: The images.
    asked: Predictions of test-time methods to be made.
    tuned: Predictions of tuned parameters to be made.
    template: Prompt of what was not tuned.
    about: Settings to be written into all predictions.
  """

  config: _Config
  place: config_runs.Place
  asked: runs.Asked
  tuned: Sequence[saved.Asked]
  template: str
  about: Mapping[str, Any]


def main() -> None:
  """Runs the experiment that the flags describe."""
  config = experiment.checked_config()
  config_methods.methods_of(config, config_files.overrides())
  tuned = tuned_files.find(config.method.tuned)
  if tuned:
    config_inputs.refuse_store(config.data, "--config.method.tuned")
  config_runs.check_evidence(config)
  experiment.join_processes()
  loaded = experiment.load_sets(config.data, config.stream.corrupted_share)
  sets_by_name = experiment.as_streams(config.stream, loaded)
  remarks = config_methods.remarks(config, sets_by_name)
  validation = _validation_sets(config, sets_by_name)
  outside = _outside_set(config, sets_by_name)
  model = config_inputs.load_model(config.model)
  posterior = config_inputs.load_posterior(config.posterior, model)
  places = [(data, place) for data, target in sets_by_name.items()
            for place in config_runs.places(
                config, data, target, validation=validation, outside=outside,
                posterior=posterior)]
  # Errors come before the work.
  config_inputs.check_start(config, model, sets_by_name.values(),
                            config_methods.methods_of(config))
  seeds = saved.load(tuned, model)
  saved.check_classes(seeds, sets_by_name.values())
  config_choice.check(config, model, sets_by_name)
  about = config_record.describe(config, model, posterior) | {
      f"{saved_runs.PROTOCOL}{data}": remark
      for data, remark in remarks.items()}
  about |= {f"{saved_runs.STREAM}{what}": remark
            for what, remark in config_runs.remarks(
                config, loaded, outside).items()}
  about |= saved_runs.left_out({
      place.name: place.images.left_out for _, place in places})
  output = experiment.output_path(about)
  if not dry_run.ASKED.value:
    experiment.take(output)
  parts = [_part(config_methods.for_set(config, data), model, data, output,
                 seeds, place)
           for data, place in places if seeds or not place.in_stream]
  if dry_run.ASKED.value:
    dry_run.show([
        plan.row(part.asked, part.config.num_views_computed, part.tuned)
        for part in parts], output)
    return
  reference = _reference(config, [*parts[0].asked.outputs.values(), *seeds])
  for part in parts:  # what lies there, before anything is computed
    runs.missing(part.asked)
    saved.missing(part.tuned)
  experiment.write_settings(output, about)
  for part in parts:
    _predict(model, part, output)
  if sharding.is_first():
    labels = [of.label for of in seeds]
    scaled = [] if not validation else recalibrated.by_split(
        output / "predictions", sets_by_name, str(config.temperature.split),
        [*parts[0].asked.plain, *labels])
    _write_report(config, output, sets_by_name,
                  [*parts[0].asked.outputs, *labels, *scaled], reference)
  sharding.barrier("done")


def _reference(
    config: _Config, predicted: Sequence[stages.Stages]) -> str | None:
  """Label of what all are compared with: of several orders, that of the first.
  """
  asked = config.reference
  if asked is None:
    return None
  known = {one._replace(order_seed=None).label: one.label
           for one in reversed(predicted)}
  if asked not in known:
    raise ValueError(f"--config.reference={asked} is not among the "
                     f"predictions; {spelling.choices(asked, [*known])}")
  return known[asked]


def _validation_sets(config: _Config, sets_by_name: _Sets) -> _Sets:
  """Images whose labels choose a temperature, by the name of their set."""
  split = config.temperature.split
  if split is not None and split == config.data.split:
    raise ValueError("--config.temperature.split and --config.data.split are "
                     f"both {split!r}: a temperature must not be chosen on the "
                     "images that it is judged by")
  return experiment.load_validation(config, sets_by_name)


def _outside_set(
    config: _Config, sets_by_name: _Sets) -> image_sets.ImageSet | None:
  """Images of other things than those asked for, or None."""
  name = config.data.out_of_distribution
  if name is None:
    return None
  config_inputs.refuse_store(config.data, "--config.data.out_of_distribution")
  images, = experiment.load_sets(dataclasses.replace(
      config.data, name=(name,), classes="all",
      limit=config_runs.num_others(config, sets_by_name) or config.data.limit),
                                  config.stream.corrupted_share).values()
  return images


def _part(
    config: _Config, model: checkpoint.Model, data: str, output: pathlib.Path,
    seeds: Mapping[Any, tuned_files.Tuned], place: config_runs.Place
) -> _Part:
  """All that is to be predicted for the images, and what it is of."""
  identity_of = lambda images, name: experiment.identity_of_images(
      config, images, None if dry_run.ASKED.value else output, name)
  methods = {} if place.in_stream else config_methods.methods_of(config)
  asked = config_runs.asked(
      config, model, place.images, methods, output,
      identity=identity_of(place.images, place.name), place=place.name,
      posterior=place.posterior, others=place.others,
      identity_of_others={} if place.others is None else identity_of(
          place.others,
          f"{place.name}/{predictions_lib.OUT_OF_DISTRIBUTION}"))
  template = config_tuning.template(config, data)
  about = config_record.describe(config, model, place.posterior) | {
      "data": place.name}
  return _Part(
      config, place, asked, config_runs.asked_of_tuned(
          config, asked, seeds, about, template=template), template, about)


def _predict(
    model: checkpoint.Model, part: _Part, output: pathlib.Path) -> None:
  """Saves what every method predicts for a part."""
  config, asked = part.config, part.asked
  about = {name: {**part.about, "numbers": numbers.values_of(method)}
           for name, method in asked.methods.items()}
  with (progress.reported(f"{asked.images.name}: flat context", "step") as step,
        progress.reported(asked.place) as report):
    report(0, len(asked.images.ids))
    list(config_runs.predict(
        config, model, asked, about, posterior=part.place.posterior,
        on_batch=report, on_step=report.at, on_flat_step=step))
    saved.save(
        model, part.place.images, part.tuned, template=part.template,
        features=output / "features" / asked.place, together=True,
        max_bytes=config_inputs.budget(config),
        batch_size=config.clean_batch_size, num_threads=config.num_threads,
        progress=report)


def _write_report(
    config: _Config, output: pathlib.Path, sets_by_name: _Sets,
    names: Sequence[str], reference: str | None
) -> None:
  """Predictions on disk become results.jsonl, the page and a printed table."""
  conventions = experiment.conventions(config.metrics)
  found = measured.measure(
      (measured.read(output / "predictions" / data, names, reference=reference)
       for data in progress.each("measuring", list(sets_by_name), "image set")),
      conventions)
  small_images = None
  if config.data.store is None:
    small_images = thumbnails.make(
        found.pictured, lambda data, image_id: image_sets.read_by_id(
            sets_by_name[data], image_id))
  printing.show(*measured.write(
      output, found, about=saved_runs.about(output), conventions=conventions,
      small_images=small_images))
