"""TaskRes, against numbers that the released program computed."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from jaxcal.tuning import taskres
from tests.tuning import oracle as oracle_lib
from tests.tuning import steps


class TaskResTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.enterContext(jax.enable_x64(True))
    self.oracle = oracle_lib.load()
    self.stored = self.oracle.stored
    self.base = self.oracle.prompts("pet", "base")
    self.method = taskres.method(logit_scale=self.oracle.logit_scale)

  def _params(self, name, when):
    return {"residual": self.stored[f"{name}/{when}/residual"]}

  @parameterized.parameters("taskres", "taskres_nonzero")
  def test_stored_loss_and_gradient(self, name):
    params = self._params(name, "init")
    np.testing.assert_allclose(
        oracle_lib.logits(self.method, params, self.base, self.oracle.images),
        self.stored[f"{name}/logits_base_init"], atol=1e-9)
    (loss, parts), gradient = oracle_lib.step(
        self.method, params, self.base, self.oracle.batch())
    np.testing.assert_allclose(loss, self.stored[f"{name}/loss"], rtol=1e-9)
    np.testing.assert_array_equal(parts["cross_entropy"], loss)
    oracle_lib.assert_relative(
        gradient["residual"], self.stored[f"{name}/grad/residual"])

  @parameterized.parameters("taskres", "taskres_nonzero")
  def test_stored_steps(self, name):
    params = self._params(name, "init")
    losses, params = steps.three_steps(
        self.oracle, self.method, params, self.base)
    np.testing.assert_allclose(
        losses, self.stored[f"{name}/step_losses"], rtol=1e-9)
    np.testing.assert_allclose(
        params["residual"], self.stored[f"{name}/final/residual"], atol=1e-8)
    np.testing.assert_allclose(
        oracle_lib.logits(self.method, params, self.base, self.oracle.images),
        self.stored[f"{name}/logits_base_final"], atol=1e-7)

  def test_begins_as_zero_shot(self):
    params = self.method.init(jax.random.key(0), self.base)
    self.assertEqual(params["residual"].shape, (6, 32))
    np.testing.assert_allclose(
        oracle_lib.logits(self.method, params, self.base, self.oracle.images),
        100 * np.asarray(self.oracle.images.features) @ np.asarray(
            self.base.target).T, rtol=1e-6)

  def test_some_of_its_classes_but_no_others(self):
    params = self._params("taskres_nonzero", "final")
    rows = np.array([4, 1])
    some = self.base._replace(encode=None, **{
        name: np.asarray(getattr(self.base, name))[rows]
        for name in ("zero_shot", "target", "embeddings")})
    np.testing.assert_allclose(
        self.method.logits(
            taskres.take_classes(params, rows), some, self.oracle.images),
        self.stored["taskres_nonzero/logits_base_final"][:, rows], atol=1e-7)
    new = self.oracle.prompts("pet", "new")
    with self.assertRaisesRegex(ValueError, "6 classes .* 5 names; .*take_cl"):
      self.method.logits(params, new, self.oracle.images)
    self.assertIsNone(self.method.text_features)


if __name__ == "__main__":
  absltest.main()
