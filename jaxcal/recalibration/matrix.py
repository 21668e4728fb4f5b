"""A matrix over the classes with a penalty: matrix scaling and Dirichlet maps.

Every class's new logit is a weighted sum of all logits, or of all
log-probabilities, and a shift. Weights between different classes and shifts are
penalised (off-diagonal and intercept regularisation, ODIR), or there would be
far more numbers than a few labelled images can tell.
"""

from collections.abc import Callable
import dataclasses

import numpy as np

from jaxcal.recalibration import base
from jaxcal.recalibration import examples
from jaxcal.recalibration import probabilities
from jaxcal.recalibration import temperature
from jaxcal.typing import AnyArray
from jaxcal.typing import Float
from jaxcal.typing import Integer

# Penalties of the weights between classes and of the shifts.
_PENALTY = 100.0
_SHIFT_PENALTY = 1.0

# Of the derivative of the penalised loss by any number, in units of `_units`:
# where it ends, and what is taken for an end after so many steps.
_TOLERANCE = 1e-8
_SMALL = 1e-4
_MAX_STEPS = 1000


@dataclasses.dataclass(frozen=True)
class Matrix:
  """Weighted sums of all logits, with a penalty; may change predictions.

  Attributes:
    penalty: Factor of the mean square of the weights between classes.
    shift_penalty: Factor of the mean square of the shifts.
  """

  penalty: float = _PENALTY
  shift_penalty: float = _SHIFT_PENALTY

  def recalibrator(self) -> base.Recalibrator:
    """`fit` and `apply` on logits without what all classes share."""
    return _recalibrator("matrix", centred, self.penalty, self.shift_penalty)


@dataclasses.dataclass(frozen=True)
class Dirichlet:
  """Weighted sums of log-probabilities, with a penalty; may change predictions.

  Attributes:
    penalty: Factor of the mean square of the weights between classes.
    shift_penalty: Factor of the mean square of the shifts.
  """

  penalty: float = _PENALTY
  shift_penalty: float = _SHIFT_PENALTY

  def recalibrator(self) -> base.Recalibrator:
    """`fit` and `apply` on log-probabilities."""
    return _recalibrator(
        "dirichlet", probabilities.logarithms, self.penalty, self.shift_penalty)


def _recalibrator(name, inputs, penalty, shift_penalty):
  return base.Recalibrator(
      name, keeps_prediction=False,
      fit=lambda evidence: fit(evidence, inputs, penalty, shift_penalty),
      apply=lambda parameters, evidence: (
          apply(inputs(evidence.logits), **parameters) if parameters
          else evidence.logits))


def centred(logits: Float[AnyArray, "*n k"]) -> Float[np.ndarray, "*n k"]:
  """Logits minus their mean over the classes, which tells nothing."""
  logits = np.asarray(logits, np.float64)
  return logits - logits.mean(axis=-1, keepdims=True)


def fit(
    evidence: base.Evidence,
    inputs: Callable[[Float[AnyArray, "n k"]], Float[np.ndarray, "n k"]],
    penalty: float,
    shift_penalty: float,
) -> base.Fit:
  """Weights and shifts of `fit_matrix`, where the penalised loss has a minimum.

  Args:
    evidence: Logits and labels of examples that the model was not trained on.
    inputs: Function from logits to what is summed.
    penalty: See `fit_matrix`.
    shift_penalty: See `fit_matrix`.

  Returns:
    `weight`, [k k], and `shift`, [k]; none where there is no minimum, as where
    all predictions are right. A note says so, or which classes have no image.

  Raises:
    ValueError: See `fit_matrix`.
    TypeError: Labels that are not integers.
  """
  logits, labels, _ = examples.checked(evidence.logits, evidence.labels)
  n, k = logits.shape
  found = fit_matrix(
      inputs(logits), labels, penalty=penalty, shift_penalty=shift_penalty)
  if found is None:
    return base.Fit({}, (
        f"the {n} images determine no weights, as where all predictions are "
        "right and no confidence is too high: logits are left as they are; fit "
        "to more labelled images, with some errors among them, or with a "
        "greater penalty",))
  absent = examples.without_images(labels, k)
  notes = () if not absent.size else (
      f"{len(absent)} of {k} classes have no image among the {n} fitted to: "
      "their shifts are set by the penalty alone",)
  return base.Fit(dict(zip(("weight", "shift"), found)), notes)


def fit_matrix(
    inputs: Float[np.ndarray, "n k"],
    labels: Integer[np.ndarray, "n"],
    *,
    penalty: float,
    shift_penalty: float,
) -> tuple[Float[np.ndarray, "k k"], Float[np.ndarray, "k"]] | None:
  r"""The weights and shifts with the least penalised loss.

  .. math:: \min_{W, b} -\frac{1}{n} \sum_i
      \log \mathrm{softmax}(W x_i + b)_{y_i}
      + \frac{\lambda}{k (k - 1)} \sum_{j \neq l} W_{jl}^2
      + \frac{\mu}{k} \sum_j b_j^2

  Args:
    inputs: Logits or log-probabilities of examples that the model was not
      trained on.
    labels: True classes.
    penalty: Factor lambda of the mean square of the weights between classes.
    shift_penalty: Factor mu of the mean square of the shifts.

  Returns:
    W and b; None where there is no minimum, or none is found in some thousand
    steps.

  Raises:
    ValueError: See `examples.checked`, or a penalty that is not above zero.

  Source: Kull et al., Beyond Temperature Scaling, NeurIPS 2019.
  Differs from the paper in: the penalties are given, not chosen by
  cross-validation; logits are centred first (`centred`).
  """
  if not (0 < penalty < np.inf and 0 < shift_penalty < np.inf):
    raise ValueError("penalties must be above zero and finite, but "
                     f"{penalty=} and {shift_penalty=}")
  inputs, labels, _ = examples.checked(inputs, labels)
  n, k = inputs.shape
  targets = np.eye(k)[labels]
  factors = np.full((k, k), penalty / max(k * (k - 1), 1))
  np.fill_diagonal(factors, 0)
  factors = np.concatenate([factors.ravel(), np.full(k, shift_penalty / k)])
  units = _units(inputs, factors)

  def loss(scaled):
    numbers = scaled * units
    found = apply(inputs, *_shaped(numbers, k))
    logs = probabilities.logarithms(found)
    residual = (np.exp(logs) - targets) / n
    gradient = np.concatenate(
        [(residual.T @ inputs).ravel(), residual.sum(axis=0)])
    value = -(logs * targets).sum() / n + factors @ numbers ** 2
    return value, (gradient + 2 * factors * numbers) * units

  from scipy import optimize
  start = np.concatenate([np.eye(k).ravel(), np.zeros(k)])
  best = optimize.minimize(
      loss, start / units, jac=True, method="L-BFGS-B",
      options={"maxiter": _MAX_STEPS, "maxfun": 2 * _MAX_STEPS, "maxcor": 30,
               "gtol": _TOLERANCE, "ftol": 0})
  weight, shift = _shaped(best.x * units, k)
  # Without a minimum, the likelihood grows with what is not penalised.
  free = inputs * np.diag(weight)
  if np.abs(best.jac).max() > _SMALL or temperature.without_optimum(
      temperature.fit_temperature(free, labels), free, labels):
    return None
  return weight, shift


def apply(
    inputs: Float[AnyArray, "*n k"],
    weight: Float[AnyArray, "k k"],
    shift: Float[AnyArray, "k"],
) -> Float[AnyArray, "*n k"]:
  """Weighted sums over the classes.

  Args:
    inputs: Logits or log-probabilities.
    weight: Weights; a row for each new logit.
    shift: Shift of each class.
  """
  return inputs @ weight.T + shift


def _units(inputs, factors):
  """Units in which the loss is about equally curved in all directions."""
  k = inputs.shape[1]
  curvature = np.broadcast_to((inputs ** 2).mean(axis=0) / k, (k, k)).ravel()
  return 1 / np.sqrt(np.concatenate(
      [curvature, np.full(k, 1 / k)]) + 2 * factors + 1e-12)


def _shaped(numbers, k):
  return numbers[:k * k].reshape(k, k), numbers[k * k:]
