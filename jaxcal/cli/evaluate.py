"""`jaxcal evaluate`: images in; predictions, a table and a page out."""

import collections
from collections.abc import Mapping
import dataclasses
import json

from jaxcal import predictions as predictions_lib
from jaxcal import sharding
from jaxcal.adapt import objectives
from jaxcal.cli import answering
from jaxcal.cli import experiment
from jaxcal.report import figures
from jaxcal.report import page
from jaxcal.report import summary
from jaxcal.report import tables

ABOUT = "adapt a model to each image of some sets and measure its calibration"
EXAMPLE = ("jaxcal evaluate --config=configs/quickstart.py "
           "--config.method.weight=30")

# Paired differences are taken to this method where it is among those run.
_REFERENCE = "tpt"


def help_text() -> str:
  """What `jaxcal evaluate --help` prints."""
  return "\n".join([
      f"jaxcal evaluate: {ABOUT}.", "",
      "Writes predictions/, results.jsonl, results.md, differences.jsonl, "
      "report.html and", "diagram-*.svg, and prints a table.",
      "An interrupted run goes on where it stopped.", "",
      "Example:", f"  {EXAMPLE}", "",
      "Methods: " + ", ".join(objectives.METHODS),
      experiment.DATA_HELP, "",
      "Flags:", *experiment.flag_help(*experiment.SHARED_FLAGS), "",
      "Fields of the config, with their defaults:", *experiment.field_help()])


def main() -> None:
  """Runs the experiment that the flags describe."""
  config = experiment.checked_config(EXAMPLE)
  methods = _settings(config.method)
  experiment.join_processes()
  sets_by_name = experiment.load_sets(config.data)
  model = experiment.load_model(config.model)
  about = experiment.describe(config, model)
  output = experiment.output_folder(about)
  for data, images in sets_by_name.items():
    with experiment.progress(data, len(images.ids)) as bar:
      collections.deque(answering.answer_set(
          config, model, images, methods,
          {name: about | {"data": data, "method": name} for name in methods},
          output / "predictions" / data,
          on_batch=lambda done, _, bar=bar: bar.update(done - bar.n)), maxlen=0)
  if experiment.is_first():
    _write_report(output, config, list(sets_by_name), list(methods), about)
  sharding.barrier("done")


def _settings(config):
  """A setting per method; refuses numbers that none of the methods has."""
  methods = {}
  for name in config.name:
    if name in methods:
      raise ValueError(f"config.method.name has {name!r} twice")
    methods[name] = experiment.setting_of(name, {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)})
  known = {key for name in methods for key in objectives.settings_of(name)}
  for key in ("weight", "delta", "quantile"):
    if getattr(config, key) is not None and key not in known:
      raise ValueError(f"config.method.{key} is set, but none of the methods "
                       f"{', '.join(methods)} has a {key}")
  return methods


def _write_report(output, config, data_names, method_names, settings):
  """Predictions on disk become results.jsonl, the page and a printed table."""
  conventions = experiment.conventions(config.metrics)
  rows, differences, diagrams = [], [], {}
  for data in data_names:
    answers = {name: predictions_lib.load(output / "predictions" / data / name)
               for name in method_names}
    of_data = _labelled(data, {
        name: summary.summarize(answer, conventions)
        for name, answer in answers.items()})
    rows += of_data
    differences += _differences(data, answers, conventions)
    diagrams[data] = figures.svg(figures.reliability_diagrams({
        figures.panel_title(row): summary.bins_of(
            answers[row["method"]], conventions) for row in of_data}))
    predictions_lib.write_whole(
        output / f"diagram-{data}.svg", diagrams[data].encode())
  _write_rows(output / "results.jsonl", rows)
  _write_rows(output / "differences.jsonl", differences)
  text = page.render(
      title=f"Calibration of {config.model.name}", rows=rows,
      differences=differences, diagrams=diagrams,
      conventions=conventions, settings=settings)
  predictions_lib.write_whole(output / "report.html", text.encode())
  text = _tables(rows, differences, conventions)
  predictions_lib.write_whole(output / "results.md", f"{text}\n".encode())
  print(f"{text}\n\nWritten to {output}: report.html, diagram-*.svg, "
        "results.md, results.jsonl, differences.jsonl, predictions/")


def _labelled(data, by_method: Mapping[str, summary.Row]):
  return [{"data": data, "method": name} | row
          for name, row in by_method.items()]


def _differences(data, answers, conventions):
  if _REFERENCE not in answers:
    return []
  rows = _labelled(data, {
      name: summary.compare(answer, answers[_REFERENCE], conventions)
      for name, answer in answers.items() if name != _REFERENCE})
  return [row | {"reference": _REFERENCE} for row in rows]


def _write_rows(path, rows):
  text = "".join(json.dumps(row) + "\n" for row in rows)
  predictions_lib.write_whole(path, text.encode())


def _tables(rows, differences, conventions):
  blocks = [
      tables.markdown(rows, tables.RESULTS),
      f"ECE: {conventions.num_bins} {conventions.edges}-closed bins; floor: "
      "that of a perfectly calibrated model with these confidences; brackets: "
      f"{100 * conventions.level:g} % bootstrap."]
  if differences:
    blocks += ["Paired differences:",
               tables.markdown(differences, tables.DIFFERENCES)]
  return "\n\n".join(blocks)
