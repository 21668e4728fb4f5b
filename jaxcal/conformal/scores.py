"""Nonconformity scores: how strange each class would be for an image.

From probabilities of all classes to a score for each; high is strange. Ranks
count from one, the likeliest class first and equal ones by their position.

All but `least_ambiguous` may be randomised. Then one number for each image,
uniform on [0, 1) and independent of all else, says how much of a class' own
mass its score lacks: mass - u P. Sources differ in this; with 1 - u for u, the
sets have the same law. Without randomisation all of it counts (u = 0), scores
pile up at one, and sets are several times as large and decided by rounding.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp

from jaxcal.compiled import compiled
from jaxcal.typing import AnyArray
from jaxcal.typing import Array
from jaxcal.typing import at_least_float32
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Number

# Of log-probabilities of all classes and one uniform number for each image, in
# which each is linear: see `linear`.
Score = Callable[
    [Float[Array, "*n k"], Float[Array, "*n"]], Float[Array, "*n k"]]


class Linear(NamedTuple):
  """Scores of all classes as `start` less a uniform number times `slope`."""
  start: Float[Array, "*n k"]
  slope: Float[Array, "*n k"]


class _Ranked(NamedTuple):
  """Ranks of classes, and the mass of the classes up to and with each."""
  rank: Int[Array, "*n k"]
  mass: Float[Array, "*n k"]


@compiled
def least_ambiguous(
    probabilities: Float[AnyArray, "*n k"]) -> Float[Array, "*n k"]:
  """LAC, also called THR: one minus the probability; the smallest sets.

  Args:
    probabilities: Probabilities of all classes.

  Source: Sadinle et al., Least Ambiguous Set-Valued Classifiers with Bounded
  Error Levels, JASA 2019.
  """
  return 1 - at_least_float32(probabilities)


@compiled
def adaptive(
    probabilities: Float[AnyArray, "*n k"],
    uniforms: Float[AnyArray, "*n"] | None = None,
) -> Float[Array, "*n k"]:
  """APS: mass of the classes that are at least as likely.

  Args:
    probabilities: Probabilities of all classes.
    uniforms: Uniform numbers, see the module; not randomised if None.

  Raises:
    ValueError: There is not one uniform number per image.

  Source: Romano et al., Classification with Valid and Adaptive Coverage,
  NeurIPS 2020.
  """
  probabilities = at_least_float32(probabilities)
  uniforms = _uniforms(uniforms, probabilities)
  return _ranked(probabilities).mass - uniforms * probabilities


@compiled
def regularised_adaptive(
    probabilities: Float[AnyArray, "*n k"],
    uniforms: Float[AnyArray, "*n"] | None = None,
    *,
    penalty: Number = 0.001,
    free_rank: int | Int[Array, ""] = 1,
) -> Float[Array, "*n k"]:
  """RAPS: APS and a penalty on ranks, against long tails of unlikely classes.

  Args:
    probabilities: Probabilities of all classes.
    uniforms: Uniform numbers, see the module; not randomised if None.
    penalty: Penalty of each rank beyond the free ones.
    free_rank: Last rank without a penalty.

  Raises:
    ValueError: There is not one uniform number per image.

  Source: Angelopoulos et al., Uncertainty Sets for Image Classifiers using
  Conformal Prediction, ICLR 2021. The defaults are those of Conf-OT. Differs
  from Algorithm 3 there in: the randomised mass is not divided by the
  probability plus the penalty.
  """
  probabilities = at_least_float32(probabilities)
  rank, mass = _ranked(probabilities)
  uniforms = _uniforms(uniforms, probabilities)
  beyond = jnp.maximum(rank - free_rank, 0).astype(mass.dtype)
  return mass - uniforms * probabilities + penalty * beyond


@compiled
def sorted_adaptive(
    probabilities: Float[AnyArray, "*n k"],
    uniforms: Float[AnyArray, "*n"] | None = None,
    *,
    weight: Number = 0.2,
) -> Float[Array, "*n k"]:
  """SAPS: ranks beside the highest probability, the only one that counts.

  The likeliest class has (1 - u) of its probability p, the one of rank r has
  p + weight * (r - 1 - u).

  Args:
    probabilities: Probabilities of all classes.
    uniforms: Uniform numbers, see the module; not randomised if None.
    weight: Weight of a rank.

  Raises:
    ValueError: There is not one uniform number per image.

  Source: Huang et al., Conformal Prediction for Deep Classifier via Label
  Ranking, ICML 2024.
  """
  probabilities = at_least_float32(probabilities)
  uniforms = _uniforms(uniforms, probabilities)
  rank = _ranked(probabilities).rank
  highest = jnp.max(probabilities, axis=-1, keepdims=True)
  beyond = (rank - 1).astype(highest.dtype)
  return jnp.where(
      rank == 1, (1 - uniforms) * highest,
      highest + weight * (beyond - uniforms))


def linear(
    score: Score, log_probabilities: Float[AnyArray, "*n k"]) -> Linear:
  """A score of `SCORES` for any uniform numbers, with one sort for all.

  Args:
    score: Score, linear in the uniform numbers.
    log_probabilities: Log-probabilities of all classes.
  """
  logs = at_least_float32(log_probabilities)
  least = score(logs, jnp.zeros(logs.shape[:-1], logs.dtype))
  return Linear(least, least - score(logs, jnp.ones_like(logs[..., 0])))


@compiled
def _log_least_ambiguous(log_probabilities, uniforms):
  """The sets of LAC, without its underflow of what is unlikely."""
  del uniforms  # it has no ties to break
  return -at_least_float32(log_probabilities)


# By the names that commands and files give them, with their default numbers.
SCORES: Mapping[str, Score] = {
    "lac": _log_least_ambiguous,
    "aps": compiled(lambda logs, uniforms: adaptive(jnp.exp(logs), uniforms)),
    "raps": compiled(lambda logs, uniforms: regularised_adaptive(
        jnp.exp(logs), uniforms)),
    "saps": compiled(lambda logs, uniforms: sorted_adaptive(
        jnp.exp(logs), uniforms)),
}


def _ranked(probabilities) -> _Ranked:
  order = jnp.argsort(-probabilities, axis=-1, stable=True)
  place = jnp.argsort(order, axis=-1)
  falling = jnp.take_along_axis(probabilities, order, axis=-1)
  mass = jnp.take_along_axis(jnp.cumsum(falling, axis=-1), place, axis=-1)
  return _Ranked(place + 1, mass)


def _uniforms(uniforms, probabilities):
  """One number for each image, to be multiplied by those of its classes."""
  if uniforms is None:
    return jnp.zeros((*probabilities.shape[:-1], 1), probabilities.dtype)
  if uniforms.shape != probabilities.shape[:-1]:
    raise ValueError(
        "expected one uniform number for each image, of shape "
        f"{probabilities.shape[:-1]}, but theirs is {uniforms.shape}")
  return jnp.asarray(uniforms, probabilities.dtype)[..., None]
