"""Which rows of a pool to label: the strategies by name.

Baumann et al., Post-hoc Probabilistic Vision-Language Models, ICLR 2026.
"""

import functools
from typing import NamedTuple

import jax
import numpy as np

from jaxcal.posterior import acquisition
from jaxcal.posterior import model as models
from jaxcal.posterior import neighbours
from jaxcal.posterior import online
from jaxcal.typing import AnyArray
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Key
from jaxcal.typing import Pooled

# Rows of the pool, the first one chosen first.
Rows = Int[AnyArray, "_"]
# Sampled logits that are held at a time.
_ENTRIES_PER_BLOCK = 2**25


class Problem(NamedTuple):
  """What there is to choose from, and for whom.

  Attributes:
    model: Model before anything has been learned.
    pool: Rows that may be labelled.
    targets: Images whose predictions matter; their labels are not needed.
    labels: Labels of the pool, or a function that gives that of one row.
      "epig_online" asks for those of the rows that it picks; no other strategy
      sees any.
    learner: What "epig_online" needs beside the model.
    candidates: Distinct rows of the pool that EPIG looks at. If None, the
      nearest row of each target; a budget that goes beyond these is filled up
      with the next nearest, see `neighbours.support`.
    metric: What near means, a key of `neighbours.METRICS`.
    num_samples: Number of samples of weights, for BALD and EPIG (released: 1000
      for BALD).
  """

  model: models.Model
  pool: Pooled
  targets: Pooled
  labels: online.Labels | None = None
  learner: online.Learner | None = None
  candidates: Int[np.ndarray, "c"] | None = None
  metric: str = "wasserstein"
  num_samples: int = 100


def random(key: Key[Array, ""], problem: Problem, budget: int) -> Rows:
  """Rows of the pool at random."""
  return jax.random.permutation(key, models.size(problem.pool))[:budget]


def random_targets(key: Key[Array, ""], problem: Problem, budget: int) -> Rows:
  """Rows near targets that are drawn at random."""
  order = jax.random.permutation(key, models.size(problem.targets))
  return _near(problem, order[:budget], budget)


def entropy(key: Key[Array, ""], problem: Problem, budget: int) -> Rows:
  """Rows of the pool whose plain prediction is least certain."""
  del key
  return _highest(_entropy(problem.model, problem.pool), budget)


def entropy_targets(key: Key[Array, ""], problem: Problem, budget: int) -> Rows:
  """Rows near the targets whose plain prediction is least certain."""
  del key
  scores = _entropy(problem.model, problem.targets)
  return _near(problem, _highest(scores, budget), budget)


def bald(key: Key[Array, ""], problem: Problem, budget: int) -> Rows:
  """Rows of the pool whose label says most about the projections."""
  return _highest(_bald(key, problem, problem.pool), budget)


def bald_targets(key: Key[Array, ""], problem: Problem, budget: int) -> Rows:
  """Rows near the targets whose label would say most about the projections."""
  scores = _bald(key, problem, problem.targets)
  return _near(problem, _highest(scores, budget), budget)


def epig(key: Key[Array, ""], problem: Problem, budget: int) -> Rows:
  """Rows whose label says most about the targets' labels, each by itself."""
  rows = _candidates(problem)
  scores = online.epig(
      key, problem.model, models.take(problem.pool, rows), problem.targets,
      num_samples=problem.num_samples)
  return _fill_up(problem, rows[_highest(scores, budget)], budget)


def epig_online(key: Key[Array, ""], problem: Problem, budget: int) -> Rows:
  """The same one row at a time, learning from each label before the next."""
  if problem.learner is None or problem.labels is None:
    raise ValueError("the strategy 'epig_online' learns as it picks: it needs "
                     "the problem's learner and labels.")
  rows = _candidates(problem)
  state = online.select(
      key, online.start(problem.model, problem.learner), problem.pool,
      problem.targets, problem.labels, budget=min(budget, len(rows)),
      num_samples=problem.num_samples, candidates=rows)
  return _fill_up(problem, np.array(state.picked), budget)


STRATEGIES = {
    "random": random,
    "random_targets": random_targets,
    "entropy": entropy,
    "entropy_targets": entropy_targets,
    "bald": bald,
    "bald_targets": bald_targets,
    "epig": epig,
    "epig_online": epig_online,
}
# Whose choice for a budget begins with their choice for any smaller one.
NESTED = frozenset({"random", "entropy", "bald", "epig", "epig_online"})


def select(
    strategy: str, key: Key[Array, ""], problem: Problem, budget: int
) -> Int[np.ndarray, "budget"]:
  """Distinct rows of the pool to label, in the order of choosing.

  A function of its arguments alone: no strategy leaves a trace for the next.

  Args:
    strategy: A key of `STRATEGIES`.
    key: Random key of whatever is random in it.
    problem: The pool and the targets.
    budget: Number of rows.

  Raises:
    ValueError: An unknown strategy, an empty pool, no targets, a budget that
      is below one or above what there is to choose from, values that are not
      finite (named by row), or as the strategy.

  Source: Baumann et al., ICLR 2026.
  Differs from the released code in: BALD and EPIG draw weights, which classes
  and images share, instead of logits one by one; as many rows as the budget for
  every strategy; strategies do not change what later ones see. "epig" and
  "bald" have no counterpart there; see `online` for "epig_online".
  """
  if strategy not in STRATEGIES:
    raise ValueError(f"unknown strategy {strategy!r}; choose from: "
                     f"{', '.join(STRATEGIES)}.")
  _check_inputs("pool", problem.pool)
  _check_inputs("targets", problem.targets)
  if not 1 <= budget <= models.size(problem.pool):
    raise ValueError(f"a budget between 1 and the {models.size(problem.pool)} "
                     f"rows of the pool expected, but {budget=}.")
  rows = np.asarray(STRATEGIES[strategy](key, problem, budget))
  if len(rows) < budget:
    raise ValueError(f"{budget=}, but there are {len(rows)} candidates.")
  return rows


def select_each(
    strategy: str,
    key: Key[Array, ""],
    problem: Problem,
    budgets: list[int],
) -> dict[int, Int[np.ndarray, "budget"]]:
  """`select` for several budgets; one run for all where choices are nested."""
  if strategy in NESTED and budgets:
    rows = select(strategy, key, problem, max(budgets))
    return {budget: rows[:budget] for budget in budgets}
  return {budget: select(strategy, key, problem, budget) for budget in budgets}


def _candidates(problem):
  """Rows of the pool for EPIG, ascending, whatever the budget."""
  if problem.candidates is not None:
    return np.sort(np.asarray(problem.candidates))
  pool, targets, layer = _embedded(problem)
  return np.sort(neighbours.distinct(
      neighbours.nearest(targets, pool, layer, metric=problem.metric)))


def _fill_up(problem, rows, budget):
  """After all that are nearest to a target, those that are next nearest."""
  if len(rows) == budget or problem.candidates is not None:
    return rows
  pool, targets, layer = _embedded(problem)
  near = neighbours.support(
      targets, pool, layer, num_rows=budget, metric=problem.metric)
  return np.concatenate([rows, near[len(rows):]])


def _near(problem, rows, budget):
  """As many rows of the pool as the budget around some of the targets."""
  pool, targets, layer = _embedded(problem._replace(
      targets=models.take(problem.targets, rows)))
  return neighbours.support(
      targets, pool, layer, num_rows=budget, metric=problem.metric)


def _embedded(problem):
  model = problem.model
  return (models.image_embeddings(model, problem.pool),
          models.image_embeddings(model, problem.targets),
          model.posterior.image)


def _highest(scores, budget):
  """The highest scores, highest first; of equal ones the lower row."""
  return np.argsort(-np.asarray(scores), kind="stable")[:budget]


def _entropy(model, inputs) -> Float[Array, "n"]:
  return acquisition.entropy_of_logits(models.logits(model, inputs))


def _bald(key, problem, inputs):
  """Scores of all rows, in blocks that see the same weights."""
  num_classes = len(problem.model.text_embeddings)
  rows = max(1, _ENTRIES_PER_BLOCK // (problem.num_samples * num_classes))
  return np.concatenate([
      _bald_block(key, problem.model,
                  models.take(inputs, slice(first, first + rows)),
                  num_samples=problem.num_samples)
      for first in range(0, models.size(inputs), rows)])


@functools.partial(jax.jit, static_argnames="num_samples")
def _bald_block(key, model, inputs, *, num_samples):
  return acquisition.bald(
      models.sample_logits(key, model, inputs, num_samples=num_samples))


def _check_inputs(name, inputs):
  if not models.size(inputs):
    raise ValueError(f"one image at least expected in the {name}, but there "
                     "are none.")
  for part, values in zip(Pooled._fields,
                          (inputs.activations, inputs.residual)):
    finite = values is None or np.isfinite(np.asarray(values)).all(axis=1)
    if not np.all(finite):
      raise ValueError(
          f"row {np.argmin(finite)} of the {name} is not finite ({part}); "
          "leave the image out, or extract its features again.")
