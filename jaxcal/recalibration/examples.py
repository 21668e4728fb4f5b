"""Labelled examples that calibrators are fitted to, seen to belong together."""

import numpy as np

from jaxcal.typing import AnyArray
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Integer
from jaxcal.typing import Values


def checked(
    logits: Float[AnyArray, "n k"],
    labels: Integer[AnyArray, "n"] | None,
    weights: Values | None = None,
) -> tuple[Float[np.ndarray, "m k"], Integer[np.ndarray, "m"],
           Float[np.ndarray, "m"]]:
  """Arrays on the host, once they are seen to belong together.

  Args:
    logits: Unnormalised log-probabilities.
    labels: True classes.
    weights: Multiplicity of each example; one if None.

  Returns:
    Logits as they are, labels and weights, without examples of no weight.

  Raises:
    ValueError: Wrong shapes, no example, logits that are not finite, a label
      out of range, or weights that are negative, not finite or all zero.
    TypeError: `labels` are not integers.
  """
  logits, labels = np.asarray(logits), np.asarray(labels)
  if logits.ndim != 2 or not logits.size or labels.shape != logits.shape[:1]:
    raise ValueError("expected logits [examples, classes] and one label per "
                     f"example, but {logits.shape=} and {labels.shape=}.")
  if not np.issubdtype(labels.dtype, np.integer):
    raise TypeError(f"labels must be integers, but {labels.dtype=}.")
  weights = (np.ones(len(labels)) if weights is None
             else np.asarray(weights, np.float64))
  if weights.shape != labels.shape:
    raise ValueError("weights must be one per example, but "
                     f"{weights.shape=} and {labels.shape=}.")
  if not (np.isfinite(weights).all() and (weights >= 0).all()
          and weights.any()):
    raise ValueError(
        "weights must be finite, not negative and not all zero.")
  used = weights > 0
  logits, labels, weights = logits[used], labels[used], weights[used]
  if not np.isfinite(logits).all():
    raise ValueError("logits must be finite; NaN or infinity in "
                     f"{int((~np.isfinite(logits)).any(axis=1).sum())} of "
                     f"{len(logits)} rows.")
  if not 0 <= labels.min() <= labels.max() < logits.shape[1]:
    raise ValueError(f"labels must lie in [0, {logits.shape[1]}), but they "
                     f"span [{labels.min()}, {labels.max()}].")
  return logits, labels, weights


def without_images(
    labels: Integer[np.ndarray, "n"], num_classes: int) -> Int[np.ndarray, "_"]:
  """The classes that no example is of."""
  return np.flatnonzero(np.bincount(labels, minlength=num_classes) == 0)
