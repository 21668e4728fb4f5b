"""Outlier regularisation against numbers of released programs."""

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcal.tuning import cocoop
from jaxcal.tuning import coop
from jaxcal.tuning import dor
from jaxcal.tuning import kgcoop
from jaxcal.tuning import prograd
from tests import quick
from tests.tuning import oracle as oracle_lib

_PARTS = {"cross_entropy": "loss_ce", "outliers": "loss_dor"}


class DorTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.enterContext(jax.enable_x64(True))
    self.oracle = oracle_lib.load()
    self.scale = self.oracle.logit_scale

  def _prompts(self, ids="words4", **options):
    return (self.oracle.prompts(ids, group, **options)
            for group in ("base", "outlier"))

  @pytest.mark.slow
  def test_coop(self):
    base, outliers = self._prompts("x4")
    oracle_lib.assert_stored(
        self.oracle, "dor_coop",
        dor.with_outliers(coop.method(logit_scale=self.scale), 8.0), base,
        outliers=outliers, parts=_PARTS)

  @parameterized.parameters("dor_kgcoop", "dor_kgcoop_random")
  def test_kgcoop(self, name):
    base, outliers = self._prompts()
    oracle_lib.assert_stored(
        self.oracle, name,
        dor.with_outliers(kgcoop.method(logit_scale=self.scale), 2.0), base,
        outliers=outliers, parts=_PARTS | {"deviation": "loss_kg"})

  @parameterized.parameters(
      ("dor_cocoop", False), ("dor_cocoop_b4_mean", False),
      ("dor_cocoop_b4_last", True))
  @pytest.mark.slow
  def test_cocoop(self, name, last):
    base, outliers = self._prompts()
    one = name == "dor_cocoop"
    rows = slice(1) if one else self.oracle.stored["batch_idx"][0]
    oracle_lib.assert_stored(
        self.oracle, name,
        dor.with_outliers(cocoop.method(logit_scale=self.scale), 2.0,
                          last_image_only=last),
        base, outliers=outliers, rows=rows, parts=_PARTS)

  @pytest.mark.slow
  def test_is_zero_at_the_frozen_prompt(self):
    base, outliers = self._prompts()
    base_method = coop.method(logit_scale=self.scale)
    method = dor.with_outliers(base_method, 8.0)
    params = {"context": self.oracle.context("words4", 4)}
    batch = self.oracle.batch(outliers=outliers)
    ((loss, _), gradient), ((expected, _), host_gradient) = (
        oracle_lib.step(m, params, base, batch) for m in (method, base_method))
    np.testing.assert_allclose(loss, expected, atol=1e-12)
    np.testing.assert_allclose(
        gradient["context"], host_gradient["context"], atol=1e-12)

  @pytest.mark.slow
  def test_on_base_classes_it_is_kgcoops_regulariser(self):
    base, _ = self._prompts()
    params = oracle_lib.params(self.oracle.stored, "kgcoop_random", "init")
    batch = self.oracle.batch(outliers=base._replace(zero_shot=base.target))
    (loss, _), gradient = oracle_lib.step(
        dor.with_outliers(coop.method(logit_scale=self.scale), 8.0), params,
        base, batch)
    (expected, _), direction = oracle_lib.step(
        kgcoop.method(logit_scale=self.scale, weight=8.0), params, base, batch)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    np.testing.assert_allclose(
        gradient["context"], direction["context"], rtol=1e-10)

  @pytest.mark.slow
  def test_gradient_is_added_to_the_projected_one(self):
    base, outliers = self._prompts("x4words4", num_context=8)
    base_method = prograd.method(logit_scale=self.scale)
    params = oracle_lib.params(self.oracle.stored, "prograd_conflict", "init")
    batch = self.oracle.batch(outliers=outliers)
    (loss, parts), gradient = oracle_lib.step(
        dor.with_outliers(base_method, 2.0), params, base, batch)
    (base_loss, _), projected = oracle_lib.step(
        base_method, params, base, batch)
    regularised = dor.with_outliers(coop.method(logit_scale=self.scale), 1.0)
    pull = quick.jit(jax.grad(lambda p, method, base, batch: method.loss(
        p, base, batch)[1]["outliers"]))(params, regularised, base, batch)
    np.testing.assert_allclose(loss - base_loss, 2 * parts["outliers"])
    np.testing.assert_allclose(
        gradient["context"], projected["context"] + 2 * pull["context"],
        atol=1e-12)
    self.assertGreater(float(jnp.abs(pull["context"]).max()), 1e-4)

  @parameterized.parameters(
      {"plain": True}, {"max_groups": 1}, {"max_groups": 24})
  @pytest.mark.slow
  def test_drawn_rows_equal_the_plain_tower(self, **options):
    _, outliers = self._prompts(**options)
    context = oracle_lib.params(self.oracle.stored, "coop", "init")["context"]
    whole = self.oracle.prompts("words4", "outlier", plain=True)
    features = whole.encode(context)
    self.assertEqual(whole.encode.embeddings.shape[1], 24)  # nothing cropped

    @quick.jit
    @chex.assert_max_traces(n=1)
    def drawn(outliers, rows):
      taken = dor.take(outliers, rows)
      return taken.encode(context), taken.zero_shot

    for rows in self.oracle.stored["outlier_idx"]:
      some, frozen = drawn(outliers, jnp.asarray(rows))
      np.testing.assert_allclose(some, features[rows], atol=1e-10)
      np.testing.assert_allclose(
          frozen, self.oracle.stored["outlier/zs_features"][rows], atol=1e-10)

  def test_drawn_images(self):
    rows = jnp.array([3, 0])
    taken = dor.take(self.oracle.images, rows)
    np.testing.assert_array_equal(
        taken.pixels, self.oracle.images.pixels[rows])
    self.assertIsNone(dor.take(
        self.oracle.images._replace(pooled=None), rows).pooled)

  def test_errors(self):
    base_method = coop.method(logit_scale=self.scale)
    with self.assertRaisesRegex(ValueError, "no text_features"):
      dor.with_outliers(coop.class_specific(logit_scale=self.scale), 8.0)
    base, _ = self._prompts()
    params = {"context": self.oracle.context("words4", 4)}
    with self.assertRaisesRegex(ValueError, "batch with outliers"):
      dor.with_outliers(base_method, 8.0).loss(
          params, base, self.oracle.batch())


if __name__ == "__main__":
  absltest.main()
