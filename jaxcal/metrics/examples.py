"""What every metric does first: widths, weights and checks of its inputs."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Int


def example_weights(
    weights: Float[Array, "n"] | None, values: Float[Array, "n"]
) -> Float[Array, "n"]:
  """The weights of the examples, in the dtype of the values; ones if None.

  Raises:
    ValueError: The values are not one per example, there is none, the weights
      have another shape, or one is negative or not finite (checked where the
      weights are not traced).
  """
  if values.ndim != 1 or values.size == 0:
    raise ValueError(
        "metrics take one value per example, shape (n,) with n > 0, but got "
        f"shape {values.shape}.")
  if weights is None:
    return jnp.ones_like(values)
  weights = jnp.asarray(weights)
  if weights.shape != values.shape:
    raise ValueError(
        f"weights must be one per example, shape {values.shape}, but "
        f"{weights.shape=}.")
  if not is_traced(weights):
    concrete = np.asarray(weights)
    if not np.all((concrete >= 0) & np.isfinite(concrete)):
      raise ValueError("weights must be finite and not negative.")
  return weights.astype(values.dtype)


def check_probabilities(
    values: Float[Array, "..."], *, name: str) -> None:
  """Raises ValueError on a value outside [0, 1] or NaN, unless traced.

  A rounding excess of 1e-6 passes: sums of float32 probabilities make it.
  """
  if is_traced(values):
    return
  concrete = np.asarray(values)
  valid = (concrete >= -1e-6) & (concrete <= 1 + 1e-6)
  if not np.all(valid):
    raise ValueError(
        f"{name} must lie in [0, 1] (a fraction, not percent, and no NaN), but "
        f"{np.sum(~valid)} of {valid.size} values do not; the first is "
        f"{concrete[~valid][0]}.")


def check_labels(labels: Int[Array, "..."], num_classes: int) -> None:
  """Raises unless labels are integers in [0, num_classes), unless traced.

  Raises:
    TypeError: The dtype is not an integer one (checked always).
    ValueError: A label is out of range.
  """
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    raise TypeError(f"labels must be integers, but {labels.dtype=}.")
  if is_traced(labels):
    return
  concrete = np.asarray(labels)
  if concrete.size and not 0 <= concrete.min() <= concrete.max() < num_classes:
    raise ValueError(
        f"labels must lie in [0, {num_classes}), but they span "
        f"[{concrete.min()}, {concrete.max()}].")


def is_traced(array: Array) -> bool:
  """Whether JAX is tracing, so that the values are not there to be checked."""
  return isinstance(array, jax.core.Tracer)
