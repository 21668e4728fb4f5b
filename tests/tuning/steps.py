"""The stored steps, taken by a plain loop."""

import jax
import optax

from jaxcal.tuning import method as method_lib
from tests.tuning import oracle as oracle_lib


def three_steps(
    oracle: oracle_lib.Oracle,
    method: method_lib.Method,
    params: method_lib.Params,
    prompts: method_lib.Prompts,
) -> tuple[list[jax.Array], method_lib.Params]:
  """The loss before each stored step, and the parameters after the last."""
  optimiser = optax.chain(
      optax.add_decayed_weights(5e-4),
      optax.sgd(oracle_lib.LEARNING_RATE, momentum=0.9))
  state, losses = optimiser.init(params), []
  for rows in oracle.stored["batch_idx"]:
    (loss, _), gradient = jax.value_and_grad(method.loss, has_aux=True)(
        params, prompts, oracle.batch(rows))
    losses.append(loss)
    updates, state = optimiser.update(gradient, state, params)
    params = optax.apply_updates(params, updates)
  return losses, params
