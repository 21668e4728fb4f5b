"""Means over image sets, by method, with what other images would show.

Each set counts the same, however many images it has. Intervals and tests are
for other images of these sets, not for other sets.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxcal import stages
from jaxcal.report import resampled
from jaxcal.report import scores
from jaxcal.report import tables

Row = resampled.Row


class Entry(NamedTuple):
  """Scores of a method on an image set.

  Attributes:
    data: Name of the set.
    stages: Stages of the predictions.
    sampled: Scores on all images and on resamples.
  """

  data: str
  stages: stages.Stages
  sampled: resampled.Resampled


def gaps(entries: Sequence[Entry]) -> dict[stages.Stages, list[str]]:
  """Sets that a method lacks and others have; methods with all are left out."""
  sets = dict.fromkeys(one.data for one in entries)
  found = {}
  for method in dict.fromkeys(one.stages for one in entries):
    has = {one.data for one in entries if one.stages == method}
    if len(has) < len(sets):
      found[method] = [data for data in sets if data not in has]
  return found


def means(
    entries: Sequence[Entry],
    conventions: scores.Conventions,
    references: Mapping[stages.Stages, stages.Stages] | None = None,
) -> list[Row]:
  """Means over sets, one row per method.

  Args:
    entries: Scores of every method on every set, by the same conventions.
    conventions: Conventions of the intervals.
    references: Methods that others are compared with, by these; none if None.

  Returns:
    Rows with the stages of the method, `sets`, their number, and the scores
    with `_low` and `_high`; of several methods, `best` says by which it is the
    best, see `resampled.best`. Rows of a method with a reference have the
    stages of that, too, and the paired differences of
    `resampled.difference_row` with p-values by Holm's method over these rows.

  Raises:
    ValueError: A method twice on a set, or one that lacks a set that others
      have; a mean of other sets would compare sets, not methods.
  """
  _check(entries)
  order = _order(entries, conventions.seed)
  found = {}
  for method in dict.fromkeys(one.stages for one in entries):
    found[method] = resampled.mean([
        one.sampled._replace(samples=one.sampled.samples[order[one.data]],
                             ids=None, hits=None)
        for one in entries if one.stages == method])
  best = resampled.best(found, conventions.level) if len(found) > 1 else None
  rows = []
  for method, mean in found.items():
    row = {**stages.fields(method), "sets": len(order),
           **resampled.score_row(mean, conventions.level)}
    if best is not None:
      row["best"] = best[method]
    reference = (references or {}).get(method)
    if reference is not None:
      row |= stages.reference_fields(reference) | resampled.difference_row(
          mean, found[reference], conventions.level)
    rows.append(row)
  return resampled.adjusted(rows)


def title(rows: Sequence[Row]) -> str:
  """Heading of a table of `means`."""
  return f"Means over {rows[0]['sets']} sets"


def remarks(
    rows: Sequence[Row], conventions: scores.Conventions) -> list[str]:
  """What stands below the tables of `means`: of intervals, bold and p-values.

  Args:
    rows: Rows from `means`.
    conventions: Conventions of the intervals.
  """
  compared = [row for row in rows if "reference" in row]
  return [
      "Each set counts the same. Brackets: "
      f"{100 * conventions.level:g} % bootstrap over the images of all sets; "
      "other sets may differ by more.",
      *tables.best_notes(rows, conventions.level, "this table"),
      *([tables.p_value_note("this table", compared,
                             conventions.num_resamples)] if compared else [])]


def blocks(
    rows: Sequence[Row], conventions: scores.Conventions) -> list[str]:
  """Headings, tables and what they show; nothing without rows.

  Args:
    rows: Rows from `means`.
    conventions: Conventions of the intervals.
  """
  if not rows:
    return []
  compared = [row for row in rows if "reference" in row]
  found = [f"{title(rows)}:", tables.markdown(
      rows, tables.present(rows, tables.MEASURED_MEANS))]
  if compared:
    found += ["Paired differences of these means:", tables.markdown(
        compared, tables.present(compared, tables.MEASURED_DIFFERENCES))]
  return [*found, *remarks(rows, conventions)]


def _check(entries):
  seen = set()
  for one in entries:
    if (one.data, one.stages) in seen:
      raise ValueError(
          f"{one.stages.label} occurs twice on {one.data}, so that a mean "
          "would count it twice; leave one of them out.")
    seen.add((one.data, one.stages))
  lacking = gaps(entries)
  if lacking:
    raise ValueError(
        "a mean over sets needs every method on every set, but "
        + "; ".join(f"{method.label} lacks {', '.join(sets)}"
                    for method, sets in lacking.items())
        + ". Leave out these methods or these sets.")


def _order(entries, seed):
  """By set, the order in which its resamples meet those of other sets.

  Sets of one size share their draws, which are no draws of one and of the other
  independently, but for sets of the same images, as corruptions of them are.
  """
  found: dict[str, np.ndarray] = {}
  of_images: dict[tuple[str, ...], np.ndarray] = {}
  for one in entries:
    if one.data not in found:
      order = np.random.default_rng([seed, len(found)]).permutation(
          len(one.sampled.samples))
      ids = one.sampled.ids
      found[one.data] = order if ids is None else of_images.setdefault(
          ids, order)
  return found
