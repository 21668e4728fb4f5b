"""`jaxcal sweep`: many settings in as few passes over the images as can be."""

import copy
import dataclasses
import hashlib
import json
import pathlib
import re
import sys
import typing

from absl import flags
import tqdm

from jaxcal import config as config_lib
from jaxcal import predictions as predictions_lib
from jaxcal import run
from jaxcal import sharding
from jaxcal import sweep as sweep_lib
from jaxcal.adapt import base
from jaxcal.cli import config_files
from jaxcal.cli import dry_run
from jaxcal.cli import experiment
from jaxcal.cli import identities
from jaxcal.cli import posteriors
from jaxcal.cli import predicting
from jaxcal.cli import progress
from jaxcal.cli import tuned_predictions
from jaxcal.data import image_set as image_sets
from jaxcal.report import figures
from jaxcal.report import summary
from jaxcal.report import tables
from jaxcal.storage import atomic
from jaxcal.storage import identity as identity_lib

EXAMPLE = ("jaxcal sweep --config=configs/quickstart.py "
           "--sweep=method.name=tpt,c_tpt,soc --sweep=method.weight=1,3,10,30")

_SWEEP = flags.DEFINE_multi_string(
    "sweep", [], "FIELD=VALUE,VALUE,... of the config, a value with a comma in "
    "it in double quotes; given several times, all combinations are run")

FLAGS = ("sweep", *experiment.SHARED_FLAGS, "dry_run")
FIELDS = config_files.fields(
    "model", "data", "views", "method", "stream", "fpp", "posterior",
    "metrics", "batch_size", "num_threads", "memory_gb", "linearisation",
    without=("data.out_of_distribution", "method.tuned"))

# Rows do not say these: they belong to the whole sweep, and lie in run.json.
_NOT_SWEPT = ("metrics.", "batch_size", "num_threads", "memory_gb",
              "linearisation", "data.root", "data.store", "data.limit")
# What a point of the sweep may have of its own: numbers of all methods, and of
# single ones.
_NUMBERS = (*(f"method.{name}" for name in config_lib.NUMBERS), *(
    f"method.{name}.{field.name}" for name, part in config_lib.method_parts(
        config_lib.MethodConfig()).items()
    for field in dataclasses.fields(part)))
_PER_IMAGE = ("method.name", *_NUMBERS)


# Of a folder's name, before its hash: up to four bytes each, of 255 in all.
_MOST_LETTERS = 60


class _Variant(typing.NamedTuple):
  """Points that share a pass over the images of each set."""

  config: typing.Any
  fields: dict[str, typing.Any]  # swept, other than the points' own
  points: dict[str, sweep_lib.Point]  # by their names
  folder: str


class _Pass(typing.NamedTuple):
  """A set as the points of a variant see it."""

  variant: _Variant
  images: image_sets.ImageSet
  methods: dict[str, base.Numbers]
  identity: identities.OfSet
  folder: pathlib.Path


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
  kinds = {name: field.kind for name, field in _fields_of(config).items()
           if f"config.{name}" in FIELDS and not name.startswith(_NOT_SWEPT)}
  axes = [sweep_lib.parse_axis(text, kinds) for text in _SWEEP.value]
  if not axes:
    raise ValueError(f"--sweep is missing; for example: {EXAMPLE}")
  plan = _plan(config, axes)
  experiment.join_processes()
  load_model = _once(experiment.load_model)
  load_sets = _once(experiment.load_sets)
  load_posterior = _once(
      lambda config, model: posteriors.load(config, load_model(model)))
  for one in (variant.config for variant in plan):
    # Errors come before the work.
    if one.posterior.folder is not None:
      load_posterior(one.posterior, one.model)
    if experiment.is_tuned(one.method.context):
      tuned_predictions.start(one.method, load_model(one.model))
  about = experiment.describe(
      config, load_model(config.model),
      # Of several posteriors, each is in its own predictions.
      None if "posterior.folder" in [axis.name for axis in axes] else
      load_posterior(config.posterior, config.model))
  about = {name: value for name, value in about.items()
           if name.removeprefix("config.") not in (
               *_PER_IMAGE, *(axis.name for axis in axes))}
  output = experiment.output_path(about)
  if not dry_run.ASKED.value:
    experiment.take(output)
  # What lies there is looked at before anything is computed.
  passes = [_pass(variant, load_model, load_posterior, images, output)
            for variant in plan
            for images in load_sets(variant.config.data).values()]
  if dry_run.ASKED.value:
    dry_run.show([_planned(one, load_posterior) for one in passes], output)
    return
  experiment.write_settings(output, about)
  rows = _Rows(output / "results.jsonl")
  total = sum(len(one.methods) * len(one.images.ids) for one in passes)
  _announce(passes)
  with progress.bar("sweep", total, "prediction") as bar:
    for one in passes:
      config = one.variant.config
      _run_pass(one, load_model(config.model),
                load_posterior(config.posterior, config.model), rows, bar)
  if experiment.is_first():
    _draw(config, output, rows.all)
    _print_table(config, output, rows.all)
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


def _fields_of(config):
  """The fields of a config by dotted name, as --sweep has them."""
  return {field.name.removeprefix("config."): field
          for field in config_lib.fields(config)}


def _plan(config, axes) -> list[_Variant]:
  """The settings of every variant; refuses what cannot be run."""
  axes = list(axes)
  if not any(axis.name == "method.name" for axis in axes):
    axes.insert(0, sweep_lib.Axis(
        "method.name", tuple((name,) for name in config.method.name)))
  plan = []
  for fields, rest in sweep_lib.variants(sweep_lib.product(axes), _PER_IMAGE):
    changed = _changed(config, fields)
    points = {}
    for one in rest:
      setting = _changed(changed, one)
      name, = setting.method.name
      point = sweep_lib.point(
          name, experiment.default_of(setting, name),
          experiment.numbers_of(experiment.method_of(setting, name)))
      points[point.name] = point
    plan.append(_Variant(changed, fields, points, _folder_name(fields)))
  every = [point for variant in plan for point in variant.points.values()]
  idle = sweep_lib.unused(every, [
      axis.name.removeprefix("method.") for axis in axes
      if axis.name in _NUMBERS])
  if idle:
    raise ValueError(f"none of the methods has a {' or a '.join(idle)}, so "
                     "there is nothing to sweep")
  return plan


def _changed(config, fields):
  """A copy of the config with other values, checked."""
  config = copy.deepcopy(config)
  by_name = _fields_of(config)
  experiment.prefer(config, fields)
  for name, value in fields.items():
    field = by_name[name]
    setattr(field.part, field.key, experiment.with_home(value, field))
  try:
    config_lib.validate(config)
  except ValueError as error:
    if any(isinstance(value, str) and f"config.{name} " in str(error)
           for name, value in fields.items()):
      raise ValueError(
          f"{error}\n--sweep=FIELD=VALUE,VALUE separates values by commas; one "
          "with a comma in it stands in double quotes, as in "
          """--sweep='data.template="a {}, a pet.",a {}.'""") from error
    raise
  return config


def _folder_name(fields):
  """Swept fields as a folder; with a hash where characters had to go."""
  name = ",".join(f"{field}={experiment.plain(value)}"
                  for field, value in fields.items())
  safe = re.sub(r"[^\w=.,+-]+", "_", name)[:_MOST_LETTERS]
  if safe != name:
    safe += "-" + hashlib.sha256(name.encode()).hexdigest()[:6]
  return safe


def _pass(variant, load_model, load_posterior, images, output) -> _Pass:
  """What is predicted for a set, and what it is of; nothing is computed."""
  config = variant.config
  model = load_model(config.model)
  methods = {
      name: experiment.with_numbers(
          experiment.method_of(config, point.method), point.numbers)
      for name, point in variant.points.items()}
  place = f"{images.name}/{variant.folder}"
  identity = identities.of_set(
      config, model, images, methods,
      load_posterior(config.posterior, config.model),
      None if dry_run.ASKED.value else output, place)
  folder = output / "predictions" / images.name / variant.folder
  identities.missing(folder, identity)
  return _Pass(variant, images, methods, identity, folder)


def _planned(one, load_posterior):
  """What is to be predicted in a pass."""
  config = one.variant.config
  return predicting.planned(
      config, f"{one.images.name}/{one.variant.folder}".rstrip("/"), one.images,
      one.methods, one.identity, one.folder,
      posterior=load_posterior(config.posterior, config.model))


def _run_pass(one, model, posterior, rows, bar):
  """Predictions of one set, and a row for every setting."""
  config, images, points = one.variant.config, one.images, one.variant.points
  about = experiment.describe(config, model, posterior)
  own = {name: {"config.method.name": [point.method],
                "numbers": dict(point.numbers)}
         for name, point in points.items()}
  count, before = len(points), bar.n
  saved = predicting.predict_set(
      config, model, images, one.methods,
      {name: about | own[name] | {"data": images.name, "method": name}
       for name in points},
      one.identity, one.folder, posterior=posterior,
      on_batch=lambda done, total: bar.update(before + done * count - bar.n))
  point_of = run.output_names(
      one.methods, with_posterior=posterior is not None)
  conventions = experiment.conventions(config.metrics)
  for name, path in saved:
    key = {"data": images.name, "setting": name,
           **{field: experiment.plain(value)
              for field, value in one.variant.fields.items()}}
    made = identity_lib.of_lines([json.dumps(
        [one.identity.by_name[name], conventions], sort_keys=True)])
    if not rows.has(key | {"identity": made}):
      point, form = points[point_of[name]], name.removeprefix(point_of[name])
      rows.put(key, {"method": point.method + form, **point.numbers} |
               summary.summarise(predictions_lib.load(path), conventions) |
               {"identity": made})
  bar.update(before + len(images.ids) * count - bar.n)


class _Rows:
  """The rows of a results file, written whole with every new one."""

  def __init__(self, path):
    self._path = path
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    self.all = [json.loads(line) for line in text.splitlines()]

  def has(self, key):
    return any(key.items() <= row.items() and self._same(key, row)
               for row in self.all)

  def _same(self, key, row):
    # A row of a sweep with further fields is another one.
    return {name for name in row if "." in name} == {
        name for name in key if "." in name}

  def put(self, key, row):
    """In the place of a row with the same key, or at the end."""
    row = json.loads(json.dumps(key | row))
    same = [i for i, other in enumerate(self.all)
            if key.items() <= other.items() and self._same(key, other)]
    if same:
      self.all[same[0]] = row
    else:
      self.all.append(row)
    atomic.write_whole(self._path, "".join(
        json.dumps(one) + "\n" for one in self.all).encode())


def _announce(passes):
  if experiment.is_first():
    sets_of: dict[pathlib.Path, list[typing.Any]] = {}
    for one in passes:
      sets_of.setdefault(one.variant.folder, []).append(one)
    for folder, of_variant in sets_of.items():
      tqdm.tqdm.write(
          f"{folder or 'sweep'}: {len(of_variant[0].methods)} settings in one "
          f"pass over each of {', '.join(o.images.name for o in of_variant)}",
          file=sys.stderr)


def _draw(config, output, rows):
  """A figure per image set and number of which the rows have several."""
  for data in dict.fromkeys(row["data"] for row in rows):
    of_data = [row for row in rows if row["data"] == data]
    for field in _numbers_of(of_data):
      curves, lines = _curves(config, of_data, field)
      if any(len(curve) > 1 for curve in curves.values()):
        figure = figures.svg(figures.sweep_curves(curves, lines, field))
        atomic.write_whole(
            output / f"{field}-{data}.svg", figure.encode())


def _numbers_of(rows):
  """Numbers of methods, and fields with a pass of their own that are numbers.
  """
  found = {name for row in rows for name, value in row.items()
           if isinstance(value, (int, float)) and not isinstance(value, bool)}
  return [name for name in config_lib.number_names() if name in found] + sorted(
      name for name in found if "." in name)


def _curves(config, rows, field):
  """Rows that differ in the field alone, by label; and those without it."""
  curves: dict[str, typing.Any] = {}
  lines: dict[str, typing.Any] = {}
  for row in rows:
    label = _label(config, row, field)
    if row.get(field) is None:
      lines[label] = row
    else:
      curves.setdefault(label, []).append(row)
  return curves, lines


def _label(config, row, field=None):
  """A setting and the variant it was run in, by all but a field."""
  others = {name: value for name, value in row.items() if name != field}
  method, plus, form = row["method"].partition("+")
  point = sweep_lib.point(
      method, experiment.default_of(config, method), others)
  variant = {name: value for name, value in others.items() if "." in name}
  return "-".join(filter(None, (point.label + plus + form,
                                _folder_name(variant))))


def _print_table(config, output, rows):
  text = tables.markdown(
      [row | {"method": _label(config, row)} for row in rows],
      tables.RESULTS)
  atomic.write_whole(output / "results.md", f"{text}\n".encode())
  print(f"{text}\n\nWritten to {output}: results.jsonl, results.md, "
        "FIELD-SET.svg, predictions/")
