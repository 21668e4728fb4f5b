"""Moments of cosines under Gaussian embeddings, by quadrature in float64.

For a Gaussian x the direction u = x / |x| has the moments

  E u = 2 / sqrt(pi) int E[x exp(-t^2 |x|^2)] dt,
  E u u^T = 2 int t E[x x^T exp(-t^2 |x|^2)] dt    (t from 0 to infinity),

whose integrands are closed forms: exp(-t^2 |x|^2) leaves a Gaussian a Gaussian.
Image and text are independent, so the moments of their cosine follow exactly.
"""

from typing import NamedTuple

import numpy as np

# Of log(t |mean|): beyond, the integrands of embeddings that vary by less than
# a hundred times their norm are below the rounding.
_GRID = np.linspace(-38, 12, 2001)


class Moments(NamedTuple):
  """Of directions: means [n d] and second moments [n d d]."""

  mean: np.ndarray
  second: np.ndarray


def directions(means, spreads, covariance):
  """Moments of x / |x| for x of these means, and covariances spread * b."""
  values, vectors = np.linalg.eigh(np.asarray(covariance, np.float64))
  found = [_direction(mean @ vectors, spread * np.maximum(values, 0))
           for mean, spread in zip(np.asarray(means, np.float64),
                                   np.asarray(spreads, np.float64))]
  return Moments(
      np.stack([mean for mean, _ in found]) @ vectors.T,
      vectors @ np.stack([second for _, second in found]) @ vectors.T)


def cosines(images, texts, scale):
  """Means and variances [n k] of scaled cosines, for independent moments."""
  mean = images.mean @ texts.mean.T
  second = np.einsum("nij,kij->nk", images.second, texts.second)
  return scale * mean, scale**2 * (second - mean**2)


def of_posterior(images, texts, posterior, scale):
  """The same of `predictive.Embedding`s and their `laplace.Posterior`."""
  sides = [directions(*side, layer.b_inv)
           for side, layer in zip((images, texts), posterior)]
  return cosines(*sides, float(scale))


def _direction(mean, variances):
  """For independent coordinates of these means and variances."""
  t = np.exp(_GRID) / np.linalg.norm(mean)
  shrunk = 1 + 2 * np.square(t)[:, None] * variances
  weight = np.exp(-np.sum(np.log(shrunk) / 2 +
                          np.square(t[:, None] * mean) / shrunk, axis=1))
  weight *= (_GRID[1] - _GRID[0]) * t  # dt = t d log(t)
  moved = mean / shrunk
  first = 2 / np.sqrt(np.pi) * weight @ moved
  weight *= 2 * t
  second = (weight[:, None] * moved).T @ moved
  return first, second + np.diag(weight @ (variances / shrunk))
