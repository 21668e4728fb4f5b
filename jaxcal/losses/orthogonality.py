"""Orthogonality of the class features (O-TPT, SoC).

Sharifdeen et al., O-TPT: Orthogonality Constraints for Calibrating Test-time
Prompt Tuning in Vision-Language Models, CVPR 2025. SoC: Semantic Orthogonal
Calibration (github.com/leofillioux/SoC).

All are to be minimised, cost O(k^2) memory, and give zero with a zero gradient
for a single class. S is the matrix of cosines between the class features. The
gradient has no part along a feature itself: such a part is lost in the
normalisation that made the features unit-norm.
"""

import jax
import jax.numpy as jnp

from jaxcal.compiled import compiled
from jaxcal.compiled import compiled_after
from jaxcal.losses import cosines
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Number


@compiled_after(cosines.check_class_features)
def householder_orthogonality(
    text_features: Float[Array, "k d"]) -> Float[Array, ""]:
  r"""Orthogonality by reflections, O-TPT as released: mean excess row norm.

  .. math:: \frac{1}{K} \sum_i (\lVert S_i \rVert_2 - 1)

  The released program reflects every row S_i onto the i-th axis with its own
  Householder matrix and measures how far the result is from the unit vector.
  The reflected row is the norm of S_i times that vector by construction, so the
  K matrices [K, K] are not needed.

  Args:
    text_features: Unit-norm class features.

  Returns:
    Value in [0, sqrt(k) - 1]; zero for orthogonal features.

  Raises:
    ValueError: `text_features` is not [classes, dimensions], or (where not
      traced) not of unit norm.

  Source: Sharifdeen et al. 2025, as released (ashshaksharifdeen/O-TPT
  @a09933f).
  Differs from the released code in: closed form, equal up to rounding.
  """
  similarity = cosines.cosine_matrix(text_features, diagonal=0.0)
  squared = jnp.sum(jnp.square(similarity), axis=-1)
  # sqrt(1 + x) - 1 without the cancellation for small x.
  excess = squared / (jnp.sqrt(1 + squared) + 1)
  return jnp.mean(excess).astype(text_features.dtype)


@compiled_after(cosines.check_class_features)
def full_orthogonality(text_features: Float[Array, "k d"]) -> Float[Array, ""]:
  r"""Orthogonality as O-TPT was published: squared distance of S from identity.

  .. math:: \lVert S - I \rVert_F^2 = \sum_{i \ne j} s_{ij}^2

  Args:
    text_features: Unit-norm class features.

  Returns:
    Value in [0, k (k - 1)]; zero for orthogonal features.

  Raises:
    ValueError: `text_features` is not [classes, dimensions], or (where not
      traced) not of unit norm.

  Source: Sharifdeen et al. 2025, as published.
  Differs from the released code in: the released program never computes it; see
  `householder_orthogonality`.
  """
  similarity = cosines.cosine_matrix(text_features, diagonal=0.0)
  return jnp.sum(jnp.square(similarity)).astype(text_features.dtype)


def semantic_orthogonality(
    text_features: Float[Array, "k d"], *, delta: Number) -> Float[Array, ""]:
  r"""Semantic orthogonality (SoC): mean Huber loss of the pairwise cosines.

  .. math:: \frac{2}{K (K - 1)} \sum_{i < j} \mathrm{Huber}(s_{ij}; \delta)

  Args:
    text_features: Unit-norm class features.
    delta: Cosine from which the pull is constant, in (0, 1].

  Returns:
    Value in [0, 1/2].

  Raises:
    ValueError: `text_features` is not [classes, dimensions], or (where not
      traced) not of unit norm, or `delta` is outside (0, 1].

  Source: SoC as published, with a constant delta.
  Differs from the released code in: could not be compared with one. The
  published rule names the positive side only; negative cosines are treated
  alike here, see `huber`.
  """
  if not isinstance(delta, jax.core.Tracer) and not 0 < delta <= 1:
    raise ValueError(f"delta must lie in (0, 1], but {delta=}.")
  return _semantic_orthogonality(text_features, delta)


def quantile_semantic_orthogonality(
    text_features: Float[Array, "k d"],
    *,
    quantile: Number = 0.2,
) -> Float[Array, ""]:
  """Semantic orthogonality (SoC) with delta taken from the cosines themselves.

  The pairwise cosines are scaled to [0, 1] by their least and greatest value,
  through which the gradient flows; delta is a quantile of the scaled values,
  linearly interpolated and held constant; the result is their mean Huber loss.
  The weight that belongs to it is `entropy_proportional_weight`.

  Args:
    text_features: Unit-norm class features.
    quantile: Quantile that becomes delta, in [0, 1].

  Returns:
    Value in [0, 1/2]. Zero with a zero gradient for fewer than three classes:
    one pair has no range to be scaled by.

  Raises:
    ValueError: `text_features` is not [classes, dimensions], or (where not
      traced) not of unit norm, or `quantile` is outside [0, 1].

  Source: SoC as found among the baselines of CoTS (yuweiliang911/CoTS
  @104997f).
  Differs from the released code in: nothing.
  """
  if not isinstance(quantile, jax.core.Tracer) and not 0 <= quantile <= 1:
    raise ValueError(f"quantile must lie in [0, 1], but {quantile=}.")
  return _quantile_semantic_orthogonality(text_features, quantile)


@compiled
def entropy_proportional_weight(
    coefficient: Number,
    entropy: Float[Array, ""],
    regulariser: Float[Array, ""],
) -> Number:
  """Weight that makes a regulariser worth `coefficient` times the entropy.

  Neither argument is differentiated, so the weight acts as a number. It goes
  with `quantile_semantic_orthogonality`.

  Returns:
    coefficient * entropy / (regulariser + 1e-12).

  Source: as in the CoTS baselines, see `quantile_semantic_orthogonality`.
  Differs from the released code in: nothing.
  """
  entropy = jax.lax.stop_gradient(entropy)
  return coefficient * entropy / (jax.lax.stop_gradient(regulariser) + 1e-12)


@compiled
def huber(
    values: Float[Array, "*shape"],
    delta: float | Float[Array, "*#shape"],
) -> Float[Array, "*shape"]:
  r"""Huber loss of each value: quadratic up to delta, linear beyond.

  .. math:: x^2 / 2 \text{ if } |x| \le \delta, \quad
            \delta (|x| - \delta / 2) \text{ otherwise}

  Two-sided: the slope stays within plus and minus delta. A rule for positive
  values alone would leave strongly negative cosines a pull that grows without
  that bound.
  """
  size = jnp.abs(values)
  linear = delta * (size - delta / 2)
  return jnp.where(size <= delta, jnp.square(values) / 2, linear)


@compiled_after(cosines.check_class_features)
def _semantic_orthogonality(text_features, delta):
  values = _mean(huber(cosines.pair_cosines(text_features), delta))
  return values.astype(text_features.dtype)


@compiled_after(cosines.check_class_features)
def _quantile_semantic_orthogonality(text_features, quantile):
  pairs = cosines.pair_cosines(text_features)
  if pairs.size < 2:
    return jnp.zeros((), text_features.dtype)
  least = jnp.min(pairs, keepdims=True)
  greatest = jnp.max(pairs, keepdims=True)
  scaled = (pairs - least) / (greatest - least + 1e-12)
  delta = jnp.quantile(jax.lax.stop_gradient(scaled), quantile, keepdims=True)
  return _mean(huber(scaled, delta)).astype(text_features.dtype)


def _mean(values):
  """Mean over the pairs, zero where a single class leaves no pair."""
  return jnp.sum(values) / max(values.size, 1)
