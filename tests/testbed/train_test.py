"""Training: determinism, resuming, the loss and what a run leaves behind."""

import functools
import pathlib
import tempfile

from absl.testing import absltest
import jax
import numpy as np
from PIL import Image
import pytest

from jaxcal.clip import preprocess
from jaxcal.clip import towers
from jaxcal.testbed import captions
from jaxcal.testbed import scenes
from jaxcal.testbed import train

_TOWER = towers.TowerConfig(width=16, layers=1, heads=2, mlp_width=32)
_TINY = towers.ClipConfig(
    text=_TOWER, vision=_TOWER, vocab_size=train.MODEL.vocab_size,
    context_length=train.MODEL.context_length,
    eos_token_id=train.MODEL.eos_token_id, image_size=16, patch_size=8,
    projection=16)

# One length for all tests: each other one would be compiled anew.
_STEPS = 40


@functools.cache
def _pool():
  return train.draw_pool(32, seed=5, workers=1)


def _fit(state):
  """The state after all steps, and the losses of those that were left."""
  losses = []
  state = train.fit(
      _TINY, state, _pool(), steps=_STEPS, batch_size=8, seed=5,
      on_step=lambda _, loss: losses.append(np.asarray(loss)))
  return state, np.array(losses)


@functools.cache
def _whole():
  """A run that nothing interrupts: its end, losses and state halfway."""
  losses, halfway = [], []

  def on_step(state, loss):
    losses.append(np.asarray(loss))
    if int(state.step) == _STEPS // 2:
      halfway.append(jax.tree.map(np.asarray, state))

  state = train.fit(
      _TINY, train.init(_TINY, 5), _pool(), steps=_STEPS, batch_size=8,
      seed=5, on_step=on_step)
  return state, np.array(losses), *halfway


class TrainTest(absltest.TestCase):

  def assertSameTree(self, one, two):
    jax.tree.map(np.testing.assert_array_equal, one, two)

  @pytest.mark.slow
  def test_two_runs_are_equal(self):
    one, losses, _ = _whole()
    two, _ = _fit(train.init(_TINY, 5))
    self.assertSameTree(one, two)
    self.assertEqual(int(one.step), _STEPS)
    self.assertTrue(np.isfinite(losses).all())

  def test_another_seed_differs(self):
    one = train.draw_batch(_pool(), 8, seed=5, step=0)
    two = train.draw_batch(_pool(), 8, seed=6, step=0)
    three = train.draw_batch(_pool(), 8, seed=5, step=1)
    self.assertFalse(np.array_equal(one.token_ids, two.token_ids))
    self.assertFalse(np.array_equal(one.token_ids, three.token_ids))

  @pytest.mark.slow
  def test_resumed_run_equals_an_uninterrupted_one(self):
    expected, _, halfway = _whole()
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder) / "checkpoint.msgpack"
      train.save_checkpoint(halfway, path)
      resumed = train.load_checkpoint(_TINY, 5, path)
    self.assertEqual(int(resumed.step), _STEPS // 2)
    resumed, losses = _fit(resumed)
    self.assertLen(losses, _STEPS // 2)
    self.assertSameTree(resumed, expected)

  def test_no_checkpoint(self):
    with self.assertRaises(FileNotFoundError):
      train.load_checkpoint(_TINY, 5, pathlib.Path("/nowhere/at.all"))

  @pytest.mark.slow
  def test_training_lowers_the_loss(self):
    _, losses, _ = _whole()
    self.assertLess(losses[-5:, 0].mean(), losses[:5, 0].mean() - .1)
    self.assertLess(losses[-5:, 1].mean(), losses[:5, 1].mean() - .1)

  def test_pool_does_not_depend_on_its_workers(self):
    # The scenes follow from the seed and the place alone.
    pool = _pool()
    for index in (0, 7, 8, 31):
      scene = train.training_scene(5, index)
      np.testing.assert_array_equal(pool.images[index], scenes.render(scene))
      np.testing.assert_array_equal(
          pool.values[index], captions.attributes(scene))

  def test_held_out_pairs_are_never_trained_on(self):
    shapes = len(scenes.SHAPES)
    seen = set()
    for index in range(3000):
      scene = train.training_scene(0, index)
      if scene.subject < shapes:
        seen.add((scenes.COLOURS[scene.colour],
                  scenes.SHAPES[scene.subject]))
      seen |= {(scenes.COLOURS[d.colour], scenes.SHAPES[d.shape])
               for d in scene.distractors}
    self.assertEmpty(seen & scenes.HELD_OUT)

  def test_true_captions_are_no_negatives(self):
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((5, 5)).astype(np.float32)
    matches = np.eye(5, dtype=bool)
    matches[1, 3] = matches[4, 0] = True
    expected = 0.
    for i in range(5):
      row = [logits[i, j] for j in range(5) if i == j or not matches[i, j]]
      column = [logits[j, i] for j in range(5) if i == j or not matches[j, i]]
      expected += np.log(np.exp(row).sum()) + np.log(np.exp(column).sum())
      expected -= 2 * logits[i, i]
    np.testing.assert_allclose(
        jax.jit(train._contrastive_loss)(logits, matches), expected / 10,
        rtol=1e-6)

  @pytest.mark.slow
  def test_best_scale_is_the_one_that_drew_the_labels(self):
    rng = np.random.default_rng(0)
    parts = []
    for classes, images in ((4, 6000), (10, 4000)):
      cosines = rng.uniform(-1, 1, (images, classes)).astype(np.float32)
      # Gumbel noise on logits draws from their softmax.
      noisy = 12 * cosines + rng.gumbel(size=cosines.shape)
      parts.append((cosines, noisy.argmax(axis=1)))
    self.assertAlmostEqual(train.best_scale(parts), 12, delta=.5)

  @pytest.mark.slow
  def test_whole_windows_resize_as_pillow_does(self):
    image = _pool().images[0]
    window = np.float32([[0, 0, 64, 64]])
    ours = train._pixels(train.MODEL, image[None], window)[0]
    side = train.MODEL.image_size
    for channel in range(3):
      # Pillow's images of floats are not rounded between its two passes.
      unit = Image.fromarray(image[..., channel].astype(np.float32) / 255)
      resized = np.asarray(unit.resize(
          (side, side), Image.Resampling.BICUBIC)).clip(0, 1)
      theirs = ((resized - preprocess.CLIP_MEAN[channel])
                / preprocess.CLIP_STD[channel])
      np.testing.assert_allclose(ours[..., channel], theirs, atol=1e-5)


if __name__ == "__main__":
  absltest.main()
