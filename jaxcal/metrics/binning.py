"""The one function that bins confidences, and what is kept of a bin."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.metrics import examples
from jaxcal.typing import Array
from jaxcal.typing import at_least_float32
from jaxcal.typing import Float
from jaxcal.typing import Values

# Which of its two edges a bin contains, as the side of a sorted search.
_SIDES = {"left": "right", "right": "left"}


class BinStatistics(NamedTuple):
  """Sums over the examples of each bin, all that a binned metric needs.

  Statistics of disjoint sets of examples add up: `first + second`.
  """
  count: Float[Array, "bins"]  # type: ignore[assignment]
  confidence_sum: Float[Array, "bins"]
  correct_sum: Float[Array, "bins"]

  def __add__(  # type: ignore[override]
      self, other: "BinStatistics") -> "BinStatistics":
    return BinStatistics(*(a + b for a, b in zip(self, other, strict=True)))


def bin_statistics(
    confidence: Values,
    correct: Values,
    *,
    num_bins: int = 20,
    edges: str = "right",
    weights: Values | None = None,
) -> BinStatistics:
  """Counts and sums of the examples in bins of equal width over [0, 1].

  With edges="right" bin i is (i / num_bins, (i + 1) / num_bins] and the first
  one also has 0; with edges="left" it is [i / num_bins, (i + 1) / num_bins) and
  the last one also has 1. So every example is in exactly one bin.

  Args:
    confidence: Probability of the predicted class, in [0, 1].
    correct: Whether the prediction is right, as booleans or as 0 and 1.
    num_bins: Number of bins, at least one.
    edges: Edge that belongs to a bin, "right" or "left".
    weights: Multiplicity of each example; one if None. Examples of weight zero
      have no influence.

  Returns:
    Sums per bin, float32 or wider.

  Raises:
    ValueError: Wrong shapes, no example, an unknown `edges`, `num_bins` less
      than one, or (where not traced) a confidence outside [0, 1] or NaN, or
      anything but hits as `correct`, such as class labels.
  """
  if num_bins < 1:
    raise ValueError(f"num_bins must be at least one, but {num_bins=}.")
  inner = np.arange(1, num_bins) / num_bins
  return _sums(confidence, correct, inner, edges=edges, weights=weights)


def equal_mass_bin_statistics(
    confidence: Values,
    correct: Values,
    *,
    num_bins: int = 20,
    weights: Values | None = None,
) -> BinStatistics:
  """Counts and sums in bins that hold (nearly) equally many examples.

  The edges are the quantiles of the confidences at i / num_bins, linearly
  interpolated between neighbours in rank; bins are left-closed, the last one
  has both edges. Equal confidences are never separated: where they are many,
  neighbouring edges coincide and a bin stays empty, as if merged.

  Args:
    confidence: Probability of the predicted class, in [0, 1].
    correct: Whether the prediction is right, as booleans or as 0 and 1.
    num_bins: Number of bins, at least one.
    weights: Multiplicity of each example; one if None. Quantiles are those of
      the repeated data where the weights are integers.

  Returns:
    Sums per bin, float32 or wider.

  Raises:
    ValueError: As `bin_statistics`.

  Source: the adaptive error of ml-stat-Sustech/CLIP_Calibration @5b68fb1, which
  uses the quantile discretiser of scikit-learn.
  Differs from the released code in: edges closer than 1e-8 are merged there,
  coinciding ones here.
  """
  if num_bins < 1:
    raise ValueError(f"num_bins must be at least one, but {num_bins=}.")
  values = at_least_float32(examples.as_array(confidence))
  mass = examples.example_weights(weights, values)
  fractions = np.arange(1, num_bins) / num_bins
  inner = _quantiles(values, mass, fractions)
  # An edge at the greatest value closes the last bin; it opens no new one.
  greatest = jnp.max(jnp.where(mass > 0, values, -jnp.inf))
  inner = jnp.where(inner < greatest, inner, jnp.inf)
  return _sums(confidence, correct, inner, edges="left", weights=weights)


def _sums(confidence, correct, inner_edges, *, edges, weights):
  """Sums per bin; `inner_edges` are sorted and leave out the outermost two."""
  if edges not in _SIDES:
    raise ValueError(
        f"unknown {edges=}; choose from: {', '.join(sorted(_SIDES))}.")
  values, hits = (at_least_float32(examples.as_array(x))
                  for x in (confidence, correct))
  if hits.shape != values.shape:
    raise ValueError(
        "confidence and correct must have one value per example, but their "
        f"shapes are {values.shape} and {hits.shape}.")
  mass = examples.example_weights(weights, values)
  values = jnp.where(mass > 0, values, 0)
  hits = jnp.where(mass > 0, hits, 0).astype(values.dtype)
  examples.check_probabilities(values, name="confidence")
  examples.check_hits(hits, name="correct", way_out="predicted == labels")
  index = jnp.searchsorted(
      jnp.asarray(inner_edges, values.dtype), values, side=_SIDES[edges],
      method="compare_all")
  # A product instead of a scatter: the same sum on every run, and resamples
  # (many weights for one confidence) share one membership matrix.
  member = jax.nn.one_hot(index, len(inner_edges) + 1, dtype=values.dtype)
  sums = jnp.matmul(
      member.T, jnp.stack([mass, mass * values, mass * hits], axis=-1),
      precision=jax.lax.Precision.HIGHEST)
  return BinStatistics(*sums.T)


def _quantiles(values, mass, fractions):
  """Linear quantiles of values that occur `mass` times each."""
  order = jnp.argsort(values)
  ordered, ranks = values[order], jnp.cumsum(mass[order])
  position = jnp.asarray(fractions, values.dtype) * (ranks[-1] - 1)
  below = jnp.floor(position)

  def at(rank):
    found = jnp.searchsorted(
        ranks, rank, side="right", method="compare_all")
    return ordered[jnp.minimum(found, ordered.size - 1)]

  low, high = at(below), at(jnp.minimum(below + 1, ranks[-1] - 1))
  return low + (position - below) * (high - low)
