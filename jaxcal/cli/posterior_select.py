"""`jaxcal posterior select`: which images to label, and what that brings."""

from collections.abc import Sequence
import json
import pathlib
from typing import NamedTuple

from absl import flags
import jax.numpy as jnp
import numpy as np

from jaxcal import predictions as predictions_lib
from jaxcal.cli import experiment
from jaxcal.cli import held_out
from jaxcal.cli import pooled
from jaxcal.cli import posteriors
from jaxcal.cli import reporting
from jaxcal.cli import shared_flags
from jaxcal.clip import towers
from jaxcal.data import image_set as image_sets
from jaxcal.posterior import files
from jaxcal.posterior import finetuning
from jaxcal.posterior import model as models
from jaxcal.posterior import online
from jaxcal.posterior import predictive
from jaxcal.posterior import selection
from jaxcal.report import figures
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
_POOL = flags.DEFINE_list(
    "pool", None, "image sets whose images may be labelled, with the class "
    "names of the target; the target itself if absent")
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


class _Data(NamedTuple):
  """An image set, and those beside it that share none of its images."""

  target: image_sets.ImageSet
  pools: Sequence[image_sets.ImageSet]
  validation: image_sets.ImageSet | None


_SCORES = {"accuracy": "accuracy %", "ece": "ECE %", "nll": "NLL"}


def help_text() -> str:
  """What `jaxcal posterior select --help` prints."""
  return "\n".join([
      "Targets are the images of config.data.name, whose labels are used to "
      "judge only;", "config.temperature.split of the same set picks the epoch "
      "of tuning. Writes", "results.jsonl, results.md, learning-SET.svg, "
      "selected-SET.json (ids in the order", "of choosing) and the answers "
      "after tuning. An interrupted run goes on where it", "stopped.", "",
      "Example:", f"  {EXAMPLE}", "", experiment.DATA_HELP, "",
      "Flags:", *shared_flags.flag_help(
          *_FLAGS, "config", "output", "overwrite", "compilation_cache",
          "debug"), "",
      "Fields of the config, with their defaults:", *experiment.field_help()])


def main() -> None:
  """Runs the selection that the flags describe."""
  config = experiment.checked_config()
  experiment.refuse_processes()
  budgets = _checked_flags()
  if config.posterior.folder is None:
    raise ValueError("config.posterior.folder is None: name a posterior of "
                     "`jaxcal posterior fit`")
  every = [_data(config, name, target, budgets[-1])
           for name, target in zip(
               config.data.name, experiment.load_sets(config.data).values())]
  model = experiment.load_model(config.model)
  chosen = posteriors.load(config.posterior, model)
  about = experiment.describe(config, model, chosen) | {
      f"flags.{name}": flags.FLAGS[name].value for name in _FLAGS
      if name not in ("strategies", "budgets", "seeds")}
  output = experiment.output_folder(about)
  rows = []
  for data in every:
    name = data.target.name
    folder = output / "answers" / name
    _fill(config, model, chosen, data, budgets, about, folder)
    rows += _rows(folder, name, budgets, experiment.conventions(config.metrics))
    _write_selected(output, name, folder, budgets)
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
      raise ValueError(f"unknown strategy {name!r}; choose from: "
                       f"{', '.join(selection.STRATEGIES)}.")
  if not strategies or len(set(strategies)) < len(strategies):
    raise ValueError(f"--strategies are {strategies}, expected one at least "
                     "and none twice")
  if _POOL.value is not None and not all(_POOL.value or [""]):
    raise ValueError("--pool names no image set; leave it out to take another "
                     "split of the target")
  if not _LEARNING_RATE.value >= 0:
    raise ValueError(f"--learning_rate is {_LEARNING_RATE.value}, expected at "
                     "least 0")
  for name, least in (("seeds", 1), ("samples", 2), ("epochs", 1),
                      ("pool_limit", 0)):
    if flags.FLAGS[name].value < least:
      raise ValueError(f"--{name} is {flags.FLAGS[name].value}, expected at "
                       f"least {least}")
  return budgets


def _data(config, name, target, budget):
  """What belongs to a target; refuses a pool that is too small."""
  pools = held_out.load(
      config, target, _POOL.value or [name], split=_POOL_SPLIT.value,
      limit=_POOL_LIMIT.value)
  available = sum(len(pool.ids) for pool in pools)
  if budget > available:
    raise ValueError(f"--budgets reach {budget}, but the pool of {target.name} "
                     f"has {available} images")
  if config.temperature.split is None:
    return _Data(target, pools, None)
  validation, = held_out.load(
      config, target, [name], split=config.temperature.split,
      limit=config.temperature.limit)
  return _Data(target, pools, validation)


def _fill(config, model, chosen, data, budgets, about, folder):
  """Answers of every strategy, seed and budget, and of the model before."""
  cells = [(strategy, seed, budget) for strategy in _STRATEGIES.value
           for seed in range(_SEEDS.value) for budget in budgets]
  done = [cell for cell in cells
          if predictions_lib.exists(folder / _name(*cell))]
  if len(done) == len(cells) and predictions_lib.exists(folder / "before"):
    return
  problem, validation = _problem(config, model, chosen, data,
                                 folder / "features")
  images, ids = data.target, [i for pool in data.pools for i in pool.ids]

  def save(name, cosines, **more):
    logits = predictive.probit_logits(cosines)
    predictions_lib.save(predictions_lib.Predictions(
        np.asarray(logits, np.float32), images.labels, images.ids,
        images.class_names, {},
        about | {"data": images.name, "method": name, **more}), folder / name)

  save("before", models.cosines(problem.model, problem.targets))
  with experiment.progress(f"{images.name}: choices", len(cells),
                           "choice") as bar:
    bar.update(len(done))
    for strategy in _STRATEGIES.value:
      for cell, point in finetuning.learning_curve(
          problem, problem.targets, validation, strategies=(strategy,),
          budgets=budgets, seeds=range(_SEEDS.value), done=done,
          schedule=finetuning.Schedule(
              learning_rate=_LEARNING_RATE.value, num_epochs=_EPOCHS.value)):
        save(_name(*cell), point.cosines, epoch=int(point.tuned.epoch),
             selected=[ids[row] for row in point.rows])
        bar.update(1)


def _name(strategy, seed, budget):
  return f"{strategy}-{budget}-{seed}"


def _problem(config, model, chosen, data, folder):
  """Pool, targets and model; and the validation images, if any."""
  target = pooled.task(config, model, data.target, folder / "target")
  tasks = [pooled.task(config, model, one, folder / f"pool-{one.name}")
           for one in data.pools]
  validation = None
  if data.validation is not None:
    task = pooled.task(config, model, data.validation, folder / "validation")
    validation = models.Labelled(task.images, jnp.asarray(task.labels))
  joined = tasks[0].images
  for task in tasks[1:]:
    joined = models.join(joined, task.images)
  found = files.read(config.posterior.folder)
  learner = online.Learner(
      found.factors["image"], chosen.about["pseudo_count"],
      chosen.about["prior_precision"]["image"])
  problem = selection.Problem(
      _model(model, chosen, target.texts), joined, target.images,
      labels=np.concatenate([task.labels for task in tasks]),
      learner=learner, metric=_METRIC.value, num_samples=_SAMPLES.value)
  return problem, validation


def _model(model, chosen, texts):
  """The model from its last projections on."""
  maps = posteriors.projections(model)
  texts = jnp.asarray(texts)
  return models.Model(
      weights=models.with_bias(*maps["image"]), text_activations=texts,
      text_embeddings=towers.project(texts, maps["text"]),
      posterior=chosen.posterior,
      logit_scale=jnp.exp(model.params["logit_scale"]),
      logit_bias=model.params.get("logit_bias"))


def _rows(folder, data, budgets, conventions):
  """Mean, lowest and highest score over seeds, by strategy and budget."""
  scores = lambda name: summary.estimate(
      predictions_lib.load(folder / name), conventions)
  before = scores("before")
  rows = [{"data": data, "strategy": "before", "budget": 0, "seeds": 1,
           **_spread([before])}]
  for strategy in _STRATEGIES.value:
    for budget in budgets:
      seeds = [scores(_name(strategy, seed, budget))
               for seed in range(_SEEDS.value)]
      rows.append({"data": data, "strategy": strategy, "budget": budget,
                   "seeds": len(seeds), **_spread(seeds)})
  return rows


def _spread(rows):
  found = {}
  for name in rows[0]:
    values = [row[name] for row in rows]
    found |= {name: float(np.mean(values)), f"{name}_low": min(values),
              f"{name}_high": max(values)}
  return found


def _write_selected(output, data, folder, budgets):
  """Ids of the images to label, in the order of choosing."""
  chosen = {}
  for strategy in _STRATEGIES.value:
    for seed in range(_SEEDS.value):
      path = folder / _name(strategy, seed, budgets[-1])
      settings = predictions_lib.load(path).settings
      chosen.setdefault(strategy, []).append(settings["selected"])
  atomic.write_whole(output / f"selected-{data}.json",
                              json.dumps(chosen, indent=1).encode())


def _write_report(output: pathlib.Path, rows):
  """results.jsonl, a figure per set and a printed table."""
  reporting.write_rows(output / "results.jsonl", rows)
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
        "selected-*.json, answers/")
