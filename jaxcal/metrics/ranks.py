"""Where scores stand among each other, equal ones and weights included."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcal.compiled import compiled
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Int


class Ranks(NamedTuple):
  """How much mass has a greater, and how much the same score, per example."""

  above: Float[Array, "n"]
  tied: Float[Array, "n"]


class Order(NamedTuple):
  """Values from the least to the greatest, and where in it each one stands.

  Attributes:
    values: Values in ascending order.
    place: Position of each value in it; of equal ones, that of the first.
  """

  values: Float[Array, "n"]
  place: Int[Array, "n"]


@compiled
def order(values: Float[Array, "n"]) -> Order:
  """The order of values, NaN before or behind all others.

  Integers are sorted in their place, of one bit pattern each: on a CPU, JAX
  sorts them several times as fast as numbers of floating point.
  """
  bits = _in_order(values)
  ordered = jnp.sort(bits)
  return Order(_from_order(ordered, values.dtype),
               jnp.searchsorted(ordered, bits))


@compiled
def ranks(scores: Float[Array, "n"], mass: Float[Array, "n"]) -> Ranks:
  """Where the score of each example stands among examples of the given mass.

  Args:
    scores: Scores without NaN where the mass is positive.
    mass: Mass of each example; any sign, where sums are wanted.
  """
  place = order(scores).place
  own = jnp.zeros_like(mass).at[place].add(mass)
  upto = jnp.cumsum(own)
  return Ranks(upto[-1] - upto[place], own[place])


@compiled
def at_least(
    scores: Float[Array, "n"], mass: Float[Array, "n"]) -> Float[Array, "n"]:
  """How much of the mass has at least the score of each example."""
  above, tied = ranks(scores, mass)
  return above + tied


def _in_order(values):
  """Unsigned integers in the order of the values; zero has one sign."""
  bits = jax.lax.bitcast_convert_type(
      jnp.where(values == 0, 0, values), _unsigned(values.dtype))
  return jnp.where(bits >= _sign(bits), ~bits, bits | _sign(bits))


def _from_order(bits, dtype):
  """The values of these integers."""
  return jax.lax.bitcast_convert_type(
      jnp.where(bits >= _sign(bits), bits ^ _sign(bits), ~bits), dtype)


def _unsigned(dtype):
  return jnp.uint32 if jnp.finfo(dtype).bits == 32 else jnp.uint64


def _sign(bits):
  """The bit of the sign."""
  return jnp.asarray(1 << (jnp.iinfo(bits.dtype).bits - 1), bits.dtype)
