"""Temperature scaling: all logits divided by one number, fitted to labels."""

import dataclasses
import statistics

import numpy as np

from jaxcal.recalibration import base
from jaxcal.recalibration import examples
from jaxcal.typing import AnyArray
from jaxcal.typing import Float
from jaxcal.typing import Integer
from jaxcal.typing import Values

# The least and the greatest temperature that is fitted.
BOUNDS = (1e-3, 1e3)

# Logits whose exponentials are held in memory at a time.
_BLOCK = 2 ** 20

# Of the interval that tells whether a temperature is needed.
_LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Temperature:
  """One temperature for all images and classes: the default calibrator.

  Attributes:
    same_classes: Whether it must be fitted to the classes that it is applied
      to; the few-shot papers fit it to base classes and apply it to new ones.
  """

  same_classes: bool = True

  def recalibrator(self) -> base.Recalibrator:
    """`fit` and `apply` of this module."""
    return base.Recalibrator(
        "temperature", fit=fit, same_classes=self.same_classes,
        apply=lambda parameters, evidence: apply(
            parameters["temperature"], evidence.logits))


def fit(evidence: base.Evidence) -> base.Fit:
  """The temperature of `fit_temperature` where it is an optimum, else one.

  At a bound of the range, or where the lowest temperature is about as likely,
  there is no optimum, and the bound says nothing about other images: divided by
  0.001, logits are as good as certain. So they are left as they are.

  Args:
    evidence: Logits and labels of examples that the model was not trained on.

  Returns:
    `temperature`; a note where it is no optimum and so left at one, where its
    95 % interval (`confidence_interval`) contains one, and where there are
    fewer images than classes.

  Raises:
    ValueError: See `fit_temperature`.
    TypeError: Labels that are not integers.
  """
  logits, labels, _ = examples.checked(evidence.logits, evidence.labels)
  fitted = fit_temperature(logits, labels)
  reason = without_optimum(fitted, logits, labels)
  if reason:
    return base.Fit({"temperature": 1.0}, (reason,))
  return base.Fit({"temperature": fitted}, tuple(
      _notes(fitted, logits, labels)))


def fit_temperature(
    logits: Float[AnyArray, "n k"],
    labels: Integer[AnyArray, "n"],
    *,
    weights: Values | None = None,
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

  Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
  Differs from the released code of the few-shot papers
  (ml-stat-Sustech/CLIP_Calibration @5b68fb1) in: the minimum is found exactly.
  There, the logarithm of 100 / T takes 20 epochs of SGD with momentum and
  weight decay from 100 / T = 100, in float16, of which the spacing at that
  value is 0.4 % of T.
  """
  logits, labels, weights = examples.checked(logits, labels, weights)

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
    temperature: float, logits: Float[AnyArray, "*n k"]
) -> Float[AnyArray, "*n k"]:
  """Logits divided by the temperature; no prediction changes.

  Args:
    temperature: Temperature above zero, from `fit_temperature`.
    logits: Unnormalised log-probabilities.

  Raises:
    ValueError: The temperature is not positive and finite.
  """
  if not 0 < temperature < np.inf:
    raise ValueError(
        f"expected a positive, finite temperature, got {temperature}.")
  return logits / temperature


def confidence_interval(
    temperature: float,
    logits: Float[AnyArray, "n k"],
    labels: Integer[AnyArray, "n"],
    *,
    level: float = _LEVEL,
) -> tuple[float, float]:
  r"""The temperatures that a likelihood-ratio test does not reject.

  .. math:: \Big\{T : 2 \sum_i \log \frac{\mathrm{softmax}(z_i / \hat T)_{y_i}}
      {\mathrm{softmax}(z_i / T)_{y_i}} \leq \chi^2_1(\mathrm{level})\Big\}

  It takes examples as independent and the scaled softmax as true. Unlike one
  from the curvature, it holds where the likelihood is lopsided, as it is with
  few errors or logits that tell little.

  Args:
    temperature: Temperature from `fit_temperature`.
    logits: Logits that it was fitted to.
    labels: Labels that it was fitted to.
    level: Probability that the interval covers the temperature, in (0, 1).

  Returns:
    Lower and upper end; that of `BOUNDS` where all beyond is not rejected.

  Raises:
    ValueError: See `fit_temperature`.
    TypeError: `labels` are not integers.
  """
  logits, labels, _ = examples.checked(logits, labels)
  least = _loss(logits, labels, 1 / temperature)

  def excess(log_scale):
    deviance = 2 * (_loss(logits, labels, np.exp(log_scale)) - least)
    return deviance - _quantile(level)

  from scipy import optimize
  best, ends = -np.log(temperature), []
  for bound in BOUNDS:
    edge = -np.log(bound)
    inside = excess(edge) <= 0
    ends.append(bound if inside else float(np.exp(-optimize.brentq(
        excess, min(edge, best), max(edge, best), xtol=1e-9))))
  return ends[0], ends[1]


def without_optimum(
    fitted: float,
    logits: Float[AnyArray, "n k"],
    labels: Integer[AnyArray, "n"],
) -> str:
  """Why the likelihood has no maximum in the range; empty if it has one.

  Args:
    fitted: Temperature from `fit_temperature`.
    logits: Logits that it was fitted to.
    labels: Labels that it was fitted to.
  """
  n, right = len(labels), int((logits.argmax(axis=1) == labels).sum())
  sharpest, flattest = (_loss(logits, labels, 1 / bound) for bound in BOUNDS)
  if fitted == 1 and sharpest == flattest:
    return (f"the likelihood of the {n} labels is the same at every "
            "temperature, as where all classes have the same logit: there is "
            "nothing to fit, and the temperature is left at 1")
  # An error by less than the range of temperatures shows is as good as none.
  if 2 * (sharpest - _loss(logits, labels, 1 / fitted)) <= _quantile(_LEVEL):
    seen = f"all {n} of {n}" if right == n else f"{right} of {n}"
    return (f"{seen} predictions are right, so that no temperature is likelier "
            f"than the lowest, {BOUNDS[0]:g}: there is no best one, and it is "
            "left at 1; fit to more labelled images, with some errors among "
            "them")
  if fitted == BOUNDS[1]:
    return (f"{right} of {n} predictions are right, and the logits of the "
            "labels are on average no higher than those of the other classes, "
            "so that no temperature is likelier than the highest, "
            f"{BOUNDS[1]:g}: there is no best one, and it is left at 1; fit to "
            "more labelled images, or see whether the labels are those of "
            "these images")
  return ""


def _notes(fitted, logits, labels):
  """What is to be known about a temperature that is applied."""
  n, k = logits.shape
  if n < k:
    absent = len(examples.without_images(labels, k))
    yield (f"it was fitted to {n} images, fewer than the {k} classes, of which "
           f"{absent} have no image; more labelled images would make it more "
           "reliable")
  gain = _loss(logits, labels, 1.0) - _loss(logits, labels, 1 / fitted)
  if 2 * gain <= _quantile(_LEVEL):
    low, high = confidence_interval(fitted, logits, labels)
    yield (f"1 lies within the {100 * _LEVEL:g} % interval of the temperature "
           f"{fitted:.3g}, [{low:.3g}, {high:.3g}]: these {n} images do not "
           "show that one is needed")


def _quantile(level):
  """Of the chi-squared distribution with one degree of freedom."""
  return statistics.NormalDist().inv_cdf((1 + level) / 2) ** 2


def _loss(logits, labels, scale):
  """Sum of the negative log-likelihoods at the scale 1 / T."""
  total = 0.
  for part in _blocks(logits):
    exponents = scale * _rest(logits[part], labels[part])
    highest = exponents.max(axis=1)
    sums = np.exp(exponents - highest[:, None]).sum(axis=1)
    total += (highest + np.log(sums)).sum()
  return total


def _rest(logits, labels):
  """From the label's logit, so that nothing large is subtracted at the end."""
  own = logits[np.arange(len(labels)), labels]
  return logits.astype(np.float64) - own[:, None]


def _blocks(logits):
  """Slices of the rows that are worked on at a time."""
  rows = max(1, _BLOCK // logits.shape[1])
  return [slice(first, first + rows) for first in range(0, len(logits), rows)]


def _slope(logits, labels, weights, scale):
  """Derivative of the weighted mean loss by the scale 1 / T.

  For one example: the mean logit under softmax(scale * logits), minus that of
  the label.
  """
  total = 0.
  for part in _blocks(logits):
    rest = _rest(logits[part], labels[part])
    exponents = scale * rest
    probs = np.exp(exponents - exponents.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    total += weights[part] @ (probs * rest).sum(axis=1)
  return total / weights.sum()
