"""Predictions in files of other programs: what such a file says.

Two forms, in .npz, .npy, .csv or .parquet: logits or probabilities of all
classes and labels, or the label, the predicted class and the confidence of each
image. Names are looked up in `formats.NAMES`; docs/arrays.md shows every form.
"""

from collections.abc import Sequence
import os
import pathlib
from typing import NamedTuple

import numpy as np

from jaxcal import predictions as predictions_lib
from jaxcal.predictions import Predictions
from jaxcal.report import formats
from jaxcal.report import inputs
from jaxcal.report import saved_runs
from jaxcal.typing import Shaped

# What a probability of zero counts as where its logarithm is needed, as in
# `summary.evaluate`.
_LEAST = 2.0 ** -126
# Where a confidence or probability may lie, but for rounding.
_ROUNDING = 1e-6
# From here on, numbers with a fraction cannot be told from whole ones.
_MOST = 2.0 ** 53


class Content(NamedTuple):
  """What a file says.

  Attributes:
    given: Predictions and labels; the ids are None where the file has none.
    class_names: Class names in label order; None for confidences alone.
    truth: True class of each image by its name, or its number where classes
      have no names; None where only hits are known.
    notes: Sentences on what was taken for what, and on what cannot be told.
    saved: Predictions of jaxcal's own that the file holds, if it does.
  """

  given: inputs.Given
  class_names: tuple[str, ...] | None
  truth: tuple[str, ...] | None
  notes: tuple[str, ...] = ()
  saved: Predictions | None = None


class Labels(NamedTuple):
  """Labels from a file of their own.

  Attributes:
    values: True classes, as numbers or names.
    ids: One id per image; None where the file has none.
  """

  values: Shaped[np.ndarray, "n"]
  ids: tuple[str, ...] | None


def are_files(paths: Sequence[str]) -> bool:
  """Whether arguments of a command are files, and not folders of runs."""
  return any(
      pathlib.Path(named(path)[1]).is_file() or
      pathlib.Path(path).suffix.lower() in formats.ENDINGS for path in paths)


def named(argument: str) -> tuple[str, str]:
  """Name and path of a file given as PATH or as NAME=PATH.

  Args:
    argument: Path, which is then called like the file without its ending, or a
      name and a path; a file of just that name comes first.
  """
  name, sign, path = argument.partition("=")
  if sign and not pathlib.Path(argument).exists():
    return name, os.path.expanduser(path)
  path = os.path.expanduser(argument)
  return pathlib.Path(path).stem, path


def by_name(arguments: Sequence[str]) -> dict[str, str]:
  """Paths by the names of the methods, from PATH or NAME=PATH each.

  Raises:
    ValueError: Two go by one name.
  """
  found: dict[str, str] = {}
  for name, path in map(named, arguments):
    if name in found:
      raise ValueError(
          f"{found[name]} and {path} would both be called {name!r}; give one "
          f"of them as NAME={path}")
    found[name] = path
  return found


def load(
    path: str | os.PathLike,
    *,
    kind: str = "auto",
    labels: Labels | None = None,
) -> Predictions:
  """A file of logits or probabilities as predictions, for all that takes them.

  Args:
    path: Path of the file.
    kind: Kind of its numbers, see `read`.
    labels: Labels, see `read`.

  Returns:
    Predictions; of probabilities, the logits are their logarithms. Images
    without ids are numbered from 1.

  Raises:
    ValueError: See `read`; or there are only confidences.
  """
  content = read(path, kind=kind, labels=labels)
  if content.class_names is None:
    raise ValueError(
        f"{path} has confidences alone, of which jaxcal.evaluate(confidence, "
        "hits) takes the measures of the top label; everything else needs "
        "logits or probabilities of all classes")
  return predictions_of(content)


def predictions_of(content: Content) -> Predictions:
  """What a file of all classes says, as predictions; see `load`."""
  if content.saved is not None:
    return content.saved
  given = content.given
  values = np.asarray(given.values, np.float64)
  logits = values if given.kind == "logits" else np.log(
      np.maximum(values, _LEAST))
  return Predictions(
      logits.astype(np.float32), np.asarray(given.labels, np.int32),
      given.ids or tuple(map(str, range(1, len(logits) + 1))),
      content.class_names or (), settings=given.settings)


def read(
    path: str | os.PathLike,
    *,
    kind: str = "auto",
    labels: Labels | None = None,
) -> Content:
  """What a file of predictions says.

  Args:
    path: Path of the file, .npz, .npy, .csv or .parquet.
    kind: Kind of its numbers of all classes, "logits" or "probabilities"; with
      "auto", what their name tells, or probabilities where all rows are
      non-negative and sum to one within 1 %, and logits otherwise.
    labels: Labels from `read_labels`, which come before those of the file.

  Raises:
    FileNotFoundError: There is no such file.
    ValueError: It is of another format, or what it holds is none of the forms;
      names row and column. Rows are counted from 1, without the heading.
    ImportError: A .parquet file, and pyarrow is not installed.
  """
  path = pathlib.Path(path)
  own = path.with_suffix("")
  if path.suffix == ".npz" and predictions_lib.exists(own):
    return _own(path, saved_runs.load(own), labels)
  fields = formats.read(path)
  roles = dict(fields.by_role)
  ids = _ids(path, roles.get("ids"))
  if labels is not None:
    size = len(roles.get("confidence", ()) if fields.scores is None else
               fields.scores)
    roles["labels"] = _fitting(path, labels, ids, size)
  if fields.scores is not None:
    return _all_classes(path, fields, roles, ids, kind)
  return _top_label(path, fields, roles, ids)


def read_labels(path: str | os.PathLike) -> Labels:
  """Labels from a file of their own, and ids where it has some.

  Args:
    path: Path of an .npy with one label per image, or of an .npz, .csv or
      .parquet with an array or column of that name.

  Raises:
    FileNotFoundError: There is no such file.
    ValueError: There are no labels in it, or it is damaged.
  """
  path = pathlib.Path(path)
  roles = formats.read(path).by_role
  if "labels" not in roles:
    raise ValueError(f"{path} has no labels; {formats.expected('labels')}")
  return Labels(roles["labels"], _ids(path, roles.get("ids")))


def _own(path, found, labels):
  """Predictions that jaxcal has saved."""
  if labels is not None:
    values = _fitting(path, labels, found.ids, len(found.ids))
    place = lambda row, column: f"{path}, row {row + 1}"
    found = found._replace(labels=_positions(
        place, values, found.class_names, len(found.class_names)))
  if found.labels is None:
    raise ValueError(f"{path} has no labels; give them in a file of their own")
  return Content(
      inputs.one(found, None, "auto")._replace(settings=found.settings),
      found.class_names, tuple(found.class_names[i] for i in found.labels),
      saved=found)


def _all_classes(path, fields, roles, ids, kind):
  """A file of logits or probabilities."""
  if "labels" not in roles:
    raise ValueError(f"{path} has no labels; {formats.expected('labels')}, or "
                     "give them in a file of their own")
  values = fields.scores
  if values.ndim != 2 or not values.size:
    raise ValueError(f"{path}: logits or probabilities must be [images, "
                     f"classes] and not empty, but their shape is "
                     f"{values.shape}")
  n, k = values.shape
  _check_numbers(path, fields, values)
  _check_lengths(path, roles, n)
  kind = fields.kind if kind == "auto" else kind
  if kind == "auto":
    _check_clear(path, fields, values)
  given = roles.get("class_names")
  names = tuple(map(str, range(k) if given is None else given.tolist()))
  if len(names) != k or len(set(names)) != k:
    raise ValueError(f"{path}: {k} classes need as many different names, but "
                     f"there are {len(set(names))} among {len(names)}")
  labels = _positions(lambda row, _: f"{path}, row {row + 1}, the label",
                      roles["labels"], names, k)
  try:
    found = inputs.one(values, labels, kind)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error
  what = f"{found.kind} of {k} classes for {n:,} images"
  return Content(found._replace(ids=ids), names,
                 tuple(names[i] for i in labels), (what, *fields.notes))


def _top_label(path, fields, roles, ids):
  """A file of confidences."""
  if "confidence" not in roles:
    raise ValueError(
        f"{path} has neither logits or probabilities of all classes nor "
        f"confidences; {formats.expected('confidence')}; or an array [images, "
        f"classes] called one of {', '.join(formats.SCORES)}; or a column for "
        "each class")
  confidence = formats.floats(path, "confidence", roles["confidence"])
  _check_lengths(path, roles, len(confidence))
  outside = ~((confidence >= -_ROUNDING) & (confidence <= 1 + _ROUNDING))
  if outside.any():
    row = int(outside.argmax())
    raise ValueError(
        f"{path}, row {row + 1}, the confidence: {confidence[row]:g}, expected "
        f"in [0, 1] (a fraction, not percent), here and in {outside.sum() - 1} "
        "other rows")
  truth, hits = _hits(path, roles)
  notes = (
      f"confidences of the top label for {len(hits):,} images; NLL, Brier "
      "score, recalibration and conformal sets need all classes, and are left "
      "out", *fields.notes)
  given = inputs.one(confidence, hits, "auto")
  return Content(given._replace(ids=ids), None, truth, notes)


def _hits(path, roles):
  """The true classes, where they are told, and whether each was predicted."""
  if "correct" in roles and "predicted" not in roles:
    hits = roles["correct"]
    if hits.dtype.kind == "U":
      known = {"0": 0, "1": 1, "false": 0, "true": 1}
      hits = np.array([known.get(text.strip().lower(), -1) for text in hits])
    wrong = (hits != 0) & (hits != 1)
    if wrong.any():
      row = int(wrong.argmax())
      raise ValueError(f"{path}, row {row + 1}, column 'correct': "
                       f"{str(roles['correct'][row])!r}, expected 0 or 1")
    return None, hits.astype(bool)
  for role in ("labels", "predicted"):
    if role not in roles:
      raise ValueError(
          f"{path} has confidences, but no {role}; {formats.expected(role)}, "
          "or, in place of both labels and predicted classes, one called "
          f"{', '.join(formats.NAMES['correct'])}")
  labels, predicted = (_whole(roles[name]) for name in ("labels", "predicted"))
  if (labels is None) != (predicted is None):
    raise ValueError(
        f"{path}: labels and predicted classes must both be numbers or both "
        f"be names, but the first ones are {str(roles['labels'][0])!r} and "
        f"{str(roles['predicted'][0])!r}")
  if labels is None:
    labels, predicted = (np.array([str(one).strip() for one in roles[name]])
                         for name in ("labels", "predicted"))
  return tuple(map(str, labels.tolist())), labels == predicted


def _whole(values):
  """Whole numbers, also where they are written as text; None if they are not.
  """
  if values.dtype.kind in "biu":
    return values.astype(np.int64)
  try:
    numbers = values.astype(np.float64)
  except ValueError:
    return None
  whole = (np.abs(numbers) < _MOST) & (numbers == np.round(numbers))
  return numbers.astype(np.int64) if whole.all() else None


def _positions(place, labels, names, k):
  """Labels as positions of the classes; given by name where any is a name."""
  texts = [str(label).strip() for label in labels.tolist()]
  by_name = {name: position for position, name in enumerate(names)}
  numbers = _whole(labels)
  by_number = numbers is not None and (
      labels.dtype.kind != "U" or not any(text in by_name for text in texts))
  for row, text in enumerate(texts):
    if by_number and not 0 <= numbers[row] < k:
      raise ValueError(
          f"{place(row, None)}: {numbers[row]}, expected the position of one "
          f"of {k} classes, 0 to {k - 1}")
    if not by_number and text not in by_name:
      raise ValueError(
          f"{place(row, None)}: {text!r}, expected the name of a class, such "
          f"as {names[0]!r} and {names[-1]!r}, or whole numbers in all rows")
  return (numbers.astype(np.int32) if by_number else
          np.array([by_name[text] for text in texts], np.int32))


def _fitting(path, labels, ids, size):
  """Labels of a file of their own for the images of another."""
  if None not in (ids, labels.ids):
    place = {one: row for row, one in enumerate(labels.ids)}
    missing = [one for one in ids if one not in place]
    if missing:
      raise ValueError(f"{path}: the file of labels has none for "
                       f"{len(missing)} ids, the first one {missing[0]!r}")
    return labels.values[[place[one] for one in ids]]
  if len(labels.values) != size:
    raise ValueError(f"{path} has {size} images, but the file of labels has "
                     f"{len(labels.values)} labels")
  return labels.values


def _ids(path, values):
  if values is None:
    return None
  ids = tuple(map(str, values.tolist()))
  first: dict[str, int] = {}
  for row, one in enumerate(ids):
    if first.setdefault(one, row) != row:
      raise ValueError(f"{path}, row {row + 1}, the id: {one!r} is that of row "
                       f"{first[one] + 1}, too; expected each once")
  return ids


def _check_numbers(path, fields, values):
  broken = ~np.isfinite(values)
  if broken.any():
    row, column = (int(i[0]) for i in np.nonzero(broken))
    raise ValueError(
        f"{path}, {fields.place(row, column)}: {values[row, column]}, expected "
        f"a finite number, here and in {broken.any(-1).sum() - 1} other rows; "
        "in place of logarithms of zero give the probabilities")


def _check_clear(path, fields, values):
  """Refuses what may be meant for probabilities, but is none."""
  sums = values.sum(-1, dtype=np.float64)
  far = np.abs(sums - 1) > inputs.TOLERANCE
  if far.any() and (
      values.min() >= -_ROUNDING and values.max() <= 1 + _ROUNDING):
    row = int(far.argmax())
    raise ValueError(
        f"{path}, {fields.place(row, None)}: all values lie in [0, 1], but "
        f"this row sums to {sums[row]:.4g}, and {far.sum() - 1} others do not "
        "sum to one either; say whether they are logits or probabilities")


def _check_lengths(path, roles, n):
  for role, values in roles.items():
    if role != "class_names" and values.shape != (n,):
      raise ValueError(f"{path}: {role} must be one per image, shape ({n},), "
                       f"but their shape is {values.shape}")
