"""A finished run's folder: what it says of itself, and its predictions.

The model is not needed.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import hashlib
import json
import pathlib
import shlex
from typing import Any, NamedTuple
import zipfile
import zlib

from jaxcal import predictions as predictions_lib
from jaxcal import spelling
from jaxcal import stages
from jaxcal.predictions import Predictions
from jaxcal.report import summary
from jaxcal.storage import atomic
from jaxcal.storage import damage

# Where a set's predictions for images of none of its classes lie, and where
# earlier versions put them.
OUTSIDE = (predictions_lib.OUT_OF_DISTRIBUTION, "unknown")

# In run.json, what the settings of a set's remark begin with.
PROTOCOL = "protocol."
# What sentences on the streams of images begin with.
STREAM = "stream."
# In run.json, what the images left out of a set begin with: reasons by id.
_LEFT_OUT = "left_out."
# In that of a report of files, what is said of each begins with this.
FILES = "files."
# In run.json of a recalibration, the settings of the run that it is of.
SETTINGS = "settings"
# What else is there beside what the recalibration was made from.
_BESIDE = (SETTINGS, "fits", "provenance")
# In run.json, the words of the command line that the run was given by.
COMMAND = "command"

# Tables of which every row is of an image set.
_OF_SETS = ("results", "differences", "sets", "failure")
_RESTORE = "restore it from a copy, or give the command of the run again"

# By the words of a command, what each row of its results has. Those of
# `jaxcal evaluate` and `jaxcal recalibrate` come last: others have more.
_ROWS = {
    ("sweep",): {"data", "setting", "method", "ece"},
    ("posterior", "select"): {"data", "strategy", "budget", "seeds"},
    ("tune",): {"data", "method", "seeds"},
    ("evaluate",): {"data", "method", "ece"},
}


class Saved(NamedTuple):
  """Predictions on a set.

  Attributes:
    data: Name of the set.
    name: Name of the predictions' file, the label of their stages.
    path: Path of the predictions.
  """

  data: str
  name: str
  path: pathlib.Path


def about(run: pathlib.Path) -> dict[str, Any]:
  """All that run.json holds, nothing where there is none.

  Raises:
    ValueError: It is damaged, or holds something else under a name of ours.
  """
  path = run / "run.json"
  found = parsed(path)
  settings, command = found.get(SETTINGS, found), found.get(COMMAND, [])
  checked = [(COMMAND, command, _are_texts(command)),
             (SETTINGS, settings, isinstance(settings, dict))]
  if isinstance(settings, dict):
    checked += [
        (name, value, isinstance(value, dict) and _are_texts([*value.values()])
         if name.startswith(_LEFT_OUT) else isinstance(value, str))
        for name, value in settings.items()
        if name.startswith((_LEFT_OUT, PROTOCOL, STREAM))]
  for name, value, is_sound in checked:
    if not is_sound:
      raise damage.DamagedFile(path, f"{name} is {value!r}", _RESTORE)
  return found


def _are_texts(values):
  return isinstance(values, list) and all(
      isinstance(one, str) for one in values)


def parsed(path: pathlib.Path) -> dict[str, Any]:
  """What a file of JSON holds, nothing where there is none.

  Raises:
    ValueError: It is damaged.
  """
  return damage.read_object(path, _RESTORE) if path.exists() else {}


def kind(
    run: pathlib.Path, told: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]]
) -> str:
  """Which command a run is of, without `jaxcal`; "evaluate" if not known.

  Args:
    run: Folder of the run.
    told: What run.json holds, from `about`; earlier versions did not name the
      command there.
    results: Results of the run, from `rows`; none before it has come to its
      end.

  Raises:
    ValueError: The results are of several commands, or of none of them; or
      there are none, and the command writes them at its end.
  """
  words = tuple(told.get(COMMAND, ())[1:])
  known = next((one for one in _ROWS if words[:len(one)] == one), ("evaluate",))
  if not results:
    if known != ("evaluate",):
      raise ValueError(
          f"{run} is a run that has not come to its end; give its command "
          f"again: {shlex.join(told[COMMAND])}")
    return " ".join(known)
  found = {next((one for one, keys in _ROWS.items() if keys <= row.keys()), ())
           for row in results}
  if len(found) > 1 or () in found:
    raise ValueError(
        f"{run}/results.jsonl has rows that are not all of one command; "
        "expected the output folder of `jaxcal evaluate`, `recalibrate`, "
        "`sweep`, `tune` or `posterior select`")
  return " ".join(found.pop())


def commands(
    told: Mapping[str, Any], page_by: Sequence[str] = ()) -> dict[str, str]:
  """Command lines that a page comes from, by what they did.

  Args:
    told: What run.json holds, from `about`.
    page_by: Words of the command line that makes the page of a finished run.
  """
  both = {"Run by": told.get(COMMAND, ()), "Page by": page_by}
  return {what: shlex.join(words) for what, words in both.items() if words}


def remarks(told: Mapping[str, Any]) -> list[str]:
  """Sentences of a run on its image sets.

  Args:
    told: What run.json holds, from `about`.
  """
  return [*(text for name, text in settings_of(told).items()
            if name.startswith((PROTOCOL, STREAM))), *on_left_out(told)]


def on_left_out(told: Mapping[str, Any]) -> list[str]:
  """Sentences of a run on images that cannot be used, one for each set.

  Args:
    told: What run.json holds, from `about`.
  """
  return [_left_out_of(name.removeprefix(_LEFT_OUT), reasons)
          for name, reasons in settings_of(told).items()
          if name.startswith(_LEFT_OUT)]


def left_out(
    reasons: Mapping[str, Mapping[str, str]]
) -> dict[str, Mapping[str, str]]:
  """What run.json says of images that cannot be used; nothing without any.

  Args:
    reasons: Reasons by id, by the name or the place of the set.
  """
  shown = lambda text: text.encode("utf-8", "backslashreplace").decode()
  return {f"{_LEFT_OUT}{place}": {shown(image_id): shown(reason)
                                  for image_id, reason in of_set.items()}
          for place, of_set in reasons.items() if of_set}


def _left_out_of(place, reasons):
  """A sentence on the images of a set that are left out."""
  told = "; ".join(spelling.shortened([
      f"{image_id} ({reason})" for image_id, reason in reasons.items()]))
  return (f"{place}: {len(reasons)} image{'s' * (len(reasons) > 1)} left out, "
          f"which cannot be used: {told}.")


def measured_by(
    told: Mapping[str, Any], now: summary.Conventions) -> dict[str, Any]:
  """Settings of a run, with the conventions that it is measured by.

  Args:
    told: What run.json holds, from `about`.
    now: How its predictions become numbers.
  """
  return {name: value for name, value in settings_of(told).items()
          if not name.startswith(_LEFT_OUT)} | {
      f"config.metrics.{name}": value for name, value in now._asdict().items()}


def is_recalibration(told: Mapping[str, Any]) -> bool:
  """Whether `told`, from `about`, is of a recalibration."""
  return "recalibrator" in told


def settings_of(told: Mapping[str, Any]) -> dict[str, Any]:
  """What decided the predictions, by dotted name.

  Args:
    told: What run.json holds, from `about`; a recalibration holds the settings
      of its run.
  """
  settings = told.get(SETTINGS, {}) if is_recalibration(told) else told
  return {name: value for name, value in settings.items() if name != COMMAND}


def recalibration_of(told: Mapping[str, Any]) -> dict[str, Any]:
  """What a recalibration was made from, by dotted name; nothing of others.

  Args:
    told: What run.json holds, from `about`.
  """
  return {f"recalibration.{name}": value for name, value in told.items()
          if name not in _BESIDE} if is_recalibration(told) else {}


def conventions(
    told: Mapping[str, Any], given: Mapping[str, Any] | None = None
) -> summary.Conventions:
  """How the run's predictions became numbers, so that others compare.

  Args:
    told: What run.json holds, from `about`; defaults stand for what it does not
      say.
    given: Values by the name of the convention that come before the run's.
  """
  settings = settings_of(told)
  found: dict[str, Any] = {}
  for name, default in summary.Conventions()._asdict().items():
    key = f"config.metrics.{name}"
    value = found[name] = settings.get(key, default)
    # A whole number may stand for one with a fraction.
    if type(value) not in (type(default), int) or (
        isinstance(value, int) and isinstance(default, str)):
      raise ValueError(f"{key} of run.json is {value!r}, expected such as "
                       f"{default!r}; {_RESTORE}")
  return summary.Conventions(**found | dict(given or {}))


def rows(run: pathlib.Path, name: str) -> list[dict[str, Any]]:
  """The rows of a table of the run, none where it was not written.

  Args:
    run: Folder of the run.
    name: Name of the table, such as "results" or "differences".
  """
  path = run / f"{name}.jsonl"
  found = damage.read_rows(path, _RESTORE) if path.exists() else []
  for number, row in enumerate(found, 1):
    with damage.told(path, _RESTORE):
      if not isinstance(row.get("data", None if name in _OF_SETS else ""), str):
        raise ValueError(f"line {number} has no name of an image set")
      for key, of_row in (("method", stages.labels),
                          ("reference", stages.reference_labels)):
        if key in row or name == "differences":
          of_row(row)
  return [_as_today(run, row) for row in found]


def _as_today(run, row):
  """A row of an earlier version had all stages in its method, and more beside.
  """
  there = lambda name: predictions_lib.exists(
      run / "predictions" / row.get("data", "") / name)
  if {"recalibrator", "method"} <= row.keys() and there(row["method"]) and (
      not there(stages.of(row).label)):
    return {name: value for name, value in row.items()
            if name != "recalibrator"}
  return row


def write_rows(path: pathlib.Path, some: Sequence[summary.Row]) -> None:
  """Writes a table, a line of JSON for each row."""
  atomic.write_whole(path, as_lines(some).encode())


def as_lines(some: Sequence[summary.Row]) -> str:
  """Rows as lines of JSON."""
  return "".join(json.dumps(row) + "\n" for row in some)


def predictions_of(
    run: pathlib.Path, results: Sequence[Mapping[str, Any]]) -> list[Saved]:
  """Predictions of all sets by all methods, in the order of the run's tables.

  Args:
    run: Folder of the run.
    results: Results of the run, from `rows`; others than these come last,
      sorted.

  Raises:
    FileNotFoundError: No folder, or one without predictions.
  """
  if not run.is_dir():
    raise FileNotFoundError(f"no run {run}; expected the output folder of "
                            "`jaxcal evaluate`")
  paths = [path.with_name(path.name.removesuffix(".json"))
           for path in (run / "predictions").glob("*/*.json")]
  found = [Saved(path.parent.name, path.name, path)
           for path in paths if predictions_lib.exists(path)]
  if not found:
    raise FileNotFoundError(
        f"no predictions in {run}; expected predictions/SET/METHOD.npz, as "
        "`jaxcal evaluate` writes them")
  order = {one: position for position, one in enumerate(
      (row["data"], label) for row in results if "method" in row
      for label in stages.labels(row))}
  sets = list(dict.fromkeys(data for data, _ in order))
  place = {data: position for position, data in enumerate(sets)}
  # A method that the tables lack comes after the others of its set.
  return sorted(found, key=lambda one: (
      place.get(one.data, len(sets)), one.data,
      order.get(one[:2], len(order)), one.name))


def out_of_distribution(path: pathlib.Path) -> pathlib.Path | None:
  """Where the same method's predictions out of distribution lie, if it has any.

  Args:
    path: Path of its predictions for the set itself.
  """
  there = (path.parent / name / path.name for name in OUTSIDE)
  return next(filter(predictions_lib.exists, there), None)


def is_recalibrated(path: pathlib.Path) -> bool:
  """Whether a calibrator has been at work on predictions."""
  path = path.with_name(f"{path.name}.json")
  told = damage.read_object(path, _RESTORE)
  return "recalibrator" in told.get("settings", {})


def digest(path: pathlib.Path) -> str:
  """Hash of what the two files of predictions hold."""
  found = hashlib.sha256()
  for ending in ("npz", "json"):
    found.update(atomic.with_ending(path, ending).read_bytes())
  return found.hexdigest()[:16]


def digests(run: pathlib.Path) -> dict[str, dict[str, str]]:
  """Hashes of all predictions of a run by set and method, see `digest`.

  Those for images of none of the classes are in it as out_of_distribution/NAME.
  """
  found: dict[str, dict[str, str]] = {}
  for data, name, path in predictions_of(run, ()):
    of_set = found.setdefault(data, {})
    of_set[name] = digest(path)
    beside = out_of_distribution(path)
    if beside is not None:
      of_set[f"{predictions_lib.OUT_OF_DISTRIBUTION}/{name}"] = digest(beside)
  return found


def check_there(run: pathlib.Path, what: str, path: pathlib.Path) -> None:
  """Refuses a run whose tables name predictions that are gone.

  Args:
    run: Folder of the run.
    what: What the predictions are of, for the error.
    path: Path of the predictions.

  Raises:
    FileNotFoundError: They are gone.
  """
  if not predictions_lib.exists(path):
    raise FileNotFoundError(
        f"{run} has results of {what}, but no longer both of {path}.npz and "
        ".json; restore them from a copy, or give the command of the run again")


def load(path: pathlib.Path) -> Predictions:
  """Predictions from the disk, with the stages of their file's name.

  Raises:
    FileNotFoundError: One of the two files is missing.
    ValueError: They are damaged.
  """
  with _sound(path):
    found = predictions_lib.load(path)
  return found._replace(settings={**found.settings, **stages.setting(
      stages.named(found.settings, path.name))})


def load_labelled(path: pathlib.Path) -> Predictions:
  """The same for images of which the classes are known.

  Raises:
    ValueError: They are not; or see `load`.
  """
  found = load(path)
  _check_labelled(found.labels)
  return found


def labelled_images(path: pathlib.Path) -> predictions_lib.Images:
  """What predictions are of, where that is all that needs to be known.

  Raises:
    FileNotFoundError: See `load`.
    ValueError: See `load_labelled`.
  """
  with _sound(path):
    found = predictions_lib.images(path)
  _check_labelled(found.labels)
  return found


def _check_labelled(labels):
  if labels is None:
    raise ValueError("the images have no labels, so that nothing can be "
                     "measured; give a run on images whose classes are known")


@contextlib.contextmanager
def _sound(path):
  """Says of damaged predictions what to do."""
  try:
    yield
  except (EOFError, KeyError, RuntimeError, TypeError, ValueError,
          zipfile.BadZipFile, zlib.error) as error:
    raise ValueError(
        f"{path}.npz or .json is damaged ({type(error).__name__}: {error}); "
        "restore both from a copy, or remove them and give the command of the "
        "run again") from error


@contextlib.contextmanager
def written(path: pathlib.Path) -> Iterator[None]:
  """What in here does not find what a run has written says so of a file.

  Args:
    path: File that says what else is there.

  Raises:
    ValueError: It, or what lies beside it, is of another form.
  """
  with damage.told(path, f"or what lies beside it is; {_RESTORE}"):
    yield


@contextlib.contextmanager
def named(data: str, name: str) -> Iterator[None]:
  """Errors in here say of which set and method they are."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f"{data}, {name}: {error}") from error
