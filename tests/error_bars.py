"""Standard errors of what is drawn, so that tests need no lucky seed.

A right program fails a comparison within `LEVEL` standard errors in one of 1.7
million (normal errors), and a `binomial_band` in one of a million.
"""

import numpy as np
from scipy import stats

LEVEL = 5
_CHANCE = 1e-6


def of_mean(draws):
  """Standard errors of means over the first axis."""
  draws = np.asarray(draws, np.float64)
  return draws.std(0, ddof=1) / len(draws)**0.5


def of_variance(draws):
  """Standard errors of variances over the first axis, of any distribution."""
  draws = np.asarray(draws, np.float64)
  squares = np.square(draws - draws.mean(0))
  return of_mean(squares)


def assert_means(draws, expected, *, rounding=0.0):
  """Means over the first axis are the expected ones, within their errors."""
  draws = np.asarray(draws, np.float64)
  off = np.abs(draws.mean(0) - expected)
  np.testing.assert_array_less(off, LEVEL * of_mean(draws) + rounding + 1e-300)


def assert_variances(draws, expected, *, rounding=0.0):
  """The same of variances."""
  draws = np.asarray(draws, np.float64)
  off = np.abs(draws.var(0, ddof=1) - expected)
  np.testing.assert_array_less(
      off, LEVEL * of_variance(draws) + rounding + 1e-300)


def binomial_band(number, share):
  """Least and most hits of `number` at a chance of `share`, all but always."""
  law = stats.binom(number, share)
  return int(law.ppf(_CHANCE / 2)), int(law.isf(_CHANCE / 2))


def of_quantile(number, share, deviation):
  """Standard error of a quantile of `number` nearly normal draws."""
  density = stats.norm.pdf(stats.norm.ppf(share)) / deviation
  return (share * (1 - share) / number)**0.5 / density


def assert_normal(draws, deviation):
  """Independent draws may be normal, of mean zero and this deviation."""
  draws = np.ravel(draws).astype(np.float64) / deviation
  law = stats.chi2(draws.size)
  low, high = law.ppf(_CHANCE / 2), law.isf(_CHANCE / 2)
  assert low <= np.sum(draws**2) <= high, (draws.std(), low, high)
  assert abs(draws.sum()) <= LEVEL * draws.size**0.5, draws.mean()


def assert_uniform(draws, bound):
  """Independent draws may be uniform from -bound to bound."""
  draws = np.ravel(draws).astype(np.float64) / bound
  largest = np.abs(draws).max()
  assert _CHANCE**(1 / draws.size) <= largest <= 1 + 1e-6, largest
  assert stats.kstest(draws, stats.uniform(-1, 2).cdf).pvalue > _CHANCE
