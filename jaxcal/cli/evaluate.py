"""`jaxcal evaluate`: images in; predictions, a table and a page out."""

import collections
from collections.abc import Mapping
import functools

import numpy as np

from jaxcal import predictions as predictions_lib
from jaxcal import run
from jaxcal import sharding
from jaxcal.adapt import methods as methods_lib
from jaxcal.cli import answering
from jaxcal.cli import experiment
from jaxcal.cli import held_out
from jaxcal.cli import posteriors
from jaxcal.cli import tuned
from jaxcal.cli import tuned_answers
from jaxcal.recalibration import temperature
from jaxcal.report import figures
from jaxcal.report import page
from jaxcal.report import summary
from jaxcal.report import tables
from jaxcal.storage import atomic

ABOUT = "adapt a model to each image of some sets and measure its calibration"
EXAMPLE = ("jaxcal evaluate --config=configs/quickstart.py "
           "--config.method.weight=30")

_TEMPERATURE = "+temperature"

# Paired differences are taken to the first of these that is among those run.
_REFERENCES = ("tpt", "zero_shot")


def help_text() -> str:
  """What `jaxcal evaluate --help` prints."""
  return "\n".join([
      f"jaxcal evaluate: {ABOUT}.", "",
      "Writes predictions/, results.jsonl, results.md, differences.jsonl, "
      "report.html and", "diagram-*.svg, and prints a table.",
      "An interrupted run goes on where it stopped.", "",
      "Example:", f"  {EXAMPLE}", "",
      "Methods: " + ", ".join(methods_lib.METHODS) + ";",
      "  with --config.method.tuned=FOLDER what `jaxcal tune` saved, "
      "too, as METHOD-SEED",
      experiment.DATA_HELP, "",
      "Flags:", *experiment.flag_help(*experiment.SHARED_FLAGS), "",
      "Fields of the config, with their defaults:", *experiment.field_help()])


def main() -> None:
  """Runs the experiment that the flags describe."""
  config = experiment.checked_config()
  methods = experiment.methods_of(config)
  if config.method.tuned:
    _check_tuned(config)
  experiment.join_processes()
  sets_by_name = experiment.load_sets(config.data)
  validation = _validation_sets(config, sets_by_name)
  unknown = _unknown_set(config)
  model = experiment.load_model(config.model)
  posterior = posteriors.load(config.posterior, model)
  tuned_answers.start(config.method, model)  # errors come before the work
  seeds = tuned_answers.load(config.method, model)
  tuned_answers.check_classes(seeds, sets_by_name.values())
  about = experiment.describe(config, model, posterior)
  output = experiment.output_folder(about)
  for data, images in sets_by_name.items():
    answer = functools.partial(
        _answer, config, model, methods, seeds, about, output, data)
    answer(images, posterior=posterior)
    if validation:
      answer(validation[data], config.temperature.split)
      if experiment.is_first():
        _scale_temperatures(output / "predictions" / data, [*methods, *seeds],
                            config.temperature.split)
    if unknown is not None and unknown.name != data:
      answer(_asked_for(images.class_names, unknown), "unknown",
             posterior=posterior)
  if experiment.is_first():
    names = [*run.output_names(
        methods, with_posterior=posterior is not None), *seeds]
    method_of = {name: one.spec.name for name, one in seeds.items()}
    if validation:
      names += [name + _TEMPERATURE for name in [*methods, *seeds]]
      method_of |= {name + _TEMPERATURE: method + _TEMPERATURE
                    for name, method in method_of.items()}
    _write_report(output, config, list(sets_by_name), names, method_of, about)
  sharding.barrier("done")


def _answer(config, model, methods, seeds, about, output, data, images,
            part=None, *, posterior=None):
  """Saves what every method answers for a set, or for a part beside it."""
  place = data if part is None else f"{data}/{part}"
  with experiment.progress(place, len(images.ids)) as bar:
    collections.deque(answering.answer_set(
        config, model, images, methods,
        {name: about | {"data": place, "method": name,
                        "numbers": experiment.numbers_of(method)}
         for name, method in methods.items()},
        output / "predictions" / place, posterior=posterior,
        on_batch=lambda done, _: bar.update(done - bar.n)), maxlen=0)
  tuned_answers.answer_set(
      config, model, images, seeds, about | {"data": place},
      output / "predictions" / place, features=output / "features" / place,
      template=tuned.template(config, data))


def _check_tuned(config):
  """Refuses what goes with the other methods alone."""
  experiment.refuse_processes()
  if config.data.store is not None:
    raise ValueError("config.method.tuned needs images, which a store does not "
                     "have; leave out config.data.store")


def _validation_sets(config, sets_by_name):
  """Images whose labels choose a temperature, by the name of their set."""
  split, limit = config.temperature.split, config.temperature.limit
  if split is None:
    return {}
  if split == config.data.split:
    raise ValueError("config.temperature.split and config.data.split are both "
                     f"{split!r}: a temperature must not be chosen on the "
                     "images that it is judged by")
  validation = {}
  for name, (data, images) in zip(config.data.name, sets_by_name.items()):
    validation[data], = held_out.load(
        config, images, [name], split=split, limit=limit)
  return validation


def _unknown_set(config):
  """Images of other things than those asked for, or None."""
  if config.data.unknown is None:
    return None
  if config.data.store is not None:
    raise ValueError("config.data.unknown needs images, which a store does not "
                     "have; leave out config.data.store")
  images, = experiment.load_sets(experiment.with_data(
      config, name=(config.data.unknown,), classes="all")).values()
  return images


def _asked_for(class_names, images):
  """The images with the classes of another set; their labels mean nothing."""
  return images._replace(
      class_names=class_names, labels=np.zeros(len(images.ids), np.int32))


def _scale_temperatures(folder, methods, split):
  """METHOD+temperature: the logits divided by a validated temperature."""
  for name in methods:
    if predictions_lib.exists(folder / (name + _TEMPERATURE)):
      continue
    seen = predictions_lib.load(folder / split / name)
    factor = temperature.fit_temperature(seen.logits, seen.labels)
    plain = predictions_lib.load(folder / name)
    scaled = plain._replace(
        logits=np.asarray(temperature.apply(factor, plain.logits)),
        settings=plain.settings | {"method": name + _TEMPERATURE,
                                   "temperature": factor})
    predictions_lib.save(scaled, folder / (name + _TEMPERATURE))


def _write_report(output, config, data_names, method_names, method_of,
                  settings):
  """Predictions on disk become results.jsonl, the page and a printed table."""
  conventions = experiment.conventions(config.metrics)
  rows, differences, diagrams = [], [], {}
  for data in data_names:
    folder = output / "predictions" / data
    answers = {name: predictions_lib.load(folder / name)
               for name in method_names}
    of_data = _labelled(data, {
        name: summary.summarize(answer, conventions) |
              _unknown_scores(answer, folder / "unknown" / name, conventions)
        for name, answer in answers.items()})
    rows += of_data
    differences += _differences(data, answers, conventions)
    diagrams[data] = figures.svg(figures.reliability_diagrams({
        figures.panel_title(row): summary.bins_of(
            answers[row["method"]], conventions) for row in of_data}))
    atomic.write_whole(
        output / f"diagram-{data}.svg", diagrams[data].encode())
  experiment.write_rows(output / "results.jsonl", rows)
  experiment.write_rows(output / "differences.jsonl", differences)
  text = page.render(
      title=f"Calibration of {config.model.name}", rows=rows,
      differences=differences, diagrams=diagrams,
      conventions=conventions, settings=settings)
  atomic.write_whole(output / "report.html", text.encode())
  text = _tables(rows, differences, conventions,
                 tuned_answers.over_seeds(rows, method_of))
  atomic.write_whole(output / "results.md", f"{text}\n".encode())
  print(f"{text}\n\nWritten to {output}: report.html, diagram-*.svg, "
        "results.md, results.jsonl, differences.jsonl, predictions/")


def _labelled(data, by_method: Mapping[str, summary.Row]):
  return [{"data": data, "method": name} | row
          for name, row in by_method.items()]


def _unknown_scores(known, path, conventions):
  """How well doubt tells images of known classes from those of none."""
  if not predictions_lib.exists(path):
    return {}
  return summary.detect(known, predictions_lib.load(path), conventions)


def _differences(data, answers, conventions):
  reference = next((name for name in _REFERENCES if name in answers), None)
  if reference is None:
    return []
  rows = _labelled(data, {
      name: summary.compare(answer, answers[reference], conventions)
      for name, answer in answers.items() if name != reference})
  return [row | {"reference": reference} for row in rows]


def _tables(rows, differences, conventions, over_seeds):
  blocks = [
      tables.markdown(rows, tables.RESULTS),
      f"ECE: {conventions.num_bins} {conventions.edges}-closed bins; floor: "
      "that of a perfectly calibrated model with these confidences; brackets: "
      f"{100 * conventions.level:g} % bootstrap."]
  if over_seeds:
    blocks += ["Over seeds, mean and standard deviation:",
               tables.markdown(over_seeds, tables.OVER_SEEDS)]
  doubting = [row for row in rows if "median_epistemic" in row]
  if doubting:
    blocks += ["Doubt, of the median image:",
               tables.markdown(doubting, tables.DOUBT)]
  detecting = [row for row in rows if "auroc_distrust" in row]
  if detecting:
    blocks += ["Known from unknown images, AUROC %:",
               tables.markdown(detecting, tables.DETECTION)]
  if differences:
    blocks += ["Paired differences:",
               tables.markdown(differences, tables.DIFFERENCES)]
  return "\n\n".join(blocks)
