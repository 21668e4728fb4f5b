"""Images become batches of views on a few threads, in order and bounded memory.

Every batch has the same shape, so a compiled function sees one shape only; the
last one is filled up and says so in its mask.
"""

import collections
from collections.abc import Callable, Iterator
from concurrent import futures
import itertools
from typing import NamedTuple

import numpy as np

from jaxcal.data import image_set as image_sets
from jaxcal.typing import Bool
from jaxcal.typing import Int
from jaxcal.typing import UInt8


class Batch(NamedTuple):
  """Views of `b` images; those with a false mask only fill the batch up.

  Attributes:
    views: uint8 [b v s s 3]; the filling repeats the last image.
    labels: int32 [b]; -1 in the filling.
    ids: One id per image; empty in the filling.
    mask: bool [b]; whether the entry is an image of the set.
  """

  views: UInt8[np.ndarray, "b v s s 3"]
  labels: Int[np.ndarray, "b"]
  ids: tuple[str, ...]
  mask: Bool[np.ndarray, "b"]


def batches(
    image_set: image_sets.ImageSet,
    make_views: Callable[
        [UInt8[np.ndarray, "h w 3"], str], UInt8[np.ndarray, "v s s 3"]
    ],
    *,
    batch_size: int,
    num_threads: int,
    start: int = 0,
    prefetch: int = 2,
) -> Iterator[Batch]:
  """The images of a set as batches of views, in the order of the set.

  Reading and making views happens on threads that run ahead while the caller
  works on a batch. At most `max(prefetch * batch_size, num_threads)` images are
  in the making or waiting at a time, beside the batch being handed over.
  Threads begin with the first batch and end with the last one, on an error, or
  when the iterator is closed; closing waits for the images being made.

  Args:
    image_set: The images.
    make_views: (image uint8 [h w 3], id) -> uint8 [v s s 3], of the same shape
      for every image. Called from several threads at once.
    batch_size: Images per batch.
    num_threads: Threads that read and make views.
    start: Position of the first image, for going on with an interrupted run;
      the number of images where nothing is left to do.
    prefetch: Batches to work ahead.

  Returns:
    A generator of ceil((n - start) / batch_size) batches.

  Raises:
    ValueError: at once if a number is out of range; with the batch that it
      belongs to if an image cannot be read or turned into views, naming its id.
      The batches before it are complete.
  """
  for name, value in (
      ("batch_size", batch_size),
      ("num_threads", num_threads),
      ("prefetch", prefetch),
  ):
    if value < 1:
      raise ValueError(f"expected {name} of at least 1, got {value}.")
  num_images = len(image_set.ids)
  if not 0 <= start <= num_images:
    raise ValueError(
        f"expected start in [0, {num_images}], the number of images in "
        f"{image_set.name!r}, got {start}."
    )
  window = max(prefetch * batch_size, num_threads)

  def generate():
    made = _in_order(image_set, make_views, start, num_threads, window)
    try:
      for first in range(start, num_images, batch_size):
        num_real = min(batch_size, num_images - first)
        yield _assemble(image_set, made, first, num_real, batch_size)
    finally:
      made.close()

  return generate()


def _in_order(image_set, make_views, start, num_threads, window):
  """Views image by image, while later ones are made on threads."""

  def make(position):
    image_id = image_set.ids[position]
    try:
      return make_views(image_set.read(position), image_id)
    except Exception as error:
      raise ValueError(
          f"no views of image {image_id!r} (number {position} of "
          f"{image_set.name!r}): {error}"
      ) from error

  positions = iter(range(start, len(image_set.ids)))
  pool = futures.ThreadPoolExecutor(num_threads, "views")
  begun = collections.deque()

  def begin(count):
    for position in itertools.islice(positions, count):
      begun.append((position, pool.submit(make, position)))

  try:
    begin(window)
    expected = None
    while begun:
      position, future = begun.popleft()
      views = future.result()
      expected = expected or (views.shape, np.dtype(np.uint8))
      if (views.shape, views.dtype) != expected:
        raise ValueError(
            f"the views of image {image_set.ids[position]!r} are {views.dtype} "
            f"{list(views.shape)}; expected uint8 {list(expected[0])}."
        )
      begin(1)
      yield views
  finally:
    pool.shutdown(cancel_futures=True)


def _assemble(image_set, made, first, num_real, batch_size):
  """The next `num_real` views, filled up to a batch."""
  views = None
  for row in range(num_real):
    one = next(made)
    if views is None:
      views = np.empty((batch_size, *one.shape), np.uint8)
    views[row] = one
  views[num_real:] = one
  real = slice(first, first + num_real)
  labels = np.full(batch_size, -1, np.int32)
  labels[:num_real] = image_set.labels[real]
  ids = image_set.ids[real] + ("",) * (batch_size - num_real)
  return Batch(views, labels, ids, np.arange(batch_size) < num_real)
