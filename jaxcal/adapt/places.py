"""Writing into one place of what a method remembers."""

import jax.numpy as jnp

from jaxcal.typing import Array
from jaxcal.typing import Bool
from jaxcal.typing import Int
from jaxcal.typing import Shaped


def write(
    old: Shaped[Array, "n ..."],
    at: tuple[Int[Array, ""], ...],
    new: Shaped[Array, "..."],
    *,
    where: Bool[Array, ""] | bool = True,
) -> Shaped[Array, "n ..."]:
  """`old` with `new` at a place, or as it was; no copy of it within a scan.

  Args:
    old: What is remembered.
    at: Position along each of the first axes; nothing is written beyond the
      first one.
    new: What comes there.
    where: Whether it is written.
  """
  # Two writes, of which the second goes nowhere. Of a single one XLA makes an
  # update that it repeats for each reader, on a copy of all that is remembered:
  # with the memory of DMN a step took 13 times as long on a CPU.
  nowhere = jnp.full_like(at[0], len(old))
  rows = jnp.stack([jnp.where(where, at[0], nowhere), nowhere])
  rest = [jnp.stack([one, one]) for one in at[1:]]
  return old.at[(rows, *rest)].set(jnp.stack([new, new]), mode="drop")
