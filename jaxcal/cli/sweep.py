"""`jaxcal sweep`: many settings in as few passes over the images as can be."""

import copy
import dataclasses
import hashlib
import json
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
from jaxcal.cli import answering
from jaxcal.cli import experiment
from jaxcal.cli import identities
from jaxcal.cli import posteriors
from jaxcal.cli import shared_flags
from jaxcal.cli import tuned_answers
from jaxcal.report import figures
from jaxcal.report import summary
from jaxcal.report import tables
from jaxcal.storage import atomic
from jaxcal.storage import identity as identity_lib

EXAMPLE = ("jaxcal sweep --config=configs/quickstart.py "
           "--sweep=method.name=tpt,c_tpt,soc --sweep=method.weight=1,3,10,30")

_SWEEP = flags.DEFINE_multi_string(
    "sweep", [], "FIELD=VALUE,VALUE,... of the config; given several times, "
    "all combinations are run")

# Rows do not say these: they belong to the whole sweep, and lie in run.json.
_NOT_SWEPT = ("metrics.", "batch_size", "num_threads", "memory_gb",
              "linearisation", "data.root", "data.store", "data.limit",
              # Only `evaluate` looks at these.
              "data.unknown", "temperature.", "method.tuned", "methods",
              "evidence")
# What a point of the sweep may have of its own.
_PER_IMAGE = ("method.name", *(f"method.{name}" for name in config_lib.NUMBERS))


class _Variant(typing.NamedTuple):
  """Points that share a pass over the images of each set."""

  config: typing.Any
  fields: dict[str, typing.Any]  # swept, other than the points' own
  points: dict[str, sweep_lib.Point]  # by label
  folder: str


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
      "Flags:", *shared_flags.flag_help("sweep", *experiment.SHARED_FLAGS), "",
      "Fields of the config, with their defaults:", *experiment.field_help()])


def main() -> None:
  """Runs the sweep that the flags describe."""
  config = experiment.checked_config()
  axes = [sweep_lib.parse_axis(text, _field_types(config))
          for text in _SWEEP.value]
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
      tuned_answers.start(one.method, load_model(one.model))
  about = experiment.describe(
      config, load_model(config.model),
      # Of several posteriors, each is in its own predictions.
      None if "posterior.folder" in [axis.name for axis in axes] else
      load_posterior(config.posterior, config.model))
  about = {name: value for name, value in about.items()
           if name.removeprefix("config.") not in (
               *_PER_IMAGE, *(axis.name for axis in axes))}
  output = experiment.output_folder(about, grows=True)
  experiment.write_settings(output, about)
  rows = _Rows(output / "results.jsonl")
  loaded = [(variant, load_sets(variant.config.data))
            for variant in plan]
  total = sum(len(variant.points) * len(images.ids)
              for variant, sets_by_name in loaded
              for images in sets_by_name.values())
  _announce(loaded)
  with experiment.progress("sweep", total, "answer") as bar:
    for variant, sets_by_name in loaded:
      model = load_model(variant.config.model)
      posterior = load_posterior(
          variant.config.posterior, variant.config.model)
      for images in sets_by_name.values():
        _run_variant(variant, model, posterior, images, output, rows, bar)
  if experiment.is_first():
    _draw(config, output, rows.all)
    _print_table(output, rows.all)
  sharding.barrier("done")


def _once(load):
  """Remembers what was loaded last, for variants that follow each other."""
  last = {}

  def loaded(*parts):
    key = tuple(dataclasses.astuple(part) for part in parts)
    if key not in last:
      last.clear()
      last[key] = load(*parts)
    return last[key]

  return loaded


def _field_types(config, prefix=""):
  """Annotation of every field that can be swept, by dotted name."""
  hints, found = typing.get_type_hints(type(config)), {}
  for field in dataclasses.fields(config):
    name, value = prefix + field.name, getattr(config, field.name)
    if dataclasses.is_dataclass(value):
      found |= _field_types(value, f"{name}.")
    else:
      found[name] = hints[field.name]
  return {name: kind for name, kind in found.items()
          if not name.startswith(_NOT_SWEPT)}


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
      method = _changed(changed, one).method
      numbers = {name: getattr(method, name) for name in config_lib.NUMBERS}
      point = sweep_lib.point(
          method.name[0], experiment.method_of(changed, method.name[0], {}),
          numbers)
      points[point.label] = point
    plan.append(_Variant(changed, fields, points, _folder_name(fields)))
  every = [point for variant in plan for point in variant.points.values()]
  idle = sweep_lib.unused(every, [
      axis.name.removeprefix("method.") for axis in axes
      if axis.name in _PER_IMAGE[1:]])
  if idle:
    raise ValueError(f"none of the methods has a {' or a '.join(idle)}, so "
                     "there is nothing to sweep")
  return plan


def _changed(config, fields):
  """A copy of the config with other values, checked."""
  config = copy.deepcopy(config)
  for name, value in fields.items():
    *path, last = name.split(".")
    part = config
    for step in path:
      part = getattr(part, step)
    setattr(part, last, value)
  experiment.check(config)
  return config


def _folder_name(fields):
  """Swept fields as a folder; with a hash where characters had to go."""
  name = ",".join(f"{field}={experiment.plain(value)}"
                  for field, value in fields.items())
  safe = re.sub(r"[^\w=.,+-]+", "_", name)
  if safe != name:
    safe += "-" + hashlib.sha256(name.encode()).hexdigest()[:6]
  return safe


def _run_variant(variant, model, posterior, images, output, rows, bar):
  """One pass over one set: predictions and a row for every setting."""
  config = variant.config
  about = experiment.describe(config, model, posterior)
  own = {label: {f"config.method.{name}": value
                 for name, value in point.numbers.items()} |
         {"config.method.name": [point.method]}
         for label, point in variant.points.items()}
  # Zero-shot has no such number, but its diagnostics look at the same views.
  views = {"selection_fraction": config.method.selection_fraction}
  methods = {
      label: experiment.method_of(config, point.method, views | point.numbers)
      for label, point in variant.points.items()}
  point_of = run.output_names(methods, with_posterior=posterior is not None)
  count, before = len(variant.points), bar.n
  folder = output / "predictions" / images.name / variant.folder
  identity = identities.of_set(
      config, model, images, methods, posterior, output,
      f"{images.name}/{variant.folder}")
  saved = answering.answer_set(
      config, model, images, methods,
      {label: about | own[label] | {"data": images.name, "method": label}
       for label in variant.points},
      identity, folder, posterior=posterior,
      on_batch=lambda done, total: bar.update(before + done * count - bar.n))
  for name, path in saved:
    key = {"data": images.name, "setting": name,
           **{field: experiment.plain(value)
              for field, value in variant.fields.items()}}
    made = identity_lib.of_lines([json.dumps(
        [identity.by_name[name], experiment.conventions(config.metrics)],
        sort_keys=True)])
    if not rows.has(key | {"identity": made}):
      label = point_of[name]
      point, form = variant.points[label], name.removeprefix(label)
      rows.put(key, {"method": point.method + form, **point.numbers} |
               summary.summarize(predictions_lib.load(path),
                                 experiment.conventions(config.metrics)) |
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


def _announce(loaded):
  if experiment.is_first():
    for variant, sets_by_name in loaded:
      tqdm.tqdm.write(
          f"{variant.folder or 'sweep'}: {len(variant.points)} settings in one "
          f"pass over each of {', '.join(sets_by_name)}", file=sys.stderr)


def _draw(config, output, rows):
  """A figure per image set and number of which the rows have several."""
  for data in dict.fromkeys(row["data"] for row in rows):
    of_data = [row for row in rows if row["data"] == data]
    for field in (*config_lib.NUMBERS, *_numbers_of_variants(of_data)):
      curves, lines = _curves(config, of_data, field)
      if any(len(curve) > 1 for curve in curves.values()):
        figure = figures.svg(figures.sweep_curves(curves, lines, field))
        atomic.write_whole(
            output / f"{field}-{data}.svg", figure.encode())


def _numbers_of_variants(rows):
  """Fields that take a pass of their own and have numbers for values."""
  return sorted({name for row in rows for name, value in row.items()
                 if "." in name and isinstance(value, (int, float)) and
                 not isinstance(value, bool)})


def _curves(config, rows, field):
  """Rows that differ in the field alone, by label; and those without it."""
  curves, lines = {}, {}
  for row in rows:
    numbers = {name: row.get(name) for name in config_lib.NUMBERS}
    method, plus, form = row["method"].partition("+")
    point = sweep_lib.point(
        method, experiment.method_of(config, method, {}),
        numbers | {field: None})
    label = _label(
        {name: value for name, value in row.items() if name != field},
        point.label + plus + form)
    if row.get(field) is None:
      lines[label] = row
    else:
      curves.setdefault(label, []).append(row)
  return curves, lines


def _label(row, setting):
  """A setting and the variant it was run in."""
  variant = {name: row[name] for name in row if "." in name}
  return "-".join(filter(None, (setting, _folder_name(variant))))


def _print_table(output, rows):
  text = tables.markdown(
      [row | {"method": _label(row, row["setting"])} for row in rows],
      tables.RESULTS)
  atomic.write_whole(output / "results.md", f"{text}\n".encode())
  print(f"{text}\n\nWritten to {output}: results.jsonl, results.md, "
        "FIELD-SET.svg, predictions/")
