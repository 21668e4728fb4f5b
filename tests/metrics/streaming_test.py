"""Parts that are added up give the numbers of the whole."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcal.metrics import binning
from jaxcal.metrics import calibration
from jaxcal.metrics import debiased
from jaxcal.metrics import scoring
from jaxcal.metrics import streaming


def _data(seed=0, n=120, k=4):
  generator = np.random.default_rng(seed)
  return (generator.dirichlet(np.ones(k), size=n),
          generator.integers(k, size=n))


class StreamingTest(parameterized.TestCase):

  @parameterized.product(edges=("left", "right"), num_bins=(7, 20))
  def test_equal_to_the_whole(self, edges, num_bins):
    probs, labels = _data()
    with jax.enable_x64(True):
      stream = streaming.calibration_errors(4, num_bins=num_bins, edges=edges)
      # Uneven parts, one of a single example, merged out of order.
      parts = [stream.update(stream.init(), probs[a:b], labels[a:b])
               for a, b in ((0, 1), (1, 50), (50, 120))]
      found = stream.compute(stream.merge(
          parts[2], stream.merge(parts[0], parts[1])))
      hits = scoring.correct(probs, labels)
      bins = binning.bin_statistics(
          probs.max(-1), hits, num_bins=num_bins, edges=edges)
      expected = streaming.Computed(
          scoring.accuracy(probs, labels), calibration.errors_of(bins),
          debiased.debiased_error(bins),
          calibration.classwise_calibration_errors(
              probs, labels, num_bins=num_bins, edges=edges))
      jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(
          ours, theirs, rtol=0, atol=1e-12), found, expected)
    self.assertGreater(float(found.errors.expected), 0.1)

  @pytest.mark.slow
  def test_weights_and_a_scan(self):
    probs, labels = _data()
    weights = np.random.default_rng(1).poisson(1.0, size=120)
    with jax.enable_x64(True):
      stream = streaming.calibration_errors(4)
      state, _ = jax.lax.scan(
          lambda state, part: (stream.update(state, *part), None),
          stream.init(), tuple(jnp.asarray(x).reshape(6, 20, *x.shape[1:])
                               for x in (probs, labels, weights)))
      kept = np.repeat(np.arange(120), weights)
      whole = stream.update(stream.init(), probs[kept], labels[kept])
      jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(
          ours, theirs, rtol=0, atol=1e-12), state, whole)

  @pytest.mark.slow
  def test_a_state_does_not_grow(self):
    stream = streaming.calibration_errors(4, num_bins=5)
    shapes = lambda state: jax.tree.map(lambda x: (x.shape, x.dtype), state)
    state = stream.update(stream.init(), *_data(n=33))
    self.assertEqual(shapes(state), shapes(stream.init()))
    half = _data()[0].astype(np.float16), _data()[1]
    self.assertEqual(shapes(stream.update(state, *half)), shapes(state))

  def test_nothing_seen_is_no_number(self):
    stream = streaming.calibration_errors(4)
    found = stream.compute(stream.init())
    self.assertTrue(np.isnan(found.accuracy))
    self.assertTrue(np.isnan(found.errors.expected))

  def test_refuses(self):
    with self.assertRaisesRegex(ValueError, "edges='up'.*left, right"):
      streaming.calibration_errors(4, edges="up")
    with self.assertRaisesRegex(ValueError, "num_bins=0"):
      streaming.calibration_errors(4, num_bins=0)
    with self.assertRaisesRegex(ValueError, "num_classes=0"):
      streaming.calibration_errors(0)
    stream = streaming.calibration_errors(3)
    with self.assertRaisesRegex(ValueError, r"expected probs \[examples, 3\]"):
      stream.update(stream.init(), *_data())


if __name__ == "__main__":
  absltest.main()
