"""Matrix scaling and Dirichlet maps against other minimisers."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize
from scipy import special

from jaxcal.recalibration import base
from jaxcal.recalibration import matrix
from jaxcal.recalibration import probabilities
from jaxcal.recalibration import temperature
from tests import quick
from tests.recalibration import made


def _loss(inputs, labels, weight, shift, penalty, shift_penalty):
  """From the definition, term by term."""
  k = len(shift)
  nll = -special.log_softmax(inputs @ weight.T + shift, -1)[
      np.arange(len(labels)), labels].mean()
  between = sum(weight[i, j] ** 2 for i in range(k) for j in range(k)
                if i != j) / (k * (k - 1))
  return nll + penalty * between + shift_penalty * (shift ** 2).mean()


class MatrixTest(parameterized.TestCase):

  @parameterized.parameters((1., 1.), (100., 1.), (10., 0.01))
  def test_minimum_of_the_penalised_loss(self, penalty, shift_penalty):
    on = made.evidence(0)
    inputs = matrix.centred(on.logits)
    weight, shift = matrix.fit_matrix(
        inputs, on.labels, penalty=penalty, shift_penalty=shift_penalty)
    split = lambda x: (x[:16].reshape(4, 4), x[16:])
    best = optimize.minimize(
        lambda x: _loss(inputs, on.labels, *split(x), penalty, shift_penalty),
        np.concatenate([np.eye(4).ravel(), np.zeros(4)]), method="BFGS",
        options={"gtol": 1e-7})
    found = _loss(inputs, on.labels, weight, shift, penalty, shift_penalty)
    np.testing.assert_allclose(found, best.fun, rtol=1e-9)
    self.assertLessEqual(found, best.fun + 1e-10)

  def test_derivative_is_zero(self):
    stored = made.oracle()
    labels = stored["data/val_labels"]
    inputs = probabilities.logarithms(stored["data/val_logits"])
    weight, shift = matrix.fit_matrix(
        inputs, labels, penalty=100., shift_penalty=1.)

    def loss(weight, shift):
      logs = jax.nn.log_softmax(inputs @ weight.T + shift[None])
      between = weight * (1 - jnp.eye(11))
      return (-logs[np.arange(len(labels)), labels].mean() +
              100 * jnp.sum(between ** 2) / 110 + jnp.mean(shift ** 2))

    with jax.enable_x64(True):
      slopes = quick.jit(jax.grad(loss, argnums=(0, 1)))(weight, shift)
    for slope in slopes:
      np.testing.assert_allclose(slope, 0, atol=1e-6)

  def test_with_great_penalties_scales_are_left(self):
    on = made.evidence(0)
    weight, shift = matrix.fit_matrix(
        matrix.centred(on.logits), on.labels, penalty=1e9, shift_penalty=1e9)
    np.testing.assert_allclose(shift, 0, atol=1e-6)
    np.testing.assert_allclose(weight, np.diag(np.diag(weight)), atol=1e-6)
    self.assertBetween(
        1 / temperature.fit_temperature(on.logits, on.labels),
        *np.sort(np.diag(weight))[[0, -1]])

  def test_few_images_that_sums_of_logits_can_tell_apart(self):
    """There is a minimum all the same, since such sums are penalised."""
    rng = np.random.default_rng(0)
    inputs, labels = matrix.centred(rng.normal(size=(12, 6))), np.arange(12) % 6
    weight, shift = matrix.fit_matrix(
        inputs, labels, penalty=1e-3, shift_penalty=1e-3)
    np.testing.assert_array_equal(
        matrix.apply(inputs, weight, shift).argmax(1), labels)
    self.assertLess(np.abs(weight).max(), 100)

  def test_inputs(self):
    logits = np.random.default_rng(0).normal(size=(5, 3))
    np.testing.assert_allclose(
        matrix.centred(logits + 7), logits - logits.mean(1, keepdims=True))
    np.testing.assert_allclose(
        probabilities.logarithms(logits + 700), special.log_softmax(logits, 1))

  def test_generalises_better_than_no_calibration(self):
    """On stored logits that are over-confident; their true NLL is known."""
    stored = made.oracle()
    on = base.Evidence(stored["data/val_logits"], stored["data/val_labels"])
    target = base.Evidence(stored["data/test_logits"])
    rows, labels = np.arange(800), stored["data/test_labels"]
    nll = lambda logits: -special.log_softmax(logits, -1)[rows, labels].mean()
    scaled = stored["data/test_logits"] / stored["ts/temperature"]
    for calibrator in (matrix.Matrix(), matrix.Dirichlet()):
      one = calibrator.recalibrator()
      found = nll(one.apply(one.fit(on).parameters, target))
      self.assertLess(found, nll(target.logits))
      self.assertLess(found, nll(scaled))


class FitTest(parameterized.TestCase):

  @parameterized.parameters(matrix.Matrix(), matrix.Dirichlet())
  def test_all_right_is_left_alone(self, calibrator):
    on = made.evidence(0, 40)
    one = calibrator.recalibrator()
    fit = one.fit(on._replace(labels=on.logits.argmax(-1)))
    self.assertEqual(fit.parameters, {})
    self.assertRegex(fit.notes[0], "40 images determine no weights, as where a")
    self.assertIs(one.apply({}, on), on.logits)

  @parameterized.parameters(matrix.Matrix(), matrix.Dirichlet())
  def test_a_class_without_images_is_named(self, calibrator):
    on = made.evidence(0)
    fit = calibrator.recalibrator().fit(
        on._replace(labels=np.minimum(on.labels, 2)))
    self.assertLen(fit.parameters["shift"], 4)
    self.assertRegex(fit.notes[0], "1 of 4 classes have no image among the 300")
    self.assertEqual(calibrator.recalibrator().fit(on).notes, ())

  @parameterized.parameters((0., 1.), (1., 0.), (-1., 1.), (np.inf, 1.),
                            (1., np.nan))
  def test_refuses(self, penalty, shift_penalty):
    on = made.evidence(0, 20)
    one = matrix.Matrix(penalty, shift_penalty).recalibrator()
    with self.assertRaisesRegex(ValueError, "above zero and finite, but"):
      one.fit(on)


if __name__ == "__main__":
  absltest.main()
