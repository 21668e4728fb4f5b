"""Images are decoded on a few threads and become batches of canvases.

Images of a batch lie on canvases of one shape, one of a few shapes, and
every batch has the same number of entries; so compiled functions see few
shapes. Views are made from the canvases on the device, see `views`. An image
that would make the canvases of its batch too large lies apart.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
import functools
import itertools
import types
from typing import NamedTuple

import numpy as np

from jaxcal.data import image_set as image_sets
from jaxcal.data import large_images
from jaxcal.data import pairs
from jaxcal.data import views
from jaxcal.typing import Bool
from jaxcal.typing import Int
from jaxcal.typing import Positions
from jaxcal.typing import UInt8

# Bytes of all canvases of a batch, and of all images that are read ahead.
_MOST_BYTES = 2**28
# Bytes of a canvas that need not lie apart, however many a batch has.
_SMALL_CANVAS = 2**20


class Image(NamedTuple):
  """An image of a size, or what `large_images` has cut out of it.

  Attributes:
    pixels: Pixels [h w 3], or those of the views [v s s 3].
    size: Height and width of the image.
  """

  pixels: UInt8[np.ndarray, "..."]
  size: tuple[int, int]


class Batch(NamedTuple):
  """Images on canvases; those with a false mask are none of the set's.

  They fill the batch up, or stand in for an image that cannot be used.

  Attributes:
    canvases: uint8 [b H W 3], each image in the upper left corner.
    sizes: int32 [b 2], height and width of the images.
    keys: uint32 [b 2], see `views.image_key`.
    ids: One id per image, also of one that cannot be used; empty in the
      filling.
    mask: bool [b]; whether the entry is an image of the set.
    apart: Images that would make the canvases too large, by entry; canvas and
      size there are those of a black pixel.
  """

  canvases: UInt8[np.ndarray, "b H W 3"]
  sizes: Int[np.ndarray, "b 2"]
  keys: Int[np.ndarray, "b 2"]
  ids: tuple[str, ...]
  mask: Bool[np.ndarray, "b"]
  apart: Mapping[int, Image] = types.MappingProxyType({})


def batches(
    image_set: image_sets.ImageSet | pairs.PairSet,
    positions: Iterable[Positions],
    *,
    seed: int,
    batch_size: int,
    num_threads: int,
    recipe: views.Recipe | None = None,
    prefetch: int = 2,
    on_unusable: Callable[[int, str], None] | None = None,
) -> Iterator[Batch]:
  """The images at the given positions, a batch for each sequence of them.

  Images are read on threads that run ahead while the caller works on a batch.
  At most `max(prefetch * batch_size, num_threads)` images are being read or
  waiting at a time, beside the batch being handed over; fewer, but for those
  on the threads, where they are large. Threads begin with the
  first batch and end with the last one, on an error, or when the iterator is
  closed; closing waits for the images being read.

  Args:
    image_set: The images; of pairs, the captions are not looked at.
    positions: Positions in the set of each batch's images: at most
      `batch_size`, possibly none; taken as far ahead as images are read.
    seed: The run's seed, see `views.image_key`.
    batch_size: Entries of a batch. The filling repeats the last image; where a
      batch has none, it is a black image of one pixel.
    num_threads: Threads that read images.
    recipe: Recipe of the views, by which images too large for a canvas are cut;
      if None, no image lies apart.
    prefetch: Batches to work ahead.
    on_unusable: Function called with the position of an image that cannot be
      read or has no usable size, and the reason. A black image of one pixel
      with a false mask then stands in its place, and the batches go on. Calls
      come from the caller's thread, in order, before the batch is handed over;
      one that raises ends the batches, as is wise where most images are
      unusable: then the cause is seldom the images. If None, such an image is
      an error.

  Returns:
    A generator of as many batches as `positions` has sequences. Canvases are
    as small as the batch allows, see `views.canvas_shape`.

  Raises:
    ValueError: At once if a number is out of range; with the batch that it
      belongs to if there are too many positions, one is outside the set, or an
      image cannot be read or has no usable size, naming its id. The batches
      before it are complete.
  """
  for name, value in (
      ("batch_size", batch_size),
      ("num_threads", num_threads),
      ("prefetch", prefetch),
  ):
    if value < 1:
      raise ValueError(f"expected {name} of at least 1, got {value}.")
  window = max(prefetch * batch_size, num_threads)

  def generate():
    current, ahead = itertools.tee(positions)
    images = _in_order(
        functools.partial(_read, image_set, seed, recipe),
        itertools.chain.from_iterable(ahead), num_threads, window, on_unusable,
    )
    try:
      for chosen in current:
        if len(chosen) > batch_size:
          raise ValueError(
              f"{len(chosen)} positions for a batch of {batch_size} images."
          )
        taken = list(itertools.islice(images, len(chosen)))
        yield _assemble(
            image_set, chosen, taken, seed, batch_size,
            apart=recipe is not None)
    finally:
      images.close()

  return generate()


class _Unusable(ValueError):
  """An image of the set that cannot be read or has no usable size."""


# Stands in where there is no image to show or to repeat.
_BLACK = Image(np.zeros((1, 1, 3), np.uint8), (1, 1))


def _read(image_set, seed, recipe, position):
  if not 0 <= position < len(image_set.ids):
    raise ValueError(
        f"there is no image number {position} in {image_set.name!r} of "
        f"{len(image_set.ids)} images."
    )
  name = image_set.ids[position]
  try:
    pixels = image_set.read(position)
    views.check_image(pixels)
    size = pixels.shape[:2]
    views.canvas_shape(*size)
    if recipe is not None and large_images.is_large(pixels):
      pixels = large_images.cut(pixels, views.image_key(seed, name), recipe)
  except Exception as error:
    raise _Unusable(
        f"cannot use image {name!r} (number {position} of "
        f"{image_set.name!r}): {error}"
    ) from error
  return Image(pixels, size)


def _in_order(read, positions, num_threads, window, on_unusable):
  """Image by image, while later ones are read on threads.

  None for one that cannot be used, once it was reported.
  """
  pool = futures.ThreadPoolExecutor(num_threads, "decoding")
  begun: collections.deque[tuple[int, futures.Future]] = collections.deque()
  largest = 1

  def begin():
    room = max(num_threads, min(window, _MOST_BYTES // largest))
    for position in itertools.islice(positions, max(room - len(begun), 0)):
      begun.append((position, pool.submit(read, position)))

  try:
    begin()
    while begun:
      position, reading = begun.popleft()
      try:
        image = reading.result()
      except _Unusable as error:
        if on_unusable is None:
          raise
        reason = error.__cause__
        on_unusable(int(position), str(reason) or repr(reason))
        image = None
      else:
        largest = max(largest, image.pixels.nbytes)
      begin()
      yield image
  finally:
    pool.shutdown(cancel_futures=True)


def _assemble(image_set, positions, images, seed, batch_size, *, apart):
  """The images on canvases, filled up to a batch."""
  ids = tuple(image_set.ids[position] for position in positions)
  filling = batch_size - len(images)
  shown = [image or _BLACK for image in images] or [_BLACK]
  large = {row: image for row, image in enumerate(shown)
           if apart and _lies_apart(image, batch_size)}
  shown = [_BLACK if row in large else image for row, image in enumerate(shown)]
  shown = shown + [shown[-1]] * (batch_size - len(shown))
  names = ids or ("",)
  names = names + (names[-1],) * (batch_size - len(names))
  sizes = np.array([image.size for image in shown], np.int32)
  shape = views.canvas_shape(*(int(side) for side in sizes.max(axis=0)))
  return Batch(
      canvases=np.stack(
          [views.on_canvas(image.pixels, shape) for image in shown]),
      sizes=sizes,
      keys=np.stack([views.image_key(seed, name) for name in names]),
      ids=ids + ("",) * filling,
      mask=np.array([image is not None for image in images]
                    + [False] * filling),
      apart=large,
  )


def _lies_apart(image, batch_size):
  if image.pixels.ndim == 4:
    return True
  height, width = views.canvas_shape(*image.size)
  return 3 * height * width > max(_SMALL_CANVAS, _MOST_BYTES // batch_size)
