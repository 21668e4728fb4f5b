"""The one function that bins confidences, and what is kept of a bin."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.compiled import compiled
from jaxcal.compiled import compiled_with
from jaxcal.metrics import examples
from jaxcal.metrics import ranks
from jaxcal.typing import Array
from jaxcal.typing import at_least_float32
from jaxcal.typing import Float
from jaxcal.typing import Labels
from jaxcal.typing import Scores
from jaxcal.typing import Values

# Which of its two edges a bin contains, as the side of a sorted search.
_SIDES = {"left": "right", "right": "left"}

# How bins of equal mass are cut; see `equal_mass_bin_statistics`.
RULES = ("quantile", "equal_count", "interpolated", "nearest_rank")


class BinStatistics(NamedTuple):
  """Sums over the examples of each bin, all that a binned metric needs.

  Statistics of disjoint sets of examples add up: `first + second`.
  """
  count: Float[Array, "*k bins"]  # type: ignore[assignment]
  confidence_sum: Float[Array, "*k bins"]
  correct_sum: Float[Array, "*k bins"]

  def __add__(  # type: ignore[override]
      self, other: "BinStatistics") -> "BinStatistics":
    return BinStatistics(*(a + b for a, b in zip(self, other, strict=True)))


class Examples(NamedTuple):
  """Confidences, hits and weights of one dtype, all finite where checked.

  The first two may be anything where the weight is zero.
  """

  values: Float[Array, "n"]
  hits: Float[Array, "n"]
  mass: Float[Array, "n"]


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
  _check_choice(edges, _SIDES, name="edges")
  return _of_equal_width(
      checked(confidence, correct, weights), num_bins=num_bins, edges=edges)


def equal_mass_bin_statistics(
    confidence: Values,
    correct: Values,
    *,
    num_bins: int = 20,
    rule: str = "quantile",
    weights: Values | None = None,
) -> BinStatistics:
  """Counts and sums in bins that hold (nearly) equally many examples.

  What is called adaptive differs between programs in how the bins are cut:

  - "quantile": The edges are the quantiles of the confidences at i / num_bins,
    linearly interpolated between neighbours in rank; bins are left-closed, the
    last one has both edges.
  - "equal_count": The sorted examples are cut into parts whose sizes differ by
    one at most, the first ones larger. Equal confidences on both sides of a
    cut count in each part by the share that falls there.
  - "interpolated": The edges are the confidences at the ranks i * n / num_bins
    from zero, linearly interpolated; bins are right-closed, so that the
    examples of the smallest confidence fall out. They are kept as one more bin,
    the first, with a gap of zero: they count among the n.
  - "nearest_rank": The edges are the confidences at the rounded ranks
    i * (n - 1) / num_bins from zero; bins are right-closed, and the first one
    with examples has both edges.

  But for "equal_count" equal confidences are never separated: where they are
  many, neighbouring edges coincide and a bin stays empty, as if merged.

  Args:
    confidence: Probability of the predicted class, in [0, 1].
    correct: Whether the prediction is right, as booleans or as 0 and 1.
    num_bins: Number of bins, at least one.
    rule: Rule by which bins are cut, one of `RULES`.
    weights: Multiplicity of each example; one if None. Quantiles are those of
      the repeated data where the weights are integers.

  Returns:
    Sums per bin, float32 or wider.

  Raises:
    ValueError: An unknown `rule`, or as `bin_statistics`.

  Source: "quantile" is that of ml-stat-Sustech/CLIP_Calibration @5b68fb1, which
  uses the quantile discretiser of scikit-learn, "interpolated" that of
  Bala93/CLIPCalib, "nearest_rank" that of YonseiML/fpp @bb9917f, "equal_count"
  numpy's array_split, as in the verified calibration of Kumar et al. 2019.
  Differs from the released code in: edges closer than 1e-8 are merged in the
  first one, coinciding ones here; equal confidences are separated by the order
  of a sort in the last one; where all confidences are equal, the error is zero
  in the third one.
  """
  if num_bins < 1:
    raise ValueError(f"num_bins must be at least one, but {num_bins=}.")
  _check_choice(rule, RULES, name="rule")
  return _of_equal_mass(
      checked(confidence, correct, weights), num_bins=num_bins, rule=rule)


def classwise_bin_statistics(
    probs: Scores,
    labels: Labels,
    *,
    num_bins: int = 20,
    edges: str = "right",
    weights: Values | None = None,
) -> BinStatistics:
  """Counts and sums of each class's probability, in bins of equal width.

  Classes are taken one after the other, so that memory for the examples does
  not grow with their number.

  Args:
    probs: Probabilities, one row per example.
    labels: True classes.
    num_bins: Number of bins, at least one.
    edges: Edge that belongs to a bin, "right" or "left".
    weights: Multiplicity of each example; one if None.

  Returns:
    Sums [k bins]: for class k of its probability, and of being the label.

  Raises:
    ValueError: As `bin_statistics`, and for labels out of range.
    TypeError: `labels` are not integers.
  """
  probs, labels = examples.as_array(probs), examples.readable(labels)
  if probs.ndim != 2 or labels.shape != probs.shape[:1]:
    raise ValueError(
        "expected probs [examples, classes] and one label per example, but "
        f"{probs.shape=} and {labels.shape=}.")
  examples.check_labels(labels, probs.shape[1])
  examples.check_probabilities(probs, name="probs")
  if weights is not None:
    weights = examples.checked_weights(weights, labels)
  return _of_classes(probs, examples.as_array(labels), weights,
                     num_bins=num_bins, edges=edges)


def grouped_bin_statistics(
    confidence: Values,
    correct: Values,
    grouping: Values,
    *,
    num_bins: int = 10,
    num_groups: int = 10,
    edges: str = "left",
    weights: Values | None = None,
) -> BinStatistics:
  """Counts and sums in bins of equal width within groups of equal mass.

  Args:
    confidence: Probability of the predicted class, in [0, 1].
    correct: Whether the prediction is right, as booleans or as 0 and 1.
    grouping: Values by whose quantiles the examples are grouped, cut as by the
      rule "quantile" of `equal_mass_bin_statistics`.
    num_bins: Number of bins in each group, at least one.
    num_groups: Number of groups, at least one.
    edges: Edge that belongs to a bin, "right" or "left".
    weights: Multiplicity of each example; one if None.

  Returns:
    Sums of all bins of the first group, then of the second one, and so on.

  Raises:
    ValueError: As `bin_statistics`, or values to group by that are not finite.
  """
  if num_bins < 1 or num_groups < 1:
    raise ValueError("num_bins and num_groups must be at least one, but "
                     f"{num_bins=} and {num_groups=}.")
  _check_choice(edges, _SIDES, name="edges")
  seen = checked(confidence, correct, weights)
  grouping = examples.as_array(grouping)
  if grouping.shape != seen.values.shape:
    raise ValueError(
        "there must be one value per example to group by, but the shapes are "
        f"{grouping.shape} and {seen.values.shape}.")
  if not examples.is_traced(grouping, seen.mass):
    unknown = ~np.isfinite(grouping) & (np.asarray(seen.mass) > 0)
    if unknown.any():
      raise ValueError("values to group by must be finite, but "
                       f"{unknown.sum()} are not.")
  return _of_groups(seen, grouping, num_bins=num_bins, num_groups=num_groups,
                    edges=edges)


def checked(
    confidence: Values, correct: Values, weights: Values | None) -> Examples:
  """What every error of confidences takes, once it is seen to be that.

  Raises:
    ValueError: As `bin_statistics`.
  """
  values, hits = examples.as_array(confidence), examples.as_array(correct)
  if hits.shape != values.shape:
    raise ValueError(
        "confidence and correct must have one value per example, but their "
        f"shapes are {values.shape} and {hits.shape}.")
  weights = examples.checked_weights(weights, values)
  examples.check_probabilities(values, name="confidence", weights=weights)
  examples.check_hits(hits, name="correct", way_out="predicted == labels",
                      weights=weights)
  return _finite(values, hits, weights)


@compiled
def _finite(values, hits, weights):
  """Examples of one dtype, without what is no number."""
  values = at_least_float32(values)
  hits = at_least_float32(hits).astype(values.dtype)
  mass = examples.example_weights(weights, values)
  # Not where there is mass: values that do not depend on it are binned once
  # for all resamples. What is no number there makes the mass none, too.
  finite = jnp.isfinite(values) & jnp.isfinite(hits)
  mass = jnp.where(finite | (mass == 0), mass, jnp.nan)
  return Examples(
      jnp.where(finite, values, 0), jnp.where(finite, hits, 0), mass)


@compiled_with("num_bins", "edges")
def _of_equal_width(seen, *, num_bins, edges):
  inner = np.arange(1, num_bins) / num_bins
  return _sums(_members(seen.values, inner, edges), seen)


@compiled_with("num_bins", "rule")
def _of_equal_mass(seen, *, num_bins, rule):
  if rule == "equal_count":
    return _sums(_parts(seen.values, seen.mass, num_bins), seen)
  inner, edges = _inner_edges(seen.values, seen.mass, num_bins, rule)
  bins = _sums(_members(seen.values, inner, edges), seen)
  if rule == "interpolated":
    kept = jnp.arange(num_bins + 1) > 0
    bins = bins._replace(
        confidence_sum=jnp.where(kept, bins.confidence_sum, 0),
        correct_sum=jnp.where(kept, bins.correct_sum, 0))
  return bins


@compiled_with("num_bins", "edges")
def _of_classes(probs, labels, weights, *, num_bins, edges):
  """Bins of each class, one class after the other."""

  def of_class(column_and_class):
    column, index = column_and_class
    return bin_statistics(
        column, labels == index, num_bins=num_bins, edges=edges,
        weights=weights)

  classes = jnp.arange(probs.shape[1], dtype=labels.dtype)
  return jax.lax.map(of_class, (probs.T, classes))


@compiled_with("num_bins", "num_groups", "edges")
def _of_groups(seen, grouping, *, num_bins, num_groups, edges):
  """Bins within groups of equal mass."""
  grouping = jnp.where(seen.mass > 0, at_least_float32(grouping), 0)
  groups = _members(
      grouping, *_inner_edges(grouping, seen.mass, num_groups, "quantile"))
  bins = _members(seen.values, np.arange(1, num_bins) / num_bins, edges)
  joint = (groups[:, :, None] * bins[:, None, :].astype(groups.dtype))
  return _sums(joint.reshape(len(grouping), -1).astype(seen.mass.dtype), seen)


def _check_choice(given, known, *, name):
  if given not in known:
    raise ValueError(
        f"unknown {name}={given!r}; choose from: {', '.join(sorted(known))}.")


def _members(values, inner_edges, edges):
  """Which bin has each example; `inner_edges` leave out the outermost two."""
  index = jnp.searchsorted(
      jnp.asarray(inner_edges, values.dtype), values, side=_SIDES[edges],
      method="compare_all")
  return jax.nn.one_hot(index, len(inner_edges) + 1, dtype=values.dtype)


def _parts(values, mass, num_bins):
  """What share of each example falls into each of the parts of one size."""
  above, tied = ranks.ranks(values, mass)
  total, cuts = jnp.sum(mass), jnp.arange(num_bins + 1, dtype=mass.dtype)
  size = jnp.floor(total / num_bins)
  ends = cuts * size + jnp.minimum(cuts, total - size * num_bins)
  first = total - above - tied
  overlap = (jnp.minimum((first + tied)[:, None], ends[None, 1:])
             - jnp.maximum(first[:, None], ends[None, :-1]))
  return jnp.maximum(overlap, 0) / jnp.where(tied > 0, tied, 1)[:, None]


def _sums(member, seen):
  # A product instead of a scatter: the same sum on every run, and resamples
  # (many weights for one confidence) share one matrix of what they weigh.
  values, hits, mass = seen
  member = member.T
  weighed = jnp.concatenate([member, member * values[None],
                             member * hits[None]])
  sums = jnp.matmul(weighed, mass, precision=jax.lax.Precision.HIGHEST)
  return BinStatistics(*sums.reshape(3, -1))


def _inner_edges(values, mass, num_bins, rule):
  """Edges of bins of equal mass but for the outermost, and the closed side."""
  if rule == "quantile":
    fractions = jnp.asarray(np.arange(1, num_bins) / num_bins, values.dtype)
    inner = _at_ranks(values, mass, lambda total: fractions * (total - 1))
    # An edge at the greatest value closes the last bin; it opens no new one.
    greatest = jnp.max(jnp.where(mass > 0, values, -jnp.inf))
    return jnp.where(inner < greatest, inner, jnp.inf), "left"
  cuts = jnp.arange(1, num_bins, dtype=values.dtype)
  least = jnp.min(jnp.where(mass > 0, values, jnp.inf))
  if rule == "interpolated":
    inner = _at_ranks(values, mass, lambda total: cuts * total / num_bins)
    return jnp.concatenate([least[None], inner]), "right"
  inner = _at_ranks(
      values, mass, lambda total: jnp.round(cuts * (total - 1) / num_bins))
  return jnp.where(inner > least, inner, -jnp.inf), "right"


def _at_ranks(values, mass, positions):
  """Values that occur `mass` times each, at ranks from zero, in between too.

  `positions` makes ranks of the total mass; beyond the last one stays there.
  """
  ordered, place = ranks.order(jnp.where(mass > 0, values, jnp.inf))
  # Mass of equal ones stands with the first of them, which is what is found.
  seen = jnp.cumsum(jnp.zeros_like(mass).at[place].add(mass))
  position = jnp.minimum(positions(seen[-1]), seen[-1] - 1)
  below = jnp.floor(position)

  def at(rank):
    found = jnp.searchsorted(seen, rank, side="right", method="compare_all")
    return ordered[jnp.minimum(found, ordered.size - 1)]

  low, high = at(below), at(jnp.minimum(below + 1, seen[-1] - 1))
  return low + (position - below) * (high - low)
