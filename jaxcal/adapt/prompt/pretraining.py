"""FPP's context for a data set, trained once; an interrupted one goes on."""

from collections.abc import Callable, Mapping
import pathlib
from typing import Any

import jax

from jaxcal.adapt import base
from jaxcal.adapt.prompt import flatness
from jaxcal.storage import pytree
from jaxcal.typing import Array
from jaxcal.typing import Float

_STEPS = 50  # between two saves


def flat_context(
    task: base.Task,
    recipe: flatness.Recipe,
    path: pathlib.Path,
    *,
    seed: int = 0,
    from_words: bool = False,
    identity: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Float[Array, "m w"]:
  """A context in a flat region around the prompts of a task.

  Args:
    task: Task with an encoder and a context, whose text features are the
      target.
    recipe: Numbers of the training.
    path: File that keeps the state; training goes on from what it holds.
    seed: Seed of the noise and of the random start.
    from_words: Whether to start from the task's context, not from random
      vectors.
    identity: Identity of the context; that of the state must be the same. Not
      compared if None.
    progress: Function called with the numbers of steps done and in all.

  Raises:
    ValueError: The state is of something else.

  Source: FPP, see `flatness`.
  """
  noise_key, start_key = jax.random.split(jax.random.key(seed))
  encode: Any = task.encode
  start: Any = task.context
  if not from_words:
    start = flatness.random_context(start_key, start.shape)
  state = pytree.load(path, flatness.begin(start, recipe), identity)
  target = jax.jit(lambda encode, context: encode(context))(
      encode, task.context)
  advance = jax.jit(flatness.advance, static_argnames="num_steps")
  progress(int(state.step), recipe.num_steps)
  while state.step < recipe.num_steps:
    steps = min(_STEPS, recipe.num_steps - int(state.step))
    state, _ = advance(
        encode, target, noise_key, state, recipe, num_steps=steps)
    pytree.save(path, state, identity)
    progress(int(state.step), recipe.num_steps)
  return state.context
