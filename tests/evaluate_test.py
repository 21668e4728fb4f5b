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
from jaxcal.adapt import bayesian
from jaxcal.adapt import objectives
from jaxcal.adapt import settings as settings_lib
from jaxcal.clip import checkpoint
from jaxcal.clip import prompts
from jaxcal.clip import towers
from jaxcal.data import image_set as image_sets
from jaxcal.data import views
from jaxcal.features import extract
from jaxcal.features import store as stores
from jaxcal.posterior import laplace
from jaxcal.testbed import sets
from jaxcal.testbed import shipped

_SETTINGS = {name: settings_lib.Setting(
    objectives.method(name), selection_fraction=0.25)
             for name in ("zero_shot", "soc")}
_RECIPE = views.Recipe(size=48, resize=48, num_views=8)


class Interrupted(Exception):
  """Stands for whatever ends a run half way."""


class _Runs:
  """Answers for eleven images on one device, and other ways to the same."""

  options = {}  # of all runs

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.model = checkpoint.load(shipped.folder())
    cls.images = image_sets.limit(sets.load("digits"), 11)
    cls.text = evaluate.text_side(cls.model, cls.images.class_names)
    cls.one_device = cls.run_all()

  @classmethod
  def run_all(cls, model=None, images=None, num_devices=1, **options):
    return dict(evaluate.evaluate(
        model or cls.model, images or cls.images, _SETTINGS,
        **{"recipe": _RECIPE, "batch_size": 2, "text": cls.text,
           "devices": jax.devices()[:num_devices]} | cls.options | options))

  def assert_same(self, answers, atol=0.0):
    """Logits within `atol` of those on one device, the rest ten times that."""
    for name, answer in answers.items():
      expected = self.one_device[name]
      self.assertEqual(answer.ids, self.images.ids)
      np.testing.assert_allclose(
          answer.logits, expected.logits, atol=atol, rtol=0)
      self.assertEqual(set(answer.info), set(expected.info))
      for field, values in answer.info.items():
        np.testing.assert_allclose(
            values, expected.info[field], atol=10 * atol, rtol=10 * atol,
            err_msg=f"{name}: {field}")

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

  def test_four_devices_give_the_same_answers(self):
    self.assertGreaterEqual(jax.device_count(), 4)
    self.assert_same(self.run_all(num_devices=4), atol=1e-5)

  def test_stored_features_give_the_same_answers(self):
    # Stored in another order than that of the set, and with other images.
    order = np.r_[np.arange(11, 14), np.random.default_rng(0).permutation(11)]
    store = self._store(image_sets.take(
        image_sets.limit(sets.load("digits"), 14), order))
    unread = self.images._replace(read=None)
    for num_devices in (1, 4):
      self.assert_same(self.run_all(
          images=unread, store=store, num_devices=num_devices), atol=1e-5)
    with self.assertRaisesRegex(ValueError, "no features of 1 of 12 images"):
      self.run_all(store=store, images=image_sets.take(
          image_sets.limit(sets.load("digits"), 15), [*range(11), 14]))

  def test_interrupted_run_goes_on(self):
    parts = pathlib.Path(self.create_tempdir().full_path, "parts")

    def stop(done, total):
      del total
      if done >= 4:
        raise Interrupted

    with self.assertRaises(Interrupted):
      self.run_all(parts=parts, on_batch=stop)
    read = []
    watched = self.images._replace(
        read=lambda i: (read.append(i), self.images.read(i))[1])
    resumed = self.run_all(images=watched, parts=parts)
    self.assertCountEqual(read, range(4, 11))
    self.assert_same(resumed)


class EvaluateTest(_Runs, parameterized.TestCase):

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

  @parameterized.parameters(3, 16)
  def test_batches_of_another_size_give_the_same_answers(self, batch_size):
    self.assert_same(self.run_all(batch_size=batch_size), atol=1e-5)

  @parameterized.parameters(
      dict(linearisation="jacobian"), dict(text=None, max_bytes=2**22))
  def test_other_ways_to_the_same_answers(self, **options):
    # The second way encodes the classes a few at a time.
    self.assert_same(self.run_all(**options), atol=2e-4)

  def test_half_precision_storage_is_close(self):
    store = self._store(self.images, "float16")
    self.assert_same(self.run_all(store=store), atol=0.05)

  def test_bfloat16_image_tower_is_close(self):
    half = checkpoint.in_precision(
        self.model, image=jnp.bfloat16, text=jnp.float32)
    answers = self.run_all(model=half)
    self.assert_same(answers, atol=1.0)
    self.assertFalse(np.array_equal(
        answers["soc"].logits, self.one_device["soc"].logits))
    self.assertEqual(answers["soc"].logits.dtype, np.float32)

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
      self.run_all(model=broken)

  def test_labels_outside_the_classes_are_refused_at_once(self):
    wrong = self.images._replace(labels=self.images.labels + 5)
    with self.assertRaisesRegex(ValueError, r"labels outside \[0, 10\)"):
      self.run_all(images=wrong)


class HeadTest(_Runs, absltest.TestCase):
  """Answers of a posterior beside those of the settings."""

  @classmethod
  def setUpClass(cls):
    cls.shipped = checkpoint.load(shipped.folder())
    cls.options = {"head": cls.head(1e-3)}
    super().setUpClass()

  @classmethod
  def head(cls, scale):
    """With random covariances of some size; zero for none."""
    maps = [towers.image_projection(cls.shipped.config, cls.shipped.params),
            towers.text_projection(cls.shipped.config, cls.shipped.params)]
    rng = np.random.default_rng(0)

    def covariance(size):
      root = rng.standard_normal((size, size), np.float32)
      return jnp.asarray(scale * (root @ root.T))

    posterior = laplace.Posterior(*(
        laplace.Layer(*map(covariance, one.kernel.shape)) for one in maps))
    noise = rng.standard_normal((20, 10), np.float32)
    return bayesian.Head(
        posterior, *maps, jnp.exp(cls.shipped.params["logit_scale"]), noise)

  def test_every_setting_answers_in_every_form(self):
    self.assertEqual(list(self.one_device), [
        name + form for name in ("zero_shot", "soc")
        for form in ("", *(f"+{form}" for form in bayesian.FORMS))])
    plain = self.run_all(head=None)
    self.assertEqual(set(plain), {"zero_shot", "soc"})
    self.assert_same(plain, atol=1e-5)
    for form in bayesian.FORMS:
      zero_shot, soc = (self.one_device[f"{name}+{form}"]
                        for name in ("zero_shot", "soc"))
      for answer in (zero_shot, soc):
        self.assertTrue(set(bayesian.Doubt._fields) <= set(answer.info))
        self.assertGreater(answer.info["epistemic"].min(), 1e-3)
      # That of the image does not see the context, the answer does.
      np.testing.assert_array_equal(
          zero_shot.info["image_variance"], soc.info["image_variance"])
      self.assertGreater(np.abs(zero_shot.logits - soc.logits).max(), 1e-2)

  def test_without_variance_the_answers_are_the_plain_ones(self):
    answers = self.run_all(head=self.head(0))
    for name, setting in evaluate.answer_names(
        ("zero_shot", "soc"), with_posterior=True).items():
      np.testing.assert_allclose(
          answers[name].logits, self.one_device[setting].logits, atol=1e-4)
      if name != setting:
        np.testing.assert_allclose(
            answers[name].info["epistemic"], 0, atol=1e-5)

  def test_logits_shrink_by_the_formula(self):
    """Full covariance, spelled out for one image and one class."""
    head, plain = self.options["head"], self.one_device["zero_shot"].logits[4]
    answered = plain.argmax()
    clean = np.asarray(Image.fromarray(self.images.read(4)).resize(
        (48, 48), Image.Resampling.BICUBIC))
    image = np.float64(self.model.pooled(clean[None]).activations[0])
    text = np.float64(self.text.encode.pooled(self.text.context)[answered])
    (a, b), (c, d) = (map(np.float64, layer) for layer in head.posterior)
    mu = image @ np.float64(head.image.kernel)
    nu = text @ np.float64(head.text.kernel)
    cov_mu, cov_nu = (image @ a @ image) * b, (text @ c @ text) * d
    norm = (mu @ mu + np.trace(cov_mu)) * (nu @ nu + np.trace(cov_nu))
    scale = float(head.logit_scale)
    variance = scale**2 / norm * (
        mu @ cov_nu @ mu + nu @ cov_mu @ nu + np.trace(cov_mu @ cov_nu))
    expected = scale * mu @ nu / np.sqrt(norm) / np.sqrt(
        1 + np.pi / 8 * variance)
    found = self.one_device["zero_shot+full"].logits[4, answered]
    np.testing.assert_allclose(found, expected, atol=0.05)
    self.assertGreater(plain[answered] - expected, 0.5)


if __name__ == "__main__":
  absltest.main()
