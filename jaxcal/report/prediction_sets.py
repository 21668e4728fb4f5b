"""A finished run's predictions become prediction sets on random splits.

  plan = prediction_sets.plan("runs/mine", alpha=0.1)
  print(prediction_sets.write(plan, "runs/mine").text)

Every method of each image set gets a row for each score, beside its calibration
error: does a lower one make smaller sets? Temperature and other calibrators
have been fitted to other images, so that the promise holds for them, too.
"""

from collections.abc import Iterator, Mapping, Sequence
import json
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from jaxcal import provenance
from jaxcal import stages
from jaxcal.conformal import predicted
from jaxcal.report import figures
from jaxcal.report import measured
from jaxcal.report import page
from jaxcal.report import saved_runs
from jaxcal.report import sections
from jaxcal.report import summary
from jaxcal.report import tables
from jaxcal.storage import atomic

# With fewer methods, ranks say nothing.
_LEAST_METHODS = 4


class Plan(NamedTuple):
  """What is to be done; seen to be possible.

  Attributes:
    run: Folder of the run.
    sources: Predictions, in the order of the run's tables.
    scores: Names of the scores.
    full: Names of the full conformal methods.
    left_out: Sentences on predictions without full conformal sets.
    arguments: Arguments of `predicted.measure` but for the score.
  """

  run: pathlib.Path
  sources: list[saved_runs.Saved]
  scores: tuple[str, ...]
  full: tuple[str, ...]
  left_out: list[str]
  arguments: Mapping[str, Any]


def plan(
    run: str | os.PathLike,
    scores: Sequence[str] = ("lac", "aps", "raps", "saps"),
    *,
    full: Sequence[str] = (),
    alpha: float = 0.1,
    num_splits: int = 50,
    share: float = 0.5,
    seed: int = 0,
    by_class: bool = False,
    transported: bool = False,
) -> Plan:
  """Looks at all predictions that get sets; nothing is written.

  Args:
    run: Output folder of `jaxcal evaluate` or `jaxcal recalibrate`.
    scores: Names of the scores, of `conformal.scores.SCORES`.
    full: Names of full conformal methods, of `predicted.FULL`, for predictions
      with the evidence that they need.
    alpha: Share of images whose class may be missed, in (0, 1).
    num_splits: Number of splits.
    share: Share of the images that calibrate.
    seed: Seed of the splits.
    by_class: Whether every class is to be covered by itself.
    transported: Whether probabilities are first transported to equal shares of
      the classes (Conf-OT).

  Raises:
    FileNotFoundError: No run.
    ValueError: Images without labels, numbers out of range, damaged files, or
      nothing that sets can be made of.
  """
  run = pathlib.Path(run)
  for name in scores:
    predicted.check_score(name)
  for name in full:
    predicted.check_full(name)
  if not scores and not full:
    raise ValueError("expected the name of a score or more, but there is none")
  sources = saved_runs.predictions_of(run, saved_runs.rows(run, "results"))
  left_out = []
  for source in sources:
    with saved_runs.named(source.data, source.name):
      # Everything is read where it is measured; only here for features, too.
      predicted.check(
          saved_runs.labelled_images(source.path).labels, alpha=alpha,
          num_splits=num_splits, share=share)
    reason = predicted.why_not_full(
        saved_runs.load(source.path)) if full else ""
    if reason:
      left_out.append(f"{source.data}, {source.name}: no {', '.join(full)}, "
                      f"{reason}")
  if not scores and len(left_out) == len(sources):
    raise ValueError(f"there is nothing to make sets of: {left_out[0]}")
  return Plan(run, sources, tuple(dict.fromkeys(scores)),
              tuple(dict.fromkeys(full)), left_out, {
      "alpha": alpha, "num_splits": num_splits, "share": share, "seed": seed,
      "by_class": by_class, "transported": transported})


def write(
    planned: Plan, output: str | os.PathLike, *, page_by: Sequence[str] = ()
) -> measured.Written:
  """Measures, and writes tables, diagrams and what they are of.

  Args:
    planned: Plan from `plan`.
    output: Folder that receives sets.jsonl, sets.md, sets.html, sets.json and
      sets-SET.svg; other files in it stay.
    page_by: Words of the command line that makes the sets.
  """
  output = pathlib.Path(output)
  atomic.make_folder(output)
  told = saved_runs.about(planned.run)
  left_out = saved_runs.on_left_out(told)
  conventions = saved_runs.conventions(told)
  rows = [row for source in planned.sources
          for row in _rows(source, planned, conventions)]
  saved_runs.write_rows(output / "sets.jsonl", rows)
  about = _about(planned)
  atomic.write_whole(
      output / "sets.json", json.dumps(about, indent=2).encode())
  for data, of_set in _by_set(rows):
    atomic.write_whole(output / f"sets-{data}.svg", figures.svg(
        figures.set_sizes(of_set)).encode())
  text = "\n\n".join(
      tables.markdown(one.rows, one.columns)
      if isinstance(one, page.Table) else one
      for one in (*_blocks(rows, planned.arguments), *left_out))
  atomic.write_whole(output / "sets.md", f"{text}\n".encode())
  page.write(output / "sets.html", page.Page(
      "Prediction sets", _lead(rows, about),
      [*_sections(rows, about, conventions), *sections.on_images(left_out)],
      saved_runs.measured_by(told, conventions) | {
          f"sets.{name}": value for name, value in about.items()
          if name not in ("predictions", "provenance")},
      saved_runs.commands(told, page_by)))
  return measured.Written(
      f"{text}\n\nWritten to {output}: sets.md, sets.html, sets-*.svg, "
      "sets.jsonl, sets.json", planned.left_out)


def of_run(
    run: pathlib.Path, current: Mapping[str, Mapping[str, str]]
) -> tuple[list[page.Section], list[str]]:
  """Sections on the sets that a run holds, and a sentence where they are old.

  Args:
    run: Folder of the run.
    current: Digests of its predictions, from `saved_runs.digests`.

  Raises:
    ValueError: What says of which predictions they are is damaged.
  """
  rows = saved_runs.rows(run, "sets")
  about = saved_runs.parsed(run / "sets.json")
  if not rows or not about:
    return [], []
  with saved_runs.written(run / "sets.json"):
    return _of_run(run, rows, about, current)


def _of_run(run, rows, about, current):
  now = {data: {name: hashed for name, hashed in of_set.items()
                if "/" not in name} for data, of_set in current.items()}
  if about["predictions"] != now:
    return [], [
        "Prediction sets are left out, since predictions are others than when "
        f"they were made; make them again: jaxcal conformal {run}"]
  first, *others = _sections(
      rows, about, saved_runs.conventions(saved_runs.about(run)))
  return [page.Section("Prediction sets", [_lead(rows, about), *first.blocks]),
          *others], []


def correlations(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Rank correlations over the methods of a set, for each score.

  Args:
    rows: Rows of sets.jsonl.

  Returns:
    A row for each image set and score with at least four methods: `size_ece`,
    `size_aurc`, `size_accuracy` and `ece_aurc`, Spearman's; NaN where one of
    both is the same for all methods.
  """
  found = []
  for data, of_set in _by_set(rows):
    for score in dict.fromkeys(row["score"] for row in of_set):
      some = [row for row in of_set if row["score"] == score]
      if len(some) >= _LEAST_METHODS:
        found.append({
            "data": data, "score": score, "num_methods": len(some),
            "size_ece": _spearman(some, "mean_size", "ece"),
            "size_aurc": _spearman(some, "mean_size", "aurc"),
            "size_accuracy": _spearman(some, "mean_size", "accuracy"),
            "ece_aurc": _spearman(some, "ece", "aurc")})
  return found


def _rows(source, planned, conventions) -> Iterator[dict[str, Any]]:
  with saved_runs.named(source.data, source.name):
    one = saved_runs.load_labelled(source.path)
  through = stages.named(one.settings, source.name)
  plain = summary.estimate(one, conventions)
  for found in _measures(one, planned):
    yield {"data": source.data, **stages.fields(through), **found,
           **{name: plain[name] for name in ("accuracy", "ece", "aurc")}}


def _measures(one, planned) -> Iterator[dict[str, Any]]:
  for score in planned.scores:
    yield predicted.measure(one, score=score, **planned.arguments)
  if planned.full and not predicted.why_not_full(one):
    arguments = {name: value for name, value in planned.arguments.items()
                 if name not in ("by_class", "transported")}
    for method in planned.full:
      yield predicted.measure_full(one, method=method, **arguments)


def _about(planned):
  """Of which predictions the sets are, by what the files hold."""
  contents: dict[str, dict[str, str]] = {}
  for source in planned.sources:
    contents.setdefault(source.data, {})[source.name] = saved_runs.digest(
        source.path)
  return {"run": planned.run.absolute().name, "scores": list(planned.scores),
          "full": list(planned.full), **planned.arguments,
          "predictions": contents, "provenance": provenance.describe()}


def _by_set(rows) -> Iterator[tuple[str, list[Any]]]:
  for data in dict.fromkeys(row["data"] for row in rows):
    yield data, [row for row in rows if row["data"] == data]


def _spearman(rows, one, other):
  from scipy import stats
  ranks = [stats.rankdata([row[name] for row in rows]) for name in (one, other)]
  if min(np.ptp(values) for values in ranks) == 0:
    return float("nan")
  return float(np.corrcoef(ranks)[0, 1])


def _lead(rows, about):
  """What is shown, in a sentence."""
  scores = list(dict.fromkeys(row["score"] for row in rows))
  sets = list(dict.fromkeys(row["data"] for row in rows))
  return (f"Sets of classes that are to hold the true one of "
          f"{tables.percent(1 - about['alpha'])} % of the images, by "
          f"{', '.join(scores)}: how large they are, and what they cover, on "
          f"{', '.join(sets)}.")


def _sections(rows, about, conventions) -> list[page.Section]:
  """All tables and notes, and figures for each set."""
  found = [page.Section("Summary", [
      *_blocks(rows, about),
      f"ECE: {conventions.num_bins} {conventions.edges}-closed bins."])]
  return found + [page.Section(f"Sets of {data}", [_figures(of_set)])
                  for data, of_set in _by_set(rows)]


def _figures(rows):
  """Sizes and coverage of an image set."""
  band = ("; grey: 95 % of the splits of a correct method"
          if "promised_low" in rows[0] else "")
  return page.Figures([
      page.Figure(
          figures.svg(figures.size_against_error(rows), inline=True),
          "Mean size against the calibration error\nnumbers are those of the "
          "methods beside"),
      page.Figure(
          figures.svg(figures.set_coverage(rows), inline=True),
          f"Coverage\nbars: two standard deviations of a split{band}")])


def _blocks(rows, arguments) -> Iterator[str | page.Table]:
  """Paragraphs and tables."""
  yield page.Table(rows, tables.SETS)
  yield (f"Means over {arguments['num_splits']} random splits (seed "
         f"{arguments['seed']}); a share of {arguments['share']:g} of the "
         "images calibrates, the others get sets that are to cover "
         f"{tables.percent(1 - arguments['alpha'])} % of them. After +-: two "
         "standard deviations of one split" +
         ("." if arguments["by_class"] else "; due: both of a correct method, "
          "exactly.") + " Accuracy, ECE and AURC are of all images.")
  if arguments["by_class"]:
    yield ("A threshold for each class, infinite where it has too few "
           "calibration images: it is then in every set.")
  if arguments["transported"]:
    yield ("For the scores, probabilities were transported to equal shares "
           "of the classes (Conf-OT), all images together.")
  yield "How evenly they cover:"
  yield page.Table(rows, tables.present(rows, tables.SETS_BALANCE),
                   folded="Coverage by class and by size of the set")
  found = correlations(rows)
  if found:
    yield ("Do methods with a lower calibration error have smaller sets? Rank "
           "correlations over methods, which see the same images and are often "
           "much alike:")
    yield page.Table(found, tables.SETS_CORRELATIONS)
