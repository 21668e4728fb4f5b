"""Histogram binning: probabilities become the frequencies of their bins."""

from collections.abc import Iterator
import dataclasses

import numpy as np

from jaxcal.recalibration import base
from jaxcal.recalibration import examples
from jaxcal.recalibration import probabilities
from jaxcal.typing import Bool
from jaxcal.typing import Float
from jaxcal.typing import Int


@dataclasses.dataclass(frozen=True)
class HistogramPerClass:
  """Histogram binning of every class's probability; may change predictions.

  Attributes:
    num_bins: Number of bins of equal width.
  """

  num_bins: int = 10

  def recalibrator(self) -> base.Recalibrator:
    """`fit` and `apply` of this module."""
    return base.Recalibrator(
        "histogram_per_class", keeps_prediction=False,
        fit=lambda evidence: fit(evidence, self.num_bins),
        apply=lambda parameters, evidence: probabilities.to_logits(
            apply(probabilities.of_logits(evidence.logits), **parameters)))


def fit(evidence: base.Evidence, num_bins: int) -> base.Fit:
  """The frequency of each class in each bin of its probability.

  Args:
    evidence: Logits and labels of examples that the model was not trained on.
    num_bins: Number of bins of equal width.

  Returns:
    `frequencies` [k, bins]; `seen`, [k], whether a class has images. Notes on
    classes without images and on the bins without any.

  Raises:
    ValueError: See `examples.checked`, or no bin.
    TypeError: Labels that are not integers.

  Source: Zadrozny and Elkan, ICML 2001 and 2002 (one class against the rest);
  netcal's HistogramBinning.
  Differs from the released code in: bins are right-closed in the fit as well,
  where netcal's are left-closed; classes without images keep their
  probabilities, where they become 0 there.
  """
  logits, labels, _ = examples.checked(evidence.logits, evidence.labels)
  probs, k = probabilities.of_logits(logits), logits.shape[1]
  edges = equal_width(num_bins)
  fits = [frequencies(column, labels == label, edges)
          for label, column in enumerate(probs.T)]
  seen = np.ones(k, bool)
  seen[examples.without_images(labels, k)] = False
  empty = sum(int((counts == 0).sum()) for _, counts in fits)
  return base.Fit(
      {"frequencies": np.stack([found for found, _ in fits]), "seen": seen},
      tuple(_notes(len(labels), seen, empty, k * num_bins)))


def apply(
    probs: Float[np.ndarray, "n k"],
    frequencies: Float[np.ndarray, "k bins"],
    seen: Bool[np.ndarray, "k"],
) -> Float[np.ndarray, "n k"]:
  """Frequencies in the place of probabilities, divided by their sum.

  Args:
    probs: Probabilities.
    frequencies: Frequencies from `fit`.
    seen: Whether a class had images; others keep their probabilities.

  Returns:
    Probabilities; those that were given where all frequencies of a row are 0.
  """
  found = np.where(seen, unnormalised(probs, frequencies), probs)
  return probabilities.normalised(found, probs)


def unnormalised(
    probs: Float[np.ndarray, "n k"], frequencies: Float[np.ndarray, "k bins"]
) -> Float[np.ndarray, "n k"]:
  """The frequency of each class in the bin of its probability."""
  edges = equal_width(frequencies.shape[1])
  return frequencies[np.arange(probs.shape[1]), bins(probs, edges)]


def equal_width(num_bins: int) -> Float[np.ndarray, "edges"]:
  """Edges of bins of equal width over [0, 1], both ends included.

  Raises:
    ValueError: Less than one bin.
  """
  if num_bins < 1:
    raise ValueError(f"expected at least one bin, got {num_bins}")
  return np.arange(num_bins + 1) / num_bins


def equal_mass(
    values: Float[np.ndarray, "n"], num_bins: int
) -> Float[np.ndarray, "edges"]:
  """Edges of bins over [0, 1] that hold about equally many of some values.

  Args:
    values: Probabilities.
    num_bins: Number of bins; fewer where quantiles coincide.

  Raises:
    ValueError: Less than one bin.
  """
  inner = np.quantile(values, equal_width(num_bins)[1:-1])
  inner = np.unique(inner)
  return np.concatenate([[0], inner[(inner > 0) & (inner < 1)], [1]])


def bins(
    values: Float[np.ndarray, "*n"], edges: Float[np.ndarray, "edges"]
) -> Int[np.ndarray, "*n"]:
  """The bin of each value; bins contain their upper edge."""
  return np.searchsorted(edges[1:-1], values, side="left")


def frequencies(
    values: Float[np.ndarray, "n"],
    hits: Bool[np.ndarray, "n"],
    edges: Float[np.ndarray, "edges"],
) -> tuple[Float[np.ndarray, "bins"], Int[np.ndarray, "bins"]]:
  """The share of hits in each bin, and the number of values in it.

  Args:
    values: Probabilities.
    hits: Whether what has that probability is so.
    edges: Edges of the bins.

  Returns:
    Shares, of an empty bin its middle; counts.
  """
  index, number = bins(values, edges), len(edges) - 1
  counts = np.bincount(index, minlength=number)
  sums = np.bincount(index, weights=hits, minlength=number)
  middle = (edges[1:] + edges[:-1]) / 2
  return np.where(counts > 0, sums / np.maximum(counts, 1), middle), counts


def _notes(n, seen, empty, number) -> Iterator[str]:
  if not seen.all():
    yield (f"{(~seen).sum()} of {len(seen)} classes have no image among the "
           f"{n} fitted to and keep their probabilities")
  if empty:
    yield (f"{empty} of {number} bins have no image; their middle stands for "
           "the frequency")
