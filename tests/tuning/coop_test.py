"""Learned contexts, against numbers that the released program computed."""

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcal.tuning import coop
from tests import error_bars
from tests import quick
from tests.tuning import oracle as oracle_lib


class CoopTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.enterContext(jax.enable_x64(True))
    self.oracle = oracle_lib.load()
    self.stored = self.oracle.stored

  @parameterized.parameters(
      ("coop", "x4", "end"), ("coop_words", "words4", "end"),
      ("coop_middle", "x4", "middle"), ("coop_front", "x4", "front"),
      ("coop_csc", "x4", "end"))
  def test_stored(self, name, ids, class_position):
    own = name == "coop_csc"
    make = coop.class_specific if own else coop.method
    method = make(logit_scale=self.oracle.logit_scale)
    base, new = (
        self.oracle.prompts(ids, group, class_position=class_position,
                            plain=own) for group in ("base", "new"))
    oracle_lib.assert_stored(self.oracle, name, method, base)
    params = oracle_lib.params(self.stored, name, "final")
    if own:
      with self.assertRaisesRegex(ValueError, "of 6 classes.* 5 names"):
        method.logits(params, new, self.oracle.images)
      self.assertIsNone(method.text_features)
    else:
      np.testing.assert_allclose(
          oracle_lib.logits(method, params, new, self.oracle.images),
          self.stored[f"{name}/logits_new_final"], atol=1e-7)

  @pytest.mark.slow
  def test_init(self):
    scale, key = self.oracle.logit_scale, jax.random.key(0)
    base = self.oracle.prompts("x4", "base", plain=True)
    words = self.oracle.context("words4", 4)
    start = lambda make, **kwargs: make(logit_scale=scale, **kwargs).init(
        key, base)["context"]
    random = start(coop.method)
    self.assertEqual(random.shape, (4, 64))
    error_bars.assert_normal(random, 0.02)
    np.testing.assert_array_equal(start(coop.method, context=words), words)
    each = start(coop.class_specific)
    self.assertEqual(each.shape, (6, 4, 64))
    self.assertGreater(float(jnp.abs(each[0] - each[1]).max()), 0)
    np.testing.assert_array_equal(
        start(coop.class_specific, context=words)[5], words)
    with self.assertRaisesRegex(ValueError, r"\(4, 64\) expected"):
      start(coop.method, context=words[:3])

  def test_is_an_argument_under_jit(self):
    base = self.oracle.prompts("x4", "base")
    params = oracle_lib.params(self.stored, "coop", "init")

    @quick.jit
    @chex.assert_max_traces(n=1)
    def logits(method):
      return method.logits(params, base, self.oracle.images)

    full = logits(coop.method(logit_scale=self.oracle.logit_scale))
    half = logits(coop.method(logit_scale=self.oracle.logit_scale / 2))
    np.testing.assert_allclose(full, 2 * half, rtol=1e-12)


if __name__ == "__main__":
  absltest.main()
