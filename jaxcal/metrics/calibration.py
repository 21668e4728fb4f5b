"""Calibration errors of the predicted class, and of all classes.

An error without its conventions is not a number: state bin count, edge side and
norm with it. The defaults are those of the test-time tuning papers: 20 bins of
equal width, right-closed, L1. Everything is a fraction, not percent, and is
computed over a whole test set; errors of parts do not average to it, but their
`binning.BinStatistics` add up.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcal.compiled import compiled
from jaxcal.compiled import compiled_with
from jaxcal.metrics import binning
from jaxcal.metrics import examples
from jaxcal.typing import Array
from jaxcal.typing import at_least_float32
from jaxcal.typing import Float
from jaxcal.typing import Key
from jaxcal.typing import Labels
from jaxcal.typing import Scores
from jaxcal.typing import Values


class Errors(NamedTuple):
  """What one binning says, each a fraction; see the functions named after it.

  Attributes:
    expected: ECE, norm "l1".
    root_mean_square: RMSCE, norm "l2".
    maximum: MCE, norm "max".
    largest_contribution: Largest term of the ECE, `max_bin_contribution`.
    average: Mean gap of the bins with examples, `average_calibration_error`.
    over: Part of the ECE from over-confident bins, `overconfidence_error`.
    under: Part of the ECE from the others, `underconfidence_error`.
    confidence_weighted_over: The first of the two weighted by confidence,
      `confidence_weighted_overconfidence_error`.
    gap: Mean confidence minus accuracy, `confidence_gap`.
  """

  expected: Float[Array, ""]
  root_mean_square: Float[Array, ""]
  maximum: Float[Array, ""]
  largest_contribution: Float[Array, ""]
  average: Float[Array, ""]
  over: Float[Array, ""]
  under: Float[Array, ""]
  confidence_weighted_over: Float[Array, ""]
  gap: Float[Array, ""]


def expected_calibration_error(
    confidence: Values,
    correct: Values,
    *,
    num_bins: int = 20,
    edges: str = "right",
    norm: str = "l1",
    weights: Values | None = None,
) -> Float[Array, ""]:
  r"""Expected calibration error (ECE), a fraction.

  .. math:: \sum_b \frac{n_b}{N} |\mathrm{acc}_b - \mathrm{conf}_b|

  Args:
    confidence: Probability of the predicted class, in [0, 1].
    correct: Whether the prediction is right, as booleans or as 0 and 1.
    num_bins: Bins of equal width.
    edges: Edge that belongs to a bin, "right" as in the test-time tuning
      papers or "left"; 0 and 1 are always counted.
    norm: Norm, "l1"; "l2" for the root of the weighted mean square; "max" for
      the largest gap of a bin (see `maximum_calibration_error`).
    weights: Multiplicity of each example; one if None.

  Returns:
    Error in [0, 1]; biased upwards in small samples (`calibration_floor`).

  Raises:
    ValueError: An unknown `edges` or `norm`, wrong shapes, or (where not
      traced) a confidence outside [0, 1] or NaN, or anything but hits as
      `correct`, such as class labels.

  Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
  Differs from the released code of C-TPT, O-TPT, A-TPT and FPP in: a confidence
  of zero is counted, in the first bin.
  """
  return calibration_error(
      binning.bin_statistics(
          confidence, correct, num_bins=num_bins, edges=edges, weights=weights),
      norm=norm)


def maximum_calibration_error(
    confidence: Values,
    correct: Values,
    *,
    num_bins: int = 20,
    edges: str = "right",
    weights: Values | None = None,
) -> Float[Array, ""]:
  """Maximum calibration error (MCE): largest gap of a bin, a fraction.

  Args, errors and range as for `expected_calibration_error`, of which it is the
  norm "max". One example alone in a bin can decide it.

  Source: Guo et al. 2017. Some released programs print `max_bin_contribution`
  under this name.
  """
  return expected_calibration_error(
      confidence, correct, num_bins=num_bins, edges=edges, norm="max",
      weights=weights)


def max_bin_contribution(
    confidence: Values,
    correct: Values,
    *,
    num_bins: int = 20,
    edges: str = "right",
    weights: Values | None = None,
) -> Float[Array, ""]:
  """Largest contribution of one bin to the ECE, a fraction in [0, ECE].

  Args and errors as for `expected_calibration_error`.

  Source: ml-stat-Sustech/CLIP_Calibration @5b68fb1, where it is called MCE.
  Differs from the released code in: a confidence of one is counted.
  """
  return errors_of(binning.bin_statistics(
      confidence, correct, num_bins=num_bins, edges=edges,
      weights=weights)).largest_contribution


def average_calibration_error(
    confidence: Values,
    correct: Values,
    *,
    num_bins: int = 20,
    edges: str = "right",
    weights: Values | None = None,
) -> Float[Array, ""]:
  """Average gap of the bins that hold examples, a fraction in [0, 1].

  Args and errors as for `expected_calibration_error`. All bins count alike,
  however few examples they hold.

  Source: Neumann et al., Relaxed Softmax, NeurIPS workshop 2018 (netcal: ACE).
  """
  return errors_of(binning.bin_statistics(
      confidence, correct, num_bins=num_bins, edges=edges,
      weights=weights)).average


def overconfidence_error(
    confidence: Values,
    correct: Values,
    *,
    num_bins: int = 20,
    edges: str = "right",
    weights: Values | None = None,
) -> Float[Array, ""]:
  """Part of the ECE from bins with confidence above accuracy, a fraction.

  Args and errors as for `expected_calibration_error`; together with
  `underconfidence_error` it makes the ECE.
  """
  return errors_of(binning.bin_statistics(
      confidence, correct, num_bins=num_bins, edges=edges,
      weights=weights)).over


def underconfidence_error(
    confidence: Values,
    correct: Values,
    *,
    num_bins: int = 20,
    edges: str = "right",
    weights: Values | None = None,
) -> Float[Array, ""]:
  """Part of the ECE from bins with confidence below accuracy, a fraction.

  Args and errors as for `expected_calibration_error`; together with
  `overconfidence_error` it makes the ECE.
  """
  return errors_of(binning.bin_statistics(
      confidence, correct, num_bins=num_bins, edges=edges,
      weights=weights)).under


def confidence_weighted_overconfidence_error(
    confidence: Values,
    correct: Values,
    *,
    num_bins: int = 20,
    edges: str = "right",
    weights: Values | None = None,
) -> Float[Array, ""]:
  r"""Over-confidence of each bin, times its mean confidence, a fraction.

  .. math:: \sum_b \frac{n_b}{N} \mathrm{conf}_b
            \max(\mathrm{conf}_b - \mathrm{acc}_b, 0)

  Args and errors as for `expected_calibration_error`. At most
  `overconfidence_error`, which does not punish confidence by itself.

  Source: Thulasidasan et al., On Mixup Training, NeurIPS 2019 (OE).
  """
  return errors_of(binning.bin_statistics(
      confidence, correct, num_bins=num_bins, edges=edges,
      weights=weights)).confidence_weighted_over


def adaptive_calibration_error(
    confidence: Values,
    correct: Values,
    *,
    num_bins: int = 20,
    rule: str = "quantile",
    norm: str = "l1",
    weights: Values | None = None,
) -> Float[Array, ""]:
  """Calibration error with bins of equal mass, a fraction in [0, 1].

  Args and errors as for `expected_calibration_error`, and `rule`, which says
  how the bins are cut: see `binning.equal_mass_bin_statistics`, also for the
  sources. Which one was used belongs to the number as the number of bins does.
  """
  return calibration_error(
      binning.equal_mass_bin_statistics(
          confidence, correct, num_bins=num_bins, rule=rule, weights=weights),
      norm=norm)


def classwise_calibration_error(
    probs: Scores,
    labels: Labels,
    *,
    num_bins: int = 20,
    edges: str = "right",
    norm: str = "l1",
    weights: Values | None = None,
) -> Float[Array, ""]:
  """Mean over classes of the calibration error of each class's probability.

  Args, errors and source as for `classwise_calibration_errors`.

  Returns:
    Error in [0, 1], a fraction. Where the classes are many, most probabilities
    are near zero and so are most of the errors that it averages.
  """
  return _mean(classwise_calibration_errors(
      probs, labels, num_bins=num_bins, edges=edges, norm=norm,
      weights=weights))


def classwise_calibration_errors(
    probs: Scores,
    labels: Labels,
    *,
    num_bins: int = 20,
    edges: str = "right",
    norm: str = "l1",
    weights: Values | None = None,
) -> Float[Array, "k"]:
  """Calibration error of each class's probability, one for each class.

  For class k the probabilities p_k of all examples are binned and compared with
  how often k is the label.

  Args:
    probs: Probabilities, one row per example.
    labels: True classes.
    num_bins: Bins of equal width.
    edges: Edge that belongs to a bin, "right" or "left".
    norm: Norm as for `expected_calibration_error`.
    weights: Multiplicity of each example; one if None.

  Returns:
    Errors in [0, 1], fractions.

  Raises:
    ValueError: As `expected_calibration_error`, and for labels out of range.
    TypeError: `labels` are not integers.

  Source: Kull et al., Beyond Temperature Scaling, NeurIPS 2019; with 15 bins
  the one of Bala93/CLIPCalib. Called static calibration error (SCE) elsewhere.
  Differs from the released code in: nothing.
  """
  bins = binning.classwise_bin_statistics(
      probs, labels, num_bins=num_bins, edges=edges, weights=weights)
  return _errors_of_classes(bins, norm=norm)


def confidence_gap(
    confidence: Values,
    correct: Values,
    *,
    weights: Values | None = None,
) -> Float[Array, ""]:
  """Mean confidence minus accuracy, a fraction in [-1, 1].

  Positive for an over-confident model. Its size is at most the ECE.

  Raises:
    ValueError: As `expected_calibration_error`.
  """
  return errors_of(binning.bin_statistics(
      confidence, correct, num_bins=1, weights=weights)).gap


def calibration_floor(
    confidence: Values,
    *,
    key: Key[Array, ""],
    num_samples: int = 200,
    num_bins: int = 20,
    edges: str = "right",
) -> Float[Array, ""]:
  """Mean ECE of a perfectly calibrated model with these confidences.

  The ECE of a finite test set is above zero even where every confidence is
  right, and the more so the fewer examples and the more bins there are. Here
  correctness is drawn with exactly the stated probability, again and again. An
  ECE near this value shows no miscalibration; do not subtract it from one,
  since the bias fades as the true error grows.

  Args:
    confidence: Probability of the predicted class, in [0, 1].
    key: Typed key.
    num_samples: Number of drawn test sets.
    num_bins: Bins of equal width.
    edges: Edge that belongs to a bin, "right" or "left".

  Returns:
    Mean of the drawn errors, a fraction in [0, 1].

  Raises:
    ValueError: As `expected_calibration_error`, or `num_samples` below one.

  Source: Bröcker and Smith, Increasing the Reliability of Reliability Diagrams,
  2007 (consistency resampling, here with the confidences held fixed).
  """
  if num_samples < 1:
    raise ValueError(f"num_samples must be at least one, but {num_samples=}.")
  confidence = examples.as_array(confidence)
  examples.check_probabilities(confidence, name="confidence")
  return _floor(confidence, key, num_samples=num_samples, num_bins=num_bins,
                edges=edges)


@compiled_with("num_samples", "num_bins", "edges")
def _floor(confidence, key, *, num_samples, num_bins, edges):
  """The mean of the drawn errors."""
  confidence = at_least_float32(confidence)

  def drawn_error(one):
    correct = jax.random.uniform(
        one, confidence.shape, confidence.dtype) < confidence
    return expected_calibration_error(
        confidence, correct, num_bins=num_bins, edges=edges)

  keys = jax.random.split(key, num_samples)
  errors = jax.lax.map(drawn_error, keys, batch_size=min(50, num_samples))
  return jnp.mean(errors)


@compiled_with("norm")
def calibration_error(
    bins: binning.BinStatistics, *, norm: str = "l1") -> Float[Array, ""]:
  """Calibration error from the statistics of bins, however they were made.

  Args:
    bins: Bins from `binning`, or a sum of such.
    norm: Norm, "l1", "l2" or "max" over the gaps, weighted by the share of the
      bin except for "max".

  Returns:
    Error in [0, 1], a fraction; NaN (for "max": zero) if all bins are empty.

  Raises:
    ValueError: An unknown `norm`.
  """
  if norm == "l1":
    return jnp.sum(jnp.abs(_contributions(bins)))
  if norm == "l2":
    share = bins.count / jnp.sum(bins.count)
    return jnp.sqrt(jnp.sum(share * jnp.square(_gaps(bins))))
  if norm == "max":
    return jnp.max(jnp.abs(_gaps(bins)))
  raise ValueError(f"unknown {norm=}; choose from: l1, l2, max.")


@compiled
def errors_of(bins: binning.BinStatistics) -> Errors:
  """All errors of one binning, such as a sum of statistics of parts.

  Args:
    bins: Bins from `binning`, or a sum of such.
  """
  terms, filled = _contributions(bins), (bins.count > 0)
  over = jnp.maximum(terms, 0)
  mean = bins.confidence_sum / jnp.where(filled, bins.count, 1)
  return Errors(
      expected=calibration_error(bins, norm="l1"),
      root_mean_square=calibration_error(bins, norm="l2"),
      maximum=calibration_error(bins, norm="max"),
      largest_contribution=jnp.max(jnp.abs(terms)),
      average=(jnp.sum(jnp.abs(_gaps(bins))) /
               jnp.sum(filled.astype(bins.count.dtype))),
      over=jnp.sum(over),
      under=jnp.sum(jnp.maximum(-terms, 0)),
      confidence_weighted_over=jnp.sum(mean * over),
      gap=jnp.sum(terms))


@compiled_with("norm")
def _errors_of_classes(bins, *, norm):
  return jax.vmap(lambda one: calibration_error(one, norm=norm))(bins)


@compiled
def _mean(values):
  return jnp.mean(values)


def _gaps(bins):
  """Confidence minus accuracy of each bin, zero in an empty one."""
  count = jnp.where(bins.count > 0, bins.count, 1)
  return (bins.confidence_sum - bins.correct_sum) / count


def _contributions(bins):
  """Confidence minus accuracy of each bin, times its share of the examples."""
  return (bins.confidence_sum - bins.correct_sum) / jnp.sum(bins.count)
