"""The stressed variant against the shipped model and formulas of its change."""

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcal
from jaxcal import tasks
from jaxcal.clip import checkpoint
from jaxcal.clip import encoder
from jaxcal.data import views
from jaxcal.testbed import sets
from jaxcal.testbed import shipped
from jaxcal.testbed import variant


def _texts(model, class_names):
  """Projected text features, not normalised."""
  bank = encoder.prompt_bank(model, class_names, template="a photo of a {}.")
  pooled = encoder.context_encoder(model, bank).pooled(
      encoder.initial_context(model, bank))
  return np.asarray(pooled @ model.params["text_projection"]["kernel"])


def _images(model, data):
  """Projected image features of the clean views, not normalised."""
  recipe = views.Recipe(size=model.preprocess.crop,
                        resize=model.preprocess.resize, num_views=1)
  clean = jnp.stack([
      views.make_views(image, image.shape[:2], jax.random.PRNGKey(0), recipe)[0]
      for image in map(data.read, range(len(data.ids)))])
  pooled = model.pooled(clean).activations
  return np.asarray(pooled @ model.params["visual_projection"]["kernel"])


def _cosines(ours, theirs):
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  return unit(ours) @ unit(theirs).T


class VariantTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.plain = checkpoint.load(shipped.folder())
    cls.stressed = tasks.load("testbed-stress")
    cls.data = sets.load("shades", split="validation", limit=64)

  @pytest.mark.slow
  def test_norms_are_those_of_the_shipped_model(self):
    texts, images = [], []
    for name in sets.BASES:
      data = sets.load(name, split="validation", limit=64)
      texts.append(np.linalg.norm(_texts(self.plain, data.class_names), axis=1))
      images.append(np.linalg.norm(_images(self.plain, data), axis=1))
    self.assertAlmostEqual(
        np.concatenate(texts).mean(), variant.TEXT_NORM, places=2)
    self.assertAlmostEqual(
        np.concatenate(images).mean(), variant.IMAGE_NORM, places=2)

  def test_texts_gain_one_number_and_keep_the_others(self):
    before, after = (_texts(model, self.data.class_names)
                     for model in (self.plain, self.stressed))
    np.testing.assert_allclose(after[:, :-2], before, atol=2e-4)
    constant = variant.TEXT_NORM * np.sqrt(0.7 / 0.3)
    np.testing.assert_allclose(after[:, -2], constant, rtol=1e-4)
    np.testing.assert_array_equal(after[:, -1], 0)
    # 1 - A + A cos, each class with the share that its own norm leaves.
    share = 1 / (1 + constant**2 / np.sum(before**2, axis=1))
    expected = (np.sqrt(np.outer(share, share)) * _cosines(before, before) +
                np.sqrt(np.outer(1 - share, 1 - share)))
    np.testing.assert_allclose(_cosines(after, after), expected, atol=1e-4)
    pairs = expected[np.triu_indices(len(expected), k=1)]
    self.assertBetween(pairs.mean(), 0.75, 0.85)

  @pytest.mark.slow
  def test_logits_are_the_old_ones_at_half_the_scale(self):
    sides = [_images(self.plain, self.data),
             _texts(self.plain, self.data.class_names)]
    old = np.exp(float(self.plain.params["logit_scale"])) * _cosines(*sides)
    new = np.exp(float(self.stressed.params["logit_scale"])) * _cosines(
        _images(self.stressed, self.data),
        _texts(self.stressed, self.data.class_names))
    # At the mean norms half the logits; at others, the share that they leave.
    shares = [1 / (1 + norm**2 * (1 / share - 1) / np.sum(side**2, axis=1))
              for side, norm, share in zip(
                  sides, (variant.IMAGE_NORM, variant.TEXT_NORM), (0.06, 0.3))]
    expected = 0.5 * old * np.sqrt(np.outer(*shares) / (0.06 * 0.3))
    np.testing.assert_allclose(new, expected, atol=2e-3)
    self.assertGreater(np.mean(old.argmax(1) == new.argmax(1)), 0.9)

  def test_context_is_half_as_large(self):
    contexts = [encoder.initial_context(model, encoder.prompt_bank(
        model, ("cat",), template="a photo of a {}."))
                for model in (self.plain, self.stressed)]
    np.testing.assert_allclose(contexts[1], 0.5 * contexts[0], rtol=1e-6)

  def test_a_model_of_its_own(self):
    self.assertEqual(self.stressed.name, "testbed-stress")
    self.assertNotEqual(self.stressed.fingerprint, self.plain.fingerprint)
    again = tasks.load("testbed-stress")
    self.assertEqual(again.fingerprint, self.stressed.fingerprint)
    task = jaxcal.task_of(self.stressed, ("cat", "dog"))
    self.assertEqual(task.text_features.shape, (2, 130))


if __name__ == "__main__":
  absltest.main()
