"""A posterior, and what was chosen with it: figures, tables, a text to print.
"""

from collections.abc import Mapping, Sequence
import json
import os
import pathlib

from jaxcal import predictions as predictions_lib
from jaxcal.posterior import files
from jaxcal.posterior import finetuning
from jaxcal.posterior import released
from jaxcal.posterior import select
from jaxcal.report import figures
from jaxcal.report import saved_runs
from jaxcal.report import summary
from jaxcal.report import tables
from jaxcal.storage import atomic

_SCORES = {"accuracy": "accuracy %", "ece": "ECE %", "nll": "NLL"}


def write_fit(
    folder: str | os.PathLike, found: files.Fitted, evidence: files.Evidence
) -> str:
  """Draws the spectra of a posterior's factors, and says what it rests on.

  Args:
    folder: Folder of the posterior; receives spectra.svg.
    found: Kronecker factors with their spectra.
    evidence: How much the pairs and the prior count.
  """
  figure = figures.spectra(*files.weighed_spectra(found, evidence))
  atomic.write_whole(
      pathlib.Path(folder, "spectra.svg"), figures.svg(figure).encode())
  left_out = {**found.manifest.get("left_out", {}),
              "unusable image": found.manifest.get("num_unusable", 0)}
  note = ", ".join(f"{count} {why}" for why, count in left_out.items() if count)
  return "\n\n".join([
      tables.markdown(files.describe(found, evidence), tables.POSTERIOR),
      f"pseudo-data count {evidence.pseudo_count:g}; left out: "
      f"{note or 'nothing'}",
      f"Written to {folder}: factors.npz, spectra.npz, spectra.svg, "
      "manifest.json, posterior.npz, posterior.json"])


def write_priors(
    folder: str | os.PathLike,
    found: released.Released,
    fitted: files.Fitted,
    evidence: files.Evidence,
) -> str:
  """A table of released prior precisions and of those fitted anew.

  Args:
    folder: Folder of the posterior; receives priors.md.
    found: Factors as they were released.
    fitted: The same with their spectra.
    evidence: How much the pairs and the prior count now.
  """
  text = tables.markdown(
      released.compare_priors(found, fitted, evidence), tables.PRIORS)
  atomic.write_whole(pathlib.Path(folder, "priors.md"), f"{text}\n".encode())
  return text


def write_selection(
    output: str | os.PathLike,
    found: Mapping[str, Mapping[str, pathlib.Path]],
    *,
    strategies: Sequence[str],
    budgets: Sequence[int],
    seeds: Sequence[int],
    conventions: summary.Conventions = summary.Conventions(),
) -> str:
  """What choosing images to label has brought, as files and a table.

  Args:
    output: Folder that receives results.jsonl, results.md and, of each target,
      learning-SET.svg and selected-SET.json: by strategy and seed the ids of
      the images, in the order of choosing.
    found: What `select.select` returned, by the name of the target.
    strategies: Strategies, as given there.
    budgets: Numbers of labels.
    seeds: Seeds of choosing.
    conventions: Conventions of the ECE.
  """
  output = pathlib.Path(output)
  rows = []
  for data, paths in found.items():
    of_data = _selection_rows(
        data, paths, strategies, budgets, seeds, conventions)
    before, *after = of_data
    curves = {name: [before, *(row for row in after if row["strategy"] == name)]
              for name in strategies}
    figure = figures.svg(figures.learning_curves(curves, _SCORES))
    atomic.write_whole(output / f"learning-{data}.svg", figure.encode())
    chosen = select.selected(
        paths, strategies=strategies, budget=max(budgets), seeds=seeds)
    atomic.write_whole(output / f"selected-{data}.json",
                       json.dumps(chosen, indent=1).encode())
    rows += of_data
  saved_runs.write_rows(output / "results.jsonl", rows)
  text = tables.markdown(rows, tables.LEARNING)
  atomic.write_whole(output / "results.md", f"{text}\n".encode())
  return (f"{text}\n\nMean over seeds, [lowest, highest].\n\nWritten to "
          f"{output}: results.jsonl, results.md, learning-*.svg, "
          "selected-*.json, predictions/")


def _selection_rows(
    data: str,
    paths: Mapping[str, pathlib.Path],
    strategies: Sequence[str],
    budgets: Sequence[int],
    seeds: Sequence[int],
    conventions: summary.Conventions,
) -> list[summary.Row]:
  """Mean, lowest and highest score over seeds, by strategy and budget."""
  names = {(select.BEFORE, 0): [select.BEFORE]} | {
      (strategy, budget): [
          select.name_of(finetuning.Cell(strategy, seed, budget))
          for seed in seeds]
      for strategy in strategies for budget in budgets}
  return [
      {"data": data, "strategy": strategy, "budget": budget, "seeds": len(each),
       **summary.spread([predictions_lib.load(paths[name]) for name in each],
                        conventions)}
      for (strategy, budget), each in names.items()]
