"""What a method predicted, on disk before any metric is computed.

One `.npz` of arrays and one `.json` of settings per method and image set, so
that metrics, recalibration and figures never need the model again.
"""

from collections.abc import Mapping, Sequence
import contextlib
import os
import pathlib
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxcal.storage import arrays as arrays_lib
from jaxcal.storage import atomic
from jaxcal.storage import identity
from jaxcal.storage import pair
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Positions

_ENDING = "npz"
_WAY_OUT = "give another --output, or --overwrite to remove what is there"

# What recalibrators and conformal sets may need beside logits and labels, with
# the axes of each: n images, k classes, s random views, d of the joint space,
# j base classes. These names are those of the files.
EVIDENCE = {
    "scores": "n k",  # as released, where they are not the logits: votes, ...
    "image_features": "n d",  # of the clean view, unit norm
    "text_features": "k d",  # tuned, unit norm, where all images share them
    "zero_shot_text_features": "k d",
    "base_text_features": "j d",  # of the classes of the training, tuned
    "base_zero_shot_text_features": "j d",
    "zero_shot_logits": "n k",  # of the clean view
    "view_logits": "n s k",  # tuned, of the most confident random views (CoTS)
    "zero_shot_view_logits": "n s k",  # of the same views
    "mean_cosine": "",  # of pairs of classes at the initial context (E-CoTS)
}

# In the settings of predictions, the factor from cosines of image and text
# features to the logits; only where the logits are nothing else.
LOGIT_SCALE = "logit_scale"

# Folder beside a set's predictions of those for images of none of its classes.
OUT_OF_DISTRIBUTION = "out_of_distribution"

# Info of methods with a state: how many images of the stream came before, and
# where in a cache the image was put, a class and a place in it; -1 where it was
# not. These tell places, no sizes: means and medians of them say nothing.
STREAM_POSITION = "stream_position"
ENTERED = ("entered_class", "entered_place")
PLACES = (STREAM_POSITION, *ENTERED)


class Predictions(NamedTuple):
  """Predictions of one method on one image set, in the order of the set.

  Attributes:
    logits: float32 [n k], unnormalised log-probabilities: their softmax is the
      distribution that is measured. Cosines times the logit scale for most
      methods, log-probabilities where the scores of a method are no logits.
    labels: int32 [n], positions in `class_names`; None where not known.
    ids: One id per image.
    class_names: Class names in label order.
    info: Per-image diagnostics by name, float32 [n] each.
    settings: What was run (method, data, model, views, versions, commit);
      anything that JSON holds.
    evidence: float32 arrays by the names of `EVIDENCE`, those that were asked
      for.
  """

  logits: Float[np.ndarray, "n k"]
  labels: Int[np.ndarray, "n"] | None
  ids: tuple[str, ...]
  class_names: tuple[str, ...]
  info: Mapping[str, Float[np.ndarray, "n"]] = MappingProxyType({})
  settings: Mapping[str, Any] = MappingProxyType({})
  evidence: Mapping[str, Float[np.ndarray, "..."]] = MappingProxyType({})


class Images(NamedTuple):
  """What predictions are of, without what was predicted.

  Attributes:
    ids: One id per image.
    labels: int32 [n], positions in `class_names`; None where not known.
    class_names: Class names in label order.
  """

  ids: tuple[str, ...]
  labels: Int[np.ndarray, "n"] | None
  class_names: tuple[str, ...]


def check(predictions: Predictions) -> None:
  """Refuses predictions that no metric should see.

  Raises:
    ValueError: Shapes that do not fit together, a repeated id, a label outside
      the class list, logits that are not finite, or evidence of an unknown name
      or another shape; names the first of each.
  """
  logits, labels, ids, class_names, info, _, evidence = predictions
  n, k = len(ids), len(class_names)
  labels_shape = (n,) if labels is None else labels.shape
  if logits.shape != (n, k) or labels_shape != (n,):
    raise ValueError(
        f"{n} ids and {k} class names need logits of shape ({n}, {k}) and "
        f"labels of shape ({n},), but {logits.shape=} and labels have shape "
        f"{labels_shape}")
  for name, values in info.items():
    if values.shape != (n,):
      raise ValueError(f"info {name!r} has shape {values.shape}, expected one "
                       f"number per image, ({n},)")
  _check_evidence(evidence, n, k)
  if len(set(ids)) != n:
    repeated = next(i for i in ids if ids.count(i) > 1)
    raise ValueError(f"the id {repeated!r} occurs more than once")
  if labels is not None:
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


def _check_evidence(evidence, n, k):
  sizes = {"n": n, "k": k}
  for name, values in evidence.items():
    if name not in EVIDENCE:
      raise ValueError(f"unknown evidence {name!r}; choose from: "
                       f"{', '.join(EVIDENCE)}.")
    axes = EVIDENCE[name].split()
    fits = len(axes) == np.ndim(values) and all(
        sizes.setdefault(axis, size) == size
        for axis, size in zip(axes, np.shape(values)))
    if not fits:
      known = ", ".join(f"{axis} = {sizes[axis]}" for axis in axes
                        if axis in sizes)
      raise ValueError(f"evidence {name!r} has shape {np.shape(values)}, "
                       f"expected [{EVIDENCE[name]}] with {known or 'no axis'}")


def take(predictions: Predictions, rows: Positions) -> Predictions:
  """The predictions of some of the images, in the order of `rows`."""
  rows = np.asarray(rows, np.int64)
  labels = predictions.labels
  return predictions._replace(
      logits=predictions.logits[rows],
      labels=None if labels is None else labels[rows],
      ids=tuple(predictions.ids[row] for row in rows),
      info={name: values[rows] for name, values in predictions.info.items()},
      evidence={
          name: values[rows] if EVIDENCE[name].startswith("n") else values
          for name, values in predictions.evidence.items()})


def is_there(
    path: str | os.PathLike, asked: Mapping[str, Any], *,
    evidence: Sequence[str] = (), way_out: str = _WAY_OUT
) -> bool:
  """Whether predictions of the same lie there, with all the evidence.

  Args:
    path: Path of the predictions, as `save` has it.
    asked: Identity that they should have, see `storage.identity`.
    evidence: Names of the arrays that they are to carry.
    way_out: End of the message, an advice.

  Raises:
    ValueError: Predictions of something else lie there, which is named, or of
      an earlier version, which did not say what they are of.
  """
  if not exists(path):
    return False
  stored = settings(path)
  if "identity" not in stored:
    raise ValueError(
        f"{path} is of an earlier version of jaxcal, which did not say what "
        "its predictions are of; they can be reported (`jaxcal report`), not "
        f"added to: {way_out}")
  identity.check(
      stored["identity"], asked, what=f"{path} holds predictions of something "
      "else than what is asked for", way_out=way_out)
  carried = stored.get("evidence", ())
  return all(name in carried for name in evidence)


def save(predictions: Predictions, path: str | os.PathLike) -> None:
  """Writes `path`.npz and `path`.json, seen together or not at all.

  Raises:
    OSError: See `atomic.write_whole`.
  """
  path = pathlib.Path(path)
  atomic.make_folder(path.parent)
  arrays = {f"{kind}/{name}": np.asarray(value, np.float32)
            for kind in ("info", "evidence")
            for name, value in getattr(predictions, kind).items()}
  if predictions.labels is not None:
    arrays["labels"] = np.asarray(predictions.labels, np.int32)
  content = arrays_lib.pack({
      "logits": np.asarray(predictions.logits, np.float32),
      "ids": np.asarray(predictions.ids, dtype=str), **arrays}, compressed=True)
  pair.write(path, _ENDING, content, {
      "class_names": predictions.class_names,
      "settings": dict(predictions.settings)})


def load(path: str | os.PathLike) -> Predictions:
  """Reads and checks what `save` wrote to the same path.

  Raises:
    FileNotFoundError: One of the two files is missing.
    ValueError: One of them is damaged, or they do not fit together, see
      `pair.read` and `check`.
  """
  content, about = _read(path)
  with _damage_named(path):
    arrays = arrays_lib.unpack(content)
    kinds: dict[str, dict[str, np.ndarray]] = {"info": {}, "evidence": {}}
    for key, values in arrays.items():
      kind, _, name = key.partition("/")
      if kind in kinds:
        kinds[kind][name] = values
      if values.dtype.kind != "f" and key not in ("ids", "labels"):
        raise ValueError(f"{key} of {values.dtype}, expected real numbers")
    logits = arrays["logits"]
    ids, labels, class_names = _images(arrays, about)
    predictions = Predictions(logits, labels, ids, class_names,
                              settings=_settings(about), **kinds)
    check(predictions)
  return predictions


def images(path: str | os.PathLike) -> Images:
  """What saved predictions are of; nothing that was predicted is unpacked.

  Raises:
    FileNotFoundError: See `load`.
    ValueError: One of the two files is damaged, or they do not fit together.
  """
  content, about = _read(path)
  with _damage_named(path):
    return _images(arrays_lib.unpack(
        content, lambda name: name in ("ids", "labels")), about)


@contextlib.contextmanager
def _damage_named(path):
  """Says of what is wrong with the contents of a pair where they lie."""
  try:
    yield
  except KeyError as error:
    raise pair.damaged(path, _ENDING, f"it has no {error}") from error
  except ValueError as error:
    raise pair.damaged(path, _ENDING, error) from error


def _read(path):
  """Content of the arrays' file, and what the JSON says."""
  for ending in (_ENDING, "json"):
    needed = atomic.with_ending(path, ending)
    if not needed.exists():
      raise FileNotFoundError(
          f"no {needed}; predictions are written by `jaxcal evaluate`")
  return pair.read(path, _ENDING)


def exists(path: str | os.PathLike) -> bool:
  """Whether `save` has finished writing to this path."""
  return pair.exists(path, _ENDING)


def settings(path: str | os.PathLike) -> dict[str, Any]:
  """The settings of predictions, without a look at their arrays.

  Raises:
    FileNotFoundError: There are none.
    ValueError: They are damaged.
  """
  about = pair.about(path, _ENDING)
  with _damage_named(path):
    return _settings(about)


def _settings(about):
  """The settings in what a JSON says; their evidence is a list of names."""
  found = about.get("settings")
  if not isinstance(found, dict):
    raise ValueError("no settings")
  if not _are_texts(found.get("evidence", [])):
    raise ValueError("its evidence is no list of names")
  return found


def _images(arrays, about):
  """What arrays and a JSON say of images, once they are texts and numbers."""
  ids, labels, names = arrays["ids"], arrays.get("labels"), about["class_names"]
  if ids.ndim != 1 or ids.dtype.kind != "U":
    raise ValueError(f"ids of {ids.dtype} {ids.shape}, expected texts")
  if labels is not None and labels.dtype.kind not in "iu":
    raise ValueError(f"labels of {labels.dtype}, expected whole numbers")
  if not _are_texts(names):
    raise ValueError("class_names are no list of names")
  return Images(tuple(ids.tolist()), labels, tuple(names))


def _are_texts(found):
  return isinstance(found, list) and all(isinstance(one, str) for one in found)
