"""Regularisers of unit-norm features refuse others."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.losses import angular
from jaxcal.losses import cosines
from jaxcal.losses import deviation
from jaxcal.losses import dispersion
from jaxcal.losses import orthogonality
from tests import quick


def _eye(x):
  return jax.device_put(np.eye(*x.shape, dtype=np.float32))


_ALL = {
    "dispersion": dispersion.text_dispersion,
    "householder": orthogonality.householder_orthogonality,
    "full": orthogonality.full_orthogonality,
    "semantic": lambda x: orthogonality.semantic_orthogonality(x, delta=0.5),
    "quantile": orthogonality.quantile_semantic_orthogonality,
    "angle": angular.nearest_angle,
    "tuned": lambda x: deviation.cosine_deviation(x, _eye(x)),
    "frozen": lambda x: deviation.cosine_deviation(_eye(x), x),
    "cosines": lambda x: cosines.cosine_matrix(x, diagonal=0.0),
}


def _unit(k=6, d=40):
  features = np.random.default_rng(0).normal(size=(k, d))
  return features / np.linalg.norm(features, axis=1, keepdims=True)


class UnitNormTest(parameterized.TestCase):

  @parameterized.named_parameters(*_ALL.items())
  def test_other_norms_are_refused(self, function):
    features = _unit()
    features[2] *= 3
    features[4] *= 0.5
    for dtype in (np.float32, jnp.bfloat16):
      with self.assertRaisesRegex(
          ValueError, "unit norm, but 2 of 6 are not; the first of them has "
          r"norm (3|2\.9\d+|3\.0\d+)\. Divide"):
        function(jax.device_put(features.astype(dtype)))
    for value in (0, np.nan, np.inf):
      broken = _unit()
      broken[1] = value
      with self.assertRaisesRegex(ValueError, "unit norm, but 1 of 6"):
        function(jax.device_put(broken.astype(np.float32)))

  @parameterized.named_parameters(*_ALL.items())
  def test_half_precision_may_round(self, function):
    for dtype in (jnp.float16, jnp.bfloat16):
      rounded = jax.device_put(_unit().astype(dtype))
      norms = np.linalg.norm(np.asarray(rounded, float), axis=1)
      self.assertGreater(np.abs(norms - 1).max(), 1e-6)
      function(rounded)
      # Normalised in half precision from the beginning.
      features = jnp.asarray(3 * _unit(), dtype)
      function(features / jnp.linalg.norm(features, axis=1, keepdims=True))

  @parameterized.named_parameters(*_ALL.items())
  def test_traced_features_pass(self, function):
    features = (3 * _unit()).astype(np.float32)
    self.assertTrue(np.all(np.isfinite(quick.jit(function)(features))))


if __name__ == "__main__":
  absltest.main()
