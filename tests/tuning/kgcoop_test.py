"""KgCoOp against numbers that the released program computed."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from jaxcal.tuning import kgcoop
from tests.tuning import oracle as oracle_lib


class KgCoopTest(parameterized.TestCase):

  @parameterized.parameters("kgcoop", "kgcoop_random")
  def test_stored(self, name):
    self.enterContext(jax.enable_x64(True))
    oracle = oracle_lib.load()
    base = oracle.prompts("words4", "base")
    np.testing.assert_allclose(
        base.target, oracle.stored["kgcoop/target_features"], atol=1e-12)
    oracle_lib.assert_stored(
        oracle, name, kgcoop.method(logit_scale=oracle.logit_scale), base,
        parts={"cross_entropy": "loss_ce", "deviation": "loss_kg"})


if __name__ == "__main__":
  absltest.main()
