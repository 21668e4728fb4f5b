"""Several finished runs become one report, with the rows of all of them."""

from collections.abc import Iterator, Mapping, Sequence
import os
import pathlib
import shlex
from typing import Any

from jaxcal import predictions as predictions_lib
from jaxcal.report import measured
from jaxcal.report import published
from jaxcal.report import redrawn
from jaxcal.report import saved_runs
from jaxcal.report import summary
from jaxcal.report import thumbnails

# What the identity of predictions says of their images begins with this.
_OF_IMAGES = "data."
# Of a run in which only this differs, another run is another seed.
_SEED = "views.seed"

# Predictions by set and method, each with the run that it is of.
_Places = Mapping[str, Mapping[str, tuple[pathlib.Path, saved_runs.Saved]]]


def conventions(
    runs: Sequence[pathlib.Path], given: Mapping[str, Any] | None = None
) -> summary.Conventions:
  """How the predictions of all runs become numbers.

  Args:
    runs: Folders of the runs.
    given: Values by the name of the convention that come before the runs'.

  Raises:
    ValueError: The runs differ where nothing is given.
  """
  found = {run: saved_runs.conventions(saved_runs.about(run), given)
           for run in runs}
  first = found[runs[0]]
  for run, other in found.items():
    for name, value in first._asdict().items():
      if getattr(other, name) != value:
        raise ValueError(
            f"{runs[0]} was measured with {name} {value}, {run} with "
            f"{getattr(other, name)}; say which to take, such as "
            f"--config.metrics.{name}={value}")
  return first


def write(
    runs: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    now: summary.Conventions | None = None,
    *,
    beside_published: bool = False,
    with_images: bool = False,
    page_by: Sequence[str] = (),
) -> measured.Written:
  """Measures the predictions of several runs, and writes a report of all.

  Paired differences are those of each run.

  Args:
    runs: Output folders of `jaxcal evaluate` or `jaxcal recalibrate`.
    output: Folder to write to, that of none of them.
    now: Conventions of the ECE and of intervals; those of the runs if None.
    beside_published: Whether to put published numbers of the same sets and
      methods beside them; the runs must be alike in what these depend on.
    with_images: Whether to write a line for each image, too: images-SET.csv.
    page_by: Words of the command line that asks for it.

  Raises:
    FileNotFoundError: No run, or predictions that its tables name are gone.
    ValueError: Runs of other commands, a method on a set in two of them, sets
      of one name with other images or classes, other conventions, or damaged
      files.
  """
  folders = [pathlib.Path(run) for run in runs]
  output = pathlib.Path(output)
  if output.resolve() in {folder.resolve() for folder in folders}:
    raise ValueError(f"{output} is one of the runs; give another --output")
  now = conventions(folders) if now is None else now
  places = _places(folders)
  abouts = {folder: saved_runs.about(folder) for folder in folders}
  about = _in_common(abouts)
  found = measured.measure(_joined(folders, places), now)
  beside = published.compare(
      found.rows, published.setting_of(about), now
  ) if beside_published else None
  return measured.write(
      output, found, about=about, conventions=now, beside=beside,
      remarks=[*_remarks(abouts.values(), about),
               f"Of the runs {', '.join(map(str, folders))}; paired "
               "differences are within each run."],
      commands={
          f"Run by, {folder.name}": shlex.join(told[saved_runs.COMMAND])
          for folder, told in abouts.items() if saved_runs.COMMAND in told},
      small_images=_thumbnails(folders), with_images=with_images,
      page_by=page_by)


def _remarks(abouts, about):
  """Sentences of single runs on their sets, beside those of all of them."""
  every = dict.fromkeys(
      text for told in abouts for text in saved_runs.remarks(told))
  return [text for text in every if text not in saved_runs.remarks(about)]


def _thumbnails(runs) -> thumbnails.Thumbnails:
  """Those of all runs; of images of one name, of the last one."""
  found: dict[str, dict[str, str]] = {}
  for run in runs:
    for data, by_id in thumbnails.saved(run).items():
      found.setdefault(data, {}).update(by_id)
  return found


def _places(runs) -> _Places:
  """Where all predictions lie; refuses those that are there twice."""
  found: dict[str, dict[str, tuple[pathlib.Path, saved_runs.Saved]]] = {}
  for run in runs:
    results = saved_runs.rows(run, "results")
    kind = redrawn.kind_of(run, saved_runs.about(run), results)
    if kind != "evaluate":
      raise ValueError(
          f"{run} is of `jaxcal {kind}`; runs of `jaxcal evaluate` and "
          "`recalibrate` can be joined, others are reported one by one")
    for one in redrawn.saved_of(run, results):
      of_set = found.setdefault(one.data, {})
      if one.name in of_set:
        _refuse_twice(*of_set[one.name], run, one)
      of_set[one.name] = run, one
  for of_set in found.values():
    _check_images(of_set)
  return found


def _refuse_twice(run, one, other_run, other):
  """Raises: a method was measured on a set by two runs."""
  ours, theirs = (predictions_lib.settings(each.path).get("identity", {})
                  for each in (one, other))
  differing = {name for name in ours | theirs
               if ours.get(name) != theirs.get(name)}
  way_out = (
      "; they differ in the seed of the views alone: means over seeds come "
      "from one run, jaxcal sweep --sweep=views.seed=0,1,2"
      if differing == {_SEED} else "; leave out one of both runs")
  raise ValueError(f"{one.data}, {one.name} is in {run} and in {other_run}"
                   f"{way_out}")


def _check_images(of_set):
  """Refuses a name that stands for other images in another run."""
  (first_run, first), *others = of_set.values()
  ours = _images(first)
  for run, other in others:
    theirs = _images(other) if run != first_run else {}
    if any(theirs[name] != ours[name] for name in ours.keys() & theirs):
      raise ValueError(
          f"{other.data} has other images or classes in {run} than in "
          f"{first_run}; report them one by one")


def _images(one):
  """Which images and classes predictions are of."""
  with saved_runs.named(one.data, one.name):
    found = saved_runs.load(one.path)
  identity = found.settings.get("identity", {})
  return {"ids": found.ids, "class_names": found.class_names} | {
      name: value for name, value in identity.items()
      if name.startswith(_OF_IMAGES) and value is not None}


def _joined(runs, places: _Places) -> Iterator[measured.Predicted]:
  """Each set with the methods of all runs, in their order."""
  for data, of_set in places.items():
    parts = [part for run in runs for part in redrawn.read(
        run, [one for other, one in of_set.values() if other == run])]
    yield measured.Predicted(
        data, *({name: value for part in parts for name, value in mapping(
            part).items()} for mapping in (
                lambda part: part.predictions, lambda part: part.references,
                lambda part: part.out_of_distribution)))


def _in_common(abouts) -> dict[str, Any]:
  """Settings that all runs have, and those of single ones by their names."""
  of_each = {run: saved_runs.settings_of(about)
             for run, about in abouts.items()}
  first = next(iter(of_each.values()))
  common = {name: value for name, value in first.items()
            if all(other.get(name) == value for other in of_each.values())}
  return common | {
      f"{run.name}: {name}": value for run, settings in of_each.items()
      for name, value in settings.items() if name not in common}
