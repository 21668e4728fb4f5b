"""ZS-Norm and Penalty around a method whose parameters are its logits."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
import numpy as np

from jaxcal.tuning import logit_range
from jaxcal.tuning import method as method_lib
from tests import shared
from tests.tuning import oracle as oracle_lib


@jax.jit
def _loss(params, prompts, batch):
  log_probs = jax.nn.log_softmax(_logits(params, prompts, batch.images))
  entropy = -jnp.mean(log_probs[jnp.arange(len(batch.labels)), batch.labels])
  size = jnp.mean(jnp.square(params["logits"]))
  return entropy + 0.25 * size, {"cross_entropy": entropy, "size": size}


def _logits(params, prompts, images):
  del prompts, images
  return params["logits"]


class WrappersTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.enterContext(jax.enable_x64(True))
    self.stored = shared.arrays("oracles/few_shot/calibration_oracle.npz")
    rows = self.stored["logit_range/batch_idx"]
    data = lambda name: self.stored[f"data/{name}"]
    text = data("text_base_zs")
    self.batch = method_lib.Batch(
        method_lib.Images(data("val_features")[rows]), data("val_labels")[rows])
    self.prompts = method_lib.Prompts(None, text[::-1], text, text)
    self.params = {"logits": data("val_logits")[rows]}
    self.method = method_lib.Method(
        init=Partial(lambda key, prompts: {}), loss=Partial(_loss),
        logits=Partial(_logits))

  @parameterized.parameters("zsnorm", "penalty")
  def test_stored_loss_and_gradient(self, name):
    make = {"zsnorm": logit_range.zs_norm, "penalty": logit_range.penalty}[name]
    method = make(self.method, logit_scale=100.0)
    (loss, parts), gradient = oracle_lib.step(
        method, self.params, self.prompts, self.batch)
    # What else the method minimises stays.
    logits = np.asarray(self.params["logits"])
    size = np.mean(logits ** 2)
    np.testing.assert_allclose(
        loss - size / 4, self.stored[f"{name}/loss"], rtol=1e-9)
    np.testing.assert_allclose(
        np.asarray(gradient["logits"]) - logits / 2 / logits.size,
        self.stored[f"{name}/grad_logits"], atol=1e-9)
    np.testing.assert_allclose(parts["size"], size, rtol=1e-12)
    if name == "zsnorm":
      np.testing.assert_allclose(
          parts["cross_entropy"], self.stored["zsnorm/loss"], rtol=1e-9)
    else:
      np.testing.assert_allclose(
          parts["range_excess"],
          self.stored["penalty/above"] + self.stored["penalty/below"],
          rtol=1e-9)
    self.assertIs(method.logits, self.method.logits)

  def test_no_weight_no_penalty(self):
    method = logit_range.penalty(self.method, 0.0, logit_scale=100.0)
    arguments = self.params, self.prompts, self.batch
    np.testing.assert_array_equal(
        method.loss(*arguments)[0], self.method.loss(*arguments)[0])

  @parameterized.parameters(logit_range.zs_norm, logit_range.penalty)
  def test_directions_of_their_own_are_refused(self, make):
    with self.assertRaisesRegex(ValueError, "direction of its own"):
      make(self.method._replace(gradient=_loss), logit_scale=100.0)


if __name__ == "__main__":
  absltest.main()
