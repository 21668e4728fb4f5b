"""The output folder: kept from other runs, and what a run has written to it.

Files that no run wrote stay.
"""

from collections.abc import Iterator, Sequence
import contextlib
import json
import pathlib
import re
import sys
from typing import Any

from jaxcal import config
from jaxcal.storage import atomic
from jaxcal.storage import lock

# In the output folder itself; figures of a sweep are called FIELD-SET.svg.
FILES = re.compile(
    r"run\.json|results\.(jsonl|md)|differences\.jsonl|report\.html"
    r"|selected-.+\.json|(diagram|losses|learning|[a-z_.]+\.[a-z_.]+|" +
    "|".join(config.number_names()) + r")-.+\.svg")
# Sub-folders that hold nothing but predictions, parameters, parts and states;
# "answers" are predictions of earlier versions.
FOLDERS = ("predictions", "answers", "features", "tuned", "digests")
# Parts of an unfinished run, and states to go on from.
_ALONE = re.compile(
    r"about\.json|(\d{8}|streams|fpp|sums|state-\d+(-\d+)?)\.npz"
    r"|(.+\.)?digests\.npz")
_TAKEN = contextlib.ExitStack()  # folders kept from others, see `take`
_PAIRS = {".npz": (".json",), ".safetensors": (".json",),
          ".json": (".npz", ".safetensors")}


@contextlib.contextmanager
def giving_back() -> Iterator[None]:
  """Gives back at its end what `take` took in it, however it ends."""
  with _TAKEN:
    yield


def take(folder: pathlib.Path) -> None:
  """Makes a folder, and keeps other runs out of it until the command ends.

  Raises:
    ValueError: Another run holds it.
    OSError: It cannot be written to.
  """
  atomic.make_folder(folder)
  before = _TAKEN.enter_context(lock.hold(folder))
  if before is not None:
    print(f"jaxcal: {folder} is taken over from a run that ended without "
          f"giving it back: {lock.describe(before)}", file=sys.stderr)
  atomic.remove_leftovers(folder)


def clear(
    folder: pathlib.Path,
    files: re.Pattern = FILES,
    folders: Sequence[str] = FOLDERS,
) -> None:
  """Removes what runs wrote to a folder, and says what was kept.

  Args:
    folder: The folder.
    files: Names of a run's files in the folder itself.
    folders: Names of a run's folders in it.
  """
  kept = remove_written(folder, files, folders)
  if kept:
    print(f"jaxcal: kept in {folder}, not written by a run of this kind: "
          f"{', '.join(kept)}", file=sys.stderr)


def read_settings(path: pathlib.Path) -> dict[str, Any]:
  """What a run.json says.

  Raises:
    ValueError: It is damaged.
  """
  try:
    return dict(json.loads(path.read_text(encoding="utf-8")))
  except (ValueError, TypeError) as error:
    raise ValueError(
        f"{path} is damaged ({error}), so that nobody knows what "
        f"{path.parent} holds; give another --output, or remove that folder"
    ) from error


def remove_written(
    folder: pathlib.Path,
    files: re.Pattern = FILES,
    folders: Sequence[str] = FOLDERS,
) -> list[str]:
  """Removes what runs have written to a folder, apart from its lock.

  Known by their names: the files of a report, predictions and parameters with
  their .json, parts, states, and what killed writers left. Files that were set
  aside as damaged stay, too.

  Args:
    folder: The folder; it may be missing.
    files: Names of a run's files in the folder itself.
    folders: Names of a run's folders in it.

  Returns:
    What was kept, by its path in the folder.
  """
  kept = []
  for path in sorted(folder.iterdir()) if folder.exists() else ():
    if path.name in folders and path.is_dir() and not path.is_symlink():
      kept += [f"{path.name}/{name}" for name in clear_work(path)]
    elif path.name in folders or files.fullmatch(path.name) or (
        atomic.is_leftover(path.name)):
      path.unlink(missing_ok=True)
    elif not lock.is_lock(path.name):
      kept.append(path.name)
  return kept


def clear_work(folder: pathlib.Path) -> list[str]:
  """The same for a folder of predictions, parameters, parts and states."""
  paths = sorted(folder.iterdir()) if folder.exists() else []
  names = {path.name for path in paths}
  kept = []
  for path in paths:
    if path.is_dir() and not path.is_symlink():
      kept += [f"{path.name}/{name}" for name in clear_work(path)]
    elif _is_own(path.name, names):
      path.unlink(missing_ok=True)
    else:
      kept.append(path.name)
  with contextlib.suppress(OSError):  # missing, or it holds what is kept
    folder.rmdir()
  return kept


def _is_own(name, names):
  """Whether a run wrote a file, by its name and those beside it."""
  stem, dot, ending = name.rpartition(".")
  return bool(_ALONE.fullmatch(name)) or atomic.is_leftover(name) or any(
      stem + other in names for other in _PAIRS.get(dot + ending, ()))
