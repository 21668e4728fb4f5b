"""Where scores stand among each other, equal ones and weights included."""

from typing import NamedTuple

import jax.numpy as jnp

from jaxcal.typing import Array
from jaxcal.typing import Float


class Ranks(NamedTuple):
  """How much mass has a greater, and how much the same score, per example."""

  above: Float[Array, "n"]
  tied: Float[Array, "n"]


def ranks(scores: Float[Array, "n"], mass: Float[Array, "n"]) -> Ranks:
  """Where the score of each example stands among examples of the given mass.

  Args:
    scores: Scores without NaN where the mass is positive.
    mass: Mass of each example; any sign, where sums are wanted.
  """
  order = jnp.argsort(scores)
  ordered = scores[order]
  below = jnp.concatenate([jnp.zeros(1, mass.dtype), jnp.cumsum(mass[order])])
  first = jnp.searchsorted(ordered, scores, side="left")
  last = jnp.searchsorted(ordered, scores, side="right")
  return Ranks(below[-1] - below[last], below[last] - below[first])


def at_least(
    scores: Float[Array, "n"], mass: Float[Array, "n"]) -> Float[Array, "n"]:
  """How much of the mass has at least the score of each example."""
  above, tied = ranks(scores, mass)
  return above + tied
