"""Weighted means, bootstrap resamples and the intervals made from them.

Everywhere in `jaxcal.metrics` the weight of an example is its multiplicity: a
metric under integer weights equals the metric of the data with every example
repeated that many times. A mask is a weight of zero or one, a bootstrap
resample a vector of counts.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.compiled import compiled
from jaxcal.compiled import compiled_with
from jaxcal.metrics import examples
from jaxcal.typing import AnyArray
from jaxcal.typing import Array
from jaxcal.typing import at_least_float32
from jaxcal.typing import Float
from jaxcal.typing import Key
from jaxcal.typing import Number
from jaxcal.typing import Values


class Interval(NamedTuple):
  """An estimate and its interval, each of the shape of the statistic."""
  estimate: Float[AnyArray, "*shape"]
  low: Float[AnyArray, "*shape"]
  high: Float[AnyArray, "*shape"]


def weighted_mean(
    values: Values,
    weights: Values | None = None,
) -> Float[Array, ""]:
  """Mean of the values over examples, by weight.

  Args:
    values: Values, one number per example; booleans count as 0 and 1. Those of
      weight zero have no influence, whatever they hold.
    weights: Multiplicity of each example, non-negative; one if None.

  Returns:
    sum(weights * values) / sum(weights), float32 or wider; NaN where the
    weights sum to zero.

  Raises:
    ValueError: Wrong shapes, no example, or a negative or non-finite weight.
  """
  values = examples.as_array(values)
  return _mean(values, examples.checked_weights(weights, values))


@compiled
def _mean(values, weights):
  values = at_least_float32(values)
  weights = examples.example_weights(weights, values)
  # Selected, not only multiplied: zero times NaN is NaN.
  total = jnp.sum(weights * jnp.where(weights > 0, values, 0))
  return total / jnp.sum(weights)


@compiled_with("num_examples")
def resample_weights(
    key: Key[Array, ""], num_examples: int) -> Float[Array, "n"]:
  """How often each example occurs in one bootstrap resample.

  Args:
    key: Typed key; the same key gives the same resample.
    num_examples: Number of examples, n.

  Returns:
    Counts that sum to n: n draws with replacement.
  """
  # In 64-bit mode, too: other integers would be other resamples.
  # Of JAX's own width: reports are computed with 64 bits, whatever its mode.
  drawn = jax.random.randint(key, (num_examples,), 0, num_examples)
  return jnp.bincount(drawn, length=num_examples).astype(float)


def bootstrap_samples(
    statistic: Callable[[Float[Array, "n"]], Float[Array, "*shape"]],
    num_examples: int,
    *,
    key: Key[Array, ""],
    num_samples: int = 1000,
    batch_size: int = 50,
    groups: Sequence[int] = (),
) -> Float[Array, "samples *shape"]:
  """The statistic on bootstrap resamples of the examples.

  Resample i depends on the key, i and n alone, so two calls with one key see
  the same resamples: their difference is a paired one.

  Args:
    statistic: Function from the multiplicity of every example to a value or an
      array. It is traced; all metrics of this package accept such weights.
    num_examples: Number of examples, n.
    key: Typed key.
    num_samples: Number of resamples.
    batch_size: How many are held in memory at a time; no influence on values.
    groups: Numbers of examples of groups that come one after the other and keep
      their sizes, each resampled by itself; all are one group if empty.

  Returns:
    One value per resample.

  Raises:
    ValueError: `num_examples` or `num_samples` is less than one, or groups
      that do not make up the examples.
  """
  if num_examples < 1 or num_samples < 1:
    raise ValueError(
        "the bootstrap needs examples and resamples, but "
        f"{num_examples=} and {num_samples=}.")
  if groups and (min(groups) < 1 or sum(groups) != num_examples):
    raise ValueError(f"{groups=} must sum to {num_examples=}, and none of them "
                     "may be empty.")

  def weights(one):
    if not groups:
      return resample_weights(one, num_examples)
    return jnp.concatenate([
        resample_weights(key, size)
        for key, size in zip(jax.random.split(one, len(groups)), groups)])

  return jax.lax.map(
      lambda one: statistic(weights(one)),
      jax.random.split(key, num_samples),
      batch_size=min(batch_size, num_samples))


def bootstrap_interval(
    statistic: Callable[[Float[Array, "n"]], Float[Array, "*shape"]],
    num_examples: int,
    *,
    key: Key[Array, ""],
    num_samples: int = 1000,
    level: float = 0.95,
    batch_size: int = 50,
) -> Interval:
  """Estimate of a statistic with a recentred bootstrap interval.

  The interval is the estimate plus the quantiles of the resampled values minus
  their mean. A calibration error is an average of absolute values: resampling
  adds noise inside the bins and so raises it, often by more than the spread of
  the resamples, and the plain percentile interval can then lie wholly above the
  estimate it belongs to. Recentring keeps the spread and drops that shift. For
  an unbiased statistic it is the percentile interval up to Monte Carlo error.

  The interval says how much the estimate varies between test sets of this size.
  It does not remove the estimate's own upward bias, for which see
  `calibration.calibration_floor`, and is not cut at the statistic's range.

  For the difference of two systems pass the difference as the statistic.

  Args:
    statistic: Function from the multiplicity of every example to a value or an
      array.
    num_examples: Number of examples, n.
    key: Typed key; the same key gives the same resamples.
    num_samples: Number of resamples, at least two.
    level: Share of the resamples inside, in (0, 1).
    batch_size: How many resamples are held in memory at a time.

  Returns:
    Estimate on the full data, lower and upper end, in the statistic's unit.

  Raises:
    ValueError: `level` is outside (0, 1), or there are too few examples or
      samples.
  """
  check_interval(level, num_samples)
  samples = bootstrap_samples(
      statistic, num_examples, key=key, num_samples=num_samples,
      batch_size=batch_size)
  return recentred_interval(
      statistic(jnp.ones(num_examples)), samples, level=level)


def recentred_interval(
    estimate: Float[AnyArray, "*shape"],
    samples: Float[AnyArray, "samples *shape"],
    *,
    level: float = 0.95,
) -> Interval:
  """The interval of `bootstrap_interval` from resampled values at hand.

  Args:
    estimate: Statistic of the full data.
    samples: Statistic of each resample.
    level: Share of the resamples inside, in (0, 1).

  Raises:
    ValueError: `level` is outside (0, 1), or there are too few samples.
  """
  check_interval(level, len(samples))
  tail = (1 - level) / 2
  return _recentred(estimate, samples, tail, 1 - tail)


@compiled
def _recentred(estimate, samples, tail, rest):
  """The quantiles at both tails, moved to the estimate."""
  shift = estimate - jnp.mean(samples, axis=0)
  return Interval(
      estimate,
      low=jnp.quantile(samples, tail, axis=0) + shift,
      high=jnp.quantile(samples, rest, axis=0) + shift)


def mean_interval(
    values: Values,
    *,
    level: float = 0.95,
) -> Interval:
  """Student's t interval of a mean, as of runs that differ in their seed.

  Args:
    values: Values, two or more.
    level: Probability in (0, 1) with which the interval covers where the values
      are normal.

  Returns:
    Mean and interval, exact to 40 halvings; in float32, to its digits.

  Raises:
    ValueError: `level` is outside (0, 1), or there are fewer than two values.
  """
  values = examples.as_array(values)
  check_interval(level, max(len(values), 2))
  if len(values) < 2:
    raise ValueError("the spread of a mean needs two values, but got "
                     f"{len(values)}.")
  return _mean_interval(values, 1 - level)


@compiled
def _mean_interval(values, outside):
  values = at_least_float32(values)
  free = jnp.asarray(len(values) - 1, values.dtype)
  # free / (free + t ** 2) follows a beta distribution.
  share = _beta_quantile(free / 2, jnp.full_like(free, 0.5), outside)
  width = jnp.sqrt(free * (1 - share) / share) * jnp.std(
      values, ddof=1) / jnp.sqrt(free + 1)
  mean = jnp.mean(values)
  return Interval(mean, mean - width, mean + width)


@compiled
def combined_interval(
    estimate: Float[AnyArray, "*shape"], parts: Sequence[Interval]) -> Interval:
  """Interval of an estimate that varies for several independent reasons.

  The distances from the middle to an end are added in squares, end by end,
  which keeps a lopsided part lopsided (method of variance estimates recovery).

  Args:
    estimate: Estimate, which stays in the middle.
    parts: Intervals of it, one for each reason to vary.

  Source: Zou and Donner, Construction of confidence limits about effect
  measures: a general approach, Statistics in Medicine 27, 2008.
  """
  squares = lambda ends: jnp.sqrt(sum(jnp.square(end) for end in ends))
  return Interval(
      estimate,
      low=estimate - squares([one.estimate - one.low for one in parts]),
      high=estimate + squares([one.high - one.estimate for one in parts]))


def check_interval(level: float, num_samples: int) -> None:
  """Raises ValueError unless an interval can be made of so many resamples.

  Args:
    level: Share of the resamples inside.
    num_samples: Number of resamples.
  """
  if not 0 < level < 1:
    raise ValueError(f"level must lie in (0, 1), but {level=}.")
  if num_samples < 2:
    raise ValueError(f"an interval needs two resamples, but {num_samples=}.")


@compiled
def difference_p_value(
    estimate: Float[AnyArray, "*shape"],
    samples: Float[AnyArray, "samples *shape"],
) -> Float[Array, "*shape"]:
  """Two-sided p-value of a difference from zero, of bootstrap resamples.

  The least share of resamples outside a recentred interval that has zero inside
  it: 0.05 where zero is an end of the one of level 95 %. The estimate itself
  counts as one more resample, so that no finite number of them gives zero.
  Resamples without a difference count on both sides, as where it rests on a
  single example that a third of them lack.

  Args:
    estimate: Difference on the full data.
    samples: Difference on each resample.

  Returns:
    P-values in (0, 1]; one where both are zero throughout.
  """
  centred = samples + (estimate - jnp.mean(samples, axis=0))[None]
  alike = samples == 0
  below, above = (jnp.sum((side | alike).astype(centred.dtype), axis=0)
                  for side in (centred <= 0, centred >= 0))
  share = (jnp.minimum(below, above) + 1) / (len(samples) + 1)
  return jnp.minimum(2 * share, 1)


def paired_hits_p_value(
    ours: Number | int, theirs: Number | int) -> Float[Array, ""]:
  """Two-sided p-value of a difference in accuracy on the same examples, exact.

  Where few examples tell two systems apart the bootstrap calls too much a
  difference: four of them on one side are, by chance alone, one case in eight.

  Args:
    ours: Number of examples that only one system has right.
    theirs: Number of examples that only the other one has right.

  Returns:
    Twice the probability that as few or fewer of both kinds together fall on
    one side, at most one.

  Source: McNemar 1947, with the binomial distribution.
  """
  return _both_tails(_number(ours), _number(theirs))


@compiled
def _both_tails(a, b):
  fewer, more = jnp.minimum(a, b), jnp.maximum(a, b)
  # The distribution of no examples has no parameters.
  share = jax.scipy.special.betainc(jnp.maximum(more, 1), fewer + 1, 0.5)
  return jnp.where(more > 0, jnp.minimum(2 * share, 1), 1)


def holm(p_values: Values) -> Float[Array, "n"]:
  """P-values of a table of tests, adjusted for their number (Holm).

  Where those that are at most 0.05 are called differences, the chance that a
  single one of them is none is at most 5 %, however the tests depend on each
  other.

  Args:
    p_values: P-values of all tests that the table shows, not of those alone
      that one likes.

  Returns:
    Adjusted p-values in the same order, at least the given ones, at most one.

  Raises:
    ValueError: No p-value, or one outside [0, 1].

  Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.
  """
  values = examples.as_array(p_values)
  examples.checked_weights(None, values)
  examples.check_probabilities(values, name="p_values")
  return _adjusted(values)


@compiled
def _adjusted(values):
  values = at_least_float32(values)
  order = jnp.argsort(values)
  left = len(values) - jnp.arange(len(values), dtype=values.dtype)
  adjusted = jax.lax.cummax(values[order] * left)
  return jnp.zeros_like(values).at[order].set(jnp.minimum(adjusted, 1))


def proportion_interval(
    successes: Number | int,
    total: Number | int,
    *,
    level: float = 0.95,
    method: str = "exact",
) -> Interval:
  """Interval of a proportion, from the binomial distribution alone.

  For accuracies at which a bootstrap says nothing: resamples of nine wrong
  predictions are all wrong, but 0 of 9 may be a third of the next ones.

  Args:
    successes: Number of hits.
    total: Number of examples, at least one.
    level: Probability in (0, 1) with which the interval covers, at least
      ("exact") or about ("wilson").
    method: Method, "exact" for Clopper and Pearson's, "wilson" for the
      narrower score interval.

  Returns:
    Share of the hits and the interval, in [0, 1]. "exact" is sharp to 40
    halvings; in float32, to its digits.

  Raises:
    ValueError: An unknown `method`, a level outside (0, 1), or (where not
      traced) more hits than examples or less than none.

  Source: Clopper and Pearson 1934; Wilson 1927.
  """
  if not 0 < level < 1:
    raise ValueError(f"level must lie in (0, 1), but {level=}.")
  hits, number = _number(successes), _number(total)
  if not examples.is_traced(hits, number):
    if not 0 <= float(hits) <= float(number) or not float(number) > 0:
      raise ValueError(
          f"{successes=} must lie between 0 and {total=}, which is positive.")
  if method == "exact":
    return _exact_interval(hits, number, (1 - level) / 2)
  if method == "wilson":
    return _score_interval(hits, number, (1 - level) / 2)
  raise ValueError(f"unknown {method=}; choose from: exact, wilson.")


def _number(x):
  """A number in the default width."""
  return x.astype(float) if isinstance(x, jax.Array) else jax.device_put(
      np.asarray(x, float))


@compiled
def _exact_interval(hits, total, tail):
  """Shares at which so many hits, or so few, have the probability `tail`."""

  misses = total - hits
  # The distribution at an end has no second parameter; its share is the end.
  least_one = lambda count: jnp.maximum(count, 1)
  return Interval(
      hits / total,
      low=jnp.where(hits > 0, _beta_quantile(
          least_one(hits), misses + 1, tail), 0),
      high=jnp.where(
          misses > 0, _beta_quantile(
              hits + 1, least_one(misses), 1 - tail), 1))


@compiled
def _beta_quantile(a, b, probability):
  """Where a beta distribution reaches a probability."""

  def halve(_, ends):
    low, high = ends
    middle = (low + high) / 2
    under = jax.scipy.special.betainc(a, b, middle) < probability
    return jnp.where(under, middle, low), jnp.where(under, high, middle)

  ends = jnp.zeros_like(a), jnp.ones_like(a)
  return sum(jax.lax.fori_loop(0, 40, halve, ends)) / 2


@compiled
def _score_interval(hits, total, tail):
  z = -jax.scipy.stats.norm.ppf(jnp.asarray(tail, hits.dtype))
  share, more = hits / total, jnp.square(z) / total
  middle = (share + more / 2) / (1 + more)
  half = z * jnp.sqrt(share * (1 - share) / total + more / total / 4)
  half = half / (1 + more)
  return Interval(share, jnp.maximum(middle - half, 0),
                  jnp.minimum(middle + half, 1))
