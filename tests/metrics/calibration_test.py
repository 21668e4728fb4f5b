"""Calibration errors against reference libraries, loops and simulation."""

import functools
import json

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxcal.metrics import binning
from jaxcal.metrics import calibration
from jaxcal.metrics import proximity
from tests import error_bars
from tests import shared
from tests.metrics import measured

_OF_CONFIDENCE = {
    "ece": calibration.expected_calibration_error,
    "mce": calibration.maximum_calibration_error,
    "max_bin_contribution": calibration.max_bin_contribution,
    "avg_ce": calibration.average_calibration_error,
    "rmsce": functools.partial(
        calibration.expected_calibration_error, norm="l2"),
    "ece_over": calibration.overconfidence_error,
    "ece_under": calibration.underconfidence_error,
    "oe_conf_weighted": calibration.confidence_weighted_overconfidence_error,
}
_ALL = _OF_CONFIDENCE | {
    "adaptive": calibration.adaptive_calibration_error,
    **{rule: functools.partial(
        calibration.adaptive_calibration_error, rule=rule)
       for rule in binning.RULES[1:]},
    "gap": calibration.confidence_gap,
}


def _data(seed, n, power=1.0):
  """Confidences, and hits that are rarer than them for a power above one."""
  generator = np.random.default_rng(seed)
  confidence = generator.uniform(size=n)
  return confidence, generator.uniform(size=n) < confidence**power


@functools.partial(jax.jit, static_argnames=("num_bins", "edges"))
def _errors(confidence, correct, *, num_bins=20, edges="right"):
  """All errors of the confidence in one compiled program."""
  return {
      name: function(confidence, correct, num_bins=num_bins, edges=edges)
      for name, function in _OF_CONFIDENCE.items()}


def _named(functions):
  return tuple((name, function) for name, function in functions.items())


def _loop_ece(confidence, correct, num_bins):
  error = 0
  for b in range(num_bins):
    low, high = b / num_bins, (b + 1) / num_bins
    inside = [(c, a) for c, a in zip(confidence, correct) if low < c <= high]
    error += abs(sum(c - a for c, a in inside)) / len(confidence)
  return error


class HandCaseTest(absltest.TestCase):

  @pytest.mark.slow
  def test_four_examples_in_two_bins(self):
    # Bin (0, 1/2]: confidence 0.3, accuracy 1/2. Bin (1/2, 1]: 0.8 and 0.
    confidence = np.array([0.2, 0.4, 0.7, 0.9])
    correct = np.array([True, False, False, False])
    expected = {
        "ece": 0.5 * 0.2 + 0.5 * 0.8, "mce": 0.8, "max_bin_contribution": 0.4,
        "avg_ce": 0.5, "rmsce": (0.5 * 0.04 + 0.5 * 0.64)**0.5,
        "ece_over": 0.4, "ece_under": 0.1, "oe_conf_weighted": 0.8 * 0.4,
        "adaptive": 0.5, "equal_count": 0.5,
        # The first one falls out, and the second bin begins at the third.
        "interpolated": abs(0.4 + 0.7) / 4 + 0.9 / 4,
        # The edge is the third confidence, which is in the first bin.
        "nearest_rank": abs(0.2 - 1 + 0.4 + 0.7) / 4 + 0.9 / 4}
    for name, value in expected.items():
      with self.subTest(name):
        np.testing.assert_allclose(
            _ALL[name](confidence, correct, num_bins=2), value, rtol=1e-6)
    np.testing.assert_allclose(
        calibration.confidence_gap(confidence, correct), 0.3, rtol=1e-6)

  def test_classwise_by_hand(self):
    # One bin per class: mean probabilities (0.7, 0.3), frequencies (1/2, 1/2).
    probs = np.array([[0.9, 0.1], [0.5, 0.5]])
    error = calibration.classwise_calibration_error(
        probs, np.array([0, 1]), num_bins=1)
    np.testing.assert_allclose(error, 0.2, rtol=1e-6)


class ZeroShotTest(parameterized.TestCase):
  """Outputs of CLIP against netcal, torchmetrics and numpy."""

  @parameterized.parameters("CLIP_RN50", "CLIP_ViT-B-32")
  def test_zero_shot_clip(self, name):
    prompt = "a satellite photo of a"
    expected = json.loads(
        shared.path("data/expected_metrics.json").read_text())
    with np.load(shared.path("data/whurs19") / f"{name}.npz") as stored:
      row = list(stored["prompts"]).index(prompt)
      images, texts = (
          x / np.linalg.norm(x, axis=1, keepdims=True) for x in (
              stored["image_features"].astype(float),
              stored["text_features"][row].astype(float)))
      logits = 100 * images @ texts.T
      exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
      measured.check(
          expected[f"whurs19/{name}.npz/{prompt}"],
          exponentials / exponentials.sum(axis=1, keepdims=True),
          stored["labels"])


class ReferenceNumbersTest(parameterized.TestCase):

  @parameterized.product(
      split=("val", "test", "new"), num_bins=(10, 15), edges=("left", "right"))
  def test_binned_errors(self, split, num_bins, edges):
    numbers = shared.arrays("oracles/few_shot/calibration_oracle.npz")
    probs, labels = self._probs(numbers, split)
    confidence, correct = probs.max(axis=1), probs.argmax(axis=1) == labels
    prefix = f"metrics/{split}/"
    with jax.enable_x64(True):
      errors = _errors(confidence, correct, num_bins=num_bins, edges=edges)
      for name, error in errors.items():
        np.testing.assert_allclose(
            error, numbers[f"{prefix}{name}_{num_bins}_{edges}"], rtol=0,
            atol=1e-9)
      np.testing.assert_allclose(
          calibration.classwise_calibration_error(
              probs, labels, num_bins=num_bins, edges=edges),
          numbers[f"{prefix}classwise_ece_{num_bins}_{edges}"],
          rtol=0, atol=1e-9)

  @parameterized.product(split=("val", "test", "new"), num_bins=(10, 15, 20))
  def test_adaptive_error_and_gap(self, split, num_bins):
    numbers = shared.arrays("oracles/few_shot/calibration_oracle.npz")
    probs, labels = self._probs(numbers, split)
    confidence, correct = probs.max(axis=1), probs.argmax(axis=1) == labels
    with jax.enable_x64(True):
      for rule, name in (("quantile", "ace_quantile"),
                         ("equal_count", "ace_equalcount"),
                         ("interpolated", "ace_interp")):
        np.testing.assert_allclose(
            calibration.adaptive_calibration_error(
                confidence, correct, num_bins=num_bins, rule=rule),
            numbers[f"metrics/{split}/{name}_{num_bins}"], rtol=0, atol=1e-9)
      np.testing.assert_allclose(
          calibration.confidence_gap(confidence, correct),
          numbers[f"metrics/{split}/signed_gap"], rtol=0, atol=1e-9)

  @parameterized.product(num_bins=(4, 8, 10, 16, 20), edges=("left", "right"))
  def test_confidences_on_edges(self, num_bins, edges):
    numbers = shared.arrays("oracles/few_shot/calibration_oracle.npz")
    with jax.enable_x64(True):
      errors = _errors(
          numbers["edge/confidence"], numbers["edge/correct"],
          num_bins=num_bins, edges=edges)
    for name in ("ece", "mce", "max_bin_contribution"):
      np.testing.assert_allclose(
          errors[name], numbers[f"edge/{name}_{num_bins}_{edges}"], rtol=0,
          atol=1e-12)

  def test_errors_of_each_class(self):
    numbers = shared.arrays("oracles/few_shot/calibration_oracle.npz")
    with jax.enable_x64(True):
      errors = calibration.classwise_calibration_errors(
          *self._probs(numbers, "test"), num_bins=15)
    np.testing.assert_allclose(
        errors, numbers["metrics/test/classwise_ece_15_right_per_class"],
        rtol=0, atol=1e-9)

  def _probs(self, numbers, split):
    logits = numbers[f"data/{split}_logits"]
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (exponentials / exponentials.sum(axis=1, keepdims=True),
            numbers[f"data/{split}_labels"])


class PropertyTest(parameterized.TestCase):

  @parameterized.product(num_bins=(1, 7, 20), power=(0.3, 1.0, 3.0))
  def test_plain_loop(self, num_bins, power):
    confidence, correct = _data(0, 200, power)
    with jax.enable_x64(True):
      np.testing.assert_allclose(
          calibration.expected_calibration_error(
              confidence, correct, num_bins=num_bins),
          _loop_ece(confidence, correct, num_bins), rtol=1e-10)

  @parameterized.parameters(0.3, 1.0, 3.0)
  def test_how_the_errors_are_ordered(self, power):
    confidence, correct = _data(1, 300, power)
    with jax.enable_x64(True):
      error = {name: float(e) for name, e in _errors(
          confidence, correct).items()}
      gap = float(calibration.confidence_gap(confidence, correct))
    self.assertLessEqual(abs(gap), error["ece"] + 1e-12)
    self.assertLess(error["max_bin_contribution"], error["ece"])
    self.assertLessEqual(error["oe_conf_weighted"], error["ece_over"])
    self.assertLessEqual(error["ece"], error["rmsce"])
    self.assertLessEqual(error["rmsce"], error["mce"])
    self.assertAlmostEqual(
        error["ece_over"] + error["ece_under"], error["ece"], places=12)
    with jax.enable_x64(True):
      wrong = {name: float(e) for name, e in _errors(
          confidence, np.zeros(300, bool)).items()}
    self.assertEqual(wrong["ece_under"], 0)
    np.testing.assert_allclose(wrong["ece_over"], confidence.mean())

  @parameterized.product(
      seed=(0, 1, 2, 3), n=(1, 7, 150), edges=("left", "right"),
      digits=(1, None))
  def test_bounds_of_any_predictions(self, seed, n, edges, digits):
    """Also where confidences lie on edges, and where bins are empty."""
    confidence, correct = _data(seed, n, 2.0)
    if digits:
      confidence = confidence.round(digits)
    grouping = np.random.default_rng(seed + 100).uniform(size=n)
    with jax.enable_x64(True):
      error = {name: float(e) for name, e in _errors(
          confidence, correct, num_bins=10, edges=edges).items()}
      within = float(proximity.proximity_calibration_error(
          confidence, correct, grouping, num_groups=3, edges=edges))
    self.assertLessEqual(error["max_bin_contribution"], error["ece"] + 1e-12)
    self.assertLessEqual(error["ece"], error["mce"] + 1e-12)
    self.assertGreaterEqual(within, error["ece"] - 1e-12)

  def test_perfect_calibration_is_zero(self):
    # Bin means 0.25 and 0.75, hit exactly that often.
    confidence = np.repeat([0.25, 0.75], 8)
    correct = np.array([1, 0, 0, 0] * 2 + [1, 1, 1, 0] * 2, bool)
    for name, function in _ALL.items():
      with self.subTest(name):
        np.testing.assert_allclose(function(confidence, correct), 0, atol=1e-7)

  @parameterized.named_parameters(*_named(_ALL))
  def test_order_of_examples_does_not_matter(self, function):
    confidence, correct = _data(2, 60, 2.0)
    order = np.random.default_rng(3).permutation(60)
    with jax.enable_x64(True):
      np.testing.assert_allclose(
          function(confidence[order], correct[order]),
          function(confidence, correct), rtol=1e-10)

  @parameterized.named_parameters(*_named(_ALL))
  def test_a_weight_is_a_number_of_copies(self, function):
    confidence, correct = _data(4, 60, 2.0)
    copies = np.random.default_rng(5).permutation([0, 0, 1, 1, 1, 3] * 10)
    with jax.enable_x64(True):
      np.testing.assert_allclose(
          function(confidence, correct, weights=copies),
          function(np.repeat(confidence, copies), np.repeat(correct, copies)),
          rtol=1e-10)

  @parameterized.named_parameters(*_named(_ALL))
  def test_jit_vmap_and_strict_dtypes(self, function):
    data = [_data(seed, 60, 2.0) for seed in range(3)]
    confidence = np.asarray([c for c, _ in data], np.float32)
    correct = np.asarray([a for _, a in data])
    with jax.numpy_dtype_promotion("strict"):
      batched = jax.jit(jax.vmap(function))(confidence, correct)
      loop = [function(c, a) for c, a in zip(confidence, correct)]
    np.testing.assert_allclose(batched, loop, rtol=1e-5, atol=1e-7)

  @parameterized.named_parameters(*_named(_ALL))
  def test_half_precision_gives_a_single_precision_error(self, function):
    confidence, correct = _data(6, 60, 2.0)
    half = jnp.asarray(confidence, jnp.float16)
    error = function(half, correct)
    self.assertEqual(error.dtype, jnp.float32)
    np.testing.assert_array_equal(
        error, function(half.astype(jnp.float32), correct))

  def test_merged_statistics_give_the_error_of_the_whole(self):
    confidence, correct = _data(7, 60, 2.0)
    parts = [
        binning.bin_statistics(confidence[part], correct[part])
        for part in (slice(0, 30), slice(30, 60))]
    np.testing.assert_allclose(
        calibration.calibration_error(parts[0] + parts[1]),
        calibration.expected_calibration_error(confidence, correct), rtol=1e-6)

  def test_all_errors_of_one_binning(self):
    confidence, correct = _data(9, 60, 2.0)
    with jax.enable_x64(True):
      found = calibration.errors_of(
          binning.bin_statistics(confidence, correct))
      expected = {
          "expected": "ece", "root_mean_square": "rmsce", "maximum": "mce",
          "largest_contribution": "max_bin_contribution", "average": "avg_ce",
          "over": "ece_over", "under": "ece_under",
          "confidence_weighted_over": "oe_conf_weighted", "gap": "gap"}
      self.assertEqual(found._fields, tuple(expected))
      for field, name in expected.items():
        np.testing.assert_allclose(
            getattr(found, field), _ALL[name](confidence, correct), rtol=1e-12)

  def test_classwise_is_the_mean_of_binary_errors(self):
    generator = np.random.default_rng(8)
    probs = generator.dirichlet(np.ones(4), size=120)
    labels = generator.integers(4, size=120)
    copies = generator.poisson(1.0, size=120)
    kept = np.repeat(np.arange(120), copies)
    expected = np.mean([
        _loop_ece(probs[kept, k], labels[kept] == k, 15) for k in range(4)])
    with jax.enable_x64(True):
      def run(probs, labels):
        return calibration.classwise_calibration_error(
            probs, labels, num_bins=15, weights=copies)

      for function in (run, jax.jit(run)):
        np.testing.assert_allclose(
            function(jnp.asarray(probs), jnp.asarray(labels)), expected,
            rtol=1e-10)

  def test_errors(self):
    confidence, correct = np.array([0.5, 0.6]), np.array([True, False])
    with self.assertRaisesRegex(ValueError, "norm='l3'.*l1, l2, max"):
      calibration.expected_calibration_error(confidence, correct, norm="l3")
    with self.assertRaisesRegex(ValueError, "edges='up'.*left, right"):
      calibration.maximum_calibration_error(confidence, correct, edges="up")
    with self.assertRaisesRegex(ValueError, "rule='mass'.*equal_count"):
      calibration.adaptive_calibration_error(confidence, correct, rule="mass")
    with self.assertRaisesRegex(ValueError, r"probs must lie in \[0, 1\]"):
      calibration.classwise_calibration_error(
          np.array([[1.5, -0.5]]), np.array([0]))
    with self.assertRaisesRegex(ValueError, r"\[0, 2\), but they span \[0, 2"):
      calibration.classwise_calibration_error(
          np.array([[0.5, 0.5]] * 2), np.array([0, 2]))
    with self.assertRaisesRegex(ValueError, "one label per example"):
      calibration.classwise_calibration_error(
          np.array([[0.5, 0.5]]), np.array([0, 1]))
    with self.assertRaisesRegex(TypeError, "must be integers.*float64"):
      calibration.classwise_calibration_error(
          np.array([[0.5, 0.5]]), np.array([0.0]))


class FloorTest(parameterized.TestCase):

  @parameterized.parameters((60, 20), (300, 10))
  def test_brute_force_simulation(self, n, num_bins):
    confidence = np.random.default_rng(0).uniform(0.2, 1, size=n)
    generator = np.random.default_rng(1)
    index = np.ceil(confidence * num_bins).astype(int) - 1
    errors = []
    for _ in range(2000):
      gap = confidence - (generator.uniform(size=n) < confidence)
      sums = np.bincount(index, weights=gap, minlength=num_bins)
      errors.append(np.abs(sums).sum() / n)
    floor = calibration.calibration_floor(
        confidence, key=jax.random.key(0), num_samples=2000,
        num_bins=num_bins)
    # Both are means of 2000.
    np.testing.assert_allclose(
        floor, np.mean(errors), rtol=0,
        atol=error_bars.LEVEL * 2**0.5 * error_bars.of_mean(errors))

  @pytest.mark.slow
  def test_one_bin_has_a_closed_form(self):
    # The mean of |binomial(n, 1/2) / n - 1/2|, whose square has 1 / 4n.
    floor = calibration.calibration_floor(
        np.full(1000, 0.5), key=jax.random.key(1), num_samples=4000)
    expected = stats.binom(1000, 0.5).expect(lambda hits: abs(hits / 1000 - .5))
    error = (1 / 4000 - expected**2)**0.5 / 4000**0.5
    np.testing.assert_allclose(floor, expected, atol=error_bars.LEVEL * error)

  def test_certain_predictions_have_none(self):
    floor = calibration.calibration_floor(
        np.array([0.0, 1.0, 1.0]), key=jax.random.key(2), num_samples=7)
    self.assertEqual(floor, 0)

  def test_same_key_same_floor(self):
    confidence = np.linspace(0.1, 0.9, 40)
    run = functools.partial(
        calibration.calibration_floor, confidence, num_samples=9)
    first, again, other = (run(key=jax.random.key(k)) for k in (3, 3, 4))
    self.assertEqual(first, again)
    self.assertNotEqual(first, other)

  def test_errors(self):
    with self.assertRaisesRegex(ValueError, "num_samples=0"):
      calibration.calibration_floor(
          np.ones(3), key=jax.random.key(0), num_samples=0)
    with self.assertRaisesRegex(ValueError, r"confidence must lie in \[0, 1\]"):
      calibration.calibration_floor(
          np.array([np.nan]), key=jax.random.key(0))


if __name__ == "__main__":
  absltest.main()
