"""The model from its projections on, against the released code's numbers."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.posterior import acquisition
from jaxcal.posterior import laplace
from jaxcal.posterior import model
from tests.posterior import small


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
    get, (found, _, targets) = small.oracle(case), small.released(case)
    drawn = model.sample_logits(
        jax.random.key(1), found, targets, num_samples=4000)
    spread = np.sqrt(get("ref_mc_logit_var"))
    np.testing.assert_allclose(
        drawn.mean(1), get("ref_mc_logit_mean"), atol=0.08 * spread.max())
    np.testing.assert_allclose(
        drawn.var(1), get("ref_mc_logit_var"), rtol=0.25)

  @parameterized.named_parameters(*small.CASES)
  def test_shared_samples_give_epig_a_limit(self, case):
    get, (found, _, targets) = small.oracle(case), small.released(case)
    _, pool, _ = small.released(case)
    pool = model.take(pool, jnp.arange(34, 40))

    def scores(seed, num_samples):
      drawn = jax.nn.softmax(model.sample_logits(
          jax.random.key(seed), found, model.join(pool, targets),
          num_samples=num_samples))
      return acquisition.epig(drawn[:6], drawn[6:])

    # The stored numbers are a Monte Carlo estimate themselves.
    expected, many = get("ref_epig_coupled_K4000"), scores(0, 20000)
    self.assertGreaterEqual(many.min(), 0)
    np.testing.assert_allclose(many, expected, rtol=0.2, atol=2e-5)
    # A tenth of the samples would make it ten times as much, were it noise.
    np.testing.assert_allclose(
        scores(1, 2000).sum() / many.sum(), 1, atol=0.25)

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
