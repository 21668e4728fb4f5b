"""`jaxcal tune`: a few labelled images in; prompts, and answers, out."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxcal import predictions as predictions_lib
from jaxcal.adapt import base
from jaxcal.cli import experiment
from jaxcal.cli import shared_flags
from jaxcal.cli import shots
from jaxcal.cli import tune_report
from jaxcal.cli import tune_training
from jaxcal.cli import tuned
from jaxcal.clip import towers
from jaxcal.tuning import classes
from jaxcal.tuning import methods
from jaxcal.tuning import outliers as outliers_lib
from jaxcal.tuning import presets
from jaxcal.tuning import promptsrc
from jaxcal.tuning import protocol
from jaxcal.tuning import training

EXAMPLE = "jaxcal tune --config=dor_base_to_new"


class _Words(NamedTuple):
  """Outlier names of a data set, and how many are those of new classes."""

  words: list[str]
  shared: tuple[str, ...]


def help_text() -> str:
  """What `jaxcal tune --help` prints."""
  return "\n".join([
      "Draws the shots as published, trains every method with all seeds at "
      "once, and", "answers for the test images of base and of new classes, "
      "each among the classes", "of its half. Writes tuned/SET/METHOD/seed-N "
      "(.safetensors and .json), which", "`jaxcal evaluate` takes up, "
      "predictions/, results.jsonl, results.md,", "diagram-SET.svg and "
      "losses-SET.svg. An interrupted run goes on where it stopped.", "",
      "Example:", f"  {EXAMPLE}", "",
      "Methods: " + ", ".join(methods.METHODS) + ";\n  each also as METHOD+" +
      ", METHOD+".join(methods.ADDITIONS) + " (zero_shot is always there)", "",
      experiment.DATA_HELP, "",
      "Flags:", *shared_flags.flag_help(*experiment.SHARED_FLAGS), "",
      "Fields of the config, with their defaults:", *experiment.field_help()])


def main() -> None:
  """Runs the tuning that the flags describe."""
  config = experiment.checked_config()
  experiment.refuse_processes()
  _check(config)
  tasks = [shots.task(config, name) for name in config.data.name]
  model = experiment.load_model(config.model)
  if any(_spec(name, config).kind.from_pixels for name in config.tune.name):
    for task in tasks:
      shots.check_pixels(config, model, task.train)
  about = experiment.describe(config, model)
  output = experiment.output_folder(about)
  kept = _outliers(config, model, tasks, output / "features" / "outlier-words")
  for task in tasks:
    _answer_zero_shot(config, model, task, output, about)
    for name in config.tune.name:
      one = about | {"data": task.name, "method": name}
      if _spec(name, config).outliers == "names":
        one["outliers"] = {"number": len(kept[task.name].words),
                           "names_of_new_classes": kept[task.name].shared}
      seeds = _tuned(config, model, task, name, kept[task.name], output, one)
      _answer(config, model, task, seeds, output, one)
  tune_report.write(config, output, tasks, {
      name: found and found.shared for name, found in kept.items()})


def _check(config):
  """Refuses what can be refused before anything is loaded."""
  if config.data.classes != "all":
    raise ValueError("config.data.classes is of `jaxcal evaluate`; which "
                     "classes are tuned on is config.tune.classes")
  if len(set(config.tune.name)) != len(config.tune.name):
    raise ValueError(f"config.tune.name has a method twice: "
                     f"{', '.join(config.tune.name)}")
  if config.tune.templates is not None:
    shots.templates(config.tune.templates)
  for name in config.tune.name:
    spec = _spec(name, config)
    if spec.kind.own_classes and config.tune.classes == "base":
      raise ValueError(
          f"the parameters of {name} belong to the classes of its training, so "
          "that it has no answer for new ones; use it with "
          "--config.tune.classes=all")
    if spec.outliers == "images":
      if config.tune.outlier_images is None:
        raise ValueError(f"{name} holds images in place: name a set of other "
                         "things with --config.tune.outlier_images=...")
      shots.outlier_images(config)  # whether there are any
  if _hold_names(config):
    shots.outlier_words(config.tune, model=None)  # whether there are any


def _hold_names(config):
  return any(_spec(name, config).outliers == "names"
             for name in config.tune.name)


def _spec(name, config) -> methods.Spec:
  tune = config.tune
  methods.check(name)
  host = name.split("+")[0]
  recipe = presets.recipe(host, tune.preset)
  weight = tune.outlier_weight
  count = recipe.num_context
  if count and tune.num_context is not None:
    count = tune.num_context
  return methods.Spec(
      name, count, recipe.from_words, tune.class_position,
      presets.outlier_weight(host) if weight is None else weight,
      tune.cache_weight, tune.cache_sharpness)


def _recipe(spec, config) -> presets.Recipe:
  recipe = presets.recipe(spec.host, config.preset)
  return recipe._replace(num_context=spec.num_context, **{
      key: value for key in ("num_epochs", "learning_rate", "batch_size")
      if (value := getattr(config, key)) is not None and recipe.num_epochs})


def _outliers(config, model, tasks, folder) -> dict[str, _Words | None]:
  """The words that each data set draws from; None where no method does."""
  if not _hold_names(config):
    return {task.name: None for task in tasks}
  words = shots.vocabulary(
      model, shots.outlier_words(config.tune, model),
      max(_spec(name, config).num_context for name in config.tune.name), folder)
  kept = {}
  for task in tasks:
    nearest = shots.nearest_outliers(config.tune, model, task, words)
    new = task.tests["new"].class_names if "new" in task.tests else ()
    kept[task.name] = _Words(nearest, outliers_lib.overlap(nearest, new))
  return kept


def _tuned(config, model, task, name, kept, output, about):
  """The seeds of a method: what an earlier run saved, or trained now."""
  folder = output / "tuned" / task.name / name
  seeds = range(1, config.tune.num_seeds + 1)
  paths = [folder / f"seed-{seed}" for seed in seeds]
  if not all(path.with_suffix(".json").exists() for path in paths):
    at_once = config.tune.seeds_at_once or len(seeds)
    one = _prepare(config, model, task, name, kept, output,
                   max_bytes=int(config.memory_gb * 2**30) // at_once)
    for first in range(0, len(seeds), at_once):
      some = slice(first, first + at_once)
      if not all(path.with_suffix(".json").exists() for path in paths[some]):
        tune_training.train(model, one, seeds[some], folder,
                            f"{task.name}: {name}", about)
  return [tuned.load(path, model) for path in paths]


def _prepare(config, model, task, name, kept, output, *,
             max_bytes) -> tune_training.Training:
  """Features, prompts and outliers for a method."""
  spec = _spec(name, config)
  images = shots.images(
      config, model, task.train, output / "features" / task.name / "train",
      with_pixels=spec.kind.from_pixels)
  num_views = max(1, config.tune.num_views)
  prompts = methods.prompts_of(
      spec, model, task.class_names, template=task.template,
      max_bytes=max_bytes)
  if spec.host == "promptsrc" and config.tune.templates is not None:
    prompts = prompts._replace(target=promptsrc.average_templates(jnp.stack([
        classes.template_embeddings(model, task.class_names, template)
        for template in shots.templates(config.tune.templates)])))
  table = None
  if spec.outliers == "names":
    table = methods.prompts_of(
        spec, model, kept.words, max_bytes=max_bytes, as_table=True)
  elif spec.outliers == "images":
    others = shots.outlier_images(config)
    table = tuned.features(
        config, model, others, output / "features" / "outliers" / others.name)
  return tune_training.Training(
      spec, _recipe(spec, config.tune), task.class_names, prompts,
      training.Data(images, jnp.repeat(
          jnp.asarray(task.train.labels), num_views)),
      task.rows, num_views, table, config.tune.draw)


def _answer_zero_shot(config, model, task, output, about):
  """Answers of the data set's own template, without tuning."""
  for half, images in task.tests.items():
    path = tune_report.path_of(output, task, tune_report.ZERO_SHOT, half, 1)
    if predictions_lib.exists(path):
      continue
    text = towers.normalize(classes.template_embeddings(
        model, images.class_names, task.template,
        max_bytes=int(config.memory_gb * 2**30)))
    features = tuned.features(
        config, model, images, _features_folder(output, task, half)).features
    zero_shot = base.Task(text, jnp.exp(model.params["logit_scale"]))
    _save(path, images, base.logits(zero_shot, features), about | {
        "data": task.name, "method": tune_report.ZERO_SHOT,
        "fd_score": float(protocol.fd_score(text))})


def _answer(config, model, task, seeds: Sequence[tuned.Tuned],
            output: pathlib.Path, about: Mapping[str, Any]) -> None:
  """Answers of every seed for the test images."""
  name = seeds[0].spec.name
  for half, images in task.tests.items():
    paths = [tune_report.path_of(output, task, name, half, number)
             for number in range(1, len(seeds) + 1)]
    if all(map(predictions_lib.exists, paths)):
      continue
    answers = tuned.logits(
        config, model, images, seeds, template=task.template,
        folder=_features_folder(output, task, half))
    for path, one, logits in zip(paths, seeds, answers):
      _save(path, images, logits, about | {"fd_score": tuned.divergence(
          config, model, images, one, template=task.template)})


def _features_folder(output, task, half):
  return output / "features" / task.name / half


def _save(path, images, logits, about):
  predictions_lib.save(predictions_lib.Predictions(
      np.asarray(logits, np.float32), images.labels, images.ids,
      images.class_names, {}, about), path)
