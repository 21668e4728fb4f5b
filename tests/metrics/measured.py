"""What other programs measured of given probabilities, beside ours."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.metrics import binning
from jaxcal.metrics import calibration
from jaxcal.metrics import scoring


@functools.partial(jax.jit, static_argnames="num_bins")
def _errors(confidence, correct, *, num_bins):
  return calibration.errors_of(
      binning.bin_statistics(confidence, correct, num_bins=num_bins))


@jax.jit
def _scores(probs, labels):
  # The reference clips probabilities at 1e-12; the rows sum to one in float32
  # only.
  likelihood = scoring.negative_log_likelihood(
      jnp.log(probs), labels, clamp=1e-12)
  return (jnp.mean(scoring.brier_score(probs, labels)), jnp.mean(likelihood),
          scoring.accuracy(probs, labels))


def check(expected, probs, labels):
  """Asserts a record of expected_metrics.json: torchmetrics, netcal, NumPy."""
  confidence = np.max(probs, axis=-1)
  correct = np.argmax(probs, axis=-1) == labels
  for num_bins in (10, 15, 20):
    single = _errors(
        confidence.astype(np.float32), correct, num_bins=num_bins).expected
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(
        single, expected[f"ece_torchmetrics_{num_bins}"], rtol=0, atol=5e-6)
    with jax.enable_x64(True):
      errors = _errors(confidence.astype(float), correct, num_bins=num_bins)
    for ours, theirs in ((errors.expected, "ece"), (errors.maximum, "mce"),
                         (errors.average, "ace")):
      np.testing.assert_allclose(
          ours, expected[f"{theirs}_netcal_{num_bins}"], rtol=0, atol=1e-9)
  with jax.enable_x64(True):
    brier, likelihood, accuracy = _scores(
        np.asarray(probs, float), np.asarray(labels))
  np.testing.assert_allclose(brier, expected["brier_sum"], rtol=0, atol=1e-9)
  np.testing.assert_allclose(likelihood, expected["nll"], rtol=0, atol=2e-8)
  np.testing.assert_allclose(accuracy, expected["acc"], rtol=0, atol=1e-12)
