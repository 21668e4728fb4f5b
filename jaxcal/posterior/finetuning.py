"""Tuning the image projection on a few labelled images.

Baumann et al., Post-hoc Probabilistic Vision-Language Models, ICLR 2026.
"""

from collections.abc import Collection, Iterator, Sequence
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcal.posterior import model as models
from jaxcal.posterior import predictive
from jaxcal.posterior import selection
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Key
from jaxcal.typing import Pooled


class Schedule(NamedTuple):
  """Of AdamW; the published numbers.

  Attributes:
    learning_rate: Learning rate of every step.
    weight_decay: Decoupled weight decay; for the bias too.
    num_epochs: Number of epochs, one at least.
    batch_size: Images per step. A last batch that is not full is the mean over
      the images that it has.
  """

  learning_rate: float = 1e-5
  weight_decay: float = 5e-2
  num_epochs: int = 100
  batch_size: int = 30


class Tuned(NamedTuple):
  """A tuned projection.

  Attributes:
    weights: Weights of the kept epoch; laid out like `Model.weights`.
    epoch: The kept one, counted from one; 0 stands for the weights before
      tuning, kept where no epoch has a finite validation loss.
    losses: Validation loss after each epoch, nats; NaN without validation.
  """

  weights: Float[Array, "q d"]
  epoch: Int[Array, ""]
  losses: Float[Array, "e"]


class Cell(NamedTuple):
  """One entry of a learning curve."""

  strategy: str
  seed: int
  budget: int


class Point(NamedTuple):
  """What came of one cell.

  Attributes:
    rows: Rows of the pool that were chosen, in order.
    tuned: The projection after tuning on them.
    cosines: Logits for the test images, [t k]. Their means have the
      accuracy that is published; `predictive.probit_logits` is the whole.
  """

  rows: Int[np.ndarray, "budget"]
  tuned: Tuned
  cosines: predictive.Cosines


@functools.partial(jax.jit, static_argnames="schedule")
def fine_tune(
    key: Key[Array, ""],
    model: models.Model,
    train: models.Labelled,
    validation: models.Labelled | None = None,
    schedule: Schedule = Schedule(),
) -> Tuned:
  """AdamW on kernel and bias of the image projection; all else stays.

  The loss is the cross-entropy of the logits without posterior. After each
  epoch the validation loss is taken, the cross-entropy of the mean logits with
  the posterior's covariance of before; the epoch with the lowest is kept, of
  equal ones the later, or the last where there is no validation.

  Args:
    key: Random key of the order in each epoch.
    model: Model to start from; its posterior matters to the validation loss
      alone.
    train: Labelled images, one at least.
    validation: Validation examples, or None.
    schedule: Schedule of AdamW.

  Raises:
    ValueError: No images, or as many labels as images are missing.

  Source: Baumann et al., ICLR 2026.
  Differs from the released code in: the order comes from a key.
  """
  size = models.size(train.inputs)
  if not size or train.labels.shape != (size,):
    raise ValueError("one label for each of one or more images expected, but "
                     f"{size} images and {train.labels.shape=}.")
  optimiser = optax.adamw(
      schedule.learning_rate, weight_decay=schedule.weight_decay)
  # Short sets are one batch, long ones are filled up with rows of weight zero.
  batch_size = min(schedule.batch_size, size)
  num_batches = -(-size // batch_size)
  counts = (jnp.arange(num_batches * batch_size) < size).reshape(
      num_batches, batch_size)

  def loss(weights, rows, count):
    logits = models.logits(model._replace(weights=weights),
                           models.take(train.inputs, rows))
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits, train.labels[rows])
    return jnp.sum(losses * count) / jnp.sum(count)

  def step(carry, batch):
    weights, state = carry
    gradient = jax.grad(loss)(weights, *batch)
    updates, state = optimiser.update(gradient, state, weights)
    return (optax.apply_updates(weights, updates), state), None

  validate = _validation_loss(model, validation)

  def epoch(carry, at):
    trained, best, lowest, kept = carry
    number, key = at
    order = jnp.resize(
        jax.random.permutation(key, size), (num_batches * batch_size,))
    trained, _ = jax.lax.scan(
        step, trained, (order.reshape(counts.shape), counts))
    current = validate(trained[0])
    better = current <= lowest if validation is not None else True
    best = jnp.where(better, trained[0], best)
    return (trained, best, jnp.where(better, current, lowest),
            jnp.where(better, number, kept)), current

  start = ((model.weights, optimiser.init(model.weights)), model.weights,
           jnp.asarray(jnp.inf, model.weights.dtype), jnp.asarray(0))
  (_, best, _, kept), losses = jax.lax.scan(
      epoch, start,
      (1 + jnp.arange(schedule.num_epochs),
       jax.random.split(key, schedule.num_epochs)))
  return Tuned(best, kept, losses)


def points(
    keys: Key[Array, "r"],
    problem: selection.Problem,
    rows: Int[np.ndarray, "r budget"],
    test: Pooled,
    validation: models.Labelled | None = None,
    schedule: Schedule = Schedule(),
) -> list[Point]:
  """Tunes on several choices of equal size at once, and predicts the test.

  Args:
    keys: One key per choice, see `fine_tune`.
    problem: Problem whose model is where tuning starts; its labels, an array,
      are read at the chosen rows alone.
    rows: Rows of the pool, one choice each.
    test: Images to predict.
    validation: See `fine_tune`.
    schedule: See `fine_tune`.

  Returns:
    One point per choice; the predictions have the posterior's covariance of
    before, as published.
  """
  rows = np.asarray(rows)
  train = models.Labelled(models.take(problem.pool, rows),
                          jax.device_put(np.asarray(problem.labels)[rows]))
  found = _tune_and_predict(
      keys, problem.model, train, test, validation, schedule)
  return [Point(chosen, *jax.tree.map(lambda x, i=i: x[i], found))
          for i, chosen in enumerate(rows)]


def learning_curve(
    problem: selection.Problem,
    test: Pooled,
    validation: models.Labelled | None = None,
    *,
    strategies: Sequence[str],
    budgets: Sequence[int],
    seeds: Sequence[int],
    schedule: Schedule = Schedule(),
    done: Collection[tuple[str, int, int]] = (),
) -> Iterator[tuple[Cell, Point]]:
  """Chooses, tunes and predicts for every strategy, seed and budget.

  A cell depends on its own names and on the arrays alone, so cells may be kept
  and left out of a later call by naming them in `done`. Where a strategy's
  choices are nested, those for all budgets of a seed come from one run for the
  largest. All seeds of a budget are tuned together, also those that are done:
  by themselves, the others would differ in the last bit.

  Args:
    problem: Problem with the labels of the whole pool, an array.
    test: Images to predict; usually the problem's targets.
    validation: See `fine_tune`.
    strategies: Keys of `selection.STRATEGIES`.
    budgets: Numbers of labels.
    seeds: Seeds of choosing and of the order in tuning.
    schedule: See `fine_tune`.
    done: Cells (strategy, seed, budget) that are not wanted.

  Yields:
    Cells and their points, strategy by strategy.

  Raises:
    ValueError: Labels that are no array, or see `selection.select`.
  """
  if problem.labels is None or callable(problem.labels):
    raise ValueError("a learning curve needs the labels of the whole pool, an "
                     f"array, but {problem.labels=}.")
  done = frozenset(done)
  for strategy in strategies:
    wanted = [budget for budget in budgets
              if any((strategy, seed, budget) not in done for seed in seeds)]
    chosen = [selection.select_each(strategy, _key(seed, 0), problem, wanted)
              for seed in seeds]
    for budget in wanted:
      found = points(
          jnp.stack([_key(seed, 1) for seed in seeds]), problem,
          np.stack([of_seed[budget] for of_seed in chosen]), test, validation,
          schedule)
      for seed, point in zip(seeds, found):
        cell = Cell(strategy, seed, budget)
        if cell not in done:
          yield cell, point


@functools.partial(jax.jit, static_argnames="schedule")
def _tune_and_predict(keys, model, train, test, validation, schedule):
  tuned = jax.vmap(
      lambda key, train: fine_tune(key, model, train, validation, schedule))(
          keys, train)
  cosines = jax.lax.map(
      lambda weights: models.cosines(model._replace(weights=weights), test),
      tuned.weights)
  return tuned, cosines


def _key(seed, purpose):
  return jax.random.fold_in(jax.random.key(seed), purpose)


def _validation_loss(model, validation):
  """From weights to nats; the posterior's spreads do not change with them."""
  if validation is None:
    return lambda weights: jnp.full((), jnp.nan, weights.dtype)
  spread = models.image_embeddings(model, validation.inputs).spread

  def loss(weights):
    mean = models.embed(weights, validation.inputs)
    cosines = models.cosines_of(model, predictive.Embedding(mean, spread))
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(
        cosines.mean, validation.labels))

  return loss
