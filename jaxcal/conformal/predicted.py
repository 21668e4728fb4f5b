"""Prediction sets of a model's logits, and how they do on random splits.

The one module of the room that knows `predictions`. Everything is computed in
float64 on the host's values.
"""

from collections.abc import Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import spelling
from jaxcal.compiled import compiled_with
from jaxcal.conformal import coverage
from jaxcal.conformal import full
from jaxcal.conformal import scores as scores_lib
from jaxcal.conformal import split
from jaxcal.conformal import transductive
from jaxcal.metrics import examples
from jaxcal.predictions import Predictions
from jaxcal.typing import as_numpy
from jaxcal.typing import Bool
from jaxcal.typing import Float
from jaxcal.typing import Integer
from jaxcal.typing import Shaped

# Full conformal methods by the names that commands and files give them; from
# data and logit scale to p-values.
FULL = {
    "ss_text": lambda data, scale: full.ss_text(
        data, logit_scale=scale, temperature=1 / scale),
    "so_lda": lambda data, scale: full.so_lda(data, logit_scale=scale),
}

# Evidence that has the features of the classes, tuned ones before others.
_TEXT = ("text_features", "zero_shot_text_features")

# Of logits from cosines times a scale; towers in half precision have some.
_LARGEST_ERROR = 0.05

# Numbers that are held in memory at a time, about.
_BLOCK = 2 ** 24


def conformal_sets(
    logits: Shaped[Any, "n k"] | Sequence[Any],
    labels: Integer[Any, "n"] | Sequence[Any],
    others: Shaped[Any, "m k"] | Sequence[Any],
    *,
    alpha: float = 0.1,
    score: str = "lac",
    by_class: bool = False,
    nonempty: bool = False,
    seed: int = 0,
) -> Bool[np.ndarray, "m k"]:
  """Sets of classes that cover the true one with a promised probability.

  The class of a share 1 - alpha or more of further images is in their sets, on
  average over calibration images, if these are drawn alike and nothing was
  fitted to them: no prompt, adapter or temperature.

  Args:
    logits: Logits of the calibration images, [n k]; arrays of any kind.
    labels: Labels of the calibration images, [n].
    others: Logits of the images that get sets, [m k].
    alpha: Share of images whose class may be missed, in (0, 1).
    score: Name of the score, of `scores.SCORES`: "lac" has the smallest sets,
      "aps", "raps" and "saps" larger ones for harder images.
    by_class: Whether every class is to be covered by itself. A class of fewer
      than (1 - alpha) / alpha calibration images is then in every set.
    nonempty: Whether an empty set gets the class of the lowest score.
    seed: Seed of what randomises the scores.

  Raises:
    ValueError: Arrays that do not fit together, logits that are not finite or
      look like probabilities, or a number out of range.
    TypeError: Labels that are not integers.
  """
  values, labels = _checked(logits, labels)
  other_values = _checked_logits(others)
  if other_values.shape[1] != values.shape[1]:
    raise ValueError("the images that get sets must have the classes of the "
                     f"calibration images, but there are "
                     f"{other_values.shape[1]} and {values.shape[1]}")
  check_score(score)
  with jax.enable_x64(True):
    return np.asarray(_sets(
        values, labels, other_values, jax.random.key(seed), score=score,
        alpha=alpha, by_class=by_class, nonempty=nonempty))


def measure(
    predictions: Predictions,
    *,
    alpha: float = 0.1,
    score: str = "lac",
    num_splits: int = 50,
    share: float = 0.5,
    seed: int = 0,
    by_class: bool = False,
    transported: bool = False,
) -> dict[str, Any]:
  """What prediction sets are worth on random splits of some images.

  Images are drawn at random, not a fixed number from every class. The splits
  depend on the seed and the number of images alone, so that they are the same
  for all methods.

  Args:
    predictions: Predictions with labels, made without a fit to these images.
    alpha: Share of images whose class may be missed, in (0, 1).
    score: Name of the score, of `scores.SCORES`.
    num_splits: Number of splits.
    share: Share of the images that calibrate; the others get sets.
    seed: Seed of the splits and of what randomises the scores.
    by_class: Whether every class is to be covered by itself.
    transported: Whether the probabilities of all images are first transported
      to equal shares of the classes (`transductive.transport`).

  Returns:
    The arguments; `num_calibration`, `num_tested` and `num_classes`; every
    field of `coverage.Measures`, means over splits, and the standard deviations
    of coverage, mean_size and class_gap as `_std`; `infinite`, the mean number
    of infinite thresholds; `class_gap_floor`; and, unless by class, the share
    of splits that are valid and every field of `coverage.Promise` as
    `promised_...`.

  Raises:
    ValueError: No labels, too few images, or a number out of range.
  """
  check_score(score)
  count = check(
      predictions.labels, alpha=alpha, num_splits=num_splits, share=share)
  assert predictions.labels is not None
  with jax.enable_x64(True):
    logs = _log_probabilities(
        np.asarray(predictions.logits, np.float64), transported=transported)
    found, infinite, images_of_class = jax.tree.map(np.asarray, _over_splits(
        logs, np.asarray(predictions.labels),
        jax.random.split(jax.random.key(seed), num_splits),
        score=score, alpha=alpha, count=count, by_class=by_class))
    row = _row(found, images_of_class, alpha)
  return {
      "score": score, "alpha": alpha, "num_splits": num_splits, "share": share,
      "seed": seed, "by_class": by_class, "transported": transported,
      "num_calibration": count, "infinite": float(infinite.mean()), **row,
      **({} if by_class else _promised(
          found, count, row["num_tested"], alpha))}


def measure_full(
    predictions: Predictions,
    *,
    alpha: float = 0.1,
    method: str = "so_lda",
    num_splits: int = 50,
    share: float = 0.5,
    seed: int = 0,
) -> dict[str, Any]:
  """The same for full conformal prediction, with LAC as the score.

  Splits are those of `measure`. The logit scale is found by comparing logits
  with cosines of the features.

  Args:
    predictions: Predictions with labels and the evidence `image_features` and
      `text_features` or `zero_shot_text_features`; their logits must be cosines
      of these times a scale.
    alpha: Share of images whose class may be missed, in (0, 1).
    method: Name of the method, of `FULL`.
    num_splits: Number of splits.
    share: Share of the images that calibrate; the others get sets. Each costs
      as many fits as there are classes.
    seed: Seed of the splits.

  Returns:
    As `measure`, with the name of the method as "score". Of what is due, there
    is the mean of the coverage alone: no more is known of it.

  Raises:
    ValueError: No labels, too few images, a number out of range, no features,
      or logits that are not made of them.
  """
  check_full(method)
  count = check(
      predictions.labels, alpha=alpha, num_splits=num_splits, share=share)
  reason = why_not_full(predictions)
  if reason:
    raise ValueError(reason)
  images, text, scale = _features(predictions)
  with jax.enable_x64(True):
    found, images_of_class = jax.tree.map(np.asarray, _full_over_splits(
        full.Data(images, np.asarray(predictions.labels), images, text), scale,
        jax.random.split(jax.random.key(seed), num_splits),
        method=method, alpha=alpha, count=count))
    row = _row(found, images_of_class, alpha)
  rank = split.threshold_rank(count, alpha)
  return {
      "score": method, "alpha": alpha, "num_splits": num_splits, "share": share,
      "seed": seed, "num_calibration": count, **row,
      "promised_mean": rank / (count + 1)}


def check(
    labels: Integer[np.ndarray, "n"] | None,
    *,
    alpha: float,
    num_splits: int,
    share: float,
) -> int:
  """Refuses what cannot be split, without further work.

  Args:
    labels: Labels of the images; None where there are none.
    alpha: See `measure`.
    num_splits: See `measure`.
    share: See `measure`.

  Returns:
    The number of calibration images.

  Raises:
    ValueError: See `measure`.
  """
  if labels is None:
    raise ValueError("the images have no labels, so that no set can be "
                     "calibrated; give images whose classes are known")
  if num_splits < 1:
    raise ValueError(f"expected one split or more, but {num_splits=}")
  total = len(labels)
  split.threshold_rank(total, alpha)
  count = round(share * total)
  if not 0 < count < total:
    raise ValueError(
        f"a share of {share:g} of {total} images leaves {count} to calibrate "
        f"and {total - count} to get sets; both need some")
  return count


def check_score(name: str) -> None:
  """Raises ValueError unless it is one of `scores.SCORES`."""
  if name not in scores_lib.SCORES:
    raise ValueError(f"unknown score {name!r}; "
                     f"{spelling.choices(name, scores_lib.SCORES)}")


def check_full(name: str) -> None:
  """Raises ValueError unless it is one of `FULL`."""
  if name not in FULL:
    raise ValueError(f"unknown full conformal method {name!r}; "
                     f"{spelling.choices(name, FULL)}")


def why_not_full(predictions: Predictions) -> str:
  """Why there can be no full conformal sets; empty if there can."""
  there = predictions.evidence
  if "image_features" not in there or not any(name in there for name in _TEXT):
    return ("full conformal sets need features of images and classes, which "
            "are not there; `jaxcal evaluate` keeps them with "
            f"--config.evidence=image_features,{_TEXT[-1]}")
  images, text, scale = _features(predictions)
  error = np.abs(_centred(predictions.logits) -
                 scale * _centred(images @ text.T)).max()
  if error > _LARGEST_ERROR or scale <= 0:
    return ("full conformal sets need logits that are cosines of the features "
            f"times a scale, but these are off by up to {error:.2g}, as those "
            "of methods that adapt to each image are; give zero-shot or "
            "few-shot predictions")
  return ""


def _row(found, images_of_class, alpha) -> dict[str, Any]:
  """Means over splits, some deviations, sizes, and the floor of the gap."""
  row: dict[str, Any] = {
      "num_tested": int(images_of_class[0].sum()),
      "num_classes": images_of_class.shape[1]}
  for name, values in found._asdict().items():
    row[name] = float(np.mean(values))
    if name in ("coverage", "mean_size", "class_gap"):
      row[f"{name}_std"] = float(np.std(values))
  return row | {
      "class_gap_floor": coverage.class_gap_floor(images_of_class, alpha)}


def _promised(found, count, num_tested, alpha):
  promised = coverage.promise(count, num_tested, alpha)._asdict()
  # The share of the images that must be covered may be a whole number of them.
  valid = found.coverage >= 1 - alpha - coverage.SLACK - 1e-12
  return {"valid": float(valid.mean())} | {
      f"promised_{name}": value for name, value in promised.items()}


def _features(predictions):
  """Features of images and classes, and the scale of the logits."""
  text_name = next(name for name in _TEXT if name in predictions.evidence)
  images, text = (np.asarray(predictions.evidence[name], np.float64)
                  for name in ("image_features", text_name))
  cosines = _centred(images @ text.T)
  scale = (_centred(predictions.logits) * cosines).sum() / (cosines ** 2).sum()
  return images, text, float(scale)


def _centred(logits):
  """Without the constant of each image, which no softmax sees."""
  logits = np.asarray(logits, np.float64)
  return logits - logits.mean(axis=1, keepdims=True)


@compiled_with("score", "alpha", "by_class", "nonempty")
def _sets(values, labels, others, key, *, score, alpha, by_class, nonempty):
  """`conformal_sets` without its checks."""
  logs = jax.nn.log_softmax(jnp.concatenate([values, others]))
  uniforms = jax.random.uniform(key, (len(logs),))
  found = scores_lib.SCORES[score](logs, uniforms)
  own = jnp.take_along_axis(
      found[:len(values)], labels[:, None], axis=-1)[:, 0]
  thresholds = _thresholds(own, labels, alpha, by_class=by_class,
                           num_classes=values.shape[1])
  return split.prediction_sets(
      found[len(values):], thresholds, nonempty=nonempty)


@compiled_with("transported")
def _log_probabilities(logits, *, transported):
  return (jnp.log(transductive.transport(logits)) if transported else
          jax.nn.log_softmax(logits))


def _drawn(key, num_images, count):
  """Positions of the calibration images, and of the others."""
  order = jax.random.permutation(key, num_images)
  return order[:count], order[count:]


@functools.partial(jax.jit, static_argnames=("method", "alpha", "count"))
def _full_over_splits(data, scale, keys, *, method, alpha, count):
  """Measures, and numbers of images of each class."""

  def one(key):
    # As in `_over_splits`, which draws uniform numbers, too.
    chosen, rest = _drawn(jax.random.split(key)[0], len(data.images), count)
    p_values = FULL[method](data._replace(
        images=data.images[chosen], labels=data.labels[chosen],
        others=data.images[rest]), scale)
    labels = data.labels[rest]
    sets = full.in_set(p_values, count, alpha)
    return (coverage.measure(sets, labels, alpha),
            jnp.bincount(labels, length=len(data.text)))

  return jax.lax.map(one, keys)


@functools.partial(
    jax.jit, static_argnames=("score", "alpha", "count", "by_class"))
def _over_splits(logs, labels, keys, *, score, alpha, count, by_class):
  """Measures, numbers of infinite thresholds and of images of each class."""
  num_images, num_classes = logs.shape
  parts = scores_lib.linear(scores_lib.SCORES[score], logs)
  owns = jax.tree.map(
      lambda part: jnp.take_along_axis(part, labels[:, None], axis=-1)[:, 0],
      parts)

  def one(key):
    for_order, for_uniforms = jax.random.split(key)
    chosen, rest = _drawn(for_order, num_images, count)
    uniforms = jax.random.uniform(for_uniforms, (num_images,))
    own = owns.start - uniforms * owns.slope
    thresholds = _thresholds(own[chosen], labels[chosen], alpha,
                             num_classes=num_classes, by_class=by_class)
    # Of all images: to take some out of so many numbers costs more.
    size = jnp.sum(split.prediction_sets(
        parts.start - uniforms[:, None] * parts.slope, thresholds), axis=-1)
    covered = own <= (thresholds[labels] if by_class else thresholds)
    return (coverage.of_sizes(size[rest], covered[rest], labels[rest], alpha,
                              num_classes=num_classes),
            jnp.sum(jnp.isinf(thresholds)),
            jnp.bincount(labels[rest], length=num_classes))

  return jax.lax.map(
      one, keys, batch_size=min(len(keys), max(1, _BLOCK // logs.size)))


def _thresholds(own, labels, alpha, *, num_classes, by_class):
  """Threshold of calibration images' own scores, or one for each class."""
  if by_class:
    return split.group_thresholds(own, labels, alpha, num_groups=num_classes)
  return split.threshold(own, alpha)


def _checked(logits, labels):
  values, labels = _checked_logits(logits), examples.readable(labels)
  if labels.shape != values.shape[:1]:
    raise ValueError("expected one label for each calibration image, but their "
                     f"shapes are {labels.shape} and {values.shape}")
  examples.check_labels(labels, values.shape[1])
  return values, labels


def _checked_logits(logits) -> Float[np.ndarray, "n k"]:
  values = as_numpy(logits).astype(np.float64)
  if values.ndim != 2 or not np.isfinite(values).all():
    raise ValueError("expected finite logits [images, classes], but their shape"
                     f" is {values.shape} and {(~np.isfinite(values)).sum()} "
                     "are not finite")
  sums = values.sum(axis=1)
  if len(values) and (values >= 0).all() and (abs(sums - 1) < 0.01).all():
    raise ValueError("these look like probabilities; give logits, or their "
                     "logarithms")
  return values
