"""One pass over a set: devices, ragged ends, interruption, bad numbers."""

import dataclasses
import functools
import pathlib

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import evaluate
from jaxcal.adapt import objectives
from jaxcal.clip import checkpoint
from jaxcal.data import image_set as image_sets
from jaxcal.data import views
from jaxcal.testbed import sets
from jaxcal.testbed import shipped

_METHODS = {name: objectives.method(name) for name in ("zero_shot", "soc")}


class Interrupted(Exception):
  """Stands for whatever ends a run half way."""


class EvaluateTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.model = checkpoint.load(shipped.folder())
    cls.images = image_sets.limit(sets.load("digits"), 11)
    cls.one_device = cls.run_all(devices=jax.devices()[:1])

  @classmethod
  def run_all(cls, model=None, images=None, **options):
    make_views = functools.partial(
        views.make_views, seed=0, num_views=8, resize=48, crop=48)
    return evaluate.evaluate(
        model or cls.model, images or cls.images, _METHODS,
        **{"make_views": make_views, "selection_fraction": 0.25,
           "batch_size": 2} | options)

  def test_zero_shot_is_what_the_model_says(self):
    clean = np.stack([
        views.clean_view(self.images.read(i), resize=48, crop=48)
        for i in range(11)])
    features = self.model.image_features(clean)
    from jaxcal.clip import prompts  # only this test looks at the prompts
    bank = prompts.prompt_bank(
        self.model.tokenizer, self.images.class_names, context_length=32,
        eos_token_id=self.model.config.eos_token_id)
    scale = np.exp(self.model.params["logit_scale"])
    np.testing.assert_allclose(
        self.one_device["zero_shot"].logits,
        scale * features @ self.model.text_features(bank).T, atol=1e-4)

  def test_ids_labels_and_names_are_those_of_the_set(self):
    for answer in self.one_device.values():
      self.assertEqual(answer.ids, self.images.ids)
      self.assertEqual(answer.class_names, self.images.class_names)
      np.testing.assert_array_equal(answer.labels, self.images.labels)
      self.assertEqual(answer.logits.shape, (11, 10))

  def test_four_devices_give_the_same_answers(self):
    self.assertGreaterEqual(jax.device_count(), 4)
    four = self.run_all(devices=jax.devices()[:4])
    for name, answer in four.items():
      self.assertEqual(answer.ids, self.images.ids)
      np.testing.assert_allclose(
          answer.logits, self.one_device[name].logits, atol=1e-5)

  def test_interrupted_run_goes_on(self):
    parts = pathlib.Path(self.create_tempdir().full_path, "parts")

    def stop(done, total):
      del total
      if done >= 4:
        raise Interrupted

    with self.assertRaises(Interrupted):
      self.run_all(parts=parts, on_batch=stop, devices=jax.devices()[:1])
    (parts / "half").mkdir()  # as a kill in the middle of a write leaves it
    read = []
    watched = self.images._replace(
        read=lambda i: (read.append(i), self.images.read(i))[1])
    resumed = self.run_all(
        images=watched, parts=parts, devices=jax.devices()[:1])
    self.assertCountEqual(read, range(4, 11))
    for name, answer in resumed.items():
      self.assertEqual(answer.ids, self.images.ids)
      np.testing.assert_array_equal(
          answer.logits, self.one_device[name].logits)
      np.testing.assert_array_equal(
          answer.info["context_shift"],
          self.one_device[name].info["context_shift"])

  def test_parts_of_another_set_are_refused(self):
    parts = pathlib.Path(self.create_tempdir().full_path, "parts")
    self.run_all(parts=parts, images=image_sets.limit(self.images, 2))
    with self.assertRaisesRegex(ValueError, "other images than 'digits'"):
      self.run_all(parts=parts, images=image_sets.take(self.images, [5, 6, 7]))

  def test_weights_that_overflow_are_named(self):
    params = dict(self.model.params)
    params["visual_projection"] = {
        "kernel": jnp.full_like(params["visual_projection"]["kernel"], 1e38)}
    broken = dataclasses.replace(self.model, params=params)
    with self.assertRaisesRegex(
        ValueError, "logits of zero_shot are not finite for 2 of 2, the first "
        "one 'digits/test/00000'"):
      self.run_all(model=broken, devices=jax.devices()[:1])

  def test_labels_outside_the_classes_are_refused_at_once(self):
    wrong = self.images._replace(labels=self.images.labels + 5)
    with self.assertRaisesRegex(ValueError, r"labels outside \[0, 10\)"):
      self.run_all(images=wrong)


if __name__ == "__main__":
  absltest.main()
