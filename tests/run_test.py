"""One pass over any source: devices, ragged ends, stores, interruptions."""

import dataclasses
import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from jaxcal import predictions
from jaxcal import run
from jaxcal import sharding
from jaxcal import stages
from jaxcal import tasks
from jaxcal.adapt import cache
from jaxcal.adapt import graph
from jaxcal.adapt import methods
from jaxcal.adapt import modes
from jaxcal.adapt import votes
from jaxcal.adapt.prompt import bayesian
from jaxcal.clip import checkpoint
from jaxcal.clip import prompts
from jaxcal.clip import towers
from jaxcal.data import image_set as image_sets
from jaxcal.data import views
from jaxcal.features import extract
from jaxcal.features import sources
from jaxcal.features import store as stores
from jaxcal.posterior import laplace
from jaxcal.testbed import sets
from jaxcal.testbed import shipped

_METHODS = {name: methods.method(name, selection_fraction=0.25)
            for name in ("zero_shot", "soc")}
_RECIPE = views.Recipe(size=48, resize=48, num_views=8)


class Interrupted(Exception):
  """Stands for whatever ends a run half way."""


def stop_after(count):
  """For `on_batch`: ends the run once so many images are done."""
  def stop(done, total):
    del total
    if done >= count:
      raise Interrupted

  return stop


def watched(images):
  """The images, and a list that receives the position of each that is read."""
  read = []
  return images._replace(
      read=lambda i: (read.append(i), images.read(i))[1]), read


class _Runs:
  """Predictions for eleven images on one device, and other ways to the same."""

  methods = _METHODS
  options = {}  # of all runs

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.model = checkpoint.load(shipped.folder())
    cls.images = image_sets.limit(sets.load("digits"), 11)
    cls.task = tasks.unencoded_task(cls.model, cls.images.class_names)
    cls.one_device = cls.run_all()

  @classmethod
  def run_all(cls, model=None, images=None, store=None, num_devices=1,
              task=None, **options):
    model, images = model or cls.model, images or cls.images
    if store is None:
      source = sources.from_images(model, images, recipe=_RECIPE)
    else:
      source = sources.from_store(
          store, image_set=images, config=model.config)
    return dict(run.iterate(
        cls.methods, task or cls.task, source,
        **{"batch_size": 2, "devices": jax.devices()[:num_devices]} |
        cls.options | options))

  def assert_same(self, predicted, atol=0.0):
    """Logits within `atol` of those on one device, the rest ten times that."""
    for name, one in predicted.items():
      expected = self.one_device[name]
      self.assertEqual(one.ids, self.images.ids)
      np.testing.assert_allclose(
          one.logits, expected.logits, atol=atol, rtol=0)
      self.assertEqual(set(one.info), set(expected.info))
      for field, values in one.info.items():
        np.testing.assert_allclose(
            values, expected.info[field], atol=10 * atol, rtol=10 * atol,
            err_msg=f"{name}: {field}")

  def _store(self, images, dtype="float32"):
    folder = self.create_tempdir().full_path
    manifest = stores.Manifest(
        "testbed", self.model.fingerprint, images.name,
        stores.data_fingerprint(images), dataclasses.asdict(_RECIPE), 0,
        "highest", len(images.ids), 8, self.model.config.projection,
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


class _SameTests(_Runs):
  """What holds whatever the methods are."""

  def test_four_devices_give_the_same_predictions(self):
    self.assertGreaterEqual(jax.device_count(), 4)
    self.assert_same(self.run_all(num_devices=4), atol=1e-5)

  def test_stored_features_give_the_same_predictions(self):
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

    with self.assertRaises(Interrupted):
      self.run_all(parts=parts, on_batch=stop_after(4))
    images, read = watched(self.images)
    resumed = self.run_all(images=images, parts=parts)
    self.assertCountEqual(read, range(4, 11))
    self.assert_same(resumed)


class _SameTestsInPart(_SameTests):
  """Without those that take longest, which `MixedTest` has in the fast set."""

  @pytest.mark.slow
  def test_four_devices_give_the_same_predictions(self):
    super().test_four_devices_give_the_same_predictions()

  @pytest.mark.slow
  def test_stored_features_give_the_same_predictions(self):
    super().test_stored_features_give_the_same_predictions()


class IterateTest(_SameTestsInPart, parameterized.TestCase):

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
    for one in self.one_device.values():
      self.assertEqual(one.ids, self.images.ids)
      self.assertEqual(one.class_names, self.images.class_names)
      np.testing.assert_array_equal(one.labels, self.images.labels)
      self.assertEqual(one.logits.shape, (11, 10))

  @parameterized.parameters(3, 16)
  @pytest.mark.slow
  def test_batches_of_another_size_give_the_same_predictions(self, batch_size):
    self.assert_same(self.run_all(batch_size=batch_size), atol=1e-5)

  @parameterized.parameters(
      dict(linearisation="jacobian"), dict(max_bytes=2**22))
  @pytest.mark.slow
  def test_other_ways_to_the_same_predictions(self, **options):
    # The second way encodes the classes a few at a time.
    task = tasks.unencoded_task(
        self.model, self.images.class_names,
        max_bytes=options.get("max_bytes", 2**32), num_contexts=2)
    self.assert_same(self.run_all(task=task, **options), atol=2e-4)

  def test_half_precision_storage_is_close(self):
    store = self._store(self.images, "float16")
    self.assert_same(self.run_all(store=store), atol=0.05)

  @pytest.mark.slow
  def test_bfloat16_image_tower_is_close(self):
    half = checkpoint.in_precision(
        self.model, image="bfloat16", text="highest")
    predicted = self.run_all(model=half)
    self.assert_same(predicted, atol=1.0)
    self.assertFalse(np.array_equal(
        predicted["soc"].logits, self.one_device["soc"].logits))
    self.assertEqual(predicted["soc"].logits.dtype, np.float32)

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
        ValueError, "logits are not finite for 2 of 2 images, the first "
        "one 'digits/test/00000'"):
      self.run_all(model=broken)

  def test_labels_outside_the_classes_are_refused_at_once(self):
    wrong = self.images._replace(labels=self.images.labels + 5)
    with self.assertRaisesRegex(ValueError, r"labels outside \[0, 10\)"):
      self.run_all(images=wrong)


class MixedTest(_SameTests, parameterized.TestCase):
  """Methods with a state, and of other kinds, beside those that tune prompts.
  """

  methods = _METHODS | {
      "mta": modes.Mta(), "zero": votes.Zero(), "tda": cache.Tda(),
      # A released sharpness would sharpen rounding, too.
      "ecalp": graph.Ecalp(sharpness=1.0)}
  order = np.random.default_rng(3).permutation(11)
  options = {"order": order, "evidence": (
      "image_features", "zero_shot_logits", "zero_shot_text_features",
      "mean_cosine", "view_logits", "zero_shot_view_logits")}

  @pytest.mark.slow
  def test_company_does_not_matter(self):
    for name, method in self.methods.items():
      with mock.patch.object(type(self), "methods", {name: method}):
        self.assert_same(self.run_all(evidence=()), atol=1e-5)

  def test_the_order_matters_to_methods_with_a_state_alone(self):
    other = self.run_all(order=self.order[::-1])
    for name, one in other.items():
      self.assertEqual(
          np.allclose(one.logits, self.one_device[name].logits, atol=1e-4),
          name not in ("tda", "ecalp"), name)

  @pytest.mark.slow
  def test_features_in_arrays_give_the_same_predictions(self):
    read = sources.from_images(self.model, self.images, recipe=_RECIPE)
    batches = read.batches([np.arange(11)], sharding.data_mesh(
        jax.devices()[:1]), 11)
    features = np.asarray(next(batches).view_features)
    self.assert_same(run.predict(
        self.methods, tasks.task_of(self.model, self.images.class_names),
        features, labels=self.images.labels, ids=self.images.ids,
        class_names=self.images.class_names, order=self.order), atol=1e-5)

  def test_interrupted_run_goes_on(self):
    """The state is saved less often than the parts; none is lost or doubled."""
    for every in (0, 3600):  # seconds
      with self.subTest(every), mock.patch.object(run, "_SAVE_SECONDS", every):
        parts = pathlib.Path(self.create_tempdir().full_path, "parts")

        with self.assertRaises(Interrupted):
          self.run_all(parts=parts, on_batch=stop_after(6))
        images, read = watched(self.images)
        resumed = self.run_all(images=images, parts=parts)
        # The state before the batch that was written last is the one saved.
        first = 4 if every == 0 else 0
        self.assertCountEqual(read, self.order[first:])
        self.assert_same(resumed)

  @pytest.mark.slow
  def test_a_part_that_was_lost_before_the_saved_state(self):
    parts = pathlib.Path(self.create_tempdir().full_path, "parts")

    with (mock.patch.object(run, "_SAVE_SECONDS", 0),
          self.assertRaises(Interrupted)):
      self.run_all(parts=parts, on_batch=stop_after(8))
    (parts / f"{self.order[2]:08d}.npz").unlink()
    self.assert_same(self.run_all(parts=parts))

  @pytest.mark.slow
  def test_another_order_does_not_go_on(self):
    parts = pathlib.Path(self.create_tempdir().full_path, "parts")
    self.run_all(parts=parts)
    with self.assertRaisesRegex(ValueError, "with other order; remove it"):
      self.run_all(parts=parts, order=self.order[::-1])
    with self.assertRaisesRegex(ValueError, "each position in .0, 11. once"):
      self.run_all(order=[0, 0])

  def test_scores_that_are_no_logits_are_evidence(self):
    for name, one in self.one_device.items():
      self.assertEqual("scores" in one.evidence, name == "zero")
    zero = self.one_device["zero"]
    self.assertEqual(set(zero.evidence["scores"].sum(-1)), {2.0, 3.0})
    probs = np.exp(zero.logits)
    np.testing.assert_allclose(probs.sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(
        probs.argmax(-1), zero.evidence["scores"].argmax(-1))

  def test_evidence_is_that_of_the_model(self):
    task = tasks.task_of(self.model, self.images.class_names)
    text, scale = np.asarray(task.text_features), float(task.logit_scale)
    for name, one in self.one_device.items():
      predictions.check(one)
      # Only where logits are cosines times the scale.
      self.assertEqual(one.settings.get("logit_scale"),
                       scale if name in _METHODS else None, name)
      found = one.evidence
      np.testing.assert_allclose(
          scale * found["image_features"] @ text.T, found["zero_shot_logits"],
          atol=1e-4)
      np.testing.assert_allclose(
          found["zero_shot_text_features"], text, atol=1e-6)
      pairs = [text[i] @ text[j] for i in range(10) for j in range(i)]
      self.assertAlmostEqual(
          float(found["mean_cosine"]), np.mean(pairs), places=5)
      self.assertEqual("view_logits" in found, name in _METHODS)
    np.testing.assert_allclose(
        self.one_device["zero_shot"].logits,
        self.one_device["soc"].evidence["zero_shot_logits"], atol=1e-5)
    views = self.one_device["soc"].evidence["view_logits"]
    self.assertEqual(views.shape, (11, 2, 10))
    np.testing.assert_array_equal(
        self.one_device["zero_shot"].evidence["view_logits"],
        self.one_device["zero_shot"].evidence["zero_shot_view_logits"])

  def test_unknown_evidence(self):
    with self.assertRaisesRegex(ValueError, "'scores' cannot be computed here"):
      self.run_all(evidence=("scores",))


class MemoryTest(_Runs, absltest.TestCase):
  """Devices that have no memory for a batch."""

  def _limited(self, most, message="RESOURCE_EXHAUSTED: Out of memory"):
    """Programs that fail with more images than a device has room for."""
    program = run._program

    def limited(*options):
      inner = program(*options)

      def call(shared, rows):
        if len(rows[0]) > most:
          raise jax.errors.JaxRuntimeError(message)
        return inner(shared, rows)

      return call

    return mock.patch.object(run, "_program", limited)

  @pytest.mark.slow
  def test_goes_on_with_half_of_the_batch(self):
    images, read = watched(self.images)
    with self._limited(4), self.assertLogs(level="WARNING") as logs:
      found = self.run_all(images=images, batch_size=8)
    self.assert_same(found, atol=1e-5)
    self.assertIn("with 8 images at a time; going on with 4", logs.output[-1])
    self.assertCountEqual(set(read), range(11))

  @pytest.mark.slow
  def test_methods_with_a_state_go_on_where_they_were(self):
    expected = run.predict(
        {"tda": cache.Tda()}, self.task, self.images, model=self.model,
        num_views=8, batch_size=11)
    calls = []
    program = run._program

    def failing(*options):
      inner = program(*options)

      def call(shared, rows):
        calls.append(len(rows[0]))
        if len(calls) == 3:
          raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: full")
        return inner(shared, rows)

      return call

    with mock.patch.object(run, "_program", failing):
      found = run.predict(
          {"tda": cache.Tda()}, self.task, self.images, model=self.model,
          num_views=8, batch_size=4, devices=jax.devices()[:1])
    np.testing.assert_allclose(
        found["tda"].logits, expected["tda"].logits, atol=1e-4, rtol=0)
    self.assertEqual(calls[3:], [2] * 6)

  def test_no_memory_for_one_image(self):
    with self._limited(0), self.assertRaisesRegex(
        ValueError, "no memory left with 1 images at a time; lower batch_size"):
      self.run_all(batch_size=2)

  def test_other_errors_are_not_taken_for_it(self):
    with self._limited(2, "INTERNAL: broken"), self.assertRaisesRegex(
        jax.errors.JaxRuntimeError, "broken"):
      self.run_all(batch_size=4)

  def test_steps_are_told_in_images(self):
    steps, batches = [], []
    self.run_all(batch_size=4, on_step=lambda *one: steps.append(one),
                 on_batch=lambda *one: batches.append(one))
    what, done, total = zip(*steps)
    self.assertEqual(what, (
        "encoding the prompts", "compiling the image tower",
        "compiling the predictions", "image tower", "predicting",
        "image tower", "predicting"))
    self.assertEqual(done, (0, 0, 2, 4, 6, 8, 10))
    self.assertEqual(set(total), {11})
    self.assertEqual(batches[-1], (11, 11))


class HeadTest(_SameTestsInPart, absltest.TestCase):
  """Predictions of a posterior beside those of the settings."""

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

  @pytest.mark.slow
  def test_every_method_predicts_in_every_form(self):
    self.assertEqual(list(self.one_device), [
        name + form for name in ("zero_shot", "soc")
        for form in ("", *(f"+{form}" for form in bayesian.FORMS))])
    plain = self.run_all(head=None)
    self.assertEqual(set(plain), {"zero_shot", "soc"})
    self.assert_same(plain, atol=1e-5)
    for form in bayesian.FORMS:
      zero_shot, soc = (self.one_device[f"{name}+{form}"]
                        for name in ("zero_shot", "soc"))
      for one in (zero_shot, soc):
        self.assertTrue(set(bayesian.Uncertainty._fields) <= set(one.info))
        self.assertGreater(one.info["epistemic"].min(), 1e-3)
      # That of the image does not see the context, the prediction does.
      np.testing.assert_array_equal(
          zero_shot.info["image_variance"], soc.info["image_variance"])
      self.assertGreater(np.abs(zero_shot.logits - soc.logits).max(), 1e-2)

  def test_methods_that_it_does_not_go_with(self):
    with mock.patch.object(type(self), "methods", {"tda": cache.Tda()}):
      with self.assertRaisesRegex(
          ValueError, "a posterior goes with .*only tda; add one"):
        self.run_all()

  def test_without_variance_the_predictions_are_the_plain_ones(self):
    predicted = self.run_all(head=self.head(0))
    for name, of in run.output_names(
        _METHODS, with_posterior=True).items():
      np.testing.assert_allclose(
          predicted[name].logits, self.one_device[of.method].logits, atol=1e-4)
      self.assertEqual(
          stages.of_settings(predicted[name].settings, name), of)
      self.assertEqual(
          "logit_scale" in predicted[name].settings, of.posterior is None)
      if of.posterior is not None:
        np.testing.assert_allclose(
            predicted[name].info["epistemic"], 0, atol=1e-5)

  @pytest.mark.slow
  def test_logits_shrink_by_the_formula(self):
    """Full covariance, spelled out for one image and one class."""
    head, plain = self.options["head"], self.one_device["zero_shot"].logits[4]
    top = plain.argmax()
    clean = np.asarray(Image.fromarray(self.images.read(4)).resize(
        (48, 48), Image.Resampling.BICUBIC))
    image = np.float64(self.model.pooled(clean[None]).activations[0])
    text = np.float64(self.task.encode.pooled(self.task.context)[top])
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
    found = self.one_device["zero_shot+full"].logits[4, top]
    np.testing.assert_allclose(found, expected, atol=0.05)
    self.assertGreater(plain[top] - expected, 0.5)


if __name__ == "__main__":
  absltest.main()
