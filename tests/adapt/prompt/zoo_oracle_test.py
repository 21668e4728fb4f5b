"""Methods that tune prompts against the released benchmark, in float64.

Every image of a tiny random CLIP: losses, tuned contexts and outputs.
"""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
import pytest

from jaxcal.adapt import base
from jaxcal.adapt import run
from jaxcal.adapt.prompt import dynamic
from jaxcal.adapt.prompt import engine
from jaxcal.adapt.prompt import family
from jaxcal.adapt.prompt import methods
from jaxcal.adapt.prompt import reliability
from jaxcal.adapt.prompt import rewards
from jaxcal.losses import entropy
from jaxcal.losses import rewards as reward_losses
from tests import quick
from tests import shared
from tests.adapt.prompt import tower

_METHODS = {
    "tpt_check": methods.Tpt(selection_fraction=0.25),
    "rlcf": rewards.Rlcf(selection_fraction=0.25),
    "rtpt_k5": reliability.RTpt(selection_fraction=0.25, num_neighbours=5),
}
_prepare = quick.jit(engine.prepare, static_argnames="linearisation")
_adapted = quick.jit(jax.vmap(family.adapt, (None, 0)))
_step = quick.jit(lambda method, task, state, views: method.step(
    task, state, views))


@functools.cache
def _zoo():
  with np.load(shared.path("oracles/zoo") / "zoo_oracle.npz",
               allow_pickle=False) as zoo:
    return dict(zoo)


@functools.cache
def _task(k):
  stored = lambda name: tower.oracle()[f"K{k}/{name}/f64"]
  return base.Task(*jax.device_put((
      stored("text_features0"), stored("logit_scale_exp"), tower.encoder(k),
      stored("ctx0"))))


@functools.cache
def _shared(k, linearisation="vjp"):
  task = _task(k)
  prepared = _prepare(
      task.encode, task.context, task.logit_scale, linearisation=linearisation)
  return family.share(task.encode, prepared, _METHODS)


class ZooOracleTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    tower.oracle()  # is there at all
    self.enterContext(jax.enable_x64(True))

  def _assert_stored(self, found, name, atol=1e-7):
    np.testing.assert_allclose(
        found, _zoo()[f"tower/{name}"], atol=atol, rtol=0, err_msg=name)

  @parameterized.parameters((5, "vjp"), (12, "jacobian"))
  def test_as_one_family(self, k, linearisation):
    found = _adapted(_shared(k, linearisation), tower.views(k))
    for name, adapted in found.items():
      self._assert_stored(adapted.logits, f"K{k}/{name}/output", 1e-8)
      self._assert_stored(adapted.context, f"K{k}/{name}/ctx", 1e-9)

  # The next two come to the numbers of the family by other programs.

  @pytest.mark.slow
  def test_one_method_alone(self, k=5):
    for name in ("rlcf", "rtpt_k5"):
      output = quick.jit(run.episodic)(
          _METHODS[name].method(), _task(k), tower.views(k))
      self._assert_stored(output.scores, f"K{k}/{name}/output")

  @pytest.mark.slow
  def test_a_reward_model_that_is_the_model_itself(self, k=5):
    shared_ = _shared(k)
    text_features = shared_.prepared.text_features
    adapt = quick.jit(jax.vmap(lambda shared, views: rewards.adapt(
        _METHODS["rlcf"], shared.encode, shared.prepared, views,
        rewards.RewardModel(text_features, views)), (None, 0)))
    adapted = adapt(shared_, tower.views(k))
    self._assert_stored(adapted.logits, f"K{k}/rlcf/output")
    self._assert_stored(adapted.context, f"K{k}/rlcf/ctx")

  @parameterized.parameters(5, 12)
  def test_losses_at_the_initial_context(self, k):
    task = _task(k)

    @quick.jit
    @jax.vmap
    def losses(views):
      logits = base.logits(task, views)
      kept = entropy.confident_views(logits, 0.25)
      return {"rlcf": reward_losses.reward_weighted_likelihood(
          logits, views @ task.text_features.T, where=kept),
              "rtpt_k5": entropy.mean_entropy(logits, where=kept)}

    for name, values in losses(tower.views(k)).items():
      np.testing.assert_allclose(
          values, _zoo()[f"tower/K{k}/{name}/loss"][:, 0], atol=1e-9)

  @parameterized.product(
      k=(5, 12), name=("dynaprompt", "dynaprompt_reset"))
  def test_dynaprompt(self, k, name):
    stored = lambda key: _zoo()[f"tower/K{k}/{name}/{key}"]
    numbers = dynamic.DynaPrompt(
        learning_rate=3e-3, num_prompts=4, selection_fraction=0.25,
        reset_optimiser=name.endswith("reset"))
    method, task = numbers.method(), _task(k)
    state = quick.jit(dynamic.state_at)(numbers, task, stored("init_offsets"))
    images = tower.views(k)
    for number in range(9):
      state, output = _step(method, task, state, images[number % 3])
      np.testing.assert_allclose(
          output.scores, stored("output")[number], atol=1e-7, rtol=0)
      np.testing.assert_allclose(
          state.offsets, stored("ctx_offsets")[number], atol=1e-7, rtol=0)
      np.testing.assert_array_equal(state.queue, stored("order")[number])
      np.testing.assert_array_equal(state.uses, stored("use")[number])
      np.testing.assert_allclose(
          output.info["entropy_before"], stored("loss")[number], atol=1e-7)


if __name__ == "__main__":
  absltest.main()
