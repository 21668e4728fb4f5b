"""Vector scaling against a stored oracle and another minimiser."""

from absl.testing import absltest
import jax
import numpy as np
import pytest
from scipy import optimize
from scipy import special

from jaxcal.recalibration import base
from jaxcal.recalibration import vector
from tests import error_bars
from tests import quick
from tests.recalibration import made


def _nll(logits, labels):
  return -special.log_softmax(logits, -1)[np.arange(len(labels)), labels].mean()


class VectorTest(absltest.TestCase):

  def test_stored_oracle(self):
    stored = made.oracle()
    scale, shift = vector.fit_vector(
        stored["data/val_logits"], stored["data/val_labels"])
    np.testing.assert_allclose(scale, stored["vs/scale"], rtol=1e-9)
    np.testing.assert_allclose(shift, stored["vs/bias"], rtol=1e-9, atol=1e-9)
    found = vector.apply(stored["data/test_logits"], scale, shift)
    np.testing.assert_allclose(
        special.softmax(found, -1), stored["vs/test_probs"], rtol=1e-9)

  def test_minimum_of_the_loss(self):
    on = made.evidence(0)
    scale, shift = vector.fit_vector(on.logits, on.labels)
    best = optimize.minimize(
        lambda x: _nll(on.logits * x[:4] + x[4:], on.labels),
        np.repeat([1., 0.], 4), method="BFGS", options={"gtol": 1e-7})
    found = _nll(vector.apply(on.logits, scale, shift), on.labels)
    np.testing.assert_allclose(found, best.fun, rtol=1e-9)
    np.testing.assert_allclose(scale, best.x[:4], rtol=1e-3)
    np.testing.assert_allclose(shift.sum(), 0, atol=1e-12)
    with jax.enable_x64(True):
      slopes = quick.jit(jax.grad(
          lambda pair: -jax.nn.log_softmax(
              on.logits * pair[0][None] + pair[1][None])[
                  np.arange(300), on.labels].mean()))((scale, shift))
    np.testing.assert_allclose(np.stack(slopes), 0, atol=1e-10)

  def test_logits_of_any_size(self):
    """Logits of CLIP lie far from zero, by an offset of all of them."""
    on = made.evidence(0)
    scale, shift = vector.fit_vector(on.logits, on.labels)
    other, _ = vector.fit_vector(1e3 * on.logits + 1e5, on.labels)
    np.testing.assert_allclose(1e3 * other, scale, rtol=1e-6)
    half = on.logits.astype(np.float32)
    np.testing.assert_allclose(
        vector.fit_vector(half, on.labels)[1], shift, atol=1e-4)

  @pytest.mark.slow
  def test_what_needs_no_change(self):
    """Labels drawn from the softmax: close to one and zero."""
    on = made.evidence(0, 20_000, factor=1.)
    fitted = np.concatenate(vector.fit_vector(on.logits, on.labels))
    # Standard errors by the curvature of the loss, which shifts all of a kind
    # leave alone.
    probs = special.softmax(on.logits, axis=1)
    features = np.concatenate(
        [np.einsum("nk,kj->nkj", on.logits, np.eye(4)),
         np.broadcast_to(np.eye(4), (20_000, 4, 4))], axis=2)
    features -= np.einsum("nk,nkp->np", probs, features)[:, None]
    information = np.einsum("nk,nkp,nkq->pq", probs, features, features,
                            optimize=True)
    off = fitted - np.repeat([1, 0], 4)
    off[4:] -= off[4:].mean()
    np.testing.assert_array_less(np.abs(off), error_bars.LEVEL * np.sqrt(
        np.diag(np.linalg.pinv(information))))


class FitTest(absltest.TestCase):

  def _left_alone(self, message, logits, labels):
    one = vector.Vector().recalibrator()
    fit = one.fit(base.Evidence(logits, labels))
    note, = fit.notes
    self.assertRegex(note, message)
    self.assertIs(one.apply(fit.parameters, base.Evidence(logits)), logits)

  def test_a_class_without_images(self):
    on = made.evidence(0)
    self._left_alone("1 of 4 classes have no image among the 300", on.logits,
                     np.minimum(on.labels, 2))

  def test_classes_told_apart_without_an_error(self):
    on = made.evidence(0)
    self._left_alone("told apart without an error.*more labelled images",
                     on.logits, on.logits.argmax(-1))
    # One of them is enough: the lower its shift with all others', the better.
    logits = np.array(on.logits)
    logits[:, 3] = np.where(on.labels == 3, 50., -50.)
    self._left_alone("determine no scale and shift", logits, on.labels)

  def test_equal_logits(self):
    on = made.evidence(0)
    self._left_alone("determine no scale", np.ones((300, 4)), on.labels)
    logits = np.array(on.logits)
    logits[:, 1] = 3.
    self._left_alone("determine no scale", logits, on.labels)

  def test_few_images(self):
    logits = np.array([[1., 3, 1], [2, 1, 2], [1, 0, 1], [2, 2, 3], [0, 1, 3]])
    for repeats, notes in ((1, 1), (2, 0)):
      fit = vector.fit(base.Evidence(
          np.tile(logits, (repeats, 1)), np.tile([0, 1, 2, 0, 2], repeats)))
      self.assertSetEqual(set(fit.parameters), {"scale", "shift"})
      self.assertLen(fit.notes, notes)
      if notes:
        self.assertIn("6 numbers, but was fitted to 5 images", fit.notes[0])


if __name__ == "__main__":
  absltest.main()
