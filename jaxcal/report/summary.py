"""Predictions become rows of numbers, each with its interval.

Everything is computed in float64 on the host's values; fractions throughout,
percent only where a table is written.
"""

from collections.abc import Mapping, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.metrics import binning
from jaxcal.metrics import calibration
from jaxcal.metrics import scoring
from jaxcal.metrics import selective
from jaxcal.metrics import statistics
from jaxcal.predictions import Predictions
from jaxcal.typing import Array
from jaxcal.typing import Bool
from jaxcal.typing import Float

Row = dict[str, Any]

# torch's spacing of float32 at one, to which it clamps probabilities.
_CLAMP = 2.0 ** -23

# The metrics that carry an interval, in the order of `_weighted_scores`, and
# the largest value of each; the smallest is 0.
SCORES = {"accuracy": 1.0, "ece": 1.0, "nll": np.inf, "brier": 2.0,
          "aurc": 1.0}

# The range of these and of the gap between confidence and accuracy.
_RANGES = {**{name: (0.0, highest) for name, highest in SCORES.items()},
           "gap": (-1.0, 1.0)}

# Above an image of a known class, images of none should have more of each.
DOUBTS = ("distrust", "variance", "image_variance", "epistemic")


class Conventions(NamedTuple):
  """What an ECE and an interval mean here."""

  num_bins: int = 20
  edges: str = "right"
  level: float = 0.95
  num_resamples: int = 1000
  seed: int = 0


class _Scored(NamedTuple):
  """What the metrics see of each example."""

  confidence: Float[Array, "n"]
  correct: Bool[Array, "n"]
  nll: Float[Array, "n"]
  brier: Float[Array, "n"]


def summarize(predictions: Predictions, conventions: Conventions) -> Row:
  """All metrics of one method on one image set.

  Returns:
    `num_images`, `num_classes`; accuracy, ece, nll, brier and aurc (errors and
    confidence, see `selective.risk_coverage_area`) with `_low` and `_high`, cut
    at the range of the metric; `ece_floor` (what a perfectly calibrated model
    with the same confidences would show at this sample size), adaptive_ece,
    mce, confidence, confidence_gap (mean confidence minus accuracy),
    nll_clamped (at most 15.942 nats an image, as released codes have it); and
    the median of every per-image diagnostic as `median_...`.
  """
  with jax.enable_x64(True):
    scored = _score(predictions)
    interval = _score_interval(scored, conventions)
    bins = {"num_bins": conventions.num_bins}
    edges = {"edges": conventions.edges}
    seen = (scored.confidence, scored.correct)
    row = {
        "num_images": len(predictions.ids),
        "num_classes": len(predictions.class_names),
        **_flat(_within_range(interval), suffix=""),
        "ece_floor": _floor(scored.confidence, conventions),
        "adaptive_ece": calibration.adaptive_calibration_error(*seen, **bins),
        "mce": calibration.maximum_calibration_error(*seen, **bins, **edges),
        "confidence": jnp.mean(scored.confidence),
        "confidence_gap": calibration.confidence_gap(*seen),
        "nll_clamped": jnp.mean(scoring.negative_log_likelihood(
            jnp.asarray(predictions.logits, jnp.float64),
            jnp.asarray(predictions.labels), clamp=_CLAMP)),
    }
  row |= {f"median_{name}": np.median(values)
          for name, values in predictions.info.items()}
  return {name: value if isinstance(value, int) else float(value)
          for name, value in row.items()}


def estimate(predictions: Predictions, conventions: Conventions) -> Row:
  """The scores of `SCORES` without intervals."""
  with jax.enable_x64(True):
    scored = _score(predictions)
    values = _weighted_scores(
        scored, jnp.ones(len(predictions.ids)), conventions)
  return dict(zip(SCORES, map(float, values)))


def over_seeds(
    answers: Sequence[Predictions], conventions: Conventions) -> Row:
  """Means over seeds, each with a bootstrap interval over the images.

  Args:
    answers: To the same images, one per seed.
    conventions: Of the interval.

  Returns:
    The scores and "gap" (mean confidence minus accuracy, positive where
    over-confident), each with `_low` and `_high`, the interval of the mean over
    these seeds on other images; and `_seeds`, the value of each seed, which
    tells how much the seed matters.

  Raises:
    ValueError: answers to different images.
  """
  _check_same_images(answers)
  with jax.enable_x64(True):
    scored = _stacked_scores(answers)
    interval = _seeds_interval(scored, None, conventions)
    each = np.asarray(jax.vmap(_scores_and_gap, (0, None, None))(
        scored, jnp.ones(len(answers[0].ids)), conventions))
    row = _flat(_within_range(interval), suffix="", names=_RANGES)
  return row | {f"{name}_seeds": values.tolist()
                for name, values in zip(_RANGES, each.T)}


def compare_seeds(
    answers: Sequence[Predictions],
    reference: Sequence[Predictions],
    conventions: Conventions,
) -> Row:
  """Paired differences of means over seeds; see `compare` and `over_seeds`.

  Args:
    answers: Of one method, one per seed.
    reference: Of another one on the same images; perhaps fewer seeds.
    conventions: Of the interval.

  Raises:
    ValueError: answers to different images.
  """
  _check_same_images([*answers, *reference])
  with jax.enable_x64(True):
    interval = _seeds_interval(
        _stacked_scores(answers), _stacked_scores(reference), conventions)
    return _flat(interval, suffix="_difference", names=_RANGES)


def compare(
    predictions: Predictions,
    reference: Predictions,
    conventions: Conventions,
) -> Row:
  """Paired differences of one method to another on the same images.

  Returns:
    `accuracy_difference` and so on, each with `_low` and `_high`; positive
    where `predictions` has the larger value. Both methods see the same
    resamples.

  Raises:
    ValueError: the two answer different images.
  """
  _check_same_images([predictions, reference])
  with jax.enable_x64(True):
    ours, theirs = _score(predictions), _score(reference)
    interval = _difference_interval(ours, theirs, conventions)
    return _flat(interval, suffix="_difference")


def detect(
    known: Predictions, unknown: Predictions, conventions: Conventions) -> Row:
  """How well each kind of doubt tells images of no class from the others.

  Args:
    known: Answers to images of the classes.
    unknown: Answers of the same method to images of none of them, asked for
      the same classes; their labels are not looked at.
    conventions: Of the interval.

  Returns:
    For each of `DOUBTS` that the method has, `auroc_...` with `_low` and
    `_high`: the probability that an unknown image has more of it than a known
    one. "distrust" is one minus the confidence.

  Raises:
    ValueError: the two were asked for different classes, or a doubt is not
      finite.
  """
  if known.class_names != unknown.class_names:
    raise ValueError("known and unknown images must be asked for the same "
                     f"classes, but got {len(known.class_names)} and "
                     f"{len(unknown.class_names)} names that differ")
  with jax.enable_x64(True):
    distrust = [1 - _score(one).confidence for one in (known, unknown)]
    doubts = {"distrust": distrust} | {
        name: [jnp.asarray(one.info[name], jnp.float64)
               for one in (known, unknown)]
        for name in DOUBTS if name in known.info}
    scores = jnp.stack([jnp.concatenate(both) for both in doubts.values()])
    finite = np.isfinite(scores).all(axis=1)
    if not finite.all():
      raise ValueError(f"{list(doubts)[finite.argmin()]!r} is not finite for "
                       "all images; answer them again")
    foreign = jnp.arange(scores.shape[1]) >= len(known.ids)
    interval = _area_interval(scores, foreign, conventions)
  row = {}
  for index, name in enumerate(doubts):
    row |= {f"auroc_{name}": float(interval.estimate[index]),
            f"auroc_{name}_low": max(float(interval.low[index]), 0.0),
            f"auroc_{name}_high": min(float(interval.high[index]), 1.0)}
  return row


# Compiled once for all methods on an image set.
@functools.partial(jax.jit, static_argnames="conventions")
def _score_interval(scored, conventions):
  return _interval(
      lambda weights: _weighted_scores(scored, weights, conventions),
      len(scored.nll), conventions)


@functools.partial(jax.jit, static_argnames="conventions")
def _difference_interval(ours, theirs, conventions):
  return _interval(
      lambda weights: (_weighted_scores(ours, weights, conventions) -
                       _weighted_scores(theirs, weights, conventions)),
      len(ours.nll), conventions)


@functools.partial(jax.jit, static_argnames="conventions")
def _area_interval(scores, foreign, conventions):
  return _interval(
      lambda weights: jax.vmap(_area, (0, None, None))(
          scores, foreign, weights), len(foreign), conventions)


@functools.partial(jax.jit, static_argnames="conventions")
def _floor(confidence, conventions):
  return calibration.calibration_floor(
      confidence, key=jax.random.key(conventions.seed),
      num_bins=conventions.num_bins, edges=conventions.edges)


def _interval(statistic, num_examples, conventions):
  return statistics.bootstrap_interval(
      statistic, num_examples, key=jax.random.key(conventions.seed),
      num_samples=conventions.num_resamples, level=conventions.level)


def _area(scores, foreign, weights):
  """The area, and that of a guess for a resample of one kind of image only."""
  area = selective.roc_area(scores, foreign, weights=weights)
  return jnp.where(jnp.isnan(area), 0.5, area)


def bins_of(
    predictions: Predictions, conventions: Conventions
) -> binning.BinStatistics:
  """The bins of a reliability diagram, as float64 numpy arrays."""
  with jax.enable_x64(True):
    scored = _score(predictions)
    bins = binning.bin_statistics(
        scored.confidence, scored.correct, num_bins=conventions.num_bins,
        edges=conventions.edges)
  return binning.BinStatistics(*map(np.asarray, bins))


def by_data(
    rows: Sequence[Row]) -> Mapping[str, Sequence[Row]]:
  """Rows grouped by their image set, both in the order of appearance.

  Raises:
    ValueError: a method occurs twice for one image set.
  """
  groups = {}
  for row in rows:
    group = groups.setdefault(row["data"], [])
    if any(other["method"] == row["method"] for other in group):
      raise ValueError(f"two rows for method {row['method']!r} on image set "
                       f"{row['data']!r}")
    group.append(row)
  return groups


def _check_same_images(answers):
  for other in answers[1:]:
    if other.ids != answers[0].ids:
      raise ValueError(
          "the same images in the same order are needed, but the ids of "
          f"{len(answers[0].ids)} and {len(other.ids)} images differ")


def _stacked_scores(answers):
  return jax.tree.map(lambda *x: jnp.stack(x), *map(_score, answers))


@functools.partial(jax.jit, static_argnames="conventions")
def _seeds_interval(scored, reference, conventions):

  def statistic(weights):
    mean = lambda of: jnp.mean(jax.vmap(_scores_and_gap, (0, None, None))(
        of, weights, conventions), axis=0)
    return mean(scored) - (0 if reference is None else mean(reference))

  return _interval(statistic, scored.nll.shape[-1], conventions)


def _scores_and_gap(scored, weights, conventions):
  return jnp.append(
      _weighted_scores(scored, weights, conventions),
      calibration.confidence_gap(
          scored.confidence, scored.correct, weights=weights))


def _score(predictions):
  logits = jnp.asarray(predictions.logits, jnp.float64)
  labels = jnp.asarray(predictions.labels)
  probs = jax.nn.softmax(logits)
  # Rounding may leave a sum of probabilities just above one.
  return _Scored(
      jnp.minimum(jnp.max(probs, axis=-1), 1.0),
      scoring.correct(logits, labels),
      scoring.negative_log_likelihood(logits, labels),
      scoring.brier_score(probs, labels))


def _weighted_scores(scored, weights, conventions):
  mean = lambda values: statistics.weighted_mean(values, weights)
  return jnp.stack([
      mean(scored.correct),
      calibration.expected_calibration_error(
          scored.confidence, scored.correct, num_bins=conventions.num_bins,
          edges=conventions.edges, weights=weights),
      mean(scored.nll),
      mean(scored.brier),
      selective.risk_coverage_area(
          1.0 - scored.correct, scored.confidence, weights=weights),
  ])


def _within_range(interval):
  """The same interval without the part that no data could show."""
  ranges = list(_RANGES.values())[:len(interval.estimate)]  # the gap is last
  lowest, highest = jnp.asarray(ranges).T
  return interval._replace(low=jnp.maximum(interval.low, lowest),
                           high=jnp.minimum(interval.high, highest))


def _flat(interval, *, suffix, names=SCORES):
  row = {}
  for index, name in enumerate(names):
    row[f"{name}{suffix}"] = float(interval.estimate[index])
    row[f"{name}{suffix}_low"] = float(interval.low[index])
    row[f"{name}{suffix}_high"] = float(interval.high[index])
  return row
