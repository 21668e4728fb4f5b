"""CoCoOp against numbers that the released program computed."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
import pytest

from jaxcal.tuning import cocoop
from tests import error_bars
from tests.tuning import oracle as oracle_lib


class CoCoopTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.enterContext(jax.enable_x64(True))
    self.oracle = oracle_lib.load()

  @parameterized.parameters(("cocoop", None), ("cocoop_b1", 1))
  def test_stored(self, name, images_per_chunk):
    self._check_stored(name, images_per_chunk)

  @pytest.mark.slow
  def test_chunks_of_uneven_size(self):
    self._check_stored("cocoop", 3)

  def _check_stored(self, name, images_per_chunk):
    base, new = (
        self.oracle.prompts("words4", group) for group in ("base", "new"))
    method = cocoop.method(logit_scale=self.oracle.logit_scale,
                           images_per_chunk=images_per_chunk)
    oracle_lib.assert_stored(
        self.oracle, name, method, base,
        rows=slice(1) if name == "cocoop_b1" else slice(None))
    np.testing.assert_allclose(
        oracle_lib.logits(
            method, oracle_lib.params(self.oracle.stored, name, "final"), new,
            self.oracle.images),
        self.oracle.stored[f"{name}/logits_new_final"], atol=1e-7)

  @pytest.mark.slow
  def test_init(self):
    base = self.oracle.prompts("words4", "base")
    words = self.oracle.context("words4", 4)
    method = cocoop.method(
        logit_scale=self.oracle.logit_scale, context=words)
    params = method.init(jax.random.key(0), base)
    np.testing.assert_array_equal(params["context"], words)
    expected = oracle_lib.params(self.oracle.stored, "cocoop", "init")
    for layer, bound in (("hidden", 32**-0.5), ("out", 2**-0.5)):
      for name, array in params["meta"][layer].items():
        self.assertEqual(array.shape, expected["meta"][layer][name].shape)
        error_bars.assert_uniform(array, bound)
    self.assertEqual(
        jax.eval_shape(
            method.text_features, params, base, self.oracle.images).shape,
        (8, 6, 32))


if __name__ == "__main__":
  absltest.main()
