"""Dispersion of the class features around their centroid (C-TPT).

Yoon et al., C-TPT: Calibrated Test-Time Prompt Tuning for Vision-Language
Models via Text Feature Dispersion, ICLR 2024.
"""

import jax.numpy as jnp

from jaxcal.compiled import compiled_after
from jaxcal.losses import cosines
from jaxcal.typing import Array
from jaxcal.typing import Float


@compiled_after(cosines.check_class_features)
def text_dispersion(text_features: Float[Array, "k d"]) -> Float[Array, ""]:
  r"""Mean Euclidean distance of the class features to their centroid.

  .. math:: \frac{1}{K} \sum_k \lVert t_k - \bar t \rVert_2, \quad
            \bar t = \frac{1}{K} \sum_k t_k

  C-TPT maximises it: subtract it from the loss, times its weight. The centroid
  is not normalised again and takes part in the gradient.

  Args:
    text_features: Unit-norm class features.

  Returns:
    Distance in [0, 1], greatest for features that sum to zero. Zero with a zero
    gradient for one class, and for a class that lies on the centroid.

  Raises:
    ValueError: `text_features` is not [classes, dimensions], or (where not
      traced) not of unit norm.

  Source: Yoon et al. 2024 (hee-suk-yoon/C-TPT @085e6c2).
  Differs from the released code in: nothing.
  """
  centroid = jnp.mean(text_features, axis=0, keepdims=True)
  squared = jnp.sum(jnp.square(text_features - centroid), axis=-1)
  # The root has no finite slope at zero, so it never sees one.
  apart = squared > 0
  distances = jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1)), 0)
  return jnp.mean(distances)
