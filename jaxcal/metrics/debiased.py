"""Binned calibration errors without the bias of finite samples.

The plain error of a bin is the size of a difference of means, and noise alone
makes it positive. What a perfectly calibrated model shows of it is
`calibration.calibration_floor`; here most of it is taken off bin by bin. The
square of "l2" is without bias before it is cut at zero. With "l1" the bias
vanishes where gaps are larger than their noise; of a calibrated model's, 59 %
are left.
"""

import math

import jax
import jax.numpy as jnp

from jaxcal.compiled import compiled_with
from jaxcal.metrics import binning
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Values


def debiased_calibration_error(
    confidence: Values,
    correct: Values,
    *,
    num_bins: int = 20,
    edges: str = "right",
    norm: str = "l1",
    weights: Values | None = None,
) -> Float[Array, ""]:
  """Calibration error less its bias in samples of this size, a fraction.

  Args:
    confidence: Probability of the predicted class, in [0, 1].
    correct: Whether the prediction is right, as booleans or as 0 and 1.
    num_bins: Bins of equal width.
    edges: Edge that belongs to a bin, "right" or "left".
    norm: Norm, "l1" or "l2"; see `debiased_error`.
    weights: Multiplicity of each example; one if None. A bootstrap resample
      repeats examples, so that its bins seem larger than they are; the
      correction is then too small.

  Returns:
    Error at most one; with "l1" negative where the gaps are smaller than the
    noise of their bins would make them.

  Raises:
    ValueError: As `calibration.expected_calibration_error`.
  """
  return debiased_error(
      binning.bin_statistics(
          confidence, correct, num_bins=num_bins, edges=edges, weights=weights),
      norm=norm)


@compiled_with("norm")
def debiased_error(
    bins: binning.BinStatistics, *, norm: str = "l1") -> Float[Array, ""]:
  r"""Debiased calibration error of bins, however they were made.

  With "l2" the expected square of the noise leaves the square of each gap:

  .. math:: \sqrt{\max\Big(0, \sum_b \frac{n_b}{N} \Big(\mathrm{gap}_b^2 -
            \frac{\mathrm{acc}_b (1 - \mathrm{acc}_b)}{n_b - 1}\Big)\Big)}

  A bin of one example tells nothing and counts as zero. With "l1" the gap
  plus Gaussian noise of the standard error of its accuracy is on average
  larger than the gap, and that excess is taken off once:

  .. math:: \sum_b \frac{n_b}{N} \big(2 |\mathrm{gap}_b| -
            \mathrm{E} |\mathrm{gap}_b + \mathrm{noise}_b|\big)

  Args:
    bins: Bins from `binning`, or a sum of such.
    norm: Norm, "l1" or "l2".

  Returns:
    Error at most one, a fraction.

  Raises:
    ValueError: An unknown `norm`.

  Source: Kumar et al., Verified Uncertainty Calibration, NeurIPS 2019,
  p-lambda/verified_calibration.
  Differs from the released code in: the mean over noise, which is drawn there,
  has a closed form; bins of one example, which the l1 form refuses there, are
  left as they are.
  """
  count = jnp.where(bins.count > 0, bins.count, 1)
  share = bins.count / jnp.sum(bins.count)
  accuracy = bins.correct_sum / count
  gap = jnp.abs(bins.confidence_sum - bins.correct_sum) / count
  spread = jnp.maximum(accuracy * (1 - accuracy), 0)
  if norm == "l2":
    square = jnp.square(gap) - spread / jnp.where(count > 1, count - 1, 1)
    square = jnp.where(bins.count > 1, square, 0)
    return jnp.sqrt(jnp.maximum(jnp.sum(share * square), 0))
  if norm == "l1":
    return jnp.sum(share * (2 * gap - _folded_mean(
        gap, jnp.sqrt(spread / count))))
  raise ValueError(f"unknown {norm=}; choose from: l1, l2.")


def _folded_mean(mean, deviation):
  """The mean size of a Gaussian number."""
  ratio = mean / jnp.where(deviation > 0, deviation, 1)
  density = math.sqrt(2 / math.pi) * jnp.exp(-jnp.square(ratio) / 2)
  folded = deviation * density + mean * jax.lax.erf(ratio / math.sqrt(2))
  return jnp.where(deviation > 0, folded, mean)
