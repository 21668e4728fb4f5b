"""Angles between neighbouring class features (A-TPT)."""

import jax.numpy as jnp

from jaxcal.compiled import compiled_after
from jaxcal.losses import cosines
from jaxcal.typing import Array
from jaxcal.typing import Float


@compiled_after(cosines.check_class_features)
def nearest_angle(text_features: Float[Array, "k d"]) -> Float[Array, ""]:
  r"""Mean angle between each class and its nearest other class, in radians.

  .. math:: \frac{1}{K} \sum_i \min_{j \ne i}
            \arccos(\mathrm{clip}(s_{ij}, \pm 0.99999))

  A-TPT maximises it: subtract it from the loss, times its weight. A class only
  feels its nearest neighbour, and no pull at all from one closer than the clip
  (about 0.0045 rad), a duplicate for instance.

  Args:
    text_features: Unit-norm class features.

  Returns:
    Angle in [0.0045, 3.1371]; zero with a zero gradient for one class, which
    has no neighbour.

  Raises:
    ValueError: `text_features` is not [classes, dimensions], or (where not
      traced) not of unit norm.

  Source: A-TPT, angular diversity (MB-Shihab-Aaqil-Ahamed/A-TPT @d76ecf6).
  Differs from the released code in: the features are not normalised a second
  time; equally near neighbours share the gradient; the sign is left to the
  caller, since the released programs disagree on it.
  """
  similarity = cosines.cosine_matrix(text_features, diagonal=-1.0)
  if text_features.shape[0] == 1:
    return jnp.zeros((), text_features.dtype)
  nearest = jnp.clip(jnp.max(similarity, axis=-1), -0.99999, 0.99999)
  return jnp.mean(jnp.arccos(nearest)).astype(text_features.dtype)
