"""What a config says of few-shot tuning: which methods, trained how.

  config = config_file.load("dor_base_to_new")
  for spec in config_tuning.specs(config):
    setting = config_tuning.setting(config, model, spec)  # for `fit.fit`
"""

import itertools
import pathlib

from jaxcal import config as config_lib
from jaxcal import config_inputs
from jaxcal.clip import checkpoint
from jaxcal.data import catalogue
from jaxcal.tuning import classes
from jaxcal.tuning import fit
from jaxcal.tuning import methods
from jaxcal.tuning import outliers
from jaxcal.tuning import presets

_Config = config_lib.ExperimentConfig


def specs(config: _Config) -> list[methods.Spec]:
  """Every base method, with and without what the config says to add.

  Raises:
    FileNotFoundError: There are no words to draw from.
    ValueError: A method that is unknown or named twice, or one that lacks what
      it needs.
  """
  tune = config.tune
  if len(set(tune.name)) != len(tune.name):
    raise ValueError("--config.tune.name has a method twice: "
                     f"{', '.join(tune.name)}")
  if config.data.classes != "all":
    raise ValueError("--config.data.classes is of `jaxcal evaluate`; which "
                     "classes are tuned on is --config.tune.classes")
  _templates(tune)
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
    _check(tune, found[-1])
  return found


def setting(
    config: _Config, model: checkpoint.Model, spec: methods.Spec
) -> fit.Setting:
  """A method of `specs`, its recipe and what it sees."""
  methods.check_model(spec, model)
  tune = config.tune
  recipe = presets.recipe_of(
      spec, tune.preset, num_epochs=tune.num_epochs,
      learning_rate=tune.learning_rate, batch_size=tune.batch_size)
  views = None
  if tune.num_views:
    views = config_inputs.recipe(config.views, model, tune.num_views + 1)
  templates = _templates(tune) if spec.base_method == "promptsrc" else ()
  return fit.Setting(
      spec, recipe, tune.draw, templates, views, config.views.seed)


def template(config: _Config, data: str) -> str:
  """The prompt of an image set in few-shot tuning, for what is not tuned."""
  if config.tune.template is not None:
    return config.tune.template
  # Not of a folder that is called like one.
  if data in catalogue.CATALOGUE and data in config.data.name:
    return catalogue.CATALOGUE[data].few_shot_template
  return config.data.template


def _check(tune, spec):
  """Refuses a method that lacks what it needs."""
  if spec.kind.own_classes and tune.classes == "base":
    raise ValueError(
        f"the parameters of {spec.name} belong to the classes of its "
        "training, so that it predicts no new ones; use it with "
        "--config.tune.classes=all")
  if spec.outliers == "images" and tune.outlier_images is None:
    raise ValueError(
        f"{spec.name} is regularised on images: name a set of other things "
        "with --config.tune.outlier_images=..., or train it without, with "
        "--config.tune.dor=without")
  if spec.outliers == "names" and tune.outliers != "tokenizer":
    outliers.of_source(tune.outliers)  # whether there are any


def _templates(tune):
  path = tune.templates
  return () if path is None else classes.read_templates(pathlib.Path(path))
