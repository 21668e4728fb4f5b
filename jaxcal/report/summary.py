"""Predictions become rows of numbers, each with its interval.

Everything is computed in float64 on the host's values; fractions throughout,
percent only where a table is written. `evaluate` takes arrays of any kind, the
other functions `Predictions`.
"""

from collections.abc import Iterable, Mapping, Sequence
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import stages
from jaxcal.metrics import binning
from jaxcal.metrics import calibration
from jaxcal.metrics import scoring
from jaxcal.metrics import selective
from jaxcal.metrics import statistics
from jaxcal.predictions import Predictions
from jaxcal.report import inputs
from jaxcal.report import tables
from jaxcal.typing import Array
from jaxcal.typing import Bool
from jaxcal.typing import Float

Row = dict[str, Any]

# torch's spacing of float32 at one, to which it clamps probabilities.
_CLAMP = 2.0 ** -23

# What a probability of zero counts as: the least normal number of float32.
_LEAST = 2.0 ** -126

# The metrics that carry an interval, in the order of `_weighted_scores`, and
# the largest value of each; the smallest is 0.
SCORES = {"accuracy": 1.0, "ece": 1.0, "nll": np.inf, "brier": 2.0,
          "aurc": 1.0}

# The range of these and of the gap between confidence and accuracy.
_RANGES = {**{name: (0.0, highest) for name, highest in SCORES.items()},
           "gap": (-1.0, 1.0)}

# Images out of distribution should have more of each, but less confidence.
UNCERTAINTIES = ("confidence", "variance", "image_variance", "epistemic")


class Conventions(NamedTuple):
  """What an ECE and an interval mean here."""

  num_bins: int = 20
  edges: str = "right"
  level: float = 0.95
  num_resamples: int = 1000
  seed: int = 0


class Evaluation(NamedTuple):
  """What `evaluate` found; as text, a table.

  Attributes:
    rows: Measures of each method, as `summarise` has them, after "method" where
      it has a name.
    differences: Paired differences of the other methods to the reference, as
      `compare` has them, after "method" and "reference"; none for one method.
      `..._difference_p` are their p-values, adjusted by Holm's method for the
      number of differences in all of these rows.
    conventions: What an ECE and an interval mean here.
    kinds: What the predictions of each row were taken for: "logits",
      "probabilities" or "confidences".
  """

  rows: list[Row]
  differences: list[Row]
  conventions: Conventions
  kinds: tuple[str, ...]

  def __str__(self) -> str:
    blocks = [tables.markdown(
        self.rows, tables.present(self.rows, tables.MEASURED)), _legend(self)]
    if self.differences:
      blocks += ["Paired differences:", tables.markdown(
          self.differences, tables.present(
              self.differences, tables.TESTED_DIFFERENCES)),
          "p: two-sided, of the bootstrap, by Holm's method over this table."]
    blocks += tables.floor_notes(self.rows)
    return "\n\n".join(blocks)


class _Scored(NamedTuple):
  """What the metrics see of each example; of confidences, the first two."""

  confidence: Float[Array, "n"]
  correct: Bool[Array, "n"]
  nll: Float[Array, "n"] | None = None
  brier: Float[Array, "n"] | None = None


def evaluate(
    predictions: Any,
    labels: Any = None,
    *,
    kind: str = "auto",
    conventions: Conventions = Conventions(),
    reference: str | None = None,
) -> Evaluation:
  """All measures of predictions with intervals, from arrays of any kind.

  Arrays may be those of numpy or jax, tensors of torch, or nested lists. They
  are not changed but for their width: probabilities are taken as they are, not
  divided by their sum; one of zero counts as 2**-126, so that it costs 87.3
  nats where it is that of the label.

  Args:
    predictions: One of these, or several methods for the same images by name:

      - logits or probabilities [n k];
      - confidences [n], of which only the predicted class is known: accuracy,
        calibration errors and AURC are measured, NLL and Brier are not;
      - `Predictions`, which hold logits.
    labels: True classes [n], integers from zero; for confidences, hits [n],
      which are booleans or 0 and 1. Those of `Predictions` if None. May be
      given by name where predictions are.
    kind: Kind of the arrays [n k], "logits" or "probabilities"; with "auto",
      probabilities where all rows are non-negative and sum to one within 1 %,
      as those of half precision do, and logits otherwise.
    conventions: Conventions of the ECE and of the intervals.
    reference: Name of the method that the others are compared with, image by
      image; the first one if None.

  Returns:
    Rows and differences of fractions and nats; printed, a table in percent.

  Raises:
    ValueError: Predictions and labels that do not fit together or are not of
      the kinds above (percent, NaN, one-hot labels, hits for labels or labels
      for hits, ...), methods with other images, or an unknown reference.
  """
  several = isinstance(predictions, Mapping)
  names = list(predictions) if several else []
  if reference is not None and reference not in names:
    raise ValueError(
        "the reference must be the name of one of the methods, but "
        f"{reference=} and their names are {names}.")
  given = (inputs.by_name(predictions, labels, kind) if several else
           {"": inputs.one(predictions, labels, kind)})
  with jax.enable_x64(True):
    scored = {name: _score_given(one) for name, one in given.items()}
    rows = [_row(scored[name], one.info, conventions, one.num_classes)
            for name, one in given.items()]
    reference = next(iter(given)) if reference is None else reference
    differences = adjusted([
        {"method": name, "reference": reference,
         **_tested(scored[name], scored[reference], conventions)}
        for name in given if name != reference])
  if several:
    rows = [{"method": name, **row} for name, row in zip(given, rows)]
  return Evaluation(rows, differences, conventions,
                    tuple(one.kind for one in given.values()))


def summarise(
    predictions: Predictions | inputs.Given, conventions: Conventions) -> Row:
  """All metrics of one method on one image set.

  Args:
    predictions: Predictions with labels; of confidences alone there are neither
      NLL nor Brier score.
    conventions: Conventions of the ECE and of the intervals.

  Returns:
    `num_images`, `num_classes`; accuracy, ece, nll, brier and aurc (errors and
    confidence, see `selective.risk_coverage_area`) with `_low` and `_high`, cut
    at the range of the metric (where all predictions are right, or wrong, the
    accuracy's is exact: `exact_where_alike`); `ece_floor` (what a perfectly
    calibrated model with the same confidences would show at this sample size),
    adaptive_ece, mce, confidence, confidence_gap (mean confidence minus
    accuracy), nll_clamped (at most 15.942 nats an image, as released codes have
    it); and the median of every per-image diagnostic as `median_...`.

  Raises:
    ValueError: The predictions have no labels.
  """
  num_classes = (predictions.num_classes
                 if isinstance(predictions, inputs.Given) else
                 len(predictions.class_names))
  with jax.enable_x64(True):
    return _row(
        _score(predictions), predictions.info, conventions, num_classes)


def estimate(predictions: Predictions, conventions: Conventions) -> Row:
  """The scores of `SCORES` without intervals."""
  with jax.enable_x64(True):
    scored = _score(predictions)
    values = _weighted_scores(
        scored, jnp.ones(len(predictions.ids)), conventions)
  return dict(zip(SCORES, map(float, values)))


def spread(predictions: Iterable[Predictions], conventions: Conventions) -> Row:
  """The scores of `SCORES`: means over seeds, the lowest and the highest.

  Args:
    predictions: Predictions, one per seed.
    conventions: Conventions of the ECE.

  Returns:
    The scores, each with `_low` and `_high`.
  """
  each = [estimate(one, conventions) for one in predictions]
  found: dict[str, float] = {}
  for name in SCORES:
    values = [scores[name] for scores in each]
    found |= {name: float(np.mean(values)), f"{name}_low": min(values),
              f"{name}_high": max(values)}
  return found


def over_seeds(
    predictions: Sequence[Predictions], conventions: Conventions) -> Row:
  """Means over seeds, each with a bootstrap interval over the images.

  Args:
    predictions: Predictions for the same images, one per seed.
    conventions: Conventions of the ECE and of the interval.

  Returns:
    The scores and "gap" (mean confidence minus accuracy, positive where
    over-confident), each with `_low` and `_high`, the interval of the mean over
    these seeds on other images; and `_seeds`, the value of each seed, which
    tells how much the seed matters.

  Raises:
    ValueError: They are of different images.
  """
  check_same_images(predictions)
  with jax.enable_x64(True):
    scored = _stacked_scores(predictions)
    interval = _seeds_interval(scored, None, conventions)
    each = np.asarray(jax.vmap(_scores_and_gap, (0, None, None))(
        scored, jnp.ones(len(predictions[0].ids)), conventions))
    row = _flat_within_range(interval, tuple(_RANGES))
  return row | {f"{name}_seeds": values.tolist()
                for name, values in zip(_RANGES, each.T)}


def compare_seeds(
    predictions: Sequence[Predictions],
    reference: Sequence[Predictions],
    conventions: Conventions,
) -> Row:
  """Paired differences of means over seeds; see `compare` and `over_seeds`.

  Args:
    predictions: Predictions of one method, one per seed.
    reference: Predictions of another one for the same images; perhaps fewer
      seeds.
    conventions: Conventions of the ECE and of the interval.

  Raises:
    ValueError: They are of different images.
  """
  check_same_images([*predictions, *reference])
  with jax.enable_x64(True):
    interval = _seeds_interval(
        _stacked_scores(predictions), _stacked_scores(reference), conventions)
    return _flat(interval, suffix="_difference", names=tuple(_RANGES))


def compare(
    predictions: Predictions | inputs.Given,
    reference: Predictions | inputs.Given,
    conventions: Conventions,
) -> Row:
  """Paired differences of one method to another on the same images.

  Returns:
    `accuracy_difference` and so on, of all scores that both have, each with
    `_low` and `_high`; positive where `predictions` has the larger value. Both
    methods see the same resamples.

  Raises:
    ValueError: The two are of different images.
  """
  return {name: value for name, value in compare_and_test(
      predictions, reference, conventions).items() if not name.endswith("_p")}


def compare_and_test(
    predictions: Predictions | inputs.Given,
    reference: Predictions | inputs.Given,
    conventions: Conventions,
) -> Row:
  """The same with `accuracy_difference_p` and so on.

  Returns:
    As `compare`, and two-sided p-values of the same resamples; `adjusted` makes
    them those of several comparisons.

  Raises:
    ValueError: See `compare`.
  """
  check_same_images([predictions, reference])
  with jax.enable_x64(True):
    return _tested(_score(predictions), _score(reference), conventions)


def detect(
    in_distribution: Predictions,
    out_of_distribution: Predictions,
    conventions: Conventions,
) -> Row:
  """How well each uncertainty tells images of no class from the others.

  Args:
    in_distribution: Predictions for images of the classes; labels are not
      looked at.
    out_of_distribution: Predictions of the same method for images of none of
      them, among the same classes.
    conventions: Conventions of the interval.

  Returns:
    For each of `UNCERTAINTIES` that the method has, `auroc_...` with `_low` and
    `_high`: the probability that an image out of distribution has more of it
    than one in distribution. Only of the confidence it is low values that point
    out of distribution: `auroc_confidence` is the probability of less of it.

  Raises:
    ValueError: The two are of different classes, or an uncertainty is not
      finite.
  """
  both = in_distribution, out_of_distribution
  check_same_classes(*both)
  with jax.enable_x64(True):
    found = {"confidence": [1 - _confidence(_probabilities(one.logits))
                            for one in both]} | {
        name: [jnp.asarray(one.info[name], jnp.float64) for one in both]
        for name in UNCERTAINTIES if name in in_distribution.info}
    scores = jnp.stack([jnp.concatenate(values) for values in found.values()])
    finite = np.isfinite(scores).all(axis=1)
    if not finite.all():
      raise ValueError(f"{list(found)[finite.argmin()]!r} is not finite for "
                       "all images; predict them again")
    outside = jnp.arange(scores.shape[1]) >= len(in_distribution.ids)
    interval = _area_interval(scores, outside, conventions)
  row: dict[str, float] = {}
  for index, name in enumerate(found):
    row |= {f"auroc_{name}": float(interval.estimate[index]),
            f"auroc_{name}_low": max(float(interval.low[index]), 0.0),
            f"auroc_{name}_high": min(float(interval.high[index]), 1.0)}
  return row


# Compiled once for all methods on an image set.
@functools.partial(jax.jit, static_argnames="conventions")
def _score_interval(scored, conventions):
  return _interval(
      lambda weights: _weighted_scores(scored, weights, conventions),
      len(scored.confidence), conventions)


@functools.partial(jax.jit, static_argnames="conventions")
def _difference_interval(ours, theirs, conventions):
  """The interval, and the p-values of the same resamples."""

  def difference(weights):
    return (_weighted_scores(ours, weights, conventions) -
            _weighted_scores(theirs, weights, conventions))

  number = len(ours.confidence)
  samples = statistics.bootstrap_samples(
      difference, number, key=jax.random.key(conventions.seed),
      num_samples=conventions.num_resamples)
  estimate = difference(jnp.ones(number))
  return (statistics.recentred_interval(
      estimate, samples, level=conventions.level),
          statistics.difference_p_value(estimate, samples))


@functools.partial(jax.jit, static_argnames="conventions")
def _area_interval(scores, outside, conventions):
  return _interval(
      lambda weights: jax.vmap(_area, (0, None, None))(
          scores, outside, weights), len(outside), conventions)


@functools.partial(jax.jit, static_argnames="conventions")
def _floor(confidence, conventions):
  return calibration.calibration_floor(
      confidence, key=jax.random.key(conventions.seed),
      num_bins=conventions.num_bins, edges=conventions.edges)


def _interval(statistic, num_examples, conventions):
  return statistics.bootstrap_interval(
      statistic, num_examples, key=jax.random.key(conventions.seed),
      num_samples=conventions.num_resamples, level=conventions.level)


def _area(scores, outside, weights):
  """The area, and that of a guess for a resample of one kind of image only."""
  area = selective.roc_area(scores, outside, weights=weights)
  return jnp.where(jnp.isnan(area), 0.5, area)


def confidence_and_hits(
    predictions: Predictions | inputs.Given
) -> tuple[Float[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
  """Confidence of each image in float64, and whether its prediction is right.

  Raises:
    ValueError: The predictions have no labels.
  """
  with jax.enable_x64(True):
    scored = _score(predictions)
  return np.asarray(scored.confidence), np.asarray(scored.correct, bool)


def bins_of(
    confidence: Float[np.ndarray, "n"], correct: Bool[np.ndarray, "n"],
    conventions: Conventions
) -> binning.BinStatistics:
  """The bins of a reliability diagram, as float64 numpy arrays."""
  with jax.enable_x64(True):
    bins = binning.bin_statistics(
        confidence, correct, num_bins=conventions.num_bins,
        edges=conventions.edges)
  return jax.tree.map(np.asarray, bins)


def by_data(
    rows: Sequence[Row]) -> Mapping[str, Sequence[Row]]:
  """Rows grouped by their image set, both in the order of appearance.

  Raises:
    ValueError: A method occurs twice for one image set.
  """
  groups: dict[str, list[Row]] = {}
  for row in rows:
    group = groups.setdefault(row["data"], [])
    one = stages.of(row)
    if any(stages.of(other) == one for other in group):
      raise ValueError(f"two rows for method {one.label!r} on image set "
                       f"{row['data']!r}")
    group.append(row)
  return groups


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
  _, low, high = statistics.proportion_interval(
      round(row["accuracy"] * number), number, level=level)
  return {"accuracy_low": float(low), "accuracy_high": float(high)}


def adjusted(rows: Sequence[Row]) -> list[Row]:
  """Rows with their p-values, `..._p`, by Holm's method over all of them."""
  found = {(index, key): value for index, row in enumerate(rows)
           for key, value in row.items()
           if key.endswith("_p") and math.isfinite(value)}
  rows = [dict(row) for row in rows]
  if found:
    values = statistics.holm(list(found.values()))
    for (index, key), value in zip(found, values.tolist()):
      rows[index][key] = value
  return rows


def check_same_images(
    predictions: Sequence[Predictions | inputs.Given]) -> None:
  """Raises ValueError unless all are of the same images in the same order."""
  for other in predictions[1:]:
    if other.ids != predictions[0].ids:
      raise ValueError(
          "the same images in the same order are needed, but the ids of "
          f"{len(predictions[0].ids or ())} and {len(other.ids or ())} images "
          "differ")


def check_same_classes(
    in_distribution: Predictions, out_of_distribution: Predictions) -> None:
  """Raises ValueError unless both are among the same classes."""
  if in_distribution.class_names != out_of_distribution.class_names:
    raise ValueError(
        "images in and out of distribution must be predicted among the same "
        f"classes, but got {len(in_distribution.class_names)} and "
        f"{len(out_of_distribution.class_names)} names that differ")


def _stacked_scores(predictions):
  return jax.tree.map(lambda *x: jnp.stack(x), *map(_score, predictions))


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
  if isinstance(predictions, inputs.Given):
    return _score_given(predictions)
  if predictions.labels is None:
    raise ValueError(f"the predictions for {len(predictions.ids)} images have "
                     "no labels, without which nothing can be measured; "
                     "predictions._replace(labels=...) adds them.")
  return _of_logits(predictions.logits, jnp.asarray(predictions.labels))


def _score_given(given):
  labels = jnp.asarray(given.labels)
  if given.kind == "logits":
    return _of_logits(given.values, labels)
  values = jnp.clip(jnp.asarray(given.values, jnp.float64), 0, 1)
  if given.kind == "confidences":
    return _Scored(values, labels)
  own = jnp.take_along_axis(values, labels[:, None], axis=-1)[:, 0]
  return _Scored(
      _confidence(values), scoring.correct(values, labels),
      -jnp.log(jnp.maximum(own, _LEAST)), scoring.brier_score(values, labels))


def _of_logits(logits, labels):
  logits = jnp.asarray(logits, jnp.float64)
  probs = _probabilities(logits)
  return _Scored(
      _confidence(probs), scoring.correct(logits, labels),
      scoring.negative_log_likelihood(logits, labels),
      scoring.brier_score(probs, labels))


def _probabilities(logits):
  return jax.nn.softmax(jnp.asarray(logits, jnp.float64))


def _confidence(probs):
  # Rounding may leave a sum of probabilities just above one.
  return jnp.minimum(jnp.max(probs, axis=-1), 1.0)


def _row(scored, info, conventions, num_classes):
  """All that `summarise` tells; of confidences, what there is to tell."""
  names, seen = _names(scored), (scored.confidence, scored.correct)
  bins = {"num_bins": conventions.num_bins}
  scores = _flat_within_range(_score_interval(scored, conventions), names)
  sizes = {"num_images": len(scored.confidence), "num_classes": num_classes}
  row = {
      **{name: size for name, size in sizes.items() if size is not None},
      **scores, **exact_where_alike(
          scores, len(scored.confidence), conventions.level),
      "ece_floor": _floor(scored.confidence, conventions),
      "adaptive_ece": calibration.adaptive_calibration_error(*seen, **bins),
      "mce": calibration.maximum_calibration_error(
          *seen, **bins, edges=conventions.edges),
      "confidence": jnp.mean(scored.confidence),
      "confidence_gap": calibration.confidence_gap(*seen),
  }
  if scored.nll is not None:
    row["nll_clamped"] = jnp.mean(jnp.clip(
        scored.nll, -math.log1p(-_CLAMP), -math.log(_CLAMP)))
  row |= {f"median_{name}": np.median(values) for name, values in info.items()}
  return {name: value if isinstance(value, int) else float(value)
          for name, value in row.items()}


def _tested(ours, theirs, conventions):
  """Differences of all scores that both have, and their p-values."""
  if ours.nll is None or theirs.nll is None:
    ours, theirs = (_Scored(*one[:2]) for one in (ours, theirs))
  interval, p_values = _difference_interval(ours, theirs, conventions)
  names = _names(ours)
  return _flat(interval, suffix="_difference", names=names) | {
      f"{name}_difference_p": float(value)
      for name, value in zip(names, p_values)}


def _names(scored):
  """Those of `_weighted_scores`."""
  without = () if scored.nll is not None else ("nll", "brier")
  return tuple(name for name in SCORES if name not in without)


def _weighted_scores(scored, weights, conventions):
  mean = lambda values: statistics.weighted_mean(values, weights)
  proper = () if scored.nll is None else (mean(scored.nll), mean(scored.brier))
  return jnp.stack([
      mean(scored.correct),
      calibration.expected_calibration_error(
          scored.confidence, scored.correct, num_bins=conventions.num_bins,
          edges=conventions.edges, weights=weights),
      *proper,
      selective.risk_coverage_area(
          1.0 - scored.correct, scored.confidence, weights=weights),
  ])


def _flat_within_range(interval, names):
  """The interval without the part that no data could show."""
  lowest, highest = jnp.asarray([_RANGES[name] for name in names]).T
  return _flat(
      interval._replace(low=jnp.maximum(interval.low, lowest),
                        high=jnp.minimum(interval.high, highest)),
      suffix="", names=names)


def _flat(interval, *, suffix, names):
  row: dict[str, float] = {}
  for index, name in enumerate(names):
    row[f"{name}{suffix}"] = float(interval.estimate[index])
    row[f"{name}{suffix}_low"] = float(interval.low[index])
    row[f"{name}{suffix}_high"] = float(interval.high[index])
  return row


def _legend(evaluation):
  conventions, kinds = evaluation.conventions, dict.fromkeys(evaluation.kinds)
  return (f"{evaluation.rows[0]['num_images']} images, {', '.join(kinds)}; "
          f"ECE: {conventions.num_bins} {conventions.edges}-closed bins; "
          "floor: that of a perfectly calibrated model with these confidences; "
          f"brackets: {100 * conventions.level:g} % bootstrap.")
