"""Runs of methods that go through the towers: images, stores, interruptions."""

import dataclasses
import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
import pytest

import jaxcal
from jaxcal import memory
from jaxcal import run
from jaxcal import sharding
from jaxcal import tasks
from jaxcal.clip import checkpoint
from jaxcal.clip import last_blocks
from jaxcal.clip import towers
from jaxcal.data import image_set as image_sets
from jaxcal.data import views
from jaxcal.features import encoding
from jaxcal.features import fill
from jaxcal.features import sources
from jaxcal.features import store as stores
from jaxcal.testbed import sets
from jaxcal.testbed import shipped
from tests.clip import tiny

# Whole commands, trainings or towers.
pytestmark = pytest.mark.slow

_METHODS = {
    "r_tpt": jaxcal.RTpt(selection_fraction=0.25, num_neighbours=3),
    "rlcf": jaxcal.Rlcf(selection_fraction=0.25, num_steps=2),
    "dynaprompt": jaxcal.DynaPrompt(selection_fraction=0.25, num_prompts=3),
    "ttl": jaxcal.Ttl(rank=4)}
_RECIPE = views.Recipe(size=48, resize=48, num_views=8)


class _Interrupted(Exception):
  """Stands for whatever ends a run half way."""


def _stop(done, total):
  del total
  if done >= 4:
    raise _Interrupted


class RunTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.model = checkpoint.load(shipped.folder())
    cls.images = image_sets.limit(sets.load("digits"), 6)
    cls.task = tasks.unencoded_task(cls.model, cls.images.class_names)
    cls.whole = cls._run()

  @classmethod
  def _run(cls, methods=None, source=None, num_devices=1, max_bytes=2**30,
           **options):
    if source is None:
      source = sources.from_images(
          cls.model, cls.images, recipe=_RECIPE, max_bytes=max_bytes)
    return dict(run.iterate(
        methods or _METHODS, cls.task, source,
        devices=jax.devices()[:num_devices], **{"batch_size": 2} | options))

  def _assert_whole(self, found, atol=0.0):
    for name, one in found.items():
      np.testing.assert_allclose(
          one.logits, self.whole[name].logits, atol=atol, err_msg=name)

  def _store(self):
    folder = pathlib.Path(self.create_tempdir().full_path, "store")
    fill.fill(self.model, self.images, folder, recipe=_RECIPE, seed=0,
              dtype="float32")
    return sources.from_store(stores.open_store(folder))

  def test_they_differ(self):
    logits = [one.logits for one in self.whole.values()]
    for i, one in enumerate(logits):
      for other in logits[:i]:
        self.assertGreater(np.abs(one - other).max(), 0.05)

  def test_ttl_is_what_it_is_from_the_pixels_of_each_view(self):
    config, params = self.model.config, self.model.params
    blocks = last_blocks.of(config, params, 3)
    source = sources.from_images(self.model, self.images, recipe=_RECIPE)
    batch = next(source.deeper(3).source.batches(
        [np.arange(6)], sharding.data_mesh(jax.devices()[:1]), 6, None))
    self.assertEqual(batch.states.shape, (6, 8, 17, 128))
    self.assertEqual(source.deeper(3).states.shape, (8, 17, 128))
    np.testing.assert_allclose(
        jax.jit(jax.vmap(blocks.__call__))(batch.states), batch.view_features,
        atol=2e-6)
    pixels = jax.jit(views.make_views, static_argnums=3)(
        views.on_canvas(self.images.read(2), views.canvas_shape(
            *self.images.read(2).shape[:2])),
        np.array(self.images.read(2).shape[:2], np.int32),
        views.image_key(0, self.images.ids[2]), _RECIPE)
    _, _, states = encoding.encode_views(
        config, self.model.preprocess, params, pixels, 1)
    np.testing.assert_allclose(batch.states[2], states, atol=1e-4)

  def test_company_batches_and_devices_do_not_matter(self):
    for name, method in _METHODS.items():
      self._assert_whole(self._run({name: method}, batch_size=3), atol=1e-3)
    self._assert_whole(self._run(num_devices=2), atol=1e-3)

  def test_interrupted_run_goes_on_with_the_same_bits(self):
    for every in (0, 3600):  # seconds between two saves of states
      with self.subTest(every), mock.patch.object(run, "_SAVE_SECONDS", every):
        parts = pathlib.Path(self.create_tempdir().full_path, "parts")
        with self.assertRaises(_Interrupted):
          self._run(parts=parts, on_batch=_stop)
        self._assert_whole(self._run(parts=parts))

  def test_the_budget_bounds_images_and_views(self):
    seen = []
    of = sources.from_images

    def watched(*args, **options):
      source = of(*args, **options)

      def deeper(number):
        found = source.deeper(number)
        seen.append((found.most_images, found.blocks.views_at_once))
        return found

      return source._replace(deeper=deeper)

    of_image = 4 * 8 * 17 * 128 * 4
    for max_bytes, most in ((2 * of_image, 1), (40 * of_image, 20), (1, 1)):
      source = watched(self.model, self.images, recipe=_RECIPE,
                       max_bytes=max_bytes)
      with self.subTest(max_bytes):
        self._assert_whole(
            self._run({"ttl": _METHODS["ttl"]}, source=source), atol=1e-3)
        self.assertEqual(seen[-1][0], most)
    self.assertEqual(seen[-1], (1, 1))
    self.assertGreater(seen[1][1], seen[0][1])

  def test_gradients_hold_what_was_counted(self):
    """The compiler's count, against ours by the number of views."""
    states = encoding.states_of_image(self.model, 1, 64)
    of_view = encoding.bytes_per_gradient(self.model, 3, states)
    task = tasks.encoded(self.task)._replace(encode=None, context=None)
    for at_once in (4, 16):
      blocks = last_blocks.of(self.model.config, self.model.params, 3,
                              views_at_once=at_once)
      compiled = jax.jit(_METHODS["ttl"].method().step).lower(
          task._replace(image_blocks=blocks), (), jaxcal.adapt.base.Seen(
              jax.ShapeDtypeStruct((64, 128), np.float32), states)).compile()
      self.assertLess(compiled.memory_analysis().temp_size_in_bytes,
                      1.5 * at_once * of_view + 6 * states.size * 4)

  def test_a_store_has_the_features_of_all_but_ttl(self):
    source = self._store()
    methods = {name: one for name, one in _METHODS.items() if name != "ttl"}
    self._assert_whole(self._run(methods, source=source), atol=1e-4)
    with self.assertRaisesRegex(
        ValueError, "ttl: adapts the image tower, so it needs the images"):
      self._run(source=source)

  def test_features_in_arrays_or_behind_an_adapter_are_not_enough(self):
    features = np.eye(6, 128, dtype=np.float32)
    with self.assertRaisesRegex(ValueError, "ttl: adapts the image tower"):
      jaxcal.predict({"ttl": jaxcal.Ttl()}, self.task, features)
    behind = sources.mapped(
        sources.from_images(self.model, self.images, recipe=_RECIPE),
        lambda x: x)
    with self.assertRaisesRegex(ValueError, "or behind an adapter"):
      self._run(source=behind)

  def test_towers_without_such_blocks(self):
    with self.assertRaisesRegex(ValueError, r"ttl: num_blocks .* \[1, 4\]"):
      self._run({"ttl": jaxcal.Ttl(num_blocks=5)})
    model = checkpoint.load(tiny.write_resnet(self.create_tempdir().full_path))
    with self.assertRaisesRegex(ValueError, "ttl: .* is a residual network"):
      jaxcal.predict({"ttl": jaxcal.Ttl()}, self.task, self.images, model=model)

  @parameterized.parameters("r_tpt", "rlcf", "dynaprompt")
  def test_no_encoder(self, name):
    task = jaxcal.Task(np.eye(5, 8, dtype=np.float32), 10.0)
    features = np.tile(np.eye(6, 8, dtype=np.float32)[:, None], (1, 8, 1))
    with self.assertRaisesRegex(
        ValueError, f"{name}: .* tunes a prompt, but the task has text feat"):
      jaxcal.predict({name: _METHODS[name]}, task, features)

  def test_too_few_classes_or_views(self):
    source = sources.from_images(
        self.model, self.images, recipe=dataclasses.replace(
            _RECIPE, num_views=3))
    with self.assertRaisesRegex(
        ValueError, "r_tpt: num_neighbours is 3, but of 3 views"):
      self._run({"r_tpt": dataclasses.replace(
          _METHODS["r_tpt"], selection_fraction=0.5)}, source=source)
    with self.assertRaisesRegex(
        ValueError, "rlcf: num_sampled must lie between 2 and .* 10, got 11"):
      self._run({"rlcf": dataclasses.replace(_METHODS["rlcf"],
                                             num_sampled=11)})

  def test_a_posterior_sees_the_clean_view_alone(self):
    with self.assertRaisesRegex(
        ValueError, "r_tpt predicts an image by all of its views, but a post"):
      run.output_names(_METHODS, with_posterior=True)
    others = {name: one for name, one in _METHODS.items() if name != "r_tpt"}
    self.assertIn("rlcf+diagonal", run.output_names(
        others, with_posterior=True))


class StepsTest(absltest.TestCase):
  """States from the image tower in steps are those from all views at once."""

  def test_steps_change_nothing(self):
    model = checkpoint.load(shipped.folder())
    images = image_sets.limit(sets.load("digits"), 4)
    batches = lambda **options: next(sources.from_images(
        model, images, recipe=_RECIPE, **options).deeper(2).source.batches(
            [np.arange(4)], sharding.data_mesh(jax.devices()[:2]), 2, None))
    whole = batches(max_bytes=memory.GIGABYTE)
    parts = batches(max_bytes=7 * encoding.bytes_per_view(model))
    np.testing.assert_allclose(whole.states, parts.states, atol=1e-5)
    self.assertEqual(whole.states.sharding, whole.view_features.sharding)
    self.assertIsInstance(model.config.vision, towers.TowerConfig)


if __name__ == "__main__":
  absltest.main()
