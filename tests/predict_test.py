"""What `predict` takes from arrays, and what it refuses before the work."""

from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
import pytest

import jaxcal
from jaxcal import tasks

_METHODS = {"zero_shot": jaxcal.ZeroShot(), "mta": jaxcal.Mta(),
            "zero": jaxcal.Zero(), "tda": jaxcal.Tda()}
_N, _V, _K, _D = 9, 8, 4, 16


def _unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _arrays():
  rng = np.random.default_rng(0)
  text = _unit(rng.normal(size=(_K, _D)))
  labels = rng.integers(_K, size=_N)
  noise = rng.normal(size=(_N, _V, _D))
  return text, _unit(text[labels, None] + 0.3 * noise), labels


class PredictTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.text, cls.views, cls.labels = _arrays()
    cls.expected = jaxcal.predict(
        _METHODS, jaxcal.Task(cls.text, 20.0), cls.views)

  def _predict(self, views=None, text=None, scale=20.0, methods=_METHODS,
               **options):
    return jaxcal.predict(
        methods, jaxcal.Task(self.text if text is None else text, scale),
        self.views if views is None else views, **options)

  def _assert_close(self, found, atol):
    for name, one in found.items():
      np.testing.assert_allclose(
          one.logits, self.expected[name].logits, atol=atol, err_msg=name)
      self.assertEqual(one.logits.dtype, np.float32)
      for values in one.info.values():
        self.assertEqual(values.dtype, np.float32)

  @parameterized.product(text=(np.float32, np.float64),
                         views=(np.float32, np.float64))
  @pytest.mark.slow
  def test_64_bits_give_the_same(self, text, views):
    with jax.enable_x64(True):
      self._assert_close(self._predict(
          self.views.astype(views), self.text.astype(text)), 1e-4)

  def test_half_precision_is_widened_before_anything_else(self):
    text, views = self.text.astype(np.float16), self.views.astype(np.float16)
    half, wide = self._predict(views, text), self._predict(
        views.astype(np.float32), text.astype(np.float32))
    for name in _METHODS:
      np.testing.assert_array_equal(half[name].logits, wide[name].logits)

  def test_whole_numbers_are_features_too(self):
    eye = np.eye(_K, dtype=int)
    found = self._predict(eye[self.labels], eye, methods={
        name: _METHODS[name] for name in ("zero_shot", "tda")})
    np.testing.assert_array_equal(
        found["tda"].logits.argmax(-1), self.labels)

  def test_views_that_coincide_predict_as_one(self):
    # As those of an image of one colour do.
    same = np.repeat(self.views[:, :1], _V, axis=1)
    found = self._predict(same)
    np.testing.assert_allclose(
        found["mta"].logits, found["zero_shot"].logits, atol=1e-4)
    half = self.views.copy()
    half[:, :_V // 2] = half[:, :1]
    self.assertTrue(np.isfinite(self._predict(half)["mta"].logits).all())

  def test_arrays_are_not_copied(self):
    features = np.zeros((64, 64, 16), np.float32)
    features[..., 0] = 1
    text = np.eye(2, 16, dtype=np.float32)
    task = tasks.checked(jaxcal.Task(text, 1.0))
    self.assertTrue(np.shares_memory(
        tasks.checked_features(features, task), features))

  def test_norms_are_taken_without_a_copy_of_it_all(self):
    blocks = []

    class Watched(np.ndarray):

      def astype(self, *arguments, **options):
        blocks.append(self.size)
        return super().astype(*arguments, **options)

    features = np.zeros((80, 8, 16), np.float32)
    features[..., 0] = 1
    with mock.patch.object(tasks, "_BLOCK", 1000):
      tasks._check_unit_norm(features.view(Watched), "features")
    self.assertEqual(sum(blocks), features.size)
    self.assertLessEqual(max(blocks), 1000)

  @parameterized.parameters(
      (dict(methods={}), TypeError, "at least one method by its name"),
      (dict(methods=[jaxcal.Tda()]), TypeError, "as in ..tda.: jaxcal.Tda"),
      (dict(methods={"": jaxcal.Tda()}), TypeError, "method by its name"),
      (dict(methods={"tda": jaxcal.Tda}), TypeError,
       "tda: .*the class Tda itself"),
      (dict(methods={"tda": jaxcal.Tda(capacity=0)}), ValueError,
       "tda: capacity must be an integer of at least 1, got 0"),
      (dict(methods={"zero": jaxcal.Zero(selection_fraction=2.)}), ValueError,
       r"zero: selection_fraction must lie in \(0, 1\], got 2"),
      (dict(methods={"tpt": jaxcal.Tpt(selection_fraction=2.)}), ValueError,
       r"tpt: selection_fraction must lie in \(0, 1\], got 2"),
      (dict(methods={"zero": jaxcal.Zero(smoothing=0.)}), ValueError,
       "zero: the logits are not finite for 9 of 9 images, the first one '0'"),
      (dict(scale=None), ValueError, "logit_scale must be one positive number"),
      (dict(scale="20"), ValueError, "logit_scale must be one positive number"),
      (dict(batch_size=0), ValueError, "batch_size must be at least 1, got 0"),
      (dict(batch_size=-1), ValueError, "batch_size must be at least 1"),
      (dict(order=[0, 0]), ValueError, r"each position in \[0, 9\) once"),
      (dict(order=[0.5, *range(1, 9)]), ValueError, "once, .*got float64"),
      (dict(order=[0, 0], methods={"zero_shot": jaxcal.ZeroShot()}),
       ValueError, r"each position in \[0, 9\) once"),
      (dict(evidence="image_features"), TypeError, "must be a list of names"),
      (dict(evidence=["view_logits"]), ValueError,
       "'view_logits' comes from zero_shot and the methods that tune prompts"),
      (dict(class_names="abcd"), TypeError, "must be a list of names"),
      (dict(ids=["a", "b", "a", *"cdefgh"]), ValueError,
       "1 ids occur more than once, the first one 'a'"))
  def test_refused(self, given, kind, message):
    with self.assertRaisesRegex(kind, message):
      self._predict(**given)

  @parameterized.parameters(None, "text", ((np.eye(2), 1.0),))
  def test_no_task(self, task):
    with self.assertRaisesRegex(TypeError, r"jaxcal.Task\(text_features, "):
      jaxcal.predict(_METHODS, task, self.views)


if __name__ == "__main__":
  absltest.main()
