"""CLIP-Adapter, against numbers that the released program computed."""

from absl.testing import absltest
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcal.tuning import clip_adapter
from jaxcal.tuning import method as method_lib
from tests import error_bars
from tests.tuning import oracle as oracle_lib
from tests.tuning import steps


def _toy(num_images=3, width=8):
  """Arrays alone: prompts and images without a model."""
  rng = np.random.default_rng(0)
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  text = jnp.asarray(rng.normal(size=(4, width)), jnp.float32)
  raw = rng.normal(size=(num_images, width)).astype(np.float32)
  return (method_lib.Prompts(None, unit(text), unit(text), text),
          method_lib.Images(jnp.asarray(unit(raw)), jnp.asarray(raw)))


class StoredTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.enterContext(jax.enable_x64(True))
    self.oracle = oracle_lib.load()
    self.stored = self.oracle.stored
    self.base = self.oracle.prompts("pet", "base")
    self.method = clip_adapter.method(logit_scale=self.oracle.logit_scale)

  def _params(self, when):
    return {ours: jnp.asarray(self.stored[
        f"clip_adapter/{when}/adapter.{number}.weight"].T)
            for ours, number in (("hidden", 0), ("out", 2))}

  def test_loss_and_gradient(self):
    params = self._params("init")
    np.testing.assert_allclose(
        self.method.logits(params, self.base, self.oracle.images),
        self.stored["clip_adapter/logits_base_init"], atol=1e-9)
    (loss, parts), gradient = oracle_lib.step(
        self.method, params, self.base, self.oracle.batch())
    np.testing.assert_allclose(
        loss, self.stored["clip_adapter/loss"], rtol=1e-9)
    np.testing.assert_array_equal(parts["cross_entropy"], loss)
    jax.tree.map(oracle_lib.assert_relative, gradient, self._params("grad"))

  def test_steps_and_new_classes(self):
    losses, params = steps.three_steps(
        self.oracle, self.method, self._params("init"), self.base)
    np.testing.assert_allclose(
        losses, self.stored["clip_adapter/step_losses"], rtol=1e-9)
    for name, expected in self._params("final").items():
      np.testing.assert_allclose(params[name], expected, atol=1e-8)
    for group in ("base", "new"):
      prompts = self.oracle.prompts("pet", group)
      np.testing.assert_allclose(
          self.method.logits(params, prompts, self.oracle.images),
          self.stored[f"clip_adapter/logits_{group}_final"], atol=1e-7)


class ArraysTest(absltest.TestCase):

  def test_init(self):
    prompts, _ = _toy(width=64)
    params = clip_adapter.method(logit_scale=1.0).init(
        jax.random.key(0), prompts)
    self.assertEqual(
        jax.tree.map(jnp.shape, params), {"hidden": (64, 16), "out": (16, 64)})
    for weights, bound in ((params["hidden"], 1 / 8), (params["out"], 1 / 4)):
      error_bars.assert_uniform(weights, bound)
    with self.assertRaisesRegex(ValueError, "1 to the 64 .* got 65"):
      clip_adapter.method(logit_scale=1.0, reduction=65).init(
          jax.random.key(0), prompts)

  def test_is_an_argument_under_jit(self):
    prompts, images = _toy()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def logits(method):
      params = method.init(jax.random.key(0), prompts)
      return method.logits(params, prompts, images)

    make = lambda scale: clip_adapter.method(logit_scale=scale)
    np.testing.assert_allclose(
        logits(make(4.0)), 2 * logits(make(2.0)), rtol=1e-6)

  def test_ratio_zero_is_zero_shot(self):
    prompts, images = _toy()
    method = clip_adapter.method(logit_scale=10.0, ratio=0.0)
    params = method.init(jax.random.key(0), prompts)
    np.testing.assert_allclose(
        method.logits(params, prompts, images),
        10 * images.features @ prompts.target.T, atol=1e-5)

  @pytest.mark.slow
  def test_visual_outliers(self):
    prompts, images = _toy()
    _, outliers = _toy(num_images=5)
    plain = clip_adapter.method(logit_scale=10.0)
    regularised = clip_adapter.method(logit_scale=10.0, outlier_weight=3.0)
    # Strong weights, so that the features move far.
    params = jax.tree.map(
        lambda x: 5 * x, plain.init(jax.random.key(0), prompts))
    batch = method_lib.Batch(images, jnp.array([0, 2, 1]))
    loss, _ = plain.loss(params, prompts, batch)
    found, parts = regularised.loss(
        params, prompts, batch._replace(outliers=outliers))
    x = np.asarray(outliers.embeddings, np.float64)
    adapted = np.maximum(np.maximum(x @ np.asarray(params["hidden"]), 0)
                         @ np.asarray(params["out"]), 0)
    moved = .2 * adapted + .8 * x
    cosines = (moved * x).sum(-1) / (
        np.linalg.norm(moved, axis=-1) * np.linalg.norm(x, axis=-1))
    np.testing.assert_allclose(parts["outliers"], 1 - cosines.mean(), rtol=1e-4)
    np.testing.assert_allclose(found, loss + 3 * (1 - cosines.mean()),
                               rtol=1e-5)
    with self.assertRaisesRegex(ValueError, "are Images, .* NoneType"):
      regularised.loss(params, prompts, batch)

  def test_normalised_features_are_not_enough(self):
    prompts, images = _toy()
    method = clip_adapter.method(logit_scale=10.0)
    params = method.init(jax.random.key(0), prompts)
    with self.assertRaisesRegex(ValueError, "before normalisation"):
      method.logits(params, prompts, images._replace(embeddings=None))


if __name__ == "__main__":
  absltest.main()
