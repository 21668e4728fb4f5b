"""Means over sets: against plain numpy, and what they refuse."""

import math

from absl.testing import absltest
import numpy as np
from scipy import stats

from jaxcal import stages
from jaxcal.report import aggregate
from jaxcal.report import resampled
from jaxcal.report import summary
from tests import error_bars

_A, _B, _C = map(stages.Stages, ("tpt", "soc", "mta"))
_CONVENTIONS = summary.Conventions(num_resamples=500)


def _entry(data, method, values, ids=None, seed=0):
  """NLLs of images on resamples that depend on their number alone."""
  n = len(values)
  counts = np.random.default_rng(seed).multinomial(
      n, np.full(n, 1 / n), 500) / n
  return aggregate.Entry(data, method, resampled.Resampled(
      ("nll",), np.array([np.mean(values)]), (counts @ values)[:, None], ids))


def _images(seed, n=60):
  return np.random.default_rng(seed).gamma(2, size=n)


class MeansTest(absltest.TestCase):

  def test_means_differences_and_winners(self):
    digits, shapes = _images(1), _images(2, 90)
    entries = [_entry("digits", _A, digits), _entry("shapes", _A, shapes),
               _entry("digits", _B, digits + 0.1 * _images(3)),
               _entry("shapes", _B, shapes + 0.1 * _images(4, 90))]
    first, second = aggregate.means(entries, _CONVENTIONS, {_B: _A})
    self.assertEqual((first["method"], second["method"]), ("tpt", "soc"))
    self.assertEqual(first["sets"], 2)
    self.assertAlmostEqual(first["nll"], (digits.mean() + shapes.mean()) / 2)
    # Two standard errors of the mean of two independent means.
    error = math.hypot(digits.std() / math.sqrt(60),
                       shapes.std() / math.sqrt(90)) / 2
    width = first["nll_high"] - first["nll_low"]
    # Either end is of 500 resamples.
    self.assertAlmostEqual(
        width, 2 * stats.norm.ppf(0.975) * error,
        delta=error_bars.LEVEL * 2**0.5 * error_bars.of_quantile(
            500, 0.025, error))
    self.assertEqual((first["best"], second["best"]), (["nll"], []))
    self.assertEqual(second["reference"], "tpt")
    self.assertAlmostEqual(
        second["nll_difference"], second["nll"] - first["nll"])
    self.assertGreater(second["nll_difference_low"], 0)
    self.assertAlmostEqual(second["nll_difference_p"], 2 / 501)
    self.assertNotIn("reference", first)

  def test_p_values_are_of_the_whole_table(self):
    values = _images(1)
    entries = [
        _entry(data, method, values + shift)
        for method, shift in ((_A, 0), (_B, _images(2)), (_C, _images(3)))
        for data in ("digits", "shapes")]
    _, b, c = aggregate.means(entries, _CONVENTIONS, {_B: _A, _C: _A})
    self.assertAlmostEqual(b["nll_difference_p"], 4 / 501)
    self.assertAlmostEqual(c["nll_difference_p"], 4 / 501)

  def test_sets_of_one_size_vary_by_themselves(self):
    # With the draws in common, what one set gains the other would lose.
    values = _images(1)
    row, = aggregate.means([_entry("digits", _A, values),
                            _entry("shapes", _A, -values)], _CONVENTIONS)
    self.assertAlmostEqual(row["nll"], 0)
    one = resampled.score_row(_entry("digits", _A, values).sampled, 0.95)
    # Cut at zero: the upper half.
    self.assertAlmostEqual(
        row["nll_high"] / ((one["nll_high"] - one["nll_low"]) / 2),
        1 / math.sqrt(2), delta=0.1)

  def test_corruptions_of_the_same_images_vary_together(self):
    values, ids = _images(1), tuple(map(str, range(60)))
    row, = aggregate.means([_entry("digits", _A, values, ids),
                            _entry("digits-c", _A, -values, ids)], _CONVENTIONS)
    self.assertAlmostEqual(row["nll_high"], 0)

  def test_a_method_twice_and_gaps_are_refused(self):
    values = _images(1)
    digits = _entry("digits", _A, values)
    with self.assertRaisesRegex(ValueError, "tpt occurs twice on digits"):
      aggregate.means([digits, digits], _CONVENTIONS)
    entries = [digits, _entry("shapes", _A, values),
               _entry("shapes", _B, values), _entry("shades", _A, values)]
    with self.assertRaisesRegex(ValueError, "soc lacks digits, shades"):
      aggregate.means(entries, _CONVENTIONS)
    self.assertEqual(aggregate.gaps(entries), {_B: ["digits", "shades"]})

  def test_scores_that_a_set_lacks_have_no_mean(self):
    one = _entry("digits", _A, _images(1))
    other = one._replace(data="shapes", sampled=one.sampled._replace(
        names=("ece", "nll"), estimates=np.array([0.1, 1.0]),
        samples=np.concatenate(2 * [one.sampled.samples], axis=1)))
    row, = aggregate.means([one, other], _CONVENTIONS)
    self.assertNotIn("ece", row)
    self.assertNotIn("best", row)
    self.assertEmpty(aggregate.blocks([], _CONVENTIONS))


if __name__ == "__main__":
  absltest.main()
