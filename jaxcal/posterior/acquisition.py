"""Scores that say what would be learned from labelling an example.

Arrays of probabilities or logits go in, one score per example comes out, in
nats. Randomness enters as samples or as standard normal noise. Where a score is
the distance of two distributions it is summed from terms that cannot be
negative, so that float32 keeps the small ones.

Baumann et al., Post-hoc Probabilistic Vision-Language Models, ICLR 2026.
Houlsby et al., Bayesian Active Learning for Classification and Preference
Learning, 2011 (BALD).
Bickford Smith et al., Prediction-Oriented Bayesian Active Learning, AISTATS
2023 (EPIG).
"""

import math

import jax
import jax.numpy as jnp

from jaxcal.compiled import compiled
from jaxcal.compiled import compiled_with
from jaxcal.typing import AnyArray
from jaxcal.typing import Array
from jaxcal.typing import Float


@compiled
def entropy(probs: Float[AnyArray, "*n k"]) -> Float[Array, "*n"]:
  """Entropy of each distribution, in nats, in [0, log(k)].

  A class of probability zero contributes nothing.

  Differs from the released code in: no NaN where a probability underflows.
  """
  return jnp.sum(jax.scipy.special.entr(probs), axis=-1)


@compiled
def entropy_of_logits(logits: Float[AnyArray, "*n k"]) -> Float[Array, "*n"]:
  """Entropy of each softmax, in nats, in [0, log(k)]."""
  return entropy(jax.nn.softmax(logits))


@compiled
def bald(logits: Float[AnyArray, "*n s k"]) -> Float[Array, "*n"]:
  r"""Information that the label holds about the weights, in nats.

  .. math:: H(\bar p) - \frac{1}{S} \sum_s H(p_s)
            = \frac{1}{S} \sum_s KL(p_s \| \bar p)

  Computed as the mean divergence.

  Args:
    logits: Samples for each example.

  Returns:
    One score per example in [0, log(min(k, s))].

  Source: Houlsby et al. 2011, Eq. (2).
  Differs from the released code in: both terms see the same samples (see
  `bald_two_draws`), so the score is not negative.
  """
  mean, excess = _relative(jax.nn.softmax(logits))
  return jnp.sum(mean * jnp.mean(_divergence(excess), axis=-2), axis=-1)


@compiled
def bald_two_draws(
    logits: Float[AnyArray, "*n s k"], more_logits: Float[AnyArray, "*n s k"]
) -> Float[Array, "*n"]:
  """`bald` with separate samples for its two terms, in nats.

  Its noise is that of two independent averages, and it can be negative.

  Args:
    logits: Samples for the entropy of the mean prediction.
    more_logits: Samples for the mean entropy of a prediction.

  Differs from the released code in: no NaN where a probability underflows.
  """
  total = entropy(jnp.mean(jax.nn.softmax(logits), axis=-2))
  return total - jnp.mean(entropy_of_logits(more_logits), axis=-1)


@compiled_with("entries_per_block")
def epig(
    pool: Float[AnyArray, "n s k"],
    targets: Float[AnyArray, "t s k"],
    *,
    entries_per_block: int = 2**22,
) -> Float[Array, "n"]:
  r"""Information that a row's label holds about the targets' labels, in nats.

  .. math:: \frac{1}{T} \sum_t KL(\bar p_{xt} \| \bar p_x \bar p_t), \quad
            \bar p_{xt} = \frac{1}{S} \sum_s p_{xs} p_{ts}^T

  Sample s of the pool and of the targets must come from the same weights:
  their covariance is all that the score sees.

  Args:
    pool: Probabilities of the candidates.
    targets: Probabilities of the inputs whose predictions matter.
    entries_per_block: Joint probabilities, k squared for a pair, that are held
      at a time; those of one pair at least.

  Returns:
    One score per candidate in [0, log(min(k, s))].

  Raises:
    ValueError: No targets, or other samples or classes than the pool has.

  Source: Bickford Smith et al. 2023, Eq. (5).
  Differs from the released code in: samples of pool and targets share weights
  (see `epig_independent`); working precision of the arguments instead of
  float16; not negative.
  """
  if not len(targets):
    raise ValueError("EPIG needs one target at least, but there are none.")
  if pool.shape[1:] != targets.shape[1:]:
    raise ValueError(
        "samples and classes of the pool must be those of the targets, but "
        f"{pool.shape=} and {targets.shape=}.")
  num_samples, num_classes = pool.shape[1:]
  pairs = max(1, entries_per_block // num_classes**2)
  targets_per_block = min(len(targets), math.isqrt(pairs))
  rows_per_block = max(1, min(len(pool), pairs // targets_per_block))

  def information(row, target):
    (mean, excess), (target_mean, target_excess) = row, target
    joint = jnp.einsum("sk,sj->kj", excess, target_excess,
                       precision="highest") / num_samples
    return jnp.einsum("k,kj,j->", mean, _divergence(joint), target_mean,
                      precision="highest")

  prepared = _relative(targets)
  return jax.lax.map(
      lambda row: jnp.mean(jax.lax.map(
          lambda target: information(row, target), prepared,
          batch_size=targets_per_block)),
      _relative(pool), batch_size=rows_per_block)


@compiled
def epig_independent(
    pool_logits: Float[AnyArray, "n s k"],
    target_logits: Float[AnyArray, "t s k"],
) -> Float[Array, "n"]:
  """What the released code scores: `epig` of samples that share nothing.

  Where the two arguments are drawn independently the labels are independent,
  so the score of every row is zero but for the error of s samples: it falls
  like 1 / s, and what ranks is a measure of the logits' variance. For
  comparisons; `epig` is the one to use.

  Args:
    pool_logits: Samples of the candidates' logits.
    target_logits: Samples of the targets' logits, from other noise.

  Returns:
    One score per candidate, in nats.

  Raises:
    ValueError: See `epig`.

  Differs from the released code in: working precision of the arguments instead
  of float16; the noise is the caller's (released: one seed for both, so that
  row i of the pool and target i share theirs where their numbers agree).
  """
  return epig(jax.nn.softmax(pool_logits), jax.nn.softmax(target_logits))


def _relative(probs):
  """Mean over samples [.. k], and p / mean - 1 [.. s k] (0 for 0 / 0)."""
  mean = jnp.mean(probs, axis=-2, keepdims=True)
  possible = mean > jnp.finfo(mean.dtype).tiny
  excess = (probs - mean) / jnp.where(possible, mean, 1)
  return mean[..., 0, :], jnp.where(possible, excess, 0)


def _divergence(excess):
  """(1 + e) log(1 + e) - e for e >= -1: not negative, 0 at 0."""
  above = jnp.maximum(excess, -1)
  return jnp.maximum(jax.scipy.special.xlog1py(1 + above, above) - above, 0)
