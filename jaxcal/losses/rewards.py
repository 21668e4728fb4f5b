"""Likelihoods of sampled classes, weighted by what another model makes of them.

Zhao et al., Test-Time Adaptation with CLIP Reward for Zero-Shot Generalization
in Vision-Language Models, ICLR 2024 (RLCF).
"""

import jax
import jax.numpy as jnp

from jaxcal.compiled import compiled_with
from jaxcal.typing import Array
from jaxcal.typing import Bool
from jaxcal.typing import Float

# The weight of CLIPScore.
_SCALE = 2.5


@compiled_with("num_sampled")
def reward_weighted_likelihood(
    logits: Float[Array, "v k"],
    cosines: Float[Array, "v k"],
    *,
    num_sampled: int = 3,
    where: Bool[Array, "v"] | None = None,
) -> Float[Array, ""]:
  r"""Mean negative log-likelihood of the top classes, each times its reward.

  .. math:: -\frac{1}{|S| n} \sum_{v \in S} \sum_{c \in C_v}
            r_{vc} \log p_v(c), \quad
            r_{vc} = \max(0, 2.5 \cos_{vc}) - \mathrm{mean}_{c' \in C_v}

  C_v are the n classes of the highest logits of a view, of which the lowest
  index comes first among equals. Neither they nor the rewards are
  differentiated.

  Args:
    logits: Logits, one row per view.
    cosines: Cosines of the views with the classes, by the model that rewards.
    num_sampled: Number n of classes, from 2: a single one has no reward.
    where: The views S; all if None.

  Raises:
    ValueError: More classes to be sampled than there are, or fewer than two.

  Source: mzhaoshuai/RLCF @0996a5d.
  Differs from the released code in: nothing.
  """
  num_classes = logits.shape[-1]
  if not 2 <= num_sampled <= num_classes:
    raise ValueError(f"num_sampled must lie between 2 and the number of "
                     f"classes, {num_classes}, got {num_sampled}")
  _, sampled = jax.lax.top_k(jax.lax.stop_gradient(logits), num_sampled)
  of_sampled = lambda x: jnp.take_along_axis(x, sampled, axis=-1)
  scores = jnp.maximum(0, _SCALE * of_sampled(cosines))
  rewards = jax.lax.stop_gradient(
      scores - jnp.mean(scores, axis=-1, keepdims=True))
  likelihood = of_sampled(jax.nn.log_softmax(logits))
  return -jnp.mean(jnp.mean(rewards * likelihood, axis=-1), where=where)
