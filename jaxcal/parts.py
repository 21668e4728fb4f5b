"""Answers of an unfinished run: written batch by batch, gathered at the end.

A folder holds what the answers are of (`about.json`) and one file per batch and
process. Every file appears whole or not at all, so a run that was interrupted
computes the rest only, whatever its batch size and number of processes.
"""

from collections.abc import Mapping, Sequence
import io
import json
import pathlib

import numpy as np

from jaxcal.storage import atomic
from jaxcal.typing import Float
from jaxcal.typing import Int

_ABOUT = "about.json"


def open_folder(
    folder: pathlib.Path,
    ids: Sequence[str],
    names: Sequence[str],
    order: Sequence[int] | None = None,
) -> None:
  """Makes a folder for the answers to these images under these names.

  Args:
    folder: New, or of an unfinished run.
    ids: One per image.
    names: What answers.
    order: Positions of the images as they are seen, where it matters.

  Raises:
    ValueError: it holds answers to other images, under other names, or of
      another order.
  """
  folder.mkdir(parents=True, exist_ok=True)
  about = {"names": list(names), "ids": list(ids),
           "order": None if order is None else np.asarray(order).tolist()}
  path = folder / _ABOUT
  if not path.exists():
    atomic.write_whole(path, json.dumps(about).encode())
    return
  stored = json.loads(path.read_text(encoding="utf-8"))
  for key, value in about.items():
    if stored.get(key) != value:
      raise ValueError(f"{folder} holds answers of an unfinished run with "
                       f"other {key}; remove it, or write to another folder")


def names(folder: pathlib.Path) -> tuple[str, ...]:
  """What `open_folder` was given; nothing where there is no such folder."""
  path = folder / _ABOUT
  if not path.exists():
    return ()
  return tuple(json.loads(path.read_text(encoding="utf-8"))["names"])


def missing(folder: pathlib.Path, num_images: int) -> Int[np.ndarray, "r"]:
  """Positions of the images that have no answer yet, ascending."""
  done = np.zeros(num_images, bool)
  for path in _files(folder):
    with np.load(path, allow_pickle=False) as part:
      done[part["positions"]] = True
  return np.flatnonzero(~done)


def write(
    folder: pathlib.Path,
    positions: Int[np.ndarray, "r"],
    answers: Mapping[str, Mapping[str, Float[np.ndarray, "r ..."]]],
) -> None:
  """Writes the answers to some images.

  Args:
    folder: From `open_folder`.
    positions: Of the images in the set, at least one.
    answers: By name and field, e.g. answers["tpt"]["scores"]; fields have no
      slash.
  """
  arrays = {f"{name}/{field}": value for name, answer in answers.items()
            for field, value in answer.items()}
  content = io.BytesIO()
  np.savez(content, positions=positions, **arrays)
  atomic.write_whole(
      folder / f"{int(positions[0]):08d}.npz", content.getvalue())


def gather(
    folder: pathlib.Path, name: str
) -> dict[str, Float[np.ndarray, "n ..."]]:
  """All answers under one name, by field, in the order of the set.

  Parts may overlap, as those of runs with other batch sizes do. A field that
  some parts lack is NaN there.

  Raises:
    ValueError: answers are missing.
  """
  about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
  num_images = len(about["ids"])
  done, fields = np.zeros(num_images, bool), {}
  for path in _files(folder):
    with np.load(path, allow_pickle=False) as part:
      positions = part["positions"]
      done[positions] = True
      for key in part.files:
        owner, slash, field = key.rpartition("/")
        if slash and owner == name:
          rows = part[key]
          if field not in fields:
            fields[field] = np.full(
                (num_images, *rows.shape[1:]), _nothing(rows), rows.dtype)
          fields[field][positions] = rows
  if not done.all():
    raise ValueError(f"{folder} has answers to {done.sum()} of {num_images} "
                     "images; run the command again to compute the rest")
  return fields


def _nothing(rows):
  return np.nan if np.issubdtype(rows.dtype, np.floating) else 0


def _files(folder):
  return sorted(folder.glob("[0-9]*.npz"))
