"""Counted bytes against the compiler's own count and against sums by hand."""

import dataclasses
import functools
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp

from benchmarks import sizes
from jaxcal import memory
from jaxcal.clip import towers


def _shape(*shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


class LiveBytesTest(parameterized.TestCase):

  @parameterized.parameters(
      # x + 1 lies there while its product with 2 is made; then x + 2, too.
      (lambda x: (x + 1) * 2, 2),
      (lambda x: (x + 1) * (x + 2), 3),
      # Each result takes the place of the one before the last.
      (lambda x: jnp.exp(jnp.sin(jnp.cos(x))), 2),
      # What nobody needs again is dropped.
      (lambda x: (jnp.cos(x).sum(), jnp.sin(x))[1], 2),
  )
  def test_arrays_at_a_time(self, function, expected):
    found = memory.live_bytes(function, _shape(1000))
    self.assertBetween(found, 4000 * (expected - 1), 4000 * expected + 8)

  def test_a_loop_needs_one_step_and_what_it_leaves(self):
    def loop(x):
      return jax.lax.map(lambda row: jnp.outer(row, row).sum(0), x)

    step = 4 * 100 * 100
    of_ten = memory.live_bytes(loop, _shape(10, 100))
    of_thousand = memory.live_bytes(loop, _shape(1000, 100))
    self.assertBetween(of_ten, step, 4 * step)
    self.assertEqual(of_thousand - of_ten, 990 * 4 * 100)

  @parameterized.parameters(
      ("ViT-B/16", jnp.float32), ("ViT-B/16", jnp.bfloat16),
      ("ViT-L/14", jnp.float32))
  def test_towers_against_the_compiler(self, name, dtype):
    config = sizes.MODELS[name]
    config = dataclasses.replace(
        config, vision=dataclasses.replace(config.vision, layers=2))
    params = jax.eval_shape(lambda: sizes.image_params(config, dtype))
    pixels = _shape(64, 224, 224, 3, dtype=dtype)
    tower = functools.partial(towers.image_features, config)
    compiled = jax.jit(tower).lower(params, pixels).compile()
    allocated = compiled.memory_analysis().temp_size_in_bytes
    counted = memory.live_bytes(tower, params, pixels)
    # Never far below what it takes, and not so high that steps are idle.
    self.assertBetween(counted / allocated, 0.9, 2)


class BudgetTest(absltest.TestCase):

  def _budget(self, gigabytes, stats):
    devices = [mock.Mock(memory_stats=mock.Mock(return_value=one))
               for one in stats]
    with mock.patch.object(jax, "local_devices", return_value=devices):
      return memory.budget(gigabytes)

  def test_devices_that_do_not_tell(self):
    for stats in (None, {}):
      self.assertEqual(self._budget(None, [stats]), 4 * 2**30)
      self.assertEqual(self._budget(1.5, [stats]), 1.5 * 2**30)

  def test_the_smallest_device_counts_however_full(self):
    stats = [{"bytes_limit": 16 * 2**30, "bytes_in_use": 2**30},
             {"bytes_limit": 12 * 2**30, "bytes_in_use": 4 * 2**30}]
    self.assertEqual(self._budget(None, stats), 9 * 2**30)
    self.assertEqual(self._budget(3, stats), 3 * 2**30)
    self.assertEqual(self._budget(100, stats), 12 * 2**30)

  def test_shares_leave_room_for_the_rest(self):
    self.assertLessEqual(sum(memory.shares(800)), 700)

  def test_which_errors_say_that_memory_is_full(self):
    full = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
    self.assertTrue(memory.is_exhausted(full))
    for other in (jax.errors.JaxRuntimeError("INTERNAL: broken"),
                  ValueError("RESOURCE_EXHAUSTED")):
      self.assertFalse(memory.is_exhausted(other))


if __name__ == "__main__":
  absltest.main()
