"""What a config says of that which methods see: model, views and prompts.

  config = config_file.load("quickstart")
  model = config_inputs.load_model(config.model)
  images = load.images("digits")
  source = config_inputs.source(config, model, images)
  task = config_inputs.task(config, model, images.class_names)
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import functools
import pathlib
from typing import Any

from jaxcal import config as config_lib
from jaxcal import memory
from jaxcal import tasks
from jaxcal.adapt import base
from jaxcal.clip import checkpoint
from jaxcal.clip import last_blocks
from jaxcal.data import corruptions
from jaxcal.data import image_set as image_sets
from jaxcal.data import load
from jaxcal.data import views
from jaxcal.features import extract
from jaxcal.features import pooled
from jaxcal.features import sources
from jaxcal.features import store as stores
from jaxcal.posterior import head
from jaxcal.tuning import adapters
from jaxcal.tuning import checkpoint as tuned_files
from jaxcal.tuning import protocol

_Config = config_lib.ExperimentConfig


def load_model(config: config_lib.ModelConfig) -> checkpoint.Model:
  """The model, each tower in its precision."""
  return tasks.load(config.name, image_precision=config.image_precision,
                    text_precision=config.text_precision)


def budget(config: _Config) -> int:
  """Bytes that a run may take on each device."""
  return memory.budget(config.memory_gb)


def image_tower_bytes(config: _Config) -> int:
  """Bytes that activations of the image tower may take on each device."""
  return memory.shares(budget(config)).image_tower


def recipe(
    config: config_lib.ViewsConfig, model: checkpoint.Model,
    number: int | None = None
) -> views.Recipe:
  """How views are made for a model; config.number of them if None."""
  return dataclasses.replace(
      extract.recipe_of(model, num_views=number or config.count),
      area=(config.min_area, config.max_area),
      flip_probability=config.flip_probability, augmix=bool(config.augmix))


def source(
    config: _Config, model: checkpoint.Model, images: image_sets.ImageSet,
    *,
    store: pathlib.Path | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> sources.Source:
  """The images' features: stored, or to be computed.

  Args:
    config: Settings of the experiment.
    model: Model from `load_model`.
    images: The images, their name that of a store if the config has one.
    store: Folder of the run in which features are kept that are had in several
      orders; they are not kept if None.
    identity: Identity of the images, for that folder.
    progress: See `sources.through_store`.

  Raises:
    FileNotFoundError: There is no such store.
    ValueError: The store is of another model, of other views or images.
  """
  found = _source(config, model, images, store, identity, progress)
  adapter = tuned_adapter(config, model)
  if adapter is None or not adapters.moves_images(adapter):
    return found
  return sources.mapped(
      found, functools.partial(adapters.image_features, adapter))


def _source(config, model, images, store, identity, progress):
  """The features as the image tower gives them."""
  of_views, seed = recipe(config.views, model), config.views.seed
  on_host = min(budget(config), memory.ON_HOST)
  if config.data.store is not None:
    found = load.open_store(config.data.store, images.name)
    stores.check_holds(found, model, recipe=of_views, seed=seed)
    return sources.from_store(found, image_set=images, config=model.config,
                              max_bytes=on_host)
  shared: dict[str, Any] = dict(
      recipe=of_views, seed=seed, num_threads=config.num_threads,
      max_bytes=image_tower_bytes(config))
  if store is None:
    return sources.from_images(model, images, **shared)
  return sources.through_store(
      model, images, store, identity=identity, batch_size=config.batch_size,
      window_bytes=on_host, progress=progress, **shared)


def task(
    config: _Config, model: checkpoint.Model, class_names: tuple[str, ...]
) -> base.Task:
  """The prompts of the classes, and the context where every image starts.

  Text features are left to `run.iterate`. Where config.method.context is "fpp",
  the context is that of the template, for `pretraining.flat_context`.

  Args:
    config: Settings of the experiment.
    model: Model from `load_model`.
    class_names: Names in label order.

  Raises:
    FileNotFoundError, ValueError: See `tuned_context`.
  """
  tuned = tuned_context(config.method, model)
  adapter = tuned_adapter(config, model)
  limits: dict[str, Any] = dict(
      max_bytes=memory.shares(budget(config)).text_tower)
  template = config.data.template
  if adapter is not None:
    template = adapters.template_of(adapter, template)
    if not adapters.moves_images(adapter):
      return base.Task(
          adapters.text_features(
              adapter, model, class_names, template=template, **limits),
          tasks.logit_scale_of(model))
  limits["num_contexts"] = config.batch_size
  if tuned is None:
    return tasks.unencoded_task(
        model, class_names, template=template, **limits)
  context = tuned.params["context"]
  # As in its training, no words but the name and a full stop.
  return tasks.unencoded_task(
      model, class_names, template="{}.", num_context_tokens=len(context),
      class_position=tuned.spec.class_position, **limits)._replace(
          context=context)


def refuse_store(config: config_lib.DataConfig, what: str) -> None:
  """Refuses stored features for what needs images, and says so."""
  if config.store is not None:
    raise ValueError(f"{what} needs images, which a store does not have; leave "
                     "out --config.data.store")


def corruption(
    config: config_lib.DataConfig, share: float = 1.0
) -> corruptions.Corruption | None:
  """The corruption of the images; None where there is none.

  Args:
    config: Settings of the images.
    share: Share of the images that are corrupted, config.stream's.

  Raises:
    ValueError: There is a corruption without a severity, or the reverse; or a
      share without both.
  """
  if config.corruption is None and config.severity is None:
    if share != 1:
      raise ValueError(
          f"--config.stream.corrupted_share is {share:g}, but no corruption is "
          "named; give --config.data.corruption and --config.data.severity, "
          "such as fog and 3, or leave the share out")
    return None
  # Not before: a sweep may go over either of them.
  if config.corruption is None or config.severity is None:
    raise ValueError(
        f"--config.data.corruption is {config.corruption!r} and "
        f"--config.data.severity is {config.severity!r}; give both, such as "
        "fog and 3, or none of them")
  return corruptions.Corruption(
      config.corruption, config.severity, seed=config.corruption_seed,
      of=config.corruption_of, pictures=config.frost_pictures, share=share)


def refuse_corruption(config: config_lib.DataConfig, what: str) -> None:
  """Refuses corrupted images for what is to see images as they were taken."""
  if config.corruption is not None:
    raise ValueError(
        f"{what} sees images as they were taken; leave out "
        "--config.data.corruption, which is for what `jaxcal evaluate` and "
        "`sweep` predict")


def load_posterior(
    config: config_lib.PosteriorConfig, model: checkpoint.Model
) -> head.Chosen | None:
  """The posterior that a config names; None where there is no folder.

  Raises:
    FileNotFoundError: Nothing lies there.
    ValueError: It is damaged, or of another model.
  """
  if config.folder is None:
    return None
  return head.load(config.folder, model, pseudo_count=config.pseudo_count)


def tuned_context(
    config: config_lib.MethodConfig, model: checkpoint.Model
) -> tuned_files.Tuned | None:
  """The context that config.context names by path; None without one.

  Raises:
    FileNotFoundError: Nothing lies there.
    ValueError: See `tuning.checkpoint.context`.
  """
  if not is_tuned(config.context):
    return None
  try:
    return tuned_files.context(pathlib.Path(config.context), model)
  except ValueError as error:
    raise ValueError(f"--config.method.context: {error}") from error


def tuned_adapter(
    config: _Config, model: checkpoint.Model) -> tuned_files.Tuned | None:
  """The adapter that config.method.adapter names by path; None without one.

  Raises:
    FileNotFoundError: Nothing lies there.
    ValueError: See `tuning.checkpoint.adapter`.
  """
  if config.method.adapter is None:
    return None
  try:
    return tuned_files.adapter(pathlib.Path(config.method.adapter), model)
  except ValueError as error:
    raise ValueError(f"--config.method.adapter: {error}") from error


def check_start(
    config: _Config, model: checkpoint.Model,
    sets: Iterable[image_sets.ImageSet],
    methods: Mapping[str, base.Numbers],
) -> None:
  """Refuses what methods cannot begin with, before the work.

  Args:
    config: Settings of the experiment.
    model: Model from `load_model`.
    sets: The image sets that are to be predicted.
    methods: Numbers of the methods by name.

  Raises:
    FileNotFoundError, ValueError: See `tuned_context` and `tuned_adapter`; or
      a set has classes that an adapter of classes does not know, or a method
      tunes prompts, which such an adapter does not see, or adapts an image
      tower that is not there.
  """
  tuned_context(config.method, model)
  adapter = tuned_adapter(config, model)
  for name, method in methods.items():
    if base.image_blocks(method):
      _check_tower(config, model, adapter, name, base.image_blocks(method))
  if adapter is None or adapters.moves_images(adapter):
    return
  tuning = [name for name, method in methods.items()
            if base.num_contexts(method)]
  if tuning:
    raise ValueError(
        f"{', '.join(tuning)} would tune prompts, of which "
        f"--config.method.adapter={config.method.adapter} does not see "
        "anything: its text features belong to the classes of its training; "
        "leave them out, or take a clip_adapter")
  for images in sets:
    try:
      protocol.class_positions(images.class_names, adapter.class_names)
    except ValueError as error:
      raise ValueError(f"--config.method.adapter={config.method.adapter} "
                       f"cannot predict {images.name}: {error}") from error


def _check_tower(config, model, adapter, name, number):
  """Refuses a method that adapts an image tower of which it sees nothing."""
  refuse_store(config.data, f"{name} adapts the image tower: it")
  if adapter is not None and adapters.moves_images(adapter):
    raise ValueError(
        f"{name} adapts the image tower, but --config.method.adapter="
        f"{config.method.adapter} comes behind it and was not trained with "
        "that; leave one of them out")
  try:
    last_blocks.check(model.config, number)
  except ValueError as error:
    raise ValueError(f"{name}: {error}") from error


def is_tuned(context: str) -> bool:
  """Whether config.method.context is the path of a tuned one."""
  return context.endswith(f".{tuned_files.ENDING}")


def identity_of_features(
    config: _Config, model: checkpoint.Model) -> dict[str, Any]:
  """How images become features: model, precision, views."""
  return pooled.identity_of_views(
      model, recipe(config.views, model), seed=config.views.seed,
      features=load.kind_of_features(config.data.store, config.data.name[0]))


def identity_of_prompts(config: _Config) -> dict[str, Any]:
  """How class names become text features."""
  context = config.method.context
  found = {"prompt.template": config.data.template, "prompt.context": context}
  if is_tuned(context):
    found["prompt.context"] = tuned_files.content_of(pathlib.Path(context))
  if config.method.adapter is not None:
    found["adapter"] = tuned_files.content_of(
        pathlib.Path(config.method.adapter))
  if context == "fpp":
    found |= {f"fpp.{name}": value
              for name, value in dataclasses.asdict(config.fpp).items()}
  return found
