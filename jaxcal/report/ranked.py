"""A finished run's failures and outliers, ranked by every score."""

from collections.abc import Iterator, Mapping, Sequence
import json
import pathlib

from jaxcal import provenance
from jaxcal import stages
from jaxcal.predictions import Predictions
from jaxcal.report import figures
from jaxcal.report import page
from jaxcal.report import ranking
from jaxcal.report import saved_runs
from jaxcal.report import sections
from jaxcal.report import summary
from jaxcal.report import tables
from jaxcal.storage import atomic

# Captions of figures by what is ranked.
_CAPTIONS = {
    "failures": "AUROC of right predictions against wrong ones\n50 tells "
                "nothing; bars: bootstrap intervals",
    "outliers": "AUROC of images of the classes against others\n50 tells "
                "nothing; bars: bootstrap intervals",
    "held-out classes": "AUROC of known classes against held-out ones\n50 "
                        "tells nothing; bars: a standard deviation of the "
                        "draws",
}
# Predictions for a set, and for images of none of its classes.
_Pair = tuple[Predictions, Predictions | None]


def rank(
    run: pathlib.Path,
    conventions: summary.Conventions,
    *,
    held_out: int = 0,
    num_draws: int = 100,
    logit_scale: float | None = None,
) -> dict[str, list[ranking.Ranking]]:
  """Rankings of each image set of a run.

  Args:
    run: Output folder of `jaxcal evaluate` or `jaxcal recalibrate`.
    conventions: Conventions of the intervals, and the seed of the draws.
    held_out: Number of classes that are held out in each draw; none if zero.
    num_draws: Number of such draws.
    logit_scale: Factor from cosines to logits, for the score MCM; if None, what
      settings of the predictions say, and without that no MCM.

  Returns:
    Rankings by set: of failures; of images of none of the classes, where the
    run has predictions for such; and of held-out classes, where asked for.

  Raises:
    FileNotFoundError: No run, or one without predictions.
    ValueError: Damaged predictions, images without labels, or other draws than
      the classes allow.
  """
  found: dict[str, list[ranking.Ranking]] = {}
  for data, predictions in _loaded(run).items():
    inside = {name: one for name, (one, _) in predictions.items()}
    outside = {name: one for name, (_, one) in predictions.items() if one}
    rankings = [ranking.rank_failures(
        inside, conventions, logit_scale=logit_scale)]
    if outside:
      rankings.append(ranking.rank_outliers(
          {name: inside[name] for name in outside}, outside, conventions,
          logit_scale=logit_scale))
    if held_out:
      rankings.append(ranking.rank_held_out_classes(
          inside, num_classes=held_out, num_draws=num_draws,
          seed=conventions.seed, logit_scale=logit_scale))
    through = {name: stages.named(one.settings, name)
               for name, one in inside.items()}
    found[data] = [_with_stages(one, through) for one in rankings]
  return found


def _with_stages(one, through):
  """A ranking whose rows have the stages of predictions, not their label."""

  def of_row(row):
    row = row | stages.fields(through[row["method"]])
    if "reference" in row:
      row |= stages.reference_fields(through[row["reference"]])
    return row

  return one._replace(rows=[*map(of_row, one.rows)],
                      differences=[*map(of_row, one.differences)])


def write(
    run: pathlib.Path,
    rankings: Mapping[str, list[ranking.Ranking]],
    conventions: summary.Conventions,
    *,
    output: pathlib.Path | None = None,
    page_by: Sequence[str] = (),
) -> str:
  """Writes failure.md, .jsonl, .html and .json; returns the text of the first.

  Args:
    run: Folder of the run that is ranked.
    rankings: Rankings by image set, from `rank`.
    conventions: Conventions of the intervals.
    output: Folder to write to; the run itself if None.
    page_by: Words of the command line that ranks.
  """
  output = run if output is None else output
  told, blocks = saved_runs.about(run), []
  left_out = saved_runs.on_left_out(told)
  for data, some in rankings.items():
    for one in some:
      blocks += [f"{data}, {one.kind}:", str(one)]
  blocks += [*left_out, _on_intervals(conventions)]
  text = "\n\n".join(blocks)
  output.mkdir(parents=True, exist_ok=True)
  saved_runs.write_rows(output / "failure.jsonl", [
      {"data": data, "kind": one.kind, **row} for data, some in rankings.items()
      for one in some for row in (*one.rows, *one.differences)])
  about = {
      "run": run.absolute().name, **conventions._asdict(),
      "notes": {data: {one.kind: list(one.notes) for one in some}
                for data, some in rankings.items()},
      "predictions": saved_runs.digests(run),
      "provenance": provenance.describe()}
  atomic.write_whole(
      output / "failure.json", json.dumps(about, indent=2).encode())
  atomic.write_whole(output / "failure.md", f"{text}\n".encode())
  page.write(output / "failure.html", page.Page(
      "Do confidences know what is wrong?",
      "How well each score tells right predictions from wrong ones, and images "
      f"of none of the classes from the others, on {', '.join(rankings)}.",
      [*_sections(rankings, conventions), *sections.on_images(left_out)],
      saved_runs.measured_by(told, conventions),
      saved_runs.commands(told, page_by)))
  return text


def of_run(
    run: pathlib.Path, current: Mapping[str, Mapping[str, str]]
) -> tuple[list[page.Section], list[str]]:
  """Sections on the rankings that a run holds, a sentence where they are old.

  Args:
    run: Folder of the run.
    current: Digests of its predictions, from `saved_runs.digests`.

  Raises:
    ValueError: What says of which predictions they are is damaged.
  """
  rows = saved_runs.rows(run, "failure")
  about = saved_runs.parsed(run / "failure.json")
  if not rows:
    return [], []
  with saved_runs.written(run / "failure.json"):
    return _of_run(run, rows, about, current)


def _of_run(run, rows, about, current):
  if about.get("predictions") != current:
    return [], [
        "Rankings of failures are left out, since predictions are others than "
        f"when they were made; make them again: jaxcal failure {run}"]
  conventions = summary.Conventions(**{
      name: about[name] for name in summary.Conventions._fields})
  return list(_sections(
      _read(rows, about["notes"]), conventions, folded=True)), []


def _read(rows, notes) -> dict[str, list[ranking.Ranking]]:
  """Rankings as they were written."""

  def of(data, kind, compared):
    return [{name: value for name, value in row.items()
             if name not in ("data", "kind")}
            for row in rows if (row["data"], row["kind"]) == (data, kind) and (
                ("reference" in row) == compared)]

  return {data: [ranking.Ranking(
      of(data, kind, False), of(data, kind, True), said, kind)
                 for kind, said in by_kind.items()]
          for data, by_kind in notes.items()}


def _sections(
    rankings: Mapping[str, list[ranking.Ranking]],
    conventions: summary.Conventions,
    *,
    folded: bool = False,
) -> Iterator[page.Section]:
  """A section for each set and kind of ranking."""
  for data, some in rankings.items():
    for one in some:
      columns, differing = tables.RANKINGS[one.kind]
      blocks: list[page.Block] = [
          page.Table(one.rows, columns, folded=(
              f"All {len(one.rows)} methods and scores" if folded else "")),
          page.Figures([page.Figure(
              figures.svg(figures.areas_by_method(one.rows), inline=True),
              _CAPTIONS[one.kind])]), *one.notes]
      if one.differences:
        blocks += [sections.ON_DIFFERENCES,
                   page.Table(one.differences, differing, folded=(
                       f"{len(one.differences)} paired differences"))]
      yield page.Section(f"{one.kind.capitalize()}, {data}",
                         [*blocks, _on_intervals(conventions)])


def _on_intervals(conventions):
  return (
      f"Brackets: {100 * conventions.level:g} % bootstrap; p: two-sided, of "
      "the bootstrap, by Holm's method over each table of differences.")


def _loaded(run) -> dict[str, dict[str, _Pair]]:
  """Predictions by set and method, each with those out of distribution."""
  found: dict[str, dict[str, _Pair]] = {}
  results = saved_runs.rows(run, "results")
  for data, name, path in saved_runs.predictions_of(run, results):
    with saved_runs.named(data, name):
      beside = saved_runs.out_of_distribution(path)
      found.setdefault(data, {})[name] = (
          saved_runs.load_labelled(path),
          None if beside is None else saved_runs.load(beside))
  return found
