"""A file of arrays and the JSON that describes it, seen as one.

The JSON takes its place last and has the checksums of both. So a pair is there
when the JSON is, and a reader never takes the JSON of one writer for that of
another's arrays. Pairs without checksums, as version 0.1.0 wrote them, are
read, too.
"""

from collections.abc import Mapping
import hashlib
import json
import os
import pathlib
import random
import time
from typing import Any

from jaxcal.storage import atomic

# Keys of the JSON: checksum of the arrays' file, and of all other keys.
_ARRAYS = "sha256"
_JSON = "sha256_json"
_CHECKSUMS = (_ARRAYS, _JSON)
# While files of two writers are in place, which is for an instant.
_TRIES = 10
_PAUSE = 0.05  # seconds
_REPAIRS = 100

Path = str | os.PathLike


def write(
    path: Path, ending: str, content: bytes, about: Mapping[str, Any]) -> None:
  """Writes `path`.`ending` and `path`.json.

  Args:
    path: Path without an ending; its folder is there already.
    ending: Ending of the file of arrays.
    content: Content of the file of arrays.
    about: What to write into the JSON beside the checksums.

  Raises:
    OSError: See `atomic.write_whole`; or others keep writing the same pair.
  """
  about = json.loads(json.dumps(about))
  about = {key: value for key, value in about.items() if key not in _CHECKSUMS}
  text = json.dumps(
      about | {_ARRAYS: hashlib.sha256(content).hexdigest(),
               _JSON: _digest(about)}, indent=2, ensure_ascii=False) + "\n"
  arrays_path, json_path = _paths(path, ending)
  if not _is_checked(json_path):
    # It would be taken for that of the new arrays.
    json_path.unlink(missing_ok=True)
  for _ in range(_REPAIRS):
    written = atomic.write_together(
        {arrays_path: content, json_path: text.encode()})
    ours = [atomic.stamp(file) == stamp for file, stamp in written.items()]
    if all(ours) or not any(ours):
      return
    # Another writer's files came in between, and one of ours is left.
    time.sleep(random.uniform(0, _PAUSE))
  raise OSError(f"other processes keep writing {json_path}; let one write at a "
                "time")


def read(path: Path, ending: str) -> tuple[bytes, dict[str, Any]]:
  """What `write` wrote to the same path: content and `about`.

  Raises:
    FileNotFoundError: One of the two files is missing.
    ValueError: One of them is damaged, or they are of two writers of which one
      was killed; names both and says what to do.
  """
  arrays_path, json_path = _paths(path, ending)
  for tried in range(_TRIES):
    if tried:
      time.sleep(_PAUSE)
    before = atomic.stamp(json_path)
    checksum, about = _read_json(json_path, arrays_path)
    content = arrays_path.read_bytes()
    if checksum is None:
      if atomic.stamp(json_path) == before:
        return content, about
    elif checksum == hashlib.sha256(content).hexdigest():
      return content, about
  raise ValueError(
      f"{arrays_path} is not the file that {json_path} describes: one of them "
      f"is damaged, or was written without the other. {_way_out(arrays_path)}")


def about(path: Path, ending: str) -> dict[str, Any]:
  """What the JSON says, without a look at the arrays.

  Raises:
    FileNotFoundError: There is none.
    ValueError: It is damaged.
  """
  arrays_path, json_path = _paths(path, ending)
  return _read_json(json_path, arrays_path)[1]


def exists(path: Path, ending: str) -> bool:
  """Whether `write` has come to its end, once at least."""
  return all(file.exists() for file in _paths(path, ending))


def damaged(path: Path, ending: str, reason: object) -> ValueError:
  """The error for arrays that agree with the checksum, but cannot be used."""
  arrays_path, _ = _paths(path, ending)
  return ValueError(f"{arrays_path} is damaged ({reason}). "
                    f"{_way_out(arrays_path)}")


def _paths(path, ending):
  return atomic.with_ending(path, ending), atomic.with_ending(path, "json")


def _read_json(json_path, arrays_path):
  """Checksum of the arrays (None without one), and all that is no checksum."""
  try:
    found = json.loads(json_path.read_bytes())
    checksums = [found.pop(key, None) for key in _CHECKSUMS]
  except (
      ValueError, AttributeError, TypeError, RecursionError) as error:
    raise ValueError(f"{json_path} is damaged ({error}). "
                     f"{_way_out(arrays_path)}") from error
  if checksums[1] not in (None, _digest(found)):
    raise ValueError(
        f"{json_path} is damaged: it does not have its checksum. "
        f"{_way_out(arrays_path)} If it was changed on purpose, remove its "
        f"{_JSON!r}.")
  return checksums[0], found


def _is_checked(json_path):
  """Whether a JSON has the checksum of its arrays, or is not there at all."""
  try:
    return _ARRAYS in json.loads(json_path.read_bytes())
  except FileNotFoundError:
    return True
  except (ValueError, TypeError, RecursionError):
    return False


def _way_out(arrays_path):
  json_name = pathlib.Path(arrays_path).with_suffix(".json").name
  return (f"Remove {arrays_path.name} and {json_name} and give the command "
          "that wrote them again, which makes them anew.")


def _digest(about):
  return hashlib.sha256(
      json.dumps(about, sort_keys=True).encode()).hexdigest()
