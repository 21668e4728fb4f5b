"""Between logits and probabilities, on the host and in float64.

Calibrators that work on probabilities hand logits back, since that is what
predictions hold: their softmax is the calibrated distribution.
"""

import numpy as np

from jaxcal.typing import AnyArray
from jaxcal.typing import Float
from jaxcal.typing import Int

# The least probability: logits must be finite, in float32, too.
LEAST = 1e-30


def of_logits(logits: Float[AnyArray, "*n k"]) -> Float[np.ndarray, "*n k"]:
  """The softmax."""
  exponents = np.asarray(logits, np.float64)
  probs = np.exp(exponents - exponents.max(axis=-1, keepdims=True))
  return probs / probs.sum(axis=-1, keepdims=True)


def logarithms(logits: Float[AnyArray, "*n k"]) -> Float[np.ndarray, "*n k"]:
  """Logarithms of the softmax."""
  logits = np.asarray(logits, np.float64)
  logits = logits - logits.max(axis=-1, keepdims=True)
  return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def to_logits(probs: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
  """Logits whose softmax is proportional to probabilities.

  Args:
    probs: Values of at least zero, which need not sum to one. Those below
      `LEAST` count as that.
  """
  return np.log(np.maximum(probs, LEAST))


def normalised(
    values: Float[np.ndarray, "n k"], otherwise: Float[np.ndarray, "n k"]
) -> Float[np.ndarray, "n k"]:
  """Rows divided by their sum, and others in the place of rows of zeros.

  Args:
    values: Values of at least zero.
    otherwise: Probabilities for rows of which all values are zero.
  """
  total = values.sum(axis=1, keepdims=True)
  return np.where(total > 0, values / np.where(total > 0, total, 1), otherwise)


def keeping(
    logits: Float[AnyArray, "n k"], changed: Float[np.ndarray, "n k"]
) -> Float[np.ndarray, "n k"]:
  """Rows of which none is higher than that of the predicted class.

  For maps that keep the order of classes but for rounding.

  Args:
    logits: Logits whose highest class is predicted.
    changed: Logits or probabilities made of them.
  """
  predicted = np.asarray(logits).argmax(axis=1)
  rows = np.arange(len(changed))
  kept = np.array(changed)
  kept[rows, predicted] = changed.max(axis=1)
  return kept


def with_confidence(
    probs: Float[np.ndarray, "n k"],
    predicted: Int[np.ndarray, "n"],
    confidence: Float[np.ndarray, "n"],
    *,
    keeps_prediction: bool,
) -> Float[np.ndarray, "n k"]:
  """Probabilities in which the predicted class has a given one.

  The other classes share the rest in proportion to their probabilities.

  Args:
    probs: Probabilities to change.
    predicted: Predicted class of each row.
    confidence: New probabilities of the predicted classes, in [0, 1].
    keeps_prediction: Whether no other class may have more: a class that would
      is given as much as the predicted one and the rest is shared among those
      below; a confidence below that of chance counts as that of chance.
      Otherwise a low confidence makes another class the predicted one.
  """
  n, k = probs.shape
  rows = np.arange(n)
  if keeps_prediction:
    confidence = np.maximum(confidence, 1 / k)
  others = np.maximum(probs, LEAST)
  others[rows, predicted] = 0
  full = np.zeros((n, k), bool)
  while True:
    free = np.where(full, 0, others)
    left = 1 - confidence - confidence * full.sum(axis=1)
    total = free.sum(axis=1)
    part = np.maximum(left, 0) / np.where(total > 0, total, 1)
    found = np.where(full, confidence[:, None], free * part[:, None])
    found[rows, predicted] = confidence
    above = (found > confidence[:, None]) & ~full
    if not keeps_prediction or not above.any():
      return found
    full |= above


def confidence(
    logits: Float[AnyArray, "n k"]
) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n"]]:
  """The predicted class of each row, and its probability."""
  return np.asarray(logits).argmax(axis=1), of_logits(logits).max(axis=1)
