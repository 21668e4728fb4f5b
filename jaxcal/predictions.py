"""What a method answered, on disk before any metric is computed.

One `.npz` of arrays and one `.json` of settings per method and image set, so
that metrics, recalibration and figures never need the model again.
"""

from collections.abc import Mapping, Sequence
import json
import os
import pathlib
import tempfile
from typing import Any, NamedTuple

import numpy as np

from jaxcal.typing import Float
from jaxcal.typing import Int


class Predictions(NamedTuple):
  """Answers of one method on one image set, in the order of the set.

  Attributes:
    logits: float32 [n k], cosines times the logit scale.
    labels: int32 [n], positions in `class_names`.
    ids: One id per image.
    class_names: In label order.
    info: Per-image diagnostics by name, float32 [n] each.
    settings: What was run (method, data, model, views, versions, commit);
      anything that JSON holds.
  """

  logits: Float[np.ndarray, "n k"]
  labels: Int[np.ndarray, "n"]
  ids: tuple[str, ...]
  class_names: tuple[str, ...]
  info: Mapping[str, Float[np.ndarray, "n"]]
  settings: Mapping[str, Any]


def check(predictions: Predictions) -> None:
  """Refuses predictions that no metric should see.

  Raises:
    ValueError: shapes that do not fit together, a repeated id, a label outside
      the class list, or logits that are not finite; names the first of each.
  """
  logits, labels, ids, class_names, info, _ = predictions
  n, k = len(ids), len(class_names)
  if logits.shape != (n, k) or labels.shape != (n,):
    raise ValueError(
        f"{n} ids and {k} class names need logits of shape ({n}, {k}) and "
        f"labels of shape ({n},), but {logits.shape=} and {labels.shape=}")
  for name, values in info.items():
    if values.shape != (n,):
      raise ValueError(f"info {name!r} has shape {values.shape}, expected one "
                       f"number per image, ({n},)")
  if len(set(ids)) != n:
    repeated = next(i for i in ids if ids.count(i) > 1)
    raise ValueError(f"the id {repeated!r} occurs more than once")
  outside = (labels < 0) | (labels >= k)
  if outside.any():
    row = int(outside.argmax())
    raise ValueError(f"label {labels[row]} of {ids[row]!r} is outside the "
                     f"{k} classes")
  broken = ~np.isfinite(logits).all(-1)
  if broken.any():
    raise ValueError(
        f"{broken.sum()} of {n} images have logits that are not finite, the "
        f"first one {ids[int(broken.argmax())]!r}; are the weights of the "
        "model sound?")


def concatenate(parts: Sequence[Predictions]) -> Predictions:
  """Parts of one run as a whole; class names and settings must agree.

  Raises:
    ValueError: no parts, or parts of different runs.
  """
  if not parts:
    raise ValueError("no parts to put together")
  first = parts[0]
  for part in parts[1:]:
    if (part.class_names, part.settings) != (first.class_names, first.settings):
      raise ValueError("parts of different runs: class names or settings of "
                       f"{part.ids[0]!r} differ from those of {first.ids[0]!r}")
  join = lambda pick: np.concatenate([pick(part) for part in parts])
  return first._replace(
      logits=join(lambda p: p.logits),
      labels=join(lambda p: p.labels),
      ids=tuple(i for part in parts for i in part.ids),
      info={name: join(lambda p: p.info[name]) for name in first.info})


def save(predictions: Predictions, path: str | os.PathLike) -> None:
  """Writes `path`.npz and `path`.json, each whole or not at all.

  The `.npz` comes last: where it exists, the pair is complete.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  text = json.dumps(
      {"class_names": predictions.class_names,
       "settings": predictions.settings}, indent=2, ensure_ascii=False)
  write_whole(with_ending(path, "json"), text.encode())
  with tempfile.TemporaryFile() as file:
    np.savez_compressed(
        file, logits=predictions.logits.astype(np.float32),
        labels=predictions.labels.astype(np.int32),
        ids=np.asarray(predictions.ids, dtype=str),
        **{f"info/{name}": value.astype(np.float32)
           for name, value in predictions.info.items()})
    file.seek(0)
    write_whole(with_ending(path, "npz"), file.read())


def load(path: str | os.PathLike) -> Predictions:
  """Reads and checks what `save` wrote to the same path.

  Raises:
    FileNotFoundError: one of the two files is missing.
    ValueError: they do not fit together, see `check`.
  """
  arrays_path, json_path = with_ending(path, "npz"), with_ending(path, "json")
  for needed in (arrays_path, json_path):
    if not needed.exists():
      raise FileNotFoundError(
          f"no {needed}; predictions are written by `jaxcal evaluate`")
  about = json.loads(json_path.read_text(encoding="utf-8"))
  with np.load(arrays_path, allow_pickle=False) as arrays:
    info = {name.removeprefix("info/"): arrays[name]
            for name in arrays.files if name.startswith("info/")}
    predictions = Predictions(
        arrays["logits"], arrays["labels"], tuple(arrays["ids"].tolist()),
        tuple(about["class_names"]), info, about["settings"])
  check(predictions)
  return predictions


def exists(path: str | os.PathLike) -> bool:
  """Whether `save` has finished writing to this path."""
  return with_ending(path, "npz").exists()


def with_ending(path: str | os.PathLike, ending: str) -> pathlib.Path:
  """`path`.`ending`; unlike `with_suffix`, a dot in the name stays."""
  return pathlib.Path(f"{os.fspath(path)}.{ending}")


def write_whole(path: pathlib.Path, content: bytes) -> None:
  """Writes a file so that a reader sees all of it or nothing."""
  half = with_ending(path, "half")
  half.write_bytes(content)
  os.replace(half, path)
