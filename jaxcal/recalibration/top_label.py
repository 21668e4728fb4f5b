"""Top-label calibrators: only the confidence in the prediction is mapped.

Whether a prediction is right is a question of two answers, so that any map of
one probability serves. The prediction stays, with the mapped confidence; the
other classes share the rest in proportion, none with more than the prediction.
"""

from collections.abc import Iterator
import dataclasses

import numpy as np

from jaxcal.recalibration import base
from jaxcal.recalibration import binned
from jaxcal.recalibration import examples
from jaxcal.recalibration import isotonic
from jaxcal.recalibration import probabilities
from jaxcal.typing import AnyArray
from jaxcal.typing import Float
from jaxcal.typing import Int


@dataclasses.dataclass(frozen=True)
class TopLabelHistogram:
  """Histogram binning of the confidence, the same for all predictions.

  Attributes:
    num_bins: Number of bins of equal width.
  """

  num_bins: int = 10

  def recalibrator(self) -> base.Recalibrator:
    """`fit_histogram` and the map of its bins."""
    return base.Recalibrator(
        "top_label_histogram", same_classes=False,
        fit=lambda evidence: fit_histogram(evidence, self.num_bins),
        apply=lambda parameters, evidence: _mapped(
            evidence.logits, lambda predicted, confidence: parameters[
                "frequencies"][binned.bins(confidence, parameters["edges"])]))


@dataclasses.dataclass(frozen=True)
class TopLabelPerClass:
  """Histogram binning of the confidence, apart for each predicted class.

  Attributes:
    num_bins: Number of bins that hold about equally many images of a predicted
      class; fewer where it has fewer images.
  """

  num_bins: int = 10

  def recalibrator(self) -> base.Recalibrator:
    """`fit_histograms` and the map of its bins."""
    return base.Recalibrator(
        "top_label_per_class",
        fit=lambda evidence: fit_histograms(evidence, self.num_bins),
        apply=lambda parameters, evidence: _mapped(
            evidence.logits, lambda predicted, confidence: by_predicted_class(
                predicted, confidence, **parameters)))


@dataclasses.dataclass(frozen=True)
class TopLabelIsotonic:
  """A monotone map of the confidence, the same for all predictions."""

  def recalibrator(self) -> base.Recalibrator:
    """`fit_isotonic` and its map."""
    return base.Recalibrator(
        "top_label_isotonic", fit=fit_isotonic, same_classes=False,
        apply=lambda parameters, evidence: _mapped(
            evidence.logits, lambda predicted, confidence: np.interp(
                confidence, parameters["values"], parameters["frequencies"])))


def fit_histogram(evidence: base.Evidence, num_bins: int) -> base.Fit:
  """The accuracy in each bin of the confidence.

  Args:
    evidence: Logits and labels of examples that the model was not trained on.
    num_bins: Number of bins of equal width.

  Returns:
    `edges` [bins + 1] and `frequencies` [bins]; a note on bins without images.

  Raises:
    ValueError: See `examples.checked`, or no bin.
    TypeError: Labels that are not integers.

  Source: Zadrozny and Elkan, ICML 2001; of the confidence alone: Gupta and
  Ramdas, Top-Label Calibration, ICLR 2022.
  """
  logits, labels, _ = examples.checked(evidence.logits, evidence.labels)
  predicted, confidence = probabilities.confidence(logits)
  edges = binned.equal_width(num_bins)
  found, counts = binned.frequencies(confidence, predicted == labels, edges)
  empty = int((counts == 0).sum())
  notes = () if not empty else (
      f"{empty} of {num_bins} bins have no image; their middle stands for the "
      "accuracy",)
  return base.Fit({"edges": edges, "frequencies": found}, notes)


def fit_histograms(evidence: base.Evidence, num_bins: int) -> base.Fit:
  """The accuracy in each bin of the confidence in each predicted class.

  Args:
    evidence: Logits and labels of examples that the model was not trained on.
    num_bins: Number of bins of a class, of about equally many images.

  Returns:
    `edges` and `frequencies`, those of all classes one after the other, and
    `first` [k + 1], where those of each class begin, with one edge more than
    frequencies for each class. Classes that are never predicted have none, and
    a note says so; another, on how few images the smallest bins rest.

  Raises:
    ValueError: See `examples.checked`, or no bin.
    TypeError: Labels that are not integers.

  Source: Gupta and Ramdas, Top-Label Calibration and Multiclass-to-Binary
  Reductions, ICLR 2022.
  Differs from the paper in: no noise is added to tell equal values apart; the
  number of bins is given, not that of images in a bin.
  """
  logits, labels, _ = examples.checked(evidence.logits, evidence.labels)
  predicted, confidence = probabilities.confidence(logits)
  edges, shares, first, counts = [], [], [0], []
  for label in range(logits.shape[1]):
    own = predicted == label
    if own.any():
      number = min(num_bins, int(own.sum()))
      edges.append(binned.equal_mass(confidence[own], number))
      found, count = binned.frequencies(
          confidence[own], labels[own] == label, edges[-1])
      shares.append(found)
      counts.append(count)
    first.append(sum(map(len, shares)))
  return base.Fit(
      {"edges": np.concatenate(edges), "frequencies": np.concatenate(shares),
       "first": np.asarray(first)},
      tuple(_notes(np.concatenate(counts), np.diff(first), len(labels))))


def by_predicted_class(
    predicted: Int[np.ndarray, "n"],
    confidence: Float[np.ndarray, "n"],
    edges: Float[np.ndarray, "_"],
    frequencies: Float[np.ndarray, "_"],
    first: Int[np.ndarray, "_"],
) -> Float[np.ndarray, "n"]:
  """The frequency of the bin of the predicted class.

  Args:
    predicted: Predicted classes.
    confidence: Confidence in them.
    edges: Edges of all bins, from `fit_histograms`.
    frequencies: Frequencies of all bins.
    first: Positions at which the bins of each class begin.

  Returns:
    Frequencies; the confidence itself for classes without bins.
  """
  found, before = np.array(confidence), 0
  for label, (start, end) in enumerate(zip(first, first[1:])):
    if start == end:
      continue
    own, here = predicted == label, start + before
    index = binned.bins(confidence[own], edges[here:end + before + 1])
    found[own] = frequencies[start + index]
    before += 1  # edge more than bins
  return found


def fit_isotonic(evidence: base.Evidence) -> base.Fit:
  """The monotone map of the confidence that fits best whether it is right.

  Args:
    evidence: Logits and labels of examples that the model was not trained on.

  Returns:
    `values` and `frequencies` of the knots; a note where all predictions are
    right, or none is.

  Raises:
    ValueError: See `examples.checked`.
    TypeError: Labels that are not integers.

  Source: Zadrozny and Elkan, KDD 2002; of the confidence alone: Gupta and
  Ramdas, Top-Label Calibration, ICLR 2022.
  """
  logits, labels, _ = examples.checked(evidence.logits, evidence.labels)
  predicted, confidence = probabilities.confidence(logits)
  values, shares = isotonic.fit_map(confidence, predicted == labels)
  notes = () if len(shares) > 1 and shares[0] != shares[-1] else (
      f"the confidence in {len(labels)} predictions does not tell which are "
      f"right: all of them become {shares[0]:.3g}; fit to more labelled images",
      )
  return base.Fit({"values": values, "frequencies": shares}, notes)


def _mapped(logits: Float[AnyArray, "n k"], to):
  """Logits with another confidence, which a function of it gives."""
  predicted, confidence = probabilities.confidence(logits)
  return probabilities.to_logits(probabilities.with_confidence(
      probabilities.of_logits(logits), predicted, to(predicted, confidence),
      keeps_prediction=True))


def _notes(counts, numbers, n) -> Iterator[str]:
  never = int((numbers == 0).sum())
  if never:
    yield (f"{never} of {len(numbers)} classes are predicted for none of the "
           f"{n} images fitted to and keep their confidence")
  if counts.min() < 5:
    yield (f"{(counts < 5).sum()} of {len(counts)} bins have fewer than 5 "
           "images")
