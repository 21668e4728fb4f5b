"""Split conformal prediction: a threshold of scores, and sets from it.

  own = jnp.take_along_axis(scores, labels[:, None], axis=-1)[:, 0]
  inside = prediction_sets(other_scores, threshold(own, alpha=0.1))

The sets cover the true class of at least a share 1 - alpha of further images,
on average over calibration images, if all are drawn alike and independently
and nothing that made the scores was fitted to the calibration images: no
prompt, adapter or temperature. The same function must score both.
"""

import fractions

import jax
import jax.numpy as jnp

from jaxcal.compiled import compiled_with
from jaxcal.typing import AnyArray
from jaxcal.typing import Array
from jaxcal.typing import at_least_float32
from jaxcal.typing import Bool
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Integer


def threshold_rank(num_scores: int, alpha: float) -> int:
  """Which of the scores, from the smallest, is the threshold.

  It is exact: alpha counts as the decimal number that it is printed as.

  Args:
    num_scores: Number of calibration images, n.
    alpha: Share of images whose class may be missed, in (0, 1).

  Returns:
    The least integer of at least (n + 1) * (1 - alpha); with n + 1, no score is
    high enough.

  Raises:
    ValueError: `alpha` is not in (0, 1).
  """
  return int(_rank(num_scores, _as_fraction(alpha)))


@compiled_with("alpha")
def threshold(
    scores: Float[AnyArray, "n"],
    alpha: float,
    *,
    where: Bool[AnyArray, "n"] | None = None,
) -> Float[Array, ""]:
  """The score up to which classes are in the set.

  Args:
    scores: Scores of the calibration images' own classes.
    alpha: Share of images whose class may be missed, in (0, 1); static.
    where: Calibration images; all if None. With it, splits of different sizes
      have one shape.

  Returns:
    The score of rank `threshold_rank`, infinite where there are too few: the
    sets are then full.

  Raises:
    ValueError: `alpha` is not in (0, 1), or has too many digits for exact
      integers of the width that JAX uses.
  """
  scores, share = at_least_float32(scores), _as_fraction(alpha)
  if where is None:
    rank = _rank(len(scores), share)
  else:
    scores = jnp.where(where, scores, jnp.inf)
    count = jnp.sum(where)
    _check_digits(alpha, share, len(scores), count.dtype)
    rank = _rank(count, share)
  # The rank is at most one more than there are scores.
  return jnp.append(jnp.sort(scores), jnp.inf)[rank - 1]


@compiled_with("alpha", "num_groups")
def group_thresholds(
    scores: Float[AnyArray, "n"],
    groups: Integer[AnyArray, "n"],
    alpha: float,
    *,
    num_groups: int,
    where: Bool[AnyArray, "n"] | None = None,
) -> Float[Array, "g"]:
  """`threshold` of each group of images by itself (Mondrian).

  With classes as groups, every class is covered (class-conditional); a class of
  fewer than (1 - alpha) / alpha calibration images is in every set.

  Args:
    scores: Scores of the calibration images' own classes.
    groups: Group of each calibration image.
    alpha: Share of images whose class may be missed, in (0, 1); static.
    num_groups: Number of groups.
    where: Calibration images; all if None.
  """
  members = jnp.asarray(groups)[None] == jnp.arange(num_groups)[:, None]
  if where is not None:
    members &= jnp.asarray(where)[None]
  return jax.vmap(
      lambda group: threshold(scores, alpha, where=group))(members)


@compiled_with("nonempty")
def prediction_sets(
    scores: Float[AnyArray, "m k"],
    thresholds: Float[AnyArray, ""] | Float[AnyArray, "k"],
    *,
    nonempty: bool = False,
) -> Bool[Array, "m k"]:
  """Which classes are in the set of each image.

  Args:
    scores: Scores of all classes.
    thresholds: Threshold, or one for each class: `thresholds[group_of_class]`
      of those of groups.
    nonempty: Whether a set without a class gets that of the lowest score.
      Coverage can only rise by it. Empty sets are not wrong: there are some
      where 1 - alpha is below the accuracy.
  """
  scores = at_least_float32(scores)
  inside = scores <= jnp.broadcast_to(jnp.asarray(thresholds), scores.shape)
  if not nonempty:
    return inside
  lowest = jnp.argmin(scores, axis=-1)[:, None] == jnp.arange(
      scores.shape[-1])[None]
  return inside | (lowest & ~inside.any(axis=-1, keepdims=True))


def _as_fraction(alpha) -> fractions.Fraction:
  if not 0 < alpha < 1:
    raise ValueError(f"expected alpha in (0, 1), such as 0.1, but {alpha=}")
  return fractions.Fraction(str(alpha))


def _rank(
    count: int | Int[Array, ""], share: fractions.Fraction
) -> int | Int[Array, ""]:
  total = count + 1
  return total - total * share.numerator // share.denominator


def _check_digits(alpha, share, most, dtype):
  needed = max((most + 1) * share.numerator, share.denominator)
  if needed > jnp.iinfo(dtype).max:
    raise ValueError(
        f"alpha={alpha} has too many digits for {most} images in integers of "
        f"{jnp.iinfo(dtype).bits} bits; round it, as to {alpha:.3g}")
