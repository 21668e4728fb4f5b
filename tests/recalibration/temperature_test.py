"""Temperature scaling against scipy, a stored oracle and recorded networks."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize
from scipy import special

from jaxcal.recalibration import base
from jaxcal.recalibration import predicted
from jaxcal.recalibration import temperature
from tests import error_bars
from tests import quick
from tests import shared


def _data(seed, n=300, k=5, true_temperature=2.):
  """Logits of a model that is over-confident by a known factor."""
  generator = np.random.default_rng(seed)
  logits = 3 * generator.normal(size=(n, k))
  noise = generator.gumbel(size=(n, k))
  return logits, np.argmax(logits / true_temperature + noise, axis=-1)


def _nll(logits, labels, value, weights=None):
  rows = np.arange(len(labels))
  scaled = np.asarray(logits, float) / value
  losses = special.logsumexp(scaled, axis=-1) - scaled[rows, labels]
  return np.average(losses, weights=weights)


def _minimised(logits, labels, weights=None):
  """The temperature of least loss from values of the loss alone."""
  found = optimize.minimize_scalar(
      lambda log: _nll(logits, labels, np.exp(log), weights),
      bounds=(-3, 3), method="bounded", options={"xatol": 1e-9})
  return np.exp(found.x)


class FitTest(parameterized.TestCase):

  @parameterized.parameters(0.4, 1., 3.)
  def test_synthetic(self, true_temperature):
    logits, labels = _data(0, 4000, true_temperature=true_temperature)
    fitted = temperature.fit_temperature(logits, labels)
    self.assertIsInstance(fitted, float)
    np.testing.assert_allclose(
        fitted, _minimised(logits, labels), rtol=1e-6)
    # The standard error of log T, by the curvature of the loss.
    h = 1e-3
    curvature = (_nll(logits, labels, fitted * np.exp(h)) +
                 _nll(logits, labels, fitted * np.exp(-h)) -
                 2 * _nll(logits, labels, fitted)) / h**2
    self.assertLess(abs(np.log(fitted / true_temperature)),
                    error_bars.LEVEL / (4000 * curvature)**0.5)

  def test_stored_oracle(self):
    path = shared.path("oracles/few_shot") / "calibration_oracle.npz"
    with np.load(path) as stored:
      logits, labels = stored["data/val_logits"], stored["data/val_labels"]
      fitted = temperature.fit_temperature(logits, labels)
      np.testing.assert_allclose(
          fitted, stored["ts/temperature"], rtol=1e-10)
      np.testing.assert_allclose(
          special.softmax(temperature.apply(
              fitted, stored["data/test_logits"]), axis=-1),
          stored["ts/test_probs"], rtol=1e-8)

  def test_derivative_is_zero(self):
    logits, labels = _data(1)
    fitted = temperature.fit_temperature(logits, labels)
    with jax.enable_x64(True):
      slope = quick.jit(jax.grad(lambda scale: -jnp.mean(jnp.take_along_axis(
          jax.nn.log_softmax(scale * logits), labels[:, None], -1))))(
              1 / fitted)
    np.testing.assert_allclose(slope, 0, atol=1e-10)

  def test_integer_weights_repeat_the_examples(self):
    logits, labels = _data(2)
    counts = np.random.default_rng(0).integers(4, size=len(labels))
    spoiled = np.where(counts[:, None] > 0, logits, np.nan)
    np.testing.assert_allclose(
        temperature.fit_temperature(spoiled, labels, weights=counts),
        temperature.fit_temperature(
            np.repeat(logits, counts, 0), np.repeat(labels, counts)),
        rtol=1e-9)

  def test_invariant_to_shifts_and_blocks_and_follows_scale(self):
    logits, labels = _data(3, 40, 4)
    fitted = temperature.fit_temperature(logits, labels)
    shifts = np.random.default_rng(0).normal(size=(40, 1)) * 1e6
    np.testing.assert_allclose(
        temperature.fit_temperature(logits + shifts, labels), fitted, rtol=1e-8)
    np.testing.assert_allclose(
        temperature.fit_temperature(20 * logits, labels), 20 * fitted,
        rtol=1e-9)
    self.enter_context(
        absltest.mock.patch.object(temperature, "_BLOCK", 12))
    np.testing.assert_allclose(
        temperature.fit_temperature(logits, labels), fitted, rtol=1e-9)

  def test_half_precision_is_widened_first(self):
    logits, labels = _data(4)
    half = jnp.asarray(logits, jnp.bfloat16)
    np.testing.assert_allclose(
        temperature.fit_temperature(half, jnp.asarray(labels)),
        _minimised(np.asarray(half, float), labels), rtol=1e-6)


class BoundsTest(parameterized.TestCase):

  def test_all_right_is_the_lower_bound(self):
    logits, _ = _data(0)
    fitted = temperature.fit_temperature(logits, logits.argmax(-1))
    self.assertEqual(fitted, temperature.BOUNDS[0])
    self.assertTrue(np.isfinite(temperature.apply(fitted, logits)).all())

  def test_worse_than_chance_is_the_upper_bound(self):
    logits, _ = _data(0)
    self.assertEqual(
        temperature.fit_temperature(logits, logits.argmin(-1)),
        temperature.BOUNDS[1])
    # Right and wrong in equal parts: no finite temperature is the best.
    pair = np.array([[1., 0.], [1., 0.]])
    self.assertEqual(
        temperature.fit_temperature(pair, np.array([0, 1])),
        temperature.BOUNDS[1])

  def test_one_error_among_many_is_no_bound(self):
    logits = np.tile([[2., 0.]], (1000, 1))
    labels = np.zeros(1000, int)
    labels[0] = 1
    # The confidence becomes the accuracy: 2 / T = log 999.
    np.testing.assert_allclose(
        temperature.fit_temperature(logits, labels), 2 / np.log(999),
        rtol=1e-9)

  @parameterized.parameters((3, 4), (5, 1))
  def test_without_influence_it_is_one(self, n, k):
    self.assertEqual(
        temperature.fit_temperature(np.full((n, k), 7.), np.zeros(n, int)), 1.)


class CalibratorTest(parameterized.TestCase):
  """What becomes of a fit: applied or not, and with which words."""

  def _fit(self, logits, labels):
    one = temperature.Temperature().recalibrator()
    evidence = base.Evidence(np.asarray(logits), np.asarray(labels))
    fit = one.fit(evidence)
    return (fit.parameters["temperature"], fit.notes,
            one.apply(fit.parameters, evidence))

  @parameterized.parameters(0.5, 2.)
  def test_an_optimum_is_applied_without_a_word(self, true_temperature):
    logits, labels = _data(0, 4000, true_temperature=true_temperature)
    fitted, notes, scaled = self._fit(logits, labels)
    np.testing.assert_allclose(fitted, _minimised(logits, labels), rtol=1e-6)
    self.assertEqual(notes, ())
    np.testing.assert_allclose(scaled, logits / fitted, rtol=1e-12)

  def test_all_right_is_not_applied(self):
    for n in (1, 7):
      logits, _ = _data(0, n)
      labels = logits.argmax(-1)
      fitted, (note,), scaled = self._fit(logits, labels)
      self.assertEqual(fitted, 1)
      np.testing.assert_array_equal(scaled, logits)
      self.assertStartsWith(note, f"all {n} of {n} predictions are right, so ")
      self.assertIn("more labelled images", note)
      # Indeed: the sharper, the likelier.
      losses = [_nll(logits, labels, value) for value in (1, .3, .1, .03)]
      self.assertEqual(losses, sorted(losses, reverse=True))

  @parameterized.parameters(1e-6, 1e-9)
  def test_errors_too_small_for_the_range_are_none(self, margin):
    logits = np.tile([[2., 0.]], (1000, 1))
    logits[0] = 0, margin
    fitted, (note,), _ = self._fit(logits, np.zeros(1000, int))
    self.assertEqual(fitted, 1)
    self.assertStartsWith(note, "999 of 1000 predictions are right")
    self.assertIn("likelier than the lowest, 0.001", note)

  def test_worse_than_chance_is_not_applied(self):
    logits, _ = _data(0, 30)
    fitted, (note,), _ = self._fit(logits, logits.argmin(-1))
    self.assertEqual(fitted, 1)
    self.assertStartsWith(note, "0 of 30 predictions are right")
    self.assertIn("likelier than the highest, 1000", note)

  @parameterized.parameters((3, 4), (5, 1))
  def test_nothing_to_fit(self, n, k):
    fitted, (note,), _ = self._fit(np.full((n, k), 7.), np.zeros(n, int))
    self.assertEqual(fitted, 1)
    self.assertStartsWith(note, f"the likelihood of the {n} labels is the same")

  def test_an_optimum_of_one_is_one(self):
    # Three of four right at a confidence of 3 / 4: nothing to improve.
    logits = np.tile([[np.log(3.), 0.]], (4, 1))
    fitted, notes, _ = self._fit(logits, np.array([0, 0, 0, 1]))
    np.testing.assert_allclose(fitted, 1, rtol=1e-9)
    self.assertLen(notes, 1)
    self.assertStartsWith(notes[0], "1 lies within the 95 % interval")

  def test_fewer_images_than_classes_is_applied_with_a_word(self):
    logits, labels = _data(5, 30, 40, true_temperature=8.)
    fitted, (note,), scaled = self._fit(logits, labels)
    np.testing.assert_allclose(fitted, np.exp(optimize.minimize_scalar(
        lambda log: _nll(logits, labels, np.exp(log)), bounds=(-3, 5),
        method="bounded", options={"xatol": 1e-9}).x), rtol=1e-6)
    absent = 40 - len(set(labels.tolist()))
    self.assertIn("30 images, fewer than the 40 classes, of which "
                  f"{absent} have no image", note)
    np.testing.assert_allclose(scaled, logits / fitted, rtol=1e-12)

  def test_hardly_better_than_chance_is_applied_without_a_claim(self):
    """Nearly flat probabilities, but a temperature of one is far too sharp."""
    logits = np.tile([[1., 0.]], (100, 1))
    labels = (np.arange(100) >= 51).astype(int)
    fitted, notes, _ = self._fit(logits, labels)
    np.testing.assert_allclose(fitted, 1 / np.log(51 / 49), rtol=1e-9)
    self.assertEqual(notes, ())
    low, high = temperature.confidence_interval(fitted, logits, labels)
    self.assertBetween(low, 1.5, 5)
    self.assertEqual(high, temperature.BOUNDS[1])

  @parameterized.parameters((0.95, 3.841459), (0.5, 0.454936))
  def test_interval_is_where_the_likelihood_ratio_is_the_quantile(
      self, level, quantile):
    logits, labels = _data(6, 200)
    fitted = temperature.fit_temperature(logits, labels)
    ends = temperature.confidence_interval(
        fitted, logits, labels, level=level)
    for end in ends:
      ratio = 2 * 200 * (_nll(logits, labels, end) -
                         _nll(logits, labels, fitted))
      np.testing.assert_allclose(ratio, quantile, rtol=1e-5)
    self.assertLess(ends[0], fitted)
    self.assertLess(fitted, ends[1])
    self.enter_context(absltest.mock.patch.object(temperature, "_BLOCK", 12))
    np.testing.assert_allclose(
        temperature.confidence_interval(
            fitted, logits + 1e5, labels, level=level), ends, rtol=1e-7)

  @parameterized.parameters(1., 2.)
  @pytest.mark.slow
  def test_interval_covers_the_true_temperature(self, true_temperature):
    repeats, covered, noted = 400, 0, 0
    for seed in range(repeats):
      logits, labels = _data(seed, 200, true_temperature=true_temperature)
      fitted = temperature.fit_temperature(logits, labels)
      low, high = temperature.confidence_interval(fitted, logits, labels)
      covered += low <= true_temperature <= high
      noted += bool(self._fit(logits, labels)[1])
    self.assertBetween(covered, *error_bars.binomial_band(repeats, 0.95))
    # Said just where one is covered: nearly never at a temperature of 2.
    if true_temperature == 1:
      self.assertEqual(noted, covered)
    else:
      self.assertLess(noted, 4)

  def test_a_flat_likelihood_excludes_nothing(self):
    self.assertEqual(temperature.confidence_interval(
        1., np.ones((3, 2)), np.zeros(3, int)), temperature.BOUNDS)


class ClassesTest(absltest.TestCase):

  def test_base_classes_and_new_ones_as_in_the_few_shot_papers(self):
    on = _data(0, 300, 4)
    logits = np.random.default_rng(1).normal(size=(20, 3))
    with self.assertRaisesRegex(ValueError, "fitted to 4 and applied to 3"):
      predicted.recalibrate(logits, on)
    found = predicted.recalibrate(
        logits, on, temperature.Temperature(same_classes=False))
    np.testing.assert_allclose(
        found, logits / temperature.fit_temperature(*on), rtol=1e-12)


class RefusesTest(parameterized.TestCase):

  @parameterized.named_parameters(
      ("labels", np.ones((2, 3)), [0], None, r"labels.shape=\(1,\)"),
      ("vector", np.ones(3), [0, 0, 0], None, r"logits.shape=\(3,\)"),
      ("empty", np.ones((0, 3)), np.zeros(0, int), None, r"\(0, 3\)"),
      ("nan", [[1., np.nan], [0, 0]], [0, 0], None, "in 1 of 2 rows"),
      ("infinite", [[1., -np.inf]], [0], None, "in 1 of 1 rows"),
      ("range", np.ones((2, 3)), [0, 3], None, r"\[0, 3\).*\[0, 3\]"),
      ("negative", np.ones((2, 3)), [-1, 2], None, r"span \[-1, 2\]"),
      ("weights", np.ones((1, 3)), [0], [1., 2], "weights.shape"),
      ("no_weight", np.ones((1, 3)), [0], [0.], "not all zero"),
      ("below", np.ones((1, 3)), [0], [-1.], "not negative"),
  )
  def test_fit(self, logits, labels, weights, message):
    with self.assertRaisesRegex(ValueError, message):
      temperature.fit_temperature(logits, labels, weights=weights)

  def test_labels_are_integers(self):
    with self.assertRaisesRegex(TypeError, "labels must be integers"):
      temperature.fit_temperature(np.ones((1, 2)), np.array([0.]))

  @parameterized.parameters(0., -1., np.inf, np.nan)
  def test_apply(self, value):
    with self.assertRaisesRegex(ValueError, "positive, finite temperature"):
      temperature.apply(value, np.ones((1, 2)))


if __name__ == "__main__":
  absltest.main()
