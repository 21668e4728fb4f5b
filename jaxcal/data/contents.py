"""What the files of an image set hold: replaced pictures are noticed."""

from collections.abc import Callable
import pathlib
from typing import Any

from jaxcal.data import image_set as image_sets
from jaxcal.storage import identity


def identity_of(
    image_set: image_sets.ImageSet,
    *,
    memory: pathlib.Path | None = None,
    num_threads: int = 4,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
  """The identity of a set: ids, labels, class names, and what its files hold.

  Args:
    image_set: The images; none is decoded.
    memory: File that keeps the digests of all files with size and time, so
      that the next call reads only what has changed; none is kept if None.
    num_threads: Threads that read files.
    progress: Called with the number of files that were looked at since.

  Raises:
    OSError: a file cannot be read; names it.
  """
  names = image_set.ids, image_set.labels, image_set.class_names
  if image_set.path is None:
    return identity.of_data(*names)
  known = None if memory is None else identity.remembered(
      memory, image_set.ids)
  found = identity.file_digests(
      [image_set.path(i) for i in range(len(image_set.ids))], known,
      num_threads=num_threads, progress=progress)
  if memory is not None:
    identity.remember(memory, image_set.ids, found)
  return identity.of_data(*names, found.digests)
