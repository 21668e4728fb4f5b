"""Predictions of a posterior against float64 arithmetic in plain numpy."""

import itertools

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxcal.adapt.prompt import bayesian
from jaxcal.clip import towers
from jaxcal.posterior import laplace
from jaxcal.typing import Pooled

_P, _W, _D, _K, _S = 7, 6, 5, 4, 400
_SCALE = 20.0


def _covariance(rng, size, scale):
  root = rng.standard_normal((size, size))
  return scale * (root @ root.T / size + 0.1 * np.eye(size))


def _whole(mean, covariance):
  return mean, covariance


def _turning(mean, covariance):
  """Shifted mean, and what of the covariance is across the mean."""
  across = np.eye(len(mean)) - np.outer(mean, mean) / (mean @ mean)
  turns = across @ covariance @ across
  square = mean @ mean + np.trace(turns)
  return mean - across @ covariance @ mean / square, turns


class BayesianTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    self.image = Pooled(rng.standard_normal(_P), rng.standard_normal(_D))
    self.texts = rng.standard_normal((_K, _W))
    self.maps = [(rng.standard_normal((_P, _D)), rng.standard_normal(_D)),
                 (rng.standard_normal((_W, _D)), None)]
    # The image projection has a bias, so its covariance is one wider.
    self.layers = [
        (_covariance(rng, _P + 1, 0.05), _covariance(rng, _D, 0.3)),
        (_covariance(rng, _W, 0.04), _covariance(rng, _D, 0.2))]
    self.noise = rng.standard_normal((_S, _K))

  def _head(self, layers=None):
    layers = layers or [laplace.Layer(*map(jnp.float32, layer))
                        for layer in self.layers]
    return bayesian.Head(
        laplace.Posterior(*layers),
        *(towers.Projection(jnp.float32(kernel),
                            None if bias is None else jnp.float32(bias))
          for kernel, bias in self.maps),
        jnp.float32(_SCALE), jnp.float32(self.noise))

  def _predict(self, head):
    image = bayesian.embed(
        jnp.float32(self.image.activations)[None], head.image,
        head.posterior.image, jnp.float32(self.image.residual)[None])
    texts = bayesian.embed(
        jnp.float32(self.texts), head.text, head.posterior.text)
    return bayesian.predict(head, texts, jax.tree.map(lambda x: x[0], image))

  def _expected(self, form):
    """Means and variances of the logits, class by class."""
    (kernel, bias), (text_kernel, _) = self.maps
    (a, b), (text_a, text_b) = self.layers
    if form == "diagonal":
      b, text_b = (np.diag(np.diag(one)) for one in (b, text_b))
    side = _turning if form == "tangent" else _whole
    mu = self.image.activations @ kernel + bias + self.image.residual
    extended = np.append(self.image.activations, 1)
    shifted, cov = side(mu, (extended @ a @ extended) * b)
    means, variances = [], []
    for activations in self.texts:
      nu = activations @ text_kernel
      text_shifted, text_cov = side(
          nu, (activations @ text_a @ activations) * text_b)
      norm = (mu @ mu + np.trace(cov)) * (nu @ nu + np.trace(text_cov))
      means.append(_SCALE * shifted @ text_shifted / np.sqrt(norm))
      variances.append(_SCALE**2 / norm * (
          mu @ text_cov @ mu + nu @ cov @ nu + np.trace(cov @ text_cov)))
    return np.array(means), np.array(variances), extended @ a @ extended

  @pytest.mark.slow
  def test_logits_and_variances_are_those_of_the_formula(self):
    predicted = self._predict(self._head())
    self.assertEqual(set(predicted), {"diagonal", "full", "tangent"})
    for form, (logits, uncertainty) in predicted.items():
      mean, variance, spread = self._expected(form)
      expected = mean / np.sqrt(1 + np.pi / 8 * variance)
      np.testing.assert_allclose(logits, expected, rtol=2e-5, atol=1e-4)
      np.testing.assert_allclose(
          uncertainty.variance, variance[expected.argmax()], rtol=1e-4)
      np.testing.assert_allclose(uncertainty.image_variance, spread, rtol=1e-4)

  @pytest.mark.slow
  def test_the_forms_differ(self):
    predicted = self._predict(self._head())
    for one, other in itertools.combinations(predicted, 2):
      self.assertGreater(
          np.abs(predicted[one][0] - predicted[other][0]).max(), 0.01)

  def test_uncertainty_is_split_as_sampled_predictions_say(self):
    mean, variance, _ = self._expected("full")
    probs = special.softmax(mean + np.sqrt(variance) * self.noise, axis=-1)
    entropy = lambda p: special.entr(p).sum(-1)
    _, uncertainty = self._predict(self._head())["full"]
    np.testing.assert_allclose(
        uncertainty.aleatoric, entropy(probs).mean(), atol=1e-4)
    np.testing.assert_allclose(
        uncertainty.epistemic, entropy(probs.mean(0)) - entropy(probs).mean(),
        atol=1e-4)

  def test_without_covariance_the_prediction_is_the_cosine(self):
    head = self._head([laplace.deterministic(_P + 1, _D),
                       laplace.deterministic(_W, _D)])
    (kernel, bias), (text_kernel, _) = self.maps
    mu = self.image.activations @ kernel + bias + self.image.residual
    texts = self.texts @ text_kernel
    cosines = texts @ mu / np.linalg.norm(texts, axis=-1) / np.linalg.norm(mu)
    for logits, uncertainty in self._predict(head).values():
      np.testing.assert_allclose(logits, _SCALE * cosines, atol=1e-4)
      np.testing.assert_allclose(uncertainty.epistemic, 0, atol=1e-5)
      self.assertEqual(uncertainty.image_variance, 0)


if __name__ == "__main__":
  absltest.main()
