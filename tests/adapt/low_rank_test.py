"""TTL: against the released benchmark in float64, and against itself."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.adapt import base
from jaxcal.adapt import low_rank
from jaxcal.clip import checkpoint
from jaxcal.clip import last_blocks
from jaxcal.clip import towers
from tests import quick
from tests import shared

# Both blocks of the tiny tower.
_NUMBERS = low_rank.Ttl(rank=4, alpha=8.0, num_blocks=2)

_states = jax.jit(jax.vmap(
    lambda config, params, pixels: towers.image_states(
        config, params, pixels, 0), (None, None, 0)))
_tuned = quick.jit(jax.vmap(low_rank.tuned, (None, None, 0, None)))


class TtlTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    folder = shared.folder("oracles/tpt")
    self.oracle = np.load(folder / "tpt_oracle.npz", allow_pickle=False)
    self.zoo = np.load(shared.folder("oracles/zoo") / "zoo_oracle.npz",
                       allow_pickle=False)
    model = checkpoint.load(folder / "hf_clip_tiny")
    self.config = model.config
    self.enterContext(jax.enable_x64(True))
    self.params = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float64), model.params)

  def _task(self, k=5, **more):
    return base.Task(
        jnp.asarray(self.oracle[f"K{k}/text_features0/f64"]),
        jnp.asarray(self.oracle[f"K{k}/logit_scale_exp/f64"]),
        image_blocks=last_blocks.of(self.config, self.params, 2, **more))

  def _states(self, k=5):
    pixels = self.oracle[f"K{k}/pixels"].transpose(0, 1, 3, 4, 2)
    return _states(
        self.config, self.params, jnp.asarray(pixels, jnp.float64))[1]

  def _change(self, k, which, image=slice(None)):
    """Stored factors, as they are in the order of the blocks."""
    at = lambda letter, block, name: jnp.asarray(self.zoo[
        f"tower/K{k}/ttl/{letter}/transformer.resblocks.{block}.attn.{name}"])
    return tuple({
        name: low_rank.Factors(
            at(f"A{which}", block, name),
            at(f"B{which}", block, name) if which else jnp.zeros((4, 48)))
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
    for image in range(3):
      blocks = low_rank.changed(
          task.image_blocks, jax.tree.map(lambda x, i=image: x[i], change), 2.0)
      np.testing.assert_allclose(
          base.logits(task, blocks(states[image, :1])[0]),
          stored("output")[image], atol=1e-8, rtol=0)


if __name__ == "__main__":
  absltest.main()
