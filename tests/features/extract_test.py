"""Batches of features against images encoded one by one, and against numpy."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcal import sharding
from jaxcal.clip import checkpoint
from jaxcal.clip import towers
from jaxcal.data import image_set as image_sets
from jaxcal.data import views
from jaxcal.features import extract
from jaxcal.features import store as stores
from jaxcal.testbed import sets
from jaxcal.testbed import shipped
from tests.clip import tiny

_RECIPE = views.Recipe(size=48, resize=48, num_views=4)
_SEED = 3


def _mesh(num_devices):
  return sharding.data_mesh(jax.devices()[:num_devices])


def _images():
  """Six testbed images; every other one is wider than the canvas of one."""
  images = image_sets.limit(sets.load("digits"), 6)

  def read(position):
    pixels = images.read(position)
    if position % 2:
      pixels = np.concatenate([pixels, pixels[:, ::-1]], 1)[:50, :90]
    return pixels

  return images._replace(read=read)


@functools.partial(jax.jit, static_argnums=3)
def _make_views(canvas, size, key, recipe):
  return views.make_views(canvas, size, key, recipe)


def _views(images, position, recipe=_RECIPE):
  """The views of one image, made alone on the canvas of its own size."""
  image = images.read(position)
  shape = image.shape[:2]
  canvas = views.on_canvas(image, views.canvas_shape(*shape))
  return _make_views(
      canvas, np.array(shape, np.int32),
      views.image_key(_SEED, images.ids[position]), recipe)


class _ExtractCase(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.model = checkpoint.load(shipped.folder())
    cls.images = _images()

  def _extract(self, batches, num_devices=1, model=None, images=None,
               recipe=_RECIPE, batch_size=2):
    return list(extract.from_images(
        model or self.model, images or self.images, batches, recipe=recipe,
        seed=_SEED, mesh=_mesh(num_devices), batch_size=batch_size,
        num_threads=2))


class FromImagesTest(_ExtractCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    one_by_one = [_views(cls.images, position) for position in range(6)]
    cls.features = np.stack(
        [cls.model.image_features(pixels) for pixels in one_by_one])
    cls.pooled = np.stack(
        [cls.model.pooled(pixels).activations[0] for pixels in one_by_one])

  def _assert_features(self, batch, positions):
    np.testing.assert_array_equal(batch.positions[batch.mask], positions)
    np.testing.assert_allclose(
        np.asarray(batch.view_features)[batch.mask],
        self.features[np.asarray(positions, int)], atol=2e-6)
    np.testing.assert_allclose(
        np.asarray(batch.pooled.activations)[batch.mask],
        self.pooled[np.asarray(positions, int)], atol=2e-5)

  def test_the_reference_tells_images_and_views_apart(self):
    rows = self.features.reshape(24, -1)
    between = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
    self.assertGreater((between + np.eye(24)).min(), 1e-2)
    self.assertGreater(np.ptp(self.pooled, axis=0).max(), 0.1)

  @parameterized.parameters((1, 4), (2, 2), (4, 1))
  @pytest.mark.slow
  def test_features_of_each_image_alone(self, num_devices, batch_size):
    batches = [[4, 0, 5, 2], [1, 3], []]
    found = self._extract(batches, num_devices, batch_size=batch_size)
    self.assertLen(found, 3)
    for batch, positions in zip(found, batches):
      self.assertEqual(batch.view_features.shape, (4, 4, 128))
      self.assertEqual(batch.pooled.activations.shape, (4, 128))
      self.assertIsNone(batch.pooled.residual)
      self.assertLen(batch.view_features.sharding.device_set, num_devices)
      self._assert_features(batch, positions)
      # The filling, too, must not bring in what is not finite.
      self.assertTrue(np.isfinite(batch.view_features).all())
      np.testing.assert_allclose(
          np.linalg.norm(batch.view_features, axis=-1), 1, atol=1e-5)

  @pytest.mark.slow
  def test_filling_repeats_an_image_and_is_masked(self):
    batch, empty = self._extract([[5, 2, 1], []], 4, batch_size=1)
    np.testing.assert_array_equal(batch.mask, [True] * 3 + [False])
    np.testing.assert_array_equal(batch.positions, [5, 2, 1, 1])
    np.testing.assert_array_equal(
        batch.view_features[3], batch.view_features[2])
    self.assertFalse(empty.mask.any())
    self.assertEqual(empty.positions.shape, (4,))

  @pytest.mark.slow
  def test_batches_are_read_as_they_are_asked_for(self):
    read = []
    images = self.images._replace(
        read=lambda position: read.append(position) or self.images.read(
            position))
    iterator = extract.from_images(
        self.model, images, [[i] for i in range(6)] * 9, recipe=_RECIPE,
        seed=_SEED, mesh=_mesh(1), batch_size=4, num_threads=2)
    self.assertEmpty(read)
    self._assert_features(next(iterator), [0])
    iterator.close()
    self.assertLess(len(read), 54)

  def test_too_many_for_a_batch(self):
    with self.assertRaisesRegex(ValueError, "5 images .* 2 devices .* 2 each"):
      self._extract([[0, 1, 2, 3, 4]], 2)

  @pytest.mark.slow
  def test_an_image_that_cannot_be_read(self):
    images = self.images._replace(
        read=lambda position: np.zeros((0, 4, 3), np.uint8))
    with self.assertRaisesRegex(ValueError, repr(self.images.ids[4])):
      self._extract([[4]], images=images)

  def test_half_precision_stays_close(self):
    half = checkpoint.in_precision(
        self.model, image="bfloat16", text="highest")
    batch, = self._extract([[0, 1, 2, 3]], model=half, batch_size=4)
    self.assertEqual(batch.view_features.dtype, jnp.float32)
    self.assertEqual(batch.pooled.activations.dtype, jnp.float32)
    cosines = (np.asarray(batch.view_features) * self.features[:4]).sum(-1)
    self.assertGreater(cosines.min(), 0.999)
    # Computed in bfloat16 indeed.
    self.assertGreater(
        np.abs(batch.view_features - self.features[:4]).max(), 1e-4)


class AugMixTest(_ExtractCase):

  @pytest.mark.slow
  def test_mixtures_are_encoded_without_rounding(self):
    recipe = views.Recipe(size=48, resize=48, num_views=2, augmix=True)
    batch, = self._extract([[0, 2]], recipe=recipe)
    for row, position in enumerate((0, 2)):
      pixels = np.asarray(_views(self.images, position, recipe), np.float64)
      self.assertGreater(np.abs(pixels[1] - np.round(pixels[1])).max(), 0.1)
      preprocess = self.model.preprocess
      standard = (pixels / 255 - np.array(preprocess.mean)[
          None, None, None]) / np.array(preprocess.std)[None, None, None]
      expected = jax.jit(towers.image_features)(
          self.model.config, self.model.params, standard.astype(np.float32))
      np.testing.assert_allclose(
          batch.view_features[row], expected, atol=2e-6)
      # The clean view is not mixed.
      clean = self.model.image_features(
          np.asarray(_views(self.images, position))[:1])
      np.testing.assert_allclose(
          batch.view_features[row, :1], clean, atol=2e-6)


class _Sizes(towers.ClipConfig):
  """As much of a model's configuration as reading a store needs."""

  pooled_sizes = None

  def __init__(self, *pooled_sizes):
    object.__setattr__(self, "pooled_sizes", pooled_sizes)


_CONFIG = _Sizes(7, 0)


class FromStoreTest(parameterized.TestCase):

  def _store(self, dtype, num_chunks=3):
    """Eight images of three views, three to a chunk, and their features."""
    images = image_sets.ImageSet(
        "noise", ("a", "b"), tuple(f"{i}.png" for i in range(8)),
        np.arange(8) % 2, None)
    rng = np.random.default_rng(0)
    values = [rng.normal(size=size).astype(np.float32)
              for size in ((8, 3, 5), (8, 7))]
    store = stores.create(
        self.create_tempdir().full_path, stores.Manifest(
            "m", "f", "noise", stores.data_fingerprint(images), {}, 0,
            "highest", 8, 3, 5, 7, dtype, chunk_size=3), images)
    for chunk in range(num_chunks):
      rows = stores.chunk_positions(store, chunk)
      stores.write_chunk(store, chunk, *(value[rows] for value in values))
    return store, values

  @parameterized.product(dtype=stores.DTYPES, num_devices=(1, 2, 4))
  def test_rows_of_the_arrays(self, dtype, num_devices):
    store, values = self._store(dtype)
    batches = [[7, 0, 3, 1], [6, 2, 5], [4], []]
    found = list(extract.from_store(
        store, batches, config=_CONFIG, mesh=_mesh(num_devices),
        batch_size=4 // num_devices))
    self.assertLen(found, 4)
    for batch, positions in zip(found, batches):
      np.testing.assert_array_equal(batch.positions[batch.mask], positions)
      arrays = batch.view_features, batch.pooled.activations
      for array, value in zip(arrays, values):
        self.assertEqual(array.dtype, np.float32)
        self.assertLen(array.sharding.device_set, num_devices)
        # The filling is in the store, too.
        np.testing.assert_array_equal(
            sharding.gather_local(array), value.astype(dtype)[batch.positions])

  def test_chunks_that_are_not_there_yet(self):
    store, values = self._store("float32", num_chunks=2)
    first, = extract.from_store(
        store, [[5, 0]], config=_CONFIG, mesh=_mesh(1), batch_size=2)
    np.testing.assert_array_equal(
        first.pooled.activations, values[1][[5, 0]])
    with self.assertRaisesRegex(FileNotFoundError, "1 of 3 chunks"):
      list(extract.from_store(
          store, [[6]], config=_CONFIG, mesh=_mesh(1), batch_size=2))

  def test_too_many_for_a_batch(self):
    store, _ = self._store("float32")
    with self.assertRaisesRegex(ValueError, "3 images .* 1 devices .* 2 each"):
      list(extract.from_store(
          store, [[0, 1, 2]], config=_CONFIG, mesh=_mesh(1), batch_size=2))

  def test_activations_and_residuals(self):
    store, values = self._store("float32")
    config = _Sizes(4, 3)
    batch, = extract.from_store(
        store, [[6, 2]], config=config, mesh=_mesh(2), batch_size=1)
    np.testing.assert_array_equal(
        batch.pooled.activations, values[1][[6, 2], :4])
    np.testing.assert_array_equal(batch.pooled.residual, values[1][[6, 2], 4:])
    np.testing.assert_array_equal(
        extract.join_pooled(batch.pooled), values[1][[6, 2]])

  @parameterized.parameters((7, 5), (6, 0))
  def test_features_of_another_model(self, *sizes):
    store, _ = self._store("float32")
    with self.assertRaisesRegex(
        ValueError, rf"{sizes[0]} \+ {sizes[1]} values.*\(2, 7\)"):
      list(extract.from_store(
          store, [[0, 1]], config=_Sizes(*sizes), mesh=_mesh(1), batch_size=2))


class ResidualTest(absltest.TestCase):

  @pytest.mark.slow
  def test_from_images_through_a_store(self):
    """A SigLIP, whose image tower adds a residual to its projection."""
    model = checkpoint.load(
        tiny.write_siglip(self.create_tempdir().full_path))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), np.uint8)
    images = image_sets.ImageSet(
        "noise", ("a",), ("0", "1", "2"), np.zeros(3, np.int32),
        pixels.__getitem__)
    recipe = views.Recipe(size=14, resize=(14, 14), num_views=2)
    batches = [[0, 2], [1]]
    found = list(extract.from_images(
        model, images, batches, recipe=recipe, seed=_SEED, mesh=_mesh(2),
        batch_size=1, num_threads=1))
    clean = np.stack([_views(images, i, recipe)[0] for i in range(3)])
    expected = model.pooled(clean)
    store = stores.create(self.create_tempdir().full_path, stores.Manifest(
        "m", "f", "noise", stores.data_fingerprint(images), {}, 0, "highest", 3,
        2, model.config.projection, sum(model.config.pooled_sizes), "float32",
        chunk_size=2), images)
    stored = np.concatenate([
        extract.join_pooled(sharding.gather_local(batch.pooled))[batch.mask]
        for batch in found])[[0, 2, 1]]
    features = np.concatenate([
        np.asarray(batch.view_features)[batch.mask] for batch in found])
    features = features[[0, 2, 1]]
    for chunk, rows in enumerate((slice(0, 2), slice(2, 3))):
      stores.write_chunk(store, chunk, features[rows], stored[rows])
    again = list(extract.from_store(
        store, batches, config=model.config, mesh=_mesh(2), batch_size=1))
    for batch in found + again:
      at = batch.positions
      np.testing.assert_allclose(
          batch.pooled.activations, expected.activations[at], atol=1e-5)
      np.testing.assert_allclose(
          batch.pooled.residual, expected.residual[at], atol=1e-5)
      embeds = towers.project(
          batch.pooled.activations,
          towers.image_projection(model.config, model.params),
          batch.pooled.residual)
      np.testing.assert_allclose(
          batch.view_features[:, 0], towers.normalise(embeds), atol=1e-5)


class BatchesOfTest(parameterized.TestCase):

  @parameterized.parameters(
      (range(5), 2, [[0, 1], [2, 3], [4]]), ([7, 3, 5], 3, [[7, 3, 5]]),
      ([4, 1], 9, [[4, 1]]), ([], 2, []))
  def test_in_order_and_the_last_is_smaller(self, positions, size, expected):
    found = extract.batches_of(positions, size)
    self.assertEqual([batch.tolist() for batch in found], expected)


if __name__ == "__main__":
  absltest.main()
