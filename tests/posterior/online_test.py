"""Greedy acquisition: each step against numpy in float64."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.posterior import curvature
from jaxcal.posterior import model
from jaxcal.posterior import online
from tests.posterior import small

_LABELS = np.array([0, 2, 1, 1, 0, 2, 2, 0, 1, 0, 2, 1])


def _start(seed=0, bias=True, dtype=np.float32, **settings):
  found, pool, targets = small.random(seed, bias=bias)
  rng = np.random.default_rng(100 + seed)
  rows, outputs = found.weights.shape
  activations = rng.standard_normal((30, rows))
  gradients = rng.standard_normal((30, outputs))
  factors = curvature.Factors(
      jnp.asarray(activations.T @ activations / np.sqrt(30), dtype),
      jnp.asarray(gradients.T @ gradients / np.sqrt(30), dtype), 30)
  learner = online.Learner(factors, 4.0, 20.0, **settings)
  return online.start(found, learner), pool, targets


def _numpy(tree):
  return jax.tree.map(np.float64, tree)


def _log_probs(weights, state, row):
  """Log-softmax of the mean logits of one image, in numpy."""
  inputs, residual, trace, text_means, norms, spread = row
  mean = inputs @ weights + residual
  image_norm = np.sqrt(mean @ mean + spread * trace)
  logits = float(state.model.logit_scale) * text_means @ mean / (
      image_norm * norms)
  return logits - np.log(np.exp(logits).sum())


def _row(state, pool, row):
  """What `_log_probs` needs of one image."""
  found = _numpy(state.model)
  wide = len(found.weights)
  inputs = np.float64(pool.activations[row])
  inputs = np.append(inputs, np.ones(wide - len(inputs)))
  residual = (0 if pool.residual is None else np.float64(pool.residual[row]))
  image, text = found.posterior
  spreads = np.einsum("kw,wv,kv->k", found.text_activations, text.a_inv,
                      found.text_activations)
  norms = np.sqrt((found.text_embeddings**2).sum(1)
                  + spreads * np.trace(text.b_inv))
  return (inputs, residual, np.trace(image.b_inv), found.text_embeddings,
          norms, inputs @ image.a_inv @ inputs)


def _block(embedding, texts, scale, weights_of):
  """The Gauss-Newton block from the Jacobian of the logits, by differences."""
  texts = texts / np.linalg.norm(texts, axis=1, keepdims=True)

  def logits(g):
    return scale * texts @ g / np.linalg.norm(g)

  step = 1e-6
  jacobian = np.stack([
      (logits(embedding + step * e) - logits(embedding - step * e)) / (2 * step)
      for e in np.eye(len(embedding))], axis=1)
  return jacobian.T @ weights_of(logits(embedding)) @ jacobian


def _softmax_curvature(logits):
  p = np.exp(logits) / np.exp(logits).sum()
  return np.diag(p) - np.outer(p, p)


class LearnTest(parameterized.TestCase):

  @parameterized.product(bias=(False, True), sigmoid=(False, True))
  def test_one_label(self, bias, sigmoid):
    state, pool, _ = _start(bias=bias, learning_rate=0.1, label_weight=3.0,
                            refit=False)
    if sigmoid:
      state = state._replace(
          model=state.model._replace(logit_bias=jnp.asarray(-1.5)))
    image = model.take(pool, np.array([4]))
    after = online.learn(state, 4, image, 2)

    row, weights = _row(state, pool, 4), np.float64(state.model.weights)
    gradient = np.zeros_like(weights)
    for index in np.ndindex(weights.shape):
      move = np.zeros_like(weights)
      move[index] = 1e-6
      gradient[index] = -(_log_probs(weights + move, state, row)[2] -
                          _log_probs(weights - move, state, row)[2]) / 2e-6
    expected = weights - 0.1 * gradient
    np.testing.assert_allclose(after.model.weights, expected, atol=1e-5)

    def curved(logits):
      if not sigmoid:
        return _softmax_curvature(logits)
      sig = 1 / (1 + np.exp(1.5 - logits))
      return np.diag(sig * (1 - sig))

    block = _block(row[0] @ expected + row[1],
                   np.float64(state.model.text_embeddings), 5.0, curved)
    old = state.learner.factors
    new = after.learner.factors
    root = np.sqrt(31)
    np.testing.assert_allclose(
        new.a, (np.sqrt(30) * np.float64(old.a)
                + 3 * np.outer(row[0], row[0])) / root, atol=1e-5)
    np.testing.assert_allclose(
        new.b, (np.sqrt(30) * np.float64(old.b) + 3 * block) / root, atol=1e-5)
    self.assertEqual(new.num_pairs, 31)
    self.assertEqual(after.picked, (4,))
    self.assertEqual(after.learner.prior_precision, 20.0)
    for factor, inverse in zip(new[:2], after.model.posterior.image):
      precision = 2 * np.float64(factor) + np.sqrt(20) * np.eye(len(factor))
      np.testing.assert_allclose(inverse, np.linalg.inv(precision), atol=1e-6)
    np.testing.assert_array_equal(
        after.model.posterior.text.a_inv, state.model.posterior.text.a_inv)

  def test_unlearned_label_is_less_surprising(self):
    state, pool, _ = _start(learning_rate=0.1)
    image = model.take(pool, np.array([4]))
    after = online.learn(state, 4, image, 2)
    before, now = (jax.nn.log_softmax(model.cosines(s.model, image).mean)[0, 2]
                   for s in (state, after))
    self.assertGreater(now, before)

  def test_prior_precision_is_fitted_to_the_new_factors(self):
    state, pool, _ = _start(learning_rate=0.1)
    after = online.learn(state, 1, model.take(pool, np.array([1])), 0)
    a, b, _ = _numpy(after.learner.factors)
    weights = np.float64(after.model.weights)

    def evidence(log_prior):
      root = np.exp(log_prior / 2)
      return (weights.size * log_prior - np.exp(log_prior) * (weights**2).sum()
              - len(b) * np.linalg.slogdet(2 * a + root * np.eye(len(a)))[1]
              - len(a) * np.linalg.slogdet(2 * b + root * np.eye(len(b)))[1])

    best = np.log(after.learner.prior_precision)
    self.assertGreater(evidence(best), evidence(best - 0.01))
    self.assertGreater(evidence(best), evidence(best + 0.01))

  def test_errors(self):
    state, pool, _ = _start()
    with self.assertRaisesRegex(ValueError, "row 3 has the label 7"):
      online.learn(state, 3, model.take(pool, np.array([3])), 7)
    with self.assertRaisesRegex(ValueError, "one image expected"):
      online.learn(state, 3, pool, 0)


class SelectTest(absltest.TestCase):

  def test_picks_the_best_row_that_is_left(self):
    state, pool, targets = _start(learning_rate=0.1)
    key = jax.random.key(3)
    asked = []

    def label_of(row):
      asked.append(row)
      return _LABELS[row]

    end = online.select(key, state, pool, targets, label_of, budget=4,
                        num_samples=8)
    self.assertEqual(end.picked, tuple(asked))
    self.assertLen(set(end.picked), 4)
    for picked in end.picked:
      found = np.array(online.scores(key, state, pool, targets, num_samples=8))
      found[list(state.picked)] = -1
      self.assertEqual(picked, found.argmax())
      state = online.learn(state, picked, model.take(pool, np.array([picked])),
                           _LABELS[picked])
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(end)):
      np.testing.assert_array_equal(one, other)

  def test_goes_on_where_it_stopped(self):
    state, pool, targets = _start(learning_rate=0.1)
    run = lambda start, budget: online.select(
        jax.random.key(0), start, pool, targets, _LABELS, budget=budget,
        num_samples=8)
    copy = jax.tree.map(np.array, state)
    half = run(state, 2)
    whole = run(state, 4)
    for one, other in zip(jax.tree.leaves(run(half, 4)),
                          jax.tree.leaves(whole)):
      np.testing.assert_array_equal(one, other)
    for one, other in zip(jax.tree.leaves(copy), jax.tree.leaves(state)):
      np.testing.assert_array_equal(one, other)

  def test_rounds_have_draws_of_their_own(self):
    state, pool, targets = _start(learning_rate=0.0, label_weight=0.0,
                                  refit=False)
    key = jax.random.key(0)
    first = online.scores(key, state, pool, targets, num_samples=8)
    later = online.scores(key, state._replace(picked=(0,)), pool, targets,
                          num_samples=8)
    self.assertFalse(np.allclose(first, later))

  def test_equal_rows_and_few_candidates(self):
    state, pool, targets = _start()
    same = model.take(pool, np.array([5, 5, 5, 5]))
    run = lambda budget: online.select(
        jax.random.key(0), state, same, targets, np.zeros(4, int),
        budget=budget, num_samples=8, candidates=np.array([3, 1, 2])).picked
    self.assertEqual(run(3), (1, 2, 3))
    with self.assertRaisesRegex(ValueError, "4 picks need as many"):
      run(4)

  def test_float64(self):
    with jax.enable_x64(True):
      state, pool, targets = _start(dtype=np.float64)
      end = online.select(jax.random.key(0), state, pool, targets, _LABELS,
                          budget=1, num_samples=8)
      self.assertEqual(end.model.weights.dtype, np.float64)
      self.assertEqual(end.learner.factors.b.dtype, np.float64)


if __name__ == "__main__":
  absltest.main()
