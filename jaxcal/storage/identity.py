"""What a saved number is of: compared on every reuse, told where it differs.

An identity is a flat mapping from dotted names to what JSON holds. All that
enters a number is in it, and nothing else: bins, batches, threads and devices
may change.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import concurrent.futures
import hashlib
import io
import json
import os
import pathlib
import stat
import time
from typing import Any, NamedTuple

import numpy as np

from jaxcal.storage import arrays as arrays_lib
from jaxcal.storage import atomic
from jaxcal.typing import Int
from jaxcal.typing import UInt8

Identity = Mapping[str, Any]

# Raised by hand whenever the same inputs give other numbers. Stored results
# guard it: tests/quickstart_test.py.
COMPUTATION = 1

# What a value is called that one of two identities lacks.
_NOTHING = "nothing"
_BLOCK = 2**20  # bytes that are read of a file at a time
_SETTLED = 2 * 10**9  # nanoseconds, coarser than the clocks of file systems


class Digests(NamedTuple):
  """What files held when they were last read.

  Attributes:
    sizes: Bytes of each file.
    times: Nanoseconds of each file's last change.
    digests: SHA-256 of each file's content.
  """

  sizes: Int[np.ndarray, "n"]
  times: Int[np.ndarray, "n"]
  digests: UInt8[np.ndarray, "n 32"]


def differences(stored: Identity, asked: Identity) -> list[str]:
  """What differs, a line each with both values; nothing if all is the same."""
  value = lambda one, name: json.loads(json.dumps(one.get(name, _NOTHING)))
  return [
      f"{name}: stored {value(stored, name)!r}, asked {value(asked, name)!r}"
      for name in sorted(set(stored) | set(asked))
      if value(stored, name) != value(asked, name)]


def check(
    stored: Any, asked: Identity, *, what: str, way_out: str) -> None:
  """Refuses what is of something else.

  Args:
    stored: Identity that lies beside it; what is no mapping is of nothing.
    asked: Identity of what is wanted.
    what: Beginning of the message, what is refused.
    way_out: End of the message.

  Raises:
    ValueError: They differ; names every part with both values.
  """
  found = differences(stored if isinstance(stored, Mapping) else {}, asked)
  if found:
    raise ValueError("\n  ".join([f"{what}:", *found]) + f"\n{way_out}")


def of_data(
    ids: Sequence[str],
    labels: Int[np.ndarray, "n"],
    class_names: Sequence[str],
    contents: UInt8[np.ndarray, "n 32"] | None = None,
) -> dict[str, Any]:
  """The identity of labelled images.

  Args:
    ids: Ids, one per image, in their order.
    labels: Positions in the class names.
    class_names: Names in label order.
    contents: Digest of each image's file; None where they are no files, but
      made by code or read from a data base.

  Returns:
    Counts and digests.
  """
  return {
      "data.num_images": len(ids),
      "data.num_classes": len(class_names),
      "data.ids": of_lines(ids),
      "data.labels": hashlib.sha256(
          np.asarray(labels, "<i4").tobytes()).hexdigest()[:16],
      "data.class_names": of_lines(class_names),
      "data.contents": None if contents is None else hashlib.sha256(
          np.ascontiguousarray(contents).tobytes()).hexdigest()[:16],
  }


def of_lines(lines: Iterable[str]) -> str:
  """A short digest of texts in their order; none is taken for two."""
  digest = hashlib.sha256()
  for line in lines:
    encoded = line.encode("utf-8", "surrogateescape")
    digest.update(len(encoded).to_bytes(8, "little") + encoded)
  return digest.hexdigest()[:16]


def of_array(values: np.ndarray) -> str:
  """A short digest of an array's shape, type and values."""
  values = np.ascontiguousarray(values)
  digest = hashlib.sha256(f"{values.dtype.str} {values.shape}".encode())
  digest.update(values.tobytes())
  return digest.hexdigest()[:16]


def file_digests(
    paths: Sequence[str | os.PathLike],
    known: Digests | None = None,
    *,
    spans: Sequence[tuple[int, int | None]] | None = None,
    num_threads: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> Digests:
  """What files hold; those of known size and time are not read again.

  Nor is a file that stands for several images, such as one of records.

  Args:
    paths: The files.
    known: What the same files held before, in the same order, if anything.
    spans: First byte and length (None: to the end) of the part of each file
      that counts, such as a member of a tar; whole files if None.
    num_threads: Threads that read.
    progress: Function called with (files looked at, files in all).

  Raises:
    OSError: A file cannot be read; names it.
  """
  n = len(paths)
  found = Digests(np.zeros(n, np.int64), np.zeros(n, np.int64),
                  np.zeros((n, 32), np.uint8))
  places = [(os.fspath(path), None if spans is None else spans[row])
            for row, path in enumerate(paths)]
  first = {place: row for row, place in reversed(list(enumerate(places)))}

  def look(rows):
    for row in rows:
      if first[places[row]] != row:
        continue
      about = os.stat(paths[row])
      if not stat.S_ISREG(about.st_mode):  # reading may wait for ever
        raise OSError(f"expected a file, but {paths[row]} is none")
      found.sizes[row], found.times[row] = about.st_size, about.st_mtime_ns
      if known is not None and (known.sizes[row], known.times[row]) == (
          about.st_size, about.st_mtime_ns):
        found.digests[row] = known.digests[row]
      else:
        content = (_digest(paths[row]) if spans is None else
                   _digest(paths[row], *spans[row]))
        found.digests[row] = np.frombuffer(content, np.uint8)
    return len(rows)

  with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
    done = 0
    for number in pool.map(look, np.array_split(
        np.arange(n), max(1, n // 64))):
      done += number
      if progress is not None:
        progress(done, n)
  of = np.array([first[place] for place in places], np.int64)
  return Digests(found.sizes[of], found.times[of], found.digests[of])


def remembered(
    path: pathlib.Path, ids: Sequence[str]) -> Digests | None:
  """What `remember` wrote, for these images; None where there is nothing.

  Images that it does not know have a size of -1, which no file has.
  """
  try:
    arrays = arrays_lib.unpack(path)
    if arrays["ids"].tobytes() == _joined(ids):
      rows = np.arange(len(ids))
    else:
      row_of = {image_id: row for row, image_id in enumerate(
          arrays["ids"].tobytes().split(b"\0"))}
      rows = np.array([row_of.get(_joined([image_id]), -1)
                       for image_id in ids])
    found = Digests(
        np.where(rows < 0, -1, arrays["sizes"][rows]).astype(
            np.int64, casting="same_kind"),
        arrays["times"][rows].astype(np.int64, casting="same_kind"),
        arrays["digests"][rows].astype(np.uint8, casting="no"))
  except (OSError, ValueError, KeyError, IndexError, TypeError):
    return None  # not there, or damaged and easily computed again
  return found if found.digests.shape == (len(ids), 32) and (
      found.sizes.shape == found.times.shape == (len(ids),)) else None


def remember(
    path: pathlib.Path, ids: Sequence[str], digests: Digests) -> None:
  """Keeps digests for the next run on the same images.

  A file that has just been changed may change again without its time or size
  telling, so it will be read again.
  """
  settled = digests.times < time.time_ns() - _SETTLED
  digests = digests._replace(sizes=np.where(settled, digests.sizes, -1))
  content = io.BytesIO()
  np.savez(content, ids=np.frombuffer(_joined(ids), np.uint8),
           **digests._asdict())
  path.parent.mkdir(parents=True, exist_ok=True)
  atomic.write_whole(path, content.getvalue())


def _joined(ids):
  return "\0".join(ids).encode("utf-8", "surrogateescape")


def _digest(path, start=0, length=None):
  digest, left = hashlib.sha256(), length
  with open(path, "rb") as file:
    file.seek(start)
    while block := file.read(_BLOCK if left is None else min(_BLOCK, left)):
      digest.update(block)
      left = left and left - len(block)
  return digest.digest()
