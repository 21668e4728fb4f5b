"""The stored steps, taken by a plain loop."""

import jax
import optax

from jaxcal.tuning import method as method_lib
from tests import quick
from tests.tuning import oracle as oracle_lib

_OPTIMISER = optax.chain(
    optax.add_decayed_weights(5e-4),
    optax.sgd(oracle_lib.LEARNING_RATE, momentum=0.9))


def three_steps(
    oracle: oracle_lib.Oracle,
    method: method_lib.Method,
    params: method_lib.Params,
    prompts: method_lib.Prompts,
) -> tuple[list[jax.Array], method_lib.Params]:
  """The loss before each stored step, and the parameters after the last."""
  state, losses = _OPTIMISER.init(params), []
  for rows in oracle.stored["batch_idx"]:
    (loss, _), gradient = oracle_lib.step(
        method, params, prompts, oracle.batch(rows))
    losses.append(loss)
    params, state = _moved(params, gradient, state)
  return losses, params


@quick.jit
def _moved(params, gradient, state):
  updates, state = _OPTIMISER.update(gradient, state, params)
  return optax.apply_updates(params, updates), state
