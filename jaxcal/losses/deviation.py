"""Deviation of tuned features from their frozen originals (KgCoOp, DOR)."""

import jax
import jax.numpy as jnp

from jaxcal.compiled import compiled_after
from jaxcal.losses import cosines
from jaxcal.typing import Array
from jaxcal.typing import Float


def cosine_deviation(
    tuned: Float[Array, "k d"],
    frozen: Float[Array, "k d"],
) -> Float[Array, ""]:
  r"""One minus the mean cosine between tuned and frozen features.

  .. math:: 1 - \frac{1}{K} \sum_k \langle t_k, t^0_k \rangle

  Over the base classes it is the regulariser of KgCoOp, over outlier words the
  one of DOR.

  Args:
    tuned: Unit-norm features that are being learned.
    frozen: Unit-norm features to stay close to; not differentiated.

  Returns:
    Value in [0, 2]; zero where nothing moved.

  Raises:
    ValueError: The shapes differ or are not [classes, dimensions], or features
      (where not traced) are not of unit norm.

  Source: Yao et al., Visual-Language Prompt Tuning with Knowledge-Guided
  Context Optimization (KgCoOp), CVPR 2023; Dynamic Outlier Regularization
  (DOR), ICML 2025, arXiv 2410.02681.
  Differs from the released code in: the features are not normalised a second
  time.
  """
  cosines.check_class_features(frozen)
  return _deviation(tuned, frozen)


@compiled_after(cosines.check_class_features)
def _deviation(tuned, frozen):
  cosine = cosines.paired_cosines(tuned, jax.lax.stop_gradient(frozen))
  return (1 - jnp.mean(cosine)).astype(tuned.dtype)
