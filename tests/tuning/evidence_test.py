"""Evidence of tuned predictions: against features taken one by one."""

import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
import pytest

from jaxcal import predictions
from jaxcal import stages
from jaxcal.clip import checkpoint as models
from jaxcal.data import image_set as image_sets
from jaxcal.testbed import sets
from jaxcal.testbed import shipped
from jaxcal.tuning import checkpoint
from jaxcal.tuning import classes
from jaxcal.tuning import evidence
from jaxcal.tuning import methods
from jaxcal.tuning import predict
from jaxcal.tuning import saved

_TEMPLATE = "a blurry photo of a {}."


class EvidenceTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.model = models.load(shipped.folder())
    whole = sets.load("shapes")
    cls.base, cls.new = whole.class_names[:4], whole.class_names[4:9]
    cls.images = image_sets.take(whole, [0, 5, 9])._replace(
        class_names=cls.new, labels=np.zeros(3, np.int32))

  def _tuned(self, name, **numbers):
    spec = methods.Spec(name, **numbers)
    params = methods.build(spec, self.model).init(
        jax.random.key(0), methods.prompts_of(
            spec, self.model, self.base, template=_TEMPLATE))
    leaves, structure = jax.tree.flatten(params)
    noisy = [leaf + 0.02 * jax.random.normal(jax.random.key(1), leaf.shape)
             for leaf in leaves]
    return checkpoint.Tuned(spec, jax.tree.unflatten(structure, noisy),
                            self.base, np.zeros(0, np.int64), {})

  def _arrays(self, one, names=evidence.NAMES):
    return evidence.arrays(
        self.model, self.images, one, names, template=_TEMPLATE)

  def _zero_shot(self, class_names):
    found = classes.template_embeddings(self.model, class_names, _TEMPLATE)
    return found / np.linalg.norm(found, axis=1, keepdims=True)

  @pytest.mark.slow
  def test_of_a_tuned_context(self):
    one = self._tuned("coop", num_context=2)
    found = self._arrays(one)
    self.assertEqual(set(found), set(evidence.NAMES))
    logits, = predict.logits(
        self.model, self.images, [one], template=_TEMPLATE)
    scale = float(np.exp(self.model.params["logit_scale"]))
    np.testing.assert_allclose(
        scale * found["image_features"] @ found["text_features"].T, logits,
        atol=1e-4)
    np.testing.assert_allclose(
        found["zero_shot_text_features"], self._zero_shot(self.new), atol=1e-5)
    np.testing.assert_allclose(
        scale * found["image_features"] @ self._zero_shot(self.new).T,
        found["zero_shot_logits"], atol=1e-4)
    np.testing.assert_allclose(
        found["base_zero_shot_text_features"], self._zero_shot(self.base),
        atol=1e-5)
    # The same context before the names of the training.
    logits, = predict.logits(
        self.model, self.images._replace(class_names=self.base), [one])
    np.testing.assert_allclose(
        scale * found["image_features"] @ found["base_text_features"].T,
        logits, atol=1e-4)
    predictions.check(predictions.Predictions(
        logits[:, :1].repeat(5, 1), None, self.images.ids, self.new,
        evidence=found))

  def test_what_is_asked_for_alone(self):
    one = self._tuned("coop", num_context=2)
    self.assertEqual(set(self._arrays(one, ("base_text_features",))),
                     {"base_text_features"})
    self.assertEqual(self._arrays(one, ()), {})

  @pytest.mark.slow
  def test_an_adapter_of_images_leaves_the_text_side(self):
    found = self._arrays(self._tuned("clip_adapter"))
    self.assertEqual(set(found), {*evidence.NAMES} - {"image_features"})
    for prefix in ("", "base_"):
      np.testing.assert_array_equal(
          found[f"{prefix}text_features"],
          found[f"{prefix}zero_shot_text_features"])

  @pytest.mark.slow
  def test_seeds_share_what_is_the_same_for_them(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    one = self._tuned("coop", num_context=2)
    seeds = [one, one, one._replace(class_names=self.base[::-1])]
    names = ("base_zero_shot_text_features", "zero_shot_text_features")
    with mock.patch.object(
        predict, "text_features", wraps=predict.text_features) as encode:
      saved.save(self.model, self.images, [
          saved.Asked(folder / str(seed), stages.Stages("coop"), tuned,
                      {"seed": seed}, evidence=names)
          for seed, tuned in enumerate(seeds)], template=_TEMPLATE)
    self.assertEqual([call.args[1] for call in encode.call_args_list],
                     [self.base, self.new, self.base[::-1]])
    first, second, third = (predictions.load(folder / str(seed)).evidence
                            for seed in range(3))
    base, new = names
    for name in names:
      np.testing.assert_array_equal(first[name], second[name])
    np.testing.assert_array_equal(first[new], third[new])
    np.testing.assert_allclose(first[base], third[base][::-1], atol=1e-6)

  @pytest.mark.slow
  def test_text_features_of_each_image_are_none(self):
    found = self._arrays(self._tuned("cocoop", num_context=2))
    self.assertEqual(set(found), {*evidence.NAMES} - {
        "text_features", "base_text_features"})

  def test_names_are_those_of_the_files(self):
    self.assertContainsSubset(evidence.NAMES, predictions.EVIDENCE)


if __name__ == "__main__":
  absltest.main()
