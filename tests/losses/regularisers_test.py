"""What all regularisers of the class features have in common."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
from jax.extend import core
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np

from jaxcal.losses import angular
from jaxcal.losses import deviation
from jaxcal.losses import dispersion
from jaxcal.losses import orthogonality
from tests import quick
from tests import shared


def _constant_delta(features):
  return orthogonality.semantic_orthogonality(features, delta=0.5)


def _deviation(features):
  frozen = jax.device_put(_unit(99, *features.shape).astype(features.dtype))
  return deviation.cosine_deviation(features, frozen)


_OF_FEATURES = {
    "dispersion": dispersion.text_dispersion,
    "householder": orthogonality.householder_orthogonality,
    "full": orthogonality.full_orthogonality,
    "semantic": _constant_delta,
    "quantile": orthogonality.quantile_semantic_orthogonality,
    "angle": angular.nearest_angle,
}
_ALL = _OF_FEATURES | {"deviation": _deviation}
_ORACLE_NAMES = {
    "dispersion": "ctpt", "householder": "otpt", "angle": "atpt",
    "semantic": "soc_const", "quantile": "soc_quantile",
}


def _unit(seed, k, d, spread=1.0):
  """Class features with a common direction, as CLIP's have."""
  generator = np.random.default_rng(seed)
  features = generator.normal(size=(k, d)) * spread
  features[:, 0] += 2
  return features / np.linalg.norm(features, axis=1, keepdims=True)


def _normalise(features):
  return features / jnp.linalg.norm(features, axis=1, keepdims=True)


def _named(functions):
  return tuple((name, function) for name, function in functions.items())


class RegulariserTest(parameterized.TestCase):

  @parameterized.product(name=tuple(_ORACLE_NAMES), num_classes=(5, 12))
  def test_released_program(self, name, num_classes):
    numbers = shared.arrays("oracles/tpt/tpt_oracle.npz")
    expected = numbers[f"K{num_classes}/{_ORACLE_NAMES[name]}/f64/reg"][:, 0]
    self.assertEqual(float(numbers["meta/soc_const_delta"]), 0.5)
    with jax.enable_x64(True):
      features = jax.device_put(
          numbers[f"K{num_classes}/text_features0/f64"])
      np.testing.assert_allclose(
          np.broadcast_to(_OF_FEATURES[name](features), expected.shape),
          expected, rtol=0, atol=1e-9)

  @parameterized.named_parameters(*_named(_OF_FEATURES))
  def test_invariant_to_rotation_and_class_order(self, function):
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))
    with jax.enable_x64(True):
      features = _unit(1, 8, 6)
      value = function(jax.device_put(features))
      self.assertGreater(value, 0.01)
      np.testing.assert_allclose(
          function(jax.device_put(features[::-1] @ rotation)), value,
          rtol=1e-10)

  @parameterized.named_parameters(
      *_named({name: f for name, f in _ALL.items() if name != "quantile"}))
  def test_gradients_in_float64(self, function):
    with jax.enable_x64(True):
      features = jax.device_put(_unit(2, 5, 7))
      check_grads(
          jax.jit(lambda x: function(_normalise(x))), (features,), 1,
          rtol=1e-6, atol=1e-7)

  @parameterized.named_parameters(*_named(_ALL))
  def test_finite_for_duplicates_and_few_classes(self, function):
    base = _unit(3, 3, 6)
    axes = np.eye(6)
    cases = {
        "duplicates": np.concatenate([base, base]),
        "all the same": np.tile(base[:1], (6, 1)),
        "opposite": np.stack([axes[0], -axes[0]]),
        "orthogonal": axes,
        "two the same": np.tile(base[:1], (2, 1)),
        "two": base[:2],
        "one": base[:1],
    }
    run = quick.jit(jax.value_and_grad(function))
    for case, features in cases.items():
      for dtype in (jnp.float32, jnp.bfloat16):
        with self.subTest(case=case, dtype=dtype.__name__):
          value, gradient = run(features.astype(dtype))
          self.assertTrue(np.isfinite(value))
          self.assertTrue(np.all(np.isfinite(np.asarray(gradient))))

  @parameterized.named_parameters(*_named(_OF_FEATURES))
  def test_one_class_gives_exactly_zero(self, function):
    value, gradient = quick.jit(jax.value_and_grad(function))(
        _unit(4, 1, 6).astype(np.float32))
    self.assertEqual(value, 0)
    np.testing.assert_array_equal(gradient, np.zeros((1, 6)))

  @parameterized.named_parameters(*_named(_ALL))
  def test_jit_and_vmap(self, function):
    with jax.enable_x64(True):
      batch = np.stack([_unit(seed, 6, 5) for seed in range(3)])
      loop = [function(jax.device_put(features)) for features in batch]
      np.testing.assert_allclose(
          quick.jit(jax.vmap(function))(batch), loop, rtol=1e-12)

  @parameterized.named_parameters(*_named(_ALL))
  def test_keeps_the_dtype(self, function):
    features = _unit(5, 6, 32)
    exact = function(jax.device_put(features.astype(np.float32)))
    self.assertEqual(exact.dtype, jnp.float32)
    half = function(jax.device_put(features.astype(jnp.bfloat16)))
    self.assertEqual(half.dtype, jnp.bfloat16)
    np.testing.assert_allclose(np.float32(half), exact, rtol=0.03)

  @parameterized.named_parameters(*_named(_ALL))
  def test_strict_dtypes(self, function):
    with jax.numpy_dtype_promotion("strict"):
      for dtype in (jnp.float32, jnp.bfloat16):
        function(jax.device_put(_unit(6, 4, 5).astype(dtype)))

  @parameterized.named_parameters(*_named(_OF_FEATURES))
  def test_memory_is_quadratic_in_the_classes(self, function):
    k = 1000
    shape = jax.ShapeDtypeStruct((k, 64), jnp.float32)
    program = jax.make_jaxpr(jax.value_and_grad(function))(shape)
    self.assertLessEqual(max(_sizes(program.jaxpr)), 2 * k * k)

  @parameterized.named_parameters(*_named(_OF_FEATURES))
  def test_wrong_shapes_raise(self, function):
    for shape in ((6,), (2, 3, 4), (0, 4), (4, 0)):
      with self.assertRaisesRegex(ValueError, r"\[classes, dimensions\]"):
        jax.eval_shape(function, jax.ShapeDtypeStruct(shape, jnp.float32))


def _sizes(program):
  """Number of values of everything that a program computes."""
  for equation in program.eqns:
    for output in equation.outvars:
      yield output.aval.size
    for inner in core.jaxprs_in_params(equation.params):
      yield from _sizes(inner)


if __name__ == "__main__":
  absltest.main()
