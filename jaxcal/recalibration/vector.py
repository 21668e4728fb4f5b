"""Vector scaling: each class's logit is scaled and shifted, as labels tell."""

import dataclasses

import numpy as np

from jaxcal.recalibration import base
from jaxcal.recalibration import examples
from jaxcal.recalibration import probabilities
from jaxcal.recalibration import temperature
from jaxcal.typing import AnyArray
from jaxcal.typing import Float
from jaxcal.typing import Integer

_MAX_STEPS = 50
# Of the last step, in the unit of logits; the steps shrink quadratically.
_TOLERANCE = 1e-7


@dataclasses.dataclass(frozen=True)
class Vector:
  """A scale and a shift for each class; may change predictions."""

  def recalibrator(self) -> base.Recalibrator:
    """`fit` and `apply` of this module."""
    return base.Recalibrator(
        "vector", fit=fit, keeps_prediction=False,
        apply=lambda parameters, evidence: apply(
            evidence.logits, **parameters))


def fit(evidence: base.Evidence) -> base.Fit:
  """Scales and shifts of `fit_vector`, where the likelihood has a maximum.

  Args:
    evidence: Logits and labels of examples that the model was not trained on.

  Returns:
    `scale` and `shift`, a number for each class; none where the likelihood has
    no single maximum, as with classes without images. A note says so, or that
    there are fewer images than numbers.

  Raises:
    ValueError: See `examples.checked`.
    TypeError: Labels that are not integers.
  """
  logits, labels, _ = examples.checked(evidence.logits, evidence.labels)
  n, k = logits.shape
  absent = examples.without_images(labels, k)
  if absent.size:
    return base.Fit({}, (
        f"{len(absent)} of {k} classes have no image among the {n} fitted to, "
        "so that no shift of theirs is low enough: there is no best one, and "
        "logits are left as they are; fit to images of every class",))
  found = fit_vector(logits, labels)
  if found is None:
    return base.Fit({}, (
        f"the {n} images determine no scale and shift of each of {k} classes, "
        "as where some class is told apart without an error: logits are left "
        "as they are; fit to more labelled images",))
  notes = () if n >= 2 * k else (
      f"it has {2 * k} numbers, but was fitted to {n} images; more labelled "
      "images would make it more reliable",)
  return base.Fit(dict(zip(("scale", "shift"), found)), notes)


def fit_vector(
    logits: Float[AnyArray, "n k"], labels: Integer[AnyArray, "n"]
) -> tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"]] | None:
  r"""The scales and shifts with the least negative log-likelihood.

  .. math:: \min_{a, b} -\frac{1}{n} \sum_i
      \log \mathrm{softmax}(a \odot z_i + b)_{y_i}

  It is convex; by Newton's method in float64, so that ill-conditioned logits,
  as those of CLIP with their large common part are, do no harm.

  Args:
    logits: Unnormalised log-probabilities of examples that the model was not
      trained on.
    labels: True classes.

  Returns:
    Scales and shifts, which sum to zero; None where the likelihood has no
    single maximum.

  Raises:
    ValueError: See `examples.checked`.
    TypeError: `labels` are not integers.

  Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
  """
  logits, labels, _ = examples.checked(logits, labels)
  k = logits.shape[1]
  mean = logits.mean(axis=0, dtype=np.float64)
  spread = logits.std(axis=0, dtype=np.float64)
  if not spread.all():
    return None  # a scale and a shift would do the same
  inputs = (logits - mean) / spread
  targets = np.eye(k)[labels]
  # Of the standardised logits; at first all have one temperature.
  numbers = np.concatenate(
      [spread, mean - mean.mean()]) / temperature.fit_temperature(
          logits, labels)
  for _ in range(_MAX_STEPS):
    step = _newton_step(numbers, inputs, targets)
    if step is None:
      return None
    numbers = numbers + _damping(numbers, step, inputs, labels) * step
    if np.abs(_logits(step, inputs)).max() < _TOLERANCE:
      scale = numbers[:k] / spread
      shift = numbers[k:] - scale * mean
      return scale, shift - shift.mean()
  return None


def apply(
    logits: Float[AnyArray, "*n k"],
    scale: Float[AnyArray, "k"] | None = None,
    shift: Float[AnyArray, "k"] | None = None,
) -> Float[AnyArray, "*n k"]:
  """Logits scaled and shifted class by class.

  Args:
    logits: Unnormalised log-probabilities.
    scale: Scale of each class; logits are left as they are if None.
    shift: Shift of each class, which goes with it.
  """
  if scale is None or shift is None:
    return logits
  return np.asarray(logits, np.float64) * scale + shift


def _logits(numbers, inputs):
  scale, shift = np.split(numbers, 2)
  return inputs * scale + shift


def _loss(numbers, inputs, labels):
  logs = probabilities.logarithms(_logits(numbers, inputs))
  return -logs[np.arange(len(labels)), labels].mean()


def _newton_step(numbers, inputs, targets):
  """To the minimum of the quadratic approximation; None without a single one.

  The Hessian in blocks, since it is made of products of [n k] with itself.
  """
  n, k = inputs.shape
  probs = probabilities.of_logits(_logits(numbers, inputs))
  weighted = probs * inputs
  gradient = np.concatenate([
      ((probs - targets) * inputs).sum(axis=0), (probs - targets).sum(axis=0)])
  corner = np.diag(weighted.sum(axis=0)) - weighted.T @ probs
  hessian = np.block([
      [np.diag((weighted * inputs).sum(axis=0)) - weighted.T @ weighted,
       corner],
      # One shift for all classes changes nothing: it is kept at zero.
      [corner.T, np.diag(probs.sum(axis=0)) - probs.T @ probs + n / k ** 2]])
  from scipy import linalg
  try:
    return -linalg.cho_solve(linalg.cho_factor(hessian), gradient)
  except linalg.LinAlgError:
    return None


def _damping(numbers, step, inputs, labels):
  """The first of 1, 1/2, 1/4, ... by which the loss does not grow."""
  before, factor = _loss(numbers, inputs, labels), 1.0
  while factor > 1e-6 and not _loss(
      numbers + factor * step, inputs, labels) <= before + 1e-14:
    factor /= 2
  return factor
