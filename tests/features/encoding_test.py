"""The image tower in steps, against the tower over all views at once."""

from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
import pytest

from jaxcal import memory
from jaxcal import sharding
from jaxcal.clip import checkpoint
from jaxcal.data import image_set as image_sets
from jaxcal.data import large_images
from jaxcal.data import pipeline
from jaxcal.data import views
from jaxcal.features import encoding
from jaxcal.testbed import sets
from jaxcal.testbed import shipped

_RECIPE = views.Recipe(size=48, resize=48, num_views=5)


class StepsTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.model = checkpoint.load(shipped.folder())
    images = image_sets.limit(sets.load("digits"), 6)
    cls.batch, = pipeline.batches(
        images, [np.arange(6)], seed=0, batch_size=6, num_threads=1)
    cls.per_view = encoding.bytes_per_view(cls.model)
    cls.features, cls.pooled, _ = cls.encode(cls)

  def encode(self, max_bytes=memory.GIGABYTE, num_devices=1, on_step=None):
    mesh = sharding.data_mesh(jax.devices()[:num_devices])
    encode = encoding.image_encoder(
        self.model, _RECIPE, mesh, max_bytes=max_bytes)
    return jax.tree.map(np.asarray, encode(self.batch, on_step))

  def test_at_once_it_is_the_model_on_the_views(self):
    for row in range(6):
      pixels = views.make_views(
          self.batch.canvases[row], self.batch.sizes[row],
          self.batch.keys[row], _RECIPE)
      expected = self.model.image_features(np.asarray(pixels))
      np.testing.assert_allclose(
          self.features[row], expected, atol=2e-6, rtol=0)

  @parameterized.product(at_once=(1, 8, 29), num_devices=(1, 3))
  def test_steps_change_nothing(self, at_once, num_devices):
    self._check_steps(at_once, num_devices)

  @parameterized.product(at_once=(7, 15, 30, 31), num_devices=(1, 3))
  @pytest.mark.slow
  def test_steps_of_other_sizes_change_nothing(self, at_once, num_devices):
    self._check_steps(at_once, num_devices)

  def _check_steps(self, at_once, num_devices):
    found = self.encode(self.per_view * at_once, num_devices)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(
        (self.features, self.pooled))):
      self.assertEqual(one.shape, other.shape)
      np.testing.assert_allclose(one, other, atol=2e-6, rtol=1e-5)

  @pytest.mark.slow
  def test_a_budget_below_one_view_takes_one(self):
    np.testing.assert_allclose(
        self.encode(1)[0], self.features, atol=2e-6, rtol=0)

  def test_steps_are_told_before_they_are_done(self):
    told = []
    self.encode(self.per_view * 10, on_step=lambda *one: told.append(one))
    what, shares = zip(*told)
    self.assertEqual(
        what, ("compiling the image tower", "image tower", "image tower"))
    self.assertEqual(shares, (0, 0, 0.25))

  @parameterized.parameters(1, 2)
  def test_images_that_lie_apart(self, num_devices):
    """On canvases of their own the views are the same; cut, nearly so."""
    images = image_sets.limit(sets.load("digits"), 6)
    mesh = sharding.data_mesh(jax.devices()[:num_devices])
    together = encoding.views_of(self.batch, _RECIPE, mesh)
    for limits, most in (
        ({"_MOST_BYTES": 1, "_SMALL_CANVAS": 1}, 0),
        ({"_MOST_BYTES": 2**28}, 1)):
      with mock.patch.multiple(pipeline, **limits), mock.patch.object(
          large_images, "MOST_PIXELS", 2**24 if not most else 1):
        batch, = pipeline.batches(
            images, [np.arange(6)], seed=0, batch_size=6, num_threads=1,
            recipe=_RECIPE)
      self.assertLen(batch.apart, 6)
      apart = encoding.views_of(batch, _RECIPE, mesh)
      self.assertTrue(apart.sharding.is_equivalent_to(together.sharding, 5))
      difference = np.abs(np.int32(apart) - np.int32(together))
      self.assertLessEqual(difference.max(), most)

  def test_programs_hold_what_the_budget_says(self):
    """The compiler's count of a step, on the counted number of views."""
    pixels = jax.ShapeDtypeStruct((6, 5, 48, 48, 3), np.uint8)
    program = encoding.tower_program(
        self.model.config, self.model.preprocess, 10,
        sharding.data_mesh(jax.devices()[:1]))
    params = {name: self.model.params[name]
              for name in encoding.towers.IMAGE_PARAMS}
    compiled = program.lower((params, np.int32(0)), pixels).compile()
    self.assertLess(compiled.memory_analysis().temp_size_in_bytes,
                    1.2 * 10 * self.per_view)


if __name__ == "__main__":
  absltest.main()
