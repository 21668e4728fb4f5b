"""What every calibrator keeps to: what it says of itself, and invariances."""

import dataclasses
import pathlib
import warnings

from absl.testing import absltest
from absl.testing import parameterized
import jax.numpy as jnp
import numpy as np
from scipy import special

from jaxcal import predictions as predictions_lib
from jaxcal.recalibration import base
from jaxcal.recalibration import calibrators
from jaxcal.recalibration import predicted
from tests.recalibration import made

_NAMES = tuple(calibrators.RECALIBRATORS)
_CALIBRATORS = {name: calibrators.calibrator(name) for name in _NAMES}
_SAY = {name: one.recalibrator() for name, one in _CALIBRATORS.items()}
_FITTED = tuple(name for name in _NAMES if _SAY[name].fit)
_LABEL_FREE = tuple(name for name in _NAMES if not _SAY[name].fit)
_NEEDING = tuple(name for name in _NAMES if _SAY[name].needs)
# Scales of single classes depend on where the zero of the logits is.
_SHIFTABLE = tuple(name for name in _NAMES if name != "vector")
_PER_IMAGE = ("logits", "labels", *(
    name for name, axes in predictions_lib.EVIDENCE.items()
    if axes.startswith("n")))
_PER_CLASS = {"logits": -1, **{
    name: axes.split().index("k") for name, axes in
    predictions_lib.EVIDENCE.items() if "k" in axes.split()}}


def _quiet(*args):
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", base.FitWarning)
    return np.asarray(predicted.recalibrate(*args))


def _apply(name, target, on):
  return _quiet(target, on, _CALIBRATORS[name])


def _taken(evidence, rows):
  return evidence._replace(**{
      name: getattr(evidence, name)[rows] for name in _PER_IMAGE})


def _classes(evidence, order):
  """The same with classes in another order: class i was `order[i]`."""
  return evidence._replace(
      labels=np.argsort(order)[evidence.labels],
      **{name: np.take(getattr(evidence, name), order, axis)
         for name, axis in _PER_CLASS.items()})


def _softmax(logits):
  return special.softmax(np.asarray(logits, float), axis=-1)


class EveryCalibratorTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.on, self.target = made.evidence(1), made.evidence(2, 80)

  @parameterized.parameters(*_NAMES)
  def test_changes_something_and_finds_finite_logits(self, name):
    found = _apply(name, self.target, self.on)
    self.assertEqual(found.shape, self.target.logits.shape)
    self.assertTrue(np.isfinite(found).all())
    change = np.abs(_softmax(found) - _softmax(self.target.logits))
    self.assertGreater(change.max(axis=1).mean(), 1e-3)

  @parameterized.parameters(*_NAMES)
  def test_the_order_of_images_does_not_matter(self, name):
    found = _apply(name, self.target, self.on)
    rng = np.random.default_rng(0)
    shuffled = _taken(self.on, rng.permutation(300))
    rows = rng.permutation(80)
    np.testing.assert_allclose(
        _softmax(_apply(name, _taken(self.target, rows), shuffled)),
        _softmax(found)[rows], rtol=1e-6, atol=1e-9)

  @parameterized.parameters(*_NAMES)
  def test_the_order_of_classes_does_not_matter(self, name):
    found = _apply(name, self.target, self.on)
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(
        _softmax(_apply(
            name, _classes(self.target, order), _classes(self.on, order))),
        _softmax(found)[:, order], rtol=1e-5, atol=1e-8)

  @parameterized.parameters(*_SHIFTABLE)
  def test_where_the_zero_of_an_images_logits_is_does_not_matter(self, name):
    found = _apply(name, self.target, self.on)
    shift = lambda evidence, seed: evidence._replace(
        logits=evidence.logits + np.random.default_rng(seed).normal(
            size=(len(evidence.logits), 1)))
    np.testing.assert_allclose(
        _softmax(_apply(name, shift(self.target, 0), shift(self.on, 1))),
        _softmax(found), rtol=1e-5, atol=1e-8)

  @parameterized.parameters(
      name for name in _NAMES if _SAY[name].keeps_prediction)
  def test_those_that_keep_the_prediction_do_so_on_every_row(self, name):
    target = made.evidence(3, 2000)
    logits = target.logits.astype(np.float32)
    # Hard ones: the predicted class leads by one step of float32, or by little
    # over many; or is the last of several that are alike but for that.
    rows, best = np.arange(500), logits[:500].max(axis=1)
    logits[rows, rows % 4] = best
    logits[rows, (rows + 1) % 4] = np.nextafter(best, np.float32(np.inf))
    logits[500:600] = np.linspace(0, 1e-3, 100)[:, None] * np.arange(4)
    of = lambda evidence, prefix: predictions_lib.Predictions(
        np.asarray(evidence.logits, np.float32),
        np.asarray(evidence.labels, np.int32),
        tuple(f"{prefix}{row}" for row in range(len(evidence.logits))),
        tuple("abcd"), evidence={
            field: np.asarray(getattr(evidence, field), np.float32)
            for field in predictions_lib.EVIDENCE})
    found = predicted.recalibrate_quietly(
        of(target._replace(logits=logits), "test"), of(self.on, "held out"),
        _CALIBRATORS[name])
    self.assertEqual(found.logits.dtype, np.float32)
    np.testing.assert_array_equal(found.logits.argmax(1), logits.argmax(1))
    # Nor does an array of float64.
    array = _apply(name, target._replace(logits=logits.astype(float)), self.on)
    np.testing.assert_array_equal(array.argmax(1), logits.argmax(1))
    predictions_lib.check(found)
    path = pathlib.Path(self.create_tempdir().full_path, name)
    predictions_lib.save(found, path)
    self.assertEqual(predictions_lib.load(path).settings, found.settings)

  @parameterized.parameters(
      name for name in _NAMES if not _SAY[name].keeps_prediction)
  def test_others_change_one(self, name):
    """Or they should say that they keep it."""
    target = made.evidence(3, 2000)
    found = _apply(name, target, self.on)
    self.assertTrue((found.argmax(1) != target.logits.argmax(1)).any())

  @parameterized.parameters(*_NAMES)
  def test_looks_at_nothing_that_it_does_not_name(self, name):
    needs = _SAY[name].needs
    only = lambda evidence, *more: base.Evidence(**{
        field: getattr(evidence, field) for field in ("logits", *needs, *more)})
    np.testing.assert_array_equal(
        _apply(name, only(self.target), only(self.on, "labels")),
        _apply(name, self.target, self.on))

  @parameterized.parameters(*_NEEDING)
  def test_missing_evidence_is_refused_with_the_way_to_it(self, name):
    for field in _SAY[name].needs:
      lacking = self.target._replace(**{field: None})
      with self.assertRaisesRegex(
          ValueError, f"{name} needs {field} of the images to be recalibrated.*"
          f"--config.evidence={field}"):
        _apply(name, lacking, self.on)
    if name in _FITTED:
      with self.assertRaisesRegex(ValueError, "needs .* of the images to fit"):
        _apply(name, self.target,
               self.on._replace(**{_SAY[name].needs[0]: None}))

  @parameterized.parameters(*_FITTED)
  def test_labels_are_fitted_to(self, name):
    with self.assertRaisesRegex(ValueError, "fitted to labels, which the imag"):
      _apply(name, self.target, self.on._replace(labels=None))
    with self.assertRaisesRegex(ValueError, "give their predictions as `on`"):
      _apply(name, self.target, None)

  @parameterized.parameters(*_LABEL_FREE)
  def test_without_labels(self, name):
    self.assertFalse(_SAY[name].needs_labels)
    found = _apply(name, self.target, None)
    np.testing.assert_array_equal(
        found, _apply(name, self.target._replace(labels=None), self.on))
    # Each image by itself.
    np.testing.assert_allclose(
        found[7:8], _apply(name, _taken(self.target, [7]), None), rtol=1e-9)

  @parameterized.parameters(
      name for name in _NAMES if name not in _NEEDING)
  def test_arrays_of_any_kind(self, name):
    found = _apply(name, self.target.logits, (self.on.logits, self.on.labels))
    np.testing.assert_array_equal(found, _apply(name, self.target, self.on))
    on = jnp.asarray(self.on.logits), jnp.asarray(self.on.labels)
    np.testing.assert_allclose(
        _softmax(_apply(name, jnp.asarray(self.target.logits), on)),
        _softmax(found), atol=1e-3)

  @parameterized.parameters(
      name for name in _FITTED if not _SAY[name].same_classes)
  def test_a_fit_for_other_classes(self, name):
    other = made.evidence(2, 50, k=7)
    found = _apply(name, other, self.on)
    self.assertEqual(found.shape, (50, 7))

  @parameterized.parameters(
      name for name in _FITTED if _SAY[name].same_classes)
  def test_a_fit_for_the_same_classes(self, name):
    with self.assertRaisesRegex(ValueError, "fitted to 4 and applied to 7"):
      _apply(name, made.evidence(2, 50, k=7), self.on)

  @parameterized.parameters(*_FITTED)
  def test_one_image_and_all_right_are_no_reason_to_fail(self, name):
    """What is left of an impossible fit is finite, and a note says so."""
    calibrator = _CALIBRATORS[name]
    if "num_neighbours" in {one.name for one in dataclasses.fields(calibrator)}:
      with self.assertRaisesRegex(ValueError, "as there are 0 other images"):
        _apply(name, self.target, _taken(self.on, [0]))
    else:
      with self.assertWarns(base.FitWarning):
        found = predicted.recalibrate(
            self.target, _taken(self.on, [0]), calibrator)
      self.assertTrue(np.isfinite(np.asarray(found)).all())
    right = self.on._replace(labels=self.on.logits.argmax(-1))
    self.assertTrue(np.isfinite(_apply(name, self.target, right)).all())

  @parameterized.parameters(*_NAMES)
  def test_constants_are_checked_by_value_and_told(self, name):
    calibrator = _CALIBRATORS[name]
    self.assertEqual(calibrator, calibrators.calibrator(name))
    for field in dataclasses.fields(calibrator):
      self.assertIn(f"{field.name}: ", type(calibrator).__doc__)


if __name__ == "__main__":
  absltest.main()
