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

from jaxcal import predictions as predictions_lib
from jaxcal import stages
from jaxcal.metrics import binning
from jaxcal.metrics import calibration
from jaxcal.metrics import examples
from jaxcal.metrics import selective
from jaxcal.metrics import statistics
from jaxcal.report import inputs
from jaxcal.report import resampled
from jaxcal.report import scores
from jaxcal.report import tables
from jaxcal.report.resampled import Row
from jaxcal.report.scores import Conventions
from jaxcal.typing import Bool
from jaxcal.typing import Float

Predictions = predictions_lib.Predictions

# torch's spacing of float32 at one, to which it clamps probabilities.
_CLAMP = 2.0 ** -23

# What a row tells without an interval, in its order.
_WITHOUT_INTERVAL = ("ece_floor", "adaptive_ece", "mce", "confidence",
                     "confidence_gap", "nll_clamped")

# Images out of distribution should have more of each, but less confidence.
UNCERTAINTIES = ("confidence", "variance", "image_variance", "epistemic")


class Evaluation(NamedTuple):
  """What `evaluate` found; as text, a table.

  Attributes:
    rows: Measures of each method, as `summarise` has them, after "method" where
      it has a name; of several methods, `best` says by which scores it is the
      best of them, see `resampled.best`.
    differences: Paired differences of the other methods to the reference, as
      `resampled.difference_row` has them, after "method" and "reference"; none
      for one method. `..._difference_p` are their p-values, adjusted by Holm's
      method for the number of differences in all of these rows.
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
              self.differences, tables.MEASURED_DIFFERENCES)),
          tables.p_value_note("this table", self.differences,
                              self.conventions.num_resamples)]
    blocks += tables.floor_notes(self.rows)
    return "\n\n".join(blocks)


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
  sampled = {name: resampled.of(one, conventions)
             for name, one in given.items()}
  rows = [summarise(one, conventions, sampled[name])
          for name, one in given.items()]
  reference = next(iter(given)) if reference is None else reference
  differences = resampled.adjusted([
      {"method": name, "reference": reference, **resampled.difference_row(
          sampled[name], sampled[reference], conventions.level)}
      for name in given if name != reference])
  if several:
    rows = [{"method": name, **row} for name, row in zip(given, rows)]
  if len(rows) > 1:
    best = resampled.best(sampled, conventions.level)
    rows = [{**row, "best": best[name]} for name, row in zip(given, rows)]
  return Evaluation(rows, differences, conventions,
                    tuple(one.kind for one in given.values()))


def summarise(
    predictions: Predictions | inputs.Given,
    conventions: Conventions,
    sampled: resampled.Resampled | None = None,
) -> Row:
  """All metrics of one method on one image set.

  Args:
    predictions: Predictions with labels; of confidences alone there are neither
      NLL nor Brier score.
    conventions: Conventions of the ECE and of the intervals.
    sampled: Scores of these predictions on resamples, by the same conventions;
      drawn if None.

  Returns:
    `corruption` and `severity` where the images were corrupted; `num_images`,
    `num_classes`; accuracy, ece, nll, brier and aurc (errors and
    confidence, see `selective.risk_coverage_area`) with `_low` and `_high`, cut
    at the range of the metric (where all predictions are right, or wrong, the
    accuracy's is exact: `resampled.exact_where_alike`); `ece_floor` (what a
    perfectly calibrated model with the same confidences would show at this
    sample size), adaptive_ece, mce, confidence, confidence_gap (mean confidence
    minus accuracy), nll_clamped (at most 15.942 nats an image, as released
    codes have it); and the median of every per-image diagnostic as
    `median_...`.

  Raises:
    ValueError: The predictions have no labels.
  """
  num_classes = (predictions.num_classes
                 if isinstance(predictions, inputs.Given) else
                 len(predictions.class_names))
  sizes = {"num_classes": num_classes} if num_classes else {}
  if sampled is None:
    sampled = resampled.of(predictions, conventions)
  with jax.enable_x64(True):
    return corruption(predictions.settings) | _row(
        scores.of(predictions), sampled, predictions.info, conventions, sizes)


def corruption(settings: Mapping[str, Any]) -> Row:
  """Corruption and severity of the images that predictions are of, if any.

  And the share of the images that were corrupted, where that is not all.

  Args:
    settings: Settings of predictions, among them their identity.
  """
  of = settings.get("identity", {})
  if of.get("data.corruption") is None:
    return {}
  row = {name: of[f"data.{name}"] for name in ("corruption", "severity")}
  share = of.get("stream.corrupted_share")
  return row if share is None else row | {"corrupted_share": share}


def estimate(predictions: Predictions, conventions: Conventions) -> Row:
  """The scores of `scores.SCORES` without intervals."""
  with jax.enable_x64(True):
    scored = scores.of(predictions)
    values = scores.weighted(
        scored, jnp.ones(len(predictions.ids)), conventions)
  found = dict(zip(scores.names(scored), map(float, values)))
  return {name: found[name] for name in scores.SCORES}


def spread(predictions: Iterable[Predictions], conventions: Conventions) -> Row:
  """Means of the scores over seeds, the lowest and the highest.

  Args:
    predictions: Predictions, one per seed.
    conventions: Conventions of the ECE.

  Returns:
    The scores, each with `_low` and `_high`.
  """
  each = [estimate(one, conventions) for one in predictions]
  found: dict[str, float] = {}
  for name in scores.SCORES:
    values = [one[name] for one in each]
    found |= {name: float(np.mean(values)), f"{name}_low": min(values),
              f"{name}_high": max(values)}
  return found


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
    found = {"confidence": [1 - np.asarray(scores.confidence(
        scores.probabilities(one.logits))) for one in both]} | {
        name: [np.asarray(one.info[name], np.float64) for one in both]
        for name in UNCERTAINTIES if name in in_distribution.info}
    values = np.stack([np.concatenate(parts) for parts in found.values()])
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
      raise ValueError(f"{list(found)[finite.argmin()]!r} is not finite for "
                       "all images; predict them again")
    outside = np.arange(values.shape[1]) >= len(in_distribution.ids)
    interval = jax.tree.map(
        np.asarray, _area_interval(values, outside, conventions))
  row: dict[str, float] = {}
  for index, name in enumerate(found):
    row |= {f"auroc_{name}": float(interval.estimate[index]),
            f"auroc_{name}_low": max(float(interval.low[index]), 0.0),
            f"auroc_{name}_high": min(float(interval.high[index]), 1.0)}
  return row


# Compiled once for all methods on an image set.
@functools.partial(jax.jit, static_argnames="conventions")
def _area_interval(values, outside, conventions):
  return statistics.bootstrap_interval(
      lambda weights: jax.vmap(_area, (0, None, None))(
          values, outside, weights), len(outside),
      key=jax.random.key(conventions.seed),
      num_samples=conventions.num_resamples, level=conventions.level)


@functools.partial(jax.jit, static_argnames="conventions")
def _of_confidence(scored, conventions):
  """What a row tells without an interval, in one program."""
  seen, bins = scored[:2], {"num_bins": conventions.num_bins}
  found = {
      "ece_floor": calibration.calibration_floor(
          scored.confidence, key=jax.random.key(conventions.seed), **bins,
          edges=conventions.edges),
      "adaptive_ece": calibration.adaptive_calibration_error(*seen, **bins),
      "mce": calibration.maximum_calibration_error(
          *seen, **bins, edges=conventions.edges),
      "confidence": jnp.mean(scored.confidence),
      "confidence_gap": calibration.confidence_gap(*seen),
  }
  if scored.nll is not None:
    found["nll_clamped"] = jnp.mean(jnp.clip(
        scored.nll, -math.log1p(-_CLAMP), -math.log(_CLAMP)))
  return found


def _area(values, outside, weights):
  """The area, and that of a guess for a resample of one kind of image only."""
  area = selective.roc_area(values, outside, weights=weights)
  return jnp.where(jnp.isnan(area), 0.5, area)


def confidence_and_hits(
    predictions: Predictions | inputs.Given
) -> tuple[Float[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
  """Confidence of each image in float64, and whether its prediction is right.

  Raises:
    ValueError: The predictions have no labels.
  """
  with jax.enable_x64(True):
    scored = scores.of(predictions)
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


def check_same_classes(
    in_distribution: Predictions, out_of_distribution: Predictions) -> None:
  """Raises ValueError unless both are among the same classes."""
  if in_distribution.class_names != out_of_distribution.class_names:
    raise ValueError(
        "images in and out of distribution must be predicted among the same "
        f"classes, but got {len(in_distribution.class_names)} and "
        f"{len(out_of_distribution.class_names)} names that differ")


def _row(scored, sampled, info, conventions, sizes):
  """All that `summarise` tells; of confidences, what there is to tell."""
  number = len(scored.confidence)
  examples.check_probabilities(scored.confidence, name="confidence")
  # Of any level, as the resamples.
  found = _of_confidence(scored, conventions._replace(level=0.5))
  measured = resampled.score_row(sampled, conventions.level)
  row = {
      "num_images": number, **sizes, **measured,
      **resampled.exact_where_alike(measured, number, conventions.level),
      **{name: found[name] for name in _WITHOUT_INTERVAL if name in found},
  }
  row |= {f"median_{name}": np.median(values) for name, values in info.items()
          if name not in predictions_lib.PLACES}
  return {name: value if isinstance(value, int) else float(value)
          for name, value in row.items()}


def _legend(evaluation):
  conventions, kinds = evaluation.conventions, dict.fromkeys(evaluation.kinds)
  return (f"{evaluation.rows[0]['num_images']} images, {', '.join(kinds)}; "
          f"ECE: {conventions.num_bins} {conventions.edges}-closed bins; "
          "floor: that of a perfectly calibrated model with these confidences; "
          f"brackets: {100 * conventions.level:g} % bootstrap." + "".join(
              f" {note}" for note in tables.best_notes(
                  evaluation.rows, conventions.level)))
