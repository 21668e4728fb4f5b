"""Views of images that are too large for a canvas: cut on the host.

A canvas of a hundred million pixels, and what resizing it with all views at a
time needs, would fill a device. Pillow cuts each view out instead, and what
goes on is no larger than of any other image. Which images those are depends on
their sizes alone, so that an image always has the same views.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxcal.data import views
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import UInt8
from jaxcal.typing import UInt32

# Pixels of the largest image that is put on a canvas.
MOST_PIXELS = 2**24


def is_large(image: UInt8[np.ndarray, "h w 3"]) -> bool:
  """Whether the image is too large for a canvas."""
  return image.shape[0] * image.shape[1] > MOST_PIXELS


def cut(
    image: UInt8[np.ndarray, "h w 3"],
    key: UInt32[np.ndarray, "2"],
    recipe: views.Recipe,
) -> UInt8[np.ndarray, "v s s 3"]:
  """The clean view, and the boxes of the random ones, on the host.

  Args:
    image: The image.
    key: Key of the image, from `views.image_key`.
    recipe: Recipe of the views.

  Returns:
    What `finish` makes views of. They are those of `views.make_views` but for
    single pixels that Pillow rounds otherwise, by 1 of 255.
  """
  picture = Image.fromarray(image)
  cuts = [_clean(picture, recipe)]
  if recipe.num_views > 1:
    size = np.array(image.shape[:2], np.int32)
    boxes = jax.device_get(_draws(key, size, recipe).box)
    for top, left, height, width in zip(*map(np.ndarray.tolist, boxes)):
      part = picture.crop((left, top, left + width, top + height))
      cuts.append(np.asarray(_resized(
          part, recipe.size, recipe.size, recipe.random_resample)))
  return np.stack(cuts)


@functools.partial(jax.jit, static_argnums=3)
def finish(
    cuts: UInt8[Array, "v s s 3"],
    size: Int[Array, "2"],
    key: UInt32[Array, "2"],
    recipe: views.Recipe,
) -> UInt8[Array, "v s s 3"] | Float[Array, "v s s 3"]:
  """Views from what was cut out: mirrored and mixed as `views.make_views` does.
  """
  dtype = jnp.float32 if recipe.augmix else jnp.uint8
  clean = cuts[:1].astype(dtype)
  if recipe.num_views == 1:
    return clean

  one = lambda view, draw: views.finish(view, draw, recipe)
  return jnp.concatenate([clean, jax.vmap(one)(
      cuts[1:], views.draw(key, size, recipe))])


@functools.partial(jax.jit, static_argnums=2)
def _draws(key, size, recipe):
  return views.draw(key, size, recipe)


def _clean(picture, recipe):
  """As `views.clean_view`: resized; its centre, padded with black."""
  target = views.resized(
      np.array([picture.height, picture.width]), recipe.resize)
  height, width = target.tolist()
  resized = np.asarray(_resized(picture, height, width, recipe.resample))
  result = np.zeros((recipe.size, recipe.size, 3), np.uint8)
  first = views.crop_offset(target, recipe.size, recipe.offset)
  low, high = np.maximum(first, 0), np.minimum(first + recipe.size, target)
  result[tuple(map(slice, low - first, high - first))] = resized[
      tuple(map(slice, low, high))]
  return result


def _resized(picture, height, width, resample):
  """Both passes, the horizontal one first whatever Pillow prefers."""
  chosen = Image.Resampling[resample.upper()]
  return picture.resize((width, picture.height), chosen).resize(
      (width, height), chosen)
