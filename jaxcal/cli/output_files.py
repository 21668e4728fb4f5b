"""Which files of a folder a run has written, so that others stay."""

from collections.abc import Sequence
import contextlib
import pathlib
import re

from jaxcal import sweep
from jaxcal.storage import atomic
from jaxcal.storage import lock

# In the output folder itself; figures of a sweep are called FIELD-SET.svg.
FILES = re.compile(
    r"run\.json|results\.(jsonl|md)|differences\.jsonl|report\.html"
    r"|selected-.+\.json|(diagram|losses|learning|[a-z_.]+\.[a-z_.]+|" +
    "|".join(sweep.FIELDS) + r")-.+\.svg")
# Sub-folders that hold nothing but predictions, parameters, parts and states.
FOLDERS = ("predictions", "answers", "features", "tuned")
# Parts of an unfinished run, and states to go on from.
_ALONE = re.compile(r"about\.json|(\d{8}|streams|fpp|sums|state-\d+)\.npz")
_PAIRS = {".npz": (".json",), ".safetensors": (".json",),
          ".json": (".npz", ".safetensors")}


def clear(
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
