"""Cosines of unit-norm class features: what the text regularisers share.

Cosines are taken in float32 at least and at the highest matmul precision. The
regularisers look at small differences between cosines close to one, which
bfloat16 and TensorFloat-32 products would round away.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.compiled import compiled
from jaxcal.typing import Array
from jaxcal.typing import as_numpy
from jaxcal.typing import at_least_float32
from jaxcal.typing import Float

# How far from one a norm may be: features that were rounded to bfloat16, or
# normalised in it, are within half of it.
_TOLERANCE = 1e-2


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
    ValueError: See `check_class_features`.
  """
  check_class_features(features)
  return _cosine_matrix(features, diagonal)


def pair_cosines(features: Float[Array, "k d"]) -> Float[Array, "pairs"]:
  """Cosines of all pairs i < j of classes, k (k - 1) / 2 of them.

  Args:
    features: Unit-norm rows.

  Raises:
    ValueError: See `check_class_features`.
  """
  check_class_features(features)
  return _pair_cosines(features)


def paired_cosines(
    first: Float[Array, "k d"],
    second: Float[Array, "k d"],
) -> Float[Array, "k"]:
  """Cosine between each row and its partner, both of unit norm.

  Returns:
    Cosines in [-1, 1], float32 or wider.

  Raises:
    ValueError: The shapes differ, or see `check_class_features`.
  """
  check_class_features(first)
  check_class_features(second)
  if first.shape != second.shape:
    raise ValueError(
        f"features must come in pairs, but {first.shape=} and "
        f"{second.shape=}.")
  return _row_products(first, second)


def check_class_features(features: Float[Array, "k d"]) -> None:
  """Refuses what is no set of class features.

  Raises:
    ValueError: Features that are not [classes, dimensions], empty, or (where
      not traced) of another norm than one. What rounding to half precision does
      to a norm passes, up to 1 %.
  """
  if features.ndim != 2 or 0 in features.shape:
    raise ValueError(
        "features must be [classes, dimensions] (use jax.vmap for a batch), "
        f"but {features.shape=}.")
  if isinstance(features, jax.core.Tracer):
    return
  norms = np.linalg.norm(as_numpy(features).astype(float), axis=-1)
  wrong = ~(np.abs(norms - 1) <= _TOLERANCE)  # also where a norm is NaN
  if wrong.any():
    raise ValueError(
        f"features must be of unit norm, but {wrong.sum()} of {len(norms)} are "
        f"not; the first of them has norm {norms[wrong][0]:.4g}. Divide each "
        "by its norm.")


@compiled
def _cosine_matrix(features, diagonal):
  features = at_least_float32(features)
  products = jnp.matmul(
      features, features.T, precision=jax.lax.Precision.HIGHEST)
  return jnp.where(jnp.eye(features.shape[0], dtype=bool), diagonal, products)


@compiled
def _pair_cosines(features):
  similarity = cosine_matrix(features, diagonal=0.0)
  return similarity[np.triu_indices(len(similarity), k=1)]


@compiled
def _row_products(first, second):
  return jnp.sum(at_least_float32(first) * at_least_float32(second), axis=-1)
