"""Images too large for a canvas, against the views that all others have."""

from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from jaxcal.data import image_set as image_sets
from jaxcal.data import large_images
from jaxcal.data import pipeline
from jaxcal.data import views


def _image(height, width, seed=0):
  """Smooth with some noise, as photos are."""
  generator = np.random.default_rng(seed)
  y, x = np.mgrid[:height, :width]
  waves = np.stack([np.sin(x / 17), np.cos(y / 13), np.sin((x + y) / 29)], -1)
  noisy = 128 + 90 * waves + generator.normal(0, 12, (height, width, 3))
  return np.clip(noisy, 0, 255).astype(np.uint8)


def _on_canvas(image, key, recipe):
  """The views, by one program for all images of these tests."""
  canvas = views.on_canvas(image, views.canvas_shape(301, 260))
  return np.asarray(views.make_views(
      canvas, np.int32(image.shape[:2]), key, recipe))


class CutTest(parameterized.TestCase):

  @parameterized.product(
      size=((301, 200), (97, 260), (50, 61)),
      recipe=(
          views.Recipe(size=48, resize=48, num_views=9),
          views.Recipe(size=48, resize=57, num_views=1, offset="floor",
                       resample="bilinear"),
          # Padded with black, by an odd number of pixels.
          views.Recipe(size=48, resize=33, num_views=2),
          views.Recipe(size=48, resize=(48, 48), num_views=4,
                       resample="lanczos", random_resample="bicubic"),
          views.Recipe(size=48, resize=48, num_views=3,
                       random_resample="nearest", resample="nearest")))
  def test_the_views_of_a_canvas(self, size, recipe):
    image, key = _image(*size), views.image_key(0, "a")
    expected = _on_canvas(image, key, recipe)
    found = np.asarray(large_images.finish(
        large_images.cut(image, key, recipe), np.int32(size), key, recipe))
    self.assertEqual((found.shape, found.dtype),
                     (expected.shape, expected.dtype))
    difference = np.abs(np.int32(found) - expected)
    self.assertLessEqual(difference.max(), 1)
    self.assertLess((difference > 0).mean(), 0.05)

  @pytest.mark.slow
  def test_mixed_views(self):
    """AugMix draws the same; what it makes of a pixel less or more differs."""
    recipe = views.Recipe(size=48, resize=48, num_views=6, augmix=True)
    image, key = _image(120, 90), views.image_key(1, "b")
    found = large_images.finish(
        large_images.cut(image, key, recipe), np.int32((120, 90)), key, recipe)
    difference = np.abs(np.asarray(found) - _on_canvas(image, key, recipe))
    self.assertLess(np.median(difference), 0.01)
    self.assertLess(difference.mean(), 0.5)


class ApartTest(parameterized.TestCase):
  """Batches in which some images lie apart."""

  sizes = ((60, 60), (300, 500), (64, 40), (900, 1200), (33, 70))

  def _batch(self, recipe, **limits):
    images = image_sets.ImageSet(
        "birds", ("wren",), tuple("abcde"), np.zeros(5, np.int32),
        lambda i: _image(*self.sizes[i], seed=i))
    with mock.patch.multiple(pipeline, **limits), mock.patch.object(
        large_images, "MOST_PIXELS", 10**6):
      batch, = pipeline.batches(
          images, [range(5)], seed=0, batch_size=8, num_threads=2,
          recipe=recipe)
    return images, batch

  def test_which_images_lie_apart(self):
    recipe = views.Recipe(size=48, resize=48, num_views=3)
    images, batch = self._batch(
        recipe, _MOST_BYTES=8 * 3 * 64 * 64, _SMALL_CANVAS=3 * 64 * 64)
    self.assertEqual(set(batch.apart), {1, 3, 4})
    self.assertEqual(batch.canvases.shape, (8, 64, 64, 3))
    np.testing.assert_array_equal(batch.apart[1].pixels, images.read(1))
    self.assertEqual(batch.apart[3].pixels.shape, (3, 48, 48, 3))
    self.assertEqual(batch.apart[3].size, (900, 1200))
    for row in batch.apart:
      self.assertFalse(batch.canvases[row].any())
      self.assertEqual(tuple(batch.sizes[row]), (1, 1))
    self.assertEqual(batch.mask.tolist(), [True] * 5 + [False] * 3)
    self.assertEqual(batch.ids, (*"abcde", "", "", ""))

  def test_without_a_recipe_all_lie_together(self):
    _, batch = self._batch(None, _MOST_BYTES=1, _SMALL_CANVAS=1)
    self.assertEmpty(batch.apart)
    self.assertEqual(batch.canvases.shape, (8, 1024, 1536, 3))

  def test_small_canvases_lie_together(self):
    recipe = views.Recipe(size=48, resize=48, num_views=2)
    _, batch = self._batch(recipe, _MOST_BYTES=1)
    self.assertEqual(set(batch.apart), {3})  # which has too many pixels
    self.assertEqual(batch.canvases.shape, (8, 384, 512, 3))

  def test_large_images_are_not_read_far_ahead(self):
    read = []
    images = image_sets.ImageSet(
        "birds", ("wren",), tuple(map(str, range(40))), np.zeros(40, np.int32),
        lambda i: (read.append(i), _image(100, 100))[1])
    with mock.patch.object(pipeline, "_MOST_BYTES", 3 * 100 * 100 * 3):
      batches = pipeline.batches(
          images, [[i] for i in range(40)], seed=0, batch_size=1,
          num_threads=2, prefetch=20)
      for done in range(1, 11):
        next(batches)
        if done > 1:  # the first window was opened before sizes were known
          self.assertLessEqual(max(read), max(done + 3, 19))
      for _ in range(20):
        next(batches)
      self.assertLessEqual(max(read), 30 + 3)
      batches.close()


if __name__ == "__main__":
  absltest.main()
