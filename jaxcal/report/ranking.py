"""How well confidences rank failures and images of no class, as rows.

What is fixed by a data set and what is drawn decides what an interval is of.
Failures, and another data set: other images like these, `rank_failures` and
`rank_outliers`. Held-out classes: other classes, which matter far more than
images, `rank_held_out_classes`.
"""

from collections.abc import Mapping
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import predictions as predictions_lib
from jaxcal.compiled import compiled
from jaxcal.metrics import failure
from jaxcal.metrics import scoring
from jaxcal.metrics import statistics
from jaxcal.predictions import Predictions
from jaxcal.report import resampled
from jaxcal.report import summary
from jaxcal.report import tables
from jaxcal.typing import Float

# Scores of logits; the first one is what others are compared with.
_OF_LOGITS = {
    "msp": failure.max_softmax,
    "max_logit": failure.max_logit,
    "energy": failure.energy,
    "neg_entropy": failure.negative_entropy,
    "margin": failure.margin,
    "logit_margin": failure.logit_margin,
    "gini": failure.gini,
}
# Diagnostics of an image that are high where it is uncertain.
_UNCERTAINTIES = ("variance", "image_variance", "epistemic")
# What is compared between methods and scores.
_COMPARED = {"failures": ("accuracy", "auroc", "aurc", "augrc"),
             "outliers": ("auroc", "fpr95_in")}


class Ranking(NamedTuple):
  """Rows by method and score; as text, tables.

  Attributes:
    rows: Measures of each method and score.
    differences: Paired differences, to the reference for the same score and to
      the first score of the same method; `..._p` are p-values by Holm's method
      over all of them.
    notes: What the rows do not say of themselves.
    kind: What is ranked, "failures", "outliers" or "held-out classes".
  """

  rows: list[summary.Row]
  differences: list[summary.Row]
  notes: list[str]
  kind: str

  def __str__(self) -> str:
    columns, differing = tables.RANKINGS[self.kind]
    blocks = [tables.markdown(self.rows, columns)]
    if self.differences:
      blocks += ["Paired differences:",
                 tables.markdown(self.differences, differing)]
    return "\n\n".join(blocks + self.notes)


class _Ranked(NamedTuple):
  """One method: measures of the full data and of resamples, by score."""

  names: tuple[str, ...]
  measures: tuple[str, ...]
  estimates: Float[np.ndarray, "scores measures"]
  samples: Float[np.ndarray, "resamples scores measures"]


def rank_failures(
    predictions: Mapping[str, Predictions],
    conventions: summary.Conventions = summary.Conventions(),
    *,
    logit_scale: float | None = None,
    reference: str | None = None,
) -> Ranking:
  """How well scores tell right predictions from wrong ones, method by method.

  Args:
    predictions: Predictions with labels by method, for the same images. Each
      method is measured at its own predictions, and its accuracy differs:
      AUROC ignores that, AURC and AUGRC do not.
    conventions: Conventions of the intervals; all methods see the same
      resamples of the images.
    logit_scale: Factor from cosines to logits, for the score MCM; if None, what
      settings of the predictions say, and without that no MCM.
    reference: Name of the method to which the others are compared; the first
      one if None.

  Returns:
    Rows with `method`, `score`, `num_images`, accuracy and the measures of
    `failure.FailurePrediction`, each with `_low` and `_high`; NaN where a
    method makes no error or nothing else, as a note says.

  Raises:
    ValueError: No predictions, other images, no labels, or an unknown
      reference.
  """
  reference = _reference(predictions, reference)
  resampled.check_same_images(list(predictions.values()))
  ranked, notes = {}, []
  with jax.enable_x64(True):
    for name, one in predictions.items():
      if one.labels is None:
        raise ValueError(f"the predictions of {name!r} have no labels, without "
                         "which none of them is known to be wrong.")
      scores = _scores(one, logit_scale)
      notes += _notes(name, scores)
      correct = np.asarray(scoring.correct(
          np.asarray(one.logits, np.float64), np.asarray(one.labels)))
      if correct.all() or not correct.any():
        notes.append(f"{name}: all {len(one.ids)} predictions are "
                     f"{'right' if correct.all() else 'wrong'}; what "
                     "compares both kinds is NaN.")
      ranked[name] = _rank(scores, correct, (), conventions, "failures")
    rows = _rows(ranked, conventions, {
        name: {"num_images": len(one.ids)}
        for name, one in predictions.items()})
    for row in rows:
      row |= resampled.exact_where_alike(
          row, row["num_images"], conventions.level)
    differences = _differences(ranked, reference, conventions, "failures")
  return Ranking(rows, differences, notes, "failures")


def rank_outliers(
    in_distribution: Mapping[str, Predictions],
    out_of_distribution: Mapping[str, Predictions],
    conventions: summary.Conventions = summary.Conventions(),
    *,
    logit_scale: float | None = None,
    reference: str | None = None,
) -> Ranking:
  """How well scores tell images of the classes from those of another set.

  Args:
    in_distribution: Predictions for images of the classes, by method.
    out_of_distribution: Predictions of the same methods for images of none of
      them, among the same classes.
    conventions: Conventions of the intervals. Images of both kinds are
      resampled by themselves, so that their shares stay; the intervals are for
      this other set, not for any.
    logit_scale: Factor from cosines to logits, for the score MCM; if None, what
      settings of the predictions say, and without that no MCM.
    reference: Name of the method to which the others are compared; the first
      one if None.

  Returns:
    Rows with `method`, `score`, `num_images` in distribution, `num_outliers`
    and the measures of `failure.Detection`, each with `_low` and `_high`.

  Raises:
    ValueError: No predictions, other methods, other classes or other images
      between methods, or an unknown reference.
  """
  reference = _reference(in_distribution, reference)
  if set(in_distribution) != set(out_of_distribution):
    raise ValueError(
        "the same methods are needed in and out of distribution, but got "
        f"{sorted(in_distribution)} and {sorted(out_of_distribution)}.")
  for one in (in_distribution, out_of_distribution):
    resampled.check_same_images(list(one.values()))
  ranked, notes, about = {}, [], {}
  with jax.enable_x64(True):
    for name, inside in in_distribution.items():
      outside = out_of_distribution[name]
      summary.check_same_classes(inside, outside)
      parts = [_scores(one, logit_scale) for one in (inside, outside)]
      scores = {score: np.concatenate([part[score] for part in parts])
                for score in parts[0] if score in parts[1]}
      notes += _notes(name, scores)
      sizes = len(inside.ids), len(outside.ids)
      known = np.arange(sum(sizes)) < sizes[0]
      about[name] = {"num_images": sizes[0], "num_outliers": sizes[1]}
      ranked[name] = _rank(scores, known, sizes, conventions, "outliers")
    return Ranking(
        _rows(ranked, conventions, about),
        _differences(ranked, reference, conventions, "outliers"), notes,
        "outliers")


def rank_held_out_classes(
    predictions: Mapping[str, Predictions],
    *,
    num_classes: int,
    num_draws: int = 100,
    seed: int = 0,
    logit_scale: float | None = None,
) -> Ranking:
  """How well scores tell classes that the classifier does not know from others.

  Classes are drawn at random, their logits dropped, and their images are those
  out of distribution; again and again, with the same draws for all methods.

  Args:
    predictions: Predictions with labels by method, for the same images.
    num_classes: Number of classes that are held out in each draw.
    num_draws: Number of draws, at least 20: they spread more than images do.
    seed: Seed of the draws.
    logit_scale: Factor from cosines to logits, for the score MCM; if None, what
      settings of the predictions say, and without that no MCM.

  Returns:
    Rows with `method`, `score`, `draws`, `held_out` (classes), mean and `_sd`
    over draws of `auroc` and `fpr95_in`, and `won`: the share of draws in which
    the AUROC is above that of the first score of the method. Scores of a
    posterior are left out, as theirs are of all classes.

  Raises:
    ValueError: No predictions, no labels, other images, too few draws, or no
      class on either side.
  """
  _reference(predictions, None)
  resampled.check_same_images(list(predictions.values()))
  first = next(iter(predictions.values()))
  known = len(first.class_names)
  if not 1 <= num_classes < known - 1:
    raise ValueError(f"{num_classes=} must leave two of the {known} classes.")
  if num_draws < 20:
    raise ValueError(f"at least 20 draws are needed, but {num_draws=}.")
  generator = np.random.default_rng(seed)
  out = np.zeros((num_draws, known), bool)
  for draw in out:
    draw[generator.choice(known, num_classes, replace=False)] = True
  rows = []
  with jax.enable_x64(True):
    for name, one in predictions.items():
      if one.labels is None:
        raise ValueError(f"the predictions of {name!r} have no labels, which "
                         "tell the images of held-out classes.")
      if not _every_draw_has_both(out, one.labels):
        raise ValueError(f"a draw of {num_classes} classes leaves {name!r} "
                         "without images on one side; hold out others.")
      scale = _scale(one, logit_scale)
      names = (*_OF_LOGITS, *(("mcm",) if scale else ()))
      areas, rates = _over_draws(
          np.asarray(one.logits, np.float64), np.asarray(one.labels), out,
          scale)
      areas, rates = np.asarray(areas), np.asarray(rates)
      for index, score in enumerate(names):
        rows.append({
            "method": name, "score": score, "draws": num_draws,
            "held_out": num_classes,
            **{key: float(value) for key, value in (
                ("auroc", areas[:, index].mean()),
                ("auroc_sd", areas[:, index].std(ddof=1)),
                ("fpr95_in", rates[:, index].mean()),
                ("fpr95_in_sd", rates[:, index].std(ddof=1)),
                ("won", np.mean(areas[:, index] > areas[:, 0])))}})
  return Ranking(rows, [], [], "held-out classes")


def _reference(predictions, reference):
  if not predictions:
    raise ValueError("predictions of one method at least are needed.")
  reference = next(iter(predictions)) if reference is None else reference
  if reference not in predictions:
    raise ValueError("the reference must be one of the methods, but "
                     f"{reference=} and their names are {list(predictions)}.")
  return reference


@compiled
def _without_scale(logits):
  return {name: score(logits) for name, score in _OF_LOGITS.items()}


def _scores_of_logits(logits, logit_scale):
  found = _without_scale(logits)
  # In the order of the names, which a program does not keep.
  scores = {name: found[name] for name in _OF_LOGITS}
  if logit_scale is not None:
    scores["mcm"] = failure.max_concept_matching(logits / logit_scale)
  return scores


def _scale(predictions, logit_scale):
  """The scale that is given, or that the predictions say, if they do."""
  if logit_scale is not None:
    if not 0 < logit_scale < math.inf:
      raise ValueError(f"{logit_scale=}, expected a positive number, as 100 "
                       "of OpenAI's CLIP")
    return logit_scale
  return predictions.settings.get(predictions_lib.LOGIT_SCALE)


def _scores(predictions, logit_scale):
  logits = np.asarray(predictions.logits, np.float64)
  scale = _scale(predictions, logit_scale)
  found = _scores_of_logits(logits, scale)
  return {name: np.asarray(values) for name, values in found.items()} | {
      f"neg_{name}": -np.asarray(predictions.info[name], np.float64)
      for name in _UNCERTAINTIES if name in predictions.info}


def _notes(name, scores):
  """Scores that are one number cannot rank anything."""
  return [f"{name}: {score} is the same for all images, and ranks none of them."
          for score, values in scores.items()
          if values.min() == values.max()]


def _rank(scores, positive, groups, conventions, kind):
  estimates, samples = map(np.asarray, _resampled(
      np.stack(list(scores.values())), positive, groups, conventions, kind))
  measures = failure.Detection._fields if kind == "outliers" else (
      "accuracy", *failure.FailurePrediction._fields)
  # Resamples of one kind only tell nothing else than the full data.
  samples = np.where(np.isnan(samples), estimates[None], samples)
  return _Ranked(tuple(scores), measures, estimates, samples)


# Compiled once for all methods on an image set.
@functools.partial(
    jax.jit, static_argnames=("groups", "conventions", "kind"))
def _resampled(scores, positive, groups, conventions, kind):

  def measure(one, weights):
    if kind == "outliers":
      return jnp.stack(failure.detection(one, positive, weights=weights))
    return jnp.stack([
        statistics.weighted_mean(positive, weights),
        *failure.failure_prediction(one, positive, weights=weights)])

  def of_all(weights):
    return jax.vmap(measure, (0, None))(scores, weights)

  samples = statistics.bootstrap_samples(
      of_all, len(positive), key=jax.random.key(conventions.seed),
      num_samples=conventions.num_resamples, groups=groups)
  return of_all(jnp.ones(len(positive))), samples


def _rows(ranked, conventions, about):
  rows = []
  for method, one in ranked.items():
    interval = jax.tree.map(np.asarray, statistics.recentred_interval(
        one.estimates, one.samples, level=conventions.level))
    for i, score in enumerate(one.names):
      row: dict[str, Any] = {"method": method, "score": score, **about[method]}
      for j, measure in enumerate(one.measures):
        row |= _with_ends(measure, interval, (i, j), lowest=0)
      rows.append(row)
  return rows


def _differences(ranked, reference, conventions, kind):
  pairs = [
      (method, score, reference, score)
      for method, one in ranked.items() if method != reference
      for score in one.names if score in ranked[reference].names]
  pairs += [(method, score, method, one.names[0])
            for method, one in ranked.items() for score in one.names[1:]]
  return resampled.adjusted(
      [_difference(ranked, pair, conventions, kind) for pair in pairs])


def _difference(ranked, pair, conventions, kind):
  row: dict[str, Any] = dict(zip(
      ("method", "score", "reference", "reference_score"), pair))
  for measure in _COMPARED[kind]:
    if measure == "accuracy" and pair[0] == pair[2]:
      continue
    (ours, of_ours), (theirs, of_theirs) = (
        (one.estimates[at], one.samples[(slice(None), *at)])
        for method, score in (pair[:2], pair[2:])
        for one in [ranked[method]]
        for at in [(one.names.index(score), one.measures.index(measure))])
    estimate, samples = np.asarray(ours - theirs), of_ours - of_theirs
    interval = jax.tree.map(np.asarray, statistics.recentred_interval(
        estimate, samples, level=conventions.level))
    row |= _with_ends(f"{measure}_difference", interval, (), lowest=-1)
    row[f"{measure}_difference_p"] = float(
        statistics.difference_p_value(estimate, samples))
  return row


def _with_ends(name, interval, at, *, lowest):
  """A number and its interval, without the part that no data could show."""
  return {name: float(interval.estimate[at]),
          f"{name}_low": float(np.maximum(interval.low[at], lowest)),
          f"{name}_high": float(np.minimum(interval.high[at], 1))}


def _every_draw_has_both(out, labels):
  held = out[:, labels]
  return bool(np.all(held.any(1) & ~held.all(1)))


@functools.partial(jax.jit, static_argnames="logit_scale")
def _over_draws(logits, labels, out, logit_scale):
  """AUROC and FPR95 of each draw and score; dropped logits have no weight."""

  def of_draw(draw):
    kept = jnp.where(draw[None], -jnp.inf, logits)
    scores = jnp.stack(list(_scores_of_logits(kept, logit_scale).values()))
    # Rounded once: an order compares each score with itself.
    scores = jax.lax.optimization_barrier(scores)
    known = ~draw[labels]
    found = jax.vmap(lambda one: failure.detection(one, known))(scores)
    return found.auroc, found.fpr95_in

  return jax.lax.map(of_draw, out)
