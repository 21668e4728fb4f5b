"""KgCoOp: a learned context whose class features stay near hand-written ones.

Yao et al., Visual-Language Prompt Tuning with Knowledge-Guided Context
Optimization (KgCoOp), CVPR 2023.
"""

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxcal import precision
from jaxcal.compiled import compiled
from jaxcal.losses import deviation
from jaxcal.tuning import coop
from jaxcal.tuning import method as method_lib
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Number


def method(
    *,
    logit_scale: Number,
    context: Float[Array, "m w"] | None = None,
    weight: Number = 8.0,
) -> method_lib.Method:
  """CoOp plus `weight` times the deviation from `Prompts.target`.

  Its parameters are CoOp's.

  Args:
    logit_scale: Factor of the cosines.
    context: Where it begins, as in `coop.method`; released with the vectors of
      "a photo of a".
    weight: Weight of one minus the mean cosine.

  Source: Yao et al. 2023.
  Differs from the released code in: no mixed precision, and none of its unused
  parts.
  """
  base = coop.method(logit_scale=logit_scale, context=context)
  return base._replace(
      loss=Partial(_loss, jnp.asarray(logit_scale), weight))


@compiled
@precision.highest
def _loss(scale, weight, params, prompts, batch):
  features = coop.text_features(params, prompts, batch.images)
  cross_entropy = coop.cross_entropy(
      scale * batch.images.features @ features.T, batch.labels)
  moved = deviation.cosine_deviation(features, prompts.target)
  return cross_entropy + weight * moved, {
      "cross_entropy": cross_entropy, "deviation": moved}
