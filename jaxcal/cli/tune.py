"""`jaxcal tune`: a few labelled images in; parameters and predictions out."""

from collections.abc import Mapping, Sequence
import math
import os
import pathlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxcal import predictions as predictions_lib
from jaxcal.adapt import base
from jaxcal.cli import config_files
from jaxcal.cli import experiment
from jaxcal.cli import identities
from jaxcal.cli import progress
from jaxcal.cli import tune_report
from jaxcal.clip import checkpoint as models
from jaxcal.clip import towers
from jaxcal.data import catalogue
from jaxcal.data import image_set as image_sets
from jaxcal.features import pooled
from jaxcal.tuning import checkpoint
from jaxcal.tuning import classes
from jaxcal.tuning import fit
from jaxcal.tuning import images as images_lib
from jaxcal.tuning import methods
from jaxcal.tuning import outliers as outliers_lib
from jaxcal.tuning import predict
from jaxcal.tuning import presets
from jaxcal.tuning import protocol
from jaxcal.tuning import task as task_lib
from jaxcal.tuning import vocabulary

EXAMPLE = "jaxcal tune --config=dor_base_to_new"

FLAGS = experiment.FLAGS_OF_ONE_PROCESS
FIELDS = config_files.fields(
    "model", "data", "views", "tune", "metrics", "batch_size", "num_threads",
    "memory_gb", without=("data.out_of_distribution", "views.number"))


class _Outliers(NamedTuple):
  """Outliers of a data set.

  Attributes:
    words: Words to draw from; None where no method does.
    shared: Names of new classes among them.
    images: Images of other things; None where no method draws from any.
  """

  words: list[str] | None
  shared: tuple[str, ...] | None
  images: image_sets.ImageSet | None

  def of(self, spec: methods.Spec) -> fit.Outliers:
    """What a method draws from."""
    return {"names": self.words, "images": self.images, None: None}[
        spec.outliers]


def help_text() -> str:
  """What `jaxcal tune --help` prints."""
  return "\n".join([
      "Draws the shots as published, trains every method with all seeds at "
      "once, and", "predicts the test images of base and of new classes, each "
      "among the classes of", "its half. Writes tuned/SET/METHOD/seed-N "
      "(.safetensors and .json), which `jaxcal", "evaluate` takes up, "
      "predictions/, results.jsonl, results.md, diagram-SET.svg and",
      "losses-SET.svg. An interrupted run goes on where it stopped, and a "
      "finished one", "grows by methods, image sets and seeds.", "",
      "Example:", f"  {EXAMPLE}", "",
      "Methods: " + ", ".join(methods.METHODS) + ";\n  each also as METHOD+" +
      ", METHOD+".join(methods.ADDITIONS) + " (zero_shot is always there)", "",
      experiment.DATA_HELP, "",
      *experiment.help_lines(FLAGS, FIELDS)])


def main() -> None:
  """Runs the tuning that the flags describe."""
  config = experiment.checked_config()
  _check(config)
  tasks = [_task(config, name) for name in config.data.name]
  model = experiment.load_model(config.model)
  settings = {name: _setting(config, model, name) for name in config.tune.name}
  for task in tasks:
    for setting in settings.values():
      fit.check_memory(model, task, setting, experiment.max_bytes(config))
  about = experiment.describe(config, model)
  output = experiment.output_folder(about)
  outliers = _outliers(config, model, tasks, settings, output)
  # What lies there is looked at before anything is trained.
  for task in tasks:
    for name, setting in settings.items():
      fit.look(model, task, setting, _folder(output, task, name),
               outliers=outliers[task.name].of(setting.spec))
  experiment.write_settings(output, about)
  for task in tasks:
    _predict_zero_shot(config, model, task, output, about)
    for name, setting in settings.items():
      own = about | {"data": task.name, "method": name}
      if setting.spec.outliers == "names":
        own["outliers"] = {
            "number": len(outliers[task.name].words),
            "names_of_new_classes": outliers[task.name].shared}
      seeds = _tuned(config, model, task, setting, outliers[task.name], output,
                     own)
      _predict(config, model, task, seeds, output, own)
  tune_report.write(config, output, tasks, {
      name: found.shared for name, found in outliers.items()})


def template(config, data: str) -> str:
  """The prompt of an image set in few-shot tuning, for what is not tuned."""
  if config.tune.template is not None:
    return config.tune.template
  # Not of a folder that is called like one.
  if data in catalogue.CATALOGUE and data in config.data.name:
    return catalogue.CATALOGUE[data].few_shot_template
  return config.data.template


def _check(config):
  """Refuses what can be refused before anything is loaded."""
  if config.data.classes != "all":
    raise ValueError("--config.data.classes is of `jaxcal evaluate`; which "
                     "classes are tuned on is --config.tune.classes")
  if config.data.store is not None:
    raise ValueError("tuning needs images, which a store does not have; leave "
                     "out --config.data.store")
  if len(set(config.tune.name)) != len(config.tune.name):
    raise ValueError(f"--config.tune.name has a method twice: "
                     f"{', '.join(config.tune.name)}")
  _templates(config)
  for name in config.tune.name:
    spec = _spec(config, name)
    if spec.kind.own_classes and config.tune.classes == "base":
      raise ValueError(
          f"the parameters of {name} belong to the classes of its training, so "
          "that it predicts no new ones; use it with "
          "--config.tune.classes=all")
    if spec.outliers == "images":
      if config.tune.outlier_images is None:
        raise ValueError(f"{name} is regularised on images: name a set of "
                         "other things with --config.tune.outlier_images=...")
      _outlier_images(config)  # whether there are any
    if spec.outliers == "names":
      _outlier_words(config, model=None)  # whether there are any


def _task(config, name) -> task_lib.Task:
  """The shots of all seeds and the test images of a data set."""
  load = lambda **changes: next(iter(experiment.load_sets(
      experiment.with_data(
          config, **{"name": (name,), **changes})).values()))
  train = (load(split="train", limit=0) if config.tune.train is None else
           load(name=(config.tune.train,), limit=0))
  try:
    return task_lib.of_splits(
        train, load(), classes=config.tune.classes,
        num_shots=config.tune.num_shots, num_seeds=config.tune.num_seeds,
        template=template(config, name), allow_fewer=config.tune.allow_fewer)
  except ValueError as error:
    raise ValueError(f"{str(error).removesuffix('.')}; shots come from the "
                     "split 'train', or from --config.tune.train=...") from (
                         error)


def _spec(config, name) -> methods.Spec:
  tune = config.tune
  return presets.spec(
      name, tune.preset, num_context=tune.num_context,
      class_position=tune.class_position, outlier_weight=tune.outlier_weight,
      cache_weight=tune.cache_weight, cache_sharpness=tune.cache_sharpness)


def _setting(config, model, name) -> fit.Setting:
  """The method, its recipe and what it sees, as the config has them."""
  tune, spec = config.tune, _spec(config, name)
  recipe = presets.recipe(spec.base_method, tune.preset)
  recipe = recipe._replace(num_context=spec.num_context, **{
      key: value for key in ("num_epochs", "learning_rate", "batch_size")
      if (value := getattr(tune, key)) is not None and recipe.num_epochs})
  views = None
  if tune.num_views:
    views = experiment.recipe(config.views, model, number=tune.num_views + 1)
  templates = _templates(config) if spec.base_method == "promptsrc" else ()
  return fit.Setting(
      spec, recipe, tune.draw, templates, views, config.views.seed)


def _templates(config) -> tuple[str, ...]:
  """The lines of config.tune.templates, each a template; none without it."""
  if config.tune.templates is None:
    return ()
  path = pathlib.Path(config.tune.templates)
  lines = path.read_text(encoding="utf-8").splitlines()
  broken = [line for line in lines if line.count("{}") != 1]
  if broken or not lines:
    raise ValueError(f"{path} must have one template per line, each with "
                     f"exactly one {{}}, but has {broken[:1] or 'no lines'}")
  return tuple(lines)


def _outlier_images(config) -> image_sets.ImageSet:
  found, = experiment.load_sets(experiment.with_data(
      config, name=(config.tune.outlier_images,))).values()
  return found


def _outlier_words(config, model) -> Sequence[str] | None:
  """The words to choose from; None without a model where they need it."""
  source, _, folder = config.tune.outliers.partition(":")
  if source == "wordnet":
    return outliers_lib.from_wordnet(
        os.path.expanduser(folder) or outliers_lib.WORDNET)
  if source == "tokenizer":
    return model and outliers_lib.from_tokenizer(model.tokenizer)
  return outliers_lib.from_file(config.tune.outliers)


def _outliers(
    config, model, tasks, settings, output) -> dict[str, _Outliers]:
  """What methods draw from, by data set."""
  kinds = {setting.spec.outliers for setting in settings.values()}
  images = _outlier_images(config) if "images" in kinds else None
  if "names" not in kinds:
    return {task.name: _Outliers(None, None, images) for task in tasks}
  with progress.reported("outlier words", "word") as report:
    known = vocabulary.encode(
        model, _outlier_words(config, model), num_context=max(
            setting.spec.num_context for setting in settings.values()),
        folder=output / "features" / "outlier-words", on_words=report)
  found = {}
  for task in tasks:
    words = vocabulary.nearest(
        known, model, task, num_kept=config.tune.num_outliers,
        exclude_new=config.tune.exclude_new)
    new = task.tests["new"].class_names if "new" in task.tests else ()
    found[task.name] = _Outliers(
        words, outliers_lib.overlap(words, new), images)
  return found


def _tuned(config, model, task, setting, outliers, output,
           about) -> list[checkpoint.Tuned]:
  """The seeds of a method: what an earlier run saved, or trained now."""
  label = f"{task.name}: {setting.spec.name}"
  with (progress.reported(f"{task.name}: training images") as on_image,
        progress.reported(label, "epoch") as report):

    def on_epoch(done, total, loss):
      report(done, total, "" if math.isnan(loss) else f"loss={loss:.3f}")

    return fit.fit(
        model, task, setting, _folder(output, task, setting.spec.name),
        outliers=outliers.of(setting.spec), about=about,
        features=output / "features" / task.name,
        seeds_at_once=config.tune.seeds_at_once,
        max_bytes=experiment.max_bytes(config),
        batch_size=experiment.clean_batch_size(config),
        num_threads=config.num_threads, on_image=on_image, on_epoch=on_epoch)


def _predict_zero_shot(config, model, task, output, about):
  """Predictions with the data set's own template, without tuning."""
  name = tune_report.ZERO_SHOT
  for half, images in task.tests.items():
    path = tune_report.path_of(output, task, name, half, 1)
    identity = _identity(config, model, images, output, task, half) | {
        "method": name}
    if identities.is_there(path, identity):
      continue
    text = towers.normalise(classes.template_embeddings(
        model, images.class_names, task.template,
        max_bytes=experiment.max_bytes(config)))
    with progress.reported(f"{task.name}: {half}") as report:
      features = images_lib.features(
          model, images, folder=_features(output, task, half),
          batch_size=experiment.clean_batch_size(config),
          num_threads=config.num_threads, progress=report).features
    zero_shot = base.Task(text, jnp.exp(model.params["logit_scale"]))
    _save(path, images, base.logits(zero_shot, features), about | {
        "data": task.name, "method": name, "identity": identity,
        "fd_score": float(protocol.fd_score(text))})


def _predict(config, model, task, seeds: Sequence[checkpoint.Tuned],
             output: pathlib.Path, about: Mapping[str, Any]) -> None:
  """Predictions of every seed for the test images."""
  name = seeds[0].spec.name
  for half, images in task.tests.items():
    common = _identity(config, model, images, output, task, half)
    asked = {}
    for seed, one in zip(task.seeds, seeds):
      path = tune_report.path_of(output, task, name, half, seed)
      identity = common | {"method": name, "tuned": checkpoint.digest(one)}
      if not identities.is_there(path, identity):
        asked[path] = one, identity
    if not asked:
      continue
    with progress.reported(f"{task.name}: {half}") as report:
      found = predict.logits(
          model, images, [one for one, _ in asked.values()],
          template=task.template, features=_features(output, task, half),
          max_bytes=experiment.max_bytes(config),
          batch_size=experiment.clean_batch_size(config),
          num_threads=config.num_threads, progress=report)
    for (path, (one, identity)), logits in zip(asked.items(), found):
      _save(path, images, logits, about | {
          "identity": identity, "fd_score": predict.divergence(
              model, images.class_names, one, template=task.template,
              max_bytes=experiment.max_bytes(config))})


def _identity(config, model: models.Model, images, output, task, half):
  """What predictions are of, apart from the method."""
  return {
      **identities.of_images(config, images, output, f"{task.name}/{half}"),
      **pooled.identity_of_towers(model), "prompt.template": task.template}


def _folder(output, task, name):
  return output / "tuned" / task.name / name


def _features(output, task, half):
  return output / "features" / task.name / half


def _save(path, images, logits, about):
  predictions_lib.save(predictions_lib.Predictions(
      np.asarray(logits, np.float32), images.labels, images.ids,
      images.class_names, {}, about), path)
