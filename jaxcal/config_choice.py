"""Numbers of methods that were chosen on other images than those predicted.

`jaxcal sweep --config.data.split=validation --sweep=...` leaves a row for every
setting; config.choice says which of them each method then runs with:

  config.choice.sweep = "runs/grid"
  found = config_choice.chosen(config, "dtd")
  found["tda"].numbers                       # {"alpha": 4.0, "beta": 8.0, ...}
"""

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any, NamedTuple

from jaxcal import config as config_lib
from jaxcal import predictions
from jaxcal import stages
from jaxcal.adapt import methods as methods_lib
from jaxcal.adapt import numbers
from jaxcal.clip import checkpoint
from jaxcal.data import image_set as image_sets
from jaxcal.report import saved_runs
from jaxcal.report import scores
from jaxcal.report import sweeps
from jaxcal.storage import identity

_Config = config_lib.ExperimentConfig
_WAY_OUT = ("sweep over images of another split: jaxcal sweep "
            "--config.data.split=validation")


class Chosen(NamedTuple):
  """The numbers of a method.

  Attributes:
    numbers: Numbers by name.
    score: Score of theirs, by which they were chosen.
    num_settings: Number of settings that were compared.
  """

  numbers: Mapping[str, Any]
  score: float
  num_settings: int


def chosen(config: _Config, data: str) -> dict[str, Chosen]:
  """The chosen numbers of each method that was swept; none without a sweep.

  Of equal scores the first one counts. Where seeds were swept, scores are means
  over them; with config.choice.scope "all", over the image sets, too.

  Args:
    config: Settings of the experiment.
    data: Name of the image set that is to be predicted.

  Raises:
    FileNotFoundError: There is no such sweep.
    ValueError: It lacks the image set, is of something else than numbers, or
      has not come to its end.
  """
  if config.choice.sweep is None:
    return {}
  choice, grouped = config.choice, _by_setting(config.choice.sweep)
  sets = dict.fromkeys(data for data, _ in grouped)
  if choice.scope == "each":
    if data not in sets:
      raise ValueError(
          f"--config.choice.sweep={choice.sweep} has no rows of {data}, only "
          f"of {', '.join(sets)}; sweep over it as well, or take the numbers "
          "that are best over all of them with --config.choice.scope=all")
    sets = {data: None}
  by_method: dict[str, dict[str, list[Any]]] = {}
  for (of, setting), rows in grouped.items():
    if of in sets:
      settings = by_method.setdefault(rows[0]["method"], {})
      settings.setdefault(setting, []).append(rows)
  return {name: _best(config, name, settings, len(sets))
          for name, settings in by_method.items()}


def fill(config: _Config, data: str) -> None:
  """Writes the chosen numbers to where the config has None."""
  found = chosen(config, data)
  parts = config_lib.method_parts(config.method)
  own = dict(config.methods)
  for name, one in found.items():
    if name in own:
      own[name] = dataclasses.replace(own[name], **one.numbers)
    elif name in parts:
      for key, value in one.numbers.items():
        if not is_given(config, name, key):
          setattr(parts[name], key, value)
  config.methods = own


def is_given(config: _Config, name: str, key: str) -> bool:
  """Whether a number of a method, or what stands in its place, has a value."""
  alike = {key, numbers.INSTEAD_OF.get(key, key), *(
      one for one, other in numbers.INSTEAD_OF.items() if other == key)}
  parts = (config.method, config_lib.method_parts(config.method)[name])
  return any(getattr(part, one, None) is not None
             for part in parts for one in alike)


def remark(config: _Config, data: str) -> str:
  """A sentence on what was chosen for an image set, and by what."""
  found = chosen(config, data)
  told = "; ".join(
      f"{name} the best of {one.num_settings} settings, {_shown(one.numbers)}"
      for name, one in found.items() if name in config.method.name)
  settings = saved_runs.settings_of(
      saved_runs.about(pathlib.Path(str(config.choice.sweep))))
  return (
      f"{data}: numbers chosen by {config.choice.by} "
      f"{'' if config.choice.scope == 'each' else 'as best over all sets '}"
      f"on images of the split {settings.get('config.data.split')}: "
      f"{told or 'none, as none of these methods was swept'}")


def check(
    config: _Config, model: checkpoint.Model,
    sets: Mapping[str, image_sets.ImageSet]
) -> None:
  """Refuses numbers that were chosen on images of these, or by another model.

  Args:
    config: Settings of the experiment.
    model: The model.
    sets: The images that are to be predicted, by the name of their set.

  Raises:
    ValueError: Says which images, or which model.
  """
  if config.choice.sweep is None:
    return
  run = pathlib.Path(config.choice.sweep)
  settings = saved_runs.settings_of(saved_runs.about(run))
  if settings.get("model.fingerprint") != model.fingerprint:
    raise ValueError(
        f"--config.choice.sweep={run} is of another model, with the "
        f"fingerprint {settings.get('model.fingerprint')}; that of "
        f"{model.name} is {model.fingerprint}")
  for data, images in sets.items():
    row = next((row for row in _rows(run) if row["data"] == data), None)
    if row is None:
      continue
    seen = predictions.load(sweeps.path_of(run, row)).ids
    shared = set(seen) & set(images.ids)
    if shared:
      raise ValueError(
          f"--config.choice.sweep={run} was over {len(shared)} of the images "
          f"of {data} that are to be predicted, such as {min(shared)!r}: "
          "numbers must not be chosen on the images that they are judged by; "
          f"{_WAY_OUT}")


def content_of(config: config_lib.ChoiceConfig) -> str | None:
  """What the numbers come from, wherever the folder lies."""
  if config.sweep is None:
    return None
  run = pathlib.Path(config.sweep)
  return f"{run.absolute().name} " + identity.of_lines(
      sorted(saved_runs.as_lines(_rows(run)).splitlines()))


def _rows(run):
  """Rows of the test-time methods themselves."""
  if not run.is_dir():
    raise FileNotFoundError(
        f"no folder {run}, which --config.choice.sweep names; `jaxcal sweep "
        f"--output={run}` writes one")
  told, rows = saved_runs.about(run), saved_runs.rows(run, "results")
  if saved_runs.kind(run, told, rows) != "sweep":
    raise ValueError(f"--config.choice.sweep={run} is no folder of "
                     "`jaxcal sweep`")
  kept = [row for row in rows if row["data"] and stages.of(row) ==
          stages.Stages(row["method"])]
  apart = sorted({name for row in kept for name in row
                  if "." in name and not name.endswith("seed")})
  if apart:
    raise ValueError(
        f"--config.choice.sweep={run} goes over {', '.join(apart)}, which are "
        "no numbers of methods; choose from a sweep over such numbers, and "
        "seeds, alone")
  return kept


def _by_setting(run: str) -> dict[tuple[str, str], list[dict[str, Any]]]:
  """Rows by image set and setting: one, or one for every seed."""
  found: dict[tuple[str, str], list[dict[str, Any]]] = {}
  for row in _rows(pathlib.Path(run)):
    found.setdefault((row["data"], row["setting"]), []).append(row)
  return found


def _best(config, name, settings, num_sets):
  """The best setting of those that all sets have."""
  by, run = config.choice.by, config.choice.sweep
  whole = {setting: groups for setting, groups in settings.items()
           if len(groups) == num_sets}
  if not whole:
    raise ValueError(f"--config.choice.sweep={run} has no setting of {name} "
                     "for all of its image sets; give its command again")
  sign = -1 if by in scores.HIGHER else 1
  means = {setting: sum(_mean(rows, by) for rows in groups) / num_sets
           for setting, groups in whole.items()}
  best = min(means, key=lambda setting: sign * means[setting])
  row = whole[best][0][0]
  method = config.methods.get(name) or methods_lib.method(name)
  return Chosen({key: row[key] for key in numbers.names_of(method)
                 if key in row}, means[best], len(whole))


def _shown(values):
  return ", ".join(
      f"{key} {f'{value:g}' if isinstance(value, float) else value}"
      for key, value in values.items())


def _mean(rows, by):
  return sum(row[by] for row in rows) / len(rows)
