"""`jaxcal tune`: a few labelled images in; parameters and predictions out."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import itertools
import pathlib
from typing import Any

from jaxcal import config as config_lib
from jaxcal import config_inputs
from jaxcal import config_record
from jaxcal import config_tuning
from jaxcal import progress
from jaxcal import sharding
from jaxcal.cli import experiment
from jaxcal.clip import checkpoint as models
from jaxcal.data import image_set as image_sets
from jaxcal.features import pooled
from jaxcal.report import few_shot
from jaxcal.report import saved_runs
from jaxcal.tuning import checkpoint
from jaxcal.tuning import fit
from jaxcal.tuning import methods
from jaxcal.tuning import outliers as outliers_lib
from jaxcal.tuning import saved
from jaxcal.tuning import task as task_lib
from jaxcal.tuning import units
from jaxcal.tuning import vocabulary

EXAMPLE = "jaxcal tune --config=dor_base_to_new"
_ABOUT = """\
Draws the shots as published, trains every method with all seeds at once, and
predicts the test images of base and of new classes, each among the classes of
its half. Writes tuned/SET/METHOD/seed-N (.safetensors and .json), which
`jaxcal evaluate` takes up, predictions/, results.jsonl, results.md,
report.html, diagram-SET.svg and losses-SET.svg. An interrupted run goes on
where it stopped, and a finished one grows by methods, image sets and seeds.
Several processes take image sets and methods in turns; seeds, too, with
--config.tune.seeds_at_once=1."""

FLAGS = experiment.SHARED_FLAGS
FIELDS = config_lib.field_names(
    "model", "data", "views", "tune", "metrics", "batch_size", "num_threads",
    "memory_gb",
    without=("data.out_of_distribution", "data.family", "views.number"))
help_text = functools.partial(
    experiment.help_text, _ABOUT, EXAMPLE, FLAGS, FIELDS,
    f"Methods: {', '.join(methods.METHODS)}\n(zero_shot is always there)\n")

_Config = config_lib.ExperimentConfig


def main() -> None:
  """Runs the tuning that the flags describe."""
  config = experiment.checked_config()
  specs = config_tuning.specs(config)
  config_inputs.refuse_store(config.data, "tuning")
  config_inputs.refuse_corruption(config.data, "tuning")
  experiment.join_processes()
  images = _outlier_images(config, specs)
  tasks = [_task(config, name) for name in config.data.name]
  model = config_inputs.load_model(config.model)
  settings = [config_tuning.setting(config, model, spec) for spec in specs]
  for task, setting in itertools.product(tasks, settings):
    fit.check_memory(model, task, setting, config_inputs.budget(config))
  about = config_record.describe(config, model) | saved_runs.left_out({
      place: reasons for task in tasks
      for place, reasons in task.left_out.items()})
  output = experiment.output_path(about)
  experiment.take(output)
  outliers = _outliers(config, model, tasks, specs, images, output)
  # What lies there is looked at before anything is trained.
  for task, setting in itertools.product(tasks, settings):
    fit.look(model, task, setting, _folder(output, task, setting.spec),
             outliers=outliers[task.name].of(setting.spec))
  experiment.write_settings(output, about)
  work = units.of(
      tasks, settings, seeds_at_once=config.tune.seeds_at_once)
  with progress.of_stages() as report:
    units.share_features(
        model, work, output / "features", outliers,
        max_bytes=config_inputs.budget(config),
        batch_size=config.clean_batch_size, num_threads=config.num_threads,
        progress=report)
  for unit in units.claimed(work, output):
    _do(config, model, unit, outliers[unit.task.name], output, about)
  if sharding.is_first():
    text = few_shot.write(
        output, few_shot.of_tuning(tasks, specs, {
            name: found.shared for name, found in outliers.items()}),
        experiment.conventions(config.metrics))
    print(f"{text}\n\nWritten to {output}: results.md, report.html, "
          "results.jsonl, differences.jsonl, diagram-*.svg, losses-*.svg, "
          "tuned/, predictions/")
  sharding.barrier("done")


def _task(config: _Config, name: str) -> task_lib.Task:
  """The shots of all seeds and the test images of a data set."""
  tune = config.tune
  test = dataclasses.replace(config.data, name=(name,))
  train = dataclasses.replace(test, split="train", limit=0, skip=0)
  if tune.train is not None:
    train = dataclasses.replace(test, name=(tune.train,), limit=0, skip=0)
  splits = [images for data in (train, test)
            for images in experiment.load_sets(data).values()]
  try:
    return task_lib.of_splits(
        *splits, classes=tune.classes, num_shots=tune.num_shots,
        num_seeds=tune.num_seeds, template=config_tuning.template(config, name),
        allow_fewer=tune.allow_fewer)
  except ValueError as error:
    raise ValueError(f"{str(error).removesuffix('.')}; shots come from the "
                     "split 'train', or from --config.tune.train=...") from (
                         error)


def _outlier_images(
    config: _Config, specs: Sequence[methods.Spec]
) -> image_sets.ImageSet | None:
  """Images of other things, where a method draws from them."""
  name = config.tune.outlier_images
  if name is None or "images" not in {spec.outliers for spec in specs}:
    return None
  found, = experiment.load_sets(dataclasses.replace(
      config.data, name=(name,))).values()
  return found


def _outliers(
    config: _Config, model: models.Model, tasks: Sequence[task_lib.Task],
    specs: Sequence[methods.Spec], images: image_sets.ImageSet | None,
    output: pathlib.Path
) -> dict[str, vocabulary.Candidates]:
  """What methods draw from, by data set."""
  if "names" not in {spec.outliers for spec in specs}:
    return {task.name: vocabulary.Candidates(images=images) for task in tasks}
  with progress.reported("outlier words", "word") as report:
    known = vocabulary.encode(
        model, outliers_lib.of_source(config.tune.outliers, model.tokenizer),
        num_context=max(spec.num_context for spec in specs),
        folder=output / "features" / "outlier-words", together=True,
        on_words=report)
  return vocabulary.candidates(
      known, model, tasks, images=images, num_kept=config.tune.num_outliers,
      exclude_new=config.tune.exclude_new)


def _do(
    config: _Config, model: models.Model, unit: units.Unit,
    outliers: vocabulary.Candidates, output: pathlib.Path,
    about: Mapping[str, Any]
) -> None:
  """Trains and predicts; for the zero-shot model there is nothing to train."""
  task, setting, seeds = unit
  tuned: Mapping[int, checkpoint.Tuned | None] = {1: None}
  if setting is not None:
    about = {**about, **outliers.about(setting.spec)}
    tuned = dict(zip(seeds, _tuned(
        config, model, task, setting, seeds, outliers, output,
        {**about, "data": task.name, "method": setting.spec.name})))
  _predict(config, model, task, tuned, output, about)


def _tuned(
    config: _Config, model: models.Model, task: task_lib.Task,
    setting: fit.Setting, seeds: Sequence[int],
    outliers: vocabulary.Candidates, output: pathlib.Path,
    about: Mapping[str, Any]
) -> list[checkpoint.Tuned]:
  """The seeds of a method: what an earlier run saved, or trained now."""
  label = f"{task.name}: {setting.spec.name}"
  with (progress.reported(f"{task.name}: training images") as on_image,
        progress.reported(label, "epoch") as on_epoch):
    return fit.fit(
        model, task, setting, _folder(output, task, setting.spec),
        outliers=outliers.of(setting.spec), about=about, seeds=seeds,
        features=units.features_of(output / "features", task),
        seeds_at_once=config.tune.seeds_at_once,
        max_bytes=config_inputs.budget(config),
        batch_size=config.clean_batch_size, num_threads=config.num_threads,
        on_image=on_image, on_epoch=on_epoch)


def _predict(
    config: _Config, model: models.Model, task: task_lib.Task,
    seeds: Mapping[int, checkpoint.Tuned | None], output: pathlib.Path,
    about: Mapping[str, Any]
) -> None:
  """Predictions of every seed for the test images; of zero-shot where None."""
  for half, images in task.tests.items():
    place = f"{task.name}/{half}"
    asked = saved.asked_of_half(output, task, half, seeds, {
        **experiment.identity_of_images(config, images, output, place),
        **pooled.identity_of_towers(model)}, about)
    with progress.reported(f"{task.name}: {half}") as report:
      saved.save(
          model, images, asked, template=task.template, with_fd_score=True,
          features=units.features_of(output / "features", task, half),
          max_bytes=config_inputs.budget(config),
          batch_size=config.clean_batch_size, num_threads=config.num_threads,
          progress=report)


def _folder(
    output: pathlib.Path, task: task_lib.Task, spec: methods.Spec
) -> pathlib.Path:
  return output / "tuned" / task.name / spec.name
