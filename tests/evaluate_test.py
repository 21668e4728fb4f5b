"""One pass over a set: devices, ragged ends, stores, interruptions."""

import dataclasses
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxcal import evaluate
from jaxcal import sharding
from jaxcal.adapt import objectives
from jaxcal.adapt import settings as settings_lib
from jaxcal.clip import checkpoint
from jaxcal.clip import prompts
from jaxcal.data import image_set as image_sets
from jaxcal.data import views
from jaxcal.features import extract
from jaxcal.features import store as stores
from jaxcal.testbed import sets
from jaxcal.testbed import shipped

_SETTINGS = {name: settings_lib.Setting(
    objectives.method(name), selection_fraction=0.25)
             for name in ("zero_shot", "soc")}
_RECIPE = views.Recipe(size=48, resize=48, num_views=8)


class Interrupted(Exception):
  """Stands for whatever ends a run half way."""


class EvaluateTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.model = checkpoint.load(shipped.folder())
    cls.images = image_sets.limit(sets.load("digits"), 11)
    cls.text = evaluate.text_side(cls.model, cls.images.class_names)
    cls.one_device = cls.run_all(devices=jax.devices()[:1])

  @classmethod
  def run_all(cls, model=None, images=None, **options):
    return dict(evaluate.evaluate(
        model or cls.model, images or cls.images, _SETTINGS,
        **{"recipe": _RECIPE, "batch_size": 2, "text": cls.text} | options))

  def assert_same(self, answers, atol=0.0):
    for name, answer in answers.items():
      self.assertEqual(answer.ids, self.images.ids)
      np.testing.assert_allclose(
          answer.logits, self.one_device[name].logits, atol=atol, rtol=0)

  def test_zero_shot_is_what_the_model_says(self):
    clean = np.stack([
        np.asarray(Image.fromarray(self.images.read(i)).resize(
            (48, 48), Image.Resampling.BICUBIC)) for i in range(11)])
    features = self.model.image_features(clean)
    bank = prompts.prompt_bank(
        self.model.tokenizer, self.images.class_names, context_length=32,
        eos_token_id=self.model.config.eos_token_id)
    scale = np.exp(self.model.params["logit_scale"])
    np.testing.assert_allclose(
        self.one_device["zero_shot"].logits,
        scale * features @ self.model.text_features(bank).T, atol=0.05)

  def test_ids_labels_and_names_are_those_of_the_set(self):
    for answer in self.one_device.values():
      self.assertEqual(answer.ids, self.images.ids)
      self.assertEqual(answer.class_names, self.images.class_names)
      np.testing.assert_array_equal(answer.labels, self.images.labels)
      self.assertEqual(answer.logits.shape, (11, 10))

  def test_four_devices_give_the_same_answers(self):
    self.assertGreaterEqual(jax.device_count(), 4)
    four = self.run_all(devices=jax.devices()[:4])
    self.assert_same(four, atol=1e-5)

  @parameterized.parameters(3, 16)
  def test_batches_of_another_size_give_the_same_answers(self, batch_size):
    self.assert_same(self.run_all(
        batch_size=batch_size, devices=jax.devices()[:1]), atol=1e-5)

  @parameterized.parameters(
      dict(linearisation="jacobian"), dict(text=None, max_bytes=2**22))
  def test_other_ways_to_the_same_answers(self, **options):
    # The second way encodes the classes a few at a time.
    self.assert_same(
        self.run_all(devices=jax.devices()[:1], **options), atol=2e-4)

  def _store(self, images, dtype="float32"):
    folder = self.create_tempdir().full_path
    manifest = stores.Manifest(
        "testbed", self.model.fingerprint, images.name,
        stores.data_fingerprint(images), dataclasses.asdict(_RECIPE), 0,
        "float32", len(images.ids), 8, self.model.config.projection,
        self.model.config.vision.width, dtype, chunk_size=4)
    store = stores.create(folder, manifest, images)
    mesh = sharding.data_mesh(jax.devices()[:1])
    batches = [stores.chunk_positions(store, chunk)
               for chunk in stores.missing(store)]
    for chunk, batch in enumerate(extract.from_images(
        self.model, images, batches, recipe=_RECIPE, seed=0, mesh=mesh,
        batch_size=4, num_threads=2)):
      stores.write_chunk(store, chunk, *(
          np.asarray(array)[batch.mask]
          for array in (
              batch.view_features, extract.join_pooled(batch.pooled))))
    return store

  def test_stored_features_give_the_same_answers(self):
    # Stored in another order than that of the set, and with other images.
    order = np.r_[np.arange(11, 14), np.random.default_rng(0).permutation(11)]
    store = self._store(image_sets.take(
        image_sets.limit(sets.load("digits"), 14), order))
    unread = self.images._replace(read=None)
    for devices in (1, 4):
      self.assert_same(self.run_all(
          images=unread, store=store, devices=jax.devices()[:devices]),
                       atol=1e-5)
    with self.assertRaisesRegex(ValueError, "no features of 1 of 12 images"):
      self.run_all(store=store, images=image_sets.take(
          image_sets.limit(sets.load("digits"), 15), [*range(11), 14]))

  def test_half_precision_storage_is_close(self):
    store = self._store(self.images, "float16")
    self.assert_same(
        self.run_all(store=store, devices=jax.devices()[:1]), atol=0.05)

  def test_bfloat16_image_tower_is_close(self):
    half = checkpoint.in_precision(
        self.model, image=jnp.bfloat16, text=jnp.float32)
    answers = self.run_all(model=half, devices=jax.devices()[:1])
    self.assert_same(answers, atol=1.0)
    self.assertFalse(np.array_equal(
        answers["soc"].logits, self.one_device["soc"].logits))
    self.assertEqual(answers["soc"].logits.dtype, np.float32)

  def test_interrupted_run_goes_on(self):
    parts = pathlib.Path(self.create_tempdir().full_path, "parts")

    def stop(done, total):
      del total
      if done >= 4:
        raise Interrupted

    with self.assertRaises(Interrupted):
      self.run_all(parts=parts, on_batch=stop, devices=jax.devices()[:1])
    read = []
    watched = self.images._replace(
        read=lambda i: (read.append(i), self.images.read(i))[1])
    resumed = self.run_all(
        images=watched, parts=parts, devices=jax.devices()[:1])
    self.assertCountEqual(read, range(4, 11))
    self.assert_same(resumed)
    for name, answer in resumed.items():
      for field, values in answer.info.items():
        np.testing.assert_array_equal(
            values, self.one_device[name].info[field])

  def test_parts_of_another_set_are_refused(self):
    parts = pathlib.Path(self.create_tempdir().full_path, "parts")
    self.run_all(parts=parts, images=image_sets.take(self.images, [0, 1]))
    with self.assertRaisesRegex(ValueError, "with other ids; remove it"):
      self.run_all(parts=parts, images=image_sets.take(self.images, [5, 6]))

  def test_weights_that_overflow_are_named(self):
    params = dict(self.model.params)
    params["visual_projection"] = {
        "kernel": jnp.full_like(params["visual_projection"]["kernel"], 1e38)}
    broken = dataclasses.replace(self.model, params=params)
    with self.assertRaisesRegex(
        ValueError, "logits of .* are not finite for 2 of 2, the first "
        "one 'digits/test/00000'"):
      self.run_all(model=broken, devices=jax.devices()[:1])

  def test_labels_outside_the_classes_are_refused_at_once(self):
    wrong = self.images._replace(labels=self.images.labels + 5)
    with self.assertRaisesRegex(ValueError, r"labels outside \[0, 10\)"):
      self.run_all(images=wrong)


if __name__ == "__main__":
  absltest.main()
