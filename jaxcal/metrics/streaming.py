"""Binned calibration errors of data that come in parts.

A state holds sums per bin and nothing else: it is as large for a million
examples as for none, states of disjoint parts (batches, devices, files) merge
by addition, in any order, and what is computed from them is that of the whole.
Errors of parts must not be averaged; their states may be added.

Bins of equal mass have edges that only the whole data tell, so there are none
here. Sums are of JAX's default width: 64 bits where it is enabled.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcal.compiled import compiled
from jaxcal.metrics import binning
from jaxcal.metrics import calibration
from jaxcal.metrics import debiased
from jaxcal.metrics import examples
from jaxcal.metrics import scoring
from jaxcal.typing import Array
from jaxcal.typing import Float


class State(NamedTuple):
  """Sums over the examples so far.

  Attributes:
    predicted: Bins of the confidence in the predicted class.
    classes: Bins of the probability of each class, arrays [k bins].
  """

  predicted: binning.BinStatistics
  classes: binning.BinStatistics


class Computed(NamedTuple):
  """What the examples so far say.

  Attributes:
    accuracy: Share of the examples whose label is predicted.
    errors: All errors of the confidence in the predicted class.
    debiased: ECE less its bias, `debiased.debiased_calibration_error`.
    classwise: Errors of each class, whose mean is
      `calibration.classwise_calibration_error`.
  """

  accuracy: Float[Array, ""]
  errors: calibration.Errors
  debiased: Float[Array, ""]
  classwise: Float[Array, "k"]


class Stream(NamedTuple):
  """Functions of one convention of bins.

  Attributes:
    init: Function without arguments: the state of no examples.
    update: Function (state, probs, labels, weights=None) to the state with
      these examples, too; may be compiled, and given to `jax.lax.scan`.
    merge: Function of two states to that of both their examples.
    compute: Function of a state to `Computed`; all NaN or zero before the first
      example.
  """

  init: Callable[[], State]
  update: Callable[..., State]
  merge: Callable[[State, State], State]
  compute: Callable[[State], Computed]


def calibration_errors(
    num_classes: int, *, num_bins: int = 20, edges: str = "right") -> Stream:
  """Binned errors of the predicted class and of all classes, part by part.

  Args:
    num_classes: Number of classes, k.
    num_bins: Bins of equal width, at least one.
    edges: Edge that belongs to a bin, "right" or "left".

  Returns:
    Functions of states; `update` raises what
    `calibration.classwise_calibration_errors` does.

  Raises:
    ValueError: `num_classes` or `num_bins` is less than one, or `edges` is
      unknown.
  """
  if num_classes < 1:
    raise ValueError(f"num_classes must be at least one, but {num_classes=}.")
  of_bins: dict[str, Any] = {"num_bins": num_bins, "edges": edges}
  # Refuses what no later part could be binned by.
  binning.bin_statistics([0.5], [True], **of_bins)

  def init():
    empty = lambda *shape: binning.BinStatistics(
        *(jnp.zeros((*shape, num_bins)) for _ in range(3)))
    return State(empty(), empty(num_classes))

  def update(state, probs, labels, weights=None):
    probs, labels = examples.as_array(probs), examples.as_array(labels)
    if probs.ndim != 2 or probs.shape[1] != num_classes:
      raise ValueError(f"expected probs [examples, {num_classes}], but "
                       f"{probs.shape=}.")
    return _sum(state, State(
        binning.bin_statistics(
            scoring.top_probability(probs), scoring.correct(probs, labels),
            weights=weights, **of_bins),
        binning.classwise_bin_statistics(
            probs, labels, weights=weights, **of_bins)))

  return Stream(init, update, _sum, _computed)


@compiled
def _sum(first, second):
  """The state of both their examples, in the dtypes of the first."""
  return jax.tree.map(lambda a, b: a + b.astype(a.dtype), first, second)


@compiled
def _computed(state):
  count = jnp.sum(state.predicted.count)
  return Computed(
      jnp.sum(state.predicted.correct_sum) / count,
      calibration.errors_of(state.predicted),
      debiased.debiased_error(state.predicted),
      jax.vmap(calibration.calibration_error)(state.classes))
