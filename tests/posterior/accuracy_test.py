"""How right the closed forms are: the table of docs/bayesvlm.md, recomputed."""

import pathlib
import re
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcal
from jaxcal.data import image_set as image_sets
from jaxcal.posterior import fit
from jaxcal.posterior import head
from jaxcal.posterior import inputs
from jaxcal.posterior import laplace
from jaxcal.posterior import model as models
from jaxcal.posterior import predictive
from jaxcal.testbed import pairs as testbed_pairs
from jaxcal.testbed import sets
from tests import quick
from tests.posterior import exact
from tests.posterior import small

_FORMS = (predictive.prob_cosine, predictive.prob_cosine_full,
          predictive.prob_cosine_tangent)
_over_images = {
    form: quick.jit(jax.vmap(form, (0, None, None, None))) for form in _FORMS}


def _ratios(images, texts, posterior):
  """Absolute cosines of the means, and variances over the exact ones [3 p]."""
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  _, variance = exact.of_posterior(images, texts, posterior, 1.0)
  found = [(np.asarray(_over_images[form](
      images, texts, posterior, 1.0).variance) / variance).ravel()
           for form in _FORMS]
  cosines = unit(np.asarray(images.mean)) @ unit(np.asarray(texts.mean)).T
  return np.abs(cosines).ravel(), np.array(found)


def _random(seed, size, *, d, decay, shared, n=12, k=6):
  """Covariances whose eigenvalues fall as 1 / rank^decay; means with `shared`.

  The expected squared deviation of each embedding is `size` |mean|^2.
  """
  rng = np.random.default_rng(seed)

  def layer():
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    values = np.arange(1.0, d + 1)**-decay
    return laplace.Layer(
        *jax.device_put((np.eye(1), (turn * values / values.sum()) @ turn.T)))

  common = shared * rng.normal(size=d)

  def embeddings(number):
    mean = rng.normal(size=(number, d)) + common
    return predictive.Embedding(
        *jax.device_put((mean, size * np.sum(mean**2, -1))))

  return embeddings(n), embeddings(k), laplace.Posterior(layer(), layer())


def _of_model(found, image_inputs):
  """Embeddings of a model in float64, and its posterior."""
  found, image_inputs = jax.tree.map(
      lambda leaf: jax.device_put(np.asarray(leaf, np.float64)),
      (found, image_inputs))
  return (models.image_embeddings(found, image_inputs),
          models.text_embeddings(found), found.posterior)


def _squared_turns(side, layer):
  """tr(T^2) / n^2 of each embedding, see `prob_cosine_tangent`."""
  found = []
  for mean, spread in zip(*map(np.asarray, side)):
    square = mean @ mean
    across = np.eye(len(mean)) - np.outer(mean, mean) / square
    turns = spread * across @ np.asarray(layer.b_inv) @ across
    found.append(np.sum(turns**2) / (square + np.trace(turns))**2)
  return np.array(found)


class LimitTest(parameterized.TestCase):
  """What the docstrings say of small and of long-stretched covariances."""

  def setUp(self):
    super().setUp()
    self.enter_context(jax.enable_x64(True))

  @parameterized.parameters(*range(4))
  def test_full_counts_stretching_by_the_square_of_the_cosine(self, seed):
    cosines, (_, full, _) = _ratios(
        *_random(seed, 1e-5, d=6, decay=0, shared=1))
    # Of cosines near one the next order is not small.
    some = cosines < 0.9
    np.testing.assert_allclose(
        full[some], 1 / (1 - cosines[some]**2), rtol=1e-3)

  @parameterized.parameters(*range(4))
  def test_tangent_is_right_to_first_order(self, seed):

    def errors(size):
      images, texts, posterior = _random(seed, size, d=6, decay=1, shared=1)
      exactly = exact.of_posterior(images, texts, posterior, 1.0)
      found = _over_images[predictive.prob_cosine_tangent](
          images, texts, posterior, 1.0)
      return [np.linalg.norm(ours - theirs)
              for ours, theirs in zip(found, exactly)]

    # Both are of the first order in the covariances, so errors of the second.
    np.testing.assert_allclose(
        np.divide(errors(1e-3), errors(5e-4)), 4, rtol=0.02)

  @parameterized.product(seed=(0, 1, 2, 3), decay=(0, 1, 2))
  def test_what_tangent_lacks_at_one(self, seed, decay):
    images, _, posterior = _random(seed, 1e-4, d=6, decay=decay, shared=0)
    texts = predictive.Embedding(2 * images.mean, 3 * images.spread)
    mean, variance = exact.of_posterior(images, texts, posterior, 1.0)
    found = _over_images[predictive.prob_cosine_tangent](
        images, texts, posterior, 1.0)
    lacking = mean**2 * (_squared_turns(images, posterior.image)[:, None] +
                         _squared_turns(texts, posterior.text)) / 2
    np.testing.assert_allclose(
        *map(np.diagonal, (found.variance + lacking, variance)), rtol=2e-3)


class TableTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.enter_context(jax.enable_x64(True))
    page = pathlib.Path(__file__).resolve().parents[2] / "docs/bayesvlm.md"
    self.page = page.read_text(encoding="utf-8")

  def _check(self, name, ratios):
    """The row of this name has the 5th and 95th percentiles of the forms."""
    row = re.search(rf"^\| {re.escape(name)} \|(.*)", self.page, re.MULTILINE)
    self.assertIsNotNone(row, name)
    said = [[float(end) for end in cell.split(" to ")]
            for cell in row[1].strip(" |").split(" | ")]
    found = np.percentile(ratios, [5, 95], axis=1).T
    np.testing.assert_allclose(said, found, atol=0.011, rtol=0.01)

  @parameterized.parameters("clip", "siglip")
  def test_recorded_models(self, name):
    found, _, targets = small.released(name)
    self._check(f"recorded, {name}", _ratios(*_of_model(found, targets))[1])

  @parameterized.parameters(0.01, 0.1, 0.5)
  @pytest.mark.slow
  def test_random_posteriors(self, size):
    cosines, ratios = (np.concatenate(parts, -1) for parts in zip(*(
        _ratios(*_random(seed, size, d=d, decay=decay, shared=shared))
        for seed in range(2) for d in (6, 64) for decay in (0, 1, 2)
        for shared in (0, 0.7, 1.5, 4))))
    for low, high in ((0, 0.6), (0.6, 0.9), (0.9, 1)):
      self._check(f"random, {size:g}, cosines {low:g} to {high:g}",
                  ratios[:, (cosines >= low) & (cosines < high)])

  @pytest.mark.slow
  def test_testbed(self):
    model = jaxcal.load("testbed")
    with tempfile.TemporaryDirectory() as folder, jax.enable_x64(False):
      fit.fit(model, testbed_pairs.load(500), folder)
      posterior = head.load(folder, model).posterior
      maps = inputs.projections(model)
      image, text = (models.with_bias(one.kernel, one.bias)
                     for one in (maps["image"], maps["text"]))
      tasks = {name: inputs.task(model, image_sets.limit(sets.load(name), 60))
               for name in ("shapes", "compositions", "digits")}
    for name, task in tasks.items():
      texts = jnp.asarray(task.texts)
      found = models.Model(
          image, texts, models.widen(texts, len(text)) @ text, posterior,
          jnp.ones(()))
      self._check(f"testbed, {name}",
                  _ratios(*_of_model(found, task.images))[1])


if __name__ == "__main__":
  absltest.main()
