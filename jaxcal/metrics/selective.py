"""How well a score ranks examples: selective prediction and detection.

A score here orders examples; only its order matters, so a confidence, a logit
or a negated variance serve alike. Examples of equal score are never told apart
by the order in which they come: where they would have to be, the metric is the
mean over all their orders. So metrics of repeated data, and bootstrap
resamples, are exact.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxcal.compiled import compiled
from jaxcal.metrics import examples
from jaxcal.metrics import ranks
from jaxcal.metrics import statistics
from jaxcal.typing import Array
from jaxcal.typing import at_least_float32
from jaxcal.typing import Float
from jaxcal.typing import Number
from jaxcal.typing import Values


def risk_coverage_area(
    losses: Values,
    scores: Values,
    *,
    weights: Values | None = None,
) -> Float[Array, ""]:
  r"""Area under the risk-coverage curve (AURC), in the unit of the losses.

  .. math:: \frac{1}{N} \sum_{k=1}^N \frac{1}{k} \sum_{i \le k} \ell_{(i)}

  the mean over all N coverages of the mean loss of the k examples of highest
  score; its expectation over the orders of equal scores.

  Args:
    losses: Losses of each example; 1 - correct for the usual area, a fraction.
    scores: High where the prediction is to be kept, such as a confidence.
    weights: Multiplicity of each example; one if None.

  Returns:
    Between the smallest and the largest loss; the mean loss if all scores are
    equal. The losses alone set a floor to it, which
    `excess_risk_coverage_area` takes off.

  Raises:
    ValueError: Wrong shapes, no example, or (where not traced) a NaN score.

  Source: Geifman and El-Yaniv, Selective Classification for Deep Neural
  Networks, NeurIPS 2017.
  Differs from the released code of FPP in: equal scores, which are taken there
  in the order of a sort.
  """
  return _area(*_prepared(losses, scores, weights, name="losses"))


@compiled
def _area(losses, scores, mass):
  total = jnp.sum(mass)
  above, tied = ranks.ranks(scores, mass)
  # The loss at rank r is part of the means at all later ranks: it counts the
  # sum of 1 / k from r to N. Within a tie this is averaged over its ranks.
  own = 1 - above / tied * _harmonic(above, tied)
  later = _harmonic(above + tied, total - above - tied)
  return statistics.weighted_mean(losses * (own + later), mass)


def risk_coverage_trapezoid(
    losses: Values,
    scores: Values,
    *,
    weights: Values | None = None,
) -> Float[Array, ""]:
  """Area under the risk-coverage curve by trapezoids, over its width.

  The other convention of AURC: the curve of the same means at the coverages
  1/N ... 1, joined by straight lines; its area divided by 1 - 1/N. The two tell
  the same as N grows, and are never equal to the last digit that is printed.

  Args and errors as for `risk_coverage_area`.

  Returns:
    Between the smallest and the largest loss; NaN for one example.

  Source: as torch-uncertainty's AURC.
  Differs from the released code in: equal scores, whose orders are averaged.
  """
  return _trapezoid(*_prepared(losses, scores, weights, name="losses"))


@compiled
def _trapezoid(losses, scores, mass):
  total = jnp.sum(mass)
  highest = jnp.max(jnp.where(mass > 0, scores, -jnp.inf))
  first = statistics.weighted_mean(
      losses, jnp.where(scores == highest, mass, 0))
  last = statistics.weighted_mean(losses, mass)
  area = _area(losses, scores, mass)
  return (total * area - (first + last) / 2) / (total - 1)


def generalised_risk_coverage_area(
    losses: Values,
    scores: Values,
    *,
    weights: Values | None = None,
) -> Float[Array, ""]:
  r"""Area under the generalised risk-coverage curve (AUGRC).

  .. math:: \frac{1}{N} \sum_{k=1}^N \frac{G_{k-1} + G_k}{2}, \quad
            G_k = \frac{1}{N} \sum_{i \le k} \ell_{(i)}

  G is what is lost in the examples that are kept, over all N: the risk of an
  undetected failure. Other than `risk_coverage_area` it does not give the
  examples of highest score more weight than others.

  Args and errors as for `risk_coverage_area`.

  Returns:
    For losses of 0 and 1 in [0, 1/2]: a (1 - a) (1 - AUROC) + (1 - a)**2 / 2
    for the accuracy a and the AUROC of right against wrong.

  Source: Traub et al., Overcoming Common Flaws in the Evaluation of Selective
  Classification Systems, NeurIPS 2024.
  Differs from the code of torch-uncertainty in: the curve begins at a
  coverage of 1/N there, and its area is divided by 1 - 1/N.
  """
  return _generalised_area(*_prepared(losses, scores, weights, name="losses"))


@compiled
def _generalised_area(losses, scores, mass):
  above, tied = ranks.ranks(scores, mass)
  total = jnp.sum(mass)
  kept = (total - above - tied / 2) / total
  return statistics.weighted_mean(losses * kept, mass)


def excess_risk_coverage_area(
    losses: Values,
    scores: Values,
    *,
    weights: Values | None = None,
) -> Float[Array, ""]:
  """What `risk_coverage_area` has above that of the best order (E-AURC).

  Args and errors as there. Not negative up to rounding; zero for scores that
  order the examples by their losses.

  Source: Geifman et al., Bias-Reduced Uncertainty Estimation, ICLR 2019.
  """
  return _excess_area(*_prepared(losses, scores, weights, name="losses"))


@compiled
def _excess_area(losses, scores, mass):
  return _area(losses, scores, mass) - _area(losses, -losses, mass)


def risk_at_coverage(
    losses: Values,
    scores: Values,
    coverage: Number,
    *,
    weights: Values | None = None,
) -> Float[Array, ""]:
  """Mean loss of the share of the examples with the highest scores.

  Where the share ends between two examples, the last one counts in part; where
  it ends among equal scores, they count alike, each in part.

  Args:
    losses: Losses of each example; 1 - correct for an error rate.
    scores: High where the prediction is to be kept.
    coverage: The share, in (0, 1]; `jax.vmap` over it for a curve.
    weights: Multiplicity of each example; one if None.

  Returns:
    In the unit of the losses; their mean at a coverage of one.

  Raises:
    ValueError: As `risk_coverage_area`, or (where not traced) a coverage
      outside (0, 1].
  """
  losses, scores, mass = _prepared(losses, scores, weights, name="losses")
  coverage = examples.as_array(coverage)
  if not examples.is_traced(coverage) and not 0 < np.asarray(coverage) <= 1:
    raise ValueError(f"coverage must lie in (0, 1], but {coverage=}.")
  return _risk_at(losses, scores, mass, coverage)


@compiled
def _risk_at(losses, scores, mass, coverage):
  coverage = coverage.astype(scores.dtype)
  above, tied = ranks.ranks(scores, mass)
  kept = jnp.clip((coverage * jnp.sum(mass) - above) / tied, 0, 1)
  return statistics.weighted_mean(losses, jnp.where(mass > 0, mass * kept, 0))


def coverage_at_risk(
    losses: Values,
    scores: Values,
    risk: Number,
    *,
    weights: Values | None = None,
) -> Float[Array, ""]:
  """Largest share of the examples that is kept at no more than a given risk.

  What is kept are the examples from some score on: equal scores are kept
  together. Coverages at which the risk is lower may lie between others.

  Args:
    losses: Losses of each example; 1 - correct for an error rate.
    scores: High where the prediction is to be kept.
    risk: Largest mean loss of what is kept; `jax.vmap` over it for a curve.
    weights: Multiplicity of each example; one if None.

  Returns:
    Share in [0, 1]; zero where every choice has a higher risk.

  Raises:
    ValueError: As `risk_coverage_area`.
  """
  losses, scores, mass = _prepared(losses, scores, weights, name="losses")
  return _coverage_at(losses, scores, mass, examples.as_array(risk))


@compiled
def _coverage_at(losses, scores, mass, risk):
  kept = ranks.at_least(scores, mass)
  lost = ranks.at_least(scores, mass * losses)
  # A whole number of losses must not miss its share by a rounding.
  slack = 1 + 4 * jnp.finfo(lost.dtype).eps
  within = (mass > 0) & (lost <= risk.astype(lost.dtype) * kept * slack)
  return jnp.max(jnp.where(within, kept, 0)) / jnp.sum(mass)


def roc_area(
    scores: Values,
    positive: Values,
    *,
    weights: Values | None = None,
) -> Float[Array, ""]:
  """Area under the ROC curve (AUROC), a fraction.

  The probability that a positive example has a higher score than a negative
  one, equal scores counting half (Mann-Whitney's U over the number of pairs).

  Detection of images out of distribution: the variance of all images, and which
  ones are out. Prediction of failures: an uncertainty, and which predictions
  are wrong.

  Args:
    scores: High where the example is to be called positive.
    positive: Whether each example is positive, as booleans or as 0 and 1.
    weights: Multiplicity of each example; one if None.

  Returns:
    In [0, 1]; 1/2 for scores that tell nothing, NaN if a group is empty.

  Raises:
    ValueError: Wrong shapes, no example, or (where not traced) a NaN score or
      anything but hits as `positive`, such as class labels.
  """
  return _roc_area(*checked_groups(scores, positive, weights))


@compiled
def _roc_area(positive, scores, mass):
  negatives = ranks.ranks(scores, mass * (1 - positive))
  num_negatives = jnp.sum(mass * (1 - positive))
  beaten = num_negatives - negatives.above - negatives.tied / 2
  return statistics.weighted_mean(beaten, mass * positive) / num_negatives


def average_precision(
    scores: Values,
    positive: Values,
    *,
    weights: Values | None = None,
) -> Float[Array, ""]:
  """Area under the precision-recall curve (AUPR), a fraction, as a step sum.

  The mean, over the positive examples, of the precision among all examples of
  at least their score; not interpolated between thresholds.

  Args and errors as for `roc_area`.

  Returns:
    In [0, 1]; near the share of the positive examples for scores that tell
    nothing, NaN where there is none.

  Source: as scikit-learn's average_precision_score.
  """
  return _average_precision(*checked_groups(scores, positive, weights))


@compiled
def _average_precision(positive, scores, mass):
  hits, named = (ranks.at_least(scores, of) for of in (mass * positive, mass))
  return statistics.weighted_mean(hits / named, mass * positive)


def false_positive_rate(
    scores: Values,
    positive: Values,
    *,
    recall: float = 0.95,
    weights: Values | None = None,
) -> Float[Array, ""]:
  """Share of the negative examples called positive at a given recall (FPR95).

  The threshold is the highest score that finds at least the share `recall` of
  the positive examples; equal scores fall on one side together, so somewhat
  more may be found.

  Args:
    scores: High where the example is to be called positive.
    positive: Whether each example is positive, as booleans or as 0 and 1.
    recall: Least share of the positive examples that is found, in (0, 1].
    weights: Multiplicity of each example; one if None.

  Returns:
    In [0, 1]; NaN if a group is empty.

  Raises:
    ValueError: As `roc_area`, or a recall outside (0, 1].
  """
  if not 0 < recall <= 1:
    raise ValueError(f"recall must lie in (0, 1], but {recall=}.")
  return _false_positive_rate(
      *checked_groups(scores, positive, weights), recall)


@compiled
def _false_positive_rate(positive, scores, mass, recall):
  present, absent = mass * positive, mass * (1 - positive)
  found, total = ranks.at_least(scores, present), jnp.sum(present)
  # A whole number of positives must not miss its share by a rounding.
  enough = found >= recall * total * (1 - 4 * jnp.finfo(found.dtype).eps)
  called = ranks.at_least(scores, absent)
  least = jnp.min(jnp.where((mass > 0) & enough, called, jnp.inf))
  return jnp.where(total > 0, least / jnp.sum(absent), jnp.nan)


class Groups(NamedTuple):
  """Two groups of examples and their scores, of one dtype.

  Attributes:
    positive: One for the examples of the first group, zero for others and for
      those of no mass.
    scores: Scores.
    mass: Weights.
  """

  positive: Float[Array, "n"]
  scores: Float[Array, "n"]
  mass: Float[Array, "n"]


def checked_groups(
    scores: Values, positive: Values, weights: Values | None) -> Groups:
  """What every measure of two groups takes, once it is seen to be that.

  Raises:
    ValueError: As `roc_area`.
  """
  found = Groups(*_prepared(positive, scores, weights, name="positive"))
  examples.check_hits(
      found.positive, name="positive",
      way_out="labels == the class that is meant")
  return found


def _prepared(values, scores, weights, *, name):
  """Values, scores and weights of one dtype, values of no weight as zero."""
  values, scores = examples.as_array(values), examples.as_array(scores)
  if values.shape != scores.shape:
    raise ValueError(
        f"{name} and scores must have one value per example, but their shapes "
        f"are {values.shape} and {scores.shape}.")
  weights = examples.checked_weights(weights, scores)
  if not examples.is_traced(scores, weights):
    unknown = np.isnan(scores)
    if weights is not None:
      unknown &= np.asarray(weights) > 0
    if unknown.any():
      raise ValueError(f"{unknown.sum()} of {scores.size} scores are NaN, "
                       "which has no place in an order.")
  return _of_one_dtype(values, scores, weights)


@compiled
def _of_one_dtype(values, scores, weights):
  values, scores = at_least_float32(values), at_least_float32(scores)
  mass = examples.example_weights(weights, scores)
  return jnp.where(mass > 0, values, 0).astype(scores.dtype), scores, mass


def _harmonic(start, count):
  """The sum of 1 / k for k from start + 1 to start + count, to all digits.

  A difference of two digammas, here of their asymptotic series with eight terms
  split off, written without cancellation: neighbours in float32 matter. Counts
  that are not whole are interpolated.
  """
  low, high = start + 1, start + count + 1
  total = sum(count / ((low + i) * (high + i)) for i in range(8))
  low, high = low + 8, high + 8
  total += jnp.log1p(count / low) + count / (2 * low * high)
  for power, factor in ((2, 1 / 12), (4, -1 / 120), (6, 1 / 252)):
    total += factor * (low ** -power - high ** -power)
  return total
