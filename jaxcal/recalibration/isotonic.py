"""Isotonic regression: the monotone maps of probabilities that fit labels best.

A map is a list of knots, linear between them and constant beyond the ends.
"""

import dataclasses

import numpy as np

from jaxcal.recalibration import base
from jaxcal.recalibration import examples
from jaxcal.recalibration import probabilities
from jaxcal.typing import AnyArray
from jaxcal.typing import Bool
from jaxcal.typing import Float
from jaxcal.typing import Int

# Of the probability itself, which keeps the order where a map is flat.
_SLOPE = 1e-9


@dataclasses.dataclass(frozen=True)
class IsotonicPerClass:
  """A monotone map of every class's probability; may change predictions."""

  def recalibrator(self) -> base.Recalibrator:
    """`fit_per_class` and `apply_per_class`."""
    return base.Recalibrator(
        "isotonic_per_class", fit=fit_per_class, keeps_prediction=False,
        apply=lambda parameters, evidence: probabilities.to_logits(
            apply_per_class(probabilities.of_logits(evidence.logits),
                            **parameters)))


@dataclasses.dataclass(frozen=True)
class MultiIsotonic:
  """One monotone map for the probabilities of all classes."""

  def recalibrator(self) -> base.Recalibrator:
    """`fit_multi` and `apply_multi`, rows divided by their sum."""
    return base.Recalibrator(
        "multi_isotonic", fit=fit_multi, same_classes=False,
        apply=lambda parameters, evidence: probabilities.to_logits(
            apply_multi(evidence.logits, **parameters)))


def fit_map(
    values: Float[np.ndarray, "n"], hits: Bool[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "knots"], Float[np.ndarray, "knots"]]:
  """The knots of the non-decreasing map with the least squared error.

  Equal values count as one, with the mean of their hits.

  Args:
    values: Probabilities, at least one.
    hits: Whether what has that probability is so.

  Returns:
    Values and frequencies at the ends of the flat parts.
  """
  from scipy import optimize
  known, index, counts = np.unique(
      values, return_inverse=True, return_counts=True)
  shares = np.bincount(index, weights=hits) / counts
  fitted = optimize.isotonic_regression(shares, weights=counts).x
  step = np.diff(fitted) != 0
  ends = np.concatenate([[True], step]) | np.concatenate([step, [True]])
  return known[ends], fitted[ends]


def fit_per_class(evidence: base.Evidence) -> base.Fit:
  """A map for each class's probability, fitted to whether it is the label.

  Args:
    evidence: Logits and labels of examples that the model was not trained on.

  Returns:
    `values` and `frequencies`, the knots of all classes one after the other,
    and `first`, where those of each class begin, [k + 1]. Classes without
    images have none, and a note says so.

  Raises:
    ValueError: See `examples.checked`.
    TypeError: Labels that are not integers.

  Source: Zadrozny and Elkan, Transforming Classifier Scores into Accurate
  Multiclass Probability Estimates, KDD 2002; netcal's IsotonicRegression.
  Differs from the released code in: classes without images keep their
  probabilities, where they become 0 there.
  """
  logits, labels, _ = examples.checked(evidence.logits, evidence.labels)
  probs, k = probabilities.of_logits(logits), logits.shape[1]
  absent = set(examples.without_images(labels, k).tolist())
  nothing = np.zeros(0), np.zeros(0)
  maps = [nothing if label in absent else fit_map(column, labels == label)
          for label, column in enumerate(probs.T)]
  notes = () if not absent else (
      f"{len(absent)} of {k} classes have no image among the {len(labels)} "
      "fitted to and keep their probabilities",)
  values, shares = (np.concatenate(part) for part in zip(*maps))
  first = np.cumsum([0, *(len(one) for one, _ in maps)])
  return base.Fit(
      {"values": values, "frequencies": shares, "first": first}, notes)


def apply_per_class(
    probs: Float[np.ndarray, "n k"],
    values: Float[np.ndarray, "knots"],
    frequencies: Float[np.ndarray, "knots"],
    first: Int[np.ndarray, "k+1"],
) -> Float[np.ndarray, "n k"]:
  """What the classes' maps make of probabilities, divided by the sum.

  Args:
    probs: Probabilities.
    values: Values at the knots, from `fit_per_class`.
    frequencies: Frequencies at the knots.
    first: Positions at which the knots of each class begin.

  Returns:
    Probabilities; those that were given where a row is mapped to zeros.
  """
  return probabilities.normalised(
      unnormalised(probs, values, frequencies, first), probs)


def unnormalised(
    probs: Float[np.ndarray, "n k"],
    values: Float[np.ndarray, "knots"],
    frequencies: Float[np.ndarray, "knots"],
    first: Int[np.ndarray, "k+1"],
) -> Float[np.ndarray, "n k"]:
  """What each class's map makes of its probability, see `apply_per_class`."""
  found = np.array(probs)
  for label, (start, end) in enumerate(zip(first, first[1:])):
    if start < end:
      found[:, label] = np.interp(
          probs[:, label], values[start:end], frequencies[start:end])
  return found


def fit_multi(evidence: base.Evidence) -> base.Fit:
  """One map for all classes, fitted to all pairs of probability and label.

  Args:
    evidence: Logits and labels of examples that the model was not trained on.

  Returns:
    `values` and `frequencies` of the knots; a note where there are fewer images
    than classes.

  Raises:
    ValueError: See `examples.checked`.
    TypeError: Labels that are not integers.

  Source: Zhang et al., Mix-n-Match, ICML 2020 (IRM), in the form of
  ml-stat-Sustech/CLIP_Calibration @5b68fb1.
  """
  logits, labels, _ = examples.checked(evidence.logits, evidence.labels)
  n, k = logits.shape
  notes = () if n >= k else (
      f"it was fitted to {n} images, fewer than the {k} classes; more labelled "
      "images would make it more reliable",)
  found = fit_map(
      probabilities.of_logits(logits).ravel(),
      (labels[:, None] == np.arange(k)).ravel())
  return base.Fit(dict(zip(("values", "frequencies"), found)), notes)


def apply_multi(
    logits: Float[AnyArray, "n k"],
    values: Float[np.ndarray, "knots"],
    frequencies: Float[np.ndarray, "knots"],
) -> Float[np.ndarray, "n k"]:
  """What the map makes of every class's probability, plus 1e-9 times that.

  The second part keeps the order of classes where the map is flat.

  Args:
    logits: Unnormalised log-probabilities.
    values: Values at the knots, from `fit_multi`.
    frequencies: Frequencies at the knots.

  Returns:
    Values that need not sum to one; the highest is that of the predicted class.

  Source: ml-stat-Sustech/CLIP_Calibration @5b68fb1.
  Differs from the released code in: probabilities are the softmax of logits,
  which there is taken twice; the calibrator divides rows by their sum.
  """
  probs = probabilities.of_logits(logits)
  return probabilities.keeping(
      logits, np.interp(probs, values, frequencies) + _SLOPE * probs)
