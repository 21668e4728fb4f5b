"""Rows of numbers as tables for people: percent, and few digits."""

from collections.abc import Callable, Mapping, Sequence
import csv
import io
import json
import math
import re
from typing import Any, NamedTuple

from jaxcal import stages

_Row = Mapping[str, Any]

# A fitted temperature, alone or in a chain of calibrators.
_TEMPERATURES = ("temperature", "temperature.temperature")
# Characters of a setting in a table.
_LONGEST = 60


class Column(NamedTuple):
  """A heading and how a row fills the column.

  Attributes:
    heading: Heading of the column.
    cell: Function from a row to the text of its cell.
    metric: Name of the score that the column shows, by which a row may be the
      `best` of its table; None for others.
  """

  heading: str
  cell: Callable[[_Row], str]
  metric: str | None = None


def percent(value: float) -> str:
  """A fraction in percent, one decimal, no minus zero."""
  return f"{100 * value:z.1f}"


def signed_percent(value: float) -> str:
  """A fraction in percent with its sign, one decimal, none at zero."""
  text = f"{100 * value:+z.1f}"
  return "0.0" if text == "+0.0" else text


def _interval(name, form):
  def cell(row):
    low, high = form(row[f"{name}_low"]), form(row[f"{name}_high"])
    return f"{form(row[name])} [{low}, {high}]"
  return cell


def _if_there(name, form=percent):
  return lambda row: _interval(name, form)(row) if name in row else ""


def _and_total(name, cell, form=percent):
  """A cell and, in parentheses, the interval over images and seeds."""
  ends = [f"{name}_total_{end}" for end in ("low", "high")]

  def with_total(row):
    # Of a single seed there is none.
    if ends[0] not in row:
      return cell(row)
    return f"{cell(row)} ({form(row[ends[0]])}, {form(row[ends[1]])})"

  return with_total


def _over_seeds_and_images(name, form=percent):
  return _and_total(name, _interval(name, form), form)


def _of_difference(name, form):
  """A difference, of means over orders or seeds with the interval over both."""
  cell = _over_seeds_and_images(name, form)
  return lambda row: cell(row) if name in row else ""


def _present(name):
  return lambda row: f"{row[name]:.3g}" if name in row else ""


def _three(value):
  return f"{value:z.3f}"


def _images_of(row):
  """The set, and how its images are corrupted where they are."""
  if row.get("corruption") is None:
    return row["data"]
  share = row.get("corrupted_share")
  of = "" if share is None else f" on a share of {share:g}"
  return f"{row['data']}, {row['corruption']} {row['severity']}{of}"


def _signed_three(value):
  text = f"{value:+z.3f}"
  return "0.000" if text == "+0.000" else text


def _p_value(name):
  # Rows of earlier versions have none.
  return lambda row: f"{row[name]:.2g}" if name in row else ""


def _few(values):
  return ", ".join(f"{value:.3g}" for value in values)


def method(row: _Row) -> str:
  """The stages of a row in one name."""
  return stages.of(row).label


_DATA = Column("images of", lambda row: _images_of(row))
_METHOD = Column("method", method)
_AURC = Column("AURC %", _interval("aurc", percent), "aurc")

# By the name of the value that fills a column, as `present` takes them.
_MEASURES = {
    "accuracy": Column(
        "accuracy %", _interval("accuracy", percent), "accuracy"),
    "ece": Column("ECE %", _interval("ece", percent), "ece"),
    "ece_floor": Column("floor", lambda row: percent(row["ece_floor"])),
    "confidence_gap": Column(
        "conf - acc", lambda row: signed_percent(row["confidence_gap"])),
    # Of confidences alone there is neither.
    "nll": Column("NLL", _if_there("nll", _three), "nll"),
    "brier": Column("Brier", _if_there("brier", _three), "brier"),
}
_DIFFERENCES = {
    "reference": Column(
        "method", lambda row: (f"{stages.of(row).label} - "
                               f"{stages.reference_of(row).label}")),
    "accuracy_difference": Column(
        "accuracy points",
        _of_difference("accuracy_difference", signed_percent)),
    "ece_difference": Column(
        "ECE points", _of_difference("ece_difference", signed_percent)),
    "nll_difference": Column(
        "NLL", _of_difference("nll_difference", _signed_three)),
    "brier_difference": Column(
        "Brier", _of_difference("brier_difference", _signed_three)),
}


def _with_p_values(columns):
  """The columns of differences, each followed by that of its p-value."""
  found = {}
  for name, column in columns.items():
    found[name] = column
    if name.endswith("_difference"):
      found[f"{name}_p"] = Column("p", _p_value(f"{name}_p"))
  return found


MEASURED_DIFFERENCES = _with_p_values(_DIFFERENCES)
MEASURED = {"method": _METHOD, **_MEASURES, "aurc": _AURC}
# Of means over sets, which have no floor.
MEASURED_MEANS = {name: MEASURED[name] for name in (
    "method", "accuracy", "ece", "nll", "brier", "aurc")}

RESULTS = (
    _DATA, Column("n", lambda row: str(row["num_images"])), _METHOD,
    *_MEASURES.values())

FITS = (
    _DATA,
    _METHOD,
    Column("images fitted to", lambda row: str(row["recalibration_images"])),
    Column("temperature", lambda row: next((
        f"{row[name]:.4g}" for name in _TEMPERATURES if name in row), "")),
)

MORE = (
    _AURC,
    Column("NLL, clamped", lambda row: (
        _three(row["nll_clamped"]) if "nll_clamped" in row else "")),
    Column("adaptive ECE %", lambda row: percent(row["adaptive_ece"])),
    Column("MCE %", lambda row: percent(row["mce"])),
)

UNCERTAINTY = (
    _DATA,
    _METHOD,
    _AURC,
    Column("NLL, clamped", lambda row: _three(row["nll_clamped"])),
    Column("variance of the logit",
           lambda row: _three(row["median_variance"])),
    Column("aleatoric, nats", lambda row: _three(row["median_aleatoric"])),
    Column("epistemic, nats", lambda row: _three(row["median_epistemic"])),
)

DETECTION = (
    _DATA,
    _METHOD,
    Column("confidence", _interval("auroc_confidence", percent)),
    Column("variance of the logit", _if_there("auroc_variance")),
    Column("variance of the image", _if_there("auroc_image_variance")),
    Column("epistemic", _if_there("auroc_epistemic")),
)

_SCORE = Column("score", lambda row: row["score"])


def _of_measures(names, form=percent):
  return tuple(Column(heading, _interval(name, form))
               for heading, name in names.items())


def _differing(names):
  """Columns of a paired difference of methods or of scores, and its test."""
  blank = lambda name, cell: (
      lambda row: cell(row) if f"{name}_difference" in row else "")
  return (
      Column("method", lambda row: f"{stages.of(row).label}, {row['score']}"),
      Column("minus", lambda row: f"{stages.reference_of(row).label}, "
                                  f"{row['reference_score']}"),
      *(Column(text, blank(name, cell)) for heading, name in names.items()
        for text, cell in (
            (f"{heading} points",
             _interval(f"{name}_difference", signed_percent)),
            ("p", _p_value(f"{name}_difference_p")))))


def _over_draws(name):
  return lambda row: f"{percent(row[name])} +- {percent(row[f'{name}_sd'])}"


# By what is ranked: columns of the rows, and of their differences.
RANKINGS = {
    "failures": (
        (_METHOD, _SCORE, Column("n", lambda row: str(row["num_images"])),
         *_of_measures({
             "accuracy %": "accuracy", "AUROC %": "auroc",
             "AUPR right %": "aupr_success", "AUPR wrong %": "aupr_error",
             "FPR95 right %": "fpr95_success", "AURC %": "aurc",
             "AUGRC %": "augrc"})),
        _differing({"accuracy": "accuracy", "AUROC": "auroc", "AURC": "aurc",
                    "AUGRC": "augrc"})),
    "outliers": (
        (_METHOD, _SCORE, Column("in, out", lambda row: (
            f"{row['num_images']}, {row['num_outliers']}")),
         *_of_measures({
             "AUROC %": "auroc", "AUPR in %": "aupr_in",
             "AUPR out %": "aupr_out", "FPR95 in %": "fpr95_in",
             "FPR95 out %": "fpr95_out"})),
        _differing({"AUROC": "auroc", "FPR95 in": "fpr95_in"})),
    "held-out classes": (
        (_METHOD, _SCORE,
         Column("classes out, draws", lambda row: (
             f"{row['held_out']}, {row['draws']}")),
         Column("AUROC % +- sd", _over_draws("auroc")),
         Column("FPR95 in % +- sd", _over_draws("fpr95_in")),
         Column("draws won %", lambda row: percent(row["won"]))), ()),
}

DIFFERENCES = (_DATA, *MEASURED_DIFFERENCES.values())


def _said(name):
  """What a run says of itself, in few words; nothing where it does not."""
  def cell(row):
    text = str(row[name]).replace("|", "/") if name in row else ""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST - 3]}..."
  return cell


_OF_RUNS = {
    "data": _DATA,
    "run": Column(
        "method", lambda row: f"{row['run']}: {stages.of(row).label}"),
    "reference_run": Column(
        "minus", lambda row: (f"{row['reference_run']}: "
                              f"{stages.reference_of(row).label}")),
    "num_images": Column("n", lambda row: str(row["num_images"])),
}

COMPARED = _OF_RUNS | {name: column for name, column
                       in MEASURED_DIFFERENCES.items() if name != "reference"}

AGREEMENT = (
    *_OF_RUNS.values(),
    Column("same prediction", lambda row: str(row["agree"])),
    Column("right in the first only", lambda row: (
        str(row["right_in_run_only"]))),
    Column("in the other only", lambda row: (
        str(row["right_in_reference_only"]))),
    Column("p", _p_value("mcnemar_p")),
    Column("largest change of confidence, points", lambda row: (
        f"{signed_percent(row['largest_confidence_change'])} "
        f"({row['largest_confidence_change_id']})")),
)

SETTINGS = (
    Column("field", lambda row: row["field"]),
    Column("first run", _said("value")),
    Column("the other", _said("reference_value")),
)

TUNING = (
    _DATA,
    _METHOD,
    Column("entropy before",
           lambda row: _three(row["median_entropy_before"])),
    Column("after", lambda row: _three(row["median_entropy_after"])),
    Column("context moved by",
           lambda row: _three(row["median_context_shift"])),
    Column("regulariser", lambda row: _three(row["median_regulariser"])),
    # What predictions of earlier versions do not have.
    *(Column(heading, _present(f"median_{name}")) for heading, name in (
        ("weight", "weight"), ("effective weight", "effective_weight"),
        ("entropy's gradient", "entropy_gradient"))),
    Column("gradients, regulariser : entropy",
           lambda row: f"{row['median_gradient_ratio']:.3g}"),
)

POSTERIOR = (
    Column("side", lambda row: row["side"]),
    Column("inputs", lambda row: str(row["inputs"])),
    Column("outputs", lambda row: str(row["outputs"])),
    Column("pairs", lambda row: f"{row['pairs']:,}"),
    Column("A: least, median, largest", lambda row: _few(row["a"])),
    Column("B: least, median, largest", lambda row: _few(row["b"])),
    Column("prior precision", lambda row: f"{row['prior_precision']:.5g}"),
)

LEARNING = (
    _DATA,
    Column("strategy", lambda row: row["strategy"]),
    Column("labels", lambda row: str(row["budget"])),
    Column("seeds", lambda row: str(row["seeds"])),
    Column("accuracy %", _interval("accuracy", percent)),
    Column("ECE %", _interval("ece", percent)),
    Column("NLL", _interval("nll", _three)),
)


def _plus_minus(name, form=percent):
  """The mean over seeds and their standard deviation."""
  def cell(row):
    if row.get(name) is None:
      return ""
    std = row[f"{name}_std"]
    return form(row[name]) + ("" if std is None else f" +- {form(std)}")
  return cell


def _with_spread(name, form=percent, spread=None):
  """Mean, interval over images, spread of the seeds, and both together."""
  return _and_total(
      name, lambda row: (f"{_interval(name, form)(row)} "
                         f"+- {(spread or form)(row[f'{name}_std'])}"), form)


def _or_nothing(name, form):
  return lambda row: "" if row.get(name) is None else form(row)


def _of_half(half, heading):
  """Columns of one half of the classes."""
  return (
      Column(f"accuracy % {heading}", _and_total(
          f"accuracy_{half}", _plus_minus(f"accuracy_{half}"))),
      Column("ECE %", _over_seeds_and_images(f"ece_{half}")),
      Column("conf - acc", _over_seeds_and_images(
          f"gap_{half}", signed_percent)),
      Column("FD", _or_nothing(
          f"fd_score_{half}", lambda row: _three(row[f"fd_score_{half}"]))))


_TUNED = (_DATA, _METHOD)

BASE_TO_NEW = (
    *_TUNED, *_of_half("base", "base"), *_of_half("new", "new"),
    Column("accuracy HM", _plus_minus("accuracy_harmonic_mean")),
    Column("ECE AM", _plus_minus("ece_arithmetic_mean")),
    Column("new names", _or_nothing(
        "shared_names", lambda row: f"{row['shared_names']} of "
                                    f"{row['num_new']}")),
)

ALL_CLASSES = (*_TUNED, *_of_half("all", ""))

TUNED_DIFFERENCES = (
    *_TUNED,
    Column("minus", lambda row: stages.reference_of(row).label),
    Column("classes", lambda row: row["classes"]),
    *(column for heading, name, form in (
        ("accuracy %", "accuracy_difference", signed_percent),
        ("ECE %", "ece_difference", signed_percent),
        ("conf - acc", "gap_difference", signed_percent),
        ("NLL", "nll_difference", _signed_three))
      for column in (Column(heading, _over_seeds_and_images(name, form)),
                     Column("p", _p_value(f"{name}_p")))),
)

OVER_SEEDS = (
    *_TUNED,
    Column("seeds", lambda row: str(row["seeds"])),
    Column("accuracy %", _with_spread("accuracy")),
    Column("ECE %", _with_spread("ece")),
    Column("NLL", _with_spread("nll", _three)),
)

OVER_ORDERS = (
    *_TUNED,
    Column("orders", lambda row: str(len(row[stages.ORDERS]))),
    Column("accuracy %", _with_spread("accuracy")),
    Column("conf - acc", _with_spread("gap", signed_percent, percent)),
    Column("ECE %", _with_spread("ece")),
    Column("NLL", _with_spread("nll", _three)),
)


def _part(row):
  """A part of a stream, or the last less the first."""
  parts = row["parts"]
  return (f"{parts} - 1" if row["part"] == "change" else
          f"{row['part']} of {parts}")


def _of_entries(name):
  """A share of the entries of a cache, with its spread over orders."""
  def cell(row):
    spread = (f" +- {percent(row[f'{name}_std'])}"
              if f"{name}_std" in row else "")
    return f"{percent(row[name])}{spread} of {row['entries']:,.0f}"
  return cell


def _along_stream():
  """Columns of scores in a part of a stream, and of their differences."""
  for heading, name, form, signed in (
      ("accuracy", "accuracy", percent, signed_percent),
      ("conf - acc", "gap", signed_percent, signed_percent),
      ("ECE", "ece", percent, signed_percent),
      ("NLL", "nll", _three, _signed_three)):
    unit = " %" if form is percent else ""
    minus = f"({heading})" if " " in heading else heading
    yield name, Column(f"{heading}{unit}", _interval(name, form))
    yield f"{name}_difference", Column(
        f"{minus} - zero_shot", _interval(f"{name}_difference", signed))


ALONG_STREAM = {
    "data": _DATA, "method": _METHOD, "part": Column("quarter", _part),
    "num_images": Column("n", lambda row: str(row["num_images"])),
    **dict(_along_stream()),
    "wrong_entries": Column("wrong in cache %", _of_entries("wrong_entries")),
    "outside_entries": Column(
        "of other classes in cache %", _of_entries("outside_entries")),
}

# Fewer of them, where a page should be wide enough.
ALONG_STREAM_BRIEFLY = {
    name: column for name, column in ALONG_STREAM.items()
    if name not in ("num_images", "ece", "nll")}

PRIORS = (
    Column("side", lambda row: row["side"]),
    Column("prior precision as released",
           lambda row: f"{row['released']:.6g} (count "
                       f"{row['released_count']:g})"),
    Column("superseded objective", lambda row: f"{row['superseded']:.6g}"),
    Column("corrected objective", lambda row: f"{row['corrected']:.6g}"),
    Column("now", lambda row: f"{row['chosen']:.6g} (count "
                              f"{row['pseudo_count']:g})"),
    Column("moved by",
           lambda row: f"x {row['chosen'] / row['released']:.3f}"),
)

VALIDATION = (
    Column("pseudo-data count", lambda row: f"{row['pseudo_count']:g}"),
    Column("prior, of that with the most evidence",
           lambda row: f"x {row['factor']:g}"),
    Column("validation NLL", lambda row: f"{row['nll']:.4f}"),
)


def _two_deviations(name, form):
  """The mean over splits, and two standard deviations of one of them."""
  def cell(row):
    return f"{form(row[name])} +- {form(2 * row[f'{name}_std'])}"
  return cell


def _due(row):
  """The coverage of a correct method: nothing where each class has its own."""
  if "promised_mean" not in row:
    return ""
  spread = (f" +- {percent(2 * row['promised_std'])}"
            if "promised_std" in row else "")
  return percent(row["promised_mean"]) + spread


def _two(value):
  return f"{value:z.2f}"


_SCORED = (_DATA, _METHOD, Column("score", lambda row: row["score"]))

SETS = (
    *_SCORED,
    Column("accuracy %", lambda row: percent(row["accuracy"])),
    Column("ECE %", lambda row: percent(row["ece"])),
    Column("AURC %", lambda row: percent(row["aurc"])),
    Column("coverage %", _two_deviations("coverage", percent)),
    Column("due", _due),
    Column("mean size", _two_deviations("mean_size", _two)),
    Column("median", lambda row: f"{row['median_size']:.3g}"),
    Column("one class %", lambda row: percent(row["singletons"])),
    Column("empty %", lambda row: percent(row["empty"])),
)

SETS_BALANCE = {
    "data": _DATA,
    "method": _METHOD,
    "score": _SCORED[-1],
    "valid": Column("valid splits %", lambda row: (
        f"{percent(row['valid'])} (due {percent(row['promised_valid'])})")),
    "class_gap": Column("gap of a class, points", lambda row: (
        f"{percent(row['class_gap'])} (floor "
        f"{percent(row['class_gap_floor'])})")),
    "stratum_gap": Column("worst gap by size, points", lambda row: (
        f"{percent(row['stratum_gap'])} ({row['stratum_images']:.0f} images)")),
    "infinite": Column("infinite thresholds", lambda row: (
        f"{row['infinite']:.3g}")),
}


def _correlation(name):
  return lambda row: "" if math.isnan(row[name]) else f"{row[name]:+.2f}"


SETS_CORRELATIONS = (
    _DATA,
    _SCORED[-1],
    Column("methods", lambda row: str(row["num_methods"])),
    Column("size, ECE", _correlation("size_ece")),
    Column("size, AURC", _correlation("size_aurc")),
    Column("size, accuracy", _correlation("size_accuracy")),
    Column("ECE, AURC", _correlation("ece_aurc")),
)


def _verdict(row):
  """What came of a published number, and why it cannot be compared."""
  if row["reasons"]:
    return f"{row['verdict']}: {'; '.join(row['reasons'].values())}"
  if row["verdict"] == "match":
    return "match"
  return f"off by {100 * row['difference']:+z.{row['decimals']}f}"


CLASSES = (
    Column("class", lambda row: row["class_name"]),
    Column("n", lambda row: str(row["num_images"])),
    Column("accuracy %", lambda row: (
        f"{percent(row['accuracy'])} ({percent(row['accuracy_least'])} to "
        f"{percent(row['accuracy_most'])})")),
    Column("conf - acc", lambda row: signed_percent(row["confidence_gap"])),
    Column("most often taken for", lambda row: (
        f"{row['taken_for']} ({percent(row['taken_for_share'])} %)"
        if "taken_for" in row else "")),
)

PUBLISHED = (
    _DATA,
    _METHOD,
    Column("measure, %", lambda row: (
        "ECE" if row["metric"] == "ece" else row["metric"])),
    Column("here", lambda row: f"{100 * row['here']:.{row['decimals']}f}"),
    Column("there", lambda row: f"{100 * row['there']:.{row['decimals']}f}"),
    Column("band", lambda row: (
        f"+- {100 * row['band']:.2f} ({row['band_from']})")),
    Column("verdict", _verdict),
    Column("source", lambda row: ", ".join(
        row[name] for name in ("source", "table", "trust")
        if row[name] not in (None, "table read"))),
    Column("on theirs", lambda row: (
        "" if "suspect" in row["reasons"] else row["note"] or "")),
)


def fit_notes(rows: Sequence[_Row]) -> list[str]:
  """What is to be known about the fits behind recalibrated rows.

  Args:
    rows: Rows with `data` and their stages; those with `recalibration_notes`
      are recalibrated.

  Returns:
    A sentence for each note, which begins with image set and method.
  """
  return [f"{row['data']}, {stages.of(row).label}: {note}"
          for row in rows for note in row.get("recalibration_notes", ())]


def best_notes(
    rows: Sequence[_Row], level: float, among: str = "its set") -> list[str]:
  """What bold means in a table, or that nothing is.

  Args:
    rows: Rows of one or several image sets, with `best` where methods of a set
      were held against each other.
    level: Level of the tests.
    among: What a method is the best of.

  Returns:
    One sentence, or none where there was nothing to compare.
  """
  if not any("best" in row for row in rows):
    return []
  share = f"{100 * (1 - level):.4g} %"
  tests = ("tests against each other method there, by Holm's method over the "
           "scores")
  scores = {score for row in rows for score in row.get("best", ())}
  if scores:
    # Its column stands on the page alone.
    where = " (AURC, on the page)" if scores == {"aurc"} else ""
    return [f"Bold{where}: the best method of {among} by this score, at "
            f"{share} by paired {tests}."]
  return ["No number is bold: by no score is a method the best of "
          f"{among} at {share}, by paired {tests}."]


def p_value_note(
    family: str, rows: Sequence[_Row], num_resamples: int,
    over: str = "the bootstrap"
) -> str:
  """What the p-values of differences are, and whether they can be small.

  Args:
    family: What they are adjusted over, such as "this table".
    rows: Rows of differences that are adjusted together.
    num_resamples: Number of resamples of the bootstrap.
    over: What they are of.
  """
  tests = sum(name.endswith("_p") for row in rows for name in row)
  least = min(2 * tests / (num_resamples + 1), 1)
  note = f"p: two-sided, of {over}, by Holm's method over {family}."
  if least > 0.01:
    note += (f" With {num_resamples} resamples the smallest of {tests} is "
             f"{least:.2g} or more; --config.metrics.num_resamples takes more.")
  return note


def set_p_value_note(rows: Sequence[_Row], num_resamples: int) -> str:
  """`p_value_note` for rows of several sets, which are adjusted set by set.

  Args:
    rows: Rows of differences; perhaps of two halves of the classes, which are
      two sets.
    num_resamples: Number of resamples of the bootstrap.
  """
  groups: dict[Any, list[_Row]] = {}
  for row in rows:
    groups.setdefault((row["data"], row.get("classes")), []).append(row)
  return p_value_note("the differences of an image set",
                      max(groups.values(), key=len), num_resamples)


def floor_notes(rows: Sequence[_Row]) -> list[str]:
  """What is to be known about errors that are not above their floor.

  Args:
    rows: Rows with `num_images`, `ece` and `ece_floor`; image set and method
      perhaps named.

  Returns:
    One sentence about all of them, or none.
  """
  found = [row for row in rows if row["ece"] <= row["ece_floor"]]
  if not found:
    return []
  names = "; ".join(filter(None, map(_of_what, found)))
  sizes = {row["num_images"] for row in found}
  number = f"{sizes.pop()} images" if len(sizes) == 1 else "the images"
  return [f"The ECE{' of ' * bool(names)}{names} is not above its floor: "
          f"{number} are too few to tell it from that of a calibrated model. "
          "Fewer bins have a lower floor."]


def _of_what(row):
  """Image set and method of a row, as far as it has them."""
  return ", ".join([*([row["data"]] if "data" in row else []),
                    *([stages.of(row).label] if "method" in row else [])])


def present(
    rows: Sequence[_Row], columns: Mapping[str, Column]) -> list[Column]:
  """The columns that some row fills, blank in the others.

  Args:
    rows: Rows, perhaps with different values.
    columns: Columns by the name of the value without which they are blank.
  """

  def or_blank(name, column):
    return column._replace(
        cell=lambda row: column.cell(row) if name in row else "")

  return [or_blank(name, column) for name, column in columns.items()
          if any(name in row for row in rows)]


def cells(
    rows: Sequence[_Row], columns: Sequence[Column]
) -> list[list[str]]:
  """The text of every cell, row by row."""
  return [[column.cell(row) for column in columns] for row in rows]


class Cell(NamedTuple):
  """A cell's text, and whether a test carries that it is its table's best."""

  text: str
  is_best: bool


def marked_cells(
    rows: Sequence[_Row], columns: Sequence[Column]
) -> list[list[Cell]]:
  """Every cell, row by row; the best of a score by `best` of the row."""
  return [[Cell(column.cell(row), column.metric is not None and
                column.metric in row.get("best", ())) for column in columns]
          for row in rows]


def markdown(rows: Sequence[_Row], columns: Sequence[Column]) -> str:
  """A markdown table with its columns aligned, readable as plain text too.

  The best of a score, see `marked_cells`, is bold.
  """
  headings = [column.heading for column in columns]
  lines = [headings, *(
      [_markdown_text(cell) for cell in of_row]
      for of_row in marked_cells(rows, columns))]
  widths = [max(len(line[i]) for line in lines) for i in range(len(headings))]
  write = lambda line: "| " + " | ".join(
      text.ljust(width) for text, width in zip(line, widths)) + " |"
  rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
  return "\n".join([write(headings), rule, *map(write, lines[1:])])


def _markdown_text(cell):
  text = cell.text.replace("|", r"\|")  # or else it would end its column
  return f"**{text}**" if cell.is_best else text


def as_csv(rows: Sequence[_Row]) -> str:
  """All numbers of all rows, unrounded; lists and mappings as JSON has them.

  A column for each name that a row has, blank in the others.
  """
  names = list(dict.fromkeys(name for row in rows for name in row))
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(names)
  plain = lambda value: (
      json.dumps(value) if isinstance(value, (list, tuple, dict)) else value)
  writer.writerows([plain(row.get(name, "")) for name in names] for row in rows)
  return text.getvalue()


def latex(rows: Sequence[_Row], columns: Sequence[Column]) -> str:
  """A tabular for LaTeX with the package booktabs, to be taken in by \\input.

  Rows of one image set stay together, with a rule before the next.
  """
  lines = ["% needs \\usepackage{booktabs}",
           f"\\begin{{tabular}}{{{'l' * len(columns)}}}", "\\toprule",
           _latex_line([column.heading for column in columns]), "\\midrule"]
  before = None
  for row, line in zip(rows, marked_cells(rows, columns)):
    if before not in (None, row.get("data")):
      lines.append("\\midrule")
    before = row.get("data")
    lines.append(_latex_line(
        [cell.text for cell in line], [cell.is_best for cell in line]))
  return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _latex_line(texts, best=()):
  bold = dict(enumerate(best))
  return " & ".join(
      f"\\textbf{{{_latex_text(text)}}}" if bold.get(number) else
      _latex_text(text) for number, text in enumerate(texts)) + r" \\"


def _latex_text(text):
  """Letters that mean something to LaTeX, escaped; signs as mathematics."""
  special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}",
             "^": r"\textasciicircum{}", **{
                 letter: f"\\{letter}" for letter in "&%$#_{}"}}
  text = "".join(special.get(letter, letter) for letter in text)
  text = text.replace("+- ", r"$\pm$ ")
  # A bracket at the start of a line would be taken for an option of its end.
  return re.sub(r"(?<![\w.])([+-])(?=\d)", r"$\1$", text).replace(
      "[", "{[}").replace("]", "{]}")
