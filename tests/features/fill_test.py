"""A store is filled by any number of calls and processes, each image once."""

import pathlib

from absl.testing import absltest
import numpy as np
import pytest

from jaxcal import tasks
from jaxcal.features import extract
from jaxcal.features import fill
from jaxcal.features import store as stores
from jaxcal.testbed import sets


class FillTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.model = tasks.load("testbed")
    cls.images = sets.load("digits", limit=5)

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path, "digits")
    self.told = []

  def _fill(self, folder=None, **options):
    self.told.clear()
    return fill.fill(
        self.model, self.images, folder or self.folder,
        recipe=extract.recipe_of(self.model, num_views=2), dtype="float32",
        chunk_size=2, batch_size=1,
        progress=lambda *at: self.told.append(at), **options)

  @pytest.mark.slow
  def test_features_are_those_of_the_images(self):
    store = self._fill()
    view_features, _ = stores.read(store, range(5))
    self.assertEqual(view_features.shape, (5, 2, 128))
    np.testing.assert_allclose(
        np.linalg.norm(view_features, axis=-1), 1, atol=1e-5)
    self.assertEqual(self.told[0], ("digits", 0, 5))
    self.assertEqual(self.told[-1], ("digits", 5, 5))
    self.assertGreater(len(self.told), 3)
    self.assertEqual(self.told, sorted(self.told))
    self.assertEqual(store.manifest.num_views, 2)
    self.assertEqual(store.manifest.model, "testbed")

  def test_shares_make_the_same_as_one_call(self):
    whole = stores.read(self._fill(self.folder.with_name("whole")), range(5))
    part = self._fill(share=(1, 2))
    self.assertEqual(stores.missing(part), [0, 2])
    store = self._fill()
    self.assertEqual(self.told[0], ("digits", 2, 5))
    self.assertTrue(stores.is_complete(store))
    for one, other in zip(stores.read(store, range(5)), whole):
      np.testing.assert_array_equal(one, other)
    self._fill()
    self.assertEqual(self.told, [("digits", 5, 5)])

  def test_other_features_are_refused(self):
    self._fill()
    with self.assertRaisesRegex(ValueError, "seed: stored 0, asked 1"):
      self._fill(seed=1)


if __name__ == "__main__":
  absltest.main()
