"""What files of other programs hold: .npz, .npy, .csv and .parquet.

Every format becomes `Fields`: values of all classes, where there are any, and
other arrays by their role. What they mean together is `foreign`'s business.
"""

from collections.abc import Callable, Iterator, Mapping
import csv
import os
import pathlib
from typing import NamedTuple

import numpy as np

from jaxcal.storage import arrays as arrays_lib
from jaxcal.typing import Float
from jaxcal.typing import Shaped

# What arrays and columns may be called, lower case.
NAMES = {
    "labels": ("label", "labels", "true_label", "true_labels", "ground_truth",
               "target", "targets", "y_true", "y"),
    "predicted": ("predicted", "pred_label", "predicted_label", "prediction",
                  "predictions", "pred", "y_pred"),
    "correct": ("correct", "hit", "hits"),
    "confidence": ("confidence", "confidences"),
    # Without a heading or as "Unnamed: 0": the index that pandas writes.
    "ids": ("id", "ids", "image", "image_id", "path", "file", "filename", "",
            "unnamed: 0"),
    "class_names": ("class_names", "classes"),
}
# What arrays [images, classes] may be called, and of which kind they are then.
SCORES = {"logits": "logits", "probabilities": "probabilities",
          "probs": "probabilities", "predictions": "auto", "scores": "auto",
          "outputs": "auto"}
# What the columns of single classes may begin with.
PREFIXES = {"logit_": "logits", "prob_": "probabilities"}

_AGAIN = "write it again"


class Fields(NamedTuple):
  """What any format holds, before it is looked at.

  Attributes:
    place: Function of a row (from 0) and a column's number that says where that
      is, for errors.
    scores: Values of each image and class.
    kind: Kind of the scores as their names tell it.
    by_role: Other arrays by their role in `NAMES`.
    notes: Sentences on what is not looked at.
  """

  place: Callable[[int, int | None], str]
  scores: Float[np.ndarray, "n k"] | None
  kind: str
  by_role: Mapping[str, Shaped[np.ndarray, "..."]]
  notes: tuple[str, ...] = ()


def read(path: str | os.PathLike) -> Fields:
  """What a file holds.

  Args:
    path: Path of the file, of one of `ENDINGS`.

  Raises:
    FileNotFoundError: There is no such file.
    ValueError: It is of another format or damaged, or what it holds are no
      numbers and texts; names row and column.
    ImportError: A .parquet file, and pyarrow is not installed.
  """
  path = pathlib.Path(path)
  ending = path.suffix.lower()
  if ending not in _READERS:
    raise ValueError(
        f"{path} ends in {ending or 'nothing'!r}, expected one of "
        f"{', '.join(_READERS)}; from torch: numpy.savez('tpt.npz', "
        "logits=logits.numpy(), labels=labels.numpy())")
  check_there(path)
  return _READERS[ending](path)


def check_there(path: str | os.PathLike) -> None:
  """Refuses what is no file.

  Raises:
    FileNotFoundError: There is nothing.
    ValueError: It is a folder.
  """
  if os.path.isdir(path):
    raise ValueError(f"{path} is a folder; expected runs alone, or files of "
                     "predictions, one for each method")
  if not os.path.isfile(path):
    raise FileNotFoundError(f"no file {path}; expected a file of predictions")


def expected(role: str) -> str:
  """How an error on a missing array ends.

  Args:
    role: Role of the array, a key of `NAMES`.
  """
  return ("expected an array or column called one of "
          f"{', '.join(filter(None, NAMES[role]))}")


def _load_npy(path):
  try:
    return arrays_lib.unpack_one(path.read_bytes())
  except ValueError as error:
    raise ValueError(f"{path} is no whole .npy of numbers: {error}; {_AGAIN}"
                     ) from error


def _read_npy(path):
  """Values of all classes if there are two axes, else labels."""
  values = _load_npy(path)
  if values.ndim == 1:
    labels = _column(path, "labels", values)
    return Fields(_at, None, "auto", {"labels": labels})
  return Fields(_at, floats(path, "values", values), "auto", {})


def _read_npz(path):
  try:
    arrays = arrays_lib.unpack(path)
  except ValueError as error:
    raise ValueError(f"{path}: {error}; {_AGAIN}") from error
  return _of_arrays(path, arrays)


def _of_arrays(path, arrays):
  """Fields from arrays by name."""
  scores, kind, other = None, "auto", []
  by_role: dict[str, np.ndarray] = {}
  for name, values in arrays.items():
    known = name.strip().lower()
    role = next((role for role, names in NAMES.items() if known in names), None)
    if known in SCORES and (values.ndim != 1 or role is None):
      if scores is not None:
        raise ValueError(f"{path} has several arrays of logits or "
                         f"probabilities, one of them {name!r}; keep one")
      scores, kind = floats(path, name, values), SCORES[known]
    elif role is None:
      other.append(name)
    else:
      _put(path, by_role, role, name, _column(path, name, values))
  return Fields(_at, scores, kind, by_role, _not_looked_at(other))


def _read_csv(path):
  with open(path, newline="", encoding="utf-8-sig") as file:
    try:
      return _of_lines(path, csv.reader(file))
    except (csv.Error, UnicodeDecodeError) as error:
      raise ValueError(
          f"{path} is no CSV in UTF-8: {error}; {_AGAIN}") from error


def _of_lines(path, lines: Iterator[list[str]]):
  headings = next(lines, [])
  layout = _layout(path, headings)
  scores = []
  texts: dict[str, list[str]] = {role: [] for role in layout.roles}
  for row, line in enumerate(filter(None, lines), start=1):
    if len(line) != len(headings):
      raise ValueError(f"{path}, row {row}: {len(line)} values, expected "
                       f"{len(headings)}, one for each heading")
    for role, column in layout.roles.items():
      texts[role].append(line[column])
    if layout.classes:
      scores.append(_numbers_of(path, row, line, headings, layout.classes))
  return _flat(layout, headings, np.array(scores) if scores else None, {
      role: np.array(values, dtype=str) for role, values in texts.items()},
      path)


def _numbers_of(path, row, line, headings, columns):
  """The numbers of a line; faster than one by one where all are sound."""
  try:
    return np.array([line[column] for column in columns], np.float64)
  except ValueError:
    for column in columns:
      try:
        float(line[column])
      except ValueError as error:
        raise ValueError(
            f"{path}, row {row}, column {headings[column]!r}: "
            f"{line[column]!r}, expected a number") from error
    raise


def _read_parquet(path):
  try:
    import pyarrow
    from pyarrow import parquet
  except ImportError as error:
    raise ImportError(
        f"{path} needs pyarrow, which is not installed: pip install pyarrow, "
        "or write the table as .csv") from error
  try:
    table = parquet.read_table(path).to_pydict()
    columns = {name: np.asarray(column) for name, column in table.items()}
  except (OSError, pyarrow.ArrowException, ValueError) as error:
    raise ValueError(
        f"{path} is no whole .parquet: {error}; {_AGAIN}") from error
  if any(name.lower() in SCORES and values.ndim == 2
         for name, values in columns.items()):
    return _of_arrays(path, columns)
  headings = list(columns)
  layout = _layout(path, headings)
  values = list(columns.values())
  scores = [floats(path, headings[column], _column(
      path, headings[column], values[column])) for column in layout.classes]
  return _flat(layout, headings, np.stack(scores, -1) if scores else None, {
      role: _column(path, headings[column], values[column])
      for role, column in layout.roles.items()}, path)


class _Layout(NamedTuple):
  """Which column is what.

  Attributes:
    roles: Column by role.
    classes: Columns of the classes, in label order.
    kind: Kind of their values as their headings tell it.
    prefix: What their headings begin with beside the name of the class.
    other: Headings of columns that are not looked at.
  """

  roles: dict[str, int]
  classes: list[int]
  kind: str
  prefix: str
  other: list[str]


def _layout(path, headings):
  """What the columns of a table are; all unknown ones may be classes."""
  repeated = {name for name in headings if headings.count(name) > 1}
  if repeated or not headings:
    raise ValueError(f"{path}: expected different headings in the first line, "
                     f"but {sorted(repeated) or 'there are none'}")
  classes = []
  roles: dict[str, int] = {}
  prefix = next((prefix for prefix in PREFIXES if any(
      name.startswith(prefix) for name in headings)), "")
  for column, name in enumerate(headings):
    known = name.strip().lower()
    role = next((role for role, names in NAMES.items() if known in names), None)
    if role is not None and role != "class_names":
      _put(path, roles, role, name, column)
    else:
      classes.append(column)
  chosen = [column for column in classes
            if headings[column].startswith(prefix)]
  if "confidence" in roles and not prefix:
    chosen = []
  return _Layout(roles, chosen, PREFIXES.get(prefix, "auto"), prefix,
                 [headings[column] for column in classes
                  if column not in chosen])


def _flat(layout, headings, scores, by_role, path):
  """Fields of a table with a column for each class, or with none."""
  names = [headings[column] for column in layout.classes]
  if scores is None and not any(map(len, by_role.values())):
    raise ValueError(f"{path} has headings, but no rows")
  if names:
    by_role["class_names"] = np.array(
        [name.removeprefix(layout.prefix).strip() for name in names])
  place = lambda row, column: f"row {row + 1}" + (
      "" if column is None else f", column {names[column]!r}")
  return Fields(
      place, scores, layout.kind, by_role, _not_looked_at(layout.other))


def _put(path, found, role, name, value):
  if role in found:
    raise ValueError(f"{path} has several arrays or columns of {role}, one of "
                     f"them {name!r}; keep one of those that are called "
                     f"{', '.join(filter(None, NAMES[role]))}")
  found[role] = value


def _at(row, column):
  return f"row {row + 1}" + ("" if column is None else f", column {column + 1}")


def _column(path, name, values):
  """One value per image, or a name for each class."""
  if values.ndim == 2 and 1 in values.shape:
    values = values.reshape(-1)
  if values.ndim != 1 or values.dtype.kind not in "biufUS":
    raise ValueError(
        f"{path}, {name!r}: expected one number or text per image, but the "
        f"dtype is {values.dtype} and the shape {values.shape}")
  if values.dtype.kind != "S":
    return values
  try:
    return np.char.decode(values)
  except UnicodeDecodeError as error:
    raise ValueError(
        f"{path}, {name!r}: expected texts in UTF-8, but {error}") from error


def floats(
    path: str | os.PathLike, name: str, values: Shaped[np.ndarray, "..."]
) -> Shaped[np.ndarray, "..."]:
  """Numbers, also those written as texts.

  Args:
    path: Path of the file, for errors.
    name: Name of the array or column, for errors.
    values: Values as they were read.

  Raises:
    ValueError: They are no numbers; names the row.
  """
  if values.dtype.kind == "U":
    for place, text in np.ndenumerate(values):
      try:
        float(text)
      except ValueError as error:
        row = place[0] + 1 if place else 1
        raise ValueError(f"{path}, row {row}, column {name!r}: {str(text)!r}, "
                         "expected a number") from error
    return values.astype(np.float64)
  if values.dtype.kind not in "biuf":
    raise ValueError(
        f"{path}, {name!r}: expected numbers, but the dtype is {values.dtype}")
  return values if values.dtype.kind == "f" else values.astype(np.float64)


def _not_looked_at(names):
  return (f"not looked at: {', '.join(map(repr, names))}",) if names else ()


_READERS: dict[str, Callable[[pathlib.Path], Fields]] = {
    ".npz": _read_npz, ".npy": _read_npy, ".csv": _read_csv,
    ".parquet": _read_parquet}

ENDINGS = tuple(_READERS)
