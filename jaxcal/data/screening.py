"""Images that cannot be used: found before hours are spent, or left out.

  screening.check(images)                  # headers: refuses what they tell
  images = screening.usable(images)        # decodes all: leaves out what fails
"""

from collections.abc import Callable, Sequence
import concurrent.futures
import io
import itertools

from absl import logging
import numpy as np

from jaxcal import spelling
from jaxcal.data import decoding
from jaxcal.data import image_set as image_sets
from jaxcal.data import views

_Report = Callable[[int, int], None]
_AT_ONCE = 8  # images that a thread takes at a time


def check(
    image_set: image_sets.ImageSet,
    *,
    num_threads: int = 4,
    progress: _Report | None = None,
) -> None:
  """Refuses a set of which some image cannot be used, as far as headers tell.

  Damage behind the header, as in a file that was cut off, is found only by
  decoding. Images that are no files are not looked at.

  Args:
    image_set: The images.
    num_threads: Threads that read headers.
    progress: Function called with (files looked at, files in all).

  Raises:
    ValueError: After all files were looked at; names up to ten bad ones.
  """
  path, encoded = image_set.path, image_set.encoded
  if path is not None:
    look = lambda position: decoding.check_header(path(position))
  elif encoded is not None:
    look = lambda position: decoding.check_header(
        io.BytesIO(encoded(position)))
  else:
    return
  bad = failures(
      look, image_set.ids, num_threads=num_threads, progress=progress)
  if bad:
    raise ValueError("\n  ".join([
        f"{len(bad)} of {len(image_set.ids)} files of {image_set.name!r} "
        "cannot be read as images or used as they are; remove or mend them, or "
        "leave such images out (on_bad_image='skip', "
        "--config.data.on_bad_image=skip):",
        *spelling.shortened(_lines(bad))]))


def usable(
    image_set: image_sets.ImageSet,
    *,
    num_threads: int = 4,
    progress: _Report | None = None,
) -> image_sets.ImageSet:
  """The images that can be used; every one is decoded once.

  So what is left out is known before anything is computed, and is the same in
  every process, however often a run is taken up again.

  Args:
    image_set: The images.
    num_threads: Threads that decode.
    progress: Function called with (images looked at, images in all).

  Returns:
    The set without the images that cannot be decoded or that no views can be
    made of; their ids and the reasons are in `left_out`, and the first ten in
    a warning in the log. Classes stay candidates.

  Raises:
    ValueError: If no image can be used; names up to ten with the reasons.
  """

  def decode(position):
    image = image_set.read(position)
    views.check_image(image)
    views.canvas_shape(*image.shape[:2])

  bad = failures(
      decode, image_set.ids, num_threads=num_threads, progress=progress)
  if not bad:
    return image_set
  if len(bad) == len(image_set.ids):
    raise ValueError("\n  ".join([
        f"none of the {len(bad)} images of {image_set.name!r} can be used:",
        *spelling.shortened(_lines(bad))]))
  logging.warning(
      "%s: left out %d of %d images, which cannot be used:\n  %s",
      image_set.name, len(bad), len(image_set.ids),
      "\n  ".join(spelling.shortened(_lines(bad))))
  kept = [position for position, image_id in enumerate(image_set.ids)
          if image_id not in bad]
  return image_sets.take(image_set, np.array(kept))._replace(
      left_out={**image_set.left_out, **bad})


def failures(
    look: Callable[[int], object],
    ids: Sequence[str],
    *,
    num_threads: int = 4,
    progress: _Report | None = None,
) -> dict[str, str]:
  """The images at which a look raises, in order, and why.

  Args:
    look: Function of the position of an image, which raises where it is
      damaged.
    ids: Ids of the images.
    num_threads: Threads that look.
    progress: Function called with (images looked at, images in all).
  """
  def reasons(positions):
    return [_reason(look, int(position)) for position in positions]

  found: dict[str, str] = {}
  done = 0
  with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
    blocks = np.array_split(np.arange(len(ids)), len(ids) // _AT_ONCE + 1)
    for reason in itertools.chain.from_iterable(pool.map(reasons, blocks)):
      if reason:
        found[ids[done]] = reason
      done += 1
      if progress is not None:
        progress(done, len(ids))
  return found


def _reason(look, position):
  """Why an image cannot be used; nothing if it can."""
  try:
    look(position)
  except Exception as error:  # what damage raises, see `decoding`
    cause = error.__cause__ or error  # without the path, which is not its own
    return getattr(cause, "strerror", None) or str(cause) or repr(cause)
  return ""


def _lines(reasons):
  return [f"{image_id}: {reason}" for image_id, reason in reasons.items()]
