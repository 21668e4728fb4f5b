"""Scores against hand cases, plain loops and scikit-learn."""

import math

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
from sklearn import metrics as sklearn_metrics

from jaxcal.metrics import scoring
from tests import quick


def _data(seed, n, k):
  generator = np.random.default_rng(seed)
  return generator.normal(size=(n, k), scale=2), generator.integers(k, size=n)


def _softmax(logits):
  exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
  return exponentials / exponentials.sum(axis=1, keepdims=True)


class CorrectTest(parameterized.TestCase):

  def test_top_one_and_two(self):
    logits = np.array([[3.0, 1.0, 2.0]] * 3)
    labels = np.arange(3)
    np.testing.assert_array_equal(
        scoring.correct(logits, labels), [True, False, False])
    np.testing.assert_array_equal(
        scoring.correct(logits, labels, k=2), [True, False, True])
    np.testing.assert_array_equal(scoring.correct(logits, labels, k=9), True)

  @parameterized.parameters(1, 2, 5)
  def test_stable_sort_with_ties(self, k):
    generator = np.random.default_rng(k)
    logits = generator.integers(4, size=(200, 6)).astype(float)
    labels = generator.integers(6, size=200)
    expected = [
        label in np.argsort(-row, kind="stable")[:k]
        for row, label in zip(logits, labels)]
    np.testing.assert_array_equal(
        scoring.correct(logits, labels, k=k), expected)
    if k == 1:
      np.testing.assert_array_equal(logits.argmax(axis=1) == labels, expected)

  @parameterized.parameters(1, 3)
  def test_scikit_learn(self, k):
    logits, labels = _data(0, 300, 7)
    np.testing.assert_allclose(
        scoring.accuracy(logits, labels, k=k),
        sklearn_metrics.top_k_accuracy_score(labels, logits, k=k), rtol=1e-6)

  def test_logits_that_are_computed_where_they_are_compared(self):
    # Some compilations round them twice, and not alike.
    labels = np.arange(5000) % 10

    def run(key):
      return scoring.correct(2.5 * jax.random.normal(key, (5000, 10)), labels)

    logits = 2.5 * jax.random.normal(jax.random.key(0), (5000, 10))
    found = jax.jit(run)(jax.random.key(0))
    wrong = np.sum(np.asarray(found) != (logits.argmax(-1) == labels))
    self.assertLessEqual(wrong, 1)

  def test_balanced_accuracy(self):
    logits, labels = _data(1, 200, 5)
    labels = np.where(labels == 3, 0, labels)  # one class does not occur
    copies = np.random.default_rng(2).poisson(1.0, size=200)
    for weights in (None, copies):
      np.testing.assert_allclose(
          scoring.balanced_accuracy(logits, labels, weights=weights),
          sklearn_metrics.recall_score(
              labels, logits.argmax(1), labels=[0, 1, 2, 4], average="macro",
              sample_weight=weights), rtol=1e-6)

  def test_probability_of_the_highest_classes(self):
    probs = _softmax(_data(3, 40, 5)[0])
    for k in (1, 2, 5):
      np.testing.assert_allclose(
          scoring.top_probability(probs, k=k),
          np.sort(probs, axis=1)[:, -k:].sum(1), rtol=1e-6)
    self.assertLessEqual(scoring.top_probability(probs, k=5).max(), 1)
    with self.assertRaisesRegex(ValueError, r"k must lie in \[1, 5\], but k=6"):
      scoring.top_probability(probs, k=6)
    with self.assertRaisesRegex(ValueError, r"probs must lie in \[0, 1\]"):
      scoring.top_probability(100 * probs)

  def test_nan_is_never_correct(self):
    logits = np.array([[np.nan, 1.0], [np.nan, np.nan], [2.0, np.nan]])
    np.testing.assert_array_equal(
        scoring.correct(logits, np.array([1, 0, 0])), False)

  def test_weights_are_copies(self):
    logits, labels = _data(1, 50, 4)
    copies = np.random.default_rng(2).poisson(1.0, size=50)
    np.testing.assert_allclose(
        scoring.accuracy(logits, labels, weights=copies),
        np.mean(np.repeat(logits.argmax(axis=1) == labels, copies)), rtol=1e-6)

  def test_leading_axes_jit_and_vmap(self):
    logits, labels = _data(3, 24, 5)
    logits, labels = logits.reshape(4, 6, 5), labels.reshape(4, 6)
    whole = scoring.correct(logits, labels, k=2)
    self.assertEqual(whole.shape, (4, 6))
    np.testing.assert_array_equal(
        jax.jit(jax.vmap(lambda x, y: scoring.correct(x, y, k=2)))(
            logits, labels), whole)


class NegativeLogLikelihoodTest(parameterized.TestCase):

  def test_by_hand(self):
    logits = np.array([[0.0, math.log(3)]] * 2)
    np.testing.assert_allclose(
        scoring.negative_log_likelihood(logits, np.array([0, 1])),
        [math.log(4), math.log(4 / 3)], rtol=1e-6)

  def test_scikit_learn(self):
    logits, labels = _data(4, 200, 6)
    probs = _softmax(logits)
    expected = sklearn_metrics.log_loss(labels, probs, labels=range(6))
    with jax.enable_x64(True):
      for scores in (logits, np.log(probs), logits + 7):
        np.testing.assert_allclose(
            np.mean(scoring.negative_log_likelihood(scores, labels)),
            expected, rtol=1e-12)

  def test_an_impossible_label_is_infinite_unless_clamped(self):
    log_probs = np.array([[-np.inf, 0.0]] * 2)
    labels = np.array([0, 1])
    np.testing.assert_array_equal(
        scoring.negative_log_likelihood(log_probs, labels), [np.inf, 0])
    np.testing.assert_allclose(
        scoring.negative_log_likelihood(log_probs, labels, clamp=2**-23),
        [15.942385, 2**-23], rtol=1e-6)

  def test_gradient_is_softmax_minus_target(self):
    logits, labels = _data(5, 4, 3)
    with jax.enable_x64(True):
      def total(x):
        return jnp.sum(scoring.negative_log_likelihood(x, labels))

      np.testing.assert_allclose(
          quick.jit(jax.grad(total))(logits),
          _softmax(logits) - np.eye(3)[labels], rtol=1e-10)
      check_grads(total, (jnp.asarray(logits),), 1, rtol=1e-6)

  def test_half_precision_gives_single(self):
    logits, labels = _data(6, 5, 3)
    value = scoring.negative_log_likelihood(
        jnp.asarray(logits, jnp.bfloat16), labels)
    self.assertEqual(value.dtype, jnp.float32)


class BrierScoreTest(absltest.TestCase):

  def test_by_hand(self):
    probs = np.array([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(
        scoring.brier_score(probs, np.array([0, 1, 2])),
        [0.09 + 0.04 + 0.01, 0, 2], rtol=1e-6)

  def test_plain_loop_and_scikit_learn(self):
    logits, labels = _data(7, 60, 5)
    probs = _softmax(logits)
    expected = [
        sum((p - (k == y))**2 for k, p in enumerate(row))
        for row, y in zip(probs, labels)]
    with jax.enable_x64(True):
      np.testing.assert_allclose(
          scoring.brier_score(probs, labels), expected, rtol=1e-12)
      two = probs[:, :2] / probs[:, :2].sum(axis=1, keepdims=True)
      # scikit-learn halves the sum over two classes.
      np.testing.assert_allclose(
          np.mean(scoring.brier_score(two, labels % 2)) / 2,
          sklearn_metrics.brier_score_loss(labels % 2, two[:, 1]), rtol=1e-12)


class ErrorTest(parameterized.TestCase):

  @parameterized.parameters(
      scoring.correct, scoring.negative_log_likelihood, scoring.brier_score)
  def test_scores_and_labels_must_fit(self, function):
    with self.assertRaisesRegex(ValueError, r"\(2, 3\) and \(3,\)"):
      function(np.zeros((2, 3)), np.zeros(3, int))
    with self.assertRaisesRegex(ValueError, r"\[0, 3\), but they span \[1, 3"):
      function(np.zeros((2, 3)), np.array([1, 3]))
    with self.assertRaisesRegex(ValueError, r"span \[-1, 0\]"):
      function(np.zeros((2, 3)), np.array([-1, 0]))
    with self.assertRaisesRegex(TypeError, "integers.*float32"):
      function(np.zeros((2, 3)), np.zeros(2, np.float32))

  def test_options(self):
    zeros, labels = np.zeros((2, 3)), np.zeros(2, int)
    with self.assertRaisesRegex(ValueError, "k=0"):
      scoring.correct(zeros, labels, k=0)
    with self.assertRaisesRegex(ValueError, "clamp=0.5"):
      scoring.negative_log_likelihood(zeros, labels, clamp=0.5)
    with self.assertRaisesRegex(ValueError, "probs must lie.*the first is nan"):
      scoring.brier_score(np.full((2, 3), np.nan), labels)


if __name__ == "__main__":
  absltest.main()
