"""`jaxcal posterior select`: which images to label, and what that brings."""

import functools
import math
import pathlib
from typing import Any

from absl import flags

from jaxcal import config as config_lib
from jaxcal import config_inputs
from jaxcal import config_record
from jaxcal import progress as bars
from jaxcal.cli import experiment
from jaxcal.cli import shared_flags
from jaxcal.data import image_set as image_sets
from jaxcal.posterior import finetuning
from jaxcal.posterior import head
from jaxcal.posterior import select
from jaxcal.posterior import selection
from jaxcal.report import posterior as report
from jaxcal.report import saved_runs

EXAMPLE = ("jaxcal posterior select --config=bayesvlm "
           "--config.data.name=shades --config.data.limit=500")
_ABOUT = """\
Targets are the images of --config.data.name, whose labels are used to judge
only; --config.temperature.split of the same set picks the epoch of tuning.
Writes results.jsonl, results.md, report.html, learning-SET.svg,
selected-SET.json (ids in the order of choosing) and the predictions after
tuning. An interrupted run goes on where it stopped; strategies, budgets,
seeds and image sets may be added to it."""

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
FLAGS = (*_FLAGS, *experiment.FLAGS_OF_ONE_PROCESS)
FIELDS = config_lib.field_names(
    "model", "data", "posterior.folder", "posterior.pseudo_count",
    "temperature", "metrics", "batch_size", "num_threads", "memory_gb",
    without=("data.out_of_distribution", "data.classes", "data.family"))
help_text = functools.partial(
    experiment.help_text, _ABOUT, EXAMPLE, FLAGS, FIELDS)

_Config = config_lib.ExperimentConfig


def main() -> None:
  """Runs the selection that the flags describe."""
  config = experiment.checked_config()
  budgets, folder = _checked_flags(), config.posterior.folder
  if folder is None:
    raise ValueError("--config.posterior.folder is None: name a posterior of "
                     "`jaxcal posterior fit`")
  config_inputs.refuse_corruption(config.data, "selection")
  targets = experiment.load_sets(config.data)
  pools = {data: _pools(config, name, targets[data], budgets[-1])
           for name, data in zip(config.data.name, targets)}
  validation = experiment.load_validation(config, targets)
  model = config_inputs.load_model(config.model)
  chosen = head.load(folder, model, pseudo_count=config.posterior.pseudo_count)
  factors = head.factors(folder, chosen.about)
  schedule = finetuning.Schedule(
      learning_rate=_LEARNING_RATE.value, num_epochs=_EPOCHS.value)
  studies = [select.Study(
      model, chosen, factors, target, pools[data], validation.get(data),
      template=config.data.template, metric=_METRIC.value,
      num_samples=_SAMPLES.value, schedule=schedule)
             for data, target in targets.items()]
  about = config_record.describe(config, model, chosen) | {
      f"flags.{name}": flags.FLAGS[name].value for name in _FLAGS
      if name not in ("strategies", "budgets", "seeds", "pool")} | {
          "flags.pool": _pool() or None} | saved_runs.left_out(
              {place: reasons for study in studies
               for place, reasons in study.left_out.items()})
  output = experiment.output_path(about)
  experiment.take(output)
  asked: dict[str, Any] = dict(
      strategies=_STRATEGIES.value, budgets=budgets, seeds=range(_SEEDS.value))
  # What lies there is looked at before anything is computed.
  for study in studies:
    with bars.of_stages(name=f"{study.target.name}: ") as progress:
      select.look(study, _folder(output, study), select.cells(**asked),
                  num_threads=config.num_threads, progress=progress)
  experiment.write_settings(output, about)
  found = {}
  for study in studies:
    name = study.target.name
    with bars.of_stages({"choices": "choice"}, name=f"{name}: ") as progress:
      found[name] = select.select(
          study, _folder(output, study), **asked, about=about,
          max_bytes=config_inputs.image_tower_bytes(config),
          batch_size=config.clean_batch_size, num_threads=config.num_threads,
          progress=progress)
  print(report.write_selection(
      output, found, **asked,
      conventions=experiment.conventions(config.metrics),
      about=saved_runs.about(output)))


def _checked_flags() -> list[int]:
  """The budgets; refuses flags that are out of range."""
  budgets = sorted(set(shared_flags.numbers(_BUDGETS, int)))
  if not budgets or budgets[0] < 1:
    raise ValueError(f"--budgets are {budgets}, expected numbers of at least 1")
  strategies = _STRATEGIES.value
  if not strategies or len(set(strategies)) < len(strategies):
    raise ValueError(f"--strategies are {strategies}, expected one at least "
                     "and none twice")
  if _POOL.value is not None and not all(_pool() or [""]):
    raise ValueError("--pool names no image set; leave it out to take another "
                     "split of the target")
  if not 0 <= _LEARNING_RATE.value < math.inf:
    raise ValueError(f"--learning_rate is {_LEARNING_RATE.value}, expected a "
                     "finite number of at least 0")
  shared_flags.check_at_least(1, _SEEDS, _EPOCHS)
  shared_flags.check_at_least(2, _SAMPLES)
  shared_flags.check_at_least(0, _POOL_LIMIT)
  select.cells(strategies, budgets, range(_SEEDS.value))  # all are known
  return budgets


def _pool() -> list[str]:
  """The image sets of --pool, none if it is absent."""
  return config_lib.names_of(_POOL.value or [], are_paths=True)


def _pools(
    config: _Config, name: str, target: image_sets.ImageSet, budget: int
) -> list[image_sets.ImageSet]:
  """What may be labelled for a target; refuses too few images."""
  pools = experiment.load_apart(
      config.data, target, _pool() or [name], split=_POOL_SPLIT.value,
      limit=_POOL_LIMIT.value)
  available = sum(len(pool.ids) for pool in pools)
  if budget > available:
    raise ValueError(f"--budgets reach {budget}, but the pool of {target.name} "
                     f"has {available} images")
  return pools


def _folder(output: pathlib.Path, study: select.Study) -> pathlib.Path:
  return output / "predictions" / study.target.name
