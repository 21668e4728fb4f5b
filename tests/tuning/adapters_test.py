"""Tests of tuned adapters below test-time methods."""

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcal import sharding
from jaxcal.clip import checkpoint as models
from jaxcal.features import sources
from jaxcal.testbed import shipped
from jaxcal.tuning import adapters
from jaxcal.tuning import checkpoint
from jaxcal.tuning import methods
from jaxcal.tuning import taskres

_NAMES = ("red circle", "blue square", "green star", "grey cross")


def _tuned(name, params, names=_NAMES, about={}):
  return checkpoint.Tuned(
      methods.Spec(name), params, names, np.zeros(0, np.int64), about)


class AdaptersTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    keys = jax.random.split(jax.random.key(0), 4)
    cls.network = {"hidden": jax.random.normal(keys[0], (12, 3)),
                   "out": jax.random.normal(keys[1], (3, 12))}
    cls.embeddings = 7 * jax.random.normal(keys[2], (5, 2, 12))
    cls.features = cls.embeddings / jnp.linalg.norm(
        cls.embeddings, axis=-1, keepdims=True)

  def test_images_need_no_norm(self):
    """A loop over embeddings before normalisation, in NumPy, as published."""
    found = np.asarray(adapters.image_features(
        _tuned("clip_adapter", self.network), self.features))
    hidden, out = (np.float64(self.network[name]) for name in ("hidden", "out"))
    for row, given in zip(found.reshape(-1, 12),
                          np.float64(self.embeddings).reshape(-1, 12)):
      moved = .2 * np.maximum(np.maximum(
          given @ hidden, 0) @ out, 0) + .8 * given
      np.testing.assert_allclose(row, moved / np.linalg.norm(moved), atol=1e-6)

  @pytest.mark.slow
  def test_texts_are_of_some_classes_in_any_order(self):
    model = models.load(shipped.folder())
    width = model.params["text_projection"]["kernel"].shape[1]
    residual = jax.random.normal(jax.random.key(3), (4, width))
    one = _tuned("taskres", {"residual": residual})
    both = adapters.text_features(one, model, _NAMES)
    some = adapters.text_features(one, model, (_NAMES[2], _NAMES[0]))
    np.testing.assert_allclose(some, both[jnp.array([2, 0])], atol=1e-6)
    np.testing.assert_allclose(
        np.linalg.norm(both, axis=-1), np.ones(4), atol=1e-6)
    plain = adapters.text_features(
        one._replace(params={"residual": 0 * residual}), model, _NAMES)
    self.assertGreater(np.abs(both - plain).max(), 0.01)
    with self.assertRaisesRegex(ValueError, "yellow"):
      adapters.text_features(one, model, ("yellow star",))

  def test_residual_of_other_classes(self):
    with self.assertRaisesRegex(ValueError, "of 4 classes.*there are 3 names"):
      taskres.text_features({"residual": jnp.ones((4, 6))}, jnp.ones((3, 6)))

  def test_prompt_of_the_training(self):
    about = {"identity": {"prompt.template": "a sketch of a {}."}}
    self.assertEqual(adapters.template_of(
        _tuned("taskres", {}, about=about), "{}"), "a sketch of a {}.")
    self.assertEqual(adapters.template_of(_tuned("taskres", {}), "{}"), "{}")

  def test_source_through_a_function(self):
    mesh = sharding.data_mesh(jax.devices()[:1])
    plain = sources.from_arrays(np.asarray(self.features))
    found = sources.mapped(plain, lambda x: x[..., ::-1])
    self.assertEqual((found.ids, found.num_views), (plain.ids, 2))
    batches = [np.array([3, 0]), np.array([4])]
    rows = [np.asarray(batch.view_features)[batch.mask]
            for batch in found.batches(batches, mesh, 2, None)]
    np.testing.assert_array_equal(
        np.concatenate(rows), self.features[jnp.array([3, 0, 4]), :, ::-1])


if __name__ == "__main__":
  absltest.main()
