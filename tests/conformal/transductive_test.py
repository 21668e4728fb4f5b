"""Conf-OT: the stored transport, and which draws its coverage needs."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from jaxcal.conformal import coverage
from jaxcal.conformal import scores
from jaxcal.conformal import split
from jaxcal.conformal import transductive
from tests import error_bars
from tests.conformal import oracle

_MODELS = {"vitb32": "CLIP_ViT-B-32", "rn50": "CLIP_RN50"}


def _logits(name="vitb32"):
  given = oracle.features(_MODELS[name])
  return 100 * given.images @ given.text.T, given.labels


def _coverages(probabilities_of, labels, draws):
  """Of LAC at 0.1, split after split of (calibration, others)."""
  found = []
  for cal, test in draws:
    both = np.asarray(probabilities_of(cal, test))
    strange = 1 - both
    own = strange[np.arange(len(cal)), labels[cal]]
    sets = split.prediction_sets(
        strange[len(cal):], split.threshold(own, 0.1))
    found.append(np.mean(
        np.asarray(sets)[np.arange(len(test)), labels[test]]))
  return np.array(found)


class StoredTest(parameterized.TestCase):

  @parameterized.product(
      name=list(_MODELS), i=(0, 3), which=("observed", "uniform"))
  def test_probabilities_thresholds_and_sets(self, name, i, which):
    file = oracle.stored("conf_ot")
    one = {key: file[f"{name}_{i}_{key}"] for key in ("cal", "test", "u")}
    cal, test = one["cal"], one["test"]
    of = lambda key: file[f"{name}_{i}_{which}_{key}"]
    with jax.enable_x64(True):
      logits, labels = _logits(name)
      n, k = len(cal), logits.shape[1]
      shares = None if which == "uniform" else (
          transductive.observed_shares(labels[cal], k))
      found = transductive.transport(logits[np.append(cal, test)], shares)
      np.testing.assert_allclose(found, of("q"), atol=1e-6)
      uniforms = one["u"]
      for score, values in (
          ("lac", scores.least_ambiguous(found)),
          ("aps", scores.adaptive(found, uniforms))):
        own = np.asarray(values)[np.arange(n), labels[cal]]
        for j, alpha in enumerate((0.1, 0.05)):
          q = split.threshold(own, alpha)
          np.testing.assert_allclose(
              q, of(f"threshold_{score}")[j], atol=1e-6)
          sets = split.prediction_sets(values[n:], q)
          expected = oracle.unpacked(of(f"sets_{score}")[j], k)
          near = np.abs(np.asarray(values[n:]) - np.asarray(q)) < 1e-6
          np.testing.assert_array_equal(
              np.asarray(sets)[~near], expected[~near])
          self.assertLess(near.mean(), 1e-3)


class TransportTest(absltest.TestCase):

  def test_sums_after_many_rounds(self):
    logits = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    shares = np.array([.1, .3, .2, .25, .15], np.float32)
    found = transductive.transport(logits, shares, rounds=300)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(found.mean(0), shares, rtol=1e-4)

  def test_constants_of_all_images_and_of_each(self):
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(40, 5)) * 3
    with jax.enable_x64(True):
      found = transductive.transport(logits)
      np.testing.assert_allclose(
          transductive.transport(logits + 5000), found, atol=1e-9)
      shifted = transductive.transport(logits + 3 * rng.normal(size=(40, 1)))
      self.assertGreater(abs(shifted - found).max(), 0.01)

  def test_large_logits_in_float32(self):
    logits = 100 * np.random.default_rng(2).uniform(
        0.8, 1, (30, 4)).astype(np.float32)
    found = transductive.transport(logits)
    self.assertTrue(np.isfinite(found).all())
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)

  def test_order_of_images_and_classes(self):
    rng = np.random.default_rng(3)
    logits, rows, columns = (
        rng.normal(size=(40, 5)), rng.permutation(40), rng.permutation(5))
    with jax.enable_x64(True):
      found = np.asarray(transductive.transport(logits))
      np.testing.assert_allclose(
          transductive.transport(logits[rows][:, columns]),
          found[rows][:, columns], atol=1e-12)

  def test_shares(self):
    for shares in (np.array([.5, .5, 0]), np.array([.5, .5, .5])):
      with self.assertRaisesRegex(ValueError, "leave them out for equal ones"):
        transductive.transport(np.ones((4, 3)), shares)
    with self.assertRaisesRegex(ValueError, "1 classes have no.*first one 2"):
      transductive.observed_shares(np.array([0, 1, 3, 1]), 4)
    np.testing.assert_allclose(
        transductive.observed_shares(np.array([0, 1, 1, 1]), 2), [.25, .75])


class CoverageTest(absltest.TestCase):
  """On the images of WHU-RS19: 57 for calibration, the others with sets."""

  def setUp(self):
    super().setUp()
    self.enter_context(jax.enable_x64(True))
    self.logits, self.labels = _logits()
    rng = np.random.default_rng(0)
    self.draws = [np.split(rng.permutation(1005), [57]) for _ in range(200)]
    self.promise = coverage.promise(57, 948, 0.1)
    self.error = error_bars.LEVEL * self.promise.std / 200 ** 0.5

  def _of(self, shares_of):
    transport = jax.jit(transductive.transport)
    return _coverages(
        lambda cal, test: transport(
            self.logits[np.append(cal, test)], shares_of(self.labels[cal])),
        self.labels, self.draws).mean()

  def test_equal_shares_keep_the_promise(self):
    found = self._of(lambda labels: None)
    self.assertAlmostEqual(found, self.promise.mean, delta=self.error)

  def test_shares_counted_in_an_independent_draw_do_not(self):
    """As the docstring of `observed_shares` says."""
    found = self._of(
        lambda labels: (np.bincount(labels, minlength=19) + 1) / (57 + 19))
    self.assertLess(found, self.promise.mean - self.error)


if __name__ == "__main__":
  absltest.main()
