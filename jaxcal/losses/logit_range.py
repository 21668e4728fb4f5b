"""Range of a prediction's logits against that of a reference (SaLS).

Murugesan et al., Robust Calibration of Large Vision-Language Adapters, ECCV
2024: adapted logits spread further than zero-shot logits, and that makes them
over-confident.
"""

import jax
import jax.numpy as jnp

from jaxcal.compiled import compiled
from jaxcal.typing import Array
from jaxcal.typing import Float


@compiled
def match_range(
    logits: Float[Array, "*batch k"],
    reference_logits: Float[Array, "*batch k"],
) -> Float[Array, "*batch k"]:
  r"""Logits moved and scaled to the least and greatest reference logit.

  .. math:: R(l) = \frac{l - \min l}{\max l - \min l}
            (\max l^0 - \min l^0) + \min l^0

  Order and prediction stay. After training it is SaLS; within the cross-entropy
  of training it is ZS-Norm, whose gradient flows through the least and greatest
  logit.

  Args:
    logits: Logits with any leading axes; classes last.
    reference_logits: Zero-shot logits of the same images and classes; not
      differentiated.

  Returns:
    Logits with the reference's least and greatest value. All equal to the least
    one, with a zero gradient, where all logits are the same.

  Raises:
    ValueError: The shapes differ, or there is no class axis.

  Source: Murugesan et al. 2024, sample-adaptive logit scaling
  (Bala93/CLIPCalib).
  Differs from the released code in: equal logits give no NaN.
  """
  least, greatest = _range(logits, reference_logits)
  low, high = (f(logits, axis=-1, keepdims=True) for f in (jnp.min, jnp.max))
  spread = high > low
  # The quotient never sees a zero.
  share = jnp.where(
      spread, (logits - low) / jnp.where(spread, high - low, 1), 0)
  return (1 - share) * least + share * greatest


@compiled
def range_excess(
    logits: Float[Array, "*batch k"],
    reference_logits: Float[Array, "*batch k"],
) -> Float[Array, "*batch"]:
  r"""How far logits lie outside the range of a reference, mean over classes.

  .. math:: \frac{1}{K} \sum_k \mathrm{relu}(l_k - \max l^0)
            + \mathrm{relu}(\min l^0 - l_k)

  The regulariser of Penalty, which adds ten times its mean over the batch to
  the cross-entropy.

  Args:
    logits: Logits with any leading axes; classes last.
    reference_logits: Zero-shot logits of the same images and classes; not
      differentiated.

  Returns:
    Values of at least zero, in the unit of the logits.

  Raises:
    ValueError: The shapes differ, or there is no class axis.

  Source: Murugesan et al. 2024 (Bala93/CLIPCalib).
  Differs from the released code in: the mean over the batch is the caller's.
  """
  least, greatest = _range(logits, reference_logits)
  excess = jax.nn.relu(logits - greatest) + jax.nn.relu(least - logits)
  return jnp.mean(excess, axis=-1)


def _range(logits, reference_logits):
  """Least and greatest reference logit, as constants."""
  if logits.shape != reference_logits.shape or 0 in logits.shape[-1:] + (
      logits.ndim,):
    raise ValueError(
        "logits and reference logits must be of the same images and classes, "
        f"but {logits.shape=} and {reference_logits.shape=}.")
  reference = jax.lax.stop_gradient(reference_logits)
  return (jnp.min(reference, axis=-1, keepdims=True),
          jnp.max(reference, axis=-1, keepdims=True))
