"""What metrics take for hits, scores and labels, and what they refuse."""

import functools
import warnings

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from jaxcal.metrics import binning
from jaxcal.metrics import brier
from jaxcal.metrics import calibration
from jaxcal.metrics import debiased
from jaxcal.metrics import proximity
from jaxcal.metrics import scoring
from jaxcal.metrics import selective
from jaxcal.metrics import smooth
from jaxcal.metrics import statistics
from tests import tensors

_OF_CORRECT = {
    "bins": lambda *x, **k: binning.bin_statistics(*x, **k).correct_sum,
    "equal_mass": lambda *x, **k: binning.equal_mass_bin_statistics(
        *x, **k).correct_sum,
    "ece": calibration.expected_calibration_error,
    "mce": calibration.maximum_calibration_error,
    "max_bin": calibration.max_bin_contribution,
    "average": calibration.average_calibration_error,
    "over": calibration.overconfidence_error,
    "under": calibration.underconfidence_error,
    "adaptive": calibration.adaptive_calibration_error,
    **{rule: functools.partial(
        calibration.adaptive_calibration_error, rule=rule)
       for rule in binning.RULES[1:]},
    "weighted_over": calibration.confidence_weighted_overconfidence_error,
    "gap": calibration.confidence_gap,
    "debiased": debiased.debiased_calibration_error,
    "smooth": smooth.smooth_calibration_error,
    "ks": smooth.kolmogorov_smirnov_error,
    "mmce": smooth.maximum_mean_calibration_error,
    "piece": lambda confidence, correct, **options: (
        proximity.proximity_calibration_error(
            confidence, correct, np.arange(len(_HITS))[:len(correct)],
            **options)),
    "brier": lambda *x, **k: brier.brier_decomposition(*x, **k).reliability,
}
_OF_POSITIVE = {
    "roc_area": selective.roc_area,
    "average_precision": selective.average_precision,
    "false_positive_rate": selective.false_positive_rate,
}
_ALL = tuple((_OF_CORRECT | _OF_POSITIVE).items())
_CONFIDENCE = [0.9, 0.8, 0.7, 0.35]
_HITS = [True, False, True, False]


class EndsOfTheRangeTest(parameterized.TestCase):
  """Confidences of 0 and 1, on inner edges, no example, NaN."""

  def _ece(self, confidence, correct, **options):
    return float(calibration.expected_calibration_error(
        np.asarray(confidence, np.float32), np.asarray(correct, bool),
        **options))

  @parameterized.parameters("right", "left")
  def test_no_example_is_lost_or_alone(self, edges):
    # Both in the last bin, whose gap is 0.985 - 1/2.
    self.assertAlmostEqual(
        self._ece([0.97, 1.0], [True, False], edges=edges, num_bins=20),
        0.485, places=6)
    self.assertAlmostEqual(self._ece([0.0], [True], edges=edges), 1)
    self.assertEqual(self._ece([0, 1, 0, 1], [0, 1, 0, 1], edges=edges), 0)
    bins = binning.bin_statistics(
        np.linspace(0, 1, 21).astype(np.float32), np.zeros(21, bool),
        num_bins=20, edges=edges)
    self.assertEqual(float(bins.count.sum()), 21)

  @parameterized.parameters(np.nan, 1.2, -0.1)
  def test_no_confidence(self, value):
    with self.assertRaisesRegex(ValueError, r"confidence must lie in \[0, 1\]"):
      self._ece([value, 0.5], [True, True])

  def test_no_example(self):
    with self.assertRaisesRegex(ValueError, "n > 0"):
      self._ece([], [])

  def test_labels_instead_of_hits(self):
    with self.assertRaisesRegex(
        ValueError, r"correct must be hits, True or False \(or 1 and 0\), but "
        "4 is among them; from class labels: predicted == labels"):
      calibration.expected_calibration_error(
          np.array([0.9, 0.8, 0.7]), np.array([4, 7, 2]))


class HitsTest(parameterized.TestCase):

  @parameterized.named_parameters(*_ALL)
  def test_zero_and_one_of_any_type_are_hits(self, metric):
    expected = metric(jnp.array(_CONFIDENCE), jnp.array(_HITS))
    self.assertTrue(np.any(np.asarray(expected) > 0))
    for dtype in (bool, np.int64, np.uint8, np.float64, np.float16,
                  jnp.bfloat16):
      np.testing.assert_array_equal(
          metric(jnp.array(_CONFIDENCE), np.array(_HITS, dtype)), expected)

  @parameterized.named_parameters(*_ALL)
  def test_anything_else_is_refused(self, metric):
    for wrong, first in (([0, 1, 2, 1], "2"), ([4, 7, 2, 0], "4"),
                         ([1, -1, 1, -1], "-1"), ([0, 0.5, 1, 1], "0.5"),
                         ([np.nan, 0, 1, 1], "nan")):
      for hold in (np.asarray, jnp.asarray, list):
        with self.assertRaisesRegex(
            ValueError, f"must be hits, .* but {first} is among them; from "
            "class labels: .* == "):
          metric(jnp.array(_CONFIDENCE), hold(wrong))

  @parameterized.named_parameters(*_ALL)
  def test_examples_of_no_weight_may_hold_anything(self, metric):
    found = metric(jnp.array(_CONFIDENCE), np.array([1, 0, 1, 7]),
                   weights=np.array([1, 1, 1, 0]))
    np.testing.assert_allclose(
        found, metric(jnp.array(_CONFIDENCE[:3]), np.array([1, 0, 1])),
        rtol=1e-6)

  @parameterized.named_parameters(*_ALL)
  def test_traced_values_pass(self, metric):
    found = jax.jit(metric)(jnp.array(_CONFIDENCE), jnp.array(_HITS, int))
    np.testing.assert_allclose(
        found, metric(jnp.array(_CONFIDENCE), jnp.array(_HITS)), rtol=1e-6)
    jax.jit(metric)(jnp.array(_CONFIDENCE), jnp.array([4, 7, 2, 0]))

  def test_names_say_which_argument(self):
    for metric in _OF_POSITIVE.values():
      with self.assertRaisesRegex(
          ValueError, "positive must be hits.*labels == the class"):
        metric(np.array(_CONFIDENCE), np.array([1, 2, 3, 4]))
    with self.assertRaisesRegex(TypeError, "numbers are needed.*U3"):
      calibration.confidence_gap(_CONFIDENCE, ["yes", "no", "no", "yes"])


class _Held:
  """Numbers serve alike, whatever holds them, and without a warning.

  Which that is, `hold` says; labels may be held by something else.
  """

  def hold_labels(self, labels):
    return self.hold(labels)

  def setUp(self):
    super().setUp()
    context = warnings.catch_warnings()
    context.__enter__()
    self.addCleanup(context.__exit__, None, None, None)
    warnings.simplefilter("error")

  def test_confidences_hits_and_weights(self):
    for name, metric in _ALL:
      with self.subTest(name):
        found = metric(self.hold(_CONFIDENCE), self.hold(_HITS),
                       weights=self.hold([1, 2, 1, 3]))
        self.assertIsInstance(found, jax.Array)
        np.testing.assert_array_equal(found, metric(
            jnp.array(_CONFIDENCE), jnp.array(_HITS),
            weights=jnp.array([1, 2, 1, 3])))

  def test_losses_and_means(self):
    hold = self.hold
    losses, scores = [0.0, 1.0, 1.0, 0.5], [4.0, 3.0, 2.0, 1.0]
    # Means of the first one, two, three and four losses.
    self.assertAlmostEqual(
        float(selective.risk_coverage_area(hold(losses), hold(scores))),
        (0 + 1 / 2 + 2 / 3 + 2.5 / 4) / 4, places=6)
    self.assertAlmostEqual(
        float(selective.risk_at_coverage(hold(losses), hold(scores), 0.5)),
        1 / 2, places=6)
    self.assertAlmostEqual(
        float(statistics.weighted_mean(hold(losses), hold([1, 0, 1, 2]))),
        2 / 4, places=6)

  def test_scores_and_labels(self):
    hold = self.hold
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(4), 50)
    labels = rng.integers(4, size=50)
    given = hold(probs), self.hold_labels(labels)
    self.assertAlmostEqual(
        float(scoring.accuracy(*given)),
        sklearn_metrics.accuracy_score(labels, probs.argmax(1)), places=6)
    self.assertAlmostEqual(
        float(jnp.mean(scoring.negative_log_likelihood(
            hold(np.log(probs)), given[1]))),
        sklearn_metrics.log_loss(labels, probs), places=5)
    self.assertAlmostEqual(
        float(jnp.mean(scoring.brier_score(*given))),
        np.mean(np.sum((probs - np.eye(4)[labels])**2, 1)), places=6)
    classwise = functools.partial(
        calibration.classwise_calibration_error, num_bins=1)
    self.assertAlmostEqual(
        float(classwise(*given)),
        np.abs(probs.mean(0) - np.bincount(labels, minlength=4) / 50).mean(),
        places=6)
    floor = calibration.calibration_floor(
        hold(probs.max(1)), key=jax.random.key(0), num_samples=5)
    self.assertBetween(float(floor), 0.01, 0.5)


class NumpyTest(_Held, absltest.TestCase):

  hold = staticmethod(np.asarray)


class JaxTest(_Held, absltest.TestCase):

  hold = staticmethod(jnp.asarray)


class ListTest(_Held, absltest.TestCase):

  def hold(self, values):
    return np.asarray(values).tolist()


@pytest.mark.needs("torch")
class TensorTest(_Held, absltest.TestCase):

  hold = staticmethod(tensors.tensor)


@pytest.mark.needs("torch")
class LearningTensorTest(_Held, absltest.TestCase):
  """Hits and weights are numbers of double precision then."""

  hold_labels = staticmethod(tensors.tensor)

  def hold(self, values):
    return tensors.tensor(values).double().requires_grad_()


class LabelsTest(absltest.TestCase):

  def test_labels_that_32_bits_would_fold_into_the_range(self):
    for function in (scoring.correct, scoring.brier_score):
      with self.assertRaisesRegex(ValueError, "they span"):
        function(np.full((2, 3), 1 / 3), np.array([0, 2**32 + 1]))


if __name__ == "__main__":
  absltest.main()
