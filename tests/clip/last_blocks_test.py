"""The last blocks, from what enters them, against the whole image tower."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcal.clip import checkpoint
from jaxcal.clip import last_blocks
from jaxcal.clip import towers
from jaxcal.testbed import shipped
from tests import quick
from tests.clip import tiny


class LastBlocksTest(parameterized.TestCase):

  def _assert_the_tower(self, model, number):
    config, params = model.config, model.params
    side = config.image_size
    pixels = np.random.default_rng(0).standard_normal(
        (3, side, side, 3), np.float32)
    pooled, states = towers.image_states(
        config, params, pixels, config.vision.layers - number)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5),
        pooled, towers.pooled_image(config, params, pixels))
    self.assertEqual(states.shape[::2], (3, config.vision.width))
    blocks = last_blocks.of(config, params, number)
    self.assertLen(blocks.blocks, number)
    np.testing.assert_allclose(
        blocks(states),
        towers.image_features(config, params, pixels), atol=2e-6)

  @parameterized.parameters(1, 3, 4)
  def test_clip(self, number):
    self._assert_the_tower(checkpoint.load(shipped.folder()), number)

  @parameterized.parameters(1, 2)
  def test_siglip(self, number):
    folder = tiny.write_siglip(self.create_tempdir().full_path)
    self._assert_the_tower(checkpoint.load(folder), number)

  @pytest.mark.slow
  def test_gradients_by_every_parameter_are_those_of_the_tower(self):
    model = checkpoint.load(shipped.folder())
    config, params = model.config, dict(model.params)
    pixels = np.random.default_rng(1).standard_normal(
        (2, 48, 48, 3), np.float32)
    direction = np.arange(2.0 * config.projection).reshape(2, -1) % 7

    def whole(vision):
      return jnp.sum(direction * towers.image_features(
          config, {**params, "vision_model": vision}, pixels))

    _, states = towers.image_states(config, params, pixels, 3)
    ours = quick.jit(jax.grad(
        lambda blocks: jnp.sum(direction * blocks(states))))(
            last_blocks.of(config, params, 1))
    theirs = quick.jit(jax.grad(whole))(params["vision_model"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4),
        dict(ours.blocks[0]), theirs["encoder"]["layers"]["3"])

  def test_the_precision_is_that_of_the_tower(self):
    model = checkpoint.in_precision(
        checkpoint.load(shipped.folder()), image="bfloat16", text="highest")
    pixels = np.zeros((1, 48, 48, 3), jnp.bfloat16)
    _, states = towers.image_states(model.config, model.params, pixels, 2)
    self.assertEqual(states.dtype, jnp.bfloat16)
    blocks = last_blocks.of(model.config, model.params, 2)
    self.assertEqual(blocks(states).dtype, jnp.float32)

  @parameterized.parameters(0, 5)
  def test_blocks_that_there_are_not(self, number):
    model = checkpoint.load(shipped.folder())
    with self.assertRaisesRegex(
        ValueError, r"num_blocks must lie in \[1, 4\], .* got"):
      last_blocks.of(model.config, model.params, number)

  def test_residual_networks_have_none(self):
    model = checkpoint.load(tiny.write_resnet(self.create_tempdir().full_path))
    with self.assertRaisesRegex(
        ValueError, "tower of this model is a residual network; leave the met"):
      last_blocks.of(model.config, model.params, 1)


if __name__ == "__main__":
  absltest.main()
