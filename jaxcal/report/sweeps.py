"""Rows of a sweep: kept in a file as they come, drawn when all are there."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import hashlib
import json
import math
import pathlib
import re
from typing import Any, NamedTuple

from jaxcal import config as config_lib
from jaxcal import predictions as predictions_lib
from jaxcal import stages
from jaxcal import sweep
from jaxcal.adapt import methods as methods_lib
from jaxcal.report import figures
from jaxcal.report import page
from jaxcal.report import saved_runs
from jaxcal.report import sections
from jaxcal.report import seeds as seeds_lib
from jaxcal.report import summary
from jaxcal.report import tables
from jaxcal.storage import atomic
from jaxcal.storage import damage
from jaxcal.storage import identity as identity_lib

# Of a folder's name, before its hash: up to four bytes each, of 255 in all.
_MOST_LETTERS = 60
_ON_CURVES = (
    "Bands are intervals over the images; all settings see the same ones, so "
    "that neighbours may differ surely where their bands overlap. Lines across "
    "are settings without the number.")
_ON_EFFECTS = (
    "The effective weight is the weight times the norm of the regulariser's "
    "gradient by the context where images start: at equal ones methods pull "
    "equally hard at the first step, each with the weight that this takes for "
    "the classes of the set.")

# From the name of a method to the method with its defaults.
DefaultOf = Callable[[str], Any]
_Row = summary.Row


def folder_name(fields: Mapping[str, Any]) -> str:
  """Swept fields as a folder; with a hash where characters had to go."""
  name = ",".join(f"{field}={value}" for field, value in fields.items())
  safe = re.sub(r"[^\w=.,+-]+", "_", name)[:_MOST_LETTERS]
  if safe != name:
    safe += "-" + hashlib.sha256(name.encode()).hexdigest()[:6]
  return safe


class Rows:
  """The rows of a results file, written whole with every new one.

  A row is known by what it is of: image set, setting, and the fields with a
  pass of their own, the dotted ones.
  """

  def __init__(self, path: pathlib.Path):
    self._path = path
    self.all = damage.read_rows(
        path, "remove it: its rows are made anew of the predictions"
    ) if path.exists() else []

  def has(self, key: _Row) -> bool:
    """Whether a row has these values, and no further fields."""
    return any(map(_matches(key), self.all))

  def put(self, key: _Row, row: _Row) -> None:
    """In the place of a row with the same key, or at the end."""
    new = json.loads(json.dumps({**key, **row}))
    same = [i for i, other in enumerate(self.all) if _matches(key)(other)]
    if same:
      self.all[same[0]] = new
    else:
      self.all.append(new)
    saved_runs.write_rows(self._path, self.all)

  def measure(
      self,
      key: _Row,
      path: pathlib.Path,
      more: _Row,
      conventions: summary.Conventions,
      identity: Mapping[str, Any],
  ) -> None:
    """Puts the row of predictions, unless one of the same is there.

    Args:
      key: What the row is of.
      path: Path of the predictions.
      more: Stages and numbers of the setting, for the row.
      conventions: How predictions become numbers.
      identity: Identity of the predictions.
    """
    made = _identity(identity, conventions)
    if not self.has({**key, "identity": made}):
      self.put(key, {
          **more,
          **summary.summarise(predictions_lib.load(path), conventions),
          "identity": made})


def _matches(key):
  dotted = lambda row: {name for name in row if "." in name}
  # A row of a sweep with further fields is another one.
  return lambda row: key.items() <= row.items() and dotted(row) == dotted(key)


def write(
    output: pathlib.Path,
    rows: Sequence[_Row],
    default_of: DefaultOf,
    conventions: summary.Conventions,
    remarks: Sequence[str] = (),
    *,
    about: Mapping[str, Any] | None = None,
    run: pathlib.Path | None = None,
    page_by: Sequence[str] = (),
) -> str:
  """Writes a figure per image set and swept number, results.md and a page.

  Where a seed was swept, as views.seed, rows that differ in it alone are
  pooled: seeds.jsonl has their means, see `seeds.pool`, and figures draw these.

  Args:
    output: Folder of the sweep, with its predictions.
    rows: All rows, from `Rows`.
    default_of: Function from the name of a method to it with its defaults.
    conventions: Conventions of the ECE and of the intervals in the rows.
    remarks: Sentences about all of the rows, beside those of the run.
    about: What run.json holds; nothing if None.
    run: Folder with the predictions; the output folder if None.
    page_by: Words of the command line that reports a finished sweep.

  Returns:
    The text of results.md.
  """
  about = about or {}
  drawn, pooled, notes = _over_seeds(
      output if run is None else run, rows, conventions)
  if pooled:
    saved_runs.write_rows(output / "seeds.jsonl", pooled)
  found = list(_curves_of_sets(drawn, default_of))
  for data, field, curves, lines in found:
    figure = figures.svg(figures.sweep_curves(curves, lines, field))
    atomic.write_whole(output / f"{field}-{data}.svg", figure.encode())
  named = lambda some: [
      {"data": row["data"], **row, "method": _label(row, default_of),
       "posterior": None} for row in some]
  remarks = [*saved_runs.remarks(about), *remarks, *notes]
  text = "\n\n".join([
      tables.markdown(named(rows), tables.RESULTS), *remarks,
      *seeds_lib.blocks(named(pooled), conventions.level)])
  atomic.write_whole(output / "results.md", f"{text}\n".encode())
  swept = dict.fromkeys(one.field for one in found)
  page.write(output / "report.html", page.Page(
      _title(about, swept), _lead(rows),
      [_overview(named(rows), swept, remarks, conventions),
       _means(named(pooled), conventions), *_figures(found),
       sections.tuning(named(rows))],
      saved_runs.measured_by(about, conventions),
      saved_runs.commands(about, page_by)))
  return text


def redraw(
    run: pathlib.Path,
    results: Sequence[_Row],
    *,
    conventions: summary.Conventions,
    output: pathlib.Path,
    remarks: Sequence[str] = (),
    page_by: Sequence[str] = (),
) -> str:
  """Measures the settings of a sweep anew, from their predictions.

  Args:
    run: Folder of the sweep.
    results: Rows of its results.
    conventions: How predictions become numbers.
    output: Folder to write to.
    remarks: Sentences about all of the rows.
    page_by: Words of the command line that reports it.

  Returns:
    The text of results.md.

  Raises:
    FileNotFoundError: Predictions that the results name are gone.
    ValueError: They are damaged.
  """
  for row in results:
    saved_runs.check_there(
        run, f"{row['data']}, {row['setting']}", path_of(run, row))
  rows, numbers = [], {}
  for row in results:
    with saved_runs.named(row["data"], row["setting"]):
      one = predictions_lib.load(path_of(run, row))
      rows.append({**row, **summary.summarise(one, conventions),
                   "identity": _identity(
                       one.settings.get("identity", {}), conventions)})
    numbers[row["method"]] = one.settings.get("numbers", {})
  atomic.make_folder(output)
  saved_runs.write_rows(output / "results.jsonl", rows)
  return write(
      output, rows, lambda name: _method(name, numbers[name]), conventions,
      remarks, about=saved_runs.about(run), run=run, page_by=page_by)


def path_of(run: pathlib.Path, row: _Row) -> pathlib.Path:
  """Where the predictions of a row lie.

  Args:
    run: Folder of the sweep.
    row: Row of its results.
  """
  apart = {name: value for name, value in row.items() if "." in name}
  return (run / "predictions" / row["data"] / folder_name(apart) /
          row["setting"])


def _identity(identity, conventions):
  """What a row is known to be of, see `Rows.measure`."""
  return identity_lib.of_lines([json.dumps(
      [identity, conventions], sort_keys=True)])


def _method(name, numbers):
  """A method with its defaults; of one's own, with none, so that all numbers
  are shown."""
  if name in methods_lib.METHODS:
    return methods_lib.method(name)
  return dataclasses.make_dataclass(
      name, [(number, str, "") for number in numbers])()


class _Curves(NamedTuple):
  """What is drawn against a swept number of an image set.

  Attributes:
    data: Name of the set.
    field: Name of the number.
    curves: Rows with it, by label.
    lines: Rows without it, by label.
  """

  data: str
  field: str
  curves: Mapping[str, Sequence[_Row]]
  lines: Mapping[str, _Row]


def _curves_of_sets(rows, default_of) -> Iterator[_Curves]:
  for data in dict.fromkeys(row["data"] for row in rows):
    of_data = [row for row in rows if row["data"] == data]
    for field in _swept(of_data):
      curves, lines = _curves(of_data, field, default_of)
      if any(len(curve) > 1 for curve in curves.values()):
        yield _Curves(data, field, curves, lines)


def _title(about, swept):
  model = saved_runs.settings_of(about).get("config.model.name")
  return " ".join(filter(None, [
      "Sweep of", ", ".join(name.replace("_", " ") for name in swept) or
      "settings", model and f"with {model}"]))


def _lead(rows):
  sets = dict.fromkeys(row["data"] for row in rows)
  return (f"Accuracy and calibration of {len(rows)} settings on "
          f"{', '.join(sets)}; intervals are of each setting alone.")


def _number(name):
  """A column of a swept number."""
  return tables.Column(name.replace("_", " "), lambda row: (
      "" if row.get(name) is None else f"{row[name]:g}"))


def _overview(rows, swept, remarks, conventions):
  """A table of all settings."""
  numbers = map(_number, swept)
  return page.Section("Summary", [
      page.Table(rows, [*tables.RESULTS[:3], *numbers, *tables.RESULTS[3:]]),
      *remarks, sections.legend(conventions)])


def _means(pooled, conventions):
  """Means over swept seeds, if there are any."""
  return page.Section("Over seeds", [
      page.Table(pooled, tables.OVER_SEEDS),
      seeds_lib.legend(conventions.level)] if pooled else [])


def _figures(found: Sequence[_Curves]) -> Iterator[page.Section]:
  """A section of figures for each set."""
  for data in dict.fromkeys(one.data for one in found):
    on_effects = [_ON_EFFECTS] * any(
        one.data == data and one.field == "effective_weight" for one in found)
    yield page.Section(data, [page.Figures([
        page.Figure(
            figures.svg(figures.sweep_curve(
                one.curves, one.lines, one.field, score, heading), inline=True),
            f"{heading.removesuffix(' %')} against "
            f"{one.field.replace('_', ' ')}")
        for one in found if one.data == data
        for score, heading in figures.SWEPT.items()]), _ON_CURVES, *on_effects])


def _over_seeds(output, rows, conventions):
  """Rows to draw, means over seeds, and what could not be pooled."""
  drawn, pooled, notes = [], [], []
  groups: dict[Any, list[_Row]] = {}
  for row in rows:
    groups.setdefault(_without_seeds(row), []).append(row)
  for group in groups.values():
    kinds = [[row[name] for row in group] for name in _seeds_of(group[0])]
    kept = {name: value for name, value in group[0].items()
            if name not in _seeds_of(group[0])}
    paths = [path_of(output, row) for row in group]
    if len(group) == 1:
      drawn.append(kept)
    elif len(group) < math.prod(len(set(kind)) for kind in kinds):
      notes.append(
          f"{kept['data']}, {kept['setting']}: no mean over seeds, as not all "
          f"combinations of {' and '.join(_seeds_of(group[0]))} are there.")
    elif not all(map(predictions_lib.exists, paths)):
      notes.append(f"{kept['data']}, {kept['setting']}: no mean over seeds, as "
                   "predictions are no longer there.")
    else:
      mean = seeds_lib.pool(
          seeds_lib.sample(list(map(predictions_lib.load, paths)), conventions),
          conventions.level, kinds)
      same = {name: value for name, value in kept.items()
              if all(row.get(name) == value for row in group)}
      pooled.append(same | {"seeds": len(group)} | mean)
      drawn.append(pooled[-1] | {
          f"{score}_{end}": mean[f"{score}_total_{end}"]
          for score in figures.SWEPT for end in ("low", "high")})
  return drawn, pooled, notes


def _seeds_of(row):
  """Swept seeds, such as those of views, orders and samples."""
  return [name for name in row if _is_seed(name)]


def _is_seed(name):
  return "." in name and name.endswith("seed")


def _without_seeds(row):
  """What a row is of, whatever its seeds; and which seeds it has."""
  return (row["data"], row["setting"], tuple(_seeds_of(row)), tuple(
      (name, value) for name, value in row.items()
      if "." in name and not _is_seed(name)))


def _swept(rows):
  """Numbers of methods, and fields with a pass of their own that are numbers.
  """
  found = {name for row in rows for name, value in row.items()
           if isinstance(value, (int, float)) and not isinstance(value, bool)}
  return [name for name in config_lib.number_names() if name in found] + sorted(
      name for name in found if "." in name)


def _curves(rows, field, default_of):
  """Rows that differ in the field alone, by label; and those without it."""
  curves: dict[str, Any] = {}
  lines: dict[str, Any] = {}
  for row in rows:
    label = _label(row, default_of, field)
    if row.get(field) is None:
      lines[label] = row
    else:
      curves.setdefault(label, []).append(row)
  return curves, lines


def _label(row, default_of, field=None):
  """A setting and the variant it was run in, by all but a field."""
  others = {name: value for name, value in row.items() if name != field}
  of = stages.of(row)
  point = sweep.point(of.method, default_of(of.method), others)
  variant = {name: value for name, value in others.items() if "." in name}
  return "-".join(filter(None, (
      of._replace(method=point.label).label, folder_name(variant))))
