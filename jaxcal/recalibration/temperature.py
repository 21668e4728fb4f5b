"""Temperature scaling: all logits divided by one number, fitted to labels."""

import numpy as np

from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Int

# The least and the greatest temperature that is fitted.
BOUNDS = (1e-3, 1e3)

# Logits whose exponentials are held in memory at a time.
_BLOCK = 2 ** 20


def fit_temperature(
    logits: Float[Array, "n k"],
    labels: Int[Array, "n"],
    *,
    weights: Float[Array, "n"] | None = None,
) -> float:
  r"""The temperature with the least negative log-likelihood of the labels.

  .. math:: \min_T -\frac{1}{n} \sum_i \log \mathrm{softmax}(z_i / T)_{y_i}

  It is convex in 1 / T, so that its derivative has one zero, which is bracketed
  and found to 12 digits; on the host, in float64 whatever the logits are, in
  ten to twenty passes over them.

  Args:
    logits: Unnormalised log-probabilities of examples that the model was not
      trained on.
    labels: True classes.
    weights: Multiplicity of each example; one if None.

  Returns:
    T in `BOUNDS`; above one for an over-confident model. It equals a bound
    where the likelihood still grows there: the lower one if (nearly) all
    predictions are right, since no confidence is then too high; the upper one
    if the labels have no higher logits than other classes on average, so that
    no positive temperature beats equal probabilities. Neither is an estimate.
    Where nothing depends on the temperature, as with equal logits, it is one.

  Raises:
    ValueError: Wrong shapes, no example, logits that are not finite, a label
      out of range, or weights that are negative, not finite or all zero.
    TypeError: `labels` are not integers.

  References:
    Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    Differs from the released code of the few-shot papers
    (ml-stat-Sustech/CLIP_Calibration @5b68fb1) in: the minimum is found
    exactly. There, the logarithm of 100 / T takes 20 epochs of SGD with
    momentum and weight decay from 100 / T = 100, in float16, of which the
    spacing at that value is 0.4 % of T.
  """
  logits, labels, weights = _checked(logits, labels, weights)

  def slope(log_scale):
    return _slope(logits, labels, weights, np.exp(log_scale))

  # The scale 1 / T that is sought lies where the slope turns from negative to
  # positive.
  low, high = sorted(-np.log(BOUNDS))
  at_low, at_high = slope(low), slope(high)
  if at_low == at_high == 0:
    return 1.0
  if at_high <= 0:
    return BOUNDS[0]
  if at_low >= 0:
    return BOUNDS[1]
  from scipy import optimize
  return float(np.exp(-optimize.brentq(slope, low, high, xtol=1e-12)))


def apply(
    temperature: float, logits: Float[Array, "*n k"]) -> Float[Array, "*n k"]:
  """Logits divided by the temperature; no prediction changes.

  Args:
    temperature: Positive, from `fit_temperature`.
    logits: Unnormalised log-probabilities.

  Raises:
    ValueError: The temperature is not positive and finite.
  """
  if not 0 < temperature < np.inf:
    raise ValueError(
        f"expected a positive, finite temperature, got {temperature}.")
  return logits / temperature


def _slope(logits, labels, weights, scale):
  """Derivative of the weighted mean loss by the scale 1 / T.

  For one example: the mean logit under softmax(scale * logits), minus that of
  the label.
  """
  total, rows = 0., max(1, _BLOCK // logits.shape[1])
  for first in range(0, len(logits), rows):
    part = slice(first, first + rows)
    own = logits[part][np.arange(len(labels[part])), labels[part]]
    # From the label's logit, so that nothing large is subtracted at the end.
    rest = logits[part].astype(np.float64) - own[:, None]
    exponents = scale * rest
    probs = np.exp(exponents - exponents.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    total += weights[part] @ (probs * rest).sum(axis=1)
  return total / weights.sum()


def _checked(logits, labels, weights):
  """Arrays on the host, once they are seen to belong together."""
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
