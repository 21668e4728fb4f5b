"""Methods with a state early and late in the stream, beside zero-shot.

Zero-shot predicts the same images as well wherever they come, so that its
difference to a method in the first quarter of the stream and in the last one
tells what the method has learned by then. What a cache holds at the end of each
quarter follows from where each image entered; images of other classes that come
in the same stream may be in it, too.
"""

from collections.abc import Iterator, Mapping, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import predictions as predictions_lib
from jaxcal import stages
from jaxcal.metrics import calibration
from jaxcal.metrics import statistics
from jaxcal.predictions import Predictions
from jaxcal.report import inputs
from jaxcal.report import resampled
from jaxcal.report import scores
from jaxcal.report import tables
from jaxcal.typing import Float
from jaxcal.typing import Int

Row = resampled.Row

HEADING = "Early and late in the stream"
PARTS = 4
# Images of a part; of fewer, a resample may hold none.
_LEAST = 20
_SCORES = ("accuracy", "gap", "ece", "nll")
# What is drawn: differences to zero-shot by quarter, with the heading of each.
DRAWN = {"accuracy": "accuracy - zero_shot, points",
         "gap": "(conf - acc) - zero_shot, points"}
_REFERENCE = stages.Stages("zero_shot")
_OF_NO_CLASS = -1  # the label of images of none of the classes


class Held(NamedTuple):
  """What a cache holds after some images of the stream.

  Attributes:
    entries: Number of entries.
    wrong: Number of those that lie in another class than their own.
    outside: Number of those of `wrong` that are of none of the classes.
  """

  entries: int
  wrong: int
  outside: int = 0


def rows(
    groups: Mapping[stages.Stages, Sequence[str]],
    predictions: Mapping[str, Predictions | inputs.Given],
    conventions: scores.Conventions,
    outside: Mapping[str, Predictions] = {},
) -> list[Row]:
  """Scores by quarters of the stream, one after the other for each method.

  Args:
    groups: Names of the predictions of each method, one for each order.
    predictions: Predictions by name, for the same images.
    conventions: Conventions of the ECE and of the intervals.
    outside: Predictions for images of none of the classes, by the same names.
      Caches may hold these images where they came in the same stream, which
      their positions tell.

  Returns:
    Of each method that says where in the stream its images came, and that is
    not recalibrated, as zero-shot is not, a row for each
    quarter: the stages, `part` and `parts`, `num_images`, the scores (accuracy,
    gap, ece and nll) with `_low` and `_high`, and where zero-shot is there, its
    own as `reference_...` and the paired differences `..._difference`; of
    caches `entries` and `wrong_entries`, their number at the end of the quarter
    and the share of them that lies in a wrong class, and `..._std` over orders;
    likewise `outside_entries`, the share that is of none of the classes, where
    such images are in the stream.
    After these a row of `part` "change" with what the last quarter's
    differences are more than the first one's. Of several orders all are means.
    None where a quarter would have fewer than 20 images.
  """
  reference = next((predictions[names[0]] for of, names in groups.items()
                    if of == _REFERENCE), None)
  found = []
  for of, names in groups.items():
    along = [predictions[name] for name in names]
    if of.recalibrator is None and all(map(_is_along, along)):
      others = [_in_stream(predictions[name], outside.get(name))
                for name in names]
      found += [stages.fields(of) | row for row in _of_method(
          along, others, reference, conventions)]
  return found


def held(
    info: Mapping[str, Float[np.ndarray, "n"]],
    labels: Int[np.ndarray, "n"],
    stop: int,
    others: Mapping[str, Float[np.ndarray, "m"]] | None = None,
) -> Held:
  """What is in a cache after the first `stop` images of the stream.

  Args:
    info: Position in the stream of each image, and the class and the place in
      it that it took, see `predictions.PLACES`; -1 where it took none.
    labels: True classes.
    stop: Number of images that have come, others among them.
    others: The same info of images of none of the classes in this stream; None
      without any.
  """
  if others is not None:
    info = {name: np.concatenate([info[name], others[name]])
            for name in predictions_lib.PLACES}
    labels = np.concatenate([labels, np.full(
        len(others[predictions_lib.STREAM_POSITION]), _OF_NO_CLASS)])
  order = np.argsort(info[predictions_lib.STREAM_POSITION])[:stop]
  entered = np.stack([info[name][order] for name in predictions_lib.ENTERED])
  into = order[entered[0] >= 0]
  entered = entered[:, entered[0] >= 0]
  # Of a place, the last image that took it is in it: the first from behind.
  _, last = np.unique(entered[:, ::-1], axis=1, return_index=True)
  own = labels[into[::-1][last]]
  wrong = own != entered[0, ::-1][last]
  return Held(len(last), int(wrong.sum()), int((own == _OF_NO_CLASS).sum()))


def ends(rows: Sequence[Row]) -> list[Row]:
  """The rows of the first and the last quarter, and of the change."""
  return [row for row in rows if row["part"] in (1, row["parts"], "change")]


def blocks(rows: Sequence[Row], level: float) -> list[str]:
  """Heading, table of first and last quarter, and what it shows; or nothing.

  Args:
    rows: Rows from `rows`, with `data`.
    level: Level of the intervals.
  """
  if not rows:
    return []
  return [f"{HEADING}:", tables.markdown(ends(rows), columns(
      rows, tables.ALONG_STREAM_BRIEFLY)), legend(rows, level)]


def columns(
    rows: Sequence[Row],
    of: Mapping[str, tables.Column] = tables.ALONG_STREAM,
) -> list[tables.Column]:
  """Those of some columns that some row fills."""
  return tables.present(rows, of)


def legend(rows: Sequence[Row], level: float) -> str:
  """What the columns mean.

  Args:
    rows: Rows from `rows`.
    level: Level of the intervals.
  """
  others = (" Of other classes in cache: share of those that are images of "
            "none of the classes, which are wrong in any."
            if any("outside_entries" in row for row in rows) else "")
  return (
      f"Quarters of the stream; brackets: {100 * level:g} % bootstrap over the "
      "images, of several orders for these orders. Differences to zero_shot "
      "are paired, on the same images; \"4 - 1\": by how much they are "
      "larger in the last quarter than in the first. Wrong in cache: share of "
      "the entries that lie in another class than their own, at the end of "
      f"the quarter.{others} An ECE of a quarter has a higher floor than one "
      "of all images.")


def _is_along(one):
  return (not isinstance(one, inputs.Given)
          and predictions_lib.STREAM_POSITION in one.info
          and len(one.ids) >= PARTS * _LEAST)


def _in_stream(one, other):
  """Predictions of images of other classes in the stream; None without any.

  In a stream of their own they are numbered from 0 as well, so that the two
  have positions in common.
  """
  if other is None or predictions_lib.STREAM_POSITION not in other.info:
    return None
  shared = np.intersect1d(*(of.info[predictions_lib.STREAM_POSITION]
                            for of in (one, other)))
  return None if len(shared) else other


def _of_method(along, others, reference, conventions) -> Iterator[Row]:
  """The rows of a method, from its predictions in each order."""
  parts = np.stack([_parts(one) for one in along])
  ours = _sample(along, parts, conventions)
  theirs = None if reference is None else _sample(
      [reference] * len(along), parts, conventions)
  level = conventions.level
  for number in range(PARTS):
    row: Row = {"part": number + 1, "parts": PARTS,
                "num_images": int((parts[0, number] >= 0).sum())}
    row |= resampled.score_row(ours[number], level, _SCORES)
    if theirs is not None:
      row |= _prefixed(resampled.score_row(theirs[number], level, _SCORES))
      row |= _differences(ours[number], theirs[number], level)
    yield row | _held(along, others, parts, number)
  if theirs is not None:
    yield {"part": "change", "parts": PARTS} | _differences(
        resampled.difference(ours[-1], theirs[-1]),
        resampled.difference(ours[0], theirs[0]), level)


def _parts(one):
  """Positions of the images of each quarter, filled up with -1."""
  order = np.argsort(one.info[predictions_lib.STREAM_POSITION])
  split = np.array_split(order, PARTS)
  return np.stack([np.pad(rows, (0, len(split[0]) - len(rows)),
                          constant_values=-1) for rows in split])


def _sample(of_orders, parts, conventions):
  """Means over orders of the scores of each quarter, and on resamples."""
  with jax.enable_x64(True):
    scored = [scores.of(one) for one in of_orders]
    seen = jax.tree.map(
        lambda *x: np.stack([np.asarray(of_order)[rows]
                             for of_order, rows in zip(x, parts)]), *scored)
    estimates, samples = jax.tree.map(np.asarray, _sampled(
        seen, parts, conventions._replace(level=0.5),
        len(of_orders[0].ids)))
  return [resampled.Resampled(_SCORES, estimates[part], samples[:, part])
          for part in range(PARTS)]


# Compiled once for all methods on an image set.
@functools.partial(jax.jit, static_argnames=("conventions", "num_images"))
def _sampled(seen, parts, conventions, num_images):
  def statistic(weights):
    weights = jnp.where(parts >= 0, weights[parts], 0)
    of_part = functools.partial(_scores, conventions)
    return jnp.mean(jax.vmap(jax.vmap(of_part))(seen, weights), axis=0)

  return statistic(jnp.ones(num_images)), statistics.bootstrap_samples(
      statistic, num_images, key=jax.random.key(conventions.seed),
      num_samples=conventions.num_resamples)


def _scores(conventions, seen, weights):
  """The scores of `_SCORES` of weighted images."""
  both = seen.confidence, seen.correct
  return jnp.stack([
      statistics.weighted_mean(seen.correct, weights),
      calibration.confidence_gap(*both, weights=weights),
      calibration.expected_calibration_error(
          *both, num_bins=conventions.num_bins, edges=conventions.edges,
          weights=weights),
      statistics.weighted_mean(seen.nll, weights)])


def _differences(ours, theirs, level):
  """Paired differences with intervals, without tests."""
  found = resampled.difference_row(ours, theirs, level, _SCORES)
  return {name: value for name, value in found.items()
          if not name.endswith("_p")}


def _prefixed(row):
  return {f"reference_{name}": value for name, value in row.items()}


def _held(along, others, parts, number) -> dict[str, Any]:
  """What caches hold after a part; nothing where nobody says it."""
  if not all(name in one.info for one in along
             for name in predictions_lib.ENTERED):
    return {}
  found = [held(one.info, np.asarray(one.labels),
                _num_come(one, other, rows, number),
                None if other is None else other.info)
           for one, other, rows in zip(along, others, parts)]
  row = {"entries": float(np.mean([one.entries for one in found]))}
  row |= _shares("wrong_entries", [
      one.wrong / max(1, one.entries) for one in found])
  if any(other is None for other in others):
    return row
  return row | _shares("outside_entries", [
      one.outside / max(1, one.entries) for one in found])


def _num_come(one, other, parts, number):
  """How many images of a stream came before the part after this one began."""
  position = one.info[predictions_lib.STREAM_POSITION]
  end = np.inf if number + 1 == PARTS else position[parts[number + 1, 0]]
  return sum(int((of.info[predictions_lib.STREAM_POSITION] < end).sum())
             for of in (one, other) if of is not None)


def _shares(name, of_orders):
  """Mean of a share over orders, and its spread over several."""
  return {name: float(np.mean(of_orders))} | (
      {f"{name}_std": float(np.std(of_orders, ddof=1))}
      if len(of_orders) > 1 else {})
