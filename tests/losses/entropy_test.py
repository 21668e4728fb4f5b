"""Entropies against hand cases, plain loops and the released program."""

import functools
import math

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest

from jaxcal.losses import entropy
from tests import quick
from tests import shared


def _loop_entropy(probs):
  return -sum(p * math.log(p) for p in probs if p > 0)


def _loop_softmax(row):
  exponentials = [math.exp(z - max(row)) for z in row]
  return [e / sum(exponentials) for e in exponentials]


def _logits(seed, *shape, scale=3.0):
  return np.random.default_rng(seed).normal(size=shape, scale=scale)


_marginal_and_slope = quick.jit(jax.value_and_grad(entropy.marginal_entropy))


class PredictionEntropyTest(parameterized.TestCase):

  def test_hand_case(self):
    logits = jnp.array([[0.0, 0.0], [0.0, math.log(3)]])
    np.testing.assert_allclose(
        entropy.prediction_entropy(logits), [0.6931472, 0.5623351], rtol=1e-6)

  def test_plain_loop_with_leading_axes(self):
    logits = _logits(0, 2, 3, 7)
    expected = [[_loop_entropy(_loop_softmax(row)) for row in block]
                for block in logits]
    with jax.enable_x64(True):
      np.testing.assert_allclose(
          entropy.prediction_entropy(jnp.asarray(logits)), expected, rtol=1e-12)

  def test_one_class_has_none(self):
    np.testing.assert_array_equal(
        entropy.prediction_entropy(jnp.array([[3.0], [-80.0]])), [0, 0])

  def test_uniform_is_log_k(self):
    np.testing.assert_allclose(
        entropy.prediction_entropy(jnp.full((5,), 40.0)), math.log(5),
        rtol=1e-6)

  @parameterized.parameters(-np.inf, -1e30, -1e4)
  def test_finite_where_a_class_has_no_mass(self, low):
    logits = np.array([low, 0.0, math.log(3)], np.float32)
    run = quick.jit(jax.value_and_grad(entropy.prediction_entropy))
    value, gradient = run(logits)
    np.testing.assert_allclose(value, 0.5623351, rtol=1e-6)
    _, reduced = run(logits[1:])
    np.testing.assert_allclose(gradient, [0, *reduced], atol=1e-7)

  def test_no_class_raises(self):
    with self.assertRaisesRegex(ValueError, "class axis.*logits.shape"):
      entropy.prediction_entropy(jnp.zeros((3, 0)))


class MarginalEntropyTest(parameterized.TestCase):

  def test_is_the_entropy_of_the_mean(self):
    # Two certain views that disagree: a coin, although each is certain.
    logits = jnp.array([[200.0, 0.0], [0.0, 200.0]])
    np.testing.assert_allclose(
        entropy.marginal_entropy(logits), math.log(2), rtol=1e-6)
    np.testing.assert_array_equal(entropy.prediction_entropy(logits), 0)

  def test_plain_loop(self):
    logits = _logits(1, 6, 9)
    where = np.array([True, False, True, True, False, False])
    rows = [_loop_softmax(row) for row, kept in zip(logits, where) if kept]
    mean = [sum(column) / len(rows) for column in zip(*rows)]
    with jax.enable_x64(True):
      value = entropy.marginal_entropy(
          jnp.asarray(logits), where=jnp.asarray(where))
      np.testing.assert_allclose(value, _loop_entropy(mean), rtol=1e-12)

  @parameterized.parameters(np.nan, np.inf, -np.inf)
  def test_rows_left_out_have_no_influence(self, rubbish):
    logits = _logits(2, 4, 5).astype(np.float32)
    where = np.array([True, False, True, False])
    spoilt = np.where(where[:, None], logits, np.float32(rubbish))
    value, gradient = map(np.asarray, _marginal_and_slope(spoilt, where=where))
    subset, subset_gradient = _marginal_and_slope(logits[where])
    np.testing.assert_allclose(value, subset, rtol=1e-6)
    np.testing.assert_allclose(gradient[where], subset_gradient, atol=1e-7)
    np.testing.assert_array_equal(gradient[~where], 0)

  @parameterized.parameters(-np.inf, -1e30)
  def test_finite_where_a_class_has_no_mass_in_any_view(self, low):
    logits = np.array([[low, 0.0, 1.0], [low, 2.0, 1.0]], np.float32)
    value, gradient = _marginal_and_slope(logits)
    np.testing.assert_allclose(
        value, entropy.marginal_entropy(jax.device_put(logits[:, 1:])),
        rtol=1e-6)
    self.assertTrue(np.all(np.isfinite(gradient)))

  def test_saturated_views_have_a_finite_gradient(self):
    _, gradient = _marginal_and_slope(1e4 * np.eye(4, dtype=np.float32))
    self.assertTrue(np.all(np.isfinite(gradient)))

  def test_no_view_is_nan_not_a_number_made_up(self):
    value = entropy.marginal_entropy(
        jnp.zeros((2, 3)), where=jnp.zeros(2, bool))
    self.assertTrue(np.isnan(value))

  def test_order_and_offsets_do_not_matter(self):
    with jax.enable_x64(True):
      logits = _logits(3, 5, 6)
      value = entropy.marginal_entropy(jax.device_put(logits))
      moved = logits[::-1][:, [3, 1, 5, 0, 2, 4]] + np.arange(5.0)[:, None]
      np.testing.assert_allclose(
          entropy.marginal_entropy(jax.device_put(moved)), value, rtol=1e-12)

  @pytest.mark.slow
  def test_gradients_in_float64(self):
    with jax.enable_x64(True):
      logits = jnp.asarray(_logits(4, 5, 6))
      where = jnp.array([True, True, False, True, False])
      check_grads(
          lambda x: entropy.marginal_entropy(jnp.asarray(x), where=where),
          (logits,), 1,
          rtol=1e-6, atol=1e-7)
      check_grads(
          lambda x: entropy.prediction_entropy(jnp.asarray(x)), (logits,), 1,
          rtol=1e-6, atol=1e-7)

  def test_jit_and_vmap(self):
    logits = _logits(5, 3, 4, 5).astype(np.float32)
    where = _logits(6, 3, 4) > -1

    def run(x, w):
      return entropy.marginal_entropy(x, where=w)

    loop = [run(*map(jax.device_put, one)) for one in zip(logits, where)]
    np.testing.assert_allclose(
        quick.jit(jax.vmap(run))(logits, where), loop, rtol=2e-6)

  @parameterized.parameters(jnp.float32, jnp.bfloat16, jnp.float16)
  def test_keeps_the_dtype(self, dtype):
    logits = jax.device_put(_logits(7, 4, 5).astype(dtype))
    exact = entropy.marginal_entropy(
        jax.device_put(np.asarray(logits, np.float32)))
    value = entropy.marginal_entropy(logits)
    self.assertEqual(value.dtype, dtype)
    self.assertEqual(entropy.prediction_entropy(logits).dtype, dtype)
    np.testing.assert_allclose(
        np.float32(value), exact, rtol=4 * float(jnp.finfo(dtype).eps))

  def test_errors(self):
    with self.assertRaisesRegex(ValueError, r"\[views, classes\].*vmap"):
      entropy.marginal_entropy(jnp.zeros((2, 3, 4)))
    with self.assertRaisesRegex(ValueError, r"logits.shape=\(0, 4\)"):
      entropy.marginal_entropy(jnp.zeros((0, 4)))
    with self.assertRaisesRegex(ValueError, "one boolean per view"):
      entropy.marginal_entropy(jnp.zeros((2, 3)), where=jnp.ones(3, bool))
    with self.assertRaisesRegex(ValueError, "boolean.*float32"):
      entropy.marginal_entropy(jnp.zeros((2, 3)), where=jnp.ones(2))


class SingleViewsTest(parameterized.TestCase):
  """Losses of the views one by one."""

  def test_mean_entropy_by_plain_loop(self):
    logits = _logits(0, 5, 7)
    each = [_loop_entropy(_loop_softmax(row)) for row in logits]
    self.assertAlmostEqual(
        float(entropy.mean_entropy(jnp.asarray(logits))), np.mean(each),
        places=5)
    where = np.array([True, False, True, False, False])
    found, gradient = quick.jit(jax.value_and_grad(entropy.mean_entropy))(
        logits, where=where)
    self.assertAlmostEqual(float(found), np.mean(np.array(each)[where]),
                           places=5)
    np.testing.assert_array_equal(
        np.any(np.asarray(gradient) != 0, axis=1), where)
    with self.assertRaisesRegex(ValueError, "of one image"):
      entropy.mean_entropy(jnp.zeros((2, 3, 4)))

  def test_confident_predictions_weigh_more(self):
    logits = jax.device_put(_logits(1, 4, 6))
    each = entropy.prediction_entropy(logits)
    weighted = lambda x: jnp.sum(entropy.confidence_weighted_entropy(x, 0.4))
    np.testing.assert_allclose(
        entropy.confidence_weighted_entropy(logits, 0.4),
        np.exp(0.4 - np.asarray(each)) * np.asarray(each), rtol=1e-5)
    # The factor is a constant of the gradient.
    np.testing.assert_allclose(
        quick.jit(jax.grad(weighted))(logits),
        np.exp(0.4 - np.asarray(each))[:, None] * np.asarray(quick.jit(jax.grad(
            lambda x: jnp.sum(entropy.prediction_entropy(x))))(logits)),
        atol=1e-6)

  def test_how_many_are_confident(self):
    self.assertEqual(entropy.num_confident(64, 0.1), 6)
    with self.assertRaisesRegex(ValueError, "keeps none"):
      entropy.num_confident(8, 0.1)


class ConfidentViewsTest(parameterized.TestCase):

  @parameterized.parameters(
      (64, 0.1, 6), (32, 0.1, 3), (16, 0.25, 4), (5, 1.0, 5), (1, 1.0, 1),
      (100, 0.29, 28))
  def test_how_many(self, num_views, fraction, kept):
    logits = jax.device_put(
        _logits(num_views, num_views, 6).astype(np.float32))
    mask = np.asarray(entropy.confident_views(logits, fraction))
    self.assertEqual(mask.dtype, bool)
    self.assertEqual(int(mask.sum()), kept)
    chosen = np.asarray(entropy.prediction_entropy(logits))
    if kept < num_views:
      self.assertLess(chosen[mask].max(), chosen[~mask].min())

  def test_ties_go_to_the_lowest_index(self):
    logits = np.tile(np.array([0, 1], np.float32), (8, 1))
    logits[5, 1] = 9
    np.testing.assert_array_equal(
        np.flatnonzero(entropy.confident_views(jax.device_put(logits), 0.5)),
        [0, 1, 2, 5])

  def test_jit_and_vmap(self):
    logits = _logits(8, 3, 10, 4).astype(np.float32)
    run = functools.partial(entropy.confident_views, fraction=0.3)
    np.testing.assert_array_equal(
        quick.jit(jax.vmap(run))(logits),
        [run(jax.device_put(x)) for x in logits])

  def test_is_not_differentiated(self):
    def masked_sum(x):
      return jnp.sum(jnp.where(entropy.confident_views(x, 0.5), x[:, 0], 0))

    logits = jax.device_put(_logits(9, 4, 3).astype(np.float32))
    mask = entropy.confident_views(logits, 0.5)
    np.testing.assert_array_equal(
        np.asarray(quick.jit(jax.grad(masked_sum))(logits))[:, 0], mask)

  @parameterized.parameters((8, 0.1), (3, 0.3))
  def test_keeping_none_raises(self, num_views, fraction):
    with self.assertRaisesRegex(ValueError, f"{num_views} views keeps none"):
      entropy.confident_views(jnp.zeros((num_views, 3)), fraction)

  @parameterized.parameters(0.0, -0.1, 1.01, float("nan"))
  def test_fraction_out_of_range_raises(self, fraction):
    with self.assertRaisesRegex(ValueError, r"\(0, 1\], but fraction="):
      entropy.confident_views(jnp.zeros((8, 3)), fraction)


class ReleasedProgramTest(parameterized.TestCase):

  @parameterized.product(num_classes=(5, 12), image=(0, 1, 2))
  def test_entropy_selection_and_loss(self, num_classes, image):
    numbers = shared.arrays("oracles/tpt/tpt_oracle.npz")
    prefix = f"K{num_classes}/tpt/f64/"
    selected = numbers[prefix + "selected"][image]
    with jax.enable_x64(True):
      logits = jax.device_put(numbers[prefix + "view_logits"][image])
      where = entropy.confident_views(
          logits, float(numbers["meta/selection_fraction"]))
      np.testing.assert_allclose(
          entropy.prediction_entropy(logits),
          numbers[prefix + "view_entropy"][image], rtol=0, atol=1e-9)
      np.testing.assert_array_equal(np.flatnonzero(where), np.sort(selected))
      np.testing.assert_allclose(
          entropy.marginal_entropy(logits, where=where),
          numbers[prefix + "loss_entropy"][image, 0], rtol=0, atol=1e-9)


if __name__ == "__main__":
  absltest.main()
