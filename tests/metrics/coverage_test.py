"""How often intervals hold the truth, by simulation."""

import pathlib
import re

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcal
from jaxcal.metrics import binning
from jaxcal.metrics import calibration
from jaxcal.metrics import debiased
from jaxcal.metrics import scoring
from jaxcal.metrics import statistics
from jaxcal.report import summary
from tests import error_bars

_NAMES = ("accuracy", "nll", "brier", "ece", "debiased")
_NUM_RUNS, _NUM_IMAGES = 1000, 300


def _draw(key, n, temperature):
  """Images of ten classes and a model that is as confident as it says at 1."""
  logits_key, labels_key = jax.random.split(key)
  logits = 2.5 * jax.random.normal(logits_key, (n, 10))
  labels = jax.random.categorical(labels_key, logits)
  return logits / temperature, labels


def _values(logits, labels):
  """What each image contributes, and the statistic of weights."""
  probs = jax.nn.softmax(logits)
  seen = jnp.minimum(probs.max(-1), 1), scoring.correct(logits, labels)
  means = jnp.stack([seen[1].astype(float),
                     scoring.negative_log_likelihood(logits, labels),
                     scoring.brier_score(probs, labels)])

  def statistic(weights):
    bins = binning.bin_statistics(*seen, weights=weights)
    return jnp.concatenate([
        jnp.matmul(means, weights) / jnp.sum(weights),
        calibration.calibration_error(bins)[None],
        debiased.debiased_error(bins)[None]])

  return statistic


def coverage(temperature, *, num_runs=_NUM_RUNS, n=_NUM_IMAGES):
  """Share of the 95 % intervals that hold the value of all images.

  For the debiased error the interval is that of the plain one around it.
  """
  with jax.enable_x64(True):  # or sums over so many images lose digits
    truth = np.array(jax.jit(
        lambda key: _values(*_draw(key, 1_000_000, temperature))(
            jnp.ones(1_000_000)))(jax.random.key(0)), np.float32)
  truth[4] = truth[3]

  def one(key):
    data, resamples = jax.random.split(key)
    interval = statistics.bootstrap_interval(
        _values(*_draw(data, n, temperature)), n, key=resamples,
        num_samples=400, batch_size=200)
    shift = interval.estimate[4] - interval.estimate[3]
    low = interval.low.at[4].set(interval.low[3] + shift)
    high = interval.high.at[4].set(interval.high[3] + shift)
    return (low <= truth) & (truth <= high)

  held = jax.jit(lambda keys: jax.lax.map(one, keys))(
      jax.random.split(jax.random.key(1), num_runs))
  return dict(zip(_NAMES, np.asarray(held).mean(0).tolist()))


class CoverageTest(parameterized.TestCase):

  @parameterized.parameters("1", "0.85", "0.6")
  @pytest.mark.slow
  def test_means_are_covered_as_often_as_said(self, temperature):
    found = coverage(float(temperature))
    page = (pathlib.Path(__file__).resolve().parents[2] / "docs" /
            "metrics.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| {temperature} \(.*", page, re.MULTILINE)[0]
    # A standard error of a share of 1,000 is 1.6 % at most.
    np.testing.assert_allclose(
        [100 * found[name] for name in _NAMES],
        [float(cell) for cell in re.findall(r"([\d.]+) %", row)], atol=2.5)
    for name in ("accuracy", "nll", "brier"):
      self.assertBetween(round(found[name] * _NUM_RUNS), *error_bars
                         .binomial_band(_NUM_RUNS, 0.95), name)
    if temperature == "1":
      # The error is a bias alone, which no interval around it mends.
      self.assertLess(found["ece"], 0.1)
      self.assertGreater(found["debiased"], found["ece"] + 0.1)

  @pytest.mark.slow
  def test_rows_of_evaluate_cover_as_often_as_said(self):
    """As users call it, over 1,000 data sets of an over-confident model."""
    temperature, conventions = 0.85, summary.Conventions(num_resamples=300)
    draw = jax.jit(lambda key: _draw(key, _NUM_IMAGES, temperature))
    with jax.enable_x64(True):
      truth = np.asarray(jax.jit(
          lambda key: _values(*_draw(key, 1_000_000, temperature))(
              jnp.ones(1_000_000)))(jax.random.key(0)))
    held = np.zeros((_NUM_RUNS, 3), bool)
    for run, key in enumerate(jax.random.split(jax.random.key(2), _NUM_RUNS)):
      row, = jaxcal.evaluate(*draw(key), conventions=conventions).rows
      held[run] = [row[f"{name}_low"] <= value <= row[f"{name}_high"]
                   for name, value in zip(_NAMES[:3], truth)]
    for name, number in zip(_NAMES, held.sum(0)):
      self.assertBetween(
          number, *error_bars.binomial_band(_NUM_RUNS, 0.95), name)

  @pytest.mark.slow
  def test_exact_intervals_cover_at_least_as_often_as_said(self):
    for share in (0.02, 0.5, 0.97):
      hits = range(31)
      exact, score = ([statistics.proportion_interval(
          hit, 30, method=method) for hit in hits]
          for method in ("exact", "wilson"))
      chance = np.asarray([
          np.exp(jax.scipy.stats.binom.logpmf(hit, 30, share)) for hit in hits])
      covers = lambda intervals: sum(
          probability for probability, one in zip(chance, intervals)
          if one.low <= share <= one.high)
      self.assertGreaterEqual(covers(exact), 0.95)
      self.assertBetween(covers(score), 0.85, 1.0)


if __name__ == "__main__":
  absltest.main()
