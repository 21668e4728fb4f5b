"""Acquisition scores against the released code's numbers and brute force."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from jaxcal.posterior import acquisition
from tests import quick
from tests import shared

_CASES = (("clip", "clip"), ("siglip", "siglip"))


def _oracle(case):
  arrays = shared.arrays("oracles/bayesvlm/bayesvlm_oracle.npz")
  return lambda key: arrays[f"{case}.{key}"]


def _probs(seed, *shape, spread=2.0):
  logits = spread * np.random.default_rng(seed).standard_normal(shape)
  p = np.exp(logits - logits.max(-1, keepdims=True))
  return p / p.sum(-1, keepdims=True)


def _normal_logits(mean, variance, noise):
  return mean[:, None] + np.sqrt(variance)[:, None] * noise


def _entropy(p):
  """Float64, with 0 log 0 = 0, over all axes but those before the last two."""
  return -sum(x * np.log(x) for x in np.ravel(p) if x > 0)


def _brute_epig(pool, targets):
  """The published expression term by term, with every joint written out."""
  num_samples = pool.shape[1]
  scores = []
  for row in pool:
    gains = []
    for target in targets:
      joint = sum(np.outer(row[s], target[s]) for s in range(num_samples))
      gains.append(_entropy(row.mean(0)) + _entropy(target.mean(0))
                   - _entropy(joint / num_samples))
    scores.append(np.mean(gains))
  return np.array(scores)


class EntropyTest(parameterized.TestCase):

  def test_hand_cases(self):
    probs = jnp.array([[0.5, 0.5, 0], [1, 0, 0], [0.25, 0.25, 0.5]])
    np.testing.assert_allclose(
        acquisition.entropy(probs),
        [np.log(2), 0, 1.5 * np.log(2)], rtol=1e-6)

  def test_logits_that_underflow(self):
    got = acquisition.entropy_of_logits(jnp.array([[0.0, 0, -1e4], [99, 0, 0]]))
    np.testing.assert_allclose(got, [np.log(2), 0], atol=1e-6)

  @parameterized.named_parameters(*_CASES)
  def test_released(self, case):
    oracle = _oracle(case)
    np.testing.assert_allclose(
        acquisition.entropy_of_logits(jnp.asarray(oracle("logit_map_f32"))),
        oracle("entropy_map_f32"), atol=1e-5)


class BaldTest(parameterized.TestCase):

  @parameterized.named_parameters(*_CASES)
  def test_released_with_its_two_draws(self, case):
    oracle = _oracle(case)
    mean, variance = oracle("logit_mean_f32"), oracle("logit_var_f32")
    logits = [_normal_logits(mean, variance, noise.swapaxes(0, 1))
              for noise in (oracle("bald_eps_total"), oracle("bald_eps_alea"))]
    got = acquisition.bald_two_draws(*logits)
    np.testing.assert_allclose(got, oracle("bald_official_f32"), atol=1e-4)
    np.testing.assert_array_equal(
        jax.lax.top_k(got, 4)[1], oracle("bald_topk4"))
    # One set of draws: other by the entropies of the two alone.
    first, second = (
        np.mean(acquisition.entropy_of_logits(one), -1) for one in logits)
    np.testing.assert_allclose(
        acquisition.bald(logits[0]), got + second - first, atol=1e-5)

  def test_against_entropies_in_float64(self):
    logits = 3 * np.random.default_rng(0).standard_normal((4, 7, 5))
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = [_entropy(p.mean(0)) - np.mean([_entropy(q) for q in p])
                for p in probs]
    np.testing.assert_allclose(
        acquisition.bald(jnp.asarray(logits, jnp.float32)), expected, rtol=1e-5)

  def test_certain_samples_that_contradict_each_other(self):
    logits = jnp.array([[200.0, 0, 0], [0, 200, 0]])
    np.testing.assert_allclose(acquisition.bald(logits), np.log(2), rtol=1e-6)

  def test_small_scores_keep_their_digits(self):
    # p = 1/2 +- e/2 has BALD e^2 / 2, far below the rounding of entropies.
    e = 1e-5
    logits = jnp.array([[e, -e], [-e, e]])
    np.testing.assert_allclose(acquisition.bald(logits), e**2 / 2, rtol=2e-2)
    self.assertEqual(acquisition.bald(jnp.ones((3, 2))), 0)

  def test_never_negative(self):
    noise = jax.random.normal(jax.random.key(0), (50, 3, 6))
    logits = _normal_logits(
        40 * noise[:, 0], jnp.full((50, 6), 1e-6), noise)
    self.assertGreaterEqual(acquisition.bald(logits).min(), 0)


class EpigTest(parameterized.TestCase):

  @parameterized.named_parameters(*_CASES)
  def test_released_with_its_independent_samples(self, case):
    oracle = _oracle(case)
    pool = _normal_logits(
        oracle("epig_pool_mean_f32"), oracle("epig_pool_var_f32"),
        np.swapaxes(oracle("epig_eps_pool"), 0, 1))
    targets = _normal_logits(
        oracle("logit_mean_f32"), oracle("logit_var_f32"),
        np.swapaxes(oracle("epig_eps_targ"), 0, 1))
    np.testing.assert_allclose(
        acquisition.epig_independent(pool, targets), oracle("epig_f64"),
        atol=2e-6)

  def test_independent_samples_score_their_own_number(self):
    # Two samples that are certain of either of two classes: log 2 where they
    # differ on both sides, one time in four.
    certain = 200 * np.eye(2, dtype=np.float32)
    drawn = np.stack([certain[list(rows)] for rows in np.ndindex(2, 2)])
    each = quick.jit(jax.vmap(lambda target: acquisition.epig_independent(
        drawn, target[None])))(drawn)
    np.testing.assert_allclose(np.mean(each), np.log(2) / 4, rtol=1e-6)

  @parameterized.named_parameters(*_CASES)
  def test_released_score_is_one_of_independent_draws(self, case):
    oracle, rng, repeats = _oracle(case), np.random.default_rng(1), 40
    score = jax.jit(acquisition.epig_independent)
    for num, released in zip(oracle("epig_Ks")[:2], oracle("epig_vs_K")):
      drawn = [np.mean(score(*(
          _normal_logits(
              oracle(mean), oracle(variance),
              rng.standard_normal((len(oracle(mean)), num, 5), np.float32))
          for mean, variance in (("epig_pool_mean_f32", "epig_pool_var_f32"),
                                 ("logit_mean_f32", "logit_var_f32")))))
               for _ in range(repeats)]
      # A prediction interval for one draw more, of logarithms as they are
      # nearer to normal; one in a million is outside.
      drawn = np.log(drawn)
      off = abs(np.log(released.mean()) - drawn.mean())
      self.assertLess(off, stats.t.isf(5e-7, repeats - 1) * drawn.std(ddof=1) *
                      (1 + 1 / repeats)**0.5)

  @parameterized.named_parameters(
      ("one_block", 2**22), ("pairs", 9 * 2), ("one_pair", 1),
      ("uneven", 9 * 12))
  def test_against_brute_force(self, entries):
    pool, targets = _probs(0, 5, 7, 3), _probs(1, 4, 7, 3)
    got = acquisition.epig(
        jnp.asarray(pool, jnp.float32), jnp.asarray(targets, jnp.float32),
        entries_per_block=entries)
    np.testing.assert_allclose(got, _brute_epig(pool, targets), rtol=1e-5)

  def test_float64(self):
    pool, targets = _probs(2, 3, 6, 4), _probs(3, 2, 6, 4)
    with jax.enable_x64(True):
      np.testing.assert_allclose(
          acquisition.epig(jnp.asarray(pool), jnp.asarray(targets)),
          _brute_epig(pool, targets), rtol=1e-12)

  def test_what_is_known_of_both_labels(self):
    certain = np.eye(3)  # the sample names the label
    constant = np.full((3, 3), 1 / 3)
    got = acquisition.epig(np.stack([certain, constant]), certain[None])
    np.testing.assert_allclose(got, [np.log(3), 0], atol=1e-6)

  def test_probabilities_that_underflow(self):
    pool = jnp.array([[[1.0, 0, 0], [1, 0, 1e-30]]])
    targets = jnp.array([[[1.0, 0, 0], [0.5, 0.5, 0]]])
    got = acquisition.epig(pool, targets)
    self.assertTrue(np.isfinite(got).all())
    np.testing.assert_allclose(got, 0, atol=1e-12)

  def test_small_scores_keep_their_digits(self):
    # Two coins whose sides lean together by e: a mutual information of e^4/2.
    e = 1e-2
    coin = 0.5 + 0.5 * e * jnp.array([[1.0, -1], [-1, 1]])
    got = acquisition.epig(coin[None], coin[None])
    np.testing.assert_allclose(got, [e**4 / 2], rtol=1e-2)

  def test_memory_is_bounded(self):
    pool, targets = jnp.ones((64, 2, 20)), jnp.ones((64, 2, 20))
    program = jax.jit(
        lambda a, b: acquisition.epig(a, b, entries_per_block=2**12))
    used = program.lower(pool, targets).compile().memory_analysis()
    joint = 64 * 64 * 20 * 20 * 4
    self.assertLess(used.temp_size_in_bytes, joint / 20)

  def test_errors(self):
    with self.assertRaisesRegex(ValueError, "one target at least"):
      acquisition.epig(jnp.ones((2, 3, 4)), jnp.ones((0, 3, 4)))
    with self.assertRaisesRegex(ValueError, "must be those of the targets"):
      acquisition.epig(jnp.ones((2, 3, 4)), jnp.ones((5, 2, 4)))


if __name__ == "__main__":
  absltest.main()
