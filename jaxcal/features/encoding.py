"""From decoded images to features: their views, and the image tower in steps.

A batch has many views, and a tower's activations of all of them would fill a
device. So the tower takes as many at a time as a budget allows, which is
counted, see `memory`.
"""

from collections.abc import Callable
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from jaxcal import memory
from jaxcal import sharding
from jaxcal.clip import checkpoint
from jaxcal.clip import last_blocks
from jaxcal.clip import preprocess
from jaxcal.clip import towers
from jaxcal.data import large_images
from jaxcal.data import pipeline
from jaxcal.data import views
from jaxcal.typing import Array
from jaxcal.typing import at_least_float32
from jaxcal.typing import Float
from jaxcal.typing import Pooled
from jaxcal.typing import UInt8


def image_encoder(
    model: checkpoint.Model,
    recipe: views.Recipe,
    mesh: Mesh,
    *,
    max_bytes: int = memory.GIGABYTE,
    block: int | None = None,
) -> Callable[..., tuple[
    Float[Array, "b v d"], Pooled, Float[Array, "b v t w"] | None]]:
  """From this process's images to features of all views and pooled view 0.

  Views are one program per shape of canvas and small; the tower is one for
  all, and runs in the model's precision.

  Args:
    model: Model from `checkpoint.load`.
    recipe: Recipe of the views.
    mesh: Devices that share the work.
    max_bytes: Budget of the tower's activations, on each device.
    block: Number of a block of which the states are wanted, too, that enter it,
      of all views; None for none.

  Returns:
    A function of a batch, and of a function that it calls before each step of
    the tower with what is being done and the share of the batch's work that is
    done. Without the latter, all steps are handed to the devices at once.
  """
  local = sharding.local_mesh(mesh)
  most = max(1, max_bytes // bytes_per_view(model))
  params = sharding.replicate(_image_params(model), mesh)
  doing = "compiling the image tower"

  def encode(
      images: pipeline.Batch,
      on_step: Callable[[str, float], None] | None = None):
    nonlocal doing
    pixels = sharding.split(views_of(images, recipe, local), mesh)
    num_views = len(images.mask) // local.devices.size * recipe.num_views
    num_steps = math.ceil(num_views / most)
    at_once = math.ceil(num_views / num_steps)
    tower = tower_program(
        model.config, model.preprocess, at_once, mesh, block)
    parts: list[Any] = []
    for step in range(num_steps):
      if on_step is not None:
        if step > 1:  # one step is under way while the next one is handed over
          sharding.wait(parts[step - 2])
        # What comes after the tower counts as a step.
        on_step(doing, max(step - 1, 0) / (num_steps + 1))
      parts.append(tower(
          (params, np.int32(min(step * at_once, num_views - at_once))), pixels))
      doing = "image tower"
    return _join_program(recipe.num_views, num_views, mesh)((), tuple(parts))

  return encode


def views_of(
    images: pipeline.Batch, recipe: views.Recipe, mesh: Mesh
) -> UInt8[Array, "b v s s 3"] | Float[Array, "b v s s 3"]:
  """Views of a batch, split over devices of this process.

  Args:
    images: The batch; what lies apart was cut with the same recipe.
    recipe: Recipe of the views.
    mesh: Devices of this process.
  """
  pixels = view_program(recipe, mesh)((), sharding.split(
      (images.canvases, images.sizes, images.keys), mesh))
  if not images.apart:
    return pixels
  together = np.array(pixels)
  for row, image in images.apart.items():
    size, key = np.array(image.size, np.int32), images.keys[row]
    if image.pixels.ndim == 3:
      canvas = views.on_canvas(image.pixels, views.canvas_shape(*image.size))
      together[row] = _views_of_one(canvas, size, key, recipe)
    else:
      together[row] = large_images.finish(image.pixels, size, key, recipe)
  return sharding.split(together, mesh)


@functools.cache  # as `jit` does: further image sets do not compile again
def tower_program(
    config: towers.ClipConfig,
    preprocessing: preprocess.Preprocess,
    at_once: int,
    mesh: Mesh,
    block: int | None = None,
) -> Callable[..., Any]:
  """Features of some of the views [b v s s 3] of a batch, see `encode_views`.

  Called with ((parameters, number of the first view), views). Views count
  through the images of a device, which gives as many rows as it takes at once.
  """

  def encode(shared, pixels):
    params, first = shared
    pixels = pixels.reshape(-1, *pixels.shape[2:])
    return encode_views(
        config, preprocessing, params,
        jax.lax.dynamic_slice_in_dim(pixels, first, at_once), block)

  return sharding.over_rows(encode, mesh)


@functools.cache
def view_program(recipe: views.Recipe, mesh: Mesh) -> Callable[..., Any]:
  """The views of images on canvases, called with ((), (canvases, sizes, keys)).
  """
  # One image after the other on each device: the views of one are work enough,
  # and those of large images would not fit all at once.
  return sharding.over_rows(
      lambda _, rows: jax.lax.map(
          lambda row: views.make_views(row[0], row[1], row[2], recipe), rows),
      mesh)


def encode_views(
    config: towers.ClipConfig,
    preprocessing: preprocess.Preprocess,
    params: towers.Params,
    pixels: UInt8[Array, "n s s 3"] | Float[Array, "n s s 3"],
    block: int | None = None,
) -> tuple[Float[Array, "n d"], Pooled, Float[Array, "n t w"] | None]:
  """Features of views, what the projection sees of them, what enters a block.
  """
  projection = towers.image_projection(config, params)
  dtype = projection.kernel.dtype
  pixels = preprocess.standardise(
      pixels, preprocessing.mean, preprocessing.std,
      jnp.promote_types(dtype, jnp.float32))
  pixels, states = pixels.astype(dtype), None
  if block is None:
    pooled = towers.pooled_image(config, params, pixels)
  else:
    pooled, states = towers.image_states(config, params, pixels, block)
  return towers.normalise(towers.project(
      pooled.activations, projection, pooled.residual,
      precision=config.vision.precision)), jax.tree.map(
          at_least_float32, pooled), states


@functools.partial(jax.jit, static_argnums=3)
def _views_of_one(canvas, size, key, recipe):
  return views.make_views(canvas, size, key, recipe)


def bytes_per_view(model: checkpoint.Model) -> int:
  """Bytes of activations that the image tower holds of a view."""
  leaves, structure = jax.tree.flatten(jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _image_params(model)))
  return _bytes_per_view(
      model.config, model.preprocess, tuple(leaves), structure)


@functools.cache  # a tower is traced once, not for every image set
def _bytes_per_view(config, preprocessing, leaves, structure):
  side = preprocessing.crop
  return memory.live_bytes(
      functools.partial(encode_views, config, preprocessing),
      jax.tree.unflatten(structure, leaves),
      jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))


def states_of_image(
    model: checkpoint.Model, block: int, num_views: int
) -> jax.ShapeDtypeStruct:
  """Shape [v t w] and dtype of what enters a block, of all views of an image.
  """
  side = model.preprocess.crop
  *_, states = jax.eval_shape(
      functools.partial(
          encode_views, model.config, model.preprocess, block=block),
      _image_params(model),
      jax.ShapeDtypeStruct((num_views, side, side, 3), jnp.float32))
  return states


def bytes_per_gradient(
    model: checkpoint.Model, number: int, states: jax.ShapeDtypeStruct) -> int:
  """Bytes that a backward pass through the last blocks holds of a view.

  Args:
    model: Model from `checkpoint.load`.
    number: Number of blocks.
    states: Shape and dtype from `states_of_image`.
  """
  one = jax.ShapeDtypeStruct((1, *states.shape[1:]), states.dtype)
  blocks = last_blocks.of(model.config, model.params, number)
  return memory.live_bytes(
      lambda blocks, states: jax.grad(
          lambda states: jnp.sum(blocks(states)))(states), blocks, one)


def _image_params(model):
  return {name: value for name, value in model.params.items()
          if name in towers.IMAGE_PARAMS}


@functools.cache
def _join_program(num_views, num_rows, mesh):
  """Steps of the tower become images again; the last one may overlap."""

  def join(_, parts):
    features, pooled, states = jax.tree.map(
        lambda *x: _in_a_row(x, num_rows).reshape(
            -1, num_views, *x[0].shape[1:]), *parts)
    return features, jax.tree.map(lambda x: x[:, 0], pooled), states

  return sharding.over_rows(join, mesh)


def _in_a_row(parts, num_rows):
  before = sum(len(part) for part in parts[:-1])
  return jnp.concatenate([*parts[:-1], parts[-1][before - num_rows:]])
