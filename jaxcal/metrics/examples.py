"""What every metric does first: widths, weights and checks of its inputs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.compiled import compiled
from jaxcal.typing import AnyArray
from jaxcal.typing import Array
from jaxcal.typing import as_numpy
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Shaped
from jaxcal.typing import Values


def readable(x: Any) -> Array | np.ndarray:
  """A jax array, traced or not, as it is; anything else by `as_numpy`.

  Raises:
    TypeError: These are no numbers.
  """
  if isinstance(x, jax.Array):
    return x
  x = as_numpy(x)
  if x.dtype.kind not in "biuf":
    raise TypeError(f"numbers are needed, but the dtype is {x.dtype}.")
  return x


def as_array(x: Any) -> Array:
  """Numbers of any kind as a jax array; errors as for `readable`."""
  x = readable(x)
  # Moved, which compiles nothing; a copy, as JAX may look at it only later.
  return x if isinstance(x, jax.Array) else jax.device_put(np.array(x))


def example_weights(
    weights: Values | None, values: Float[Array, "n"]
) -> Float[Array, "n"]:
  """The weights of the examples, in the dtype of the values; ones if None.

  Raises:
    ValueError: As for `checked_weights`.
  """
  weights = checked_weights(weights, values)
  return _ones(values) if weights is None else _like(weights, values)


def checked_weights(
    weights: Values | None, values: Shaped[AnyArray, "n"]
) -> Shaped[Array, "n"] | None:
  """The weights of the examples as `as_array` has them; None as it is.

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
    return None
  weights = as_array(weights)
  if weights.shape != values.shape:
    raise ValueError(
        f"weights must be one per example, shape {values.shape}, but "
        f"{weights.shape=}.")
  if not is_traced(weights):
    concrete = np.asarray(weights)
    if not np.all((concrete >= 0) & np.isfinite(concrete)):
      raise ValueError("weights must be finite and not negative.")
  return weights


def check_probabilities(
    values: Float[AnyArray, "..."], *, name: str,
    weights: Shaped[AnyArray, "..."] | None = None) -> None:
  """Raises ValueError on a value outside [0, 1] or NaN, unless traced.

  A rounding excess of 1e-6 passes: sums of float32 probabilities make it.

  Args:
    values: Probabilities.
    name: Name of the argument.
    weights: Weights; values of weight zero may be anything.
  """
  if is_traced(values, weights) or values.size == 0:
    return
  concrete = _counted(values, weights)
  # Two numbers tell, where they are what they should be; NaN is either.
  if concrete.min() >= -1e-6 and concrete.max() <= 1 + 1e-6:
    return
  valid = (concrete >= -1e-6) & (concrete <= 1 + 1e-6)
  if not np.all(valid):
    raise ValueError(
        f"{name} must lie in [0, 1] (a fraction, not percent, and no NaN), but "
        f"{np.sum(~valid)} of {valid.size} values do not; the first is "
        f"{concrete[~valid][0]}.")


def check_hits(
    values: Values, *, name: str, way_out: str,
    weights: Shaped[AnyArray, "..."] | None = None) -> None:
  """Raises ValueError on a value that is neither 0 nor 1, unless traced.

  Args:
    values: Hits as numbers.
    name: Name of the argument.
    way_out: Way from class labels, a frequent mistake, to hits.
    weights: Weights; values of weight zero may be anything.
  """
  if is_traced(values, weights):
    return
  concrete = _counted(as_numpy(values), weights)
  wrong = (concrete != 0) & (concrete != 1)
  if np.any(wrong):
    raise ValueError(
        f"{name} must be hits, True or False (or 1 and 0), but "
        f"{concrete[wrong][0]:g} is among them; from class labels: {way_out}.")


def check_labels(
    labels: Int[Array | np.ndarray, "..."], num_classes: int) -> None:
  """Raises unless labels are integers in [0, num_classes), unless traced.

  Args:
    labels: Labels from `readable`; jax may cut those of numpy to 32 bits.
    num_classes: Number of classes.

  Raises:
    TypeError: The dtype is not an integer one (checked always).
    ValueError: A label is out of range.
  """
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    raise TypeError("labels must be integers, the positions of the classes, "
                    f"but {labels.dtype=}.")
  if not is_traced(labels) and labels.size:
    concrete = np.asarray(labels)
    least, greatest = concrete.min(), concrete.max()
    if not 0 <= least <= greatest < num_classes:
      raise ValueError(f"labels must lie in [0, {num_classes}), but they span "
                       f"[{least}, {greatest}].")


def is_traced(*arrays: Any) -> bool:
  """Whether JAX is tracing one, so that its values cannot be checked."""
  return any(isinstance(one, jax.core.Tracer) for one in arrays)


def _counted(values, weights):
  """Values on the host, where no program is compiled to look at them."""
  values = np.asarray(values)
  return values if weights is None else np.where(
      np.asarray(weights) > 0, values, np.zeros_like(values))


@compiled
def _ones(values):
  return jnp.ones_like(values)


@compiled
def _like(weights, values):
  return weights.astype(values.dtype)
