"""`jaxcal sweep`: many settings in as few passes over the images as can be."""

from collections.abc import Mapping, Sequence
import functools
import itertools
import pathlib
import sys
from typing import Any, NamedTuple

from absl import flags
import tqdm

from jaxcal import config as config_lib
from jaxcal import config_inputs
from jaxcal import config_methods
from jaxcal import config_record
from jaxcal import config_runs
from jaxcal import config_sweep
from jaxcal import plan as plan_lib
from jaxcal import progress
from jaxcal import runs
from jaxcal import sharding
from jaxcal import stages
from jaxcal import sweep as sweep_lib
from jaxcal.cli import dry_run
from jaxcal.cli import experiment
from jaxcal.data import image_set as image_sets
from jaxcal.report import saved_runs
from jaxcal.report import sweeps as sweep_report

EXAMPLE = ("jaxcal sweep --config=configs/quickstart.py "
           "--sweep=method.name=tpt,c_tpt,soc --sweep=method.weight=1,3,10,30")
_ABOUT = """\
Methods, weights, margins, learning rates, decays, steps and selection
fractions share one pass over the images; other fields (views, template,
model, ...) make a pass for each value. Writes results.jsonl, a row per
setting, results.md, report.html, a figure per swept number, and predictions/;
where a seed is swept, as --sweep=views.seed=0,1,2, seeds.jsonl with means over
seeds. Settings that are done are skipped, so a sweep can be interrupted,
resumed, and grown by further values."""

_SWEEP = flags.DEFINE_multi_string(
    "sweep", [], "FIELD=VALUE,VALUE,... of the config, a value with a comma in "
    "it in double quotes; given several times, all combinations are run")

FLAGS = ("sweep", *experiment.SHARED_FLAGS, "dry_run")
FIELDS = config_lib.field_names(
    "protocol", "model", "data", "views", "method", "stream", "fpp",
    "posterior", "metrics", "batch_size", "num_threads", "memory_gb",
    "linearisation",
    without=("data.out_of_distribution", "method.tuned", "stream.orders",
             "stream.outlier_share"))
help_text = functools.partial(
    experiment.help_text, _ABOUT, EXAMPLE, FLAGS, FIELDS)

# Rows do not say these: they belong to the whole sweep, and lie in run.json.
_NOT_SWEPT = ("metrics.", "batch_size", "num_threads", "memory_gb",
              "linearisation", "data.root", "data.store", "data.limit")
_Config = config_lib.ExperimentConfig


class _Pass(NamedTuple):
  """A set as the points of a variant see it."""

  variant: config_sweep.Variant
  config: _Config  # for this set
  points: Mapping[str, sweep_lib.Point]  # by their names
  asked: runs.Asked


def main() -> None:
  """Runs the sweep that the flags describe."""
  config = experiment.checked_config()
  kinds = {name: kind for name, kind in config_sweep.kinds(config).items()
           if f"config.{name}" in FIELDS and not name.startswith(_NOT_SWEPT)}
  axes = [sweep_lib.parse_axis(text, kinds) for text in _SWEEP.value]
  if not axes:
    raise ValueError(f"--sweep is missing; for example: {EXAMPLE}")
  variants = config_sweep.variants(config, axes)
  experiment.join_processes()
  load = config_sweep.Loaded()
  remembered = config_sweep.remembered(experiment.load_sets)
  load_sets = lambda of: remembered(of.data, of.stream.corrupted_share)
  for of in (variant.config for variant in variants):
    # Errors come before the work.
    if of.posterior.folder is not None:
      load.posterior(of)
    if config_inputs.is_tuned(of.method.context) or of.method.adapter:
      config_inputs.check_start(
          of, load.model(of), load_sets(of).values(),
          config_methods.methods_of(of))
  first = variants[0].config
  loaded = load_sets(first)
  remarks = config_methods.remarks(first, loaded)
  about = _about(config, load, [axis.name for axis in axes]) | {
      f"{saved_runs.PROTOCOL}{data}": remark
      for data, remark in remarks.items()}
  if not config_runs.REMARKED & {axis.name for axis in axes}:
    about |= {f"{saved_runs.STREAM}{what}": remark
              for what, remark in config_runs.remarks(first, loaded).items()}
  about |= saved_runs.left_out({
      data: images.left_out for variant in variants
      for data, images in load_sets(variant.config).items()})
  output = experiment.output_path(about)
  if not dry_run.ASKED.value:
    experiment.take(output)
  # What lies there is looked at before anything is computed.
  passes = [_pass(variant, load, images, output) for variant in variants
            for images in experiment.as_streams(
                variant.config.stream, load_sets(variant.config)).values()]
  if dry_run.ASKED.value:
    dry_run.show([plan_lib.row(one.asked, one.config.num_views_computed)
                  for one in passes], output)
    return
  experiment.write_settings(output, about)
  rows = sweep_report.Rows(output / "results.jsonl")
  _announce(passes)
  with progress.of_parts(
      "sweep", [one.asked.size for one in passes], "prediction") as reports:
    for one, report in zip(passes, reports):
      _run_pass(one, load, rows, report)
  if sharding.is_first():
    text = sweep_report.write(
        output, rows.all,
        lambda name: config_methods.default_of(config, name),
        experiment.conventions(config.metrics), about=saved_runs.about(output))
    print(f"{text}\n\nWritten to {output}: results.jsonl, results.md, "
          "report.html, FIELD-SET.svg, predictions/")
  sharding.barrier("done")


def _about(
    config: _Config, load: config_sweep.Loaded, swept: Sequence[str]
) -> dict[str, Any]:
  """What run.json says: all that the settings have in common."""
  # Of several posteriors, each is in its own predictions.
  posterior = None if "posterior.folder" in swept else load.posterior(config)
  about = config_record.describe(config, load.model(config), posterior)
  return {name: value for name, value in about.items()
          if name.removeprefix("config.") not in (
              *config_sweep.PER_IMAGE, *swept)}


def _pass(
    variant: config_sweep.Variant, load: config_sweep.Loaded,
    images: image_sets.ImageSet, output: pathlib.Path
) -> _Pass:
  """What is predicted for a set, and what it is of; nothing is computed."""
  config = config_methods.for_set(variant.config, images.name)
  points = config_sweep.points(config, variant.changes)
  place = "/".join(filter(None, (images.name, _folder_name(variant))))
  asked = config_runs.asked(
      config, load.model(config), images,
      config_sweep.methods_of(config, points), output,
      identity=experiment.identity_of_images(
          config, images, None if dry_run.ASKED.value else output, place),
      place=place, posterior=load.posterior(config),
      called={name: point.method for name, point in points.items()})
  runs.missing(asked)
  return _Pass(variant, config, points, asked)


def _folder_name(variant: config_sweep.Variant) -> str:
  """Name of the folder of a variant's predictions for a set."""
  return sweep_report.folder_name(config_sweep.folder_fields(variant))


def _run_pass(
    one: _Pass, load: config_sweep.Loaded, rows: sweep_report.Rows,
    report: progress.Report
) -> None:
  """Predictions of one set, and a row for every setting."""
  config, data = one.config, one.asked.images.name
  model = load.model(config)
  posterior = load.posterior(config)
  about = config_record.describe(config, model, posterior)
  of_point = {
      name: about | {"config.method.name": [point.method],
                     "numbers": dict(point.numbers), "data": data}
      for name, point in one.points.items()}
  fields = config_sweep.folder_fields(one.variant)
  with progress.reported(f"{data}: flat context", "step") as step:
    for name, path in config_runs.predict(
        config, model, one.asked, of_point, posterior=posterior,
        on_batch=report, on_step=report.at, on_flat_step=step):
      point = one.points[one.asked.outputs[name].method]
      rows.measure(
          {"data": data, "setting": name, **fields}, path,
          {**stages.fields(one.asked.stages_of(name)), **point.numbers},
          experiment.conventions(config.metrics), one.asked.by_name[name])
  report(1, 1)


def _announce(passes: Sequence[_Pass]) -> None:
  """Says how many settings share a pass; the first process alone."""
  if not sharding.is_first():
    return
  for folder, group in itertools.groupby(
      passes, lambda one: _folder_name(one.variant)):
    first, *others = group
    names = ", ".join(one.asked.images.name for one in (first, *others))
    tqdm.tqdm.write(
        f"{folder or 'sweep'}: {len(first.points)} settings in one pass over "
        f"each of {names}", file=sys.stderr)
