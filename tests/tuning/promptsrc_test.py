"""PromptSRC against numbers that the released program computed."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcal.clip import prompts as prompts_lib
from jaxcal.clip import towers
from jaxcal.tuning import promptsrc
from jaxcal.tuning import training
from tests import error_bars
from tests import quick
from tests.tuning import oracle as oracle_lib

_GROUPS = {
    "promptsrc": {"text_depth": 3, "vision_depth": 3},
    "promptsrc_asym": {"text_depth": 3, "vision_depth": 2, "num_vision": 3},
}


class PromptSrcTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.enterContext(jax.enable_x64(True))
    self.oracle = oracle_lib.load()

  def _method(self, name, **changes):
    options = {"context": self.oracle.context("words4", 4)} | _GROUPS[name]
    return promptsrc.method(
        self.oracle.config, self.oracle.params,
        logit_scale=self.oracle.logit_scale, **options | changes)

  def _base(self):
    base = self.oracle.prompts("words4", "base")
    return base._replace(target=jnp.asarray(
        self.oracle.stored["promptsrc/target_text_features"]))

  def test_target(self):
    ids = self.oracle.stored["ids/promptsrc_templates/base"]
    config, params = self.oracle.config, self.oracle.params
    embeddings = jnp.stack([
        towers.project(
            towers.pooled_text(
                config, params, towers.token_embeddings(params, rows),
                prompts_lib.end_positions(rows, config.eos_token_id)),
            towers.text_projection(config, params)) for rows in ids])
    target = promptsrc.average_templates(embeddings)
    np.testing.assert_allclose(target, self._base().target, atol=1e-12)
    np.testing.assert_allclose(
        self.oracle.logit_scale * self.oracle.images.features @ target.T,
        self.oracle.stored["promptsrc/zero_shot_logits"], atol=1e-10)
    # The average of unit-norm features would be another one.
    other = towers.normalise(towers.normalise(embeddings).mean(axis=0))
    self.assertGreater(np.abs(other - target).max(), 1e-4)

  @parameterized.parameters(*_GROUPS)
  @pytest.mark.slow
  def test_start(self, name):
    oracle_lib.assert_stored(
        self.oracle, name, self._method(name), self._base(), parts={
            "cross_entropy": "loss_ce", "text_difference": "l1_text",
            "image_difference": "l1_image", "divergence": "kl"})

  @parameterized.parameters(*_GROUPS)
  @pytest.mark.slow  # below, or it would not hold
  def test_three_steps(self, name):
    oracle_lib.assert_steps(
        self.oracle, name, self._method(name), self._base(),
        new=self.oracle.prompts("words4", "new"))

  @pytest.mark.slow
  def test_aggregated_over_epochs(self):
    """Epochs of one step each."""
    stored, method = self.oracle.stored, self._method("promptsrc")
    start = oracle_lib.params(stored, "promptsrc", "init")
    state = training.State(
        start, oracle_lib.SGD.init(start), jax.tree.map(jnp.zeros_like, start),
        jnp.zeros((), jnp.int32), jax.random.key(0))
    for rows, share in zip(
        jnp.asarray(stored["batch_idx"]), stored["promptsrc/gpa3_weights"]):
      state, _ = training.train_epoch(
          method, oracle_lib.SGD, state, self._base(),
          training.Data(self.oracle.images, self.oracle.labels),
          training.Order(rows[None], rows[:0]), share=share)
    jax.tree.map(
        oracle_lib.assert_relative, state.average,
        oracle_lib.params(stored, "promptsrc", "gpa3"))

  @parameterized.parameters(*_GROUPS)
  def test_init(self, name):
    params = self._method(name).init(jax.random.key(0), self._base())
    stored = oracle_lib.params(self.oracle.stored, name, "init")
    self.assertEqual(*(
        jax.tree.map(jnp.shape, tree) for tree in (params, stored)))
    np.testing.assert_array_equal(params["context"], stored["context"])
    for part in ("deep_text", "vision"):
      error_bars.assert_normal(params[part], 0.02)
    random = self._method(name, context=None).init(
        jax.random.key(0), self._base())
    self.assertEqual(random["context"].shape, (4, 64))
    error_bars.assert_normal(random["context"], 0.02)

  def test_weights_scale_their_parts(self):
    params = oracle_lib.params(self.oracle.stored, "promptsrc", "init")
    compiled = quick.jit(lambda method, *given: method.loss(*given))
    loss = lambda **weights: compiled(
        self._method("promptsrc", **weights), params, self._base(),
        self.oracle.batch())
    without, parts = loss(text_weight=0.0, image_weight=0.0)
    np.testing.assert_allclose(
        without, parts["cross_entropy"] + parts["divergence"], rtol=1e-12)
    whole, _ = loss(text_weight=2.0, image_weight=3.0)
    np.testing.assert_allclose(
        whole - without, 2 * parts["text_difference"] +
        3 * parts["image_difference"], rtol=1e-10)

  @parameterized.parameters(
      {"text_depth": 4}, {"vision_depth": 0}, {"vision_depth": 4},
      {"num_context": 5})
  def test_errors(self, **changes):
    with self.assertRaisesRegex(ValueError, "layers of the|the 4 words"):
      self._method("promptsrc", **changes)


class EpochWeightsTest(parameterized.TestCase):

  @parameterized.parameters((20, 15, 1), (50, 30, 30), (50, 45, 5), (20, 6, 10))
  def test_stored(self, num_epochs, mean, std):
    self.enterContext(jax.enable_x64(True))
    stored = oracle_lib.load().stored
    np.testing.assert_allclose(
        promptsrc.epoch_weights(num_epochs, mean=mean, std=std),
        stored[f"gpa_weights/T{num_epochs}_mean{mean}_std{std}"], rtol=1e-12,
        atol=1e-300)

  def test_far_from_the_mean(self):
    weights = promptsrc.epoch_weights(3, mean=500, std=0.1)
    np.testing.assert_array_equal(weights, [0, 0, 1])

  @parameterized.parameters((0, 1.0), (3, 0.0), (3, -1.0), (3, float("nan")))
  def test_errors(self, num_epochs, std):
    with self.assertRaisesRegex(ValueError, "deviation above 0 expected"):
      promptsrc.epoch_weights(num_epochs, mean=1, std=std)


if __name__ == "__main__":
  absltest.main()
