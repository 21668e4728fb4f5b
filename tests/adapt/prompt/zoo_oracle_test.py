"""Methods that tune prompts against the released benchmark, in float64.

Every image of a tiny random CLIP: losses, tuned contexts and outputs.
"""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.adapt import base
from jaxcal.adapt import run
from jaxcal.adapt.prompt import dynamic
from jaxcal.adapt.prompt import engine
from jaxcal.adapt.prompt import family
from jaxcal.adapt.prompt import methods
from jaxcal.adapt.prompt import reliability
from jaxcal.adapt.prompt import rewards
from jaxcal.clip import checkpoint
from jaxcal.clip import prefix
from jaxcal.clip import prompts
from jaxcal.losses import entropy
from jaxcal.losses import rewards as reward_losses
from tests import quick
from tests import shared

_METHODS = {
    "tpt_check": methods.Tpt(selection_fraction=0.25),
    "rlcf": rewards.Rlcf(selection_fraction=0.25),
    "rtpt_k5": reliability.RTpt(selection_fraction=0.25, num_neighbours=5),
}
_adapted = quick.jit(jax.vmap(family.adapt, (None, 0)))


class ZooOracleTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    folder = shared.path("oracles/tpt")
    self.oracle = np.load(folder / "tpt_oracle.npz", allow_pickle=False)
    self.zoo = np.load(shared.path("oracles/zoo") / "zoo_oracle.npz",
                       allow_pickle=False)
    self.model = checkpoint.load(folder / "hf_clip_tiny")
    self.enterContext(jax.enable_x64(True))
    self.params = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float64), self.model.params)

  def _task(self, k):
    bank = prompts.from_token_ids(
        self.oracle[f"K{k}/input_ids"],
        np.broadcast_to(np.arange(1, 5), (k, 4)),
        self.oracle[f"K{k}/eot_index"])
    encode = prefix.context_encoder(
        self.model.config, self.params, bank, max_groups=1)
    return base.Task(
        jnp.asarray(self.oracle[f"K{k}/text_features0/f64"]),
        jnp.asarray(self.oracle[f"K{k}/logit_scale_exp/f64"]), encode,
        jnp.asarray(self.oracle[f"K{k}/ctx0/f64"]))

  def _views(self, k):
    return jnp.asarray(self.oracle[f"K{k}/image_features/f64"])

  def _assert_stored(self, found, name, atol=1e-7):
    np.testing.assert_allclose(
        found, self.zoo[f"tower/{name}"], atol=atol, rtol=0, err_msg=name)

  def _shared(self, task, linearisation="vjp"):
    prepared = quick.jit(engine.prepare, static_argnames="linearisation")(
        task.encode, task.context, task.logit_scale,
        linearisation=linearisation)
    return family.share(task.encode, prepared, _METHODS)

  @parameterized.parameters((5, "vjp"), (12, "jacobian"))
  def test_as_one_family(self, k, linearisation):
    found = _adapted(self._shared(self._task(k), linearisation),
                     self._views(k))
    for name, adapted in found.items():
      self._assert_stored(adapted.logits, f"K{k}/{name}/output", 1e-8)
      self._assert_stored(adapted.context, f"K{k}/{name}/ctx", 1e-9)

  def test_one_method_alone(self, k=5):
    for name in ("rlcf", "rtpt_k5"):
      output = quick.jit(run.episodic)(
          _METHODS[name].method(), self._task(k), self._views(k))
      self._assert_stored(output.scores, f"K{k}/{name}/output")

  def test_a_reward_model_that_is_the_model_itself(self, k=5):
    shared_ = self._shared(self._task(k))
    text_features = shared_.prepared.text_features
    adapt = quick.jit(jax.vmap(lambda shared, views: rewards.adapt(
        _METHODS["rlcf"], shared.encode, shared.prepared, views,
        rewards.RewardModel(text_features, views)), (None, 0)))
    adapted = adapt(shared_, self._views(k))
    self._assert_stored(adapted.logits, f"K{k}/rlcf/output")
    self._assert_stored(adapted.context, f"K{k}/rlcf/ctx")

  @parameterized.parameters(5, 12)
  def test_losses_at_the_initial_context(self, k):
    task = self._task(k)
    for image, views in enumerate(self._views(k)):
      logits = base.logits(task, views)
      kept = entropy.confident_views(logits, 0.25)
      cosines = views @ task.text_features.T
      for name, loss in (
          ("rlcf", reward_losses.reward_weighted_likelihood(
              logits, cosines, where=kept)),
          ("rtpt_k5", entropy.mean_entropy(logits, where=kept))):
        np.testing.assert_allclose(
            loss, self.zoo[f"tower/K{k}/{name}/loss"][image, 0], atol=1e-9)

  @parameterized.product(
      k=(5, 12), name=("dynaprompt", "dynaprompt_reset"))
  def test_dynaprompt(self, k, name):
    stored = lambda key: self.zoo[f"tower/K{k}/{name}/{key}"]
    numbers = dynamic.DynaPrompt(
        learning_rate=3e-3, num_prompts=4, selection_fraction=0.25,
        reset_optimiser=name.endswith("reset"))
    method, task = numbers.method(), self._task(k)
    step = quick.jit(lambda method, task, state, views: method.step(
        task, state, views))
    state = dynamic.state_at(
        numbers, task, jnp.asarray(stored("init_offsets")))
    images = self._views(k)
    for number in range(9):
      state, output = step(method, task, state, images[number % 3])
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
