"""Proximity-informed calibration (ProCal): confidence and proximity together.

Images far from all others are the ones whose confidence is least to be trusted.
All three forms look at the image features of the images fitted to, and of
those to be recalibrated, which are compared with them.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcal.metrics import proximity as metrics
from jaxcal.recalibration import base
from jaxcal.recalibration import binned
from jaxcal.recalibration import examples
from jaxcal.recalibration import isotonic
from jaxcal.recalibration import probabilities
from jaxcal.typing import AnyArray
from jaxcal.typing import Bool
from jaxcal.typing import Float

_NEEDS = ("image_features",)
# Pairs of images whose kernels are held in memory at a time.
_BLOCK = 2 ** 22


@dataclasses.dataclass(frozen=True)
class ProcalDensityRatio:
  """Densities of right and wrong predictions; may change predictions.

  Attributes:
    num_neighbours: Number of neighbours of the proximity.
  """

  num_neighbours: int = 5

  def recalibrator(self) -> base.Recalibrator:
    """`fit_densities` and `posterior`."""
    return _recalibrator(
        "procal_density_ratio", self.num_neighbours, fit_densities, posterior)


@dataclasses.dataclass(frozen=True)
class ProcalBinMeanShift:
  """Confidence shifted to the accuracy of its bin, as in the paper.

  Attributes:
    num_neighbours: Number of neighbours of the proximity.
    num_proximity_bins: Number of bins of about equally many images.
    num_confidence_bins: Number of bins of equal width.
    strength: Part of the gap between accuracy and confidence that is made up
      for, in (0, 1].
  """

  num_neighbours: int = 5
  num_proximity_bins: int = 5
  num_confidence_bins: int = 10
  strength: float = 1.0

  def recalibrator(self) -> base.Recalibrator:
    """`fit_shifts` and `shifted`."""
    return _recalibrator(
        "procal_bin_mean_shift", self.num_neighbours,
        lambda seen: fit_shifts(
            seen, self.num_proximity_bins, self.num_confidence_bins,
            self.strength), shifted, keeps_prediction=True)


@dataclasses.dataclass(frozen=True)
class ProcalIsotonic:
  """A monotone map for each bin of proximity: bin-mean-shift as released.

  Attributes:
    num_neighbours: Number of neighbours of the proximity.
    num_proximity_bins: Number of bins of about equally many images.
  """

  num_neighbours: int = 5
  num_proximity_bins: int = 5

  def recalibrator(self) -> base.Recalibrator:
    """`fit_maps` and `mapped`, rows divided by their sum."""

    def fit(evidence):
      near = proximities(
          evidence.image_features, num_neighbours=self.num_neighbours)
      found = fit_maps(evidence, near, self.num_proximity_bins)
      return _with_features(found, evidence)

    def apply(parameters, evidence):
      near, rest = _near(parameters, evidence, self.num_neighbours)
      return probabilities.to_logits(mapped(evidence, near, **rest))

    return base.Recalibrator(
        "procal_isotonic", fit=fit, apply=apply, needs=_NEEDS,
        same_classes=False)


class Seen(NamedTuple):
  """Predictions as ProCal sees them.

  Attributes:
    confidence: Confidence in the predicted class.
    proximity: Proximity to the images fitted to.
    right: Whether the prediction is right.
  """

  confidence: Float[np.ndarray, "n"]
  proximity: Float[np.ndarray, "n"]
  right: Bool[np.ndarray, "n"]


def _recalibrator(
    name: str, num_neighbours: int, fit_seen: Callable[[Seen], base.Fit],
    to: Callable[..., Float[np.ndarray, "n"]], *,
    keeps_prediction: bool = False,
) -> base.Recalibrator:
  """A calibrator that gives predictions another confidence."""

  def fit(evidence):
    logits, labels, _ = examples.checked(evidence.logits, evidence.labels)
    predicted, confidence = probabilities.confidence(logits)
    near = proximities(
        evidence.image_features, num_neighbours=num_neighbours)
    return _with_features(
        fit_seen(Seen(confidence, near, predicted == labels)), evidence)

  def apply(parameters, evidence):
    if not parameters:
      return evidence.logits
    near, rest = _near(parameters, evidence, num_neighbours)
    predicted, confidence = probabilities.confidence(evidence.logits)
    return probabilities.to_logits(probabilities.with_confidence(
        probabilities.of_logits(evidence.logits), predicted,
        to(confidence, near, **rest), keeps_prediction=keeps_prediction))

  return base.Recalibrator(
      name, fit=fit, apply=apply, needs=_NEEDS, same_classes=False,
      keeps_prediction=keeps_prediction)


def _with_features(found, evidence):
  """A fit together with the images that others are compared with."""
  if not found.parameters:
    return found
  return found._replace(parameters={
      **found.parameters,
      "image_features": np.asarray(evidence.image_features)})


def _near(
    parameters: Mapping[str, Any], evidence: base.Evidence, num_neighbours: int
) -> tuple[Float[np.ndarray, "n"], dict[str, Any]]:
  """Proximities to the images fitted to, and the other parameters."""
  rest = dict(parameters)
  return proximities(
      evidence.image_features, rest.pop("image_features"),
      num_neighbours=num_neighbours), rest


def proximities(
    features: Float[AnyArray, "n d"] | None,
    others: Float[AnyArray, "m d"] | None = None,
    *,
    num_neighbours: int,
) -> Float[np.ndarray, "n"]:
  """`metrics.proximity.proximity` in float64, on the host.

  Args:
    features: Image features, unit norm; not None.
    others: Features of the images among which neighbours are sought; if None,
      `features` themselves, each without itself.
    num_neighbours: Number of neighbours.

  Raises:
    ValueError: Fewer others than neighbours, or no neighbour.
  """
  among = None if others is None else np.asarray(others, np.float64)
  with jax.enable_x64(True):
    return np.asarray(metrics.proximity(
        np.asarray(features, np.float64), among,
        num_neighbours=num_neighbours))


def fit_densities(seen: Seen) -> base.Fit:
  """The points that densities of right and wrong predictions are made of.

  Args:
    seen: Labelled predictions.

  Returns:
    `right` and `wrong` [_ 2]: confidence and proximity; `right_bandwidth` and
    `wrong_bandwidth`, [2]; `wrong_to_right`, how many wrong ones there are for
    a right one. None, and a note, where there are fewer than two of a kind or
    all of a kind are alike.

  Source: Xiong et al., Proximity-Informed Calibration, NeurIPS 2023, as in
  ml-stat-Sustech/CLIP_Calibration @5b68fb1.
  """
  points = np.stack([seen.confidence, seen.proximity], axis=1)
  right, wrong = points[seen.right], points[~seen.right]
  if not all(len(part) > 1 and part.std(axis=0).all()
             for part in (right, wrong)):
    return base.Fit({}, (
        f"{len(right)} of {len(points)} predictions are right, {len(wrong)} "
        "wrong: a density takes two of each that differ, so that logits are "
        "left as they are; fit to more labelled images",))
  return base.Fit({
      "right": right, "wrong": wrong, "right_bandwidth": bandwidth(right),
      "wrong_bandwidth": bandwidth(wrong),
      "wrong_to_right": len(wrong) / len(right)})


def posterior(
    confidence: Float[np.ndarray, "n"],
    proximity: Float[np.ndarray, "n"],
    right: Float[np.ndarray, "a 2"],
    wrong: Float[np.ndarray, "b 2"],
    right_bandwidth: Float[np.ndarray, "2"],
    wrong_bandwidth: Float[np.ndarray, "2"],
    wrong_to_right: float,
) -> Float[np.ndarray, "n"]:
  r"""How probable it is that predictions are right, by Bayes' rule.

  .. math:: \frac{f_1}{f_1 + r f_0}

  Args:
    confidence: Confidence in the predicted class.
    proximity: Proximity to the images fitted to.
    right: Confidence and proximity of right predictions.
    wrong: Those of wrong ones.
    right_bandwidth: Bandwidths of the density of right ones.
    wrong_bandwidth: Bandwidths of the density of wrong ones.
    wrong_to_right: Number of wrong predictions for a right one.

  Returns:
    Probabilities; the confidence itself where both densities are zero.

  Differs from the released code in: that last rule, where the code gives 0.
  """
  points = np.stack([confidence, proximity], axis=1)
  of_right = density(points, right, right_bandwidth)
  both = of_right + wrong_to_right * density(points, wrong, wrong_bandwidth)
  return np.where(both > 0, of_right / np.where(both > 0, both, 1), confidence)


def bandwidth(points: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "c"]:
  """The normal-reference bandwidth of a density, for each coordinate."""
  n, number = points.shape
  return 1.06 * points.std(axis=0) * n ** (-1 / (4 + number))


def density(
    points: Float[np.ndarray, "n c"],
    of: Float[np.ndarray, "m c"],
    bandwidth: Float[np.ndarray, "c"],
) -> Float[np.ndarray, "n"]:
  """A density by Gaussian product kernels.

  Args:
    points: Points at which it is asked for.
    of: Points that it is made of.
    bandwidth: Standard deviation of the kernel in each coordinate.
  """
  rows, found = max(1, _BLOCK // len(of)), []
  norm = (np.sqrt(2 * np.pi) * bandwidth).prod() * len(of)
  for start in range(0, len(points), rows):
    part = points[start:start + rows, None] / bandwidth - of / bandwidth
    found.append(np.exp(-0.5 * (part ** 2).sum(axis=-1)).sum(axis=1) / norm)
  return np.concatenate(found)


def fit_shifts(
    seen: Seen, num_proximity_bins: int, num_confidence_bins: int,
    strength: float
) -> base.Fit:
  """How far accuracy is above confidence, in cells of proximity and confidence.

  Args:
    seen: Labelled predictions.
    num_proximity_bins: Number of bins of about equally many images.
    num_confidence_bins: Number of bins of equal width.
    strength: Part of the gap that is made up for.

  Returns:
    `edges` of the proximity's bins, without the outer ones, and `shifts`, a row
    for each of them; a note on cells without images, which shift nothing.

  Raises:
    ValueError: A strength outside (0, 1], or no bin.

  Source: Xiong et al., Proximity-Informed Calibration, NeurIPS 2023, section
  5.2. The released code fits a map in each bin of proximity instead, see
  `fit_maps`. Numbers of bins and strength are our choice.
  """
  if not 0 < strength <= 1:
    raise ValueError(f"expected a strength in (0, 1], got {strength}")
  inner = binned.equal_width(num_confidence_bins)
  edges = proximity_edges(seen.proximity, num_proximity_bins)
  shape = len(edges) + 1, num_confidence_bins
  cell = np.ravel_multi_index((
      np.searchsorted(edges, seen.proximity, side="right"),
      binned.bins(seen.confidence, inner)), shape)
  sums = lambda weights: np.bincount(
      cell, weights=weights, minlength=np.prod(shape))
  counts = sums(np.ones(len(cell)))
  gaps = sums(seen.right - seen.confidence) / np.maximum(counts, 1)
  empty = int((counts == 0).sum())
  notes = () if not empty else (
      f"{empty} of {counts.size} cells of proximity and confidence have no "
      "image; confidence in them stays",)
  return base.Fit(
      {"edges": edges, "shifts": strength * gaps.reshape(shape)}, notes)


def shifted(
    confidence: Float[np.ndarray, "n"],
    proximity: Float[np.ndarray, "n"],
    edges: Float[np.ndarray, "_"],
    shifts: Float[np.ndarray, "p c"],
) -> Float[np.ndarray, "n"]:
  """Confidence plus the shift of its cell, cut to [0, 1].

  Args:
    confidence: Confidence in the predicted class.
    proximity: Proximity to the images fitted to.
    edges: Edges of the proximity's bins, from `fit_shifts`.
    shifts: Shifts of the cells.
  """
  index = binned.bins(confidence, binned.equal_width(shifts.shape[1]))
  rows = np.searchsorted(edges, proximity, side="right")
  return np.clip(confidence + shifts[rows, index], 0, 1)


def proximity_edges(
    proximity: Float[np.ndarray, "n"], num_bins: int
) -> Float[np.ndarray, "_"]:
  """Quantiles between bins of about equally many images, without the ends.

  An edge belongs to the upper bin.
  """
  return np.percentile(proximity, 100 * binned.equal_width(num_bins)[1:-1])


def fit_maps(
    evidence: base.Evidence, proximity: Float[np.ndarray, "n"], num_bins: int
) -> base.Fit:
  """`isotonic.fit_multi` in each bin of proximity.

  Args:
    evidence: Logits and labels of examples that the model was not trained on.
    proximity: Proximity of each of them to the others.
    num_bins: Number of bins of about equally many images.

  Returns:
    `edges` of the bins, without the outer ones; `values` and `frequencies`, the
    knots of all bins one after the other, and `first`, where those of each
    begin. A note where a bin has no image, and so no map.

  Raises:
    ValueError: See `examples.checked`, or no bin.
    TypeError: Labels that are not integers.

  Source: ml-stat-Sustech/CLIP_Calibration @5b68fb1 and
  MiaoXiong2320/ProximityBias-Calibration, BinMeanShift.
  Differs from the released code in: see `isotonic.apply_multi`; a bin without
  images changes nothing, where the code stops.
  """
  logits, labels, _ = examples.checked(evidence.logits, evidence.labels)
  edges = proximity_edges(proximity, num_bins)
  index = np.searchsorted(edges, proximity, side="right")
  maps = []
  for number in range(num_bins):
    own = index == number
    one: Mapping[str, Any] = {
        "values": np.zeros(0), "frequencies": np.zeros(0)}
    if own.any():
      one = isotonic.fit_multi(
          base.Evidence(logits[own], labels[own])).parameters
    maps.append(one)
  empty = num_bins - len(np.unique(index))
  notes = () if not empty else (
      f"{empty} of {num_bins} bins of proximity have no image; logits in them "
      "are left as they are",)
  parts = {name: np.concatenate([one[name] for one in maps])
           for name in ("values", "frequencies")}
  first = np.cumsum([0, *(len(one["values"]) for one in maps)])
  return base.Fit({"edges": edges, "first": first, **parts}, notes)


def mapped(
    evidence: base.Evidence,
    proximity: Float[np.ndarray, "n"],
    edges: Float[np.ndarray, "_"],
    first: Any,
    values: Float[np.ndarray, "knots"],
    frequencies: Float[np.ndarray, "knots"],
) -> Float[np.ndarray, "n k"]:
  """`isotonic.apply_multi` by the map of each image's bin.

  Args:
    evidence: Logits of the images.
    proximity: Proximity to the images fitted to.
    edges: Edges of the bins, from `fit_maps`.
    first: Positions at which the knots of each bin begin.
    values: Values at the knots.
    frequencies: Frequencies at the knots.

  Returns:
    Values that need not sum to one; the highest is that of the predicted class.
  """
  logits = np.asarray(evidence.logits)
  index = np.searchsorted(edges, proximity, side="right")
  found = probabilities.of_logits(logits)
  for number, (start, end) in enumerate(zip(first, first[1:])):
    own = index == number
    if start < end and own.any():
      found[own] = isotonic.apply_multi(
          logits[own], values[start:end], frequencies[start:end])
  return found
