"""A finished run's folder: what it says of itself, and its predictions.

Of `jaxcal evaluate` or `jaxcal recalibrate`; the model is not needed.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import json
import pathlib
from typing import Any, NamedTuple
import zipfile
import zlib

from jaxcal import predictions as predictions_lib
from jaxcal.predictions import Predictions
from jaxcal.report import summary

# Where a set's predictions for images of none of its classes lie, and where
# earlier versions put them.
OUT_OF_DISTRIBUTION = "out_of_distribution"
OUTSIDE = (OUT_OF_DISTRIBUTION, "unknown")

# In run.json of a recalibration, the settings of the run that it is of.
SETTINGS = "settings"
# What else is in there beside what it was made from.
_BESIDE = (SETTINGS, "fits", "provenance")


class Saved(NamedTuple):
  """Predictions of a method on a set.

  Attributes:
    data: Name of the set.
    method: Name of the method.
    path: Path of the predictions.
  """

  data: str
  method: str
  path: pathlib.Path


def about(run: pathlib.Path) -> dict[str, Any]:
  """All that run.json holds, nothing where there is none."""
  path = run / "run.json"
  if not path.exists():
    return {}
  return _parsed(path.read_text(encoding="utf-8"), path)


def settings_of(told: Mapping[str, Any]) -> dict[str, Any]:
  """What decided the predictions, by dotted name.

  Args:
    told: What run.json holds, from `about`; a recalibration holds the settings
      of its run.
  """
  return dict(told.get(SETTINGS, {}) if "recalibrator" in told else told)


def conventions(
    settings: Mapping[str, Any], given: Mapping[str, Any] | None = None
) -> summary.Conventions:
  """How the run's predictions became numbers, so that others compare.

  Args:
    settings: Settings from `settings_of`; defaults stand for what is not in
      there.
    given: Values by the name of the convention that come before the run's.
  """
  found = {name: settings.get(f"config.metrics.{name}", value)
           for name, value in summary.Conventions()._asdict().items()}
  return summary.Conventions(**found | dict(given or {}))


def title(
    settings: Mapping[str, Any], recalibrator: str | None = None) -> str:
  """Heading of the page."""
  model = settings.get("config.model.name", "saved predictions")
  by = "" if recalibrator is None else f", by {recalibrator}"
  return f"Calibration of {model}{by}"


def rows(run: pathlib.Path, name: str) -> list[dict[str, Any]]:
  """The rows of a table of the run, none where it was not written.

  Args:
    run: Folder of the run.
    name: Name of the table, "results" or "differences".
  """
  path = run / f"{name}.jsonl"
  lines = path.read_text("utf-8").splitlines() if path.exists() else []
  return [_parsed(line, path) for line in lines]


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
  found = [
      Saved(path.parent.name, path.name.removesuffix(".json"),
            path.with_name(path.name.removesuffix(".json")))
      for path in (run / "predictions").glob("*/*.json")]
  found = [one for one in found if predictions_lib.exists(one.path)]
  if not found:
    raise FileNotFoundError(
        f"no predictions in {run}; expected predictions/SET/METHOD.npz, as "
        "`jaxcal evaluate` writes them")
  order = {(row["data"], row["method"]): position
           for position, row in enumerate(results)}
  sets = list(dict.fromkeys(data for data, _ in order))
  place = {data: position for position, data in enumerate(sets)}
  # A method that the tables lack comes after the others of its set.
  return sorted(found, key=lambda one: (
      place.get(one.data, len(sets)), one.data,
      order.get(one[:2], len(order)), one.method))


def out_of_distribution(path: pathlib.Path) -> pathlib.Path | None:
  """Where the same method's predictions out of distribution lie, if it has any.

  Args:
    path: Path of its predictions for the set itself.
  """
  there = (path.parent / name / path.name for name in OUTSIDE)
  return next(filter(predictions_lib.exists, there), None)


def is_recalibrated(saved: Saved) -> bool:
  """Whether a calibrator has been at work."""
  path = saved.path.with_name(f"{saved.path.name}.json")
  told = _parsed(path.read_text(encoding="utf-8"), path)
  return "recalibrator" in told.get("settings", {})


def load(path: pathlib.Path) -> Predictions:
  """Predictions from the disk.

  Raises:
    FileNotFoundError: One of the two files is missing.
    ValueError: They are damaged.
  """
  try:
    return predictions_lib.load(path)
  except (EOFError, KeyError, RuntimeError, TypeError, ValueError,
          zipfile.BadZipFile, zlib.error) as error:
    raise ValueError(
        f"{path}.npz or .json is damaged ({type(error).__name__}: {error}); "
        "restore both from a copy, or remove them and run `jaxcal evaluate` "
        "again") from error


def load_labelled(path: pathlib.Path) -> Predictions:
  """Predictions for images of which the classes are known.

  Raises:
    ValueError: They are not; or see `load`.
  """
  found = load(path)
  if found.labels is None:
    raise ValueError("the images have no labels, so that nothing can be "
                     "measured; give a run on images whose classes are known")
  return found


@contextlib.contextmanager
def named(data: str, method: str) -> Iterator[None]:
  """Errors in here say of which set and method they are."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f"{data}, {method}: {error}") from error


def remarks(recalibration: Mapping[str, Any]) -> list[str]:
  """Which images were fitted to, and which are measured.

  Args:
    recalibration: What run.json holds, from `about`.
  """
  share, seed = recalibration["share"], recalibration["seed"]
  said = []
  for data, by_method in recalibration["fits"].items():
    for fit in by_method.values():
      chosen, rest = fit["fitted_to"], fit["measured_on"]
      said.append(
          f"{data}: {chosen} images of {fit['fitted_on']} were fitted to; "
          f"everything is measured on {rest} others." if share is None else
          f"{data}: {chosen} of its {chosen + rest} images, a share of "
          f"{share:g} drawn at random (seed {seed}), were fitted to; "
          f"everything here, the plain methods too, is measured on the other "
          f"{rest} alone.")
  return list(dict.fromkeys(said))


def page_settings(
    told: Mapping[str, Any], used: summary.Conventions) -> dict[str, Any]:
  """What the page says of the run.

  Args:
    told: What run.json holds, from `about`.
    used: Conventions of the page.
  """
  recalibration = {
      f"recalibration.{name}": value for name, value in told.items()
      if name not in _BESIDE} if "recalibrator" in told else {}
  return recalibration | settings_of(told) | {
      f"config.metrics.{name}": value for name, value in used._asdict().items()}


def _parsed(text, path):
  try:
    return json.loads(text)
  except ValueError as error:
    raise ValueError(f"{path} is damaged, no JSON: {error}") from error
