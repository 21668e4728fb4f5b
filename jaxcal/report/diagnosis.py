"""What the regularisers of prompt tuning would do to some classes, on a page.

  found = diagnosis.diagnose("dtd", methods, text_features, prepared)
  print(diagnosis.write([found], "runs/diagnosis").text)
"""

from collections.abc import Iterator, Mapping, Sequence
import datetime
import os
import pathlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxcal.adapt.prompt import diagnostics
from jaxcal.adapt.prompt import engine
from jaxcal.adapt.prompt import family
from jaxcal.adapt.prompt import methods as methods_lib
from jaxcal.report import figures
from jaxcal.report import measured
from jaxcal.report import page
from jaxcal.report import saved_runs
from jaxcal.report import tables
from jaxcal.storage import arrays
from jaxcal.storage import atomic
from jaxcal.typing import Float

_Row = dict[str, Any]
_Methods = Mapping[str, methods_lib.PromptMethod]

_ON_WEIGHTS = (
    "One AdamW step from an empty state sees the sign of the entropy's "
    "gradient plus the regulariser's, so that of a weight only its effect "
    "counts: the effective weight, which is the weight times the norm of the "
    "regulariser's gradient. By context: of the gradient by the context where "
    "images start, which decides the step. By features: of that by the text "
    "features, for which no encoder is needed; the two are not to be compared.")
_ON_COSINES = (
    "Regularisers whose gradients have a cosine near 1 pull the same way: at "
    "equal effective weight they are one method.")
_ON_PAIRS = (
    "SoC spares the pairs of classes beyond its margin: there the pull no "
    "longer grows. A margin below all pairs spares none, one above all of them "
    "neither.")


class Diagnosis(NamedTuple):
  """What is known of the classes of a data set.

  Attributes:
    data: Name of the data set, or of the file of text features.
    rows: A row for each method: `weight`, `value`, norms and effective weights
      by features and, with an encoder, by context; where it has a margin,
      `margin` and `beyond`, the share of the pairs above it.
    geometry: How the classes' features lie.
    by_features: Gradients by the text features.
    by_context: Gradients by the context; None without an encoder.
  """

  data: str
  rows: list[_Row]
  geometry: diagnostics.Geometry
  by_features: diagnostics.Pulls
  by_context: diagnostics.Pulls | None


def diagnose(
    data: str,
    methods: _Methods,
    text_features: Float[Any, "k d"],
    prepared: engine.Prepared | None = None,
) -> Diagnosis:
  """Gradients, effective weights and margins for the classes of a data set.

  Args:
    data: Name of the data set.
    methods: Methods by name; those without a regulariser are left out.
    text_features: Unit-norm features of its classes.
    prepared: Derivative where images start, from `engine.prepare`; None where
      only features are at hand.

  Raises:
    ValueError: No such features, no method with a regulariser, or one with an
      `effective_weight` and no derivative by the context.
  """
  if prepared is None:
    methods = {name: method.of_classes(jnp.asarray(text_features))
               for name, method in methods.items()}
  else:
    _, methods = family.resolved(prepared, methods)
  geometry = diagnostics.geometry(text_features)
  by_features = diagnostics.by_features(methods, text_features)
  by_context = (None if prepared is None else
                diagnostics.by_context(methods, prepared))
  rows: list[_Row] = []
  for place, name in enumerate(by_features.names):
    row: _Row = {"data": data, "method": name,
                 "num_classes": len(text_features),
                 "value": float(by_features.values[place])}
    for how, pulls in (("features", by_features), ("context", by_context)):
      if pulls is not None:
        row |= _strength(pulls, place, how)
    method = methods[name]
    if isinstance(method, methods_lib.Soc):
      row |= {"margin": float(method.delta),
              "beyond": geometry.beyond(float(method.delta))}
    rows.append(row)
  return Diagnosis(data, rows, geometry, by_features, by_context)


def read_features(path: str | os.PathLike) -> Float[np.ndarray, "k d"]:
  """Text features from a .npy, a row per class, divided by their norms.

  Raises:
    FileNotFoundError: There is no such file.
    ValueError: It holds something else, or a row that is zero or not finite.
  """
  if not os.path.isfile(path):
    raise FileNotFoundError(f"no file {path}; expected text features, .npy")
  try:
    values = arrays.unpack_one(pathlib.Path(path).read_bytes())
    if values.dtype.kind not in "biuf":
      raise ValueError(f"its dtype is {values.dtype}")
  except ValueError as error:
    raise ValueError(
        f"{path} is no .npy of numbers ({error}); numpy.save writes one"
        ) from error
  features = np.asarray(values, np.float64)
  if features.ndim != 2 or 0 in features.shape:
    raise ValueError(f"{path} has shape {features.shape}, expected text "
                     "features [classes, dimensions]")
  with np.errstate(over="ignore"):  # infinite, and refused
    norms = np.linalg.norm(features, axis=1, keepdims=True)
  wrong = ~(np.isfinite(norms) & (norms > 0)).ravel()
  if wrong.any():
    raise ValueError(
        f"{path}: row {wrong.argmax()} has norm {norms[wrong.argmax(), 0]:g}, "
        "so that it is no direction; expected text features, a row per class")
  return (features / norms).astype(np.float32)


def write(
    found: Sequence[Diagnosis],
    output: str | os.PathLike,
    *,
    about: Mapping[str, Any] = {},
    commands: Mapping[str, str] = {},
) -> measured.Written:
  """Writes diagnosis.md, .jsonl and .html, and figures of each data set.

  Args:
    found: Diagnoses, from `diagnose`.
    output: Folder to write to.
    about: Settings, for the page.
    commands: Command lines, for the page.
  """
  output = pathlib.Path(output)
  atomic.make_folder(output)
  rows = [row for one in found for row in one.rows]
  saved_runs.write_rows(output / "diagnosis.jsonl", rows)
  for one in found:
    for name, figure in _figures(one).items():
      atomic.write_whole(output / f"{name}-{one.data}.svg",
                         figures.svg(figure).encode())
  text = "\n\n".join(_blocks(found))
  atomic.write_whole(output / "diagnosis.md", f"{text}\n".encode())
  sets = ", ".join(one.data for one in found)
  atomic.write_whole(output / "diagnosis.html", page.render(page.Page(
      "Regularisers of prompt tuning",
      f"Where they pull and how hard, for the classes of {sets}.",
      [page.Section("Effective weights", [
          page.Table(rows, _columns(rows)), _ON_WEIGHTS]),
       *map(_section, found)],
      about, commands), date=datetime.datetime.now(
          datetime.UTC).date()).encode())
  return measured.Written(
      f"{text}\n\nWritten to {output}: diagnosis.html, .md and .jsonl, "
      "cosines-*.svg, pairs-*.svg", [])


def _strength(pulls, place, how):
  effective = float(pulls.effective_weights[place])
  found = {f"norm_by_{how}": float(pulls.norms[place])}
  if np.isnan(effective):  # the weight belongs to each image
    return found
  return found | {"weight": float(pulls.weights[place]),
                  f"effective_weight_by_{how}": effective}


def _columns(rows):
  columns = {"method": tables.Column("method", tables.method)}
  if len({row["data"] for row in rows}) > 1:
    columns = {"data": tables.Column(
        "classes of", lambda row: row["data"])} | columns
  number = lambda name: lambda row: f"{row[name]:.3g}"
  return tables.present(rows, columns | {
      "num_classes": tables.Column(
          "classes", lambda row: f"{row['num_classes']:,}")} | {
      name: tables.Column(heading, number(name)) for name, heading in (
          ("value", "value"), ("weight", "weight"),
          ("norm_by_context", "norm by context"),
          ("effective_weight_by_context", "effective weight by context"),
          ("norm_by_features", "norm by features"),
          ("effective_weight_by_features", "effective weight by features"),
          ("margin", "margin"))} | {
      "beyond": tables.Column(
          "pairs beyond %", lambda row: tables.percent(row["beyond"]))})


def _cosines(pulls):
  """Rows and columns of the matrix: cosines, and shared signs in brackets."""
  rows = [{"method": name, **{
      other: f"{pulls.cosines[i, j]:+.3f} ({100 * pulls.same_signs[i, j]:.0f})"
      for j, other in enumerate(pulls.names)}}
          for i, name in enumerate(pulls.names)]
  cell = lambda name: lambda row: row[name]
  return rows, [tables.Column("gradient of", tables.method), *(
      tables.Column(name, cell(name)) for name in pulls.names)]


def _matrices(one: Diagnosis) -> Iterator[tuple[str, diagnostics.Pulls]]:
  if one.by_context is not None:
    yield ("Cosines of the gradients by the context (in brackets: % of the "
           "coordinates with one sign)"), one.by_context
  yield ("Cosines of the gradients by the text features (in brackets: % of the "
         "coordinates with one sign)"), one.by_features


def _said(one: Diagnosis) -> str:
  pairs = one.geometry.cosines
  if not pairs.size:
    return "A single class has no pairs."
  return (f"{pairs.size:,} pairs of classes: cosines {pairs.min():.3f} to "
          f"{pairs.max():.3f}, mean {pairs.mean():.3f}. One coordinate is the "
          f"largest in {tables.percent(one.geometry.dominant_classes)} % of "
          "the classes and holds "
          f"{tables.percent(one.geometry.dominant_share)} % of the squared "
          "norm.")


def _blocks(found: Sequence[Diagnosis]) -> Iterator[str]:
  rows = [row for one in found for row in one.rows]
  yield tables.markdown(rows, _columns(rows))
  yield _ON_WEIGHTS
  for one in found:
    yield f"{one.data}:"
    yield _said(one)
    for heading, pulls in _matrices(one):
      yield f"{heading}:"
      yield tables.markdown(*_cosines(pulls))


def _section(one: Diagnosis) -> page.Section:
  blocks: list[page.Block] = [_said(one)]
  captions = {"cosines": "Cosines of the gradients " + (
      "by the text features" if one.by_context is None else "by the context"),
              "pairs": "Pairs of classes by their cosine, and SoC's margins"}
  blocks.append(page.Figures([
      page.Figure(figures.svg(figure, inline=True), captions[name])
      for name, figure in _figures(one).items()]))
  blocks += [_ON_COSINES, _ON_PAIRS]
  for heading, pulls in _matrices(one):
    blocks += [f"{heading}.", page.Table(*_cosines(pulls))]
  return page.Section(one.data, blocks)


def _figures(one: Diagnosis) -> dict[str, Any]:
  pulls = one.by_features if one.by_context is None else one.by_context
  found = {"cosines": figures.cosine_matrix(pulls.names, pulls.cosines)}
  if one.geometry.cosines.size:
    found["pairs"] = figures.pair_cosines(one.geometry.cosines, {
        row["method"]: row["margin"] for row in one.rows if "margin" in row})
  return found
