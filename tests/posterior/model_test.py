"""The model from its projections on, against the released code's numbers."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcal.posterior import acquisition
from jaxcal.posterior import laplace
from jaxcal.posterior import model
from tests import error_bars
from tests.posterior import exact
from tests.posterior import small


def _informations(pool, targets):
  """What each sample adds to a row's EPIG, which is their mean, [n s]."""
  pool, targets = np.float64(pool), np.float64(targets)
  joint = np.einsum("nsk,tsj->ntkj", pool, targets, optimize=True)
  ratio = np.log(joint / pool.shape[1] / np.einsum(
      "nk,tj->ntkj", pool.mean(1), targets.mean(1)))
  return np.einsum("nsk,ntkj,tsj->ns", pool, ratio, targets,
                   optimize=True) / len(targets)


class ModelTest(parameterized.TestCase):

  @parameterized.named_parameters(*small.CASES)
  def test_released(self, case):
    get, (found, pool, targets) = small.oracle(case), small.released(case)
    np.testing.assert_allclose(
        model.embed(found.weights, pool), get("pool_embeds"), atol=1e-5)
    embedded = model.image_embeddings(found, targets)
    np.testing.assert_allclose(embedded.mean, get("test_embeds"), atol=1e-5)
    cosines = model.cosines(found, targets)
    np.testing.assert_allclose(cosines.mean, get("logit_mean"), atol=5e-5)
    np.testing.assert_allclose(cosines.variance, get("logit_var"), rtol=1e-4)
    bias = get("bias") if case == "siglip" else 0
    np.testing.assert_allclose(
        model.logits(found, targets) + bias, get("logit_map"), atol=5e-5)

  def test_samples_of_one_key_share_their_weights(self):
    found, pool, targets = small.random()
    key = jax.random.key(0)
    both = model.sample_logits(
        key, found, model.join(pool, targets), num_samples=8)
    self.assertEqual(both.shape, (18, 8, 3))
    for inputs, part in ((pool, both[:12]), (targets, both[12:])):
      np.testing.assert_allclose(
          model.sample_logits(key, found, inputs, num_samples=8), part,
          rtol=1e-5, atol=1e-5)
    self.assertFalse(np.allclose(both[:, 0], both[:, 1], atol=1e-2))

  @parameterized.named_parameters(*small.CASES)
  def test_samples_have_the_moments_of_the_weights(self, case):
    found, _, targets = small.released(case)
    drawn = np.moveaxis(model.sample_logits(
        jax.random.key(1), found, targets, num_samples=4000), 1, 0)
    mean, variance = exact.of_posterior(
        model.image_embeddings(found, targets), model.text_embeddings(found),
        found.posterior, found.logit_scale)
    error_bars.assert_means(drawn, mean)
    error_bars.assert_variances(drawn, variance)

  @parameterized.named_parameters(*small.CASES)
  @pytest.mark.slow
  def test_shared_samples_give_epig_a_limit(self, case):
    get, (found, pool, targets) = small.oracle(case), small.released(case)
    pool = model.take(pool, jnp.arange(34, 40))
    whole, each = 20_000, 4_000
    drawn = jax.nn.softmax(model.sample_logits(
        jax.random.key(0), found, model.join(pool, targets),
        num_samples=whole))
    parts = [acquisition.epig(part[:6], part[6:])
             for part in np.split(np.asarray(drawn), whole // each, axis=1)]
    self.assertGreaterEqual(np.min(parts), 0)
    # Stored is a draw like each part. Its error: of its samples' means to first
    # order; and the bias by few samples, which is of squares, with a standard
    # deviation of at most sqrt(2) times itself.
    error = np.std(_informations(drawn[:6], drawn[6:]), axis=1) * (
        1 / each + 1 / whole)**0.5
    bias = np.mean(parts, 0) - acquisition.epig(drawn[:6], drawn[6:])
    bias = np.maximum(bias, 0) / (1 - each / whole)
    np.testing.assert_array_less(
        np.abs(get("ref_epig_coupled_K4000") - np.mean(parts, 0)),
        error_bars.LEVEL * np.hypot(error, 2**0.5 * bias))

  def test_certain_weights(self):
    found, pool, _ = small.random(bias=False)
    certain = found._replace(posterior=laplace.Posterior(
        laplace.deterministic(5, 4), laplace.deterministic(3, 4)))
    drawn = model.sample_logits(
        jax.random.key(0), certain, pool, num_samples=2)
    np.testing.assert_allclose(drawn[:, 0], model.logits(certain, pool),
                               atol=1e-5)
    np.testing.assert_allclose(drawn[:, 0], drawn[:, 1])

  def test_weights_of_another_width(self):
    found, pool, _ = small.random()
    with self.assertRaisesRegex(ValueError, "one more with a bias"):
      model.embed(found.weights[:-2], pool)


if __name__ == "__main__":
  absltest.main()
