"""Features before the projection: of each image, resumable, never of others."""

import pathlib
from unittest import mock

from absl.testing import absltest
import jax
import numpy as np

from jaxcal import parts
from jaxcal.clip import checkpoint
from jaxcal.data import image_set as image_sets
from jaxcal.features import extract
from jaxcal.features import pooled
from jaxcal.testbed import sets
from jaxcal.testbed import shipped
from jaxcal.typing import Pooled


class PooledTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.model = checkpoint.load(shipped.folder())
    images = image_sets.limit(sets.load("digits"), 5)
    size = cls.model.preprocess.crop
    # Clean views by hand: these images are as large as the model's.
    read = lambda i: images.read(i)[:size, :size]
    cls.images = images._replace(read=read)
    pixels = np.stack([read(i) for i in range(5)])
    cls.expected = np.asarray(cls.model.pooled(pixels).activations)

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path, "features")

  def _find(self, images=None, model=None, **options):
    return pooled.from_images(
        model or self.model, images or self.images, self.folder,
        num_threads=1, **options)

  def test_of_every_image_in_order(self):
    told = []
    for folder in (None, self.folder):
      found = pooled.from_images(
          self.model, self.images, folder, batch_size=1,
          progress=lambda done, total: told.append((done, total)))
      np.testing.assert_allclose(found.activations, self.expected, atol=2e-4)
      self.assertIsNone(found.residual)
    steps = sorted({min(5, done) for done, _ in told})
    self.assertEqual((steps[0], steps[-1]), (0, 5))
    self.assertEqual({total for _, total in told}, {5})

  def test_what_is_there_is_not_computed_again(self):
    whole = self._find()
    path, = self.folder.glob("0*.npz")
    with mock.patch.object(extract, "from_images", return_value=()):
      np.testing.assert_array_equal(self._find().activations, whole.activations)
    path.unlink()
    rows = Pooled(whole.activations[[4, 1]] + 1)
    pooled.write(self.folder, np.array([4, 1]), "image", rows)
    found = self._find()
    np.testing.assert_allclose(
        found.activations - self.expected,
        np.repeat([[0], [1], [0], [0], [1]], found.activations.shape[1], 1),
        atol=2e-4)

  def test_residuals_and_further_arrays(self):
    parts.open_folder(self.folder, "ab", ("image", "pair"))
    rows = Pooled(np.ones((2, 3)), np.zeros((2, 4)))
    pooled.write(self.folder, np.array([0, 1]), "image", rows,
                 {"pair": {"sound": np.array([True, False])}})
    for given, found in zip(rows, pooled.gather(self.folder, "image")):
      np.testing.assert_array_equal(given, found)
    self.assertEqual(
        parts.gather(self.folder, "pair")["sound"].tolist(), [True, False])

  def test_of_something_else_is_refused(self):
    self._find()
    with self.assertRaisesRegex(ValueError, "with other ids; remove it"):
      self._find(image_sets.take(self.images, [1, 0]))
    other = self.images._replace(labels=self.images.labels[::-1])
    with self.assertRaisesRegex(ValueError, "data.labels: stored"):
      self._find(other)
    with self.assertRaisesRegex(
        ValueError, "model.image_precision: stored 'highest', asked 'bfloat16'"
    ):
      self._find(model=checkpoint.in_precision(
          self.model, image="bfloat16", text="highest"))

  def test_rows_of_a_batch_that_is_filled_up(self):
    (positions, batch), = pooled.batches(
        self.model, self.images, np.array([3, 0]), batch_size=4)
    self.assertEqual(positions.tolist(), [3, 0])
    found = pooled.rows_of(batch, 2)
    self.assertLen(jax.tree.leaves(found), 1)
    np.testing.assert_allclose(
        found.activations, self.expected[[3, 0]], atol=2e-4)


if __name__ == "__main__":
  absltest.main()
