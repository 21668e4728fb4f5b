"""`jaxcal tune`: a few labelled images in; parameters and predictions out."""

from collections.abc import Iterable, Mapping, Sequence
import itertools
import pathlib
from typing import Any, NamedTuple

from jaxcal import config as config_lib
from jaxcal import progress
from jaxcal.cli import config_files
from jaxcal.cli import experiment
from jaxcal.cli import identities
from jaxcal.clip import checkpoint as models
from jaxcal.data import catalogue
from jaxcal.data import image_set as image_sets
from jaxcal.features import pooled
from jaxcal.report import few_shot
from jaxcal.tuning import checkpoint
from jaxcal.tuning import classes
from jaxcal.tuning import fit
from jaxcal.tuning import methods
from jaxcal.tuning import outliers as outliers_lib
from jaxcal.tuning import presets
from jaxcal.tuning import saved
from jaxcal.tuning import task as task_lib
from jaxcal.tuning import vocabulary

EXAMPLE = "jaxcal tune --config=dor_base_to_new"

FLAGS = experiment.FLAGS_OF_ONE_PROCESS
FIELDS = config_files.fields(
    "model", "data", "views", "tune", "metrics", "batch_size", "num_threads",
    "memory_gb", without=("data.out_of_distribution", "views.number"))

_Config = config_lib.ExperimentConfig


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
      "Methods: " + ", ".join(methods.METHODS) + "\n(zero_shot is always "
      "there)", "", experiment.DATA_HELP, "",
      *experiment.help_lines(FLAGS, FIELDS)])


def main() -> None:
  """Runs the tuning that the flags describe."""
  config = experiment.checked_config()
  specs = _specs(config)
  _check(config, specs)
  tasks = [_task(config, name) for name in config.data.name]
  model = experiment.load_model(config.model)
  settings = [_setting(config, model, spec) for spec in specs]
  for task, setting in itertools.product(tasks, settings):
    fit.check_memory(model, task, setting, config.max_bytes)
  about = experiment.describe(config, model)
  output = experiment.output_folder(about)
  outliers = _outliers(config, model, tasks, specs, output)
  # What lies there is looked at before anything is trained.
  for task, setting in itertools.product(tasks, settings):
    fit.look(model, task, setting, _folder(output, task, setting.spec),
             outliers=outliers[task.name].of(setting.spec))
  experiment.write_settings(output, about)
  for task in tasks:
    _predict(config, model, task, [(1, None)], output, about)
    for setting in settings:
      own = about | _about_outliers(setting.spec, outliers[task.name])
      seeds = _tuned(config, model, task, setting, outliers[task.name], output,
                     own | {"data": task.name, "method": setting.spec.name})
      _predict(config, model, task, zip(task.seeds, seeds), output, own)
  text = few_shot.write(
      output, tasks, specs,
      {name: found.shared for name, found in outliers.items()},
      experiment.conventions(config.metrics))
  print(f"{text}\n\nWritten to {output}: results.md, results.jsonl, "
        "differences.jsonl, diagram-*.svg, losses-*.svg, tuned/, predictions/")


def template(config: _Config, data: str) -> str:
  """The prompt of an image set in few-shot tuning, for what is not tuned."""
  if config.tune.template is not None:
    return config.tune.template
  # Not of a folder that is called like one.
  if data in catalogue.CATALOGUE and data in config.data.name:
    return catalogue.CATALOGUE[data].few_shot_template
  return config.data.template


def _specs(config: _Config) -> list[methods.Spec]:
  """Every base method, with and without what the config says to add."""
  tune = config.tune
  if len(set(tune.name)) != len(tune.name):
    raise ValueError("--config.tune.name has a method twice: "
                     f"{', '.join(tune.name)}")
  found = []
  for name, logit_range, dor in itertools.product(
      tune.name, tune.logit_range, tune.dor):
    methods.check(name)
    if dor == "with" and methods.METHODS[name].outliers is None and (
        "without" in tune.dor):
      continue
    added = {logit_range: logit_range != "free", "dor": dor == "with"}
    found.append(presets.spec(
        name, tune.preset,
        additions=[one for one in methods.ADDITIONS if added.get(one)],
        num_context=tune.num_context, class_position=tune.class_position,
        outlier_weight=tune.outlier_weight, cache_weight=tune.cache_weight,
        cache_sharpness=tune.cache_sharpness))
  return found


def _check(config: _Config, specs: Sequence[methods.Spec]) -> None:
  """Refuses what can be refused before anything is loaded."""
  if config.data.classes != "all":
    raise ValueError("--config.data.classes is of `jaxcal evaluate`; which "
                     "classes are tuned on is --config.tune.classes")
  if config.data.store is not None:
    raise ValueError("tuning needs images, which a store does not have; leave "
                     "out --config.data.store")
  _templates(config)
  for spec in specs:
    if spec.kind.own_classes and config.tune.classes == "base":
      raise ValueError(
          f"the parameters of {spec.name} belong to the classes of its "
          "training, so that it predicts no new ones; use it with "
          "--config.tune.classes=all")
    if spec.outliers == "images":
      if config.tune.outlier_images is None:
        raise ValueError(
            f"{spec.name} is regularised on images: name a set of other things "
            "with --config.tune.outlier_images=..., or train it without, with "
            "--config.tune.dor=without")
      _outlier_images(config)  # whether there are any
    if spec.outliers == "names" and config.tune.outliers != "tokenizer":
      outliers_lib.of_source(config.tune.outliers)  # whether there are any


def _task(config: _Config, name: str) -> task_lib.Task:
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


def _setting(
    config: _Config, model: models.Model, spec: methods.Spec) -> fit.Setting:
  """The method, its recipe and what it sees, as the config has them."""
  tune = config.tune
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


def _templates(config: _Config) -> tuple[str, ...]:
  """The templates of config.tune.templates; none without it."""
  path = config.tune.templates
  return () if path is None else classes.read_templates(pathlib.Path(path))


def _outlier_images(config: _Config) -> image_sets.ImageSet:
  found, = experiment.load_sets(experiment.with_data(
      config, name=(config.tune.outlier_images,))).values()
  return found


def _outliers(
    config: _Config, model: models.Model, tasks: Sequence[task_lib.Task],
    specs: Sequence[methods.Spec], output: pathlib.Path
) -> dict[str, _Outliers]:
  """What methods draw from, by data set."""
  kinds = {spec.outliers for spec in specs}
  images = _outlier_images(config) if "images" in kinds else None
  if "names" not in kinds:
    return {task.name: _Outliers(None, None, images) for task in tasks}
  with progress.reported("outlier words", "word") as report:
    known = vocabulary.encode(
        model, outliers_lib.of_source(config.tune.outliers, model.tokenizer),
        num_context=max(spec.num_context for spec in specs),
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


def _about_outliers(
    spec: methods.Spec, outliers: _Outliers) -> dict[str, Any]:
  """How many words a method draws from, and which are new classes' names."""
  if spec.outliers != "names":
    return {}
  return {"outliers": {"number": len(outliers.words or ()),
                       "names_of_new_classes": outliers.shared}}


def _tuned(
    config: _Config, model: models.Model, task: task_lib.Task,
    setting: fit.Setting, outliers: _Outliers, output: pathlib.Path,
    about: Mapping[str, Any]
) -> list[checkpoint.Tuned]:
  """The seeds of a method: what an earlier run saved, or trained now."""
  label = f"{task.name}: {setting.spec.name}"
  with (progress.reported(f"{task.name}: training images") as on_image,
        progress.reported(label, "epoch") as on_epoch):
    return fit.fit(
        model, task, setting, _folder(output, task, setting.spec),
        outliers=outliers.of(setting.spec), about=about,
        features=output / "features" / task.name,
        seeds_at_once=config.tune.seeds_at_once,
        max_bytes=config.max_bytes,
        batch_size=config.clean_batch_size,
        num_threads=config.num_threads, on_image=on_image, on_epoch=on_epoch)


def _predict(
    config: _Config, model: models.Model, task: task_lib.Task,
    seeds: Iterable[tuple[int, checkpoint.Tuned | None]], output: pathlib.Path,
    about: Mapping[str, Any],
) -> None:
  """Predictions of every seed for the test images; of zero-shot where None."""
  seeds = list(seeds)
  for half, images in task.tests.items():
    common = {
        **identities.of_images(config, images, output, f"{task.name}/{half}"),
        **pooled.identity_of_towers(model), "prompt.template": task.template}
    asked = []
    for seed, one in seeds:
      of = few_shot.ZERO_SHOT if one is None else one.spec.stages
      tuned = {} if one is None else {"tuned": checkpoint.digest(one)}
      asked.append(saved.Asked(
          saved.path_of(output, task.name, of, half, seed), of, one,
          common | {"method": of.label} | tuned,
          dict(about) | {"data": task.name}))
    with progress.reported(f"{task.name}: {half}") as report:
      saved.save(
          model, images, asked, template=task.template, with_fd_score=True,
          features=output / "features" / task.name / half,
          max_bytes=config.max_bytes,
          batch_size=config.clean_batch_size,
          num_threads=config.num_threads, progress=report)


def _folder(
    output: pathlib.Path, task: task_lib.Task, spec: methods.Spec
) -> pathlib.Path:
  return output / "tuned" / task.name / spec.name
