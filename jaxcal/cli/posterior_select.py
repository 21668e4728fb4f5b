"""`jaxcal posterior select`: which images to label, and what that brings."""

import json
import math
import pathlib

from absl import flags

from jaxcal import config as config_lib
from jaxcal import predictions as predictions_lib
from jaxcal import progress as bars
from jaxcal import spelling
from jaxcal.cli import config_files
from jaxcal.cli import experiment
from jaxcal.cli import held_out
from jaxcal.cli import posteriors
from jaxcal.posterior import finetuning
from jaxcal.posterior import head
from jaxcal.posterior import select
from jaxcal.posterior import selection
from jaxcal.report import figures
from jaxcal.report import measured
from jaxcal.report import summary
from jaxcal.report import tables
from jaxcal.storage import atomic

EXAMPLE = ("jaxcal posterior select --config=bayesvlm "
           "--config.data.name=shades --config.data.limit=500")

_STRATEGIES = flags.DEFINE_list(
    "strategies", ["random", "entropy", "bald", "epig", "epig_online"],
    f"of {', '.join(selection.STRATEGIES)}")
_BUDGETS = flags.DEFINE_list("budgets", ["10", "25", "50"], "numbers of labels")
_SEEDS = flags.DEFINE_integer("seeds", 3, "runs of each strategy")
_POOL = flags.DEFINE_multi_string(
    "pool", None, "image sets whose images may be labelled, separated by "
    "commas or by giving the flag several times, with the class names of the "
    "target; the target itself if absent")
_POOL_SPLIT = flags.DEFINE_string("pool_split", "train", "of these sets")
_POOL_LIMIT = flags.DEFINE_integer("pool_limit", 0, "images of each; 0 for all")
_METRIC = flags.DEFINE_enum(
    "metric", "wasserstein", ("wasserstein", "cosine"), "what near means where "
    "a strategy takes the neighbours of target images")
_SAMPLES = flags.DEFINE_integer("samples", 50, "of weights, for BALD and EPIG")
_LEARNING_RATE = flags.DEFINE_float(
    "learning_rate", 1e-5, "of AdamW on the image projection, as published")
_EPOCHS = flags.DEFINE_integer("epochs", 100, "of AdamW, as published")
_FLAGS = ("strategies", "budgets", "seeds", "pool", "pool_split", "pool_limit",
          "metric", "samples", "learning_rate", "epochs")
_SCORES = {"accuracy": "accuracy %", "ece": "ECE %", "nll": "NLL"}
FLAGS = (*_FLAGS, *experiment.FLAGS_OF_ONE_PROCESS)
FIELDS = config_files.fields(
    "model", "data", "posterior.folder", "posterior.pseudo_count",
    "temperature", "metrics", "batch_size", "num_threads",
    without=("data.out_of_distribution", "data.classes"))


def help_text() -> str:
  """What `jaxcal posterior select --help` prints."""
  return "\n".join([
      "Targets are the images of --config.data.name, whose labels are used to "
      "judge", "only; --config.temperature.split of the same set picks the "
      "epoch of tuning. Writes", "results.jsonl, results.md, learning-SET.svg, "
      "selected-SET.json (ids in the order", "of choosing) and the predictions "
      "after tuning. An interrupted run goes on where", "it stopped; "
      "strategies, budgets, seeds and image sets may be added to it.", "",
      "Example:", f"  {EXAMPLE}", "", experiment.DATA_HELP, "",
      *experiment.help_lines(FLAGS, FIELDS)])


def main() -> None:
  """Runs the selection that the flags describe."""
  config = experiment.checked_config()
  budgets = _checked_flags()
  if config.posterior.folder is None:
    raise ValueError("--config.posterior.folder is None: name a posterior of "
                     "`jaxcal posterior fit`")
  every = [_images(config, name, target, budgets[-1])
           for name, target in zip(
               config.data.name, experiment.load_sets(config.data).values())]
  model = experiment.load_model(config.model)
  studies = _studies(config, model, every)
  about = experiment.describe(config, model, studies[0].chosen) | {
      f"flags.{name}": flags.FLAGS[name].value for name in _FLAGS
      if name not in ("strategies", "budgets", "seeds", "pool")} | {
          "flags.pool": _pool() or None}
  output = experiment.output_folder(about)
  cells = select.cells(_STRATEGIES.value, budgets, range(_SEEDS.value))
  # What lies there is looked at before anything is computed.
  for study in studies:
    with bars.of_stages(name=f"{study.target.name}: ") as progress:
      select.look(study, _folder(output, study), cells,
                  num_threads=config.num_threads, progress=progress)
  experiment.write_settings(output, about)
  rows = []
  for study in studies:
    found = _select(config, study, _folder(output, study), budgets, about)
    rows += _rows(study.target.name, found, budgets,
                  experiment.conventions(config.metrics))
    _write_selected(output, study.target.name, found, budgets)
  _write_report(output, rows)


def _checked_flags():
  """The budgets; refuses flags that are out of range."""
  try:
    budgets = sorted({int(text) for text in _BUDGETS.value})
  except ValueError as error:
    raise ValueError(f"--budgets: {error}") from error
  if not budgets or budgets[0] < 1:
    raise ValueError(f"--budgets are {budgets}, expected numbers of at least 1")
  strategies = _STRATEGIES.value
  for name in strategies:
    if name not in selection.STRATEGIES:
      raise ValueError(f"unknown strategy {name!r}; "
                       f"{spelling.choices(name, selection.STRATEGIES)}")
  if not strategies or len(set(strategies)) < len(strategies):
    raise ValueError(f"--strategies are {strategies}, expected one at least "
                     "and none twice")
  if _POOL.value is not None and not all(_pool() or [""]):
    raise ValueError("--pool names no image set; leave it out to take another "
                     "split of the target")
  if not 0 <= _LEARNING_RATE.value < math.inf:
    raise ValueError(f"--learning_rate is {_LEARNING_RATE.value}, expected a "
                     "finite number of at least 0")
  for name, least in (("seeds", 1), ("samples", 2), ("epochs", 1),
                      ("pool_limit", 0)):
    if flags.FLAGS[name].value < least:
      raise ValueError(f"--{name} is {flags.FLAGS[name].value}, expected at "
                       f"least {least}")
  return budgets


def _pool():
  """The image sets of --pool, none if it is absent."""
  return config_lib.names_of(_POOL.value or [], are_paths=True)


def _images(config, name, target, budget):
  """A target with what shares none of its images; refuses too small a pool."""
  pools = held_out.load(
      config, target, _pool() or [name], split=_POOL_SPLIT.value,
      limit=_POOL_LIMIT.value)
  available = sum(len(pool.ids) for pool in pools)
  if budget > available:
    raise ValueError(f"--budgets reach {budget}, but the pool of {target.name} "
                     f"has {available} images")
  validation = None
  if config.temperature.split is not None:
    validation, = held_out.load(
        config, target, [name], split=config.temperature.split,
        limit=config.temperature.limit)
  return target, pools, validation


def _studies(config, model, every):
  """One per target, with the posterior and all numbers."""
  chosen = posteriors.load(config.posterior, model)
  factors = head.factors(config.posterior.folder, chosen.about)
  schedule = finetuning.Schedule(
      learning_rate=_LEARNING_RATE.value, num_epochs=_EPOCHS.value)
  return [select.Study(
      model, chosen, factors, *images, template=config.data.template,
      metric=_METRIC.value, num_samples=_SAMPLES.value, schedule=schedule)
          for images in every]


def _folder(output, study):
  return output / "predictions" / study.target.name


def _select(config, study, folder, budgets, about):
  """Where the predictions of every choice are, by name."""
  units = {"choices": "choice"}
  with bars.of_stages(units, name=f"{study.target.name}: ") as progress:
    return select.select(
        study, folder, strategies=_STRATEGIES.value, budgets=budgets,
        seeds=range(_SEEDS.value), about=about,
        batch_size=experiment.clean_batch_size(config),
        num_threads=config.num_threads, progress=progress)


def _rows(data, found, budgets, conventions):
  """Mean, lowest and highest score over seeds, by strategy and budget."""
  load = lambda *cell: predictions_lib.load(
      found[select.name_of(finetuning.Cell(*cell))])
  rows = [{"data": data, "strategy": select.BEFORE, "budget": 0, "seeds": 1,
           **summary.spread(
               [predictions_lib.load(found[select.BEFORE])], conventions)}]
  for strategy in _STRATEGIES.value:
    rows += [{"data": data, "strategy": strategy, "budget": budget,
              "seeds": _SEEDS.value, **summary.spread(
                  [load(strategy, seed, budget)
                   for seed in range(_SEEDS.value)], conventions)}
             for budget in budgets]
  return rows


def _write_selected(output, data, found, budgets):
  """Ids of the images to label, in the order of choosing."""
  chosen = {
      strategy: [predictions_lib.settings(found[select.name_of(
          finetuning.Cell(strategy, seed, budgets[-1]))])["selected"]
                 for seed in range(_SEEDS.value)]
      for strategy in _STRATEGIES.value}
  atomic.write_whole(output / f"selected-{data}.json",
                     json.dumps(chosen, indent=1).encode())


def _write_report(output: pathlib.Path, rows):
  """results.jsonl, a figure per set and a printed table."""
  measured.write_rows(output / "results.jsonl", rows)
  for data in dict.fromkeys(row["data"] for row in rows):
    of_data = [row for row in rows if row["data"] == data]
    curves = {name: [row for row in of_data
                     if row["strategy"] in (name, "before")]
              for name in _STRATEGIES.value}
    figure = figures.svg(figures.learning_curves(curves, _SCORES))
    atomic.write_whole(
        output / f"learning-{data}.svg", figure.encode())
  text = tables.markdown(rows, tables.LEARNING)
  atomic.write_whole(output / "results.md", f"{text}\n".encode())
  print(f"{text}\n\nMean over seeds, [lowest, highest].\n\nWritten to "
        f"{output}: results.jsonl, results.md, learning-*.svg, "
        "selected-*.json, predictions/")
