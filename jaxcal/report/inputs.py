"""What a user gives to `summary.evaluate`, once it is seen to fit together."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxcal import predictions as predictions_lib
from jaxcal.metrics import examples
from jaxcal.predictions import Predictions
from jaxcal.typing import as_numpy
from jaxcal.typing import Bool
from jaxcal.typing import Float
from jaxcal.typing import Int

KINDS = ("auto", "logits", "probabilities")

# How far from one the probabilities of an image may sum: bfloat16 keeps each of
# them to 0.2 %, float16 to 0.05 %.
TOLERANCE = 1e-2

# What rounding may add to a probability; also that of `metrics`.
_ROUNDING = 1e-6


class Given(NamedTuple):
  """Predictions of one method, on the host.

  Attributes:
    kind: Kind, "logits", "probabilities" or "confidences".
    values: Values of each image and class; of each image for confidences.
    labels: True classes; hits for confidences.
    ids: One id per image; None where not known.
    info: Diagnostics by name, one number per image each.
    settings: Settings of what was run, as `Predictions` have them.
  """

  kind: str
  values: Float[np.ndarray, "n k"] | Float[np.ndarray, "n"]
  labels: Int[np.ndarray, "n"] | Bool[np.ndarray, "n"]
  ids: tuple[str, ...] | None = None
  info: Mapping[str, Float[np.ndarray, "n"]] = MappingProxyType({})
  settings: Mapping[str, Any] = MappingProxyType({})

  @property
  def num_classes(self) -> int | None:
    """Number of classes; None where only the top one is known."""
    return None if self.kind == "confidences" else self.values.shape[1]


def one(predictions: Any, labels: Any, kind: str) -> Given:
  """The predictions of one method; see `summary.evaluate` for what they may be.

  Raises:
    ValueError: They are no such predictions, or do not fit the labels.
  """
  if kind not in KINDS:
    raise ValueError(f"unknown {kind=}; choose from: {', '.join(KINDS)}.")
  if isinstance(predictions, Predictions):
    return _of_predictions(predictions, labels)
  values = _numbers(predictions, "predictions")
  if values.ndim not in (1, 2) or not values.size:
    raise ValueError(
        "predictions must be logits or probabilities [images, classes], or "
        "confidences [images] with hits for labels, and not empty, but their "
        f"shape is {values.shape}.")
  if values.ndim == 1:
    return _of_confidences(values, labels, kind)
  broken = ~np.isfinite(values).all(-1)
  if broken.any():
    raise ValueError(
        f"logits must be finite, but those of {broken.sum()} of {len(values)} "
        f"images are not (NaN or infinite), the first in row {broken.argmax()}"
        "; in place of logarithms of zero give the probabilities.")
  labels = _class_labels(labels, *values.shape)
  return Given(_kind(values, kind), values, labels)


def by_name(
    predictions: Mapping[str, Any], labels: Any, kind: str
) -> dict[str, Given]:
  """The predictions of several methods for the same images.

  Args:
    predictions: Predictions as for `one`, by the name of the method.
    labels: Labels of all of them, or by name.
    kind: Kind of arrays, as for `one`.

  Raises:
    ValueError: As for `one`, with the name; none, or names that are no text;
      or other images than those of the first.
  """
  if not predictions or not all(isinstance(name, str) for name in predictions):
    raise ValueError("predictions by name need at least one name, and strings "
                     f"for names, but these are {list(predictions)}.")
  of = labels if isinstance(labels, Mapping) else dict.fromkeys(
      predictions, labels)
  if set(of) != set(predictions):
    raise ValueError(f"labels by name must have the names of the predictions, "
                     f"{list(predictions)}, but they are {list(of)}.")
  found = {name: _named(name, predictions[name], of[name], kind)
           for name in predictions}
  for name in found:
    _check_same_images(next(iter(found)), name, found)
  return found


def _named(name, predictions, labels, kind):
  try:
    return one(predictions, labels, kind)
  except ValueError as error:
    raise ValueError(f"{name!r}: {error}") from error


def _check_same_images(first, name, found):
  """Refuses two methods of which one saw other images, as far as is known."""
  ours, theirs = found[name], found[first]
  if len(ours.values) != len(theirs.values):
    raise ValueError(
        "all must be predictions for the same images, but there are "
        f"{len(theirs.values)} of {first!r} and {len(ours.values)} of {name!r}")
  if None not in (ours.ids, theirs.ids) and ours.ids != theirs.ids:
    raise ValueError(
        "all must be predictions for the same images in the same order, but "
        f"the ids of {first!r} and {name!r} differ")
  if "confidences" not in (ours.kind, theirs.kind):
    differ = ours.labels != theirs.labels
    if differ.any():
      raise ValueError(
          "all must be predictions for the same images, but the labels of "
          f"{first!r} and {name!r} differ for {differ.sum()} of {len(differ)}, "
          f"first at {differ.argmax()}")


def _of_predictions(predictions, labels):
  n, k = len(predictions.ids), len(predictions.class_names)
  labels = predictions.labels if labels is None else labels
  if labels is None:
    raise ValueError("these predictions carry no labels; pass labels=, the "
                     f"class of each of the {n} images.")
  labels = _class_labels(labels, n, k)
  predictions_lib.check(predictions._replace(labels=labels))
  return Given("logits", predictions.logits, labels, predictions.ids,
               predictions.info)


def _of_confidences(values, labels, kind):
  if kind == "logits":
    raise ValueError("logits must be [images, classes], but there is one "
                     f"number per image, shape {values.shape}.")
  if labels is None:
    raise ValueError("confidences [images] need labels=, which say of each "
                     "image whether the prediction is right.")
  hits = _numbers(labels, "labels")
  _check_length(hits, len(values))
  examples.check_hits(
      hits, name="labels beside confidences [images]",
      way_out="predicted == labels, or give logits or probabilities [images, "
      "classes]")
  examples.check_probabilities(values, name="confidences [images]")
  return Given("confidences", values, hits.astype(bool))


def _class_labels(labels, n, k):
  if labels is None:
    raise ValueError(f"labels are needed, the class of each of the {n} images.")
  labels = as_numpy(labels)
  if labels.dtype.kind not in "biuf":
    raise ValueError(
        "labels must be the positions of the true classes, but their dtype is "
        f"{labels.dtype}; from names: [class_names.index(name) for name in "
        "labels].")
  if k > 1 and labels.shape == (n, k):
    raise ValueError(
        "labels must be one class per image, but their shape is that of the "
        f"predictions, {labels.shape}; from one-hot labels: labels.argmax(-1).")
  _check_length(labels, n, k)
  if labels.dtype == bool:
    raise ValueError(
        f"labels must be the positions of the true classes, 0 to {k - 1}, but "
        "they are True and False; hits go with confidences, one number per "
        "image; of two classes, labels.astype(int) names the true one.")
  if not np.issubdtype(labels.dtype, np.integer):
    raise ValueError(
        "labels must be integers, the positions of the true classes, but "
        f"{labels.dtype=}; from whole numbers: labels.astype(int).")
  examples.check_labels(labels, k)
  return labels


def _check_length(labels, n, k=None):
  if labels.shape == (n,):
    return
  ways = {(n, 1): "; from a column: labels[:, 0]",
          (k,): "; are the predictions transposed?"}
  raise ValueError(f"labels must be one per image, shape ({n},), but their "
                   f"shape is {labels.shape}{ways.get(labels.shape, '')}.")


def _kind(values, kind):
  """Which of both kinds numbers per class are.

  Raises:
    ValueError: They are percent, or no probabilities where these are asked for.
  """
  if kind == "logits":
    return kind
  sums = values.sum(-1, dtype=np.float64)
  positive = values.min() >= -_ROUNDING
  if positive and np.all(np.abs(sums - 100) <= 100 * TOLERANCE):
    raise ValueError("probabilities must be fractions, but all rows sum to 100 "
                     "and so look like percent; divide by 100, or pass "
                     "kind='logits' if they are logits.")
  far = np.abs(sums - 1) > TOLERANCE
  if kind == "probabilities":
    examples.check_probabilities(values, name="probabilities")
    if far.any():
      raise ValueError(
          f"the probabilities of an image must sum to one, but {far.sum()} of "
          f"{len(far)} rows do not; row {far.argmax()} sums to "
          f"{sums[far.argmax()]:.4g}. Are they logits?")
  probable = positive and values.max() <= 1 + _ROUNDING and not far.any()
  return "probabilities" if probable else "logits"


def _numbers(x, name):
  x = as_numpy(x)
  if x.dtype.kind not in "biuf":
    raise ValueError(f"{name} must be numbers, but their dtype is {x.dtype}.")
  return x
