"""Outputs of an unfinished run: written batch by batch, gathered at the end.

A folder holds what the outputs are of (`about.json`) and one file per batch and
process. Every file appears whole or not at all, so a run that was interrupted
computes the rest only, whatever its batch size and number of processes. A file
that was damaged later is set aside as NAME.damaged, with a warning, and counts
as missing.
"""

from collections.abc import Callable, Mapping, Sequence
import json
import pathlib
from typing import Any

from absl import logging
import numpy as np

from jaxcal.storage import arrays as arrays_lib
from jaxcal.storage import atomic
from jaxcal.storage import damage
from jaxcal.storage import identity as identity_lib
from jaxcal.typing import Int
from jaxcal.typing import Positions
from jaxcal.typing import Shaped

_ABOUT = "about.json"
_POSITIONS = "positions"


def open_folder(
    folder: pathlib.Path,
    ids: Sequence[str],
    names: Sequence[str],
    order: Positions | None = None,
    identity: Mapping[str, Any] | None = None,
) -> None:
  """Makes a folder for the outputs of these images under these names.

  Args:
    folder: Folder, new or of an unfinished run.
    ids: One id per image.
    names: Names of what predicts.
    order: Positions of the images as they are seen, where it matters.
    identity: What else the outputs are of, anything that JSON holds; not
      compared if None.

  Raises:
    ValueError: It holds outputs of other images, under other names, of another
      order or of another identity, of which every differing key is named; or
      it does not say of what they are.
  """
  atomic.make_folder(folder)
  about = {"names": list(names), "ids": list(ids),
           "order": None if order is None else np.asarray(order).tolist()}
  path = folder / _ABOUT
  if not path.exists():
    if _files(folder):
      raise ValueError(
          f"{folder} holds outputs, but no {_ABOUT} that says of what; remove "
          "that folder, and what was in it is computed again")
    atomic.write_whole(path, json.dumps(
        about | {"identity": dict(identity or {})}).encode())
    return
  stored = _read_about(folder)
  for key, value in about.items():
    if stored.get(key) != value:
      raise ValueError(f"{folder} holds outputs of an unfinished run with "
                       f"other {key}; remove it, or write to another folder")
  if identity is not None:
    identity_lib.check(
        stored.get("identity", {}), identity,
        what=f"{folder} holds outputs of another unfinished run",
        way_out="remove it, or write to another folder")


def names(folder: pathlib.Path) -> tuple[str, ...]:
  """What `open_folder` was given; nothing where there is no such folder."""
  try:
    return tuple(_read_about(folder)["names"])
  except (FileNotFoundError, ValueError):
    return ()


def missing(
    folder: pathlib.Path, num_images: int, *, set_aside: bool = True
) -> Int[np.ndarray, "r"]:
  """Positions of the images that have no output yet, ascending.

  All files are read and compared with their checksums.

  Args:
    folder: Folder made by `open_folder`.
    num_images: Number of images in the set.
    set_aside: Whether damaged files get another name; without, nothing is
      written.
  """
  done = np.zeros(num_images, bool)
  for path in _files(folder):
    part = _read(path, num_images, set_aside=set_aside)
    if part is not None:
      done[part[_POSITIONS]] = True
  return np.flatnonzero(~done)


def write(
    folder: pathlib.Path,
    positions: Int[np.ndarray, "r"],
    outputs: Mapping[str, Mapping[str, Shaped[np.ndarray, "r ..."]]],
) -> None:
  """Writes the outputs of some images.

  Args:
    folder: Folder made by `open_folder`.
    positions: Positions of the images in the set, at least one.
    outputs: Arrays by name and field, e.g. outputs["tpt"]["scores"]; fields
      have no slash.
  """
  fields = {f"{name}/{field}": value for name, output in outputs.items()
            for field, value in output.items()}
  atomic.write_whole(
      folder / f"{int(positions[0]):08d}.npz",
      arrays_lib.pack({_POSITIONS: np.asarray(positions), **fields}))


def gather(
    folder: pathlib.Path, name: str
) -> dict[str, Shaped[np.ndarray, "n ..."]]:
  """All outputs under one name, by field, in the order of the set.

  Parts may overlap, as those of runs with other batch sizes do. A field that
  some parts lack is NaN there.

  Raises:
    ValueError: Outputs are missing.
  """
  num_images = len(_read_about(folder)["ids"])
  done = np.zeros(num_images, bool)
  fields: dict[str, np.ndarray] = {}
  for path in _files(folder):
    part = _read(path, num_images, lambda key: _owner(key) == name)
    if part is None:
      continue
    positions = part.pop(_POSITIONS)
    done[positions] = True
    for key, rows in part.items():
      field = _field(key)
      if rows.shape[1:] != fields.get(field, rows).shape[1:]:
        raise ValueError(
            f"{path} has {key!r} in another shape than the parts before it; "
            "remove it and run the command again to compute its images")
      if field not in fields:
        fields[field] = np.full(
            (num_images, *rows.shape[1:]), _nothing(rows), rows.dtype)
      fields[field][positions] = rows
  if not done.all():
    raise ValueError(f"{folder} has outputs of {done.sum()} of {num_images} "
                     "images; run the command again to compute the rest")
  return fields


def remove(folder: pathlib.Path) -> None:
  """Removes a folder whose outputs are gathered, and those that it holds.

  Damaged files stay.
  """
  for path in folder.glob("*"):
    if path.is_dir():
      remove(path)
    elif not path.match("*.damaged*"):
      path.unlink(missing_ok=True)
  if folder.exists() and not any(folder.glob("*")):
    folder.rmdir()


def _read_about(folder):
  path = folder / _ABOUT
  way_out = (f"nobody knows what {folder} holds: remove that folder, and what "
             "was in it is computed again")
  found = damage.read_object(path, way_out)
  for key in ("ids", "names"):
    if not isinstance(found.get(key), list) or not all(
        isinstance(one, str) for one in found[key]):
      raise damage.DamagedFile(
          path, f"{key} are missing, or no list of texts", way_out)
  return found


def _read(
    path: pathlib.Path, num_images: int,
    wanted: Callable[[str], bool] = lambda key: True,
    *, set_aside: bool = True,
) -> dict[str, np.ndarray] | None:
  """Positions and arrays of a part; None if it is damaged."""
  try:
    part = arrays_lib.unpack(
        path, lambda key: key == _POSITIONS or wanted(key))
    _check(part, num_images)
  except FileNotFoundError:
    return None  # another process has set it aside
  except ValueError as error:
    if not set_aside:
      return None
    logging.warning(
        "%s is damaged (%s); it is called %s now, and its images are computed "
        "again", path, error, atomic.set_aside(path).name)
    return None
  return part


def _check(part, num_images):
  """Refuses what `write` does not write."""
  positions = part.get(_POSITIONS, np.zeros(0))
  if positions.ndim != 1 or positions.dtype.kind not in "iu" or not (
      positions.size and 0 <= positions.min() <= positions.max() < num_images):
    raise ValueError(f"no positions of {num_images} images")
  for key, rows in part.items():
    if rows.shape[:1] != positions.shape or rows.dtype.kind not in "biuf":
      raise ValueError(f"{key!r} has {rows.shape[:1]} rows of {rows.dtype} for "
                       f"{len(positions)} images, expected a number each")


def _owner(key):
  """The name under which an output's array was written; None for others."""
  owner, slash, _ = key.rpartition("/")
  return owner if slash else None


def _field(key):
  return key.rpartition("/")[2]


def _nothing(rows):
  return np.nan if np.issubdtype(rows.dtype, np.floating) else 0


def _files(folder):
  return sorted(folder.glob("[0-9]*.npz"))
