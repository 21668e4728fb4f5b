"""`jaxcal recalibrate`: predictions on disk become better calibrated ones."""

from collections.abc import Callable, Iterator, Mapping
import hashlib
import itertools
import json
import pathlib
import re
import sys
from typing import Any, NamedTuple
import warnings

from absl import flags
import numpy as np

from jaxcal import predictions as predictions_lib
from jaxcal import provenance
from jaxcal import spelling
from jaxcal.cli import output_files
from jaxcal.cli import reporting
from jaxcal.cli import saved_runs
from jaxcal.cli import shared_flags
from jaxcal.predictions import Predictions
from jaxcal.recalibration import base
from jaxcal.recalibration import calibrators
from jaxcal.recalibration import predicted
from jaxcal.storage import atomic

EXAMPLE = "jaxcal recalibrate runs/mine --share=0.2"

_RECALIBRATOR = flags.DEFINE_string(
    "recalibrator", "temperature",
    f"which calibrator: {', '.join(calibrators.RECALIBRATORS)}")
_ON = shared_flags.define_path(
    "on", None, "labelled images to fit to: the name of a split that RUN holds "
    "predictions of (--config.temperature.split), the output folder of another "
    "run with the same sets and methods, or a file of predictions")
_SHARE = flags.DEFINE_float(
    "share", None, "instead of --on: fit to this share of RUN's own images, in "
    "(0, 1), drawn at random from each class, and measure on the others")
_SEED = flags.DEFINE_integer("seed", 0, "seed of that draw")

_FLAGS = ("recalibrator", "on", "share", "seed")
FLAGS = (*_FLAGS, "output", "overwrite", "compilation_cache", "debug")
FIELDS: tuple[str, ...] = ()  # the files of RUN say all that a config would


class _Source(NamedTuple):
  """Predictions of a method on a set, and those that it is fitted to.

  Attributes:
    data: Name of the set.
    method: Name of the method.
    path: Path of the predictions.
    on: Path of those to fit to; the same where a share of them is drawn.
  """

  data: str
  method: str
  path: pathlib.Path
  on: pathlib.Path


def help_text() -> str:
  """What `jaxcal recalibrate --help` prints."""
  return "\n".join([
      "RUN is the output folder of `jaxcal evaluate`. Each METHOD of each "
      "image set is", "fitted to labelled images and becomes METHOD+NAME, "
      "which is measured beside it on", "the same images, none of them fitted "
      "to. Writes predictions/, results.jsonl,", "results.md, "
      "differences.jsonl, report.html, diagram-*.svg and run.json, and prints "
      "a", "table.", "",
      "Examples:", f"  {EXAMPLE}",
      "  jaxcal recalibrate runs/mine --on=validation",
      "  jaxcal recalibrate runs/mine --on=runs/of_other_images", "",
      "Flags:", *shared_flags.flag_help(*_FLAGS),
      "  --output\n      folder to write to; RUN/recalibrated-NAME-HASH if "
      "absent, with a hash of all\n      that it was made from",
      *shared_flags.flag_help(
          "overwrite", "compilation_cache", "debug")])


def main(run: str) -> None:
  """Recalibrates what a folder holds, as the flags say."""
  calibrator = _calibrator(_RECALIBRATOR.value)
  _check_flags()
  folder = pathlib.Path(run).expanduser()
  sources = _sources(folder)
  for source in sources:  # errors come before the work
    with saved_runs.named(*source[:2]):
      predicted.check(*_divided(source), calibrator)
  inputs = _inputs(folder, sources)
  output = _output(folder, sources, inputs)
  fits: dict[str, dict[str, Any]] = {}
  for source in sources:
    fits.setdefault(source.data, {})[source.method] = _save(
        source, calibrator, output)
  before = saved_runs.settings_of(saved_runs.about(folder))
  about = inputs | {"fits": fits, "provenance": provenance.describe(),
                    saved_runs.SETTINGS: before}
  atomic.write_whole(
      output / "run.json", json.dumps(about, indent=2).encode())
  conventions = saved_runs.conventions(before)
  reporting.write(
      output, reporting.measure(_predicted(output, sources), conventions),
      title=saved_runs.title(before, _RECALIBRATOR.value),
      conventions=conventions, remarks=saved_runs.remarks(about),
      settings=saved_runs.page_settings(about, conventions))


def recalibrated(
    plain: Predictions, on: Predictions, calibrator: base.Calibrator,
    method: str,
) -> Predictions:
  """METHOD recalibrated, as METHOD+NAME with the fitted numbers in settings.

  Notes on the fit are in the settings; the report prints them, so that here
  nothing warns.

  Args:
    plain: Predictions of the images to be recalibrated.
    on: Predictions of the images to fit to.
    calibrator: The calibrator.
    method: What the result is called.
  """
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", base.FitWarning)
    found = predicted.recalibrate(plain, on, calibrator)
  return found._replace(settings={
      **found.settings, "method": method, **reporting.numbers(found)})


def _calibrator(name: str) -> base.Calibrator:
  if name not in calibrators.RECALIBRATORS:
    raise ValueError(
        f"unknown recalibrator {name!r}; "
        f"{spelling.choices(name, calibrators.RECALIBRATORS)}")
  return calibrators.RECALIBRATORS[name]()


def _check_flags():
  """Refuses flags that do not go together or are out of range."""
  if (_ON.value is None) == (_SHARE.value is None):
    raise ValueError(
        "give one of --on=SPLIT|RUN|FILE, labelled images to fit to, and "
        "--share=0.2, a share of the images themselves")
  if _SHARE.value is not None and not 0 < _SHARE.value < 1:
    raise ValueError(f"--share is {_SHARE.value:g}, expected in (0, 1)")
  if _ON.value in saved_runs.OUTSIDE:
    raise ValueError(
        f"{_ON.value!r} are images of none of the classes, so that "
        "their labels mean nothing; fit to others")


def _sources(run: pathlib.Path) -> list[_Source]:
  """All that is to be recalibrated, in the order of the run's own tables."""
  plain = [one for one in saved_runs.predictions_of(
      run, saved_runs.rows(run, "results"))
      if not saved_runs.is_recalibrated(one)]
  by_set: dict[str, list[str]] = {}
  for one in plain:
    by_set.setdefault(one.data, []).append(one.method)
  place = _place_to_fit(run, by_set)
  found = []
  for one in plain:
    path = place(one.data, one.method)
    if path is None:
      print(f"jaxcal: {one.data}, {one.method}: left out, {_ON.value} has no "
            "predictions by it to fit to", file=sys.stderr)
    else:
      found.append(_Source(*one, path))
  for data in by_set.keys() - {source.data for source in found}:
    raise FileNotFoundError(
        f"no predictions of {data} to fit to: {_ON.value} has none by any of "
        f"{', '.join(by_set[data])}")
  return found


def _place_to_fit(
    run: pathlib.Path, by_set: Mapping[str, list[str]]
) -> Callable[[str, str], pathlib.Path | None]:
  """Where a method's predictions lie that it is fitted to; None without any.

  Args:
    run: The folder.
    by_set: Names of the methods, by set.

  Returns:
    A function of set and method.
  """
  folder, given = run / "predictions", _ON.value
  if given is None:
    return lambda data, method: folder / data / method
  other = pathlib.Path(given)
  if other.name == given and any(
      (folder / data / given).is_dir() for data in by_set):
    return lambda data, method: _if_there(folder / data / given / method)
  if (other / "predictions").is_dir():
    return lambda data, method: _if_there(other / "predictions" / data / method)
  file = other.parent / re.sub(r"\.(npz|json)$", "", other.name)
  if predictions_lib.exists(file):
    known = _method_of_file(file, by_set)
    return lambda data, method: file if method == known else None
  splits = {path.name for data in by_set for path in (folder / data).iterdir()
            if any(path.glob("*.npz"))} - {*saved_runs.OUTSIDE}
  raise FileNotFoundError(
      f"--on={given} is no split of which {run} holds predictions (it has "
      f"{', '.join(sorted(splits)) or 'none'}), no folder with predictions/ "
      "and no file of predictions")


def _if_there(path):
  return path if predictions_lib.exists(path) else None


def _method_of_file(file, by_set):
  """A file is of one method and one set, so that the run must have one set."""
  (_, methods), *more = by_set.items()
  if more:
    raise ValueError(
        f"{file} is of one image set, but there are {len(by_set)}: "
        f"{', '.join(by_set)}; give --on a split or another run")
  method = saved_runs.load(file).settings.get("method", file.name)
  if method not in methods:
    raise ValueError(f"{file} is of the method {method}, of which there are no "
                     f"predictions to recalibrate, only of "
                     f"{', '.join(methods)}")
  return method


def _divided(source: _Source) -> tuple[Predictions, Predictions]:
  """Predictions to recalibrate and measure, and those to fit to."""
  plain = saved_runs.load_labelled(source.path)
  if _SHARE.value is None:
    return plain, _called(saved_runs.load(source.on), source)
  chosen = predicted.draw(
      np.asarray(plain.labels), _SHARE.value, seed=_SEED.value)
  part = (f"{source.data}, a share of {_SHARE.value:g} drawn with seed "
          f"{_SEED.value}")
  rest = predictions_lib.take(plain, np.flatnonzero(~chosen))
  on = predictions_lib.take(plain, np.flatnonzero(chosen))
  return (rest._replace(settings={**rest.settings, "left_out": part}),
          on._replace(settings={**on.settings, "data": part}))


def _called(on, source):
  """Predictions from elsewhere say so: their sets are called alike."""
  if source.path.parent in source.on.parents:
    return on
  place = pathlib.Path(_ON.value or "").absolute().name
  data = on.settings.get("data", source.data)
  return on._replace(settings={**on.settings, "data": f"{data} of {place}"})


def _inputs(run: pathlib.Path, sources: list[_Source]) -> dict[str, Any]:
  """All that decides the numbers; files by what they hold."""
  contents: dict[str, dict[str, list[str]]] = {}
  for source in sources:
    contents.setdefault(source.data, {})[source.method] = [
        _digest(path) for path in dict.fromkeys((source.path, source.on))]
  return {"recalibrator": _RECALIBRATOR.value, "run": run.absolute().name,
          "on": _ON.value and pathlib.Path(_ON.value).name,
          "share": _SHARE.value,
          "seed": None if _SHARE.value is None else _SEED.value,
          "predictions": contents}


def _digest(path):
  digest = hashlib.sha256()
  for ending in ("npz", "json"):
    digest.update(atomic.with_ending(path, ending).read_bytes())
  return digest.hexdigest()[:16]


def _output(
    run: pathlib.Path, sources: list[_Source], inputs: Mapping[str, Any]
) -> pathlib.Path:
  """The folder to write to, with `run.json` in it.

  Raises:
    ValueError: It is the run itself or holds what is read, or something else.
  """
  digest = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:8]
  output = pathlib.Path(shared_flags.OUTPUT.value or run / (
      f"recalibrated-{_RECALIBRATOR.value}-{digest}"))
  here = output.resolve()
  read = {folder for source in sources for path in (source.path, source.on)
          for folder in path.resolve().parents}
  if here in read or (run / "predictions").resolve() in here.parents:
    raise ValueError(f"--output={output} would mix with what is read; give "
                     f"another folder, perhaps one in {run}")
  output_files.take(output)
  path = output / "run.json"
  if path.exists():
    before = output_files.read_settings(path)
    if any(before.get(name) != value for name, value in inputs.items()):
      if not shared_flags.OVERWRITE.value or "recalibrator" not in before:
        raise ValueError(
            f"{output} holds another run; give another --output, or "
            "--overwrite to remove it if it is a recalibration")
      output_files.clear(output)
  atomic.write_whole(path, json.dumps(inputs, indent=2).encode())
  return output


def _save(
    source: _Source, calibrator: base.Calibrator, output: pathlib.Path
) -> dict[str, Any]:
  """Saves METHOD and METHOD+NAME; says what was fitted to what."""
  plain, on = _divided(source)
  method = _recalibrated_name(source.method)
  found = recalibrated(plain, on, calibrator, method)
  folder = output / "predictions" / source.data
  predictions_lib.save(plain, folder / source.method)
  predictions_lib.save(found, folder / method)
  about = found.settings["recalibration"]
  return {"fitted_on": about["fitted_on"], "fitted_to": about["num_images"],
          "measured_on": len(plain.ids), **reporting.numbers(found),
          "notes": about["notes"]}


def _recalibrated_name(method):
  return f"{method}+{_RECALIBRATOR.value}"


def _predicted(
    output: pathlib.Path, sources: list[_Source]
) -> Iterator[reporting.Predicted]:
  """Each method and what became of it, set by set."""
  for data, group in itertools.groupby(sources, lambda source: source.data):
    references = {_recalibrated_name(source.method): source.method
                  for source in group}
    names = [name for pair in references.items() for name in reversed(pair)]
    folder = output / "predictions" / data
    yield reporting.Predicted(
        data, {name: predictions_lib.load(folder / name) for name in names},
        references)
