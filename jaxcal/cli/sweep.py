"""`jaxcal sweep`: many settings in as few passes over the images as can be."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import pathlib
import sys
import typing

from absl import flags
import tqdm

from jaxcal import config as config_lib
from jaxcal import config_methods
from jaxcal import config_sweep
from jaxcal import plan as plan_lib
from jaxcal import predictions as predictions_lib
from jaxcal import progress
from jaxcal import runs
from jaxcal import sharding
from jaxcal import stages
from jaxcal import sweep as sweep_lib
from jaxcal.cli import config_files
from jaxcal.cli import dry_run
from jaxcal.cli import experiment
from jaxcal.cli import posteriors
from jaxcal.cli import predicting
from jaxcal.clip import checkpoint
from jaxcal.data import image_set as image_sets
from jaxcal.posterior import head
from jaxcal.report import summary
from jaxcal.report import sweeps as sweep_report
from jaxcal.storage import identity

EXAMPLE = ("jaxcal sweep --config=configs/quickstart.py "
           "--sweep=method.name=tpt,c_tpt,soc --sweep=method.weight=1,3,10,30")

_SWEEP = flags.DEFINE_multi_string(
    "sweep", [], "FIELD=VALUE,VALUE,... of the config, a value with a comma in "
    "it in double quotes; given several times, all combinations are run")

FLAGS = ("sweep", *experiment.SHARED_FLAGS, "dry_run")
FIELDS = config_files.fields(
    "protocol", "model", "data", "views", "method", "stream", "fpp",
    "posterior", "metrics", "batch_size", "num_threads", "memory_gb",
    "linearisation",
    without=("data.out_of_distribution", "method.tuned"))

# Rows do not say these: they belong to the whole sweep, and lie in run.json.
_NOT_SWEPT = ("metrics.", "batch_size", "num_threads", "memory_gb",
              "linearisation", "data.root", "data.store", "data.limit")
_Config = config_lib.ExperimentConfig


class _Pass(typing.NamedTuple):
  """A set as the points of a variant see it."""

  variant: config_sweep.Variant
  config: _Config  # for this set
  points: Mapping[str, sweep_lib.Point]  # by their names
  asked: runs.Asked


def help_text() -> str:
  """What `jaxcal sweep --help` prints."""
  return "\n".join([
      "Methods, weights, margins, learning rates, decays, steps and selection "
      "fractions", "share one pass over the images; other fields (views, "
      "template, model, ...) make", "a pass for each value. Writes "
      "results.jsonl, a row per setting, results.md, a", "figure per swept "
      "number, and predictions/. Settings that are done are skipped, so a",
      "sweep can be interrupted, resumed, and grown by further values.", "",
      "Example:", f"  {EXAMPLE}", "", experiment.DATA_HELP, "",
      *experiment.help_lines(FLAGS, FIELDS)])


def main() -> None:
  """Runs the sweep that the flags describe."""
  config = experiment.checked_config()
  kinds = {name: kind for name, kind in config_sweep.kinds(config).items()
           if f"config.{name}" in FIELDS and not name.startswith(_NOT_SWEPT)}
  axes = [sweep_lib.parse_axis(text, kinds) for text in _SWEEP.value]
  if not axes:
    raise ValueError(f"--sweep is missing; for example: {EXAMPLE}")
  plan = config_sweep.variants(config, axes)
  experiment.join_processes()
  load_model = _once(experiment.load_model)
  load_sets = _once(experiment.load_sets)
  load_posterior = _once(
      lambda config, model: posteriors.load(config, load_model(model)))
  for of in (variant.config for variant in plan):
    # Errors come before the work.
    if of.posterior.folder is not None:
      load_posterior(of.posterior, of.model)
    if experiment.is_tuned(of.method.context):
      predicting.start(of, load_model(of.model))
  about = experiment.describe(
      config, load_model(config.model),
      # Of several posteriors, each is in its own predictions.
      None if "posterior.folder" in [axis.name for axis in axes] else
      load_posterior(config.posterior, config.model))
  about = {name: value for name, value in about.items()
           if name.removeprefix("config.") not in (
               *config_sweep.PER_IMAGE, *(axis.name for axis in axes))}
  remarks = config_methods.remarks(
      plan[0].config, load_sets(plan[0].config.data))
  about |= {f"protocol.{data}": remark for data, remark in remarks.items()}
  output = experiment.output_path(about)
  if not dry_run.ASKED.value:
    experiment.take(output)
  # What lies there is looked at before anything is computed.
  passes = [_pass(variant, load_model, load_posterior, images, output)
            for variant in plan
            for images in load_sets(variant.config.data).values()]
  if dry_run.ASKED.value:
    dry_run.show([plan_lib.row(
        one.asked, experiment.num_views_computed(one.config))
                  for one in passes], output)
    return
  experiment.write_settings(output, about)
  rows = sweep_report.Rows(output / "results.jsonl")
  _announce(passes)
  with progress.of_parts(
      "sweep", [one.asked.size for one in passes], "prediction") as reports:
    for one, report in zip(passes, reports):
      _run_pass(one, load_model(one.config.model),
                load_posterior(one.config.posterior, one.config.model), rows,
                report)
  if experiment.is_first():
    text = sweep_report.write(
        output, rows.all,
        lambda name: config_methods.default_of(config, name),
        list(remarks.values()))
    print(f"{text}\n\nWritten to {output}: results.jsonl, results.md, "
          "FIELD-SET.svg, predictions/")
  sharding.barrier("done")


def _once(load):
  """Remembers what was loaded last, for variants that follow each other."""
  last: dict[typing.Any, typing.Any] = {}

  def loaded(*parts):
    key = tuple(dataclasses.astuple(part) for part in parts)
    if key not in last:
      last.clear()
      last[key] = load(*parts)
    return last[key]

  return loaded


def _pass(
    variant: config_sweep.Variant, load_model: typing.Any,
    load_posterior: typing.Any, images: image_sets.ImageSet,
    output: pathlib.Path
) -> _Pass:
  """What is predicted for a set, and what it is of; nothing is computed."""
  config = config_methods.for_set(variant.config, images.name)
  points = config_sweep.points(config, variant.changes)
  methods = {
      name: dataclasses.replace(  # type: ignore[type-var]
          config_methods.method_of(config, point.method), **point.numbers)
      for name, point in points.items()}
  asked = predicting.asked(
      config, load_model(config.model), images, methods,
      load_posterior(config.posterior, config.model),
      "/".join(filter(None, (images.name, _folder_name(variant)))), output,
      called={name: point.method for name, point in points.items()},
      keep_digests=not dry_run.ASKED.value)
  runs.missing(asked)
  return _Pass(variant, config, points, asked)


def _folder_name(variant: config_sweep.Variant) -> str:
  """Name of the folder of a variant's predictions for a set."""
  return sweep_report.folder_name({
      name: config_lib.plain(value) for name, value in variant.fields.items()})


def _run_pass(
    one: _Pass, model: checkpoint.Model, posterior: head.Chosen | None,
    rows: sweep_report.Rows, report: Callable[[int, int], None]
) -> None:
  """Predictions of one set, and a row for every setting."""
  config, images, points = one.config, one.asked.images, one.points
  about = experiment.describe(config, model, posterior)
  saved = predicting.predict_set(
      config, model, one.asked, posterior,
      {name: about | {"config.method.name": [point.method],
                      "numbers": dict(point.numbers), "data": images.name}
       for name, point in points.items()},
      on_batch=report)
  conventions = experiment.conventions(config.metrics)
  for name, path in saved:
    key = {"data": images.name, "setting": name,
           **{field: config_lib.plain(value)
              for field, value in one.variant.fields.items()}}
    made = identity.of_lines([json.dumps(
        [one.asked.by_name[name], conventions], sort_keys=True)])
    if not rows.has(key | {"identity": made}):
      point = points[one.asked.outputs[name].method]
      rows.put(key, {
          **stages.fields(one.asked.stages_of(name)), **point.numbers,
          **summary.summarise(predictions_lib.load(path), conventions),
          "identity": made})
  report(1, 1)


def _announce(passes: Sequence[_Pass]) -> None:
  if experiment.is_first():
    sets_of: dict[str, list[_Pass]] = {}
    for one in passes:
      sets_of.setdefault(_folder_name(one.variant), []).append(one)
    for folder, of_variant in sets_of.items():
      names = ", ".join(one.asked.images.name for one in of_variant)
      tqdm.tqdm.write(
          f"{folder or 'sweep'}: {len(of_variant[0].points)} settings in one "
          f"pass over each of {names}", file=sys.stderr)
