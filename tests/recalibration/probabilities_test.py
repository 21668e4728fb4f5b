"""Distributions with a given confidence: shares, caps and order."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from scipy import special

from jaxcal.recalibration import probabilities


def _random(n=200, k=5, seed=0):
  rng = np.random.default_rng(seed)
  probs = rng.dirichlet(np.full(k, 0.5), n)
  return probs, probs.argmax(1), rng.random(n)


class LogitsTest(absltest.TestCase):

  def test_there_and_back(self):
    logits = 30 * np.random.default_rng(0).normal(size=(20, 4))
    probs = probabilities.of_logits(logits)
    np.testing.assert_allclose(probs, special.softmax(logits, 1), rtol=1e-12)
    np.testing.assert_allclose(
        special.softmax(probabilities.to_logits(3 * probs), 1), probs,
        atol=1e-12)

  def test_zero_is_finite_in_float32(self):
    found = probabilities.to_logits(np.array([[0., 1.]]))
    self.assertTrue(np.isfinite(found.astype(np.float32)).all())
    self.assertEqual(special.softmax(found)[0, 1], 1)

  def test_rows_of_zeros(self):
    found = probabilities.normalised(
        np.array([[1., 3.], [0., 0.]]), np.array([[.5, .5], [.9, .1]]))
    np.testing.assert_allclose(found, [[.25, .75], [.9, .1]])

  def test_keeping(self):
    logits = np.array([[1., 2., 0.], [3., 1., 2.]])
    found = probabilities.keeping(
        logits, np.array([[.5, .5 - 1e-16, 0.], [.6, .1, .3]]))
    np.testing.assert_allclose(found, [[.5, .5, 0], [.6, .1, .3]])
    self.assertTrue((found[0, 1] >= found[0]).all())


class ConfidenceTest(parameterized.TestCase):

  @parameterized.parameters(True, False)
  def test_is_as_asked_and_all_sum_to_one(self, keeps):
    probs, predicted, confidence = _random()
    found = probabilities.with_confidence(
        probs, predicted, confidence, keeps_prediction=keeps)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-12)
    asked = np.maximum(confidence, 0.2) if keeps else confidence
    np.testing.assert_array_equal(found[np.arange(200), predicted], asked)
    self.assertTrue((found >= 0).all())
    if keeps:
      self.assertTrue((found.max(1) == asked).all())

  @parameterized.parameters(True, False)
  def test_the_others_share_the_rest_in_proportion(self, keeps):
    probs, predicted, confidence = _random()
    found = probabilities.with_confidence(
        probs, predicted, confidence, keeps_prediction=keeps)
    below = 0
    for row, (new, old) in enumerate(zip(found, probs)):
      others = np.arange(5) != predicted[row]
      capped = others & (new >= new[predicted[row]] * (1 - 1e-12)) & keeps
      ratios = (new / old)[others & ~capped]
      np.testing.assert_allclose(ratios, ratios.mean() if len(ratios) else 0,
                                 rtol=1e-9)
      if capped.any():  # or they would have more
        below += 1
        free = others & ~capped
        if free.any():
          self.assertGreaterEqual(
              (old[capped] * ratios.mean()).min(), new[capped].max() - 1e-12)
    self.assertEqual(below > 20, keeps)

  def test_by_hand(self):
    probs = np.array([[.5, .3, .15, .05]])
    found = probabilities.with_confidence(
        probs, np.array([0]), np.array([.4]), keeps_prediction=True)
    np.testing.assert_allclose(found, [[.4, .36, .18, .06]])
    found = probabilities.with_confidence(
        probs, np.array([0]), np.array([.3]), keeps_prediction=True)
    np.testing.assert_allclose(found, [[.3, .3, .3, .1]])
    found = probabilities.with_confidence(
        probs, np.array([0]), np.array([.3]), keeps_prediction=False)
    np.testing.assert_allclose(found, [[.3, .42, .21, .07]])

  def test_nothing_is_left_for_the_others(self):
    for confidence in (0.4, 1.):
      found = probabilities.with_confidence(
          np.array([[0., 1., 0.]]), np.array([1]), np.array([confidence]),
          keeps_prediction=True)
      rest = (1 - confidence) / 2
      np.testing.assert_allclose(found, [[rest, confidence, rest]], atol=1e-12)
    found = probabilities.with_confidence(
        np.array([[.9, .1, 0.]]), np.array([0]), np.array([1 / 3]),
        keeps_prediction=True)
    np.testing.assert_allclose(found, 1 / 3)


if __name__ == "__main__":
  absltest.main()
