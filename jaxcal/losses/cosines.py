"""Cosines of unit-norm class features: what the text regularisers share.

Cosines are taken in float32 at least and at the highest matmul precision. The
regularisers look at small differences between cosines close to one, which
bfloat16 and TensorFloat-32 products would round away.
"""

import jax
import jax.numpy as jnp

from jaxcal.typing import Array
from jaxcal.typing import at_least_float32
from jaxcal.typing import Float


def cosine_matrix(
    features: Float[Array, "k d"], *, diagonal: float) -> Float[Array, "k k"]:
  """Cosines between all classes, with a constant on the diagonal.

  The constant diagonal keeps the gradient free of the length of the features:
  at unit norm their own products are one and only pull along the feature.

  Args:
    features: Unit-norm rows.
    diagonal: What the product of a class with itself is replaced by.

  Returns:
    Symmetric matrix of cosines in [-1, 1], float32 or wider.

  Raises:
    ValueError: `features` is not [classes, dimensions].
  """
  check_class_features(features)
  features = at_least_float32(features)
  products = jnp.matmul(
      features, features.T, precision=jax.lax.Precision.HIGHEST)
  return jnp.where(jnp.eye(features.shape[0], dtype=bool), diagonal, products)


def paired_cosines(
    first: Float[Array, "k d"],
    second: Float[Array, "k d"],
) -> Float[Array, "k"]:
  """Cosine between each row and its partner, both of unit norm.

  Returns:
    Cosines in [-1, 1], float32 or wider.

  Raises:
    ValueError: The shapes differ or are not [classes, dimensions].
  """
  check_class_features(first)
  if first.shape != second.shape:
    raise ValueError(
        f"features must come in pairs, but {first.shape=} and "
        f"{second.shape=}.")
  return jnp.sum(at_least_float32(first) * at_least_float32(second), axis=-1)


def check_class_features(features: Float[Array, "k d"]) -> None:
  """Raises ValueError unless features are [classes, dimensions], not empty."""
  if features.ndim != 2 or 0 in features.shape:
    raise ValueError(
        "features must be [classes, dimensions] (use jax.vmap for a batch), "
        f"but {features.shape=}.")
