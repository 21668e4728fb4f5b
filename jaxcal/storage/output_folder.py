"""A folder that runs write to: kept from other runs, and cleared of theirs.

Files that no run wrote stay.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import hashlib
import json
import os
import pathlib
import re
from typing import Any

from jaxcal import config
from jaxcal.storage import atomic
from jaxcal.storage import damage
from jaxcal.storage import lock

# In the output folder itself; figures of a sweep are called FIELD-SET.svg.
FILES = (
    r"run\.json|results\.(jsonl|md|csv|tex)"
    r"|(differences|means|orders|stream)\.(jsonl|csv|tex)"
    r"|(published|seeds)\.jsonl"
    r"|images-.+\.csv|thumbnails\.json"
    r"|report\.html|(sets|failure)\.(jsonl|json|md|html)"
    r"|diagnosis\.(html|jsonl|md)|compare\.(md|jsonl)|per_image\.csv"
    r"|selected-.+\.json"
    r"|(diagram|sets|losses|learning|cosines|pairs|[a-z_.]+\.[a-z_.]+|" +
    "|".join(config.number_names()) + r")-.+\.svg")
# Sub-folders that hold nothing but predictions, parameters, parts, states and
# claims; "answers" are predictions of earlier versions.
FOLDERS = ("predictions", "answers", "features", "tuned", "digests", "claims")
# Parts of an unfinished run, states to go on from, files of stores, and who has
# begun with what.
_ALONE = re.compile(
    r"about\.json|(\d{8}|streams|fpp|sums|state-\d+(-\d+)?)\.npz"
    r"|(.+\.)?digests\.npz|\d+\.claim"
    r"|(manifest|index|left_out|zarr|\d{8})\.json|c(\.\d+)+")
_PAIRS = {".npz": (".json",), ".safetensors": (".json",),
          ".json": (".npz", ".safetensors")}


@contextlib.contextmanager
def taken(folder: str | os.PathLike) -> Iterator[lock.Owner | None]:
  """Makes a folder, and keeps other runs out until the end of the context.

  Yields:
    The owner that ended without giving the folder back, if there was one.

  Raises:
    lock.FolderLocked: Another run holds it.
    OSError: It cannot be written to.
  """
  atomic.make_folder(folder)
  with lock.hold(folder) as before:
    atomic.remove_leftovers(folder)
    yield before


def hashed(name: str, settings: Mapping[str, Any]) -> str:
  """The name of a folder, with a hash of what decides the numbers in it."""
  digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]
  return f"{name}-{digest}"


def write_settings(
    folder: str | os.PathLike, settings: Mapping[str, Any]) -> None:
  """Says in run.json what a run is of."""
  atomic.write_whole(pathlib.Path(folder, "run.json"),
                     json.dumps(settings, indent=2).encode())


def read_settings(path: pathlib.Path) -> dict[str, Any]:
  """What a run.json says.

  Raises:
    ValueError: It is damaged.
  """
  return damage.read_object(
      path, f"nobody knows what {path.parent} holds: give another --output, or "
      "remove that folder")


def remove_written(
    folder: str | os.PathLike,
    files: str = FILES,
    folders: Sequence[str] = FOLDERS,
) -> list[str]:
  """Removes what runs have written to a folder, apart from its lock.

  Known by their names: the files of a report, predictions and parameters with
  their .json, parts, states, and what killed writers left. Files that were set
  aside as damaged stay, too.

  Args:
    folder: The folder; it may be missing.
    files: Pattern of the names of a run's files in the folder itself.
    folders: Names of a run's folders in it.

  Returns:
    What was kept, by its path in the folder.
  """
  kept = []
  for path in _entries(folder):
    if path.name in folders and path.is_dir() and not path.is_symlink():
      kept += [f"{path.name}/{name}" for name in _clear_work(path)]
    elif path.name in folders or re.fullmatch(files, path.name) or (
        atomic.is_leftover(path.name)):
      path.unlink(missing_ok=True)
    elif not lock.is_lock(path.name):
      kept.append(path.name)
  return kept


def _clear_work(folder):
  """The same for a folder of predictions, parameters, parts and states."""
  paths = _entries(folder)
  names = {path.name for path in paths}
  kept = []
  for path in paths:
    if path.is_dir() and not path.is_symlink():
      kept += [f"{path.name}/{name}" for name in _clear_work(path)]
    elif _is_own(path.name, names):
      path.unlink(missing_ok=True)
    else:
      kept.append(path.name)
  with contextlib.suppress(OSError):  # missing, or it holds what is kept
    folder.rmdir()
  return kept


def _entries(folder):
  folder = pathlib.Path(folder)
  return sorted(folder.iterdir()) if folder.exists() else []


def _is_own(name, names):
  """Whether a run wrote a file, by its name and those beside it."""
  stem, dot, ending = name.rpartition(".")
  return bool(_ALONE.fullmatch(name)) or atomic.is_leftover(name) or any(
      stem + other in names for other in _PAIRS.get(dot + ending, ()))
