"""One method of `jaxcal tune`: trained with some seeds at once, resumably."""

from collections.abc import Mapping, Sequence
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcal.cli import experiment
from jaxcal.cli import tuned
from jaxcal.clip import checkpoint
from jaxcal.storage import pytree
from jaxcal.tuning import method as method_lib
from jaxcal.tuning import methods
from jaxcal.tuning import outliers as outliers_lib
from jaxcal.tuning import presets
from jaxcal.tuning import promptsrc
from jaxcal.tuning import tip_adapter
from jaxcal.tuning import training
from jaxcal.typing import Int

# So that saving costs little, and little is lost.
_EPOCHS_PER_SAVE = 10
_SECONDS_PER_SAVE = 30


class Training(NamedTuple):
  """All that the seeds of a method are trained with.

  Attributes:
    spec: The method.
    recipe: Its numbers.
    class_names: Of the prompts.
    prompts: Of the classes.
    data: All views of an image after each other.
    rows: Images of the data that each seed drew.
    num_views: Of each image.
    table: Of outliers; None without them.
    draw: How they are drawn, see `outliers.DRAWS`.
  """

  spec: methods.Spec
  recipe: presets.Recipe
  class_names: tuple[str, ...]
  prompts: method_lib.Prompts
  data: training.Data
  rows: Int[np.ndarray, "s n"]
  num_views: int
  table: method_lib.Prompts | method_lib.Images | None
  draw: str


class _Seeds(NamedTuple):
  """What is of the seeds that are trained at once."""

  method: method_lib.Method
  optimizer: optax.GradientTransformation
  keys: jax.Array
  rows: jax.Array
  num_steps: int  # of an epoch
  keep_last: bool


def train(
    model: checkpoint.Model,
    one: Training,
    seeds: Sequence[int],
    folder: pathlib.Path,
    label: str,
    about: Mapping[str, Any],
) -> None:
  """Trains some seeds, from where an earlier run stopped, and saves them.

  Args:
    model: The frozen one.
    one: The method and its data.
    seeds: From 1.
    folder: Holds seed-N files afterwards, and the state until then.
    label: Of the progress bar.
    about: What to write beside the parameters.

  Raises:
    ValueError: a loss that is not finite.
  """
  path = folder / f"state-{seeds[0]}.npz"
  several, state = _begin(model, one, seeds)
  losses = np.full((len(seeds), one.recipe.num_epochs), np.nan)
  state, losses = pytree.load(path, (state, losses))
  state = _run(one, several, state, losses, path, label)
  found = state.params if one.recipe.aggregation is None else state.average
  recipe = {f"recipe.{key}": value
            for key, value in one.recipe._asdict().items()}
  for number, seed in enumerate(seeds):
    tuned.save(folder / f"seed-{seed}", tuned.Tuned(
        one.spec, jax.tree.map(lambda x, i=number: x[i], found),
        one.class_names, _cached_labels(one, several.rows[number]),
        {**about, **recipe, "seed": seed, "losses": losses[number].tolist()}))
  path.unlink(missing_ok=True)


def _begin(model, one, seeds):
  """What the seeds share, and their states before the first epoch."""
  recipe, num_images = one.recipe, one.rows.shape[1]
  keep_last = one.spec.kind.cached  # as released, for these alone
  steps = training.num_steps(
      num_images, recipe.batch_size, keep_last=keep_last)
  optimizer = _optimizer(one.spec, recipe, steps)
  keys = jnp.stack([jax.random.key(seed) for seed in seeds])
  rows = jnp.asarray(one.rows[[seed - 1 for seed in seeds]])
  built = [methods.build(one.spec, model, _cache(one, own)) for own in rows]
  state = jax.tree.map(lambda *x: jnp.stack(x), *(
      training.init(method, optimizer, one.prompts, key)
      for method, key in zip(built, keys)))
  # Methods differ by seed in how they begin alone: labels of shots have the
  # same order for all seeds.
  return _Seeds(built[0], optimizer, keys, rows, steps, keep_last), state


def _run(one, several, state, losses, path, label):
  """All epochs that are left; fills in the losses."""
  num_epochs, saved = one.recipe.num_epochs, time.monotonic()
  shares = np.zeros(num_epochs)
  if one.recipe.aggregation is not None:
    mean, std = one.recipe.aggregation
    shares = promptsrc.epoch_weights(num_epochs, mean=mean, std=std)
  with experiment.progress(label, num_epochs, "epoch") as bar:
    bar.update(int(state.epoch[0]))
    for epoch in range(int(state.epoch[0]), num_epochs):
      state, parts = training.train_seeds(
          several.method, several.optimizer, state, one.prompts, one.data,
          _order(one, several, state, epoch), _drawn(one, several, epoch),
          shares[epoch])
      losses[:, epoch] = np.asarray(parts["loss"]).mean(1)
      if not np.isfinite(losses[:, epoch]).all():
        raise ValueError(f"{label}: the loss of epoch {epoch + 1} is not "
                         "finite; try a smaller --config.tune.learning_rate")
      if (not (epoch + 1) % _EPOCHS_PER_SAVE or
          time.monotonic() - saved > _SECONDS_PER_SAVE):
        pytree.save(path, (state, losses))
        saved = time.monotonic()
      bar.set_postfix(loss=f"{losses[:, epoch].mean():.3f}", refresh=False)
      bar.update(1)
  return state


def _order(one, several, state, epoch):
  """Rows of the data for every step and seed: an image's views take turns."""
  order = jax.vmap(lambda s: training.shuffle(
      s, one.rows.shape[1], one.recipe.batch_size,
      keep_last=several.keep_last))(state)

  def of_seed(own, places, key):
    view = jax.random.randint(
        jax.random.fold_in(jax.random.fold_in(key, 2), epoch), own.shape, 0,
        one.num_views)
    chosen = own * one.num_views + view
    return jax.tree.map(lambda place: chosen[place], places)

  return jax.vmap(of_seed)(several.rows, order, several.keys)


def _drawn(one, several, epoch):
  """Outliers of an epoch's steps, for every seed; as many as classes."""
  if one.table is None:
    return None
  draw = outliers_lib.DRAWS[one.draw]
  known = one.table.features if isinstance(
      one.table, method_lib.Images) else one.table.zero_shot
  steps = epoch * several.num_steps + jnp.arange(several.num_steps)
  rows = jax.vmap(lambda key: jax.vmap(lambda step: draw(
      jax.random.fold_in(key, 1), step, num_words=len(known),
      num_drawn=len(one.prompts.zero_shot)))(steps))(several.keys)
  return training.Outliers(one.table, rows)


def _cached_labels(one, rows):
  """Of a seed's shots, where the method looks them up."""
  if not one.spec.kind.cached:
    return np.zeros(0, np.int64)
  return np.asarray(one.data.labels[rows * one.num_views])


def _cache(one, rows):
  """A seed's shots, where the method looks them up."""
  if not one.spec.kind.cached:
    return None
  views = rows[None] * one.num_views + jnp.arange(one.num_views)[:, None]
  return tip_adapter.make_cache(
      one.data.images.embeddings[views], _cached_labels(one, rows),
      len(one.prompts.zero_shot))


def _optimizer(spec, recipe, steps):
  if not recipe.num_epochs:
    return training.sgd(0.0)
  if spec.kind.cached:
    return tip_adapter.optimizer(
        recipe.num_epochs * steps, recipe.learning_rate)
  rate = training.schedule(recipe.learning_rate, recipe.num_epochs, steps)
  return {"sgd": training.sgd, "adam": training.adam,
          "adamw": training.adamw}[recipe.optimizer](rate)
