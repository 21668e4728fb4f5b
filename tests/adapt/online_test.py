"""Methods along a stream against loops as the released programs have them."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.adapt import base
from jaxcal.adapt import classifier
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
    outputs = _stream(numbers.method(), self.task, jnp.asarray(self.views),
                      jnp.asarray(self.order)[None])
    return jax.tree.map(lambda x: np.asarray(x)[0, self.order], outputs)

  @parameterized.parameters(
      {}, dict(beta=1.0, balance=0.0), dict(beta=0.0, balance=0.5),
      dict(beta=0.4, proxy_step=2.0, dual_step=3.0))
  def test_onzeta(self, **changed):
    outputs = self._streamed(classifier.OnZeta(**changed))
    expected, _, _ = loops.onzeta(
        self.text, _SCALE, self.views[self.order], **changed)
    np.testing.assert_allclose(outputs.scores, expected, atol=1e-12)
    np.testing.assert_allclose(np.exp(outputs.log_probs), expected, atol=1e-12)


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
