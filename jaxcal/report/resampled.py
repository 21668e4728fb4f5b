"""Scores on resamples of the images: drawn once, and all that rests on them.

The resamples depend on the number of images and the seed alone, so that two
methods on the same images see the same ones and their difference is a paired
one. Intervals, differences, p-values and winners are made of these samples.
"""

from collections.abc import Mapping, Sequence
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.metrics import statistics
from jaxcal.predictions import Predictions
from jaxcal.report import inputs
from jaxcal.report import scores
from jaxcal.typing import Bool
from jaxcal.typing import Float

Row = dict[str, Any]

# Differences that are no larger come from rounding.
_ROUNDING = 1e-12


class Resampled(NamedTuple):
  """Scores of a method on an image set.

  Attributes:
    names: Names of the scores.
    estimates: Scores on all images.
    samples: Scores on each resample.
    ids: Ids of the images; None where not known.
    hits: Whether the prediction for each image is right; None of means.
    decided: Numbers of images that only one side of a difference has right, and
      only the other; None of all else.
  """

  names: tuple[str, ...]
  estimates: Float[np.ndarray, "scores"]
  samples: Float[np.ndarray, "resamples scores"]
  ids: tuple[str, ...] | None = None
  hits: Bool[np.ndarray, "n"] | None = None
  decided: tuple[int, int] | None = None


def of(
    predictions: Predictions | inputs.Given, conventions: scores.Conventions
) -> Resampled:
  """Scores of predictions, those of `scores.names`.

  Args:
    predictions: Predictions with labels, or what was given for them.
    conventions: Conventions of the ECE, and of number and seed of resamples.

  Raises:
    ValueError: The predictions have no labels.
  """
  with jax.enable_x64(True):
    return of_scored(scores.of(predictions), conventions, predictions.ids)


def of_scored(
    scored: scores.Scored, conventions: scores.Conventions,
    ids: tuple[str, ...] | None = None
) -> Resampled:
  """The same from what the metrics see of the predictions.

  Args:
    scored: Confidence, hits and proper scores of each image.
    conventions: Conventions as in `of`.
    ids: Ids of the images; None where not known.
  """
  statistics.check_interval(conventions.level, conventions.num_resamples)
  with jax.enable_x64(True):
    # Of any level, so that another one compiles nothing anew.
    found = _sampled(scored, conventions._replace(level=0.5))
  estimates, samples = map(np.asarray, found)
  return Resampled(scores.names(scored), estimates, samples, ids,
                   np.asarray(scored.correct, bool))


def mean(of_several: Sequence[Resampled]) -> Resampled:
  """The mean of several, resample by resample, of the scores that all have.

  Args:
    of_several: Scores, one or more of them.
  """
  first = of_several[0]
  if len(of_several) == 1:
    return first
  names = tuple(name for name in first.names
                if all(name in one.names for one in of_several))
  kept = [_only(one, names) for one in of_several]
  return Resampled(
      names, np.mean([one.estimates for one in kept], axis=0),
      np.mean([one.samples for one in kept], axis=0), first.ids)


def difference(ours: Resampled, theirs: Resampled) -> Resampled:
  """Paired differences of the scores that both have.

  Args:
    ours: Scores of one method.
    theirs: Scores of the other one, which are taken from these.

  Raises:
    ValueError: They are known to be of different images.
  """
  if None not in (ours.ids, theirs.ids):
    check_same_images([ours, theirs])
  names = tuple(name for name in ours.names if name in theirs.names)
  ours, theirs = _only(ours, names), _only(theirs, names)
  decided = None
  if ours.hits is not None and theirs.hits is not None:
    decided = (int(np.sum(ours.hits & ~theirs.hits)),
               int(np.sum(theirs.hits & ~ours.hits)))
  minus = lambda a, b: np.where(np.abs(a - b) <= _ROUNDING, 0.0, a - b)
  return Resampled(names, minus(ours.estimates, theirs.estimates),
                   minus(ours.samples, theirs.samples), ours.ids,
                   decided=decided)


def interval(one: Resampled, level: float) -> statistics.Interval:
  """Recentred intervals of all scores, not cut at their range.

  Args:
    one: Scores.
    level: Share of the resamples inside, in (0, 1).
  """
  with jax.enable_x64(True):
    found = statistics.recentred_interval(
        one.estimates, one.samples, level=level)
  return jax.tree.map(np.asarray, found)


def p_values(one: Resampled) -> Row:
  """Two-sided p-values of differences from zero by the name of the score.

  That of an accuracy on one image set is at least the exact one.

  Args:
    one: Differences from `difference`.
  """
  with jax.enable_x64(True):
    values = statistics.difference_p_value(one.estimates, one.samples)
    found = dict(zip(one.names, np.asarray(values).tolist()))
    if one.decided is not None and "accuracy" in found:
      found["accuracy"] = max(found["accuracy"], float(
          statistics.paired_hits_p_value(*one.decided)))
  return found


def score_row(
    one: Resampled, level: float, names: Sequence[str] = tuple(scores.SCORES)
) -> Row:
  """Scores with their intervals, cut at the range of the score.

  Args:
    one: Scores.
    level: Level of the intervals.
    names: Names of the scores to take, as far as they are there.

  Returns:
    The scores, each with `_low` and `_high`.
  """
  kept = _only(one, [name for name in names if name in one.names])
  return flat(kept.names, within_range(kept.names, interval(kept, level)))


def difference_row(
    ours: Resampled, theirs: Resampled, level: float,
    names: Sequence[str] = tuple(scores.SCORES)
) -> Row:
  """Paired differences with their intervals and tests.

  Args:
    ours: Scores of one method.
    theirs: Scores of the other one on the same images.
    level: Level of the intervals.
    names: Names of the scores to take, as far as both have them.

  Returns:
    `accuracy_difference` and so on, each with `_low` and `_high`, and last of
    all their p-values `_p`, of each test alone (see `adjusted`); positive where
    `ours` is larger.

  Raises:
    ValueError: They are known to be of different images.
  """
  found = difference(ours, theirs)
  found = _only(found, [name for name in names if name in found.names])
  tested = {f"{name}_difference_p": value
            for name, value in p_values(found).items()}
  return flat(found.names, interval(found, level), "_difference") | tested


def best(
    methods: Mapping[Any, Resampled], level: float) -> dict[Any, list[str]]:
  """Scores by which a method is the best of all, as a paired test carries it.

  That the best one on these images is the best is claimed of each score. The
  p-value of a claim is the largest of the two-sided ones against each other
  method (all of them must fall for it to hold), those of the scores are
  adjusted by Holm's method. So if methods are alike, the chance of a single
  claim is at most 1 - level, up to the error of the bootstrap.

  Args:
    methods: Scores of the methods on the same images, by anything.
    level: Level of the tests; a claim holds at p-values up to 1 - level.

  Returns:
    Names of the scores by method; no names where there is one method alone.

  Source: Gutmann and Maymin, Is the Selected Population the Best?, Annals of
  Statistics 15, 1987.
  """
  claims = {}
  tested = functools.cache(
      lambda a, b: p_values(difference(methods[a], methods[b])))
  for name in scores.SCORES:
    having = {of: one.estimates[one.names.index(name)]
              for of, one in methods.items() if name in one.names}
    if len(having) > 1:
      choose = max if name in scores.HIGHER else min
      lead = choose(having, key=having.__getitem__)
      claims[name] = lead, max(
          tested(lead, other)[name] for other in having if other != lead)
  found: dict[Any, list[str]] = {of: [] for of in methods}
  if claims:
    with jax.enable_x64(True):
      values = statistics.holm([value for _, value in claims.values()]).tolist()
    for (name, (lead, _)), value in zip(claims.items(), values):
      if value <= 1 - level:
        found[lead].append(name)
  return found


def adjusted(rows: Sequence[Row]) -> list[Row]:
  """Rows with their p-values, `..._p`, by Holm's method over all of them."""
  found = {(index, key): value for index, row in enumerate(rows)
           for key, value in row.items()
           if key.endswith("_p") and math.isfinite(value)}
  rows = [dict(row) for row in rows]
  if found:
    with jax.enable_x64(True):
      values = statistics.holm(list(found.values())).tolist()
    for (index, key), value in zip(found, values):
      rows[index][key] = value
  return rows


def exact_where_alike(row: Row, number: int, level: float) -> Row:
  """The interval of an accuracy at which all resamples are alike.

  Where all predictions are right, or wrong, those of a resample are, too; that
  is no interval of a single point, but what so many of them leave open.

  Args:
    row: Row with an accuracy.
    number: Number of images.
    level: Level of the interval.

  Returns:
    Ends of Clopper and Pearson's interval; nothing for other accuracies.
  """
  if 0 < row["accuracy"] < 1:
    return {}
  with jax.enable_x64(True):
    _, low, high = statistics.proportion_interval(
        round(row["accuracy"] * number), number, level=level)
  return {"accuracy_low": float(low), "accuracy_high": float(high)}


def check_same_images(of_several: Sequence[Any]) -> None:
  """Raises ValueError unless all are of the same images in the same order.

  Args:
    of_several: Predictions or scores of them, anything with `ids`.
  """
  for other in of_several[1:]:
    if other.ids != of_several[0].ids:
      raise ValueError(
          "the same images in the same order are needed, but the ids of "
          f"{len(of_several[0].ids or ())} and {len(other.ids or ())} images "
          "differ")


def within_range(
    names: Sequence[str], found: statistics.Interval) -> statistics.Interval:
  """Intervals without the part that no data could show.

  Args:
    names: Names of the scores, of `scores.RANGES`.
    found: Interval of each of them.
  """
  lowest, highest = np.array([scores.RANGES[name] for name in names]).T
  return found._replace(low=np.maximum(found.low, lowest),
                        high=np.minimum(found.high, highest))


def flat(
    names: Sequence[str], found: statistics.Interval, suffix: str = "") -> Row:
  """Intervals as a row, each score with `_low` and `_high`.

  Args:
    names: Names of the scores.
    found: Interval of each of them.
    suffix: End of the names in the row, after that of the score.
  """
  row: dict[str, float] = {}
  for index, name in enumerate(names):
    row[f"{name}{suffix}"] = float(found.estimate[index])
    row[f"{name}{suffix}_low"] = float(found.low[index])
    row[f"{name}{suffix}_high"] = float(found.high[index])
  return row


def _only(one, names):
  """Some of the scores, in the order of the names."""
  at = [one.names.index(name) for name in names]
  return one._replace(names=tuple(names), estimates=one.estimates[at],
                      samples=one.samples[:, at])


# Compiled once for all methods on an image set.
@functools.partial(jax.jit, static_argnames="conventions")
def _sampled(scored, conventions):
  number = len(scored.confidence)
  statistic = lambda weights: scores.weighted(scored, weights, conventions)
  return statistic(jnp.ones(number)), statistics.bootstrap_samples(
      statistic, number, key=jax.random.key(conventions.seed),
      num_samples=conventions.num_resamples)
