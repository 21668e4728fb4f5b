"""A finished run's predictions become better calibrated ones, beside the plain.

  plan = recalibrated.plan("runs/mine", recalibrated.Share(0.2))
  print(recalibrated.write(plan, plan.folder).text)

Each METHOD of each image set is fitted to labelled images and becomes
METHOD+NAME, measured beside it on the same images, none of them fitted to.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import os
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np

from jaxcal import predictions as predictions_lib
from jaxcal import provenance
from jaxcal.predictions import Predictions
from jaxcal.recalibration import base
from jaxcal.recalibration import predicted
from jaxcal.recalibration import temperature
from jaxcal.report import measured
from jaxcal.report import saved_runs
from jaxcal.report import thumbnails
from jaxcal.storage import atomic
from jaxcal.storage import output_folder


class Share(NamedTuple):
  """A share of a run's own images, to fit to while the others are measured.

  Attributes:
    share: Share of the images, in (0, 1), drawn at random from each class.
    seed: Seed of that draw.
  """

  share: float
  seed: int = 0


class Source(NamedTuple):
  """Predictions of a method on a set, and those that it is fitted to.

  Attributes:
    data: Name of the set.
    name: Name of the method's file.
    path: Path of the predictions.
    on: Path of those to fit to; the same where a share of them is drawn, or
      nothing is fitted.
  """

  data: str
  name: str
  path: pathlib.Path
  on: pathlib.Path


class Plan(NamedTuple):
  """What is to be done; seen to be possible.

  Attributes:
    run: Folder of the run.
    on: Images to fit to, as given to `plan`; None where nothing is fitted.
    calibrator: The calibrator.
    sources: Predictions to recalibrate, in the order of the run's tables.
    left_out: Sentences on methods without predictions to fit to, or without
      what the calibrator looks at.
    inputs: All that decides the numbers, files by what they hold; anything that
      JSON holds.
  """

  run: pathlib.Path
  on: str | Share | None
  calibrator: base.Calibrator
  sources: list[Source]
  left_out: list[str]
  inputs: dict[str, Any]

  @property
  def folder(self) -> pathlib.Path:
    """A folder for it in that of the run, with a hash of the inputs."""
    return self.run / output_folder.hashed(
        f"recalibrated-{self.inputs['recalibrator']}", self.inputs)


def plan(
    run: str | os.PathLike,
    on: str | os.PathLike | Share | None = None,
    calibrator: base.Calibrator = temperature.Temperature(),
) -> Plan:
  """Looks at all that is to be recalibrated; nothing is written.

  Args:
    run: Output folder of `jaxcal evaluate`.
    on: Labelled images to fit to: a share of the run's own; or the name of a
      split that it holds predictions of, the output folder of another run with
      the same sets and methods, or a file of predictions. Where nothing is
      fitted, None for all images, or a share that is left out.
    calibrator: The calibrator, `Temperature()` if not given.

  Raises:
    FileNotFoundError: No run, or nothing to fit to.
    ValueError: A run that is itself a recalibration; no images to fit to, or
      some where nothing is fitted; predictions that cannot be fitted to or
      recalibrated, see `predicted.check`; names set and method.
  """
  run = pathlib.Path(run)
  if on is not None and not isinstance(on, Share):
    on = os.fspath(on)
  one = calibrator.recalibrator()
  _check_plain(run, one)
  _check_on(on, one)
  if on in saved_runs.OUTSIDE:
    raise ValueError(
        f"{on!r} are images of none of the classes, so that their labels mean "
        "nothing; fit to others")
  sources, left_out = _sources(run, on)
  lacking = {source: _lacking(source, one) for source in sources}
  if not all(lacking.values()):  # or the first of them is refused below
    sources = [source for source in sources if not lacking[source]]
    left_out += [
        f"{source.data}, {source.name}: left out, {one.name} needs "
        f"{', '.join(names)} of it, which are not there"
        for source, names in lacking.items() if names]
  for source in sources:
    with saved_runs.named(source.data, source.name):
      predicted.check(*_divided(source, on), calibrator)
  return Plan(run, on, calibrator, sources, left_out,
              _inputs(run, on, one.name, sources))


def check_output(planned: Plan, output: pathlib.Path) -> None:
  """Refuses a folder that is the run itself or holds what is read.

  Raises:
    ValueError: It is such a folder.
  """
  here = output.resolve()
  read = {folder for source in planned.sources
          for path in (source.path, source.on)
          for folder in path.resolve().parents}
  if here in read or (planned.run / "predictions").resolve() in here.parents:
    raise ValueError(f"--output={output} would mix with what is read; give "
                     f"another folder, perhaps one in {planned.run}")


def write(planned: Plan, output: str | os.PathLike) -> measured.Written:
  """Recalibrates, measures and writes predictions, report and run.json.

  Args:
    planned: Plan from `plan`.
    output: Folder to write to; what it holds by the same names is replaced.

  Raises:
    ValueError: See `check_output`.
  """
  output = pathlib.Path(output)
  check_output(planned, output)
  atomic.make_folder(output)
  output_folder.write_settings(output, planned.inputs)
  fits: dict[str, dict[str, Any]] = {}
  pairs: dict[pathlib.Path, dict[str, str]] = {}
  for source in planned.sources:
    plain, on = _divided(source, planned.on)
    found = predicted.recalibrate_quietly(plain, on, planned.calibrator)
    name = found.settings["method"]
    folder = output / "predictions" / source.data
    predictions_lib.save(plain, folder / source.name)
    predictions_lib.save(found, folder / name)
    fits.setdefault(source.data, {})[source.name] = _fit(found)
    pairs.setdefault(folder, {})[name] = source.name
  before = saved_runs.about(planned.run)
  about = planned.inputs | {
      "fits": fits, "provenance": provenance.describe(),
      saved_runs.SETTINGS: saved_runs.settings_of(before)}
  output_folder.write_settings(output, about)
  conventions = saved_runs.conventions(before)
  return measured.write(
      output, measured.measure(_predicted(pairs), conventions), about=about,
      conventions=conventions, small_images=thumbnails.saved(planned.run))


def _check_plain(run: pathlib.Path, one: base.Recalibrator) -> None:
  """Refuses a recalibration, whose plain methods are there beside the others.
  """
  told = saved_runs.about(run)
  if saved_runs.is_recalibration(told):
    before = told["recalibrator"]
    names = f"{before}+{one.name}".replace("+", ",")
    raise ValueError(
        f"{run} is itself a recalibration of the run "
        f"{told.get('run', 'that it does not name')}, by "
        f"{before}; for {before} and then {one.name}, recalibrate that run "
        f"with --recalibrator={names}, which fits both to the same images")


def _check_on(on: str | Share | None, one: base.Recalibrator) -> None:
  """Refuses images to fit to where nothing is fitted, and the reverse."""
  if one.fit is None and isinstance(on, str):
    raise ValueError(
        f"{one.name} is fitted to no images, so that {on} would have no "
        "effect; leave it out")
  if one.fit is not None and on is None:
    raise ValueError(
        f"{one.name} is fitted to labelled images: give one of "
        "--on=SPLIT|RUN|FILE, and --share=0.2, a share of the images "
        "themselves")


def by_split(
    folder: pathlib.Path,
    sets: Iterable[str],
    split: str,
    methods: Sequence[str],
    calibrator: base.Calibrator = temperature.Temperature(),
) -> list[str]:
  """Recalibrates predictions by those of a split, and saves them beside these.

  Args:
    folder: Folder of predictions, SET/METHOD and SET/SPLIT/METHOD.
    sets: Names of the image sets.
    split: Name of the split to fit to.
    methods: Names of the methods' files.
    calibrator: The calibrator, `Temperature()` if not given.

  Returns:
    Names of the new files, the same for each set.
  """
  names: dict[str, None] = {}
  for data in sets:
    for method in methods:
      found = predicted.recalibrate_quietly(
          saved_runs.load(folder / data / method),
          saved_runs.load(folder / data / split / method), calibrator)
      predictions_lib.save(found, folder / data / found.settings["method"])
      names[found.settings["method"]] = None
  return list(names)


def _sources(run, on):
  """All that is to be recalibrated, and sentences on what is left out."""
  plain = [one for one in saved_runs.predictions_of(
      run, saved_runs.rows(run, "results"))
      if not saved_runs.is_recalibrated(one.path)]
  by_set: dict[str, list[str]] = {}
  for one in plain:
    by_set.setdefault(one.data, []).append(one.name)
  place = _place_to_fit(run, on, by_set)
  found, left_out = [], []
  for one in plain:
    path = place(one.data, one.name)
    if path is None or not predictions_lib.exists(path):
      left_out.append(f"{one.data}, {one.name}: left out, {on} has no "
                      "predictions by it to fit to")
    else:
      found.append(Source(*one, path))
  for data in by_set.keys() - {source.data for source in found}:
    raise FileNotFoundError(
        f"no predictions of {data} to fit to: {on} has none by any of "
        f"{', '.join(by_set[data])}")
  return found, left_out


def _lacking(source: Source, one: base.Recalibrator) -> list[str]:
  """Names of what the calibrator looks at and predictions do not carry."""
  there = saved_runs.load(source.path).evidence if one.needs else ()
  return [name for name in one.needs if name not in there]


def _place_to_fit(
    run: pathlib.Path, on: str | Share | None, by_set: Mapping[str, list[str]]
) -> Callable[[str, str], pathlib.Path | None]:
  """Where predictions may lie that others are fitted to.

  Args:
    run: Folder of the run.
    on: Images to fit to.
    by_set: Names of the methods, by set.

  Returns:
    A function of set and method.
  """
  folder = run / "predictions"
  if on is None or isinstance(on, Share):
    return lambda data, name: folder / data / name
  other = pathlib.Path(on)
  if other.name == on and any((folder / data / on).is_dir() for data in by_set):
    return lambda data, name: folder / data / on / name
  if (other / "predictions").is_dir():
    return lambda data, name: other / "predictions" / data / name
  file = other.parent / re.sub(r"\.(npz|json)$", "", other.name)
  if predictions_lib.exists(file):
    known = _method_of_file(file, by_set)
    return lambda data, name: file if name == known else None
  splits = {path.name for data in by_set for path in (folder / data).iterdir()
            if any(path.glob("*.npz"))} - {*saved_runs.OUTSIDE}
  raise FileNotFoundError(
      f"--on={on} is no split of which {run} holds predictions (it has "
      f"{', '.join(sorted(splits)) or 'none'}), no folder with predictions/ "
      "and no file of predictions")


def _method_of_file(file, by_set):
  """A file is of one method and one set, so that the run must have one set."""
  (_, methods), *more = by_set.items()
  if more:
    raise ValueError(
        f"{file} is of one image set, but there are {len(by_set)}: "
        f"{', '.join(by_set)}; give --on a split or another run")
  method = predictions_lib.settings(file).get("method", file.name)
  if method not in methods:
    raise ValueError(f"{file} is of the method {method}, of which there are no "
                     f"predictions to recalibrate, only of "
                     f"{', '.join(methods)}")
  return method


def _divided(source, on) -> tuple[Predictions, Predictions | None]:
  """Predictions to recalibrate and measure, and those to fit to."""
  plain = saved_runs.load_labelled(source.path)
  if on is None:
    return plain, None
  if not isinstance(on, Share):
    return plain, _called(saved_runs.load(source.on), source, on)
  chosen = predicted.draw(np.asarray(plain.labels), on.share, seed=on.seed)
  part = f"{source.data}, a share of {on.share:g} drawn with seed {on.seed}"
  rest = predictions_lib.take(plain, np.flatnonzero(~chosen))
  fitted = predictions_lib.take(plain, np.flatnonzero(chosen))
  return (rest._replace(settings={**rest.settings, "left_out": part}),
          fitted._replace(settings={**fitted.settings, "data": part}))


def _called(fitted, source, on):
  """Predictions from elsewhere say so: their sets are called alike."""
  if source.path.parent in source.on.parents:
    return fitted
  data = fitted.settings.get("data", source.data)
  place = pathlib.Path(on).absolute().name
  return fitted._replace(
      settings={**fitted.settings, "data": f"{data} of {place}"})


def _inputs(run, on, recalibrator, sources):
  """All that decides the numbers; files by what they hold."""
  drawn = isinstance(on, Share)
  contents: dict[str, dict[str, list[str]]] = {}
  for source in sources:
    contents.setdefault(source.data, {})[source.name] = [
        saved_runs.digest(path)
        for path in dict.fromkeys((source.path, source.on))]
  return {"recalibrator": recalibrator, "run": run.absolute().name,
          "on": None if drawn or on is None else pathlib.Path(on).name,
          "share": on.share if drawn else None,
          "seed": on.seed if drawn else None, "predictions": contents}


def _fit(found):
  """What run.json says of a fit."""
  about = found.settings["recalibration"]
  return {"fitted_on": about["fitted_on"], "fitted_to": about["num_images"],
          "measured_on": len(found.ids), **predicted.numbers(found),
          "notes": about["notes"]}


def _predicted(
    pairs: Mapping[pathlib.Path, Mapping[str, str]]
) -> Iterator[measured.Predicted]:
  """Each method and what became of it, set by set."""
  for folder, of_set in pairs.items():
    names = [name for pair in of_set.items() for name in reversed(pair)]
    yield measured.read(folder, names, of_set)
