"""Scores by which failures and images of no class are found, and how well.

A score is a confidence: high where the prediction is to be kept, or where the
image is of one of the classes; uncertainties enter negated. Two questions are
asked of it, each with a convention of its own:

- Failure prediction: among images of the classes, are right predictions above
  wrong ones? Positive is what is right.
- Detection: are images of the classes above others? Positive is what is in
  distribution. The logits must be those of the classes in distribution alone:
  drop the columns of the others first (`dropped` says why).

Logits are cosines times the logit scale, for CLIP's 100. A temperature fitted
to images changes the order of all scores here but `max_logit`; it belongs to
the number as the name of the score does.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.compiled import compiled
from jaxcal.metrics import examples
from jaxcal.metrics import selective
from jaxcal.typing import Array
from jaxcal.typing import at_least_float32
from jaxcal.typing import Float
from jaxcal.typing import Positions
from jaxcal.typing import Scores
from jaxcal.typing import Values

_P = ParamSpec("_P")
_R = TypeVar("_R")


class FailurePrediction(NamedTuple):
  """How well a score tells right predictions from wrong ones.

  Attributes:
    auroc: Probability that a right prediction has a higher score than a wrong
      one; how well a method ranks its own errors, however many they are.
    aupr_success: Average precision of right predictions; the accuracy for a
      score that tells nothing.
    aupr_error: Average precision of wrong predictions by the negated score; the
      error rate for a score that tells nothing.
    fpr95_success: Share of the wrong predictions kept where 95 % of the right
      ones are.
    fpr95_error: Share of the right predictions given up where 95 % of the wrong
      ones are.
    aurc: Area under the risk-coverage curve; has the accuracy in it.
    e_aurc: The same less that of the best order.
    augrc: Area under the generalised risk-coverage curve; has the accuracy in
      it.
  """

  auroc: Float[Array, ""]
  aupr_success: Float[Array, ""]
  aupr_error: Float[Array, ""]
  fpr95_success: Float[Array, ""]
  fpr95_error: Float[Array, ""]
  aurc: Float[Array, ""]
  e_aurc: Float[Array, ""]
  augrc: Float[Array, ""]


class Detection(NamedTuple):
  """How well a score tells images in distribution from others.

  Attributes:
    auroc: Probability that an image in distribution has a higher score than one
      out of it.
    aupr_in: Average precision of images in distribution; their share for a
      score that tells nothing.
    aupr_out: Average precision of the others by the negated score; their share
      for a score that tells nothing.
    fpr95_in: Share of the others kept where 95 % of the images in distribution
      are, as the papers on CLIP have it.
    fpr95_out: Share of the images in distribution given up where 95 % of the
      others are, as OpenOOD has it.
  """

  auroc: Float[Array, ""]
  aupr_in: Float[Array, ""]
  aupr_out: Float[Array, ""]
  fpr95_in: Float[Array, ""]
  fpr95_out: Float[Array, ""]


def _of_scores(function: Callable[_P, _R]) -> Callable[_P, _R]:
  """The function of arrays as one program, of scores that anything holds."""
  of_arrays: Callable[..., _R] = compiled(function)

  @functools.wraps(function)
  def of_any(*scores: _P.args, **named: _P.kwargs) -> _R:
    return of_arrays(
        *map(examples.as_array, scores),
        **{name: examples.as_array(one) for name, one in named.items()})

  return of_any


def failure_prediction(
    scores: Values, correct: Values, *, weights: Values | None = None
) -> FailurePrediction:
  """All measures of failure prediction by one score.

  Args:
    scores: High where the prediction is to be kept.
    correct: Whether the prediction is right, as booleans or as 0 and 1.
    weights: Multiplicity of each example; one if None.

  Returns:
    Fractions; NaN where all predictions are right, or wrong, and a measure
    needs both.

  Raises:
    ValueError: As `selective.roc_area`.

  Source: conventions of names, MCM (Ming et al., NeurIPS 2022) and OpenOOD.
  """
  return _failures(*selective.checked_groups(scores, correct, weights))


def detection(
    scores: Values,
    in_distribution: Values,
    *,
    weights: Values | None = None,
) -> Detection:
  """All measures of detection by one score.

  Args:
    scores: High where the image is of one of the classes.
    in_distribution: Whether it is, as booleans or as 0 and 1.
    weights: Multiplicity of each example; one if None.

  Returns:
    Fractions; NaN where there are no images of one of the two kinds.

  Raises:
    ValueError: As `selective.roc_area`.
  """
  return _found(*selective.checked_groups(scores, in_distribution, weights))


def dropped(
    logits: Scores, classes: Positions) -> Float[Array, "*n j"]:
  """Logits without some classes: those of a classifier that never knew them.

  Not so probabilities: those of dropped classes are what images of them have
  most of, and what is left then tells them by its sum. Nor may the classes be
  kept, for images of them are then in distribution.

  Args:
    logits: Logits, not probabilities.
    classes: Positions of the classes to be left out.

  Raises:
    ValueError: A position that is none, or no class left.
  """
  logits = examples.as_array(logits)
  num_classes = logits.shape[-1]
  out = {int(one) for one in classes}
  if not out <= set(range(num_classes)) or len(out) == num_classes:
    raise ValueError(
        f"some of the positions of {num_classes} classes are needed, but got "
        f"{sorted(out)}.")
  kept = [one for one in range(num_classes) if one not in out]
  return _columns(logits, np.asarray(kept))


@_of_scores
def max_softmax(logits: Scores) -> Float[Array, "*n"]:
  """Maximum softmax probability (MSP), as its log-odds.

  The order is that of the probability, and of DOCTOR's beta; other than a
  probability in float32, log-odds do not saturate at one and tie.

  Args:
    logits: Logits.

  Returns:
    Largest logit less the logsumexp of the others; infinite for one class.

  Source: Hendrycks and Gimpel, A Baseline for Detecting Misclassified and
  Out-of-Distribution Examples, ICLR 2017.
  """
  logits = _wide(logits)
  is_top = _top(logits)
  others = jax.nn.logsumexp(
      jnp.where(is_top, -jnp.inf, logits), axis=-1)
  return jnp.max(logits, axis=-1) - others


@_of_scores
def max_logit(logits: Scores) -> Float[Array, "*n"]:
  """Largest logit; strong in detection on some sets, weak for failures.

  Args:
    logits: Logits.

  Source: Hendrycks et al., Scaling Out-of-Distribution Detection, ICML 2022.
  """
  return jnp.max(_wide(logits), axis=-1)


def energy(
    logits: Scores, *, temperature: float = 1.0) -> Float[Array, "*n"]:
  """Negative free energy: T logsumexp(logits / T).

  Args:
    logits: Logits, with their scale: of cosines it is nearly their sum.
    temperature: Temperature T, positive.

  Raises:
    ValueError: A temperature that is not positive.

  Source: Liu et al., Energy-based Out-of-Distribution Detection, NeurIPS 2020.
  Differs from the paper in: the sign, so that high is in distribution.
  """
  _check_temperature(temperature)
  return _energy(examples.as_array(logits), temperature)


@_of_scores
def negative_entropy(logits: Scores) -> Float[Array, "*n"]:
  """Negative entropy of the softmax, in nats, at most zero.

  Args:
    logits: Logits; one of minus infinity is a class that is not there.
  """
  log_probs = jax.nn.log_softmax(_wide(logits), axis=-1)
  probs = jnp.exp(log_probs)
  return jnp.sum(jnp.where(probs > 0, probs * log_probs, 0), axis=-1)


def max_concept_matching(
    cosines: Scores, *, temperature: float = 1.0) -> Float[Array, "*n"]:
  """Maximum softmax of the cosines (MCM).

  Args:
    cosines: Cosines of image and text features, logits over the logit scale.
    temperature: Temperature of the softmax, positive. One over the logit scale
      gives the order of `max_softmax`; one, the published choice, probabilities
      so near to each other that half precision makes them equal.

  Raises:
    ValueError: A temperature that is not positive, or (where not traced)
      cosines that are none, such as logits.

  Source: Ming et al., Delving into Out-of-Distribution Detection with
  Vision-Language Representations, NeurIPS 2022.
  """
  _check_temperature(temperature)
  cosines = examples.as_array(cosines)
  if not examples.is_traced(cosines):
    sizes = np.abs(np.asarray(cosines))
    largest = sizes.max(where=np.isfinite(sizes), initial=0)
    if largest > 1 + 1e-3:
      raise ValueError("cosines must lie in [-1, 1], but the largest size is "
                       f"{largest:g}; divide logits by the logit scale.")
  return _largest_share(cosines, temperature)


@_of_scores
def margin(logits: Scores) -> Float[Array, "*n"]:
  """Difference of the two largest probabilities.

  Args:
    logits: Logits of at least two classes.
  """
  return logit_margin(jax.nn.softmax(_wide(logits), axis=-1))


@_of_scores
def logit_margin(logits: Scores) -> Float[Array, "*n"]:
  """Difference of the two largest logits; another order than `margin`.

  Args:
    logits: Logits of at least two classes.
  """
  first, second = jnp.moveaxis(jax.lax.top_k(_wide(logits), 2)[0], -1, 0)
  return first - second


@_of_scores
def gini(logits: Scores) -> Float[Array, "*n"]:
  """Sum of the squared probabilities; the order of DOCTOR's alpha.

  Args:
    logits: Logits.

  Source: Granese et al., DOCTOR, NeurIPS 2021.
  """
  return jnp.sum(jnp.square(jax.nn.softmax(_wide(logits), axis=-1)), axis=-1)


@_of_scores
def intra_class_proximity(
    logits: Scores, log_densities: Scores) -> Float[Array, "*n"]:
  """Probability of the predicted class, averaged with that of its images.

  Args:
    logits: Logits, which predict the class.
    log_densities: Logarithm of the density of the image's features among the
      training images of each class, `densities.log_densities`.

  Returns:
    In [0, 1]. It has seen labels: never rank it unmarked beside scores that
    have not.

  Source: zhenxianglin/ICPE.
  """
  of_image, of_class = _wide(log_densities), _wide(logits)
  both = (jax.nn.softmax(of_class, axis=-1)
          + jax.nn.softmax(of_image.astype(of_class.dtype), axis=-1)) / 2
  return jnp.sum(jnp.where(_top(of_class), both, 0), axis=-1)


@_of_scores
def negative_variance(
    mean: Scores, variance: Scores) -> Float[Array, "*n"]:
  """Negative variance of the logit of the predicted class.

  Args:
    mean: Means of the logits under a posterior.
    variance: Their variances. One and the same for all images tells nothing.

  Source: Baumann et al., Post-hoc Probabilistic Vision-Language Models, ICLR
  2026 (BayesVLM).
  """
  mean, variance = _wide(mean), _wide(variance)
  return -jnp.sum(jnp.where(_top(mean), variance, 0), axis=-1)


@_of_scores
def probit_softmax(
    mean: Scores, variance: Scores) -> Float[Array, "*n"]:
  """Maximum softmax of logits that their variance has shrunk (log-odds).

  Args:
    mean: Means of the logits under a posterior.
    variance: Their variances. Where one is the same for all classes and images,
      this is `max_softmax` at another temperature.

  Source: Baumann et al., ICLR 2026 (BayesVLM).
  """
  mean, variance = _wide(mean), _wide(variance)
  return max_softmax(mean / jnp.sqrt(1 + jnp.pi * variance / 8))


@compiled
def _columns(logits, kept):
  return logits[..., kept]


@compiled
def _failures(right, scores, mass):
  """The measures of groups from `selective.checked_groups`."""
  sides = _both_sides(right, scores, mass)
  areas = (area(1 - right, scores, weights=mass) for area in (
      selective.risk_coverage_area, selective.excess_risk_coverage_area,
      selective.generalised_risk_coverage_area))
  return FailurePrediction(*(*sides, *areas))


@compiled
def _found(inside, scores, mass):
  return Detection(*_both_sides(inside, scores, mass))


def _both_sides(positive, scores, mass):
  """AUROC, AUPR and FPR95 with either group as the one to be found."""
  area = selective.roc_area(scores, positive, weights=mass)
  return area, *(
      metric(*sides, weights=mass)
      for metric in (selective.average_precision,
                     selective.false_positive_rate)
      for sides in ((scores, positive), (-scores, 1 - positive)))


@compiled
def _energy(logits, temperature):
  return temperature * jax.nn.logsumexp(_wide(logits) / temperature, axis=-1)


@compiled
def _largest_share(cosines, temperature):
  return jnp.max(jax.nn.softmax(_wide(cosines) / temperature, axis=-1), axis=-1)


def _wide(scores):
  scores = at_least_float32(scores)
  if scores.ndim == 0:
    raise ValueError("expected scores [..., classes], but got a number.")
  return scores


def _top(scores):
  """Whether each class is the predicted one; the first of equal ones is."""
  return jax.nn.one_hot(
      jnp.argmax(scores, axis=-1), scores.shape[-1], dtype=bool)


def _check_temperature(temperature):
  if not temperature > 0:
    raise ValueError(f"the temperature must be positive, but {temperature=}.")
