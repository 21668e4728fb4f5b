"""TTL: against the released benchmark in float64, and against itself."""

import dataclasses
import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
import pytest

from jaxcal.adapt import base
from jaxcal.adapt import low_rank
from jaxcal.adapt import run
from jaxcal.clip import last_blocks
from jaxcal.clip import towers
from tests import error_bars
from tests import quick
from tests import shared
from tests.adapt import small_tower
from tests.adapt.prompt import tower

# Both blocks of the tiny tower.
_NUMBERS = low_rank.Ttl(rank=4, alpha=8.0, num_blocks=2)

_states = jax.jit(jax.vmap(
    lambda config, params, pixels: towers.image_states(
        config, params, pixels, 0), (None, None, 0)))
_tuned = quick.jit(jax.vmap(low_rank.tuned, (None, None, 0, None)))


@quick.jit
@functools.partial(jax.vmap, in_axes=(None, 0, 0))
def _clean_logits(task, states, change):
  """Of the clean view, by the changed tower."""
  blocks = low_rank.changed(task.image_blocks, change, 2.0)
  return base.logits(task, blocks(states[:1])[0])


@functools.cache
def _zoo():
  with np.load(shared.path("oracles/zoo") / "zoo_oracle.npz",
               allow_pickle=False) as zoo:
    return dict(zoo)


class OracleTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.oracle, self.zoo = tower.oracle(), _zoo()
    self.enterContext(jax.enable_x64(True))
    self.config, self.params = tower.model()

  def _task(self, k=5, **more):
    return base.Task(
        *jax.device_put((self.oracle[f"K{k}/text_features0/f64"],
                         self.oracle[f"K{k}/logit_scale_exp/f64"])),
        image_blocks=last_blocks.of(self.config, self.params, 2, **more))

  def _states(self, k=5):
    pixels = self.oracle[f"K{k}/pixels"].transpose(0, 1, 3, 4, 2)
    return _states(
        self.config, self.params, np.float64(pixels))[1]

  def _change(self, k, which):
    """Stored factors, as they are in the order of the blocks."""
    at = lambda letter, block, name: self.zoo[
        f"tower/K{k}/ttl/{letter}/transformer.resblocks.{block}.attn.{name}"]
    return tuple({
        name: low_rank.Factors(
            at(f"A{which}", block, name),
            at(f"B{which}", block, name) if which else np.zeros((4, 48)))
        for name in ("q_proj", "v_proj")} for block in (0, 1))

  @parameterized.product(k=(5, 12), views_at_once=(None, 5))
  def test_oracle(self, k, views_at_once):
    task = self._task(k, views_at_once=views_at_once)
    states = self._states(k)
    change, loss = _tuned(_NUMBERS, task, states, self._change(k, 0))
    stored = lambda key: self.zoo[f"tower/K{k}/ttl/{key}"]
    np.testing.assert_allclose(loss[:, None], stored("loss"), atol=1e-9)
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(
            ours, theirs, atol=1e-9, rtol=0), change, self._change(k, 1))
    np.testing.assert_allclose(
        _clean_logits(task, states, change), stored("output"), atol=1e-8,
        rtol=0)


class TtlTest(parameterized.TestCase):
  """On random states of a small tower, float32."""

  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    self.blocks = small_tower.blocks(8)
    views = np.float32(unit(rng.standard_normal((4, 7, 8))))
    self.seen = small_tower.seen(low_rank.Ttl(), views)
    self.task = base.Task(
        *jax.device_put((np.float32(unit(rng.standard_normal((5, 8)))),
                         np.float32(20.0))), image_blocks=self.blocks)

  def _logits(self, numbers, seen=None, **more):
    blocks = dataclasses.replace(self.blocks, **more)
    return np.asarray(jax.jit(run.episodic)(
        numbers.method(), self.task._replace(image_blocks=blocks),
        self.seen if seen is None else seen).scores)

  def _plain(self):
    features = jax.vmap(self.blocks)(self.seen.states[:, :1])[:, 0]
    return base.logits(self.task, features)

  @pytest.mark.slow
  def test_without_a_step_it_is_the_tower(self):
    for changed in (dict(num_steps=0), dict(learning_rate=0.0),
                    dict(alpha=0.0)):
      np.testing.assert_allclose(
          self._logits(low_rank.Ttl(**changed)), self._plain(), atol=2e-5)
    self.assertGreater(
        np.abs(self._logits(low_rank.Ttl()) - self._plain()).max(), 0.1)

  @parameterized.parameters(1, 2, 3, 7, 100)
  @pytest.mark.slow
  def test_views_at_once_change_nothing(self, views_at_once):
    np.testing.assert_allclose(
        self._logits(low_rank.Ttl(num_steps=2), views_at_once=views_at_once),
        self._logits(low_rank.Ttl(num_steps=2)), atol=2e-3)

  @pytest.mark.slow
  def test_images_are_adapted_one_by_one(self):
    together = self._logits(low_rank.Ttl())
    for image in range(4):
      alone = self._logits(low_rank.Ttl(), jax.tree.map(
          lambda x, i=image: x[i:i + 1], self.seen))
      np.testing.assert_allclose(alone[0], together[image], atol=1e-4)

  @pytest.mark.slow
  def test_blocks_before_those_that_are_changed_stay(self):
    """Where another method of the run adapts more blocks."""
    states = self.seen.states
    enters = towers.Block(self.blocks.config.vision)
    later = jax.vmap(lambda x: enters.apply(
        {"params": self.blocks.blocks[0]}, x))(states)
    few = low_rank.Ttl(num_blocks=2)
    np.testing.assert_allclose(
        self._logits(few), self._logits(
            few, self.seen._replace(states=later),
            blocks=self.blocks.blocks[1:]), atol=2e-4)

  @pytest.mark.slow
  def test_the_seed_decides(self):
    one, again, other = (
        self._logits(low_rank.Ttl(seed=seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, again)
    self.assertGreater(np.abs(one - other).max(), 1e-2)

  def test_factors_are_drawn_as_xavier_says(self):
    wide = dataclasses.replace(self.blocks, blocks=self.blocks.blocks * 20)
    change = low_rank.initial(jax.random.key(0), wide, 4)
    self.assertLen(change, 60)
    for name in ("q_proj", "v_proj"):
      down = np.stack([one[name].down for one in change])
      self.assertEqual(down.shape[1:], (12, 4))
      error_bars.assert_normal(down, np.sqrt(2 / 16))
      self.assertFalse(np.any([one[name].up for one in change]))
    with jax.enable_x64(True):
      np.testing.assert_array_equal(
          change[0]["q_proj"].down,
          low_rank.initial(jax.random.key(0), wide, 4)[0]["q_proj"].down)

  @pytest.mark.slow
  def test_views_at_once_bound_the_memory(self):
    """Not the number of images, and less with fewer views at a time."""
    blocks = small_tower.blocks(8)
    held = {}
    for images, at_once in ((2, 4), (8, 4), (2, 64)):
      task = self.task._replace(image_blocks=dataclasses.replace(
          blocks, views_at_once=at_once))
      seen = base.Seen(jax.ShapeDtypeStruct((images, 64, 8), np.float32),
                       jax.ShapeDtypeStruct((images, 64, 5, 12), np.float32))
      held[images, at_once] = jax.jit(run.episodic).lower(
          low_rank.Ttl().method(), task, seen).compile(
              ).memory_analysis().temp_size_in_bytes
    of_states = 64 * 5 * 12 * 4
    self.assertLess(held[8, 4] - held[2, 4], 4 * 6 * of_states)
    self.assertLess(2 * held[2, 4], held[2, 64])

  @parameterized.parameters(
      (dict(rank=0), "rank must be an integer of at least 1"),
      (dict(num_blocks=0), "num_blocks must be an integer of at least 1"),
      (dict(num_steps=-1), "num_steps must be an integer of at least 0"))
  def test_numbers_that_are_none(self, numbers, message):
    with self.assertRaisesRegex(ValueError, message):
      low_rank.Ttl(**numbers).method()

  def test_a_task_without_a_tower(self):
    self.task = self.task._replace(image_blocks=None)
    with self.assertRaisesRegex(ValueError, "the task has none; jaxcal.predi"):
      run.episodic(low_rank.Ttl().method(), self.task, self.seen)


if __name__ == "__main__":
  absltest.main()
