"""Reliability diagrams, and what a sweep did to accuracy and calibration."""

from collections.abc import Mapping, Sequence
import io
import re
from typing import TYPE_CHECKING

import numpy as np

from jaxcal import stages
from jaxcal.metrics import binning
from jaxcal.report import per_image
from jaxcal.report import prototypes
from jaxcal.report import summary
from jaxcal.report import tables
from jaxcal.typing import Float

if TYPE_CHECKING:
  from matplotlib.figure import Figure

_INK, _BAR, _GAP, _QUIET = "#1c2b3a", "#3f7cac", "#d1495b", "#9aa5b1"
# Told apart without colour vision, too (Okabe and Ito).
_CURVES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9",
           "#000000")
# What is drawn against a swept number, with its heading.
SWEPT = {"accuracy": "accuracy %", "ece": "ECE %", "nll": "NLL"}
# Diagrams side by side in a figure that is as wide as a page.
_MOST_ABREAST = 5
# Inches of a figure with one panel, which can be read on a telephone.
_NARROW = 4.2


def reliability_diagrams(
    bins_by_title: Mapping[str, binning.BinStatistics],
    *,
    per_row: int | None = None,
) -> "Figure":
  """One panel per method: accuracy against confidence, and where images lie.

  A bar is the accuracy of a bin. The red line from its top ends at the bin's
  mean confidence: above the bar the model is over-confident, below it
  under-confident. Empty bins stay empty. The histogram below counts the images
  in each bin, right ones below wrong ones.

  Args:
    bins_by_title: Bins of equal width over [0, 1] by the title of the panel.
    per_row: Panels side by side; at most five, in rows of one length, if None.

  Raises:
    ValueError: Nothing to draw.
  """
  if not bins_by_title:
    raise ValueError("no predictions to draw")
  # Not pyplot: a library must not touch the caller's figures or backend.
  from matplotlib.figure import Figure
  number = len(bins_by_title)
  columns = per_row or -(-number // -(-number // _MOST_ABREAST))
  rows = -(-number // columns)
  figure = Figure(figsize=(2.3 * columns, 3.5 * rows), layout="constrained")
  panels = figure.subplots(
      2 * rows, columns, sharex=True, sharey="row", squeeze=False,
      height_ratios=rows * (4, 1))
  pairs = panels.reshape(rows, 2, columns).swapaxes(1, 2).reshape(-1, 2)
  for (top, bottom), (title, bins) in zip(pairs, bins_by_title.items()):
    _draw_reliability(top, bins)
    _draw_counts(bottom, bins)
    if title:
      top.set_title(title, fontsize=9, color=_INK)
    bottom.set_xlabel("confidence", fontsize=9, color=_INK)
  for unused in pairs[number:].flat:
    unused.set_visible(False)
  for panel in panels[::2, 0]:
    panel.set_ylabel("accuracy", fontsize=9, color=_INK)
  for panel in panels[1::2, 0]:
    panel.set_ylabel("images", fontsize=9, color=_INK)
  return figure


def risk_coverage(curves: Mapping[str, per_image.Curve]) -> "Figure":
  """The error among the most confident images, by their share.

  Args:
    curves: Curves by the name of the method.

  Raises:
    ValueError: Nothing to draw.
  """
  if not curves:
    raise ValueError("no curves to draw")
  figure, panel = _narrow(2.9)
  for number, (name, curve) in enumerate(curves.items()):
    panel.plot(100 * curve.coverage, 100 * curve.risk, label=name,
               linewidth=1.3, color=_colour(number), linestyle=_style(number))
  panel.set(xlim=(0, 100))
  panel.set_ylim(bottom=0)
  _plain_axes(panel, "coverage %", "error %")
  return _legend_below(figure, panel)


def accuracy_against_error(rows: Sequence[summary.Row]) -> "Figure":
  """Methods as points with intervals, numbered in their order.

  Args:
    rows: Rows of an image set, from `summary.summarise`.

  Raises:
    ValueError: Nothing to draw.
  """
  if not rows:
    raise ValueError("no methods to draw")
  from matplotlib.figure import Figure
  figure = Figure(figsize=(3.4, 2.8), layout="constrained")
  panel = figure.subplots()
  for number, row in enumerate(rows):
    across, upwards = ([100 * row[f"{name}{end}"] for end in
                        ("", "_low", "_high")] for name in ("ece", "accuracy"))
    spread = lambda ends: [[max(ends[0] - ends[1], 0)],
                           [max(ends[2] - ends[0], 0)]]
    panel.errorbar(
        across[0], upwards[0], xerr=spread(across), yerr=spread(upwards),
        **{**_points(number), "elinewidth": 0.5, "alpha": 0.8})
    _number(panel, number, (across[0], upwards[0]))
  panel.set_xlim(left=0)
  _plain_axes(panel, "ECE %", "accuracy %")
  return figure


def before_and_after(
    rows: Sequence[summary.Row], score: str, heading: str) -> "Figure":
  """Methods by accuracy and a score, which a temperature has moved.

  Args:
    rows: Rows from `repaired.rows`.
    score: Name of the score.
    heading: Heading of the score; "NLL" has a logarithmic axis.

  Raises:
    ValueError: Nothing to draw.
  """
  if not rows:
    raise ValueError("no methods to draw")
  from matplotlib import ticker
  figure, panel = _narrow(3.2)
  factor = _factor(heading)
  for number, row in enumerate(rows):
    across = [factor * row[score], factor * row[f"{score}_after"]]
    upwards = 2 * [100 * row["accuracy"]]
    panel.plot(across, upwards, linewidth=0.6, color=_colour(number))
    for x, fill in zip(across, (_colour(number), "white")):
      panel.plot([x], upwards[:1], marker=_marker(number), linewidth=0,
                 markersize=4, markerfacecolor=fill,
                 markeredgecolor=_colour(number))
    _number(panel, number, (across[0], upwards[0]))
  if heading == "NLL":
    panel.set_xscale("log")
    # Powers of ten are not drawn as text, and there may be one of them.
    panel.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_locator(ticker.NullLocator())
  else:
    panel.set_xlim(left=0)
  _plain_axes(panel, heading, "accuracy %")
  return figure


def prototype_similarities(found: prototypes.Similarities) -> "Figure":
  """Pairs of classes by the cosine of their text features, before and after.

  Args:
    found: Histograms of both.
  """
  from matplotlib.figure import Figure
  figure = Figure(figsize=(2.8, 2.4), layout="constrained")
  panel = figure.subplots()
  for counts, name, colour in ((found.before, "before", _QUIET),
                               (found.after, "after", _BAR)):
    panel.stairs(counts, prototypes.EDGES, fill=True, alpha=0.6, color=colour,
                 label=name)
  filled = np.flatnonzero(found.before + found.after)
  panel.set_xlim(prototypes.EDGES[filled[0]], prototypes.EDGES[filled[-1] + 1])
  _plain_axes(panel, "cosine", "pairs of classes")
  figure.legend(fontsize=8, frameon=False, loc="outside lower left", ncols=2)
  return figure


def cosine_matrix(
    names: Sequence[str], cosines: Float[np.ndarray, "m m"]) -> "Figure":
  """A matrix of cosines, coloured from -1 to 1 and with its numbers.

  Args:
    names: Names of rows and columns.
    cosines: Cosines in [-1, 1]; NaN stays white.
  """
  from matplotlib.figure import Figure
  size = 1.4 + 0.42 * len(names)
  figure = Figure(figsize=(size, size), layout="constrained")
  panel = figure.subplots()
  panel.imshow(cosines, cmap="RdBu_r", vmin=-1, vmax=1)
  for (i, j), value in np.ndenumerate(cosines):
    if np.isfinite(value):
      panel.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7,
                 color="white" if abs(value) > 0.6 else _INK)
  panel.set_xticks(range(len(names)), names, rotation=45, ha="right",
                   rotation_mode="anchor")
  panel.set_yticks(range(len(names)), names)
  panel.tick_params(labelsize=8, colors=_INK, length=0)
  panel.spines[:].set_visible(False)
  return figure


def pair_cosines(
    cosines: Float[np.ndarray, "pairs"], margins: Mapping[str, float]
) -> "Figure":
  """A histogram of the pairs of classes, with margins in it.

  Args:
    cosines: Cosines of the pairs.
    margins: Margins by the name of the method.

  Raises:
    ValueError: No pairs.
  """
  if not cosines.size:
    raise ValueError("no pairs of classes to draw")
  from matplotlib.figure import Figure
  figure = Figure(figsize=(4.2, 2.9), layout="constrained")
  panel = figure.subplots()
  low = min(cosines.min(), *margins.values(), 1) - 0.02
  panel.hist(np.clip(cosines, -1, 1), bins=60, color=_BAR, range=(
      low, max(cosines.max(), *margins.values(), -1) + 0.02))
  for number, (name, margin) in enumerate(margins.items()):
    panel.axvline(margin, color=_GAP, linestyle=("--", ":", "-.")[number % 3],
                  linewidth=1.5, label=f"margin of {name}, {margin:g}")
  _plain_axes(panel, "cosine", "pairs of classes")
  if margins:
    figure.legend(fontsize=8, frameon=False, loc="outside lower left", ncols=2)
  return figure


def loss_curves(
    losses: Mapping[str, Float[np.ndarray, "s e"]], *, narrow: bool = False
) -> "Figure":
  """Training losses: the mean over seeds, and the range of the seeds.

  Methods differ in their epochs and in what their losses are made of, so the
  curves show where each one settles, not which is lower.

  Args:
    losses: Losses by method, one per seed and epoch.
    narrow: Whether the legend is below and not beside.

  Raises:
    ValueError: Nothing to draw.
  """
  if not losses:
    raise ValueError("no losses to draw")
  from matplotlib.figure import Figure
  if narrow:
    figure, panel = _narrow()
  else:
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    panel = figure.subplots()
  for number, (label, values) in enumerate(losses.items()):
    time = np.arange(1, values.shape[1] + 1) / values.shape[1]
    panel.fill_between(time, values.min(0), values.max(0), alpha=0.12,
                       linewidth=0, color=_colour(number))
    panel.plot(time, values.mean(0), label=f"{label} ({values.shape[1]})",
               linewidth=1.5, color=_colour(number), linestyle=_style(number))
  if min(values.min() for values in losses.values()) > 0:
    panel.set_yscale("log")
  _plain_axes(panel, "part of the training (epochs)", "loss")
  if narrow:
    return _legend_below(figure, panel)
  figure.legend(fontsize=8, frameon=False, loc="outside right upper")
  return figure


def sweep_curves(
    curves: Mapping[str, Sequence[summary.Row]],
    lines: Mapping[str, summary.Row],
    field: str,
) -> "Figure":
  """Accuracy, ECE and NLL against a swept number, with intervals.

  Args:
    curves: Curves by label, rows of `summary.summarise` that also hold the
      field.
    lines: Lines by label, rows without it, drawn from edge to edge.
    field: Field of the horizontal axis; logarithmic if its values are positive
      and span more than a decade.

  Raises:
    ValueError: Nothing to draw.
  """
  if not curves:
    raise ValueError(f"no rows with a {field} to draw")
  from matplotlib.figure import Figure
  figure = Figure(figsize=(10.6, 3.2), layout="constrained")
  panels = figure.subplots(1, len(SWEPT))
  for panel, (score, heading) in zip(panels, SWEPT.items()):
    _draw_sweep(panel, curves, lines, field, score, heading)
  _legend_beside(figure, panels)
  return figure


def sweep_curve(
    curves: Mapping[str, Sequence[summary.Row]],
    lines: Mapping[str, summary.Row],
    field: str,
    score: str,
    heading: str,
) -> "Figure":
  """One score against a swept number, see `sweep_curves`.

  Args:
    curves: Curves by label.
    lines: Lines by label.
    field: Field of the horizontal axis.
    score: Name of the score.
    heading: Name of the score; fractions are drawn in percent where this ends
      with "%".

  Raises:
    ValueError: Nothing to draw.
  """
  if not curves:
    raise ValueError(f"no rows with a {field} to draw")
  figure, panel = _narrow()
  _draw_sweep(panel, curves, lines, field, score, heading)
  return _legend_below(figure, panel)


def along_stream(
    rows: Sequence[summary.Row], score: str, heading: str) -> "Figure":
  """Differences to zero-shot by quarter of the stream, a line for each method.

  Args:
    rows: Rows of an image set, from `along_stream.rows`.
    score: Name of the score.
    heading: Name of the difference; fractions are drawn in points where this
      ends with "points".

  Raises:
    ValueError: Nothing to draw.
  """
  name = f"{score}_difference"
  lines: dict[str, list[summary.Row]] = {}
  for row in rows:
    if name in row and row["part"] != "change":
      lines.setdefault(stages.of(row).label, []).append(row)
  if not lines:
    raise ValueError(f"no rows with a {name} to draw")
  figure, panel = _narrow(2.9)
  factor = 100 if heading.endswith("points") else 1
  for number, (label, line) in enumerate(lines.items()):
    values, low, high = (
        factor * np.array([row[f"{name}{end}"] for row in line])
        for end in ("", "_low", "_high"))
    # Beside each other, so that intervals can be told apart.
    across = [row["part"] + 0.4 * (number + 0.5) / len(lines) - 0.2
              for row in line]
    panel.errorbar(
        across, values, yerr=np.maximum([values - low, high - values], 0),
        label=label, **_points(number) | {
            "elinewidth": 0.5, "linestyle": _style(number), "linewidth": 1.0})
  panel.axhline(0, color=_QUIET, linewidth=0.8)
  panel.set_xticks(sorted({row["part"] for row in rows
                           if row["part"] != "change"}))
  _plain_axes(panel, "quarter of the stream", heading)
  return _legend_below(figure, panel)


def spectra(
    eigenvalues: Mapping[str, Sequence[np.ndarray]],
    priors: Mapping[str, float],
) -> "Figure":
  """Eigenvalues of the Kronecker factors, and where the prior takes over.

  Args:
    eigenvalues: Eigenvalues by side, those of (A, B), scaled by the root of the
      pseudo-data count.
    priors: Roots of the prior precision, by side.

  Raises:
    ValueError: Nothing to draw.
  """
  if not eigenvalues:
    raise ValueError("no spectra to draw")
  from matplotlib.figure import Figure
  figure = Figure(figsize=(3.8 * len(eigenvalues), 3.2), layout="constrained")
  panels = figure.subplots(1, len(eigenvalues), sharey=True, squeeze=False)[0]
  for panel, (side, (of_a, of_b)) in zip(panels, eigenvalues.items()):
    for values, name, colour in ((of_a, "A (inputs)", _CURVES[0]),
                                 (of_b, "B (outputs)", _CURVES[1])):
      values = np.sort(np.asarray(values))[::-1]
      # What rounding leaves of null directions says nothing.
      values = np.maximum(values, 1e-8 * values[0])
      panel.plot(np.linspace(0, 1, len(values)), values, color=colour,
                 linewidth=1.5, label=name)
    panel.axhline(priors[side], color=_INK, linestyle="--", linewidth=1,
                  label="prior")
    panel.set_yscale("log")
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=8, colors=_INK)
    panel.set_title(f"{side} projection", fontsize=9, color=_INK)
    panel.set_xlabel("share of directions", fontsize=9, color=_INK)
  panels[0].set_ylabel("precision (root)", fontsize=9, color=_INK)
  panels[0].legend(fontsize=8, frameon=False)
  return figure


def learning_curves(
    curves: Mapping[str, Sequence[summary.Row]],
    scores: Mapping[str, str],
) -> "Figure":
  """Scores against the number of labels, one line per strategy.

  Args:
    curves: Curves by strategy, rows with `budget` and, for each score, its mean
      over seeds under its own name and the extremes as `_low` and `_high`.
    scores: Heading by name; a panel for each. Fractions are drawn in percent
      where the heading ends with "%".

  Raises:
    ValueError: Nothing to draw.
  """
  if not curves or not scores:
    raise ValueError("no learning curves to draw")
  from matplotlib.figure import Figure
  figure = Figure(figsize=(3.4 * len(scores) + 1.4, 3.2), layout="constrained")
  panels = figure.subplots(1, len(scores), squeeze=False)[0]
  for panel, (score, heading) in zip(panels, scores.items()):
    _draw_learning(panel, curves, score, heading)
  _legend_beside(figure, panels)
  return figure


def learning_curve(
    curves: Mapping[str, Sequence[summary.Row]], score: str, heading: str
) -> "Figure":
  """One score against the number of labels, see `learning_curves`.

  Args:
    curves: Curves by strategy.
    score: Name of the score.
    heading: Name of the score.

  Raises:
    ValueError: Nothing to draw.
  """
  if not curves:
    raise ValueError("no learning curves to draw")
  figure, panel = _narrow()
  _draw_learning(panel, curves, score, heading)
  return _legend_below(figure, panel)


def set_sizes(rows: Sequence[summary.Row]) -> "Figure":
  """Size of prediction sets against the calibration error, and their coverage.

  Points are methods, numbered as on the right; bars are two standard deviations
  of one split. The grey band has 95 % of the splits of a correct method.

  Args:
    rows: Rows of an image set, of `report.prediction_sets`.

  Raises:
    ValueError: Nothing to draw.
  """
  if not rows:
    raise ValueError("no prediction sets to draw")
  from matplotlib.figure import Figure
  figure = Figure(figsize=(8.6, 2.2 + 0.22 * len(_labels(rows))),
                  layout="constrained")
  left, right = panels = figure.subplots(1, 2)
  _draw_sizes(left, rows)
  _draw_coverage(right, rows)
  _legend_beside(figure, panels)
  return figure


def size_against_error(rows: Sequence[summary.Row]) -> "Figure":
  """Size of prediction sets against the calibration error, see `set_sizes`.

  Args:
    rows: Rows of an image set, of `report.prediction_sets`.

  Raises:
    ValueError: Nothing to draw.
  """
  if not rows:
    raise ValueError("no prediction sets to draw")
  figure, panel = _narrow()
  _draw_sizes(panel, rows)
  return _legend_below(figure, panel)


def set_coverage(rows: Sequence[summary.Row]) -> "Figure":
  """Coverage of prediction sets by method and score, see `set_sizes`.

  Args:
    rows: Rows of an image set, of `report.prediction_sets`.

  Raises:
    ValueError: Nothing to draw.
  """
  if not rows:
    raise ValueError("no prediction sets to draw")
  figure, panel = _narrow(1.2 + 0.3 * len(_labels(rows)))
  _draw_coverage(panel, rows)
  return _legend_below(figure, panel)


def areas_by_method(rows: Sequence[summary.Row]) -> "Figure":
  """AUROC of each method by every score, with intervals.

  Args:
    rows: Rows of a ranking, of `report.ranking`: `auroc` with `_low` and
      `_high`, or with `_sd`.

  Raises:
    ValueError: Nothing to draw.
  """
  if not rows:
    raise ValueError("no rankings to draw")
  figure, panel = _narrow(
      1.2 + (0.1 + 0.08 * len(_by_score(rows))) * len(_labels(rows)))

  def ends(row):
    if "auroc_sd" in row:
      return row["auroc_sd"], row["auroc_sd"]
    return (max(row["auroc"] - row["auroc_low"], 0),
            max(row["auroc_high"] - row["auroc"], 0))

  _draw_by_method(panel, rows, "auroc", ends)
  panel.axvline(50, color=_INK, linewidth=1, linestyle="--")
  _plain_axes(panel, "AUROC %", "")
  return _legend_below(figure, panel)


def panel_title(row: summary.Row) -> str:
  """Method, calibration error and floor: the heading of its panel."""
  return (f"{stages.of(row).label}\nECE {tables.percent(row['ece'])} %, floor "
          f"{tables.percent(row['ece_floor'])}")


def svg(figure: "Figure", *, inline: bool = False) -> str:
  """The figure as an `<svg>` element, the same bytes for the same figure.

  Args:
    figure: Figure to draw.
    inline: Whether it is for a page with other figures: without the names of
      its parts, and with text as text, in the font of the page.
  """
  import matplotlib
  text = io.StringIO()
  # Names of sets and methods may have dollars in them, and no formulas.
  for label in figure.findobj(lambda part: hasattr(part, "set_parse_math")):
    label.set_parse_math(False)  # type: ignore[attr-defined]
  # Fixed salt and no date: running twice gives the same page.
  with matplotlib.rc_context({
      "svg.hashsalt": "jaxcal", "font.size": 9,
      "svg.fonttype": "none" if inline else "path"}):
    figure.savefig(
        text, format="svg", metadata={"Date": None, "Creator": None})
  drawn = text.getvalue()[text.getvalue().index("<svg"):]
  return _lean(drawn) if inline else drawn


def _lean(drawn):
  """Without what a page has no use for: names, metadata, digits, its own font.
  """
  for pattern, instead in (
      (r'<g id="[^"]*">', "<g>"),
      (r"(?s) *<metadata>.*?</metadata>\n", ""),
      (r' xmlns(:\w+)?="[^"]*"', ""),
      (r' transform="rotate\(-0 [^"]*"', ""),
      (r" font-family: [^;]*;", ""),
      (r"(\d\.\d\d)\d+(?!\d*<)", r"\1"),  # not of texts
      (r"\n *", "\n")):
    drawn = re.sub(pattern, instead, drawn)
  return drawn


def _draw_reliability(panel, bins):
  num_bins = len(bins.count)
  middle, width = (np.arange(num_bins) + 0.5) / num_bins, 1 / num_bins
  filled = bins.count > 0
  count = np.where(filled, bins.count, 1)
  accuracy, confidence = bins.correct_sum / count, bins.confidence_sum / count
  panel.plot([0, 1], [0, 1], color=_QUIET, linewidth=1, linestyle="--")
  panel.bar(middle[filled], accuracy[filled], width=0.9 * width, color=_BAR)
  panel.vlines(middle[filled], accuracy[filled], confidence[filled],
               color=_GAP, linewidth=2)
  panel.set(xlim=(0, 1), ylim=(0, 1))
  _quiet_axes(panel)


def _draw_curve(panel, rows, field, score, label, number, factor=100):
  rows = sorted(rows, key=lambda row: row[field])
  column = lambda name: np.array([row[name] for row in rows])
  panel.fill_between(column(field), factor * column(f"{score}_low"),
                     factor * column(f"{score}_high"), color=_colour(number),
                     alpha=0.12, linewidth=0)
  panel.plot(column(field), factor * column(score), color=_colour(number),
             marker="o", markersize=3, linewidth=1.5, linestyle=_style(number),
             label=label)


def _draw_sweep(panel, curves, lines, field, score, heading):
  factor = _factor(heading)
  for (label, row), style in zip(lines.items(), ("--", ":", "-.") * 9):
    panel.axhline(factor * row[score], color=_INK, linestyle=style,
                  linewidth=1, label=label)
  for number, (label, rows) in enumerate(curves.items()):
    _draw_curve(panel, rows, field, score, label, number, factor)
  values = sorted({row[field] for rows in curves.values() for row in rows})
  if values[0] > 0 and values[-1] > 10 * values[0]:
    panel.set_xscale("log")
  panel.set_xticks(values, [f"{value:g}" for value in values],
                   rotation=45 if len(values) > 8 else 0)
  panel.minorticks_off()
  _plain_axes(panel, field.replace("_", " "), heading)


def _draw_learning(panel, curves, score, heading):
  for number, (label, rows) in enumerate(curves.items()):
    _draw_curve(
        panel, rows, "budget", score, label, number, _factor(heading))
  _plain_axes(panel, "labels", heading)


def _draw_sizes(panel, rows):
  labels = _labels(rows)
  for number, (score, some) in enumerate(_by_score(rows).items()):
    panel.errorbar(
        [100 * row["ece"] for row in some],
        [row["mean_size"] for row in some],
        yerr=[2 * row["mean_size_std"] for row in some],
        **_points(number), label=score)
    # Methods lie one above the other: their calibration error is the same.
    for row in some if not number else ():
      panel.annotate(
          str(labels.index(stages.of(row).label) + 1),
          (100 * row["ece"], row["mean_size"]), xytext=(2, 2),
          textcoords="offset points", fontsize=6, color=_INK)
  _plain_axes(panel, "ECE %", "mean size of a set")


def _draw_coverage(panel, rows):
  _draw_by_method(panel, rows, "coverage", lambda row: (
      2 * row["coverage_std"], 2 * row["coverage_std"]))
  band = next((row for row in rows if "promised_low" in row), None)
  if band:
    panel.axvspan(100 * band["promised_low"], 100 * band["promised_high"],
                  color=_QUIET, alpha=0.25, linewidth=0)
  panel.axvline(100 - 100 * rows[0]["alpha"], color=_INK, linewidth=1,
                linestyle="--")
  _plain_axes(panel, "coverage %", "")


def _draw_by_method(panel, rows, measure, ends):
  """A line of points for each method, numbered, and a colour by score."""
  labels, by_score = _labels(rows), _by_score(rows)
  for number, (score, some) in enumerate(by_score.items()):
    panel.errorbar(
        [100 * row[measure] for row in some],
        [labels.index(stages.of(row).label) + (number + 0.5) / len(by_score) -
         0.5 for row in some],
        xerr=100 * np.array([ends(row) for row in some]).T, **_points(number),
        label=score)
  panel.set_yticks(range(len(labels)), [
      f"{place + 1} {label}" for place, label in enumerate(labels)])
  panel.invert_yaxis()


def _labels(rows):
  return list(dict.fromkeys(stages.of(row).label for row in rows))


def _by_score(rows):
  return {score: [row for row in rows if row["score"] == score]
          for score in dict.fromkeys(row["score"] for row in rows)}


def _points(number):
  """How points with bars look."""
  return {"fmt": _marker(number), "markersize": 3.5, "linewidth": 0,
          "elinewidth": 0.8, "color": _colour(number)}


def _marker(number):
  return "o^sDvPX"[number % 7]


def _number(panel, number, place):
  """The number of a method beside its point."""
  panel.annotate(str(number + 1), place, xytext=(3, 3),
                 textcoords="offset points", fontsize=8, color=_colour(number))


def _colour(number):
  return _CURVES[number % len(_CURVES)]


def _style(number):
  """With more curves than colours, the line tells them apart."""
  return ("-", "--", ":", "-.")[number // len(_CURVES) % 4]


def _factor(heading):
  """Fractions are drawn in percent where the heading says so."""
  return 100 if heading.endswith("%") else 1


def _narrow(height=2.7):
  """A figure with one panel, and that panel; its legend adds to the height."""
  from matplotlib.figure import Figure
  figure = Figure(figsize=(_NARROW, height), layout="constrained")
  return figure, figure.subplots()


def _legend_below(figure, panel):
  """Two columns below the panel, of one where a label is long."""
  handles, labels = panel.get_legend_handles_labels()
  columns = 2 if max(map(len, labels)) < 32 else 1
  figure.set_figheight(
      figure.get_figheight() + 0.18 * -(-len(labels) // columns))
  figure.legend(handles, labels, fontsize=8, frameon=False,
                loc="outside lower left", ncols=columns)
  return figure


def _legend_beside(figure, panels):
  """One for all panels, which draw the same curves."""
  figure.legend(*panels[0].get_legend_handles_labels(), fontsize=8,
                loc="outside right upper", frameon=False)


def _plain_axes(panel, across, upwards):
  panel.spines[["top", "right"]].set_visible(False)
  panel.tick_params(labelsize=8, colors=_INK)
  panel.set_xlabel(across, fontsize=9, color=_INK)
  panel.set_ylabel(upwards, fontsize=9, color=_INK)


def _draw_counts(panel, bins):
  num_bins = len(bins.count)
  middle, width = (np.arange(num_bins) + 0.5) / num_bins, 0.9 / num_bins
  panel.bar(middle, bins.correct_sum, width=width, color=_BAR)
  panel.bar(middle, bins.count - bins.correct_sum, width=width,
            bottom=bins.correct_sum, color=_GAP)
  _quiet_axes(panel)


def _quiet_axes(panel):
  panel.spines[["top", "right"]].set_visible(False)
  panel.tick_params(labelsize=8, colors=_INK)
  panel.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
