"""Calibration errors of the predicted class without bins.

They have no bins to be chosen and no edges on which a confidence may fall.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.compiled import compiled
from jaxcal.metrics import binning
from jaxcal.metrics import ranks
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Number
from jaxcal.typing import Values

# Cosines of the smoothed gap, and points at which it is taken. With this many a
# kernel of width 0.002 is exact to 1e-9, and a wider one to rounding.
_NUM_TERMS = 1024
_NUM_POINTS = 4097
_NUM_HALVINGS = 40


def kolmogorov_smirnov_error(
    confidence: Values,
    correct: Values,
    *,
    weights: Values | None = None,
) -> Float[Array, ""]:
  r"""Largest difference of the summed confidences and hits (KS), a fraction.

  .. math:: \max_t \frac{1}{N} \Big|\sum_{i: c_i \le t} (c_i - a_i)\Big|

  Args:
    confidence: Probability of the predicted class, in [0, 1].
    correct: Whether the prediction is right, as booleans or as 0 and 1.
    weights: Multiplicity of each example; one if None.

  Returns:
    Error in [0, 1], at least the size of `calibration.confidence_gap`. Equal
    to it where the model is over-confident, or under-confident, throughout.

  Raises:
    ValueError: As `calibration.expected_calibration_error`.

  Source: Gupta et al., Calibration of Neural Networks using Splines, ICLR 2021.
  """
  return _largest_sum(binning.checked(confidence, correct, weights))


@compiled
def _largest_sum(seen):
  values, hits, mass = seen
  gaps = ranks.at_least(-values, mass * (values - hits))
  return jnp.max(jnp.where(mass > 0, jnp.abs(gaps), 0)) / jnp.sum(mass)


def smooth_calibration_error(
    confidence: Values,
    correct: Values,
    *,
    bandwidth: Number | None = None,
    weights: Values | None = None,
) -> Float[Array, ""]:
  r"""Smooth calibration error (smECE), a fraction.

  .. math:: \int_0^1 \Big|\frac{1}{N} \sum_i (a_i - c_i) K(t, c_i)\Big| dt

  with a Gaussian kernel K of the given width, reflected at 0 and 1 so that no
  mass is lost. The wider it is, the smaller the error.

  Args:
    confidence: Probability of the predicted class, in [0, 1].
    correct: Whether the prediction is right, as booleans or as 0 and 1.
    bandwidth: Width of the kernel, at least 0.002; if None, the one to which
      the error is equal, the choice of the source.
    weights: Multiplicity of each example; one if None.

  Returns:
    Error in [0, 1]. Without a bandwidth it depends continuously on the
    confidences and has no free parameter; below 0.002 it is not resolved.

  Raises:
    ValueError: As `calibration.expected_calibration_error`, or (where not
      traced) a bandwidth that is too small.

  Source: Blasiok and Nakkiran, Smooth ECE, ICLR 2024 (relplot).
  Differs from the released code in: the integral is taken to five digits or
  more; 200 points there differ from it by up to 3e-3.
  """
  seen = binning.checked(confidence, correct, weights)
  if bandwidth is not None and not isinstance(bandwidth, jax.core.Tracer):
    if not float(bandwidth) >= 0.002:
      raise ValueError(f"bandwidth must be at least 0.002, but {bandwidth=}.")
  return _smooth(seen, bandwidth)


@compiled
def _smooth(seen, bandwidth):
  """The error at a width; at the one that it is equal to, if None."""
  values, hits, mass = seen
  terms = _cosine_terms(values, mass * (hits - values) / jnp.sum(mass))
  if bandwidth is not None:
    return _smoothed_area(terms, bandwidth)

  # The area falls as the width grows, so that they meet once.
  def halve(_, ends):
    low, high = ends
    middle = (low + high) / 2
    above = _smoothed_area(terms, middle) > middle
    return jnp.where(above, middle, low), jnp.where(above, high, middle)

  zero = jnp.zeros((), terms.dtype)
  low, high = jax.lax.fori_loop(0, _NUM_HALVINGS, halve, (zero, zero + 1))
  return (low + high) / 2


def maximum_mean_calibration_error(
    confidence: Values,
    correct: Values,
    *,
    bandwidth: float = 0.4,
    weights: Values | None = None,
) -> Float[Array, ""]:
  r"""Maximum mean calibration error (MMCE), a fraction.

  .. math:: \sqrt{\frac{1}{N^2} \sum_{i,j} (c_i - a_i) (c_j - a_j)
            e^{-|c_i - c_j| / \mathrm{bandwidth}}}

  Args:
    confidence: Probability of the predicted class, in [0, 1].
    correct: Whether the prediction is right, as booleans or as 0 and 1.
    bandwidth: Width of the Laplacian kernel, positive.
    weights: Multiplicity of each example; one if None.

  Returns:
    Error in [0, 1], with the pairs of an example and itself, as published:
    above zero in a finite sample of a calibrated model. Time and memory grow as
    the number of examples, not of pairs.

  Raises:
    ValueError: As `calibration.expected_calibration_error`, or a bandwidth
      that is not positive.

  Source: Kumar et al., Trainable Calibration Measures for Neural Networks from
  Kernel Mean Embeddings, ICML 2018.
  """
  if not bandwidth > 0:
    raise ValueError(f"bandwidth must be positive, but {bandwidth=}.")
  return _mean_square(
      binning.checked(confidence, correct, weights), bandwidth)


@compiled
def _mean_square(seen, bandwidth):
  """The root of the mean over all pairs."""
  values, hits, mass = seen
  order = jnp.argsort(values)
  values, gaps = values[order], (mass * (values - hits))[order]
  # Sum over all earlier ones, decayed by their distance: no number grows.
  decay = jnp.exp(-jnp.diff(values, prepend=values[:1]) / bandwidth)

  def join(first, second):
    return first[0] * second[0], first[1] * second[0] + second[1]

  _, sums = jax.lax.associative_scan(join, (decay, gaps))
  square = jnp.sum(gaps * (2 * sums - gaps)) / jnp.square(jnp.sum(mass))
  return jnp.sqrt(jnp.maximum(square, 0))


def _cosine_terms(values, gaps):
  """Sums of the gaps times cosines of the values, of all frequencies.

  A frequency is a multiple of the square root of their number and a rest: the
  cosine of the sum is made of those of both, and these are few.
  """
  step = math.isqrt(_NUM_TERMS)
  rests = jnp.asarray(np.pi * np.arange(step), values.dtype)
  angles = rests[:, None] * values[None]
  cosines, sines = jnp.cos(angles), jnp.sin(angles)

  def of_multiple(angle):
    return (_product(cosines, gaps * jnp.cos(angle * values))
            - _product(sines, gaps * jnp.sin(angle * values)))

  return jax.lax.map(of_multiple, rests * step).reshape(-1)


def _product(matrix, vector):
  return jnp.matmul(matrix, vector, precision=jax.lax.Precision.HIGHEST)


def _smoothed_area(terms, bandwidth):
  """Area under the smoothed gap: the reflected kernel damps each cosine."""
  angles = jnp.asarray(np.pi * np.arange(_NUM_TERMS), terms.dtype)
  damped = jnp.exp(-jnp.square(angles * bandwidth) / 2) * terms
  # The cosines' sum at equidistant points is half of a Fourier transform.
  length = 2 * (_NUM_POINTS - 1)
  gaps = length * jnp.fft.irfft(damped, length)[:_NUM_POINTS]
  return jnp.trapezoid(jnp.abs(gaps), dx=1 / (_NUM_POINTS - 1))
