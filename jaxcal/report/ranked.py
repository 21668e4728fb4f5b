"""A finished run's failures and outliers, ranked by every score."""

from collections.abc import Mapping
import pathlib

from jaxcal import stages
from jaxcal.predictions import Predictions
from jaxcal.report import ranking
from jaxcal.report import saved_runs
from jaxcal.report import summary
from jaxcal.storage import atomic

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
    output: pathlib.Path,
    rankings: Mapping[str, list[ranking.Ranking]],
    conventions: summary.Conventions,
) -> str:
  """Writes failure.md and failure.jsonl; returns the text of the former.

  Args:
    output: Folder to write to.
    rankings: Rankings by image set, from `rank`.
    conventions: Conventions of the intervals.
  """
  blocks = []
  for data, some in rankings.items():
    for one in some:
      blocks += [f"{data}, {one.kind}:", str(one)]
  blocks.append(
      f"Brackets: {100 * conventions.level:g} % bootstrap; p: two-sided, of "
      "the bootstrap, by Holm's method over each table of differences.")
  text = "\n\n".join(blocks)
  output.mkdir(parents=True, exist_ok=True)
  saved_runs.write_rows(output / "failure.jsonl", [
      {"data": data, "kind": one.kind, **row} for data, some in rankings.items()
      for one in some for row in (*one.rows, *one.differences)])
  atomic.write_whole(output / "failure.md", f"{text}\n".encode())
  return text


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
