"""MaPLe against numbers that the released program computed."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcal.clip import towers
from jaxcal.tuning import dor
from jaxcal.tuning import maple
from jaxcal.tuning import training
from tests import error_bars
from tests import quick
from tests.tuning import oracle as oracle_lib

# By stored name: the prompts, their room for vectors, and the depth.
_GROUPS = {
    "maple": ("words4", 4, 3),
    "maple_random": ("x2", 2, 3),
    "maple_depth2": ("words4", 4, 2),
    "dor_maple": ("words4", 4, 3),
    "dor_maple_random": ("x2", 2, 3),
}


class MapleTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.enterContext(jax.enable_x64(True))
    self.oracle = oracle_lib.load()

  def _method(self, name):
    ids, room, depth = _GROUPS[name]
    context = self.oracle.context(ids, room) if ids == "words4" else None
    method = maple.method(
        self.oracle.config, self.oracle.params,
        logit_scale=self.oracle.logit_scale, context=context, depth=depth)
    return (dor.with_outliers(method, 2.0) if name.startswith("dor")
            else method)

  def _prompts(self, name, group, **options):
    ids, room, _ = _GROUPS[name]
    return self.oracle.prompts(ids, group, num_context=room, **options)

  @parameterized.parameters(*_GROUPS)
  @pytest.mark.slow
  def test_start(self, name):
    regularised = name.startswith("dor")
    oracle_lib.assert_stored(
        self.oracle, name, self._method(name), self._prompts(name, "base"),
        outliers=self._prompts(name, "outlier") if regularised else None,
        parts={"cross_entropy": "loss_ce", "outliers": "loss_dor"}
        if regularised else {"cross_entropy": "loss"})

  @parameterized.parameters(*_GROUPS)
  @pytest.mark.slow  # below, or it would not hold
  def test_three_steps(self, name):
    outliers = training.Outliers(
        self._prompts(name, "outlier"),
        jnp.asarray(self.oracle.stored["outlier_idx"][1:])
    ) if name.startswith("dor") else None
    oracle_lib.assert_steps(
        self.oracle, name, self._method(name), self._prompts(name, "base"),
        new=self._prompts(name, "new"), outliers=outliers)

  @parameterized.parameters("maple", "maple_random")
  def test_init(self, name):
    method, base = self._method(name), self._prompts(name, "base")
    params = method.init(jax.random.key(0), base)
    stored = oracle_lib.params(self.oracle.stored, name, "init")
    self.assertEqual(*(
        jax.tree.map(jnp.shape, tree) for tree in (params, stored)))
    if name == "maple":
      np.testing.assert_array_equal(params["context"], stored["context"])
    else:
      error_bars.assert_normal(params["context"], 0.02)
    error_bars.assert_normal(params["deep_text"], 0.02)
    maps = params["vision"]
    for leaf in jax.tree.leaves(maps):  # uniform, in an eighth = 64^-1/2
      self.assertLess(np.abs(leaf).max(), 0.125)
      self.assertGreater(np.abs(leaf).max(), 0.11)
      np.testing.assert_array_equal(leaf[1], leaf[2])
      self.assertGreater(np.abs(leaf[0] - leaf[1]).max(), 0.05)
    other = method.init(jax.random.key(1), base)
    self.assertGreater(
        np.abs(other["deep_text"] - params["deep_text"]).max(), 0.01)

  @pytest.mark.slow
  def test_the_plain_encoder_gives_the_same(self, name="maple"):
    params = oracle_lib.params(self.oracle.stored, name, "final")
    plain = self._prompts(name, "new", plain=True)
    np.testing.assert_allclose(
        oracle_lib.logits(
            self._method(name), params, plain, self.oracle.images),
        self.oracle.stored["maple/logits_new_final"], atol=1e-7)

  def test_seeds_together_equal_one_by_one(self, name="maple"):
    method, base = self._method(name), self._prompts(name, "base")
    each = [oracle_lib.params(self.oracle.stored, name, when)
            for when in ("init", "final")]
    together = quick.jit(jax.vmap(
        lambda p, m, *given: m.logits(p, *given), (0, None, None, None)))(
            jax.tree.map(lambda *x: jnp.stack(x), *each), method, base,
            self.oracle.images)
    for logits, when in zip(together, ("init", "final")):
      np.testing.assert_allclose(
          logits, self.oracle.stored[f"{name}/logits_base_{when}"], atol=1e-7)

  def test_outliers_do_not_pull_at_images(self, name="dor_maple"):
    method = self._method("maple")
    params = oracle_lib.params(self.oracle.stored, name, "init")
    outliers = self._prompts(name, "outlier")
    pull = quick.jit(jax.grad(lambda p, method, outliers: (
        method.text_features(p, outliers, self.oracle.images) *
        outliers.zero_shot).sum()))(params, method, outliers)
    np.testing.assert_array_equal(pull["vision"]["kernel"], 0)
    for name in ("context", "deep_text"):
      self.assertGreater(np.abs(pull[name]).max(), 1e-3)

  @pytest.mark.slow
  def test_depth_of_one_replaces_nothing(self):
    method = maple.method(
        self.oracle.config, self.oracle.params,
        logit_scale=self.oracle.logit_scale,
        context=self.oracle.context("words4", 4), depth=1)
    base = self._prompts("maple", "base")
    params = method.init(jax.random.key(0), base)
    self.assertEqual(params["deep_text"].shape, (0, 2, 64))
    # Untouched words: the text side is still that of zero-shot.
    texts = quick.jit(lambda m, *given: m.text_features(*given))
    np.testing.assert_allclose(
        texts(method, params, base, self.oracle.images), base.zero_shot,
        atol=1e-12)
    vision = (params["context"] @ params["vision"]["kernel"][0] +
              params["vision"]["bias"])
    images = quick.jit(towers.image_features)(
        self.oracle.config, self.oracle.params, self.oracle.images.pixels,
        vision[None])
    np.testing.assert_allclose(
        oracle_lib.logits(method, params, base, self.oracle.images),
        100 * images @ base.zero_shot.T, atol=1e-10)

  @pytest.mark.slow
  def test_errors(self):
    make = lambda **given: maple.method(
        self.oracle.config, self.oracle.params, logit_scale=100.0, **given)
    for depth in (0, 4):
      with self.assertRaisesRegex(ValueError, "from 1 to the 3 layers of"):
        make(depth=depth)
    words = self.oracle.context("words4", 4)
    for count in (0, 5):
      with self.assertRaisesRegex(ValueError, "at most the 4 words"):
        make(depth=3, context=words, num_context=count)
    base = self._prompts("maple", "base")
    method = make(depth=3)
    params = method.init(jax.random.key(0), base)
    with self.assertRaisesRegex(ValueError, r"a context of shape \(4, 64\)"):
      method.logits(params, base, self.oracle.images)
    with self.assertRaisesRegex(ValueError, "images with pixels expected"):
      make(depth=3, context=words).logits(
          params, base, self.oracle.images._replace(pixels=None))
    with self.assertRaisesRegex(ValueError, r"deep prompts of shape"):
      make(depth=3, context=words).text_features(
          params | {"deep_text": jnp.zeros((3, 2, 64))}, base, None)


if __name__ == "__main__":
  absltest.main()
