"""What the files of a data set hold: replaced pictures are noticed."""

from collections.abc import Callable, Sequence
import pathlib
from typing import Any

from jaxcal.data import image_set as image_sets
from jaxcal.data import pairs as pairs_lib
from jaxcal.storage import identity


def identity_of(
    image_set: image_sets.ImageSet,
    *,
    memory: pathlib.Path | None = None,
    num_threads: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
  """The identity of a set: ids, labels, class names, what its files hold, and
  how they are corrupted.

  Args:
    image_set: The images; none is decoded.
    memory: File that keeps the digests of all files with size and time, so
      that the next call reads only what has changed; none is kept if None.
    num_threads: Threads that read files.
    progress: Function called with (files looked at, files in all).

  Raises:
    OSError: A file cannot be read; names it.
  """
  names = image_set.ids, image_set.labels, image_set.class_names
  corruption = dict(image_set.corruption or {})
  file = image_set.path or image_set.holder
  if file is None:
    return identity.of_data(*names) | corruption
  found = _digests(
      image_set.ids, [file(i) for i in range(len(image_set.ids))], None,
      memory, num_threads, progress)
  return identity.of_data(*names, found.digests) | corruption


def identity_of_pairs(
    pair_set: pairs_lib.PairSet,
    *,
    memory: pathlib.Path | None = None,
    num_threads: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
  """The identity of pairs: ids, captions, and what the images' files hold.

  Args:
    pair_set: The pairs; no image is decoded.
    memory: See `identity_of`, as the others.
    num_threads: Number of threads that read files.
    progress: Function called with (files looked at, files in all).

  Raises:
    OSError: A file cannot be read; names it.
  """
  contents = None
  if pair_set.place is not None:
    places = [pair_set.place(i) for i in range(len(pair_set.ids))]
    found = _digests(
        pair_set.ids, [place.path for place in places],
        [(place.start, place.length) for place in places],
        memory, num_threads, progress)
    contents = identity.of_array(found.digests)
  return {"pairs.number": len(pair_set.ids),
          "pairs.ids": identity.of_lines(pair_set.ids),
          "pairs.captions": identity.of_lines(pair_set.captions),
          "pairs.contents": contents}


def _digests(
    ids: Sequence[str], paths, spans, memory, num_threads, progress):
  """Digests of all files, of which those that are remembered are not read."""
  known = None if memory is None else identity.remembered(memory, ids)
  found = identity.file_digests(
      paths, known, spans=spans, num_threads=num_threads, progress=progress)
  if memory is not None:
    identity.remember(memory, ids, found)
  return found
