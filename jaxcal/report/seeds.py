"""Means over seeds, with the images, the seeds and both as reasons to vary.

Runs that differ in a seed alone (of views, of an order, of training) are for
the same images. The bootstrap over images of their mean says what other images
would show with these seeds, and Student's t interval over seeds what others
would with these images. `..._total` is for other images and other seeds.
"""

from collections.abc import Hashable, Sequence

import jax
import numpy as np

from jaxcal.metrics import statistics
from jaxcal.predictions import Predictions
from jaxcal.report import resampled
from jaxcal.report import scores
from jaxcal.report import tables

Row = resampled.Row

_NAMES = tuple(scores.RANGES)


def summarise(
    predictions: Sequence[Predictions], conventions: scores.Conventions) -> Row:
  """Means over seeds, see `pool`.

  Args:
    predictions: Predictions for the same images, one per seed.
    conventions: Conventions of the ECE and of the intervals.

  Raises:
    ValueError: They are of different images.
  """
  return pool(sample(predictions, conventions), conventions.level)


def compare(
    predictions: Sequence[Predictions],
    reference: Sequence[Predictions],
    conventions: scores.Conventions,
) -> Row:
  """Paired differences of means over seeds, see `difference_row`.

  Args:
    predictions: Predictions of one method, one per seed.
    reference: Predictions of another one for the same images, of the same seeds
      or of one.
    conventions: Conventions of the ECE and of the intervals.

  Raises:
    ValueError: They are of different images, or of other numbers of seeds.
  """
  return difference_row(sample(predictions, conventions),
                        sample(reference, conventions), conventions.level)


def sample(
    predictions: Sequence[Predictions], conventions: scores.Conventions
) -> list[resampled.Resampled]:
  """Scores of every seed on the same resamples.

  Args:
    predictions: Predictions for the same images, one per seed.
    conventions: Conventions of the ECE, and of number and seed of resamples.

  Raises:
    ValueError: They are of different images.
  """
  resampled.check_same_images(predictions)
  return [resampled.of(one, conventions) for one in predictions]


def pool(
    seeds: Sequence[resampled.Resampled], level: float,
    settings: Sequence[Sequence[Hashable]] = (),
) -> Row:
  """Means over seeds.

  Args:
    seeds: Scores of each seed, for the same images.
    level: Level of the intervals.
    settings: Values of several kinds of seeds, a list of as many values as
      there are `seeds` for each kind; they are all of one kind if empty.

  Returns:
    The scores and "gap" (mean confidence minus accuracy, positive where
    over-confident), each with `_low` and `_high`, the interval of the mean over
    these seeds on other images; `_seeds`, the value of each seed, and `_std`,
    their standard deviation, None for one. Of two or more, `_total_low` and
    `_total_high` are the interval on other images and other seeds: at least as
    wide as the one over images and as the t interval over seeds.

  Raises:
    ValueError: They are of different images.
  """
  resampled.check_same_images(seeds)
  mean = resampled.mean(seeds)
  row = resampled.score_row(mean, level, _NAMES)
  row |= _totals(mean, _each(seeds, mean.names), level, settings, "", cut=True)
  for name in mean.names:
    values = [one.estimates[one.names.index(name)] for one in seeds]
    row[f"{name}_seeds"] = list(map(float, values))
    row[f"{name}_std"] = (
        float(np.std(values, ddof=1)) if len(values) > 1 else None)
  return row


def difference_row(
    ours: Sequence[resampled.Resampled],
    theirs: Sequence[resampled.Resampled],
    level: float,
) -> Row:
  """Paired differences of means over seeds.

  Args:
    ours: Scores of one method, one per seed.
    theirs: Scores of another one on the same images, of the same seeds or of
      one for all.
    level: Level of the intervals.

  Returns:
    A row as from `resampled.difference_row`, of the gap, too; its intervals and
    p-values are for these seeds. Of two or more, also
    `accuracy_difference_total_low` and so on, for other seeds as well.

  Raises:
    ValueError: They are of different images, or of other numbers of seeds.
  """
  number = max(len(ours), len(theirs))
  for some in (ours, theirs):
    if len(some) not in (1, number):
      raise ValueError(
          "a difference of means over seeds needs the same seeds on both "
          f"sides, or a single one, but there are {len(ours)} and "
          f"{len(theirs)}.")
  resampled.check_same_images([*ours, *theirs])
  mean = resampled.difference(resampled.mean(ours), resampled.mean(theirs))
  pairs = [resampled.difference(ours[i % len(ours)], theirs[i % len(theirs)])
           for i in range(number)]
  return resampled.difference_row(
      resampled.mean(ours), resampled.mean(theirs), level, _NAMES) | _totals(
          mean, _each(pairs, mean.names), level, (), "_difference", cut=False)


def blocks(rows: Sequence[Row], level: float) -> list[str]:
  """Heading, table and what it shows; nothing without rows.

  Args:
    rows: Rows from `pool`, with `data`, the stages and `seeds`, their number.
    level: Level of the intervals.
  """
  if not rows:
    return []
  return ["Over seeds:", tables.markdown(rows, tables.OVER_SEEDS),
          legend(level)]


def legend(level: float, over: str = "seeds") -> str:
  """What the columns of means over seeds mean.

  Args:
    level: Level of the intervals.
    over: Word for what varies, in the plural.
  """
  return (f"Brackets: {100 * level:g} % bootstrap over the images, for these "
          f"{over}; +-: standard deviation over {over}; in parentheses: "
          f"{100 * level:g} % for other images and other {over}.")


def _each(seeds, names):
  """Scores by seed and name."""
  return np.array([[one.estimates[one.names.index(name)] for name in names]
                   for one in seeds])


def _totals(mean, values, level, settings, suffix, *, cut):
  """The intervals over images and seeds; none of a single seed."""
  kinds = [_by_value(values, kind) for kind in settings or [range(len(values))]]
  kinds = [kind for kind in kinds if len(kind) > 1]
  if not kinds:
    return {}
  images = resampled.interval(mean, level)
  with jax.enable_x64(True):
    parts = [jax.tree.map(lambda *ends: np.array(ends), *(
        statistics.mean_interval(column, level=level) for column in kind.T))
             for kind in kinds]
    found = jax.tree.map(np.asarray, statistics.combined_interval(
        mean.estimates, [images, *parts]))
  if cut:
    found = resampled.within_range(mean.names, found)
  return {f"{name}{suffix}_total_{end}": float(value)
          for end, ends in (("low", found.low), ("high", found.high))
          for name, value in zip(mean.names, ends)}


def _by_value(values, kind):
  """Means of the runs that share a seed of a kind."""
  kind = list(kind)
  return np.array([
      np.mean([row for row, one in zip(values, kind) if one == value], axis=0)
      for value in dict.fromkeys(kind)])
