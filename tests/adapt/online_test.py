"""Methods along a stream against loops as the released programs have them."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.adapt import base
from jaxcal.adapt import cache
from jaxcal.adapt import classifier
from jaxcal.adapt import memory
from jaxcal.adapt import prototypes
from jaxcal.adapt import run
from tests.adapt import loops

_K, _V, _D, _N = 5, 10, 8, 40
_SCALE = 30.0


def _toy(seed=0):
  """Text features, and views of images that lie about them."""
  rng = np.random.default_rng(seed)
  text = loops.unit(rng.standard_normal((_K, _D)))
  clean = text[rng.integers(_K, size=_N)] + 0.5 * rng.standard_normal((_N, _D))
  views = clean[:, None] + 0.3 * rng.standard_normal((_N, _V, _D))
  views[:, 0] = clean
  return text, loops.unit(views)


_stream = jax.jit(run.stream)


class OnlineTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.enterContext(jax.enable_x64(True))
    self.text, self.views = _toy()
    self.task = base.Task(jnp.asarray(self.text), jnp.asarray(_SCALE))
    self.order = np.random.default_rng(7).permutation(_N)

  def _streamed(self, numbers):
    """Outputs in the order of the stream, of one order."""
    outputs = _stream(
        numbers.method(), self.task, jnp.asarray(self.views[self.order]),
        jnp.arange(len(self.order))[None])
    return jax.tree.map(lambda x: np.asarray(x)[0], outputs)

  @parameterized.parameters(
      {}, dict(beta=1.0, balance=0.0), dict(beta=0.0, balance=0.5),
      dict(beta=0.4, proxy_step=2.0, dual_step=3.0))
  def test_onzeta(self, **changed):
    outputs = self._streamed(classifier.OnZeta(**changed))
    expected, _, _ = loops.onzeta(
        self.text, _SCALE, self.views[self.order], **changed)
    np.testing.assert_allclose(outputs.scores, expected, atol=1e-12)
    np.testing.assert_allclose(np.exp(outputs.log_probs), expected, atol=1e-12)

  @parameterized.parameters(
      dict(alpha=0.3, beta=2.0), dict(predict_first=True),
      dict(replacement="lower_entropy"), dict(capacity=1, alpha=0.0),
      dict(selection_fraction=0.3), dict(
          selection_fraction=1.0, average="probabilities",
          replacement="lower_entropy", predict_first=True))
  def test_dmn(self, **changed):
    given = {"capacity": 3, **changed}
    kind = (memory.Dmn if "selection_fraction" in given else
            memory.DmnWeak)
    outputs = self._streamed(kind(**given))
    expected, lists = loops.dmn(
        self.text, _SCALE, self.views[self.order], **given)
    self.assertGreater(self._filled(lists, given["capacity"]), 0)
    np.testing.assert_allclose(outputs.scores, expected, atol=1e-12)
    np.testing.assert_allclose(
        np.exp(outputs.log_probs), expected / expected.sum(-1, keepdims=True),
        atol=1e-12)

  @parameterized.parameters(
      {}, dict(predict_first=True), dict(negative_keeps="newest"),
      dict(capacity=1, negative_capacity=1, predict_first=True),
      dict(boosted=True), dict(boosted=True, predict_first=True),
      dict(boosted=True, negative_keeps="lowest_entropy", capacity=2),
      dict(boosted=True, extra_capacity=0, selection_fraction=0.8),
      dict(boosted=True, extra_capacity=20, selection_fraction=1.0,
           capacity=1))
  def test_caches(self, boosted=False, **changed):
    kind, given = cache.Tda, {}
    if boosted:
      kind = cache.BoostAdapter
      given = {"selection_fraction": 0.5, "extra_capacity": 1,
               "negative_keeps": "newest"}
    given |= {"negative_alpha": 0.5, **changed}
    outputs = self._streamed(kind(**given))
    expected, positive, negative = loops.tda(
        self.text, _SCALE, self.views[self.order], **given)
    self.assertGreater(self._filled(positive, given.get("capacity", 3)), 0)
    self.assertGreater(
        self._filled(negative, given.get("negative_capacity", 2)), 0)
    np.testing.assert_allclose(outputs.scores, expected, atol=1e-12)

  @parameterized.parameters(
      {}, dict(predict_first=True),
      dict(entropy_gradient=True, predict_first=True, capacity=1),
      dict(predicted="confident", alignment=0.0, predict_first=True))
  def test_dpe(self, **changed):
    given = {"selection_fraction": 0.3, "alpha": 2.0, "learning_rate": 0.01,
             **changed}
    self.order = self.order[:25]
    outputs = self._streamed(prototypes.Dpe(**given))
    expected, lists, _, number = loops.dpe(
        self.text, _SCALE, self.views[self.order], **given)
    self.assertGreater(self._filled(lists, given.get("capacity", 3)), 0)
    self.assertGreater(number, 3)
    np.testing.assert_allclose(outputs.scores, expected, atol=1e-6)

  def _filled(self, lists, capacity):
    """How many classes are full, so that entries were replaced."""
    return sum(len(one) == capacity for one in lists)


class OnZetaTest(absltest.TestCase):

  def test_what_float32_makes_zero_has_a_logarithm(self):
    text = jnp.eye(3, dtype=jnp.float32)
    outputs = _stream(
        classifier.OnZeta(beta=0.0).method(),
        base.Task(text, jnp.float32(300)),
        jnp.tile(text[:, None], (4, 1, 1)), jnp.arange(12)[None])
    self.assertTrue(np.isfinite(outputs.log_probs).all())
    self.assertLess(outputs.log_probs.min(), np.log(np.finfo(np.float32).tiny))

  def test_a_weight_beyond_one_is_refused(self):
    with self.assertRaisesRegex(ValueError, r"beta must lie in .0, 1., got 2"):
      classifier.OnZeta(beta=2.0).method()


if __name__ == "__main__":
  absltest.main()
