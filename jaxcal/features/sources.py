"""Features of images, wherever they come from: one type for all ways.

A source knows its images and gives batches of their features in any order;
whether they are cut from pictures, read from a store or lie in memory.
"""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import functools
import math
import os
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
import numpy as np

from jaxcal import memory
from jaxcal import sharding
from jaxcal.clip import checkpoint
from jaxcal.clip import last_blocks
from jaxcal.clip import towers
from jaxcal.data import image_set as image_sets
from jaxcal.data import views
from jaxcal.features import encoding
from jaxcal.features import extract
from jaxcal.features import fill
from jaxcal.features import store as stores
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Int

# Of a store that is read in its own order, held at a time.
_WINDOW = 2**28
# Images of a chunk of a store that is a run's own: what a kill costs at most.
_CHUNK = 64
# Of the states of a batch: from the tower and joined, of it and of the next.
_COPIES = 4


class Deeper(NamedTuple):
  """The same images, for what adapts the last blocks of the image tower.

  Attributes:
    source: The images; their batches have `states`, what enters these blocks.
    blocks: Last blocks of the tower.
    states: Shape and dtype of the states of one image, [v t w].
    most_images: Most images per device and step whose states fit the budget.
  """

  source: "Source"
  blocks: last_blocks.LastBlocks
  states: jax.ShapeDtypeStruct
  most_images: int


class Source(NamedTuple):
  """Images by id, and how their features are had.

  Attributes:
    ids: Ids, one per image.
    labels: Positions in the class names; None where not known.
    class_names: Class names in label order; None where not known.
    order: Positions in the order in which they are had fastest.
    num_views: Views of each image, the clean one included.
    batches: Function from positions, batch by batch, a mesh, the images per
      device and a function that is told of the steps, or None, to
      `extract.Batch`es.
    deeper: Function from a number of last blocks of the image tower to the
      images for what adapts these; None where the tower is not at hand.
  """

  ids: tuple[str, ...]
  labels: Int[np.ndarray, "n"] | None
  class_names: tuple[str, ...] | None
  order: Int[np.ndarray, "n"]
  num_views: int
  batches: Callable[[Sequence[Int[np.ndarray, "r"]], Mesh, int,
                     extract.OnStep | None], Iterator[extract.Batch]]
  deeper: Callable[[int], Deeper] | None = None


def from_images(
    model: checkpoint.Model,
    image_set: image_sets.ImageSet,
    *,
    recipe: views.Recipe,
    seed: int = 0,
    num_threads: int = 4,
    max_bytes: int = memory.GIGABYTE,
) -> Source:
  """Views are cut from the images, and run through the image tower.

  Args:
    model: Model from `checkpoint.load`.
    image_set: The images.
    recipe: Numbers of the views.
    seed: Seed of the random views.
    num_threads: Threads that read images.
    max_bytes: Budget of the image tower's activations, on each device.

  Raises:
    ValueError: The set does not hold together, see `image_set.check`.
  """
  image_sets.check(image_set)

  def batches(positions, mesh, batch_size, on_step=None, block=None):
    return extract.from_images(
        model, image_set, positions, recipe=recipe, seed=seed, mesh=mesh,
        batch_size=batch_size, num_threads=num_threads, max_bytes=max_bytes,
        block=block, on_step=on_step)

  source = Source(image_set.ids, np.asarray(image_set.labels, np.int32),
                  image_set.class_names, np.arange(len(image_set.ids)),
                  recipe.num_views, batches)

  def deeper(number):
    last_blocks.check(model.config, number)
    block = model.config.vision.layers - number
    states = encoding.states_of_image(model, block, recipe.num_views)
    # Half of the budget each for the states and for the gradients.
    of_view = encoding.bytes_per_gradient(model, number, states)
    of_image = _COPIES * math.prod(states.shape) * states.dtype.itemsize
    blocks = last_blocks.of(
        model.config, model.params, number,
        views_at_once=max(1, max_bytes // 2 // of_view))
    return Deeper(
        source._replace(batches=functools.partial(batches, block=block)),
        blocks, states, max(1, max_bytes // 2 // of_image))

  return source._replace(deeper=deeper)


def through_store(
    model: checkpoint.Model,
    image_set: image_sets.ImageSet,
    folder: str | os.PathLike,
    *,
    recipe: views.Recipe,
    seed: int = 0,
    identity: Mapping[str, Any] | None = None,
    num_threads: int = 4,
    batch_size: int = 8,
    max_bytes: int = memory.GIGABYTE,
    window_bytes: int = memory.ON_HOST,
    progress: Callable[[str, int, int], None] | None = None,
) -> Source:
  """The same as `from_images`, by way of a store, for features at any position.

  The store is filled when features are first asked for: the images go through
  the tower once, however often and in whatever order their features are had.

  Args:
    model: Model from `checkpoint.load`.
    image_set: The images.
    folder: Folder of the store, new or of the same features.
    recipe: Recipe of the views.
    seed: Seed of the random views.
    identity: See `fill.fill`.
    num_threads: Threads that read images.
    batch_size: Images per device in the tower.
    max_bytes: Budget of the image tower's activations, on each device.
    window_bytes: Features that are held at a time, see `from_store`.
    progress: See `fill.fill`.

  Raises:
    ValueError: The set does not hold together, see `image_set.check`.
  """
  direct = from_images(
      model, image_set, recipe=recipe, seed=seed, num_threads=num_threads,
      max_bytes=max_bytes)

  def batches(positions, mesh, size, on_step=None):
    if not len(positions):
      return
    store = fill.fill(
        model, image_set, folder, recipe=recipe, seed=seed, dtype="float32",
        chunk_size=_CHUNK, batch_size=batch_size, num_threads=num_threads,
        max_bytes=max_bytes, identity=identity, progress=progress)
    sharding.barrier("features stored")
    yield from from_store(
        store, config=model.config, max_bytes=window_bytes).batches(
            positions, mesh, size, on_step)

  return direct._replace(batches=batches)


def from_store(
    store: stores.Store,
    *,
    image_set: image_sets.ImageSet | None = None,
    config: towers.ClipConfig | None = None,
    max_bytes: int = 4 * 2**30,
) -> Source:
  """Features that `jaxcal features` has stored.

  Args:
    store: Store from `store.open_store`.
    image_set: Images among those of the store, in an order of their own; all if
      None.
    config: Sizes of the model; needed for a posterior on top.
    max_bytes: Features that are held at a time where the order is not that of
      the store.

  Raises:
    ValueError: The store lacks an image of the set.
  """
  images = stores.image_set(store) if image_set is None else image_set
  image_sets.check(images)
  row_of = {image_id: row for row, image_id in enumerate(store.image_ids)}
  absent = [i for i in images.ids if i not in row_of]
  if absent:
    raise ValueError(f"the store {store.folder} has no features of "
                     f"{len(absent)} of {len(images.ids)} images, the first "
                     f"one {absent[0]!r}")
  rows = np.array([row_of[image_id] for image_id in images.ids])
  position_of = np.full(len(store.image_ids), -1)
  position_of[rows] = np.arange(len(rows))

  def batches(positions, mesh, batch_size, on_step=None):
    del on_step  # reading is quick
    asked = [rows[batch] for batch in positions]
    in_order = bool(np.all(np.diff(np.concatenate([[0], *asked])) >= 0))
    for batch in extract.from_store(
        store, asked, config=config, mesh=mesh, batch_size=batch_size,
        max_bytes=min(max_bytes, _WINDOW) if in_order else max_bytes):
      # Filling may name a row that nobody asked for.
      yield batch._replace(positions=position_of[batch.positions])

  return Source(images.ids, np.asarray(images.labels, np.int32),
                images.class_names, np.argsort(rows),
                store.manifest.num_views, batches)


def mapped(
    source: Source,
    function: Callable[[Float[Array, "b v d"]], Float[Array, "b v d"]],
) -> Source:
  """The same images, of which every view feature goes through a function.

  Args:
    source: The images.
    function: Function of a batch of unit-norm features, to such features.
  """

  def batches(*given):
    for batch in source.batches(*given):
      # What the projection sees no longer leads to these features.
      yield batch._replace(
          view_features=function(batch.view_features), pooled=None)

  return source._replace(batches=batches, deeper=None)


def from_arrays(
    view_features: Float[np.ndarray, "n v d"],
    *,
    labels: Int[np.ndarray, "n"] | None = None,
    ids: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
) -> Source:
  """Features in memory.

  Args:
    view_features: Unit-norm features of each image's views, the clean one
      first; they are not looked at here.
    labels: Positions in the class names.
    ids: Ids, one per image; "0", "1", ... if None.
    class_names: Class names in label order.

  Raises:
    ValueError: Another number of ids or labels than of images, or an id that
      occurs twice.
  """
  ids = tuple(map(str, range(len(view_features)) if ids is None else ids))
  for name, given in (("ids", ids), ("labels", labels)):
    if given is not None and len(given) != len(view_features):
      raise ValueError(f"{len(given)} {name} for {len(view_features)} images; "
                       "one for each expected")
  repeated = [one for one, count in collections.Counter(ids).items()
              if count > 1]
  if repeated:
    raise ValueError(f"{len(repeated)} ids occur more than once, the first one "
                     f"{repeated[0]!r}; give each image one of its own")

  def batches(positions, mesh, batch_size, on_step=None):
    del on_step
    return extract.from_arrays(
        view_features, positions, mesh=mesh, batch_size=batch_size)

  return Source(ids, labels,
                None if class_names is None else tuple(class_names),
                np.arange(len(ids)), view_features.shape[1], batches)
