"""The driver: a task and a setting become tuned parameters, seed by seed.

  spec = presets.spec("coop", additions=["dor"])
  setting = fit.Setting(spec, presets.recipe("coop"))
  seeds = fit.fit(model, task, setting, folder, outliers=words)

Seeds are trained together. What a folder has already is not trained again, and
an interrupted training goes on where it was last saved; both only where all
that enters the numbers is the same, see `look`.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
import os
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcal import memory
from jaxcal.clip import checkpoint as models
from jaxcal.data import contents
from jaxcal.data import image_set as image_sets
from jaxcal.data import views as views_lib
from jaxcal.features import pooled
from jaxcal.storage import identity
from jaxcal.storage import pytree
from jaxcal.tuning import checkpoint
from jaxcal.tuning import classes
from jaxcal.tuning import images as images_lib
from jaxcal.tuning import method as method_lib
from jaxcal.tuning import methods
from jaxcal.tuning import outliers as outliers_lib
from jaxcal.tuning import presets
from jaxcal.tuning import promptsrc
from jaxcal.tuning import task as task_lib
from jaxcal.tuning import tip_adapter
from jaxcal.tuning import training
from jaxcal.typing import Int

# Words, or images of other things; None where a method has none.
Outliers = Sequence[str] | image_sets.ImageSet | None

# So that saving costs little, and little is lost.
_EPOCHS_PER_SAVE = 10
_SECONDS_PER_SAVE = 30
_WAY_OUT = ("write to another folder, or remove what is there (--overwrite of "
            "`jaxcal tune` does)")


class Setting(NamedTuple):
  """What is trained, and how.

  Attributes:
    spec: The method, see `presets.spec`.
    recipe: Numbers of its training, see `presets.recipe`.
    draw: Name of the way in which outliers are drawn, see `outliers.DRAWS`.
    templates: Templates to whose mean PromptSRC is regularised; that of the
      task if there are none.
    views: Recipe of the views that training sees; all of them if it has one,
      all but the clean one if it has more. None for the clean view.
    seed: Seed of the views.
  """

  spec: methods.Spec
  recipe: presets.Recipe
  draw: str = "shuffled"
  templates: tuple[str, ...] = ()
  views: views_lib.Recipe | None = None
  seed: int = 0

  @property
  def num_views(self) -> int:
    """Number of views of an image that training sees."""
    return 1 if self.views is None else max(1, self.views.num_views - 1)


class _Training(NamedTuple):
  """All that the seeds of a setting are trained with."""

  setting: Setting
  class_names: tuple[str, ...]
  prompts: method_lib.Prompts
  data: training.Data  # all views of an image after each other
  rows: Int[np.ndarray, "s n"]  # images of the data that each seed drew
  table: method_lib.Prompts | method_lib.Images | None  # of outliers


class _Seeds(NamedTuple):
  """What is of the seeds that are trained at once."""

  method: method_lib.Method
  optimiser: optax.GradientTransformation
  keys: jax.Array
  rows: jax.Array
  num_steps: int  # of an epoch
  keep_last: bool


def fit(
    model: models.Model,
    task: task_lib.Task,
    setting: Setting,
    folder: str | os.PathLike,
    *,
    outliers: Outliers = None,
    features: str | os.PathLike | None = None,
    about: Mapping[str, Any] | None = None,
    seeds: Sequence[int] | None = None,
    seeds_at_once: int = 0,
    max_bytes: int = memory.ON_HOST,
    batch_size: int = images_lib.BATCH_SIZE,
    num_threads: int = 4,
    on_image: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[int, int, float], None] | None = None,
) -> list[checkpoint.Tuned]:
  """The tuned parameters of some seeds: what is there, and the rest trained.

  Args:
    model: The frozen model.
    task: The data set, whose number of draws is that of the seeds.
    setting: The method and how it is trained.
    folder: Folder of seed-N.safetensors and .json, and of the state until they
      are complete.
    outliers: Words or images that a method with the addition "dor" draws
      from.
    features: Folder that keeps features of training images and of outliers;
      none if None.
    about: Anything else to be written beside the parameters.
    seeds: Seeds that are asked for; all of the data set if None.
    seeds_at_once: Number of seeds that are trained together; fewer need less
      memory, 0 for all.
    max_bytes: Budget on each device: of the text tower's activations, and in
      its share (`memory.shares`) of those of the image tower.
    batch_size: Images per step of the image tower.
    num_threads: Threads that read images.
    on_image: Function called with (training images done, images in all).
    on_epoch: Function called with (epochs done, epochs in all, mean loss; NaN
      at the beginning), seeds that are trained together counting once.

  Returns:
    Parameters by seed, in their order.

  Raises:
    ValueError: What lies there is of something else, which is named; a loss
      that is not finite; outliers that do not fit the method.
  """
  folder = pathlib.Path(folder)
  features = None if features is None else pathlib.Path(features)
  identities, missing = look(model, task, setting, folder, outliers=outliers)
  seeds = task.seeds if seeds is None else seeds
  todo = groups([seed for seed in missing if seed in seeds], seeds_at_once)
  if todo:
    prepared = _prepare(
        model, task, setting, outliers, features,
        max_bytes=max_bytes, num_seeds=len(todo[0]), batch_size=batch_size,
        num_threads=num_threads, on_image=on_image)
  num_epochs = setting.recipe.num_epochs
  for number, group in enumerate(todo):
    report = _report_of(on_epoch, number, len(todo), num_epochs)
    _train(model, prepared, group, folder, identities, dict(about or {}),
           report)
  return [checkpoint.load(_path(folder, seed), model) for seed in seeds]


def look(
    model: models.Model,
    task: task_lib.Task,
    setting: Setting,
    folder: pathlib.Path,
    *,
    outliers: Outliers = None,
) -> tuple[dict[int, dict[str, Any]], list[int]]:
  """What is asked for, and which seeds are not there yet.

  Args:
    model: The frozen model.
    task: The data set.
    setting: The method and how it is trained.
    folder: Folder as in `fit`.
    outliers: Words or images, see `fit`.

  Returns:
    The identity of each seed's parameters, and the seeds to be trained.

  Raises:
    OSError: A file of an image cannot be read; names it.
    ValueError: Parameters of something else lie there, or outliers or the
      model do not fit the method.
  """
  methods.check_model(setting.spec, model)
  _check_outliers(setting.spec, outliers)
  common = _identity_of_setting(model, task, setting, outliers)
  asked = {seed: {**common, **contents.identity_of(task.shots(seed)),
                  "seed": seed} for seed in task.seeds}
  return asked, [seed for seed, one in asked.items()
                 if not _is_there(_path(folder, seed), one)]


def _path(folder, seed):
  return folder / f"seed-{seed}"


def _identity_of_setting(model, task, setting, outliers):
  """All that enters the parameters of every seed, apart from its shots."""
  found = {
      **pooled.identity_of_towers(model),
      "prompt.template": task.template,
      "prompt.templates": setting.templates,
      "outliers": _identity_of_outliers(outliers),
      "outliers.draw": setting.draw if outliers is not None else None,
      **{f"method.{name}": value
         for name, value in setting.spec._asdict().items()},
      **{f"recipe.{name}": value
         for name, value in setting.recipe._asdict().items()}}
  if setting.views is not None:
    found |= {"views.seed": setting.seed} | {
        f"views.{name}": value
        for name, value in dataclasses.asdict(setting.views).items()}
  return found


def _is_there(path, asked):
  """Whether tuned parameters of the same lie at a path without an ending."""
  if not checkpoint.exists(path):
    return False
  stored = checkpoint.about(path).get("identity")
  if stored is None:
    raise ValueError(
        f"{path} is of an earlier version of jaxcal, which did not say what "
        f"parameters were tuned on; predict with it, but {_WAY_OUT}")
  identity.check(
      stored, asked, what=f"{path} was tuned on something else than what is "
      "asked for", way_out=_WAY_OUT)
  return True


def groups(seeds: Sequence[int], size: int) -> list[Sequence[int]]:
  """Seeds that are trained together, `size` at a time; all of them if 0."""
  size = size or max(1, len(seeds))
  return [seeds[first:first + size] for first in range(0, len(seeds), size)]


def outliers_folder(
    features: pathlib.Path, outliers: image_sets.ImageSet) -> pathlib.Path:
  """Folder of the features of images that methods draw outliers from.

  Args:
    features: Folder of the features of a data set.
    outliers: The images.
  """
  return features / f"outliers-{_identity_of_outliers(outliers)}"


def check_memory(
    model: models.Model,
    task: task_lib.Task,
    setting: Setting,
    max_bytes: int,
) -> None:
  """Whether the pixels of all views of training images are few enough to hold.

  Only methods that train through the image tower hold them.

  Raises:
    ValueError: They need more.
  """
  if not setting.spec.kind.from_pixels:
    return
  size, count = model.preprocess.crop, len(task.train.ids)
  needed = count * setting.num_views * size**2 * 3
  if needed > max_bytes:
    raise ValueError(
        f"{count} training images in {setting.num_views} views need "
        f"{needed / 2**30:.1f} GB, but --config.memory_gb is "
        f"{max_bytes / 2**30:.2g}; raise it, or take fewer seeds, shots or "
        "views")


def _check_outliers(spec, outliers):
  wanted = spec.outliers
  given = (None if outliers is None else
           "images" if isinstance(outliers, image_sets.ImageSet) else "names")
  if wanted != given:
    raise ValueError(
        f"{spec.name} needs {wanted or 'no'} outliers, but got "
        f"{given or 'none'}")


def _identity_of_outliers(outliers):
  if outliers is None:
    return None
  if isinstance(outliers, image_sets.ImageSet):
    found = contents.identity_of(outliers)
    return identity.of_lines(
        f"{name} {found[name]}" for name in sorted(found))
  return identity.of_lines(outliers)


def _report_of(on_epoch, number, num_groups, num_epochs):
  """From epochs of a group and their loss to those of all groups."""
  def report(done, loss):
    if on_epoch is not None:
      on_epoch(number * num_epochs + done, num_groups * num_epochs, loss)

  return report


def _prepare(model, task, setting, outliers, features, *, max_bytes, num_seeds,
             batch_size, num_threads, on_image) -> _Training:
  """Features, prompts and outliers."""
  tower = memory.shares(max_bytes).image_tower
  max_bytes //= num_seeds
  spec = setting.spec
  found = images_lib.training(
      model, task.train, setting.views, seed=setting.seed,
      with_pixels=spec.kind.from_pixels, folder=features,
      batch_size=batch_size, num_threads=num_threads, progress=on_image)
  prompts = methods.prompts_of(
      spec, model, task.class_names, template=task.template,
      max_bytes=max_bytes)
  if spec.base_method == "promptsrc" and setting.templates:
    prompts = prompts._replace(target=promptsrc.average_templates(jnp.stack([
        classes.template_embeddings(model, task.class_names, template)
        for template in setting.templates])))
  table: method_lib.Prompts | method_lib.Images | None = None
  if spec.outliers == "names":
    table = methods.prompts_of(
        spec, model, outliers, max_bytes=max_bytes, as_table=True)
  elif spec.outliers == "images":
    place = features and outliers_folder(features, outliers)
    table = images_lib.features(
        model, outliers, folder=place, max_bytes=tower, batch_size=batch_size,
        num_threads=num_threads)
  return _Training(
      setting, task.class_names, prompts,
      training.Data(found, jnp.repeat(
          jnp.asarray(task.train.labels), setting.num_views)),
      task.rows, table)


def _train(model, one, seeds, folder, identities, about, report):
  """Trains some seeds, from where an earlier run stopped, and saves them."""
  path = folder / f"state-{seeds[0]}-{seeds[-1]}.npz"
  several, state = _begin(model, one, seeds)
  recipe = one.setting.recipe
  losses = np.full((len(seeds), recipe.num_epochs), np.nan)
  made_of = {f"seed {seed}: {name}": value for seed in seeds
             for name, value in identities[seed].items()}
  state, losses = pytree.load(path, (state, losses), made_of)
  state = _run(one, several, state, losses, report,
               lambda *found: pytree.save(path, found, made_of, own=True))
  params = state.params if recipe.aggregation is None else state.average
  for number, seed in enumerate(seeds):
    checkpoint.save(_path(folder, seed), checkpoint.Tuned(
        one.setting.spec, jax.tree.map(lambda x, i=number: x[i], params),
        one.class_names, _cached_labels(one, several.rows[number]),
        {**about, "model.fingerprint": model.fingerprint,
         **{f"recipe.{name}": value
            for name, value in recipe._asdict().items()},
         "seed": seed, "losses": losses[number].tolist(),
         "identity": identities[seed]}))
  path.unlink(missing_ok=True)


def _begin(model, one, seeds):
  """What the seeds share, and their states before the first epoch."""
  recipe, num_images = one.setting.recipe, one.rows.shape[1]
  keep_last = one.setting.spec.kind.cached  # as released, for these alone
  steps = training.num_steps(
      num_images, recipe.batch_size, keep_last=keep_last)
  optimiser = _optimiser(one.setting.spec, recipe, steps)
  keys = jnp.stack([jax.random.key(seed) for seed in seeds])
  rows = jnp.asarray(one.rows[[seed - 1 for seed in seeds]])
  built = [methods.build(one.setting.spec, model, _cache(one, own))
           for own in rows]
  state = jax.tree.map(lambda *x: jnp.stack(x), *(
      training.init(method, optimiser, one.prompts, key)
      for method, key in zip(built, keys)))
  # Methods differ by seed in how they begin alone: labels of shots have the
  # same order for all seeds.
  return _Seeds(built[0], optimiser, keys, rows, steps, keep_last), state


def _run(one, several, state, losses, report, save):
  """All epochs that are left; fills in the losses."""
  recipe, saved = one.setting.recipe, time.monotonic()
  shares = np.zeros(recipe.num_epochs)
  if recipe.aggregation is not None:
    mean, std = recipe.aggregation
    shares = promptsrc.epoch_weights(recipe.num_epochs, mean=mean, std=std)
  report(int(state.epoch[0]), math.nan)
  for epoch in range(int(state.epoch[0]), recipe.num_epochs):
    state, parts = training.train_seeds(
        several.method, several.optimiser, state, one.prompts, one.data,
        _order(one, several, state, epoch), _drawn(one, several, epoch),
        shares[epoch])
    losses[:, epoch] = np.asarray(parts["loss"]).mean(1)
    if not np.isfinite(losses[:, epoch]).all():
      raise ValueError(
          f"{one.setting.spec.name}: the loss of epoch {epoch + 1} is not "
          "finite; try a smaller --config.tune.learning_rate")
    if (not (epoch + 1) % _EPOCHS_PER_SAVE or
        time.monotonic() - saved > _SECONDS_PER_SAVE):
      save(state, losses)
      saved = time.monotonic()
    report(epoch + 1, float(losses[:, epoch].mean()))
  return state


def _order(one, several, state, epoch):
  """Rows of the data for every step and seed: an image's views take turns."""
  num_views = one.setting.num_views
  order = jax.vmap(lambda s: training.shuffle(
      s, one.rows.shape[1], one.setting.recipe.batch_size,
      keep_last=several.keep_last))(state)

  def of_seed(own, places, key):
    view = jax.random.randint(
        jax.random.fold_in(jax.random.fold_in(key, 2), epoch), own.shape, 0,
        num_views, jnp.int32)
    chosen = own * num_views + view
    return jax.tree.map(lambda place: chosen[place], places)

  return jax.vmap(of_seed)(several.rows, order, several.keys)


def _drawn(one, several, epoch):
  """Outliers of an epoch's steps, for every seed; as many as classes."""
  if one.table is None:
    return None
  draw = outliers_lib.DRAWS[one.setting.draw]
  known = one.table.features if isinstance(
      one.table, method_lib.Images) else one.table.zero_shot
  steps = epoch * several.num_steps + jnp.arange(several.num_steps)
  rows = jax.vmap(lambda key: jax.vmap(lambda step: draw(
      jax.random.fold_in(key, 1), step, num_words=len(known),
      num_drawn=len(one.prompts.zero_shot)))(steps))(several.keys)
  return training.Outliers(one.table, rows)


def _cached_labels(one, rows):
  """Labels of a seed's shots, where the method looks them up."""
  if not one.setting.spec.kind.cached:
    return np.zeros(0, np.int64)
  return np.asarray(one.data.labels[rows * one.setting.num_views])


def _cache(one, rows):
  """A seed's shots, where the method looks them up."""
  if not one.setting.spec.kind.cached:
    return None
  num_views = one.setting.num_views
  rows_of_views = rows[None] * num_views + jnp.arange(num_views)[:, None]
  return tip_adapter.make_cache(
      one.data.images.embeddings[rows_of_views], _cached_labels(one, rows),
      len(one.prompts.zero_shot))


def _optimiser(spec, recipe, steps):
  if not recipe.num_epochs:
    return training.sgd(0.0)
  if spec.kind.cached:
    return tip_adapter.optimiser(
        recipe.num_epochs * steps, recipe.learning_rate)
  rate = training.schedule(recipe.learning_rate, recipe.num_epochs, steps)
  optimisers: dict[str, Callable[..., optax.GradientTransformation]] = {
      "sgd": training.sgd, "adam": training.adam, "adamw": training.adamw}
  return optimisers[recipe.optimiser](rate)
