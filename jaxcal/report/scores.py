"""What metrics see of predictions, and the scores that they make of it.

Of float64 values of the host: functions that take predictions are called where
JAX has 64 bits.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.compiled import compiled
from jaxcal.metrics import calibration
from jaxcal.metrics import examples
from jaxcal.metrics import scoring
from jaxcal.metrics import selective
from jaxcal.metrics import statistics
from jaxcal.predictions import Predictions
from jaxcal.report import inputs
from jaxcal.typing import AnyArray
from jaxcal.typing import Array
from jaxcal.typing import Bool
from jaxcal.typing import Float

# What a probability of zero counts as: the least normal number of float32.
_LEAST = 2.0 ** -126

# The metrics that carry an interval, in the order of `weighted`, and the
# largest value of each; the smallest is 0.
SCORES = {"accuracy": 1.0, "ece": 1.0, "nll": np.inf, "brier": 2.0,
          "aurc": 1.0}
# Those of which more is better.
HIGHER = ("accuracy",)

# The range of these and of the gap between confidence and accuracy.
RANGES = {**{name: (0.0, highest) for name, highest in SCORES.items()},
          "gap": (-1.0, 1.0)}


class Conventions(NamedTuple):
  """What an ECE and an interval mean here.

  Attributes:
    num_bins: Bins of equal width of the calibration error.
    edges: Edge that belongs to a bin, "right" or "left".
    level: Coverage of the intervals, in (0, 1).
    num_resamples: Bootstrap resamples of the images.
    seed: Seed of the resamples.
  """

  num_bins: int = 20
  edges: str = "right"
  level: float = 0.95
  num_resamples: int = 1000
  seed: int = 0


class Scored(NamedTuple):
  """What the metrics see of each example; of confidences, the first two."""

  confidence: Float[Array, "n"]
  correct: Bool[Array, "n"]
  nll: Float[Array, "n"] | None = None
  brier: Float[Array, "n"] | None = None


def of(predictions: Predictions | inputs.Given) -> Scored:
  """What the metrics see of predictions.

  Raises:
    ValueError: The predictions have no labels.
  """
  if isinstance(predictions, inputs.Given):
    return _of_given(predictions)
  if predictions.labels is None:
    raise ValueError(f"the predictions for {len(predictions.ids)} images have "
                     "no labels, without which nothing can be measured; "
                     "predictions._replace(labels=...) adds them.")
  return _of_logits(predictions.logits, predictions.labels)


def names(scored: Scored) -> tuple[str, ...]:
  """The scores that there are: those of `SCORES`, and "gap"."""
  without = () if scored.nll is not None else ("nll", "brier")
  return tuple(name for name in RANGES if name not in without)


def weighted(
    scored: Scored, weights: Float[Array, "n"], conventions: Conventions
) -> Float[Array, "scores"]:
  """The scores, those of `names`.

  Args:
    scored: What the metrics see.
    weights: Multiplicity of each example.
    conventions: Conventions of the ECE.
  """
  mean = lambda values: statistics.weighted_mean(values, weights)
  seen = scored.confidence, scored.correct
  proper = [mean(one) for one in (scored.nll, scored.brier) if one is not None]
  return jnp.stack([
      mean(scored.correct),
      calibration.expected_calibration_error(
          *seen, num_bins=conventions.num_bins, edges=conventions.edges,
          weights=weights),
      *proper,
      selective.risk_coverage_area(
          1.0 - scored.correct, scored.confidence, weights=weights),
      calibration.confidence_gap(*seen, weights=weights),
  ])


@compiled
def probabilities(logits: Float[AnyArray, "n k"]) -> Float[Array, "n k"]:
  """Their softmax."""
  return jax.nn.softmax(jnp.asarray(logits, jnp.float64))


@compiled
def confidence(probs: Float[Array, "n k"]) -> Float[Array, "n"]:
  """The largest probability of each example, at most one."""
  # Rounding may leave a sum of probabilities just above one.
  return jnp.minimum(jnp.max(probs, axis=-1), 1.0)


def _of_given(given):
  if given.kind == "logits":
    return _of_logits(given.values, given.labels)
  values = np.clip(np.asarray(given.values, np.float64), 0, 1)
  if given.kind == "confidences":
    return Scored(examples.as_array(values), examples.as_array(given.labels))
  return _of_classes(values, examples.as_array(given.labels))


@compiled
def _of_classes(values, labels):
  """The same of probabilities."""
  own = jnp.take_along_axis(values, labels[:, None], axis=-1)[:, 0]
  return Scored(
      confidence(values), scoring.correct(values, labels),
      -jnp.log(jnp.maximum(own, _LEAST)), scoring.brier_score(values, labels))


def _of_logits(logits, labels):
  logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
  examples.check_labels(labels, logits.shape[-1])
  return _of_logits_and_labels(*map(examples.as_array, (logits, labels)))


@compiled
def _of_logits_and_labels(logits, labels):
  probs = probabilities(logits)
  return Scored(
      confidence(probs), scoring.correct(logits, labels),
      scoring.negative_log_likelihood(logits, labels),
      scoring.brier_score(probs, labels))
