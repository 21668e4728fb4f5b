"""Brier scores of the predicted class, and what such a score consists of.

`scoring.brier_score` is that of all classes. Published tables often give the
one of the predicted class under the same name, which is another number.
"""

from typing import NamedTuple

import jax.numpy as jnp

from jaxcal.compiled import compiled
from jaxcal.metrics import binning
from jaxcal.metrics import examples
from jaxcal.metrics import statistics
from jaxcal.typing import Array
from jaxcal.typing import at_least_float32
from jaxcal.typing import Float
from jaxcal.typing import Values


class Decomposition(NamedTuple):
  """Terms of a Brier score: reliability - resolution + uncertainty + within.

  Attributes:
    reliability: Weighted mean square gap of the bins, a calibration error.
    resolution: Variance of the accuracy between bins; the more, the better.
    uncertainty: Variance of the hits, which no confidence changes.
    within: Rest, from differences of confidence inside bins; zero where each
      bin holds one value.
  """

  reliability: Float[Array, ""]
  resolution: Float[Array, ""]
  uncertainty: Float[Array, ""]
  within: Float[Array, ""]


def top_label_brier_score(
    confidence: Values, correct: Values) -> Float[Array, "n"]:
  """Brier score of the event that the predicted class is right.

  Args:
    confidence: Probability of the predicted class, in [0, 1].
    correct: Whether the prediction is right, as booleans or as 0 and 1.

  Returns:
    Squared difference for each example, in [0, 1]. Unreduced.

  Raises:
    ValueError: Wrong shapes, or (where not traced) a confidence outside [0, 1]
      or NaN, or anything but hits as `correct`.
  """
  values, hits = examples.as_array(confidence), examples.as_array(correct)
  if values.shape != hits.shape:
    raise ValueError(
        "confidence and correct must have one value per example, but their "
        f"shapes are {values.shape} and {hits.shape}.")
  examples.check_probabilities(values, name="confidence")
  examples.check_hits(hits, name="correct", way_out="predicted == labels")
  return _squares(values, hits)


def brier_decomposition(
    confidence: Values,
    correct: Values,
    *,
    num_bins: int = 20,
    edges: str = "right",
    weights: Values | None = None,
) -> Decomposition:
  """Terms of the mean `top_label_brier_score`, to which they add up.

  Args and errors as for `calibration.expected_calibration_error`. Reliability
  is the square of its norm "l2".

  Source: Murphy, A New Vector Partition of the Probability Score, 1973; what is
  left within bins, Stephenson et al., Two Extra Components in the Brier Score
  Decomposition, 2008.
  """
  bins = binning.bin_statistics(
      confidence, correct, num_bins=num_bins, edges=edges, weights=weights)
  return _terms(bins, statistics.weighted_mean(_squares(
      examples.as_array(confidence), examples.as_array(correct)), weights))


@compiled
def _squares(values, hits):
  values, hits = at_least_float32(values), at_least_float32(hits)
  return jnp.square(values - hits.astype(values.dtype))


@compiled
def _terms(bins, score):
  """The terms of a mean score, by the bins of its examples."""
  total, count = jnp.sum(bins.count), jnp.where(bins.count > 0, bins.count, 1)
  accuracy, share = jnp.sum(bins.correct_sum) / total, bins.count / total
  of_bins = bins.correct_sum / count
  reliability = jnp.sum(
      share * jnp.square(bins.confidence_sum / count - of_bins))
  resolution = jnp.sum(share * jnp.square(of_bins - accuracy))
  uncertainty = accuracy * (1 - accuracy)
  return Decomposition(
      reliability, resolution, uncertainty,
      score - (reliability - resolution + uncertainty))
