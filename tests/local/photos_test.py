"""Aerial photos of WHU-RS19: as files of a folder, and their views."""

from absl.testing import absltest
import jax
import numpy as np
import pytest

from jaxcal.data import screening
from jaxcal.data import sources
from jaxcal.data import views
from tests import shared

_FOLDER = shared.path("data/photos")


class PhotosTest(absltest.TestCase):

  def test_files(self):
    image_set = sources.image_folder(_FOLDER)
    self.assertLen(image_set.ids, 38)
    self.assertLen(image_set.class_names, 19)
    np.testing.assert_array_equal(np.bincount(image_set.labels), [2] * 19)
    screening.check(image_set)
    for position in range(38):
      photo = image_set.read(position)
      self.assertGreaterEqual(min(photo.shape[:2]), 400)
      # Neither one colour nor black nor white; a beach is the brightest.
      self.assertGreater(photo.std(), 5)
      self.assertBetween(photo.mean(), 20, 252)

  @pytest.mark.slow
  def test_views(self):
    image_set = sources.image_folder(_FOLDER)
    recipe = views.Recipe(64, resize=64, num_views=8)
    make = jax.jit(views.make_views, static_argnames="recipe")
    for position in range(0, 38, 6):
      photo = image_set.read(position)
      made = np.asarray(make(
          views.on_canvas(photo, views.canvas_shape(*photo.shape[:2])),
          np.array(photo.shape[:2]),
          views.image_key(0, image_set.ids[position]), recipe), float)
      # Every view shows much the same colours as the photo that it is part of.
      distance = made.mean(axis=(1, 2)) - photo.mean(axis=(0, 1))[None]
      self.assertLess(np.abs(distance).max(), 60)
      self.assertLess(np.abs(distance[0]).max(), 1.5)
      self.assertGreater(made.std(), 5)


if __name__ == "__main__":
  absltest.main()
