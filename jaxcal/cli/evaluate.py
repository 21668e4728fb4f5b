"""`jaxcal evaluate`: images in; predictions, a table and a page out."""

import collections
from typing import NamedTuple

import numpy as np

from jaxcal import predictions as predictions_lib
from jaxcal import run
from jaxcal import sharding
from jaxcal.adapt import methods as methods_lib
from jaxcal.cli import config_files
from jaxcal.cli import dry_run
from jaxcal.cli import experiment
from jaxcal.cli import held_out
from jaxcal.cli import identities
from jaxcal.cli import posteriors
from jaxcal.cli import predicting
from jaxcal.cli import printing
from jaxcal.cli import progress
from jaxcal.cli import tune
from jaxcal.cli import tuned_predictions
from jaxcal.data import image_set as image_sets
from jaxcal.recalibration import predicted
from jaxcal.recalibration import temperature
from jaxcal.report import measured
from jaxcal.report import saved_runs

EXAMPLE = ("jaxcal evaluate --config=configs/quickstart.py "
           "--config.method.weight=30")

FLAGS = (*experiment.SHARED_FLAGS, "dry_run")
FIELDS = config_files.fields(
    "model", "data", "views", "method", "stream", "fpp", "posterior",
    "temperature", "tune.template", "metrics", "batch_size", "num_threads",
    "memory_gb", "evidence", "linearisation")

_TEMPERATURE = "+temperature"


class _Part(NamedTuple):
  """Images whose predictions have a folder of their own.

  Attributes:
    data: Name of the image set.
    name: Name of the part beside the set itself; None for the set.
    images: The images.
    posterior: What predicts in its forms, too; None without.
  """

  data: str
  name: str | None
  images: image_sets.ImageSet
  posterior: posteriors.Chosen | None

  @property
  def place(self) -> str:
    """Below the folder of all predictions."""
    return self.data if self.name is None else f"{self.data}/{self.name}"


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
  methods = experiment.methods_of(config)
  if config.method.tuned:
    _check_tuned(config)
  experiment.join_processes()
  sets_by_name = experiment.load_sets(config.data)
  validation = _validation_sets(config, sets_by_name)
  outside = _outside_set(config)
  model = experiment.load_model(config.model)
  posterior = posteriors.load(config.posterior, model)
  tuned_predictions.start(config.method, model)  # errors come before the work
  seeds = tuned_predictions.load(config.method, model)
  tuned_predictions.check_classes(seeds, sets_by_name.values())
  about = experiment.describe(config, model, posterior)
  output = experiment.output_path(about)
  if not dry_run.ASKED.value:
    experiment.take(output)
  parts = [_Part(data, part, images, with_posterior)
           for data, target in sets_by_name.items()
           for part, images, with_posterior in _parts_of(
               config, data, target, validation, outside, posterior)]
  # What lies there is looked at before anything is computed.
  asked = [(part, identities.of_set(
      config, model, part.images, methods, part.posterior,
      None if dry_run.ASKED.value else output, part.place))
           for part in parts]
  for part, identity in asked:
    identities.missing(output / "predictions" / part.place, identity)
  if dry_run.ASKED.value:
    dry_run.show([_planned(config, methods, seeds, output, *one)
                  for one in asked], output)
    return
  experiment.write_settings(output, about)
  for part, identity in asked:
    _predict(config, model, methods, seeds, about, output, part, identity)
    if validation and part.name == config.temperature.split and (
        experiment.is_first()):
      _scale_temperatures(output / "predictions" / part.data,
                          [*methods, *seeds], part.name)
  if experiment.is_first():
    names = [*run.output_names(
        methods, with_posterior=posterior is not None), *seeds]
    if validation:
      names += [name + _TEMPERATURE for name in [*methods, *seeds]]
    _write_report(output, config, list(sets_by_name), names, about)
  sharding.barrier("done")


def _planned(config, methods, seeds, output, part, identity):
  """What is to be predicted of a part."""
  folder = output / "predictions" / part.place
  planned = predicting.planned(
      config, part.place, part.images, methods, identity, folder,
      posterior=part.posterior)
  return planned.with_tuned(seeds, tuned_predictions.missing(
      seeds, identity.common, folder, tune.template(config, part.data)))


def _parts_of(config, data, images, validation, outside, posterior):
  """Name, images and posterior of a set and of what is predicted beside it."""
  yield None, images, posterior
  if validation:
    yield config.temperature.split, validation[data], None
  if outside is not None and outside.name != data:
    yield (saved_runs.OUT_OF_DISTRIBUTION,
           _asked_for(images.class_names, outside), posterior)


def _predict(config, model, methods, seeds, about, output, part, identity):
  """Saves what every method predicts for a part."""
  place, folder = part.place, output / "predictions" / part.place
  with progress.bar(place, len(part.images.ids)) as bar:
    collections.deque(predicting.predict_set(
        config, model, part.images, methods,
        {name: about | {"data": place, "method": name,
                        "numbers": experiment.numbers_of(method)}
         for name, method in methods.items()},
        identity, folder, posterior=part.posterior,
        on_batch=lambda done, _: bar.update(done - bar.n)), maxlen=0)
  tuned_predictions.predict_set(
      config, model, part.images, seeds, about | {"data": place},
      identity.common, folder, features=output / "features" / place,
      template=tune.template(config, part.data))


def _check_tuned(config):
  """Refuses what goes with the other methods alone."""
  experiment.refuse_processes()
  if config.data.store is not None:
    raise ValueError("--config.method.tuned needs images, which a store does "
                     "not have; leave out --config.data.store")


def _validation_sets(config, sets_by_name):
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


def _outside_set(config):
  """Images of other things than those asked for, or None."""
  if config.data.out_of_distribution is None:
    return None
  if config.data.store is not None:
    raise ValueError("--config.data.out_of_distribution needs images, which a "
                     "store does not have; leave out --config.data.store")
  images, = experiment.load_sets(experiment.with_data(
      config, name=(config.data.out_of_distribution,), classes="all")).values()
  return images


def _asked_for(class_names, images):
  """The images with the classes of another set; their labels mean nothing."""
  return images._replace(
      class_names=class_names, labels=np.zeros(len(images.ids), np.int32))


def _scale_temperatures(folder, methods, split):
  """METHOD+temperature: the logits divided by a validated temperature."""
  for name in methods:
    scaled = predicted.recalibrate_quietly(
        saved_runs.load(folder / name), saved_runs.load(folder / split / name),
        temperature.Temperature())
    predictions_lib.save(scaled, folder / scaled.settings["method"])


def _write_report(output, config, data_names, method_names, settings):
  """Predictions on disk become results.jsonl, the page and a printed table."""
  conventions = experiment.conventions(config.metrics)
  found = measured.measure(
      (measured.read(output / "predictions" / data, method_names)
       for data in data_names), conventions)
  printing.show(*measured.write(
      output, found, about=settings, conventions=conventions))
