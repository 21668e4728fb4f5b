"""ProGrad against numbers that the released program computed."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.tuning import prograd
from tests.tuning import oracle as oracle_lib


class ProGradTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.enterContext(jax.enable_x64(True))
    self.oracle = oracle_lib.load()

  def _prompts(self, group="base"):
    """With the stored teacher, whose words are those of `zero_shot`."""
    prompts = self.oracle.prompts("x4words4", group, num_context=8)
    return prompts._replace(target=prompts.zero_shot)

  @parameterized.parameters(
      ("prograd_agree", 1.0), ("prograd_conflict", 1.0),
      ("prograd_conflict_l08", 0.8), ("prograd_words", 1.0))
  def test_stored(self, name, strength):
    stored, base = self.oracle.stored, self._prompts()
    method = prograd.method(
        logit_scale=self.oracle.logit_scale, strength=strength)
    oracle_lib.assert_stored(
        self.oracle, name, method, base, labels=stored[f"{name}/labels"],
        parts={"cross_entropy": "loss_ce", "teacher": "loss_kl"})
    np.testing.assert_allclose(
        self.oracle.logit_scale * self.oracle.images.features @ base.target.T,
        stored["prograd/teacher_logits"], atol=1e-9)
    grad_ce, grad_kl = (stored[f"{name}/{key}/ctx"]
                        for key in ("grad_ce", "grad_kl"))
    oracle_lib.assert_relative(
        prograd.project(grad_ce, grad_kl, strength), stored[f"{name}/grad/ctx"])

  def test_projection(self):
    rng = np.random.default_rng(0)
    for seed in range(20):
      gradient, teacher = ({
          name: jnp.asarray(rng.standard_normal(3)) for name in "ab"}
          for _ in range(2))
      turned = prograd.project(gradient, teacher)
      for name in "ab":
        before, after = (float(g[name] @ teacher[name])
                         for g in (gradient, turned))
        if before >= 0:
          np.testing.assert_array_equal(turned[name], gradient[name])
        else:
          np.testing.assert_allclose(after, 0, atol=1e-12)
    zero = jax.tree.map(jnp.zeros_like, teacher)
    jax.tree.map(np.testing.assert_array_equal,
                 prograd.project(gradient, zero), gradient)

  def test_words_after_zeros(self):
    words = self.oracle.context("words4", 4)
    np.testing.assert_array_equal(
        prograd.after_zeros(words, 8),
        self.oracle.stored["prograd_words/init/ctx"])
    with self.assertRaisesRegex(ValueError, "4 words .* num_context=3"):
      prograd.after_zeros(words, 3)


if __name__ == "__main__":
  absltest.main()
