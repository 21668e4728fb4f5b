"""The one loop: a method, an optimiser and arrays become tuned parameters.

  steps = num_steps(len(data.labels), batch_size)
  optimiser = sgd(schedule(0.002, num_epochs, steps))
  state = init(method, optimiser, prompts, key)
  while state.epoch < num_epochs:
    order = shuffle(state, len(data.labels), batch_size)
    state, parts = train_epoch(method, optimiser, state, prompts, data, order)

A state is a pytree of arrays and all that the next epoch depends on, so a
training that was stored and read again goes on as if nothing had happened.
Seeds can be trained together: see `train_seeds`.
"""

from collections.abc import Callable
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcal import precision
from jaxcal.tuning import dor
from jaxcal.tuning import method as method_lib
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Key
from jaxcal.typing import Number
from jaxcal.typing import PyTree

# The published schedule's first epoch.
_WARM_UP = 1e-5


class Data(NamedTuple):
  """Images to train on, in memory; views of an image are rows of their own."""

  images: method_lib.Images
  labels: Int[Array, "n"]


class Order(NamedTuple):
  """Which rows of the data each step of an epoch sees.

  Attributes:
    batches: Rows of full batches, a step each.
    last: Rows of one smaller batch after them; empty where there is none.
  """

  batches: Int[Array, "e b"]
  last: Int[Array, "r"]


class Outliers(NamedTuple):
  """Outliers of an epoch.

  Attributes:
    table: Table of all outliers.
    rows: Rows of outliers of each step, drawn with `tuning.outliers`.
  """

  table: method_lib.Prompts | method_lib.Images
  rows: Int[Array, "e r"]


class State(NamedTuple):
  """A training between two epochs.

  Attributes:
    params: The method's.
    optimiser_state: The optimiser's; counts the steps.
    average: Sum of the parameters at the ends of the epochs, each times the
      `share` of its epoch; zeros if none had a share.
    epoch: Epochs done.
    key: Random key of the order of images; does not change.
  """

  params: method_lib.Params
  optimiser_state: PyTree
  average: method_lib.Params
  epoch: Int[Array, ""]
  key: Key[Array, ""]


def num_steps(
    num_images: int, batch_size: int, *, keep_last: bool = False) -> int:
  """Steps of an epoch; arguments as in `shuffle`.

  Raises:
    ValueError: No images, or batches of none.
  """
  if num_images < 1 or batch_size < 1:
    raise ValueError(
        f"expected {num_images=} and {batch_size=} of 1 or more")
  round_ = math.ceil if keep_last else math.floor
  return max(1, round_(num_images / batch_size))


def schedule(
    learning_rate: float, num_epochs: int, steps_per_epoch: int
) -> optax.Schedule:
  r"""Half a cosine by epochs, after a first epoch at 1e-5.

  .. math:: \eta_e = \frac{\eta}{2} (1 + \cos(\pi (e - 1) / T)), \quad e \ge 1

  Constant within an epoch. The last epoch of T ends the cosine two epochs
  early, as released.

  Args:
    learning_rate: Learning rate of the second epoch, the greatest.
    num_epochs: Number of epochs T, the first one included.
    steps_per_epoch: See `num_steps`.

  Raises:
    ValueError: No epochs, or epochs without steps.

  Source: the trainers of Zhou et al., IJCV 2022, on which all methods build.
  Differs from the released code in: nothing.
  """
  if num_epochs < 1 or steps_per_epoch < 1:
    raise ValueError(
        f"expected {num_epochs=} and {steps_per_epoch=} of 1 or more")
  rates = [_WARM_UP] + [
      0.5 * learning_rate * (1 + math.cos(math.pi * epoch / num_epochs))
      for epoch in range(num_epochs - 1)]

  def rate(step):
    return jnp.asarray(rates)[jnp.minimum(
        step // steps_per_epoch, num_epochs - 1)]

  return rate


def sgd(
    learning_rate: float | optax.Schedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> optax.GradientTransformation:
  """Gradient descent with momentum; the decay is added to the gradient.

  As PyTorch does it, without dampening and Nesterov's correction.
  """
  return optax.chain(
      optax.add_decayed_weights(weight_decay),
      optax.sgd(learning_rate, momentum=momentum))


def adam(
    learning_rate: float | optax.Schedule,
    *,
    eps: float = 1e-8,
    weight_decay: float = 5e-4,
) -> optax.GradientTransformation:
  """Adam; the decay is added to the gradient, as PyTorch does it."""
  return optax.chain(
      optax.add_decayed_weights(weight_decay),
      optax.adam(learning_rate, eps=eps))


def adamw(
    learning_rate: float | optax.Schedule,
    *,
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
) -> optax.GradientTransformation:
  """AdamW with PyTorch's default decay, which is not optax's."""
  return optax.adamw(learning_rate, eps=eps, weight_decay=weight_decay)


def init(
    method: method_lib.Method,
    optimiser: optax.GradientTransformation,
    prompts: method_lib.Prompts,
    key: Key[Array, ""],
) -> State:
  """The state before the first epoch."""
  params_key, order_key = jax.random.split(key)
  params = method.init(params_key, prompts)
  return State(
      params, optimiser.init(params), jax.tree.map(jnp.zeros_like, params),
      jnp.zeros((), jnp.int32), order_key)


def shuffle(
    state: State,
    num_images: int,
    batch_size: int,
    *,
    keep_last: bool = False,
) -> Order:
  """A random order for the next epoch, given by the state's key and epoch.

  Args:
    state: State before the epoch.
    num_images: Number of images of the data.
    batch_size: Images of a step. If there are fewer images, all are one batch.
    keep_last: Whether an incomplete last batch is a step too. As released, it
      is dropped, so that every epoch leaves out other images.

  Raises:
    ValueError: See `num_steps`.
  """
  num_steps(num_images, batch_size)
  key = jax.random.fold_in(state.key, state.epoch)
  order = jax.random.permutation(key, num_images)
  size = min(batch_size, num_images)
  full = num_images - num_images % size
  last = order[full:] if keep_last else order[:0]
  return Order(order[:full].reshape(-1, size), last)


@functools.partial(jax.jit, static_argnames="optimiser")
def train_epoch(
    method: method_lib.Method,
    optimiser: optax.GradientTransformation,
    state: State,
    prompts: method_lib.Prompts,
    data: Data,
    order: Order,
    outliers: Outliers | None = None,
    share: Number = 0.0,
) -> tuple[State, dict[str, Float[Array, "e"]]]:
  """One epoch, compiled once for all epochs.

  Args:
    method: What is tuned.
    optimiser: Optimiser, the same object every time; another one compiles anew.
    state: State of `init`, or of the epoch before.
    prompts: The classes of the training.
    data: The images.
    order: Order from `shuffle`.
    outliers: Outliers for methods with outliers; as many rows as there are
      steps.
    share: Weight of this epoch's parameters in `State.average`.

  Returns:
    The state after the epoch; and the loss before each step, and its parts, by
    name ("loss" and the method's own).

  Raises:
    ValueError: Rows of outliers for another number of steps.
  """
  steps = len(order.batches) + bool(len(order.last))
  if outliers is not None and len(outliers.rows) != steps:
    raise ValueError(f"outliers for {len(outliers.rows)} steps, but the epoch "
                     f"has {steps}")
  gradient = value_and_gradient(method)

  def step(carried, given):
    params, optimiser_state = carried
    rows, outlier_rows = given
    images, labels = jax.tree.map(lambda x: x[rows], tuple(data))
    batch = method_lib.Batch(
        images, labels, outliers and dor.take(outliers.table, outlier_rows))
    (loss, parts), direction = gradient(params, prompts, batch)
    updates, optimiser_state = optimiser.update(
        direction, optimiser_state, params)
    carried = optax.apply_updates(params, updates), optimiser_state
    return carried, {**parts, "loss": loss}

  carried = state.params, state.optimiser_state
  rows = outliers and outliers.rows
  full = len(order.batches)
  carried, parts = jax.lax.scan(
      step, carried, (order.batches, rows if rows is None else rows[:full]))
  if len(order.last):
    carried, last = step(
        carried, (order.last, rows if rows is None else rows[full]))
    parts = jax.tree.map(lambda x, y: jnp.append(x, y), parts, last)
  average = jax.tree.map(
      lambda total, x: total + share * x, state.average, carried[0])
  return State(*carried, average, state.epoch + 1, state.key), parts


@functools.partial(jax.jit, static_argnames="optimiser")
def train_seeds(
    method: method_lib.Method,
    optimiser: optax.GradientTransformation,
    state: State,
    prompts: method_lib.Prompts,
    data: Data,
    order: Order,
    outliers: Outliers | None = None,
    share: Number = 0.0,
) -> tuple[State, dict[str, Float[Array, "s e"]]]:
  """`train_epoch` of several seeds at once, on the same data and classes.

  Seeds that drew different shots share the data of all of them; their orders
  are then rows of the shots that each drew.

  Args:
    method: Method as in `train_epoch`, and as the others shared by the seeds.
    optimiser: Optimiser as in `train_epoch`.
    state: State with a leading axis of seeds: `jax.vmap` of `init` over keys.
    prompts: Prompts as in `train_epoch`.
    data: Data as in `train_epoch`.
    order: Order with a leading axis: `jax.vmap` of `shuffle` over states.
    outliers: Outliers, their `rows` with a leading axis.
    share: Share as in `train_epoch`.
  """

  def one(state, order, rows):
    drawn = outliers and outliers._replace(rows=rows)
    return train_epoch(
        method, optimiser, state, prompts, data, order, drawn, share)

  return jax.vmap(one)(state, order, outliers and outliers.rows)


def value_and_gradient(method: method_lib.Method) -> Callable[..., Any]:
  """(parameters, prompts, batch) -> ((loss, its parts), direction).

  The direction is the loss's gradient, unless the method has its own. Products
  are at `precision.highest`, whatever the method asks for, but for towers.
  """
  return precision.highest(
      method.gradient or jax.value_and_grad(method.loss, has_aux=True))
