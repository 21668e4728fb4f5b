"""Tuning against the released code's weights and PyTorch-like numpy loops."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcal.posterior import finetuning
from jaxcal.posterior import model
from jaxcal.posterior import selection
from tests.posterior import small

_KEY = jax.random.key(0)
_LABELS = np.array([0, 2, 1, 1, 0, 2, 2, 0, 1, 0, 2, 1])


def _train(pool, rows=slice(None)):
  return model.Labelled(model.take(pool, np.arange(12)[rows]),
                        jnp.asarray(_LABELS[rows]))


def _loss(weights, found, train):
  """Mean cross-entropy in numpy, without posterior."""
  inputs = np.append(np.float64(train.inputs.activations),
                     np.ones((len(train.labels), 1)), 1)
  embedded = inputs @ weights + np.float64(train.inputs.residual)
  texts = np.float64(found.text_embeddings)
  logits = float(found.logit_scale) * (
      embedded / np.linalg.norm(embedded, axis=1, keepdims=True)) @ (
          texts / np.linalg.norm(texts, axis=1, keepdims=True)).T
  picked = logits[np.arange(len(logits)), np.asarray(train.labels)]
  return np.mean(np.log(np.exp(logits).sum(1)) - picked)


def _gradient(weights, *args):
  result = np.zeros_like(weights)
  for index in np.ndindex(weights.shape):
    move = np.zeros_like(weights)
    move[index] = 1e-6
    result[index] = (_loss(weights + move, *args) -
                     _loss(weights - move, *args)) / 2e-6
  return result


def _adamw(found, batches, learning_rate, decay):
  """Weights after a step on each batch, in numpy."""
  weights = np.float64(found.weights)
  first, second = np.zeros_like(weights), np.zeros_like(weights)
  for step, batch in enumerate(batches, 1):
    gradient = _gradient(weights, found, batch)
    first = 0.9 * first + 0.1 * gradient
    second = 0.999 * second + 0.001 * gradient**2
    weights = weights * (1 - learning_rate * decay) - learning_rate * (
        first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
  return weights


def _validation_loss(found, inputs, labels):
  mean = model.cosines(found, inputs).mean
  return -np.take_along_axis(
      np.asarray(jax.nn.log_softmax(mean)), labels[:, None], 1).mean()


class FineTuneTest(parameterized.TestCase):

  @parameterized.named_parameters(*small.CASES)
  def test_released(self, case):
    get, (found, pool, targets) = small.oracle(case), small.released(case)
    pool_labels, labels = small.labels(case)
    tuned = finetuning.fine_tune(
        _KEY, found, model.Labelled(pool, pool_labels),
        model.Labelled(targets, labels),
        finetuning.Schedule(1e-2, 5e-2, num_epochs=5, batch_size=64))
    weights = get("ft_weight_f32").T
    # The epoch whose loss is that of the released weights is the kept one.
    bias = get("ft_bias_f32") if case == "siglip" else None
    own = _validation_loss(
        found._replace(weights=model.with_bias(weights, bias)), targets, labels)
    self.assertEqual(tuned.epoch, 1 + np.argmin(np.abs(tuned.losses - own)))
    self.assertEqual(tuned.epoch, 1 + np.argmin(tuned.losses))
    np.testing.assert_allclose(
        tuned.weights[:len(weights)], weights, atol=2e-6)
    if case == "siglip":
      np.testing.assert_allclose(
          tuned.weights[-1], get("ft_bias_f32"), atol=2e-6)

  def test_a_last_batch_that_is_not_full(self):
    # 5 images in batches of 3: which come first is up to the key, so one epoch
    # must be AdamW on some split into 3 and 2.
    found, pool, _ = small.random()
    train = _train(pool, slice(0, 5))
    tuned = finetuning.fine_tune(
        _KEY, found, train, None,
        finetuning.Schedule(1e-2, 0.1, num_epochs=1, batch_size=3))
    order = np.asarray(jax.random.permutation(
        jax.random.split(_KEY, 1)[0], 5))
    weights = _adamw(
        found, [_train(pool, rows) for rows in (order[:3], order[3:])], 1e-2,
        0.1)
    np.testing.assert_allclose(tuned.weights, weights, atol=2e-5)
    self.assertTrue(np.isnan(tuned.losses).all())
    self.assertEqual(tuned.epoch, 1)

  def test_epochs_are_shuffled_by_the_key(self):
    found, pool, _ = small.random()
    tune = lambda seed: np.asarray(finetuning.fine_tune(
        jax.random.key(seed), found, _train(pool), None,
        finetuning.Schedule(1e-2, num_epochs=2, batch_size=5)).weights)
    np.testing.assert_array_equal(tune(0), tune(0))
    self.assertGreater(np.abs(tune(0) - tune(1)).max(), 1e-4)

  def test_validation_picks_the_epoch(self):
    found, pool, _ = small.random()
    train = _train(pool)
    others = (_LABELS + 1) % 3
    # What is trained on is fitted better and better, or worse and worse.
    for rate, labels, expected in (
        (0.01, _LABELS, 6), (-0.01, _LABELS, 1), (0.01, others, None)):
      chosen = finetuning.fine_tune(
          _KEY, found, train, train._replace(labels=jnp.asarray(labels)),
          finetuning.Schedule(rate, num_epochs=6, batch_size=12))
      self.assertEqual(chosen.epoch, expected or 1 + np.argmin(chosen.losses))
      np.testing.assert_allclose(
          _validation_loss(
              found._replace(weights=chosen.weights), pool, labels),
          chosen.losses.min(), rtol=1e-5)
      # Batches are of all images, so that their order does not matter.
      np.testing.assert_allclose(
          chosen.weights,
          _adamw(found, int(chosen.epoch) * [train], rate, 0.05), atol=2e-5)

  def test_ties_go_to_the_later_epoch(self):
    found, pool, targets = small.random()
    validation = model.Labelled(targets, jnp.zeros(6, int))
    tuned = finetuning.fine_tune(
        _KEY, found, _train(pool), validation,
        finetuning.Schedule(0.0, num_epochs=3))
    self.assertEqual(tuned.epoch, 3)
    np.testing.assert_array_equal(tuned.weights, found.weights)

  def test_losses_that_are_not_finite_keep_the_weights(self):
    found, pool, targets = small.random()
    broken = targets._replace(activations=targets.activations * jnp.nan)
    tuned = finetuning.fine_tune(
        _KEY, found, _train(pool), model.Labelled(broken, jnp.zeros(6, int)),
        finetuning.Schedule(0.05, num_epochs=3))
    self.assertEqual(tuned.epoch, 0)
    np.testing.assert_array_equal(tuned.weights, found.weights)

  def test_errors(self):
    found, pool, _ = small.random()
    with self.assertRaisesRegex(ValueError, "12 images and"):
      finetuning.fine_tune(
          _KEY, found, model.Labelled(pool, jnp.zeros(11, int)))


class LearningCurveTest(absltest.TestCase):

  def _curve(self, **changes):
    found, pool, targets = small.random()
    problem = selection.Problem(found, pool, targets, labels=_LABELS)
    settings = dict(
        strategies=["random", "entropy_targets"], budgets=[3, 6], seeds=[0, 1],
        schedule=finetuning.Schedule(0.02, num_epochs=2, batch_size=2))
    return problem, list(finetuning.learning_curve(
        problem, targets, **(settings | changes)))

  @pytest.mark.slow
  def test_cells_are_what_their_parts_give(self):
    problem, curve = self._curve()
    self.assertLen(curve, 8)
    for cell, point in curve:
      key = jax.random.key(cell.seed)
      rows = selection.select(cell.strategy, jax.random.fold_in(key, 0),
                              problem, cell.budget)
      np.testing.assert_array_equal(point.rows, rows)
      tuned = finetuning.fine_tune(
          jax.random.fold_in(key, 1), problem.model, _train(problem.pool, rows),
          None, finetuning.Schedule(0.02, num_epochs=2, batch_size=2))
      np.testing.assert_allclose(
          point.tuned.weights, tuned.weights, atol=1e-5)
      cosines = model.cosines(
          problem.model._replace(weights=tuned.weights), problem.targets)
      np.testing.assert_allclose(point.cosines.mean, cosines.mean, atol=1e-4)
      np.testing.assert_allclose(
          point.cosines.variance, cosines.variance, rtol=1e-3)

  @pytest.mark.slow
  def test_goes_on_without_what_is_done(self):
    _, whole = self._curve()
    done = [cell for cell, _ in whole[:3]]
    _, rest = self._curve(done=done)
    self.assertEqual([cell for cell, _ in rest],
                     [cell for cell, _ in whole if cell not in done])
    expected = dict(whole)
    for cell, point in rest:
      np.testing.assert_array_equal(point.rows, expected[cell].rows)
      np.testing.assert_allclose(
          point.cosines.mean, expected[cell].cosines.mean, atol=1e-4)

  def test_labels_of_one_another(self):
    # Tuning on a pool's labels helps on those, and not on another row's.
    found, pool, _ = small.random()
    losses = []
    for labels in (_LABELS, np.roll(_LABELS, 1)):
      problem = selection.Problem(found, pool, pool, labels=labels)
      _, point = next(finetuning.learning_curve(
          problem, pool, strategies=["random"], budgets=[12], seeds=[0],
          schedule=finetuning.Schedule(0.05, num_epochs=30)))
      tuned = found._replace(weights=point.tuned.weights)
      losses.append([_validation_loss(tuned, pool, own) for own in (
          _LABELS, np.roll(_LABELS, 1))])
    before = [_validation_loss(found, pool, own) for own in (
        _LABELS, np.roll(_LABELS, 1))]
    np.testing.assert_array_less(np.diag(losses), before)
    np.testing.assert_array_less(np.diag(losses), np.diag(losses[::-1]))

  def test_an_annotator_is_not_enough(self):
    found, pool, targets = small.random()
    problem = selection.Problem(found, pool, targets, labels=lambda row: 0)
    with self.assertRaisesRegex(ValueError, "of the whole pool"):
      next(finetuning.learning_curve(
          problem, targets, strategies=["random"], budgets=[1], seeds=[0]))


if __name__ == "__main__":
  absltest.main()
