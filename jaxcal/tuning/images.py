"""Images as few-shot methods see them: features of a frozen tower or pixels."""

from collections.abc import Callable, Iterator
import dataclasses
import json
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import memory
from jaxcal import parts
from jaxcal import sharding
from jaxcal.clip import checkpoint
from jaxcal.clip import towers
from jaxcal.data import contents
from jaxcal.data import image_set as image_sets
from jaxcal.data import views as views_lib
from jaxcal.features import extract
from jaxcal.features import pooled
from jaxcal.storage import identity
from jaxcal.tuning import method as method_lib
from jaxcal.typing import as_numpy
from jaxcal.typing import Pooled

BATCH_SIZE = pooled.BATCH_SIZE

Progress = Callable[[int, int], None] | None


def features(
    model: checkpoint.Model,
    images: image_sets.ImageSet,
    *,
    folder: pathlib.Path | None = None,
    together: bool = False,
    max_bytes: int = memory.GIGABYTE,
    batch_size: int = BATCH_SIZE,
    num_threads: int = 4,
    progress: Progress = None,
) -> method_lib.Images:
  """Features of the clean views of all images.

  Args:
    model: The frozen model.
    images: The images.
    folder: Folder that keeps the features; none if None.
    together: See `pooled.from_images`, as the next.
    max_bytes: Budget of the image tower's activations, on each device.
    batch_size: Images of a batch.
    num_threads: Threads that read images.
    progress: Function called with the numbers of images done and in all.

  Raises:
    ValueError: An image cannot be read, or the folder holds features of other
      images or of another model.
  """
  return from_pooled(model, pooled.from_images(
      model, images, folder, together=together, max_bytes=max_bytes,
      batch_size=batch_size, num_threads=num_threads, progress=progress))


def training(
    model: checkpoint.Model,
    images: image_sets.ImageSet,
    recipe: views_lib.Recipe | None = None,
    *,
    seed: int = 0,
    with_pixels: bool = False,
    folder: pathlib.Path | None = None,
    together: bool = False,
    batch_size: int = BATCH_SIZE,
    num_threads: int = 4,
    progress: Progress = None,
) -> method_lib.Images:
  """Training images, each in all of its views, one after the other.

  Args:
    model: The frozen model.
    images: The images.
    recipe: Recipe of the views; where it has more than one, the augmented ones
      stand in for the clean one. None for the clean view.
    seed: Seed of the views.
    with_pixels: Whether the views themselves are wanted, too.
    folder: Folder that keeps features, those of each model, set and recipe in a
      sub-folder of their own; none if None.
    together: See `pooled.from_images`.
    batch_size: Views of a batch.
    num_threads: Threads that read images.
    progress: Function called with the numbers of images done and in all.

  Raises:
    ValueError: An image cannot be read.
  """
  if recipe is None:
    recipe = extract.recipe_of(model, num_views=1)
  read = lambda positions: _views(
      model, images, positions, recipe, seed, batch_size, num_threads)
  with tempfile.TemporaryDirectory() as scratch:
    place = pathlib.Path(folder or scratch) / _digest(
        model, images, recipe, seed)
    parts.open_folder(place, images.ids, ("image",))
    todo = parts.missing(place, len(images.ids))
    size = _images_at_once(recipe, batch_size)
    with sharding.shared_out(todo, size, together=together) as own:
      done = len(images.ids) - len(own)
      for asked, views in read(own):
        rows = model.pooled(views.reshape(-1, *views.shape[2:]))
        pooled.write(place, asked, "image", jax.tree.map(
            lambda x, views=views: as_numpy(x).reshape(*views.shape[:2], -1),
            rows))
        done += len(asked)
        if progress is not None:
          progress(done, len(images.ids))
    found = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]),
                         pooled.gather(place, "image"))
  pixels = None
  if with_pixels:
    pixels = jnp.concatenate([views for _, views in read(
        np.arange(len(images.ids)))])
    pixels = pixels.reshape(-1, *pixels.shape[2:])
  return from_pooled(model, found)._replace(pixels=pixels)


def pixels(
    model: checkpoint.Model,
    images: image_sets.ImageSet,
    *,
    batch_size: int = BATCH_SIZE,
    num_threads: int = 4,
    progress: Progress = None,
) -> Iterator[method_lib.Images]:
  """Batches of clean views, for methods that predict from pixels.

  Args:
    model: The frozen model.
    images: The images.
    batch_size: Images of a batch.
    num_threads: Threads that read images.
    progress: Function called with the numbers of images done and in all.

  Raises:
    ValueError: An image cannot be read.
  """
  done, total = 0, len(images.ids)
  for views, mask in extract.views_from_images(
      images, extract.batches_of(np.arange(total), batch_size),
      recipe=extract.recipe_of(model, num_views=1), seed=0,
      batch_size=batch_size, num_threads=num_threads):
    yield method_lib.Images(
        None, pixels=views[mask, 0])  # type: ignore[arg-type]
    done += int(mask.sum())
    if progress is not None:
      progress(done, total)


def from_pooled(model: checkpoint.Model, found: Pooled) -> method_lib.Images:
  """Both forms of the features of a frozen image tower."""
  embeddings = jnp.asarray(towers.project(
      jnp.asarray(found.activations),
      towers.image_projection(model.config, model.params), found.residual))
  return method_lib.Images(towers.normalise(embeddings), embeddings)


def _views(model, images, positions, recipe, seed, batch_size, num_threads):
  """Positions and the views [b v s s 3] that training may see of them."""
  if not len(positions):
    return
  size = _images_at_once(recipe, batch_size)
  asked = extract.batches_of(positions, size)
  first = min(1, recipe.num_views - 1)
  for batch, (views, mask) in zip(asked, extract.views_from_images(
      images, asked, recipe=recipe, seed=seed, batch_size=size,
      num_threads=num_threads)):
    yield batch, views[mask, first:]


def _images_at_once(recipe, batch_size):
  """Images of a batch that has so many views."""
  return max(1, batch_size // recipe.num_views)


def _digest(model, images, recipe, seed):
  """Name of the folder of these features, so that others are never met."""
  found = {**pooled.identity_of(model), **contents.identity_of(images),
           **dataclasses.asdict(recipe), "seed": seed}
  return identity.of_lines([json.dumps(found, sort_keys=True)])
