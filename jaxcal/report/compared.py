"""Finished runs compared image by image, by what their files hold.

  planned = compared.plan(["runs/first", "runs/second"])
  print(compared.compare(planned))

What is compared are the images that both have, in one order, whatever order
they are saved in. Differences are those of the first run minus another.
"""

from collections.abc import Iterator, Mapping, Sequence
import csv
import io
import os
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcal import predictions as predictions_lib
from jaxcal import spelling
from jaxcal import stages
from jaxcal.metrics import statistics
from jaxcal.predictions import Predictions
from jaxcal.report import per_image
from jaxcal.report import resampled
from jaxcal.report import saved_runs
from jaxcal.report import summary
from jaxcal.report import tables
from jaxcal.storage import atomic
from jaxcal.typing import Positions

# Of a recalibration: hashes of files, which differ whenever the runs do.
_HASHES = "recalibration.predictions"


class Side(NamedTuple):
  """Predictions of a run, and which of their images are compared.

  Attributes:
    run: Name of the run in tables.
    method: Name of the predictions' file, the label of their stages.
    path: Path of the predictions.
    rows: Positions of the images that the other side has, too.
    alone: Number of images that it does not have.
  """

  run: str
  method: str
  path: pathlib.Path
  rows: Positions
  alone: int

  def __str__(self) -> str:
    return f"{self.run}, {self.method}"


class Pair(NamedTuple):
  """Predictions for one image set that are compared; the first minus the other.

  Attributes:
    data: Name of the set.
    ours: Side of the first run.
    theirs: Side of another.
  """

  data: str
  ours: Side
  theirs: Side


class Plan(NamedTuple):
  """What is to be compared; seen to be possible.

  Attributes:
    runs: Folders of the runs by their names in tables.
    pairs: Predictions to be compared.
    remarks: Sentences on sets, methods and images that only one run has.
  """

  runs: Mapping[str, pathlib.Path]
  pairs: list[Pair]
  remarks: list[str]


class Comparison(NamedTuple):
  """What came of it; as text, tables.

  Attributes:
    rows: A row for each pair: image set, `run`, the stages, `reference_run`,
      those of the other side (see `stages.reference_fields`), `num_images`, how
      many further images each side has (`images_in_run_only`,
      `images_in_reference_only`), paired differences of all scores with
      `..._low`, `..._high` and p-values by Holm's method over all rows,
      `agree` (images with the same predicted class), `right_in_run_only`,
      `right_in_reference_only` and `mcnemar_p`, of McNemar's exact test, by
      Holm's method over all rows; and of the image of which the confidence
      differs most, `largest_confidence_change` and its id, `..._id`.
    settings: Settings of runs and methods that do not agree:
      `run`, `reference_run`, `field`, `value` and `reference_value`, which are
      absent where a run does not say it.
    remarks: See `Plan`.
    conventions: Conventions of the ECE and of the intervals.
  """

  rows: list[summary.Row]
  settings: list[dict[str, Any]]
  remarks: list[str]
  conventions: summary.Conventions

  def __str__(self) -> str:
    return "\n\n".join(_blocks(self))


def plan(
    runs: Sequence[str | os.PathLike], methods: Sequence[str] = ()
) -> Plan:
  """Looks at all that is to be compared; nothing is written.

  Args:
    runs: Output folders of `jaxcal evaluate`, `jaxcal recalibrate` or `jaxcal
      report`, the first of which is compared with each of the others. One may
      be given twice, to compare two of its methods.
    methods: Names of the methods that are compared, one for each run, such as
      ("tpt", "soc"); or one for all. All that both runs have if empty.

  Raises:
    FileNotFoundError: No run, or one without predictions.
    ValueError: Fewer than two runs, an unknown method, a run with itself; no
      set, method or image in common; the same images with other labels or
      among other classes, or without labels; damaged files.
  """
  folders = [pathlib.Path(run) for run in runs]
  if len(folders) < 2:
    raise ValueError("expected two runs or more to compare, got "
                     f"{len(folders)}; for two methods of one run, give it "
                     "twice, with their names: --method=NAME_A,NAME_B")
  if len(methods) not in (0, 1, len(folders)):
    raise ValueError(f"expected one method for each of the {len(folders)} runs "
                     f"or one for all, got {len(methods)}: "
                     f"{', '.join(methods)}")
  names = _names(folders)
  wanted = list(methods) * (len(folders) if len(methods) == 1 else 1)
  saved = [_saved(folder) for folder in folders]
  for number, method in enumerate(wanted):
    there = _methods(saved[number])
    if method not in there:
      raise ValueError(f"{folders[number]} has no method {method!r}; "
                       f"{spelling.choices(method, there)}")
  pairs: list[Pair] = []
  remarks: list[str] = []
  for number in range(1, len(folders)):
    if folders[0].resolve() == folders[number].resolve() and (
        not wanted or wanted[0] == wanted[number]):
      raise ValueError(f"{folders[number]} would be compared with itself; name "
                       "two of its methods: --method=NAME_A,NAME_B")
    found, said = _pairs(
        (names[0], names[number]), (saved[0], saved[number]),
        (wanted[0], wanted[number]) if wanted else None)
    pairs += found
    remarks += said
  return Plan(dict(zip(names, folders)), pairs, list(dict.fromkeys(remarks)))


def check_output(planned: Plan, output: str | os.PathLike) -> None:
  """Refuses a folder of a run or within one.

  Raises:
    ValueError: It is such a folder.
  """
  here = pathlib.Path(output).resolve()
  for run in planned.runs.values():
    if run.resolve() in (here, *here.parents):
      raise ValueError(f"--output={output} would write into {run}, which is "
                       "compared; give another folder")
  if (here / "run.json").exists():
    raise ValueError(f"{output} holds another run; give another --output")


def compare(
    planned: Plan, conventions: summary.Conventions | None = None
) -> Comparison:
  """All numbers; one pair of predictions is looked at after the other.

  Args:
    planned: Plan from `plan`.
    conventions: Conventions of the ECE and of the intervals; those of the first
      run if None.
  """
  about = {name: saved_runs.about(run) for name, run in planned.runs.items()}
  if conventions is None:
    conventions = saved_runs.conventions(next(iter(about.values())))
  first, *others = planned.runs
  settings = [row for other in others
              for row in _differing(first, other, *(
                  _described(about[name]) for name in (first, other)))]
  rows, p_values, files = [], [], []
  for pair in planned.pairs:
    ours, theirs = _load(pair)
    files += _other_files(pair, ours, theirs)
    rows.append(_row(pair, ours, theirs, conventions))
    with jax.enable_x64(True):
      p_values.append({"mcnemar_p": float(statistics.paired_hits_p_value(
          rows[-1]["right_in_run_only"],
          rows[-1]["right_in_reference_only"]))})
    if pair.ours.method == pair.theirs.method:
      settings += _differing(pair.ours.run, pair.theirs.run, *(
          {f"{pair.data}, {pair.ours.method}: {name}": value
           for name, value in one.settings.get("numbers", {}).items()}
          for one in (ours, theirs)))
  rows = [row | more for row, more in zip(
      resampled.adjusted(rows), resampled.adjusted(p_values))]
  remarks = [*(f"{name}: {run}." for name, run in planned.runs.items()
               if name != os.fspath(run)), *planned.remarks,
             *dict.fromkeys(files),
             *(f"{planned.runs[name]} has no run.json, which would say what it "
               "is of." for name, told in about.items() if not told)]
  return Comparison(rows, settings, remarks, conventions)


def write(
    planned: Plan, comparison: Comparison, output: str | os.PathLike) -> None:
  """Writes compare.md, compare.jsonl and per_image.csv.

  Args:
    planned: Plan from `plan`.
    comparison: Comparison from `compare`.
    output: Folder to write to; other files in it stay.

  Raises:
    ValueError: See `check_output`.
  """
  check_output(planned, output)
  output = pathlib.Path(output)
  atomic.make_folder(output)
  atomic.write_whole(output / "per_image.csv", _per_image(planned).encode())
  saved_runs.write_rows(output / "compare.jsonl", [
      {"kind": kind, **row}
      for kind, some in (("difference", comparison.rows),
                         ("setting", comparison.settings)) for row in some])
  atomic.write_whole(output / "compare.md", f"{comparison}\n".encode())


def _names(folders):
  """The folders' own names, or their paths where two have the same."""
  own = [folder.resolve().name for folder in folders]
  if len({*own}) == len({folder.resolve() for folder in folders}):
    return own
  return [os.fspath(folder) for folder in folders]


def _saved(run) -> dict[str, dict[str, pathlib.Path]]:
  """Paths of predictions by set and method."""
  found: dict[str, dict[str, pathlib.Path]] = {}
  for data, name, path in saved_runs.predictions_of(
      run, saved_runs.rows(run, "results")):
    found.setdefault(data, {})[name] = path
  return found


def _pairs(runs, saved, methods) -> tuple[list[Pair], list[str]]:
  """What two runs have in common, and sentences on what they have not."""
  common = [data for data in saved[0] if data in saved[1]]
  if not common:
    raise ValueError("no image set in common: " + "; ".join(
        f"{run} has {', '.join(some)}" for run, some in zip(runs, saved)))
  pairs, remarks = [], _alone(runs, saved, "")
  for data in common:
    of_set = [some[data] for some in saved]
    if methods is None:
      remarks += _alone(runs, of_set, f"{data}, ")
      named = [(name, name) for name in of_set[0] if name in of_set[1]]
    else:
      lacking = [f"{data}: {run} has no {name} there." for run, name, some
                 in zip(runs, methods, of_set) if name not in some]
      remarks += lacking
      named = [] if lacking else [methods]
    found = [_pair(data, runs, both, [
        some[name] for some, name in zip(of_set, both)]) for both in named]
    pairs += found
    remarks += _images_alone(data, found)
  if not pairs:
    raise ValueError(
        "no method in common; any two are compared by --method=NAME_A,NAME_B: "
        + "; ".join(f"{run} has {', '.join(_methods(some))}"
                    for run, some in zip(runs, saved)))
  return pairs, remarks


def _methods(saved) -> dict[str, None]:
  """Names of all methods of a run."""
  return {name: None for of_set in saved.values() for name in of_set}


def _alone(runs, saved, prefix) -> list[str]:
  """Sentences on the sets, or methods of a set, that one run has alone."""
  return [f"{prefix}{name}: in {run} only."
          for run, here, there in ((runs[0], *saved), (runs[1], *saved[::-1]))
          for name in here if name not in there]


def _images_alone(data, pairs) -> list[str]:
  """Sentences on the images that one side has alone; mostly all are alike."""
  found: dict[tuple[int, int, int], list[str]] = {}
  for _, ours, theirs in pairs:
    sizes = len(ours.rows), ours.alone, theirs.alone
    found.setdefault(sizes, []).append(ours.method)
  of = lambda names: ", ".join([data, *(names if len(found) > 1 else ())])
  return [
      f"{of(names)}: compared are the {number:,} images that both have; "
      f"{alone:,} more are in {pairs[0].ours.run} alone, {others:,} in "
      f"{pairs[0].theirs.run} alone."
      for (number, alone, others), names in found.items() if alone or others]


def _pair(data, runs, methods, files) -> Pair:
  """Which rows of two files are of the same images.

  Raises:
    ValueError: None are; or these have other labels or classes, or none.
  """
  both = []
  for name, file in zip(methods, files):
    with saved_runs.named(data, name):
      both.append(saved_runs.labelled_images(file))
  what = f"{data}, {methods[0]} of {runs[0]} and {methods[1]} of {runs[1]}"
  _check_classes(what, runs, *(one.class_names for one in both))
  place = {image_id: row for row, image_id in enumerate(both[1].ids)}
  matched = np.array([
      (row, place[image_id]) for row, image_id in enumerate(both[0].ids)
      if image_id in place], np.int64).reshape(-1, 2)
  if not len(matched):
    raise ValueError(
        f"{what}: no image in common; the first ids are {both[0].ids[0]!r} and "
        f"{both[1].ids[0]!r}")
  labels = [np.asarray(one.labels)[rows] for one, rows in zip(both, matched.T)]
  differ = np.flatnonzero(labels[0] != labels[1])
  if len(differ):
    row = differ[0]
    names = [both[0].class_names[label[row]] for label in labels]
    raise ValueError(
        f"{what}: {len(differ):,} of {len(matched):,} images have the same id "
        f"and another label, the first one {both[0].ids[matched[row, 0]]!r}, "
        f"{names[0]!r} and {names[1]!r}; they are other images, or one of the "
        "runs has other labels")
  return Pair(data, *(
      Side(run, name, path, rows, len(one.ids) - len(rows)) for
      run, name, path, rows, one in zip(runs, methods, files, matched.T, both)))


def _check_classes(what, runs, ours, theirs):
  """Refuses other class lists, or the same in another order."""
  if ours == theirs:
    return
  message = f"{what}: the same images must be predicted among the same classes"
  if len(ours) != len(theirs):
    raise ValueError(f"{message}, but there are {len(ours)} in {runs[0]} and "
                     f"{len(theirs)} in {runs[1]}")
  row = next(row for row, (a, b) in enumerate(zip(ours, theirs)) if a != b)
  raise ValueError(f"{message}, in the same order, but class {row} is "
                   f"{ours[row]!r} in {runs[0]} and {theirs[row]!r} in "
                   f"{runs[1]}")


def _load(pair) -> tuple[Predictions, Predictions]:
  """The predictions of both sides for the same images in the same order."""
  found = []
  for side in (pair.ours, pair.theirs):
    with saved_runs.named(pair.data, side.method):
      found.append(predictions_lib.take(saved_runs.load(side.path), side.rows))
  return found[0], found[1]


def _row(pair, ours, theirs, conventions) -> summary.Row:
  """All numbers of a pair but the adjusted ones."""
  seen = [per_image.of(one) for one in (ours, theirs)]
  predicted = [one.logits.argmax(axis=-1) for one in (ours, theirs)]
  right = [one.correct for one in seen]
  change = seen[0].confidence - seen[1].confidence
  largest = int(np.abs(change).argmax())
  through = [stages.named(one.settings, side.method)
             for one, side in ((ours, pair.ours), (theirs, pair.theirs))]
  return {
      "data": pair.data, "run": pair.ours.run, **stages.fields(through[0]),
      "reference_run": pair.theirs.run, **stages.reference_fields(through[1]),
      "num_images": len(ours.ids), "images_in_run_only": pair.ours.alone,
      "images_in_reference_only": pair.theirs.alone,
      **resampled.difference_row(
          resampled.of(ours, conventions), resampled.of(theirs, conventions),
          conventions.level),
      "agree": int(np.sum(predicted[0] == predicted[1])),
      "right_in_run_only": int(np.sum(right[0] & ~right[1])),
      "right_in_reference_only": int(np.sum(right[1] & ~right[0])),
      "largest_confidence_change": float(change[largest]),
      "largest_confidence_change_id": ours.ids[largest]}


def _described(told) -> dict[str, Any]:
  """What a run.json says, by dotted name."""
  return {name: value for name, value in (
      saved_runs.recalibration_of(told) | saved_runs.settings_of(told)).items()
          if name != _HASHES}


def _differing(run, other, ours, theirs) -> Iterator[dict[str, Any]]:
  """Rows of what two say of themselves and does not agree."""
  for field in dict.fromkeys((*ours, *theirs)):
    values = {name: told[field] for name, told in (
        ("value", ours), ("reference_value", theirs)) if field in told}
    if len(values) < 2 or ours[field] != theirs[field]:
      yield {"run": run, "reference_run": other, "field": field, **values}


def _other_files(pair, ours, theirs) -> list[str]:
  """A sentence where files of the same ids hold something else."""
  told = [one.settings.get("identity", {}) for one in (ours, theirs)]
  ids, contents = ([one.get(name) for one in told]
                   for name in ("data.ids", "data.contents"))
  if ids[0] != ids[1] or None in contents or contents[0] == contents[1]:
    return []
  return [f"{pair.data}: images of the same ids, but not the same: the files "
          f"of {pair.ours.run} and {pair.theirs.run} hold something else."]


def _per_image(planned) -> str:
  """Every image of every pair, as CSV."""
  text = io.StringIO()
  lines = csv.writer(text, lineterminator="\n")
  lines.writerow([
      "data", "run", "method", "reference_run", "reference", "id", "label",
      "predicted", "confidence", "reference_predicted", "reference_confidence"
  ])
  for pair in planned.pairs:
    both = _load(pair)
    names = np.array(both[0].class_names)
    columns = [both[0].ids, names[both[0].labels]]
    for one in both:
      columns += [names[one.logits.argmax(axis=-1)],
                  per_image.of(one).confidence.tolist()]
    about = (pair.data, pair.ours.run, pair.ours.method, pair.theirs.run,
             pair.theirs.method)
    lines.writerows((*about, *line) for line in zip(*columns))
  return text.getvalue()


def _blocks(found) -> Iterator[str]:
  """Paragraphs and tables of compare.md."""
  yield "Paired differences, the first run minus the other:"
  yield tables.markdown(
      found.rows, tables.present(found.rows, tables.COMPARED))
  yield "Image by image:"
  yield tables.markdown(found.rows, tables.AGREEMENT)
  level = 100 * found.conventions.level
  yield (f"ECE: {found.conventions.num_bins} {found.conventions.edges}-closed "
         f"bins; brackets: {level:g} % bootstrap; p: two-sided, of the "
         "bootstrap, and of McNemar's exact test for what is right in one "
         "only; each by Holm's method over its table.")
  if found.remarks:
    yield "\n".join(f"- {remark}" for remark in found.remarks)
  pairs = dict.fromkeys(
      (row["run"], row["reference_run"]) for row in found.rows)
  for run, other in pairs:
    some = [row for row in found.settings
            if (row["run"], row["reference_run"]) == (run, other)]
    if some:
      yield f"What {run} and {other} say of themselves and does not agree:"
      yield tables.markdown(some, tables.SETTINGS)
    elif run != other:
      yield f"{run} and {other} say the same of themselves."
