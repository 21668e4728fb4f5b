"""A posterior, and what was chosen with it: figures, tables, a text to print.
"""

from collections.abc import Mapping, Sequence
import json
import os
import pathlib
from typing import Any

from jaxcal import predictions as predictions_lib
from jaxcal.posterior import files
from jaxcal.posterior import finetuning
from jaxcal.posterior import released
from jaxcal.posterior import select
from jaxcal.report import figures
from jaxcal.report import page
from jaxcal.report import saved_runs
from jaxcal.report import summary
from jaxcal.report import tables
from jaxcal.storage import atomic

_SCORES = {"accuracy": "accuracy %", "ece": "ECE %", "nll": "NLL"}
_ON_SEEDS = (
    "Means over seeds; brackets and bands reach from the lowest to the highest "
    "seed, and say nothing of other images. before: the model as it was.")


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
    about: Mapping[str, Any] | None = None,
    remarks: Sequence[str] = (),
    page_by: Sequence[str] = (),
) -> str:
  """What choosing images to label has brought, as files, a table and a page.

  Args:
    output: Folder that receives results.jsonl, results.md, report.html and, of
      each target, learning-SET.svg and selected-SET.json: by strategy and seed
      the ids of the images, in the order of choosing.
    found: What `select.select` returned, by the name of the target.
    strategies: Strategies, as given there.
    budgets: Numbers of labels.
    seeds: Seeds of choosing.
    conventions: Conventions of the ECE.
    about: Content of run.json, for the page; nothing if None.
    remarks: Sentences about all of the report.
    page_by: Words of the command line that reports a finished selection.
  """
  output = pathlib.Path(output)
  rows, parts = [], []
  for data, paths in found.items():
    of_data = _selection_rows(
        data, paths, strategies, budgets, seeds, conventions)
    before, *after = of_data
    curves = {name: [before, *(row for row in after if row["strategy"] == name)]
              for name in strategies}
    figure = figures.svg(figures.learning_curves(curves, _SCORES))
    atomic.write_whole(output / f"learning-{data}.svg", figure.encode())
    parts.append(_section(data, curves))
    chosen = select.selected(
        paths, strategies=strategies, budget=max(budgets), seeds=seeds)
    atomic.write_whole(output / f"selected-{data}.json",
                       json.dumps(chosen, indent=1).encode())
    rows += of_data
  saved_runs.write_rows(output / "results.jsonl", rows)
  about = about or {}
  remarks = [*saved_runs.remarks(about), *remarks]
  text = "\n\n".join([tables.markdown(rows, tables.LEARNING), *remarks])
  atomic.write_whole(output / "results.md", f"{text}\n".encode())
  page.write(output / "report.html", page.Page(
      _title(about), "Accuracy and calibration after tuning the image "
      "projection on a few labelled images, by what chose them.",
      [page.Section("Summary", [
          page.Table(rows, tables.LEARNING), *remarks, _ON_SEEDS,
          _ece(conventions)]), *parts],
      saved_runs.measured_by(about, conventions),
      saved_runs.commands(about, page_by)))
  return (f"{text}\n\nMean over seeds, [lowest, highest].\n\nWritten to "
          f"{output}: results.jsonl, results.md, report.html, learning-*.svg, "
          "selected-*.json, predictions/")


def redraw_selection(
    run: pathlib.Path,
    results: Sequence[Mapping[str, Any]],
    *,
    conventions: summary.Conventions,
    output: pathlib.Path,
    remarks: Sequence[str] = (),
    page_by: Sequence[str] = (),
) -> str:
  """Measures a finished selection anew, from its predictions.

  Args:
    run: Folder of the selection.
    results: Rows of its results.
    conventions: Conventions of the ECE.
    output: Folder to write to.
    remarks: Sentences about all of the report.
    page_by: Words of the command line that reports it.

  Returns:
    What `write_selection` returns.

  Raises:
    FileNotFoundError: Predictions that the results name are gone.
    ValueError: They are damaged.
  """
  chosen = [row for row in results if row["strategy"] != select.BEFORE]
  # Of a run that has grown there may be more; its last table has the first.
  number = chosen[0]["seeds"]
  seeds = sorted(_seeds(run, chosen))[:number] or list(range(number))
  unique = lambda name: list(dict.fromkeys(row[name] for row in chosen))
  asked: dict[str, Any] = dict(
      strategies=unique("strategy"), budgets=unique("budget"), seeds=seeds)
  names = [select.BEFORE, *map(select.name_of, select.cells(**asked))]
  found = {data: {name: run / "predictions" / data / name for name in names}
           for data in dict.fromkeys(row["data"] for row in results)}
  for data, paths in found.items():
    for name, path in paths.items():
      saved_runs.check_there(run, f"{data}, {name}", path)
      with saved_runs.named(data, name):
        predictions_lib.load(path)
  atomic.make_folder(output)
  return write_selection(
      output, found, **asked, conventions=conventions,
      about=saved_runs.about(run), remarks=remarks, page_by=page_by)


def _seeds(run, chosen):
  """Seeds of the predictions of a set, as their settings tell them."""
  data = chosen[0]["data"]
  for path in (run / "predictions" / data).glob("*.json"):
    of = predictions_lib.settings(
        path.with_name(path.name.removesuffix(".json"))).get("identity", {})
    if of.get("strategy") == chosen[0]["strategy"] and (
        of.get("budget") == chosen[0]["budget"]):
      yield of["seed"]


def _section(data, curves):
  return page.Section(data, [page.Figures([
      page.Figure(
          figures.svg(figures.learning_curve(curves, score, heading),
                      inline=True),
          f"{heading.removesuffix(' %')} against the number of labels")
      for score, heading in _SCORES.items()])])


def _title(about):
  model = saved_runs.settings_of(about).get("config.model.name")
  return " ".join(filter(None, (
      "Which labels would help most", model and f"with {model}")))


def _ece(conventions):
  return (f"ECE: {conventions.num_bins} bins of equal width, closed on the "
          f"{conventions.edges}, mean absolute gap. NLL is in nats.")


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
