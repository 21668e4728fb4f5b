"""Logit ranges by hand, and against stored values and gradients."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.losses import logit_range
from tests import quick
from tests import shared


def _oracle():
  return shared.arrays("oracles/few_shot/calibration_oracle.npz")


def _batch(oracle):
  rows = oracle["logit_range/batch_idx"]
  return [jax.device_put(oracle[f"data/val_{name}"][rows])
          for name in ("logits", "logits_zs", "labels")]


def _cross_entropy(logits, labels):
  chosen = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
  return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - chosen)


class MatchRangeTest(parameterized.TestCase):

  def test_by_hand(self):
    logits = jnp.array([[0.0, 4.0, 1.0], [3.0, 1.0, 2.0]])
    reference = jnp.array([[2.0, 6.0, 3.0], [10.0, 0.0, 9.0]])
    np.testing.assert_allclose(
        logit_range.match_range(logits, reference), [[2, 6, 3], [10, 0, 5]])

  @parameterized.parameters("test", "new")
  def test_stored_logits(self, split):
    oracle = _oracle()
    with jax.enable_x64(True):
      logits, reference = (
          jax.device_put(oracle[f"data/{split}_{name}"])
          for name in ("logits", "logits_zs"))
      matched = logit_range.match_range(logits, reference)
      np.testing.assert_allclose(
          matched, oracle[f"sals/{split}_logits"], rtol=1e-9)
      np.testing.assert_array_equal(
          np.argsort(matched, axis=-1), np.argsort(logits, axis=-1))
      np.testing.assert_allclose(
          logit_range.match_range(reference, reference), reference, rtol=1e-12)

  @parameterized.parameters((jnp.float32, 1e-6), (jnp.bfloat16, 1e-2))
  def test_both_ends_are_the_reference_s(self, dtype, tolerance):
    rng = np.random.default_rng(0)
    logits, reference = (
        jax.device_put((rng.normal(size=(500, 9)) * 30).astype(dtype))
        for _ in range(2))
    matched = logit_range.match_range(logits, reference)
    self.assertEqual(matched.dtype, dtype)
    for end in (np.min, np.max):
      np.testing.assert_allclose(
          *(end(np.float32(x), axis=-1) for x in (matched, reference)),
          rtol=tolerance)

  def test_cross_entropy_of_zs_norm(self):
    oracle = _oracle()
    with jax.enable_x64(True):
      logits, reference, labels = _batch(oracle)
      value, gradient = quick.jit(jax.value_and_grad(
          lambda x: _cross_entropy(
              logit_range.match_range(x, reference), labels)))(logits)
      np.testing.assert_allclose(value, oracle["zsnorm/loss"], rtol=1e-9)
      np.testing.assert_allclose(
          gradient, oracle["zsnorm/grad_logits"], atol=1e-9)

  def test_equal_logits(self):
    reference = jnp.array([1.0, 5.0, 3.0])

    @quick.jit
    def run(x, of_value):
      value, pull = jax.vjp(
          lambda x: logit_range.match_range(x, reference), x)
      return value, pull(of_value)[0]

    value, pulled = run(np.full(3, 2.0), np.arange(3.0))
    np.testing.assert_array_equal(value, [1, 1, 1])
    np.testing.assert_array_equal(pulled, [0, 0, 0])

  def test_one_class(self):
    np.testing.assert_array_equal(
        logit_range.match_range(jnp.array([7.0]), jnp.array([2.0])), [2])


class RangeExcessTest(absltest.TestCase):

  def test_by_hand(self):
    reference = jnp.array([-1.0, 0.0, 2.0])
    np.testing.assert_allclose(
        logit_range.range_excess(jnp.array([-4.0, 1.0, 2.5]), reference),
        (3 + .5) / 3, rtol=1e-6)
    np.testing.assert_array_equal(
        logit_range.range_excess(reference[::-1], reference), 0)

  def test_stored_penalty(self):
    oracle = _oracle()
    with jax.enable_x64(True):
      logits, reference, labels = _batch(oracle)

      def loss(x):
        excess = jnp.mean(logit_range.range_excess(x, reference))
        return _cross_entropy(x, labels) + 10 * excess, excess

      (value, excess), gradient = quick.jit(jax.value_and_grad(
          loss, has_aux=True))(logits)
      np.testing.assert_allclose(
          excess, oracle["penalty/above"] + oracle["penalty/below"], rtol=1e-9)
      np.testing.assert_allclose(value, oracle["penalty/loss"], rtol=1e-9)
      np.testing.assert_allclose(
          gradient, oracle["penalty/grad_logits"], atol=1e-9)


class BothTest(parameterized.TestCase):

  @parameterized.parameters(
      logit_range.match_range, logit_range.range_excess)
  def test_the_reference_does_not_learn(self, function):
    logits, reference = jnp.array([0.0, 3.0, 9.0]), jnp.array([1.0, 2.0, 4.0])
    gradients = quick.jit(jax.grad(
        lambda *args: jnp.sum(function(*args)), argnums=(0, 1)))(
            logits, reference)
    self.assertGreater(np.abs(gradients[0]).max(), 0)
    np.testing.assert_array_equal(gradients[1], np.zeros(3))

  @parameterized.parameters(
      logit_range.match_range, logit_range.range_excess)
  def test_what_is_refused(self, function):
    for shapes in (((3,), (2,)), ((), ()), ((2, 0), (2, 0)), ((2, 3), (3,))):
      with self.assertRaisesRegex(ValueError, "same images and classes"):
        function(*map(jnp.zeros, shapes))


if __name__ == "__main__":
  absltest.main()
