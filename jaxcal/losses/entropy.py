"""Entropies of predictions, and the views that the entropy selects (TPT).

Shu et al., Test-Time Prompt Tuning for Zero-Shot Generalization in
Vision-Language Models, NeurIPS 2022.
"""

import jax
import jax.numpy as jnp

from jaxcal.compiled import compiled
from jaxcal.compiled import compiled_with
from jaxcal.typing import Array
from jaxcal.typing import Bool
from jaxcal.typing import Float
from jaxcal.typing import Int


@compiled
def prediction_entropy(logits: Float[Array, "*batch k"]) -> Float[
    Array, "*batch"]:
  r"""Entropy of each prediction, in nats.

  .. math:: H(p) = -\sum_k p_k \log p_k, \quad p = \mathrm{softmax}(z)

  Args:
    logits: Logits with any leading axes; classes last. A logit of minus
      infinity gives its class no mass; value and gradient stay finite.

  Returns:
    One entropy per prediction, in [0, log k].

  Raises:
    ValueError: There is no class axis, or it is empty.

  Source: Shu et al. 2022, confidence selection (azshue/TPT @63ecbac).
  Differs from the released code in: nothing for finite logits; a logit of minus
  infinity gives a number where the released code gives NaN.
  """
  log_probs = _log_probs(logits)
  return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)


@compiled
def marginal_entropy(
    logits: Float[Array, "v k"],
    *,
    where: Bool[Array, "v"] | None = None,
) -> Float[Array, ""]:
  r"""Entropy of the mean prediction over the views of one image, in nats.

  .. math:: H(\bar p) = -\sum_k \bar p_k \log \bar p_k, \quad
            \bar p = \frac{1}{|S|} \sum_{v \in S} \mathrm{softmax}(z_v)

  It is the entropy of the mean, not the mean of the entropies. Computed in log
  space: the gradient is finite where a class has no mass in any view.

  Args:
    logits: Logits, one row per view.
    where: The views S that enter the mean; all if None. The other rows have no
      influence on value or gradient, whatever they hold.

  Returns:
    Entropy in [0, log k]; NaN if `where` selects no view.

  Raises:
    ValueError: Wrong shapes, no view, or `where` is not boolean.

  Source: Shu et al. 2022, entropy of the averaged prediction (azshue/TPT
  @63ecbac).
  Differs from the released code in: log-probabilities are bounded below by the
  smallest number of the dtype before the mean over views, not after it, which
  gives the same value and a finite gradient.
  """
  _check_views(logits)
  num_views = logits.shape[0]
  if where is None:
    where = jnp.ones(num_views, bool)
  if where.shape != (num_views,) or where.dtype != bool:
    raise ValueError(
        f"where must be one boolean per view, shape ({num_views},), but "
        f"{where.shape=} and {where.dtype=}.")
  # Selected before the softmax, so that a row left out cannot bring in NaN.
  log_probs = _log_probs(jnp.where(where[:, None], logits, 0))
  log_count = jnp.log(jnp.sum(where).astype(log_probs.dtype))
  log_mean = jax.nn.logsumexp(
      log_probs, axis=0, where=where[:, None]) - log_count
  return -jnp.sum(jnp.exp(log_mean) * log_mean)


@compiled
def mean_entropy(
    logits: Float[Array, "v k"],
    *,
    where: Bool[Array, "v"] | None = None,
) -> Float[Array, ""]:
  r"""Mean entropy of the predictions of one image's views, in nats.

  .. math:: \frac{1}{|S|} \sum_{v \in S} H(p_v)

  It is at most the entropy of the mean (`marginal_entropy`), and also falls
  where the views grow certain of different classes.

  Args:
    logits: Logits, one row per view.
    where: The views S that enter the mean; all if None.

  Raises:
    ValueError: Wrong shapes, or no view.

  Source: Sheng et al., R-TPT: Improving Adversarial Robustness of
  Vision-Language Models through Test-Time Prompt Tuning, CVPR 2025
  (TomSheng21/R-TPT @e085f13).
  Differs from the released code in: nothing.
  """
  _check_views(logits)
  return jnp.mean(prediction_entropy(logits), where=where)


@compiled
def confidence_weighted_entropy(
    logits: Float[Array, "*batch k"], margin: float | Float[Array, ""]
) -> Float[Array, "*batch"]:
  r"""Entropy of each prediction, times how confident it is, in nats.

  .. math:: e^{m - H(p)} H(p)

  The factor is not differentiated.

  Args:
    logits: Logits with any leading axes; classes last.
    margin: Entropy m at which the factor is one.

  Source: Imam et al., Test-Time Low Rank Adaptation via Confidence
  Maximization for Zero-Shot Generalization of Vision-Language Models, WACV 2025
  (Razaimam45/TTL-Test-Time-Low-Rank-Adaptation @cc754df).
  Differs from the released code in: nothing.
  """
  entropy = prediction_entropy(logits)
  return jnp.exp(jax.lax.stop_gradient(margin - entropy)) * entropy


@compiled_with("fraction")
def confident_views(
    logits: Float[Array, "v k"], fraction: float) -> Bool[Array, "v"]:
  """Which views of one image have the lowest prediction entropies.

  They are those of `most_confident`.

  Args:
    logits: Logits, one row per view; the clean view competes with the others.
    fraction: Share of the views to keep, in (0, 1].

  Returns:
    True for the kept views.

  Raises:
    ValueError: `fraction` is outside (0, 1] or would keep no view.
  """
  kept = most_confident(logits, fraction)
  return jnp.zeros(logits.shape[0], bool).at[kept].set(True)


@compiled_with("fraction")
def most_confident(
    logits: Float[Array, "v k"], fraction: float) -> Int[Array, "s"]:
  """Positions of the views of lowest prediction entropy, by rising entropy.

  Exactly `int(v * fraction)` views are kept, by Python's product and floor (64
  views and 0.1 keep 6). Equal entropies are taken in the order of their index.
  The selection is not differentiated.

  Args:
    logits: Logits, one row per view; the clean view competes with the others.
    fraction: Share of the views to keep, in (0, 1].

  Raises:
    ValueError: `fraction` is outside (0, 1] or would keep no view.

  Source: Shu et al. 2022, confidence selection (azshue/TPT @63ecbac).
  Differs from the released code in: keeping no view raises, where the released
  code goes on with an empty mean (NaN); ties are resolved by index.
  """
  _check_views(logits)
  num_kept = num_confident(logits.shape[0], fraction)
  entropy = prediction_entropy(jax.lax.stop_gradient(logits))
  return jnp.argsort(entropy, stable=True)[:num_kept]


def num_confident(num_views: int, fraction: float) -> int:
  """How many views `most_confident` keeps.

  Raises:
    ValueError: `fraction` is outside (0, 1] or would keep no view.
  """
  if not 0 < fraction <= 1:
    raise ValueError(f"fraction must lie in (0, 1], but {fraction=}.")
  num_kept = int(num_views * fraction)
  if num_kept == 0:
    raise ValueError(
        f"{fraction=} of {num_views} views keeps none; use at least "
        f"{1 / num_views:.4g} or more views.")
  return num_kept


def _log_probs(logits):
  """Log-softmax over classes, bounded below so that 0 log 0 is 0, not NaN."""
  if logits.ndim == 0 or logits.shape[-1] == 0:
    raise ValueError(f"logits must end in a class axis, but {logits.shape=}.")
  log_probs = jax.nn.log_softmax(logits)
  return jnp.maximum(log_probs, jnp.finfo(log_probs.dtype).min)


def _check_views(logits):
  if logits.ndim != 2 or logits.shape[0] == 0:
    raise ValueError(
        "logits must be [views, classes] of one image (use jax.vmap for a "
        f"batch), but {logits.shape=}.")
