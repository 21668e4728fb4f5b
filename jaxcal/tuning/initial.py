"""Where learned vectors and maps begin, at random."""

import jax
import jax.numpy as jnp

from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Key

# Standard deviation of prompts that do not begin with words.
_SPREAD = 0.02


def vectors(
    key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
  """Prompt vectors: normal, with a standard deviation of 0.02."""
  return _SPREAD * jax.random.normal(key, shape, jnp.float32)


def linear(
    key: Key[Array, ""], fan_in: int, fan_out: int
) -> dict[str, Float[Array, "..."]]:
  """Kernel [in out] and bias uniform in +-1/sqrt(in), PyTorch's default."""
  kernel_key, bias_key = jax.random.split(key)
  bound = fan_in**-0.5
  draw = lambda key, shape: jax.random.uniform(
      key, shape, jnp.float32, minval=-bound, maxval=bound)
  return {"kernel": draw(kernel_key, (fan_in, fan_out)),
          "bias": draw(bias_key, (fan_out,))}
