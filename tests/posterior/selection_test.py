"""Each strategy chooses what its definition says and leaves no trace."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.posterior import acquisition
from jaxcal.posterior import curvature
from jaxcal.posterior import model
from jaxcal.posterior import neighbours
from jaxcal.posterior import online
from jaxcal.posterior import selection
from jaxcal.typing import Pooled
from tests.posterior import small

_KEY = jax.random.key(5)


def _problem(seed=0, **changes):
  found, pool, targets = small.random(seed)
  factors = curvature.Factors(np.eye(6) * 3, np.eye(4) * 2, 30)
  return selection.Problem(
      found, pool, targets, labels=np.arange(12) % 3,
      learner=online.Learner(factors, 4.0, 20.0, learning_rate=0.1,
                             refit=False),
      num_samples=8)._replace(**changes)


def _near(problem, rows, budget):
  layer = problem.model.posterior.image
  pool, targets = jax.device_get([
      model.image_embeddings(problem.model, inputs)
      for inputs in (problem.pool, problem.targets)])
  far = np.array([
      neighbours.squared_wasserstein(
          jax.tree.map(lambda x, row=row: x[row], targets), pool, layer)
      for row in rows])
  order = np.argsort(far, axis=1, kind="stable")
  return list(dict.fromkeys(order.T.ravel().tolist()))[:budget]


def _mean_probs(problem, inputs):
  """Entropy of the softmax without posterior, in numpy."""
  found = problem.model
  embedded = np.asarray(inputs.activations) @ np.asarray(
      found.weights)[:-1] + np.asarray(found.weights)[-1] + np.asarray(
          inputs.residual)
  texts = np.asarray(found.text_embeddings)
  cosines = (embedded / np.linalg.norm(embedded, axis=1, keepdims=True)) @ (
      texts / np.linalg.norm(texts, axis=1, keepdims=True)).T
  p = np.exp(float(found.logit_scale) * cosines)
  return p / p.sum(1, keepdims=True)


def _entropies(problem, inputs):
  p = _mean_probs(problem, inputs)
  return -(p * np.log(p)).sum(1)


class SelectionTest(parameterized.TestCase):

  @parameterized.product(strategy=tuple(selection.STRATEGIES),
                         budget=(1, 9, 12))
  def test_as_many_distinct_rows_as_asked_for(self, strategy, budget):
    rows = selection.select(strategy, _KEY, _problem(), budget)
    self.assertEqual(rows.shape, (budget,))
    self.assertLen(set(rows.tolist()), budget)
    self.assertTrue(np.all((rows >= 0) & (rows < 12)))

  @parameterized.parameters(*selection.STRATEGIES)
  def test_the_same_again_whatever_ran_before(self, strategy):
    problem = _problem()
    before = jax.tree.map(np.array, problem)
    first = selection.select(strategy, _KEY, problem, 4)
    selection.select("epig_online", _KEY, problem, 3)
    np.testing.assert_array_equal(
        selection.select(strategy, _KEY, problem, 4), first)
    for one, other in zip(jax.tree.leaves(before), jax.tree.leaves(problem)):
      np.testing.assert_array_equal(one, other)

  @parameterized.parameters(*sorted(selection.NESTED))
  def test_nested_choices_begin_alike(self, strategy):
    problem = _problem()
    each = selection.select_each(strategy, _KEY, problem, [2, 5, 11])
    for budget, rows in each.items():
      np.testing.assert_array_equal(
          selection.select(strategy, _KEY, problem, budget), rows)

  def test_other_choices_are_made_for_each_budget(self):
    problem = _problem()
    each = selection.select_each("entropy_targets", _KEY, problem, [2, 5])
    for budget, rows in each.items():
      np.testing.assert_array_equal(
          selection.select("entropy_targets", _KEY, problem, budget), rows)

  def test_entropy(self):
    problem = _problem()
    order = np.argsort(-_entropies(problem, problem.pool), kind="stable")
    np.testing.assert_array_equal(
        selection.select("entropy", _KEY, problem, 5), order[:5])
    order = np.argsort(-_entropies(problem, problem.targets), kind="stable")
    for budget in (3, 9):  # 6 targets
      np.testing.assert_array_equal(
          selection.select("entropy_targets", _KEY, problem, budget),
          _near(problem, order[:budget], budget))

  def test_bald(self):
    problem = _problem()
    for strategy, inputs in (("bald", problem.pool),
                             ("bald_targets", problem.targets)):
      logits = model.sample_logits(
          _KEY, problem.model, inputs, num_samples=8)
      order = np.argsort(-np.asarray(acquisition.bald(logits)))[:4]
      expected = (order if strategy == "bald" else
                  _near(problem, order, 4))
      np.testing.assert_array_equal(
          selection.select(strategy, _KEY, problem, 4), expected)

  def test_bald_in_blocks(self):
    problem = _problem()
    whole = selection.select("bald", _KEY, problem, 12)
    old = selection._ENTRIES_PER_BLOCK
    selection._ENTRIES_PER_BLOCK = 5 * 8 * 3
    try:
      np.testing.assert_array_equal(
          selection.select("bald", _KEY, problem, 12), whole)
    finally:
      selection._ENTRIES_PER_BLOCK = old

  def test_epig_among_what_is_nearest_to_targets(self):
    problem = _problem()
    nearest = _near(problem, range(6), 12)
    first = {_near(problem, [row], 1)[0] for row in range(6)}
    rows = selection.select("epig", _KEY, problem, 12)
    self.assertEqual(set(rows[:len(first)].tolist()), first)
    np.testing.assert_array_equal(rows[len(first):], nearest[len(first):])
    online_rows = selection.select("epig_online", _KEY, problem, 12)
    self.assertEqual(set(online_rows[:len(first)].tolist()), first)
    # Both score the untouched model first.
    self.assertEqual(rows[0], online_rows[0])

  def test_epig_of_own_candidates(self):
    problem = _problem(candidates=np.array([7, 2, 9, 4]))
    logits = model.sample_logits(
        _KEY, problem.model, model.join(problem.pool, problem.targets),
        num_samples=8)
    probs = jax.nn.softmax(logits)
    scores = np.asarray(acquisition.epig(probs[:12], probs[12:]))
    expected = sorted([7, 2, 9, 4], key=lambda row: -scores[row])
    np.testing.assert_array_equal(
        selection.select("epig", _KEY, problem, 4), expected)
    for strategy in ("epig", "epig_online"):
      with self.assertRaisesRegex(ValueError, "budget=5, but there are 4"):
        selection.select(strategy, _KEY, problem, 5)

  def test_random_is_by_key(self):
    draw = lambda seed: selection.select(
        "random", jax.random.key(seed), _problem(), 12).tolist()
    self.assertEqual(draw(0), draw(0))
    self.assertNotEqual(draw(0), draw(1))

  def test_online_asks_for_the_labels_that_it_picks(self):
    asked = []

    def label_of(row):
      asked.append(row)
      return row % 3

    rows = selection.select(
        "epig_online", _KEY, _problem(labels=label_of), 3)
    self.assertEqual(rows.tolist(), asked)

  def test_errors(self):
    problem = _problem()
    empty = Pooled(jnp.zeros((0, 5)), jnp.zeros((0, 4)))
    broken = np.array(problem.pool.activations)
    broken[[3, 7], 2] = np.nan
    for changes, budget, message in (
        ({"pool": empty}, 1, "expected in the pool"),
        ({"targets": empty}, 1, "expected in the targets"),
        ({}, 0, "budget=0"),
        ({}, 13, "12 rows of the pool expected, but budget=13"),
        ({"pool": problem.pool._replace(activations=broken)}, 1,
         r"row 3 of the pool is not finite \(activations\)"),
        ({"metric": "euclid"}, 1, "choose from: cosine, wasserstein")):
      with self.assertRaisesRegex(ValueError, message):
        selection.select("entropy_targets", _KEY, problem._replace(**changes),
                         budget)
    with self.assertRaisesRegex(ValueError, "choose from: random, random_tar"):
      selection.select("oracle", _KEY, problem, 1)
    for missing in ("labels", "learner"):
      with self.assertRaisesRegex(ValueError, "learner and labels"):
        selection.select("epig_online", _KEY,
                         problem._replace(**{missing: None}), 1)


if __name__ == "__main__":
  absltest.main()
