"""Files that are not what their names promise, refused by their names."""

from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
from typing import Any

_POINTER = b"version https://git-lfs.github.com/spec/"
_PAGES = (b"<!doctype html", b"<html")
_LONGEST = 300  # letters of a reason

_AGAIN = "get the whole file again, from where it came"


class DamagedFile(ValueError):
  """A file that cannot be read: empty, cut off, or not of its format.

  The message names the file, says what is wrong, and what to do.
  """

  def __init__(
      self, path: str | os.PathLike, reason: object, way_out: str = _AGAIN):
    text = " ".join(str(reason).split()) or type(reason).__name__
    if len(text) > _LONGEST:
      text = f"{text[:_LONGEST]} ..."
    super().__init__(f"{path} is damaged ({text}); {way_out}")


@contextlib.contextmanager
def told(path: str | os.PathLike, way_out: str = _AGAIN) -> Iterator[None]:
  """Whatever a reader of a format comes upon becomes a DamagedFile.

  Args:
    path: File that is read in here.
    way_out: What to do, the end of the message.
  """
  try:
    yield
  except (DamagedFile, OSError, MemoryError, ImportError):
    raise
  except Exception as error:
    # Parsers raise what they come upon: a RecursionError, errors of their own.
    raise DamagedFile(path, error, way_out) from error


def refuse_stub(path: pathlib.Path, way_out: str = _AGAIN) -> None:
  """Refuses what often lies in the place of a file, of whatever format.

  Args:
    path: File that is going to be read.
    way_out: What to do where it is empty.

  Raises:
    DamagedFile: It is empty, a pointer of Git LFS, or a web page.
    OSError: It cannot be read.
  """
  with open(path, "rb") as file:
    start = file.read(len(_POINTER))
  if not start:
    raise DamagedFile(path, "it is empty", way_out)
  if start == _POINTER:
    raise DamagedFile(
        path, "it is a pointer of Git LFS, not the file itself",
        "run `git lfs pull` in its repository, or download the file")
  if start.lstrip().lower().startswith(_PAGES):
    raise DamagedFile(path, "it is a web page", way_out)


def read_json(path: pathlib.Path, way_out: str = _AGAIN) -> Any:
  """What a file of JSON holds.

  Args:
    path: Place of the file.
    way_out: What to do where it is damaged.

  Raises:
    DamagedFile: It is no JSON, or nested too deeply.
    FileNotFoundError: It is not there.
  """
  refuse_stub(path, way_out)
  content = path.read_bytes()
  try:
    return json.loads(content)
  except (ValueError, RecursionError) as error:
    raise DamagedFile(path, f"no JSON: {error}", way_out) from error


def read_object(path: pathlib.Path, way_out: str = _AGAIN) -> dict[str, Any]:
  """What a file of JSON holds that must be an object.

  Raises:
    DamagedFile: See `read_json`; or it holds something else.
    FileNotFoundError: It is not there.
  """
  found = read_json(path, way_out)
  if not isinstance(found, dict):
    raise DamagedFile(path, "expected an object of JSON, but it holds a "
                      f"{type(found).__name__}", way_out)
  return found


def read_rows(
    path: pathlib.Path, way_out: str = _AGAIN) -> list[dict[str, Any]]:
  """The objects of JSON in the lines of a file; none where it is empty.

  Raises:
    DamagedFile: A line holds something else; says which.
    FileNotFoundError: It is not there.
  """
  found = []
  with told(path, way_out):
    lines = path.read_text(encoding="utf-8").splitlines()
  for number, line in enumerate(lines, 1):
    try:
      found.append(dict(json.loads(line)))
    except (ValueError, TypeError, RecursionError) as error:
      raise DamagedFile(
          path, f"no JSON in line {number}: {error}", way_out) from error
  return found
