"""Predictions recalibrated: what is kept, what is said, what is refused."""

import collections
import pathlib
import typing
import warnings

from absl.testing import absltest
from absl.testing import parameterized
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize
from scipy import special

from jaxcal import predictions as predictions_lib
from jaxcal import stages
from jaxcal.recalibration import base
from jaxcal.recalibration import predicted
from jaxcal.recalibration import temperature
from tests import error_bars

_NAMES = ("cat", "dog", "owl")


def _predictions(seed, n=200, prefix="test", factor=3.):
  """Over-confident ones, the classes drawn from a third of the logits."""
  rng = np.random.default_rng(seed)
  logits = factor * rng.normal(size=(n, 3)).astype(np.float32)
  labels = (logits / factor + rng.gumbel(size=(n, 3))).argmax(-1)
  return predictions_lib.Predictions(
      logits, labels.astype(np.int32),
      tuple(f"{prefix}/{row}" for row in range(n)), _NAMES,
      info={"entropy": rng.random(n, np.float32)},
      settings={"data": prefix, "method": "tpt"},
      evidence={"zero_shot_logits": logits[::-1].copy()})


class _Of(typing.NamedTuple):
  """A calibrator from the functions that it is to be."""

  one: base.Recalibrator

  def recalibrator(self):
    return self.one


def _range_matched(parameters, evidence):
  """Each image's logits in the range of its zero-shot ones, by a loop."""
  assert not parameters
  rows = []
  for own, other in zip(evidence.logits, evidence.zero_shot_logits):
    part = (own - own.min()) / (own.max() - own.min())
    rows.append(part * (other.max() - other.min()) + other.min())
  return np.stack(rows)


class RecalibrateTest(parameterized.TestCase):

  def test_temperature_of_predictions(self):
    target, on = _predictions(0), _predictions(1, 3000, "held_out")
    found = predicted.recalibrate(target, on)
    rows = np.arange(3000)
    logits = on.logits.astype(float)
    best = optimize.minimize_scalar(
        lambda log: np.mean(special.logsumexp(logits / np.exp(log), -1) -
                            logits[rows, on.labels] / np.exp(log)),
        bounds=(-3, 3), method="bounded", options={"xatol": 1e-9})
    about = found.settings["recalibration"]
    np.testing.assert_allclose(
        about["parameters"]["temperature"], np.exp(best.x), rtol=1e-6)
    np.testing.assert_allclose(
        found.logits, target.logits / np.exp(best.x), rtol=1e-5)
    self.assertEqual(found.logits.dtype, np.float32)
    self.assertEqual(found.settings, target.settings | {
        "recalibrator": "temperature", "recalibration": {
            "parameters": about["parameters"], "num_images": 3000,
            "fitted_on": "held_out", "notes": []}})
    for field in ("labels", "ids", "class_names", "info", "evidence"):
      self.assertIs(getattr(found, field), getattr(target, field))
    # Of arrays, the same logits.
    array = predicted.recalibrate(
        jnp.asarray(target.logits),
        (jnp.asarray(on.logits), jnp.asarray(on.labels)))
    np.testing.assert_allclose(array, found.logits, rtol=1e-6)
    again = predicted.recalibrate(
        base.Evidence(target.logits), base.Evidence(on.logits, on.labels))
    np.testing.assert_array_equal(again, found.logits)

  @pytest.mark.needs("torch")
  def test_tensors(self):
    import torch
    self._check_kind(lambda x: torch.tensor(
        x, requires_grad=x.dtype.kind == "f"))

  @parameterized.parameters(np.asarray, jnp.asarray, np.ndarray.tolist)
  def test_arrays_of_any_kind(self, kind):
    self._check_kind(kind)

  def _check_kind(self, kind):
    target, on = _predictions(0), _predictions(1, 3000, "held_out")
    found = predicted.recalibrate(
        kind(target.logits), (kind(on.logits), kind(on.labels)))
    np.testing.assert_allclose(
        found, predicted.recalibrate(target, on).logits, rtol=1e-5)

  def test_what_is_no_array_and_no_calibrator(self):
    logits, labels = np.zeros((4, 3)), np.zeros(4, int)
    pair = logits, labels
    for given, on, message in (
        (logits[0], pair, r"pair of logits and labels, but .*\(3,\)"),
        (["a", "b"], pair, "a pair of logits and labels, but"),
        ({"tpt": logits}, pair, "but these are of type object"),
        (np.where(np.eye(4, 3) > 0, np.nan, 0), pair,
         "finite logits, but 3 of 4 do not, the first in row 0")):
      with self.subTest(message), self.assertRaisesRegex(ValueError, message):
        predicted.recalibrate(given, on)
    for calibrator in (temperature.Temperature, "temperature"):
      with self.assertRaisesRegex(TypeError, "such as jaxcal.Temperature()"):
        predicted.recalibrate(logits, pair, calibrator)

  def test_notes_are_kept_and_warned_of(self):
    target, on = _predictions(0), _predictions(1, 1, "held_out")
    on = on._replace(labels=on.logits.argmax(-1))
    with self.assertWarnsRegex(
        UserWarning, "temperature: all 1 of 1 predictions are right"):
      found = predicted.recalibrate(target, on)
    note, = found.settings["recalibration"]["notes"]
    self.assertStartsWith(note, "all 1 of 1 predictions are right")
    np.testing.assert_array_equal(found.logits, target.logits)
    with self.assertWarns(base.FitWarning):
      predicted.recalibrate(target.logits, (on.logits, on.labels))

  def test_stages_and_numbers_are_in_the_settings_and_nothing_warns(self):
    one = stages.Stages("tpt", posterior="full")
    target, on = _predictions(0), _predictions(1, 1, "held_out")
    target = target._replace(settings=target.settings | stages.setting(one))
    on = on._replace(labels=on.logits.argmax(-1))
    with warnings.catch_warnings():
      warnings.simplefilter("error")
      found = predicted.recalibrate_quietly(
          target, on, temperature.Temperature())
    self.assertEqual(found.settings["method"], "tpt+full+temperature")
    self.assertEqual(stages.of_settings(found.settings, "x"),
                     one._replace(recalibrator="temperature"))
    self.assertEqual(found.settings["temperature"], 1)
    self.assertNotEmpty(found.settings["recalibration"]["notes"])

  def test_arrays_among_the_parameters_survive_the_file(self):
    """A weight and a bias of each class, as vector scaling has them."""
    one = base.Recalibrator(
        "vector", keeps_prediction=False,
        fit=lambda evidence: base.Fit({
            "weight": np.ones(3, np.float32), "bias": evidence.logits.mean(0)}),
        apply=lambda parameters, evidence: (
            parameters["weight"] * evidence.logits - parameters["bias"]))
    target, on = _predictions(0), _predictions(1, prefix="held_out")
    found = predicted.recalibrate(target, on, _Of(one))
    np.testing.assert_allclose(
        found.logits, target.logits - on.logits.mean(0), rtol=1e-5)
    path = pathlib.Path(self.create_tempdir().full_path, "vector")
    predictions_lib.save(found, path)
    loaded = predictions_lib.load(path)
    self.assertEqual(loaded.settings, found.settings)
    np.testing.assert_allclose(
        loaded.settings["recalibration"]["parameters"]["bias"],
        on.logits.mean(0), rtol=1e-6)

  def test_one_after_the_other(self):
    doubled = base.Recalibrator("doubled", apply=lambda _, evidence: (
        2 * evidence.logits))
    one = stages.Stages("tpt", posterior="full")
    target = _predictions(0)
    target = target._replace(settings={
        **target.settings, **stages.setting(one), "logit_scale": 100.0})
    first = predicted.recalibrate(target, _predictions(1, prefix="held_out"))
    found = predicted.recalibrate(first, recalibrator=_Of(doubled))
    np.testing.assert_array_equal(found.logits, 2 * first.logits)
    # Their logits are no longer cosines times it.
    self.assertNotIn("logit_scale", first.settings)
    self.assertEqual(found.settings["recalibrator"], "temperature+doubled")
    self.assertEqual(found.settings["method"], "tpt+full+temperature+doubled")
    self.assertEqual(
        found.settings["recalibration"],
        {"parameters": {}, "num_images": 0, "fitted_on": None, "notes": [],
         "before": first.settings["recalibration"]})
    self.assertEqual(stages.of_settings(found.settings, "x"),
                     one._replace(recalibrator="temperature+doubled"))

  def test_settings_tell_the_shape_of_long_arrays(self):
    one = base.Recalibrator(
        "long", fit=lambda evidence: base.Fit(
            {"features": np.zeros((200, 51)), "short": np.zeros(3)}),
        apply=lambda parameters, evidence: evidence.logits)
    found = predicted.recalibrate(
        _predictions(0), _predictions(1, prefix="held_out"), _Of(one))
    self.assertEqual(found.settings["recalibration"]["parameters"], {
        "features": {"shape": [200, 51]}, "short": [0., 0., 0.]})

  def test_image_by_image_without_labels(self):
    one = _Of(base.Recalibrator(
        "range", apply=_range_matched, needs=("zero_shot_logits",)))
    target = _predictions(0)._replace(labels=None)
    found = predicted.recalibrate(target, recalibrator=one)
    self.assertEqual(
        found.settings["recalibration"],
        {"parameters": {}, "num_images": 0, "fitted_on": None, "notes": []})
    np.testing.assert_allclose(
        found.logits.max(1), target.evidence["zero_shot_logits"].max(1),
        rtol=1e-5, atol=1e-6)
    with self.assertRaisesRegex(ValueError, "range needs zero_shot_logits of"):
      predicted.recalibrate(target._replace(evidence={}), recalibrator=one)

  def test_a_fit_that_holds_for_other_classes(self):
    one = base.Recalibrator(
        "halved", fit=lambda evidence: base.Fit({"factor": 0.5}),
        apply=lambda parameters, evidence: (
            parameters["factor"] * evidence.logits))
    target = _predictions(0)
    on = _predictions(1, prefix="held_out")._replace(
        class_names=("elk", "dog", "owl"))
    with self.assertRaisesRegex(ValueError, "'elk' stands where 'cat' does"):
      predicted.recalibrate(target, on, _Of(one))
    found = predicted.recalibrate(
        target, on, _Of(one._replace(same_classes=False)))
    np.testing.assert_array_equal(found.logits, 0.5 * target.logits)


class RefusesTest(parameterized.TestCase):

  def test_images_that_do_not_go_together(self):
    target, on = _predictions(0), _predictions(1, prefix="held_out")
    with self.assertRaisesRegex(
        ValueError, "200 images are among those.*'test/0'"):
      predicted.recalibrate(target, target)
    with self.assertRaisesRegex(ValueError, "1 images.*'test/7'"):
      predicted.recalibrate(
          target, on._replace(ids=("test/7", *on.ids[1:])))
    with self.assertRaisesRegex(ValueError, "'dog' stands where 'cat' does"):
      predicted.recalibrate(
          target, on._replace(class_names=("dog", "cat", "owl")))
    with self.assertRaisesRegex(ValueError, "fitted to 2 and applied to 3"):
      predicted.recalibrate(
          target, on._replace(logits=on.logits[:, :2],
                              class_names=("cat", "dog")))
    with self.assertRaisesRegex(ValueError, "fitted to labels, which the imag"):
      predicted.recalibrate(target, on._replace(labels=None))
    with self.assertRaisesRegex(ValueError, "give their predictions as `on`"):
      predicted.recalibrate(target)
    with self.assertRaisesRegex(TypeError, "but got Predictions to.*and tuple"):
      predicted.recalibrate(target, (on.logits, on.labels))
    with self.assertRaisesRegex(ValueError, "fitted to 2 and applied to 3"):
      predicted.recalibrate(target.logits, (on.logits[:, :2], on.labels % 2))

  def test_a_changed_prediction(self):
    def swapped(parameters, evidence):
      logits = evidence.logits.copy()
      logits[5] = -logits[5]
      return logits

    target = _predictions(0)
    one = base.Recalibrator("liar", apply=swapped)
    with self.assertRaisesRegex(
        ValueError, "liar says that it keeps.*changes 1 of 200.*row 5"):
      predicted.recalibrate(target, recalibrator=_Of(one))
    found = predicted.recalibrate(
        target, recalibrator=_Of(one._replace(keeps_prediction=False)))
    np.testing.assert_array_equal(found.logits[5], -target.logits[5])

  @parameterized.parameters(np.asarray, jnp.asarray)
  def test_rounding_changes_no_prediction(self, kind):
    # The second class leads by less than float16 tells apart.
    logits = kind(np.array([[1., 1.0001, 0.], [2., 2., 3.]], np.float32))
    one = base.Recalibrator("coarse", apply=lambda parameters, evidence: (
        evidence.logits.astype(np.float16)))
    found = predicted.recalibrate(logits, recalibrator=_Of(one))
    self.assertIsInstance(found, type(logits))
    self.assertEqual(found.dtype, np.float16)
    np.testing.assert_array_equal(found.argmax(1), [1, 2])
    np.testing.assert_allclose(found, logits, rtol=1e-3)
    # Calibrators that may change predictions are left alone.
    found = predicted.recalibrate(
        logits, recalibrator=_Of(one._replace(keeps_prediction=False)))
    np.testing.assert_array_equal(found.argmax(1), [0, 2])

  def test_a_temperature_in_float32_changes_no_prediction(self):
    near = np.float32(2.1), np.nextafter(np.float32(2.1), np.float32(3))
    logits = np.tile(np.array([[*near, 0]], np.float32), (2000, 1))
    logits *= np.linspace(0.5, 40, 2000, dtype=np.float32)[:, None]
    target = _predictions(0, 2000)._replace(logits=logits)
    found = predicted.recalibrate(target, _predictions(1, 3000, "held_out"))
    divided = logits / np.float32(
        found.settings["recalibration"]["parameters"]["temperature"])
    rounded = divided.argmax(1) != logits.argmax(1)
    self.assertGreater(rounded.sum(), 10)  # or the test says nothing
    np.testing.assert_array_equal(found.logits.argmax(1), logits.argmax(1))
    np.testing.assert_allclose(found.logits, divided, rtol=1e-6)

  @parameterized.parameters(
      (lambda logits: logits[:, :2], r"shape \(200, 3\), but .*\(200, 2\)"),
      (lambda logits: logits * np.inf, "broken must return finite logits"))
  def test_logits_that_no_metric_should_see(self, change, message):
    one = base.Recalibrator("broken", apply=lambda parameters, evidence: (
        change(evidence.logits)))
    with self.assertRaisesRegex(ValueError, message):
      predicted.recalibrate(_predictions(0), recalibrator=_Of(one))


class DrawTest(parameterized.TestCase):

  @parameterized.parameters((0.25, 5), (0.5, 10), (0.2, 4), (0.97, 19),
                            (0.001, 1), (0.999, 19))
  def test_number(self, share, expected):
    labels = np.arange(20) % 3
    chosen = predicted.draw(labels, share, seed=0)
    self.assertEqual(chosen.sum(), expected)

  def test_the_share_of_each_class(self):
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(5), (40, 7, 1, 22, 13)))
    sizes = collections.Counter(labels.tolist())
    for seed in range(50):
      chosen = predicted.draw(labels, 0.3, seed=seed)
      self.assertEqual(chosen.sum(), 25)
      part = 25 / len(labels)
      for label, size in sizes.items():
        found = chosen[labels == label].sum()
        self.assertIn(found, (np.floor(part * size), np.ceil(part * size)))

  def test_every_image_with_the_same_probability(self):
    labels = np.repeat(np.arange(3), (5, 2, 4))
    repeats = 2000
    counts = sum(predicted.draw(labels, 0.4, seed=seed).astype(int)
                 for seed in range(repeats))
    least, most = error_bars.binomial_band(repeats, 4 / 11)
    self.assertBetween(counts.min(), least, most)
    self.assertBetween(counts.max(), least, most)

  def test_seed(self):
    labels = np.arange(40) % 4
    draw = lambda seed: predicted.draw(labels, 0.5, seed=seed).tolist()
    self.assertEqual(draw(3), draw(3))
    self.assertNotEqual(draw(3), draw(4))

  @parameterized.parameters(
      (4, 0., r"in \(0, 1\), got 0"), (4, 1., r"in \(0, 1\), got 1"),
      (4, np.nan, "got nan"), (1, 0.5, "1 images cannot be divided"))
  def test_refuses(self, n, share, message):
    with self.assertRaisesRegex(ValueError, message):
      predicted.draw(np.zeros(n, int), share, seed=0)


if __name__ == "__main__":
  absltest.main()
