"""Accuracy and proper scores, one value per example.

Their means over a data set are `statistics.weighted_mean` of the values.
"""

import math

import jax
import jax.numpy as jnp

from jaxcal.compiled import compiled
from jaxcal.compiled import compiled_with
from jaxcal.metrics import examples
from jaxcal.metrics import statistics
from jaxcal.typing import Array
from jaxcal.typing import at_least_float32
from jaxcal.typing import Bool
from jaxcal.typing import Float
from jaxcal.typing import Labels
from jaxcal.typing import Scores
from jaxcal.typing import Values


def correct(
    logits: Scores, labels: Labels, *, k: int = 1
) -> Bool[Array, "*n"]:
  """Whether the label is among the k classes of the highest logits.

  Among equal logits the lower class index goes first, as in an argmax. A class
  whose logit is NaN ranks before the label, and no class ranks behind a label
  whose own logit is NaN.

  Args:
    logits: Logits, or anything that grows with the probability.
    labels: True classes.
    k: How many classes may be named.

  Returns:
    One boolean per example.

  Raises:
    ValueError: Wrong shapes, `k` below one, or a label out of range (where not
      traced).
    TypeError: `labels` are not integers.
  """
  logits, labels = _paired(logits, labels)
  if k < 1:
    raise ValueError(f"k must be at least one, but {k=}.")
  return _among_highest(logits, labels, k=k)


def accuracy(
    logits: Scores,
    labels: Labels,
    *,
    k: int = 1,
    weights: Values | None = None,
) -> Float[Array, ""]:
  """Share of the examples that are `correct`, a fraction in [0, 1].

  Args and errors as for `correct`; `weights` are the multiplicity of each
  example, one if None.
  """
  return statistics.weighted_mean(correct(logits, labels, k=k), weights)


def balanced_accuracy(
    logits: Scores,
    labels: Labels,
    *,
    weights: Values | None = None,
) -> Float[Array, ""]:
  """Mean over classes of the share of their examples that is `correct`.

  Args and errors as for `accuracy`. Every class that occurs counts alike,
  however few examples it has.

  Source: as scikit-learn's balanced_accuracy_score.
  """
  hits = correct(logits, labels)
  return _mean_recall(
      hits, examples.as_array(labels), examples.checked_weights(weights, hits),
      num_classes=examples.readable(logits).shape[-1])


@compiled_with("num_classes")
def _mean_recall(hits, labels, weights, *, num_classes):
  mass = examples.example_weights(weights, at_least_float32(hits))
  count, right = jax.ops.segment_sum(
      jnp.stack([mass, mass * hits], axis=-1), labels,
      num_segments=num_classes).T
  recall = jnp.where(count > 0, right / jnp.where(count > 0, count, 1), 0)
  return jnp.sum(recall) / jnp.sum(count > 0)


def top_probability(
    probs: Scores, *, k: int = 1
) -> Float[Array, "*n"]:
  """Probability that the label is among the k most probable classes.

  The confidence whose hits are `correct(probs, labels, k=k)`: with them, every
  calibration error of a confidence measures the k named classes.

  Args:
    probs: Probabilities.
    k: How many classes are named, at most all.

  Returns:
    Sums of the k largest probabilities, at most one.

  Raises:
    ValueError: `k` is below one or above the number of classes, or (where not
      traced) a probability outside [0, 1] or NaN.
  """
  probs = examples.as_array(probs)
  if not 1 <= k <= probs.shape[-1]:
    raise ValueError(f"k must lie in [1, {probs.shape[-1]}], but {k=}.")
  examples.check_probabilities(probs, name="probs")
  return _sum_of_highest(probs, k=k)


@compiled_with("k")
def _sum_of_highest(probs, *, k):
  probs = at_least_float32(probs)
  highest = (jnp.max(probs, axis=-1) if k == 1 else
             jnp.sum(jax.lax.top_k(probs, k)[0], axis=-1))
  # Rounding may leave a sum of probabilities just above one.
  return jnp.minimum(highest, 1)


def negative_log_likelihood(
    logits: Scores,
    labels: Labels,
    *,
    clamp: float = 0.0,
) -> Float[Array, "*n"]:
  """Negative log-probability of the label, in nats.

  Log-probabilities may stand in for logits, since they normalise to themselves.

  Args:
    logits: Unnormalised log-probabilities.
    labels: True classes.
    clamp: The probability of the label is moved into [clamp, 1 - clamp]. With
      the float32 spacing 2**-23 no example costs more than 15.942 nats, as in
      programs that score with torch's categorical distribution.

  Returns:
    One value per example, not negative; infinite where the label has
    probability zero and `clamp` is zero. Unreduced.

  Raises:
    ValueError: Wrong shapes, a label out of range (where not traced), or
      `clamp` outside [0, 1/2).
    TypeError: `labels` are not integers.
  """
  logits, labels = _paired(logits, labels)
  if not 0 <= clamp < 0.5:
    raise ValueError(f"clamp must lie in [0, 1/2), but {clamp=}.")
  return _surprise(logits, labels, clamp=float(clamp))


def brier_score(
    probs: Scores, labels: Labels
) -> Float[Array, "*n"]:
  r"""Brier score, summed over classes.

  .. math:: \sum_k (p_k - [k = y])^2

  Some programs divide by the number of classes; this one does not.

  Args:
    probs: Probabilities.
    labels: True classes.

  Returns:
    One value per example in [0, 2]; zero for a certain, right prediction.
    Unreduced.

  Raises:
    ValueError: Wrong shapes, or (where not traced) a label out of range or a
      probability outside [0, 1] or NaN.
    TypeError: `labels` are not integers.
  """
  probs, labels = _paired(probs, labels)
  examples.check_probabilities(probs, name="probs")
  return _square_distance(probs, labels)


# Compiled, so that a plain call makes no arrays as large as the scores.
@compiled_with("k")
def _among_highest(logits, labels, *, k):
  """Whether the label is among the k classes of the highest logits."""
  own = jnp.take_along_axis(logits, labels[..., None], axis=-1)
  classes = jnp.arange(logits.shape[-1], dtype=labels.dtype)
  classes = jnp.broadcast_to(classes, logits.shape)
  not_before = classes >= labels[..., None]
  # A compiler may compute what is picked anew, and round it otherwise: the
  # label's logit is not to be compared with itself.
  itself = (classes == labels[..., None]) & ~jnp.isnan(own)
  behind = (logits < own) | ((logits == own) & not_before) | itself
  # What counts takes several times as long as what only looks.
  return (jnp.all(behind, axis=-1) if k == 1 else
          jnp.sum(~behind, axis=-1) < k)


@compiled_with("clamp")
def _surprise(logits, labels, *, clamp):
  of_label = _log_probability(at_least_float32(logits), labels)
  if clamp:
    of_label = jnp.clip(of_label, math.log(clamp), math.log1p(-clamp))
  return -of_label


def _log_probability(logits, labels):
  """Log-softmax at the label, without that of the other classes."""
  highest = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
  own = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
  total = jnp.sum(jnp.exp(logits - highest[..., None]), axis=-1)
  return (own - highest) - jnp.log(total)


@compiled
def _square_distance(probs, labels):
  probs = at_least_float32(probs)
  target = jax.nn.one_hot(labels, probs.shape[-1], dtype=probs.dtype)
  return jnp.sum(jnp.square(probs - target), axis=-1)


def _paired(scores, labels):
  """Scores and labels as arrays, once they are seen to belong together."""
  scores, labels = examples.as_array(scores), examples.readable(labels)
  if scores.ndim == 0 or scores.shape[:-1] != labels.shape:
    raise ValueError(
        "expected scores [..., classes] and one label for each row, but their "
        f"shapes are {scores.shape} and {labels.shape}.")
  examples.check_labels(labels, scores.shape[-1])
  return scores, examples.as_array(labels)
