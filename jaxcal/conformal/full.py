"""Full conformal prediction: adapted to each image and each of its classes.

For an image and a class that it may have, a model is fitted to the calibration
images and that pair, and the class is kept unless the image is then stranger
than all but a few of them: its p-value is above alpha. No calibration image is
lost to fitting. Every function gives p-values, [m k]; sets are `p > alpha`.

The calibration images must be drawn independently, not with a fixed number from
every class: of the image's own class there would be one more than of the
others, and sets would cover too little.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import precision
from jaxcal.compiled import compiled
from jaxcal.compiled import compiled_with
from jaxcal.conformal import scores as scores_lib
from jaxcal.conformal import split
from jaxcal.metrics import examples
from jaxcal.typing import AnyArray
from jaxcal.typing import Array
from jaxcal.typing import at_least_float32
from jaxcal.typing import Bool
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Integer
from jaxcal.typing import Number

# From probabilities [... k] to scores, both of all classes.
Score = Callable[[Float[Array, "*n k"]], Float[Array, "*n k"]]

# Numbers that are held in memory at a time, about.
_BLOCK = 2 ** 24


class Data(NamedTuple):
  """What full conformal methods are fitted to and asked about.

  Attributes:
    images: Features of the calibration images, unit norm.
    labels: Labels of the calibration images.
    others: Features of the images that get sets, unit norm.
    text: Features of the classes, unit norm.
  """

  images: Float[AnyArray, "n d"]
  labels: Integer[AnyArray, "n"]
  others: Float[AnyArray, "m d"]
  text: Float[AnyArray, "k d"]


class Fitted(NamedTuple):
  """Scores under a fit to the calibration images and one pair more.

  Attributes:
    score: Score of the pair.
    calibration: Scores of the calibration images' own classes.
  """

  score: Float[Array, ""]
  calibration: Float[Array, "n"]


# From positions of an image among the others and of a class.
_Fit = Callable[[Int[Array, ""], Int[Array, ""]], Fitted]


def ss_text(
    data: Data,
    score: Score = scores_lib.least_ambiguous,
    *,
    candidates: Bool[AnyArray, "m k"] | None = None,
    logit_scale: Number = 100.0,
    temperature: Number = 0.01,
) -> Float[Array, "m k"]:
  """P-values of SS-Text, a linear probe in closed form around the text.

  Args:
    data: Features and labels.
    score: Score, not randomised.
    candidates: Pairs of image and class to look at, where the others are known
      to be left out: their p-value is zero. Not under `jit`. All if None.
    logit_scale: Factor of the cosines.
    temperature: Temperature of the closed form.

  Raises:
    ValueError: Arrays that do not fit together, or a label out of range.
    TypeError: Labels that are not integers.

  Source: Silva-Rodríguez et al., Full Conformal Adaptation of Medical
  Vision-Language Models, IPMI 2025.
  """
  return _p_values(
      ss_text_fit, data, score, candidates,
      {"logit_scale": logit_scale, "temperature": temperature})


def so_lda(
    data: Data,
    score: Score = scores_lib.least_ambiguous,
    *,
    candidates: Bool[AnyArray, "m k"] | None = None,
    logit_scale: Number = 100.0,
    load: Number = 10.0,
    text_weight: Number = 1.0,
) -> Float[Array, "m k"]:
  """P-values of SO-LDA, a discriminant analysis around the text.

  Args:
    data: Features and labels.
    score: Score, not randomised.
    candidates: Pairs of image and class to look at, see `ss_text`.
    logit_scale: Factor of the cosines.
    load: Multiple of the covariance's diagonal that is added to it.
    text_weight: Weight of a class' text beside the mean of its images.

  Raises:
    ValueError: Arrays that do not fit together, or a label out of range.
    TypeError: Labels that are not integers.

  Source: the paper of T-FCP; no code has been released, so that this is held
  against a restatement only. As there, the load is of the calibration images
  alone and shrinks by n / (n + 1): not quite the same for them and the image.
  """
  return _p_values(
      so_lda_fit, data, score, candidates,
      {"logit_scale": logit_scale, "load": load, "text_weight": text_weight})


def two_stage(
    p_values: Callable[[Bool[Array, "m k"]], Float[Array, "m k"]],
    zero_shot: Float[AnyArray, "n k"],
    labels: Integer[AnyArray, "n"],
    others: Float[AnyArray, "m k"],
    alpha: float,
    *,
    pruned: float = 0.005,
) -> Bool[Array, "m k"]:
  """T-FCP: full conformal sets among the classes that zero-shot sets keep.

  The coverage is at least 1 - alpha by the union bound. With fewer than
  1 / pruned - 1 calibration images nothing is pruned, and sets are only larger.

  Args:
    p_values: Function of the candidates that are left to their p-values, such
      as `lambda candidates: so_lda(data, candidates=candidates)`.
    zero_shot: Zero-shot probabilities of the calibration images.
    labels: Labels of the calibration images.
    others: Zero-shot probabilities of the images that get sets.
    alpha: Share of images whose class may be missed, in (0, 1).
    pruned: Part of it that pruning may miss, below alpha.

  Returns:
    The sets.

  Raises:
    ValueError: `pruned` is not in (0, alpha).
  """
  if not 0 < pruned < alpha:
    raise ValueError(f"pruning must be given a part of {alpha=}, but {pruned=}")
  kept = _zero_shot_sets(zero_shot, labels, others, pruned)
  # As a decimal number: 0.1 - 0.005 is not quite 0.095 in binary.
  left = float(f"{alpha - pruned:.12g}")
  return kept & in_set(p_values(kept), len(zero_shot), left)


def in_set(
    p_values: Float[AnyArray, "m k"], num_calibration: int, alpha: float
) -> Bool[Array, "m k"]:
  """`p > alpha`, exactly: p-values are multiples of 1 / (n + 1).

  Args:
    p_values: P-values of image and class.
    num_calibration: Number of calibration images, n.
    alpha: Share of images whose class may be missed, in (0, 1).
  """
  total = num_calibration + 1
  most = total - split.threshold_rank(num_calibration, alpha)
  return _above(p_values, total, most)


def ss_text_fit(
    data: Data, score: Score, *, logit_scale: Number, temperature: Number
) -> _Fit:
  """How SS-Text is fitted to one pair more; for arguments see `ss_text`.

  Only the prototype of the pair's class moves, along the image.
  """
  images, labels, others, text = data = _checked(data)
  total = len(images) + 1
  step = 1 / (max(1 / total, 1e-3) * temperature * total)
  weights = text + step * _sums(data)
  norms = jnp.linalg.norm(weights, axis=-1)
  seen, of_others = images @ weights.T, others @ weights.T
  pairs, squares = images @ others.T, jnp.sum(others ** 2, axis=-1)
  logits, logits_of_others = (
      logit_scale * one / norms[None] for one in (seen, of_others))

  def fit(index, candidate):
    # From products that are there, at a cost without the dimension.
    towards, square = of_others[index, candidate], step * squares[index]
    norm = jnp.sqrt(norms[candidate] ** 2 + step * (2 * towards + square))
    moved = (seen[:, candidate] + step * pairs[:, index]) / norm
    return _scored(
        logits.at[:, candidate].set(logit_scale * moved), labels,
        logits_of_others[index].at[candidate].set(
            logit_scale * (towards + square) / norm), candidate, score)

  return fit


def so_lda_fit(
    data: Data, score: Score, *, logit_scale: Number, load: Number,
    text_weight: Number,
) -> _Fit:
  """How SO-LDA is fitted to one pair more; for arguments see `so_lda`.

  The inverse covariance gets an update of rank one, and the mean of the pair's
  class moves. Factors that all prototypes share are left out.
  """
  images, labels, others, text = data = _checked(data)
  n, counts = len(images), jnp.bincount(labels, length=len(text))
  rest = images - text[labels]
  spread = rest.T @ rest / n
  inverse = jnp.linalg.inv(spread + load * jnp.diag(jnp.diag(spread)))
  sums, own = _sums(data) @ inverse, text @ inverse
  means = (sums / jnp.maximum(counts, 1)[:, None]) + text_weight * own
  seen = images @ means.T

  def fit(index, candidate):
    image = others[index]
    mapped = image @ inverse
    mean = ((sums[candidate] + mapped) / (counts[candidate] + 1) +
            text_weight * own[candidate])
    prototypes = means.at[candidate].set(mean)
    difference, along = image - text[candidate], mapped - own[candidate]
    share = prototypes @ difference / (n + difference @ along)
    prototypes = prototypes - share[:, None] * along[None]
    norms = jnp.linalg.norm(prototypes, axis=-1)
    # Not images @ prototypes.T, which costs as many products as dimensions.
    cosines = (seen.at[:, candidate].set(images @ mean) -
               (images @ along)[:, None] * share[None]) / norms[None]
    return _scored(logit_scale * cosines, labels,
                   logit_scale * prototypes @ image / norms, candidate, score)

  return fit


def _scored(logits, labels, logits_of_image, candidate, score) -> Fitted:
  own = score(jax.nn.softmax(logits))
  image = score(jax.nn.softmax(logits_of_image)[None])
  return Fitted(image[0, candidate], jnp.take_along_axis(
      own, labels[:, None], axis=-1)[:, 0])


@compiled_with("pruned")
def _zero_shot_sets(zero_shot, labels, others, pruned):
  strange = scores_lib.least_ambiguous(zero_shot)
  own = jnp.take_along_axis(strange, labels[:, None], axis=-1)
  return split.prediction_sets(
      scores_lib.least_ambiguous(others), split.threshold(own[:, 0], pruned))


@compiled
def _above(p_values, total, most):
  return jnp.round(p_values * total).astype(int) > most


def _p_values(fitted, data, score, candidates, numbers):
  """Of the pairs to look at, by one program after the checks of values."""
  data = data._replace(labels=examples.readable(data.labels))
  _check(data)
  pairs = None if candidates is None else np.argwhere(np.asarray(candidates))
  return _of_pairs(data, pairs, numbers, fitted=fitted, score=score)


@compiled_with("fitted", "score")
@precision.highest
def _of_pairs(data, pairs, numbers, *, fitted, score):
  fit = fitted(data, score, **numbers)
  n, (m, k) = len(data.images), (len(data.others), len(data.text))

  def p_value(pair):
    score, calibration = fit(*pair)
    return (1 + jnp.sum(calibration >= score)) / (n + 1)

  if pairs is None:
    pairs = jnp.stack(jnp.divmod(jnp.arange(m * k), k), axis=-1)
  if not len(pairs):
    return jnp.zeros((m, k))
  size = n * k + data.text.size
  found = jax.lax.map(
      p_value, pairs, batch_size=min(len(pairs), max(1, _BLOCK // size)))
  return jnp.zeros((m, k), found.dtype).at[pairs[:, 0], pairs[:, 1]].set(found)


def _sums(data):
  """Of the images of each class."""
  return jnp.zeros_like(data.text).at[data.labels].add(data.images)


def _checked(data):
  data = data._replace(labels=examples.readable(data.labels))
  _check(data)
  images, others, text = map(
      at_least_float32, (data.images, data.others, data.text))
  return Data(images, jnp.asarray(data.labels), others, text)


def _check(data):
  images, labels, others, text = data
  widths = {one.shape[-1] for one in (images, others, text)}
  if len(widths) > 1 or labels.shape != images.shape[:1]:
    raise ValueError(
        "expected features [n d] of calibration images with labels [n], of "
        f"other images [m d] and of classes [k d], but {images.shape=}, "
        f"{labels.shape=}, {others.shape=} and {text.shape=}")
  examples.check_labels(labels, len(text))
