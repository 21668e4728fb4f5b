"""Predictions of image sets become rows, and files for people."""

from collections.abc import Iterable, Mapping, Sequence
import pathlib
from typing import Any, NamedTuple

from jaxcal import stages
from jaxcal.predictions import Predictions
from jaxcal.recalibration import predicted
from jaxcal.report import aggregate
from jaxcal.report import along_stream
from jaxcal.report import figures
from jaxcal.report import inputs
from jaxcal.report import over_orders
from jaxcal.report import page
from jaxcal.report import per_image
from jaxcal.report import prototypes
from jaxcal.report import published
from jaxcal.report import repaired
from jaxcal.report import resampled
from jaxcal.report import saved_runs
from jaxcal.report import sections
from jaxcal.report import seeds
from jaxcal.report import summary
from jaxcal.report import tables
from jaxcal.report import thumbnails
from jaxcal.storage import atomic

# Paired differences are taken to the first of these that is there.
_REFERENCES = ("tpt", "zero_shot")


# Tables that most reports do not have.
_MAY_BE_EMPTY = ("means", "orders", "stream")


class Predicted(NamedTuple):
  """What is reported of an image set.

  Attributes:
    data: Name of the set.
    predictions: Predictions, or what files of others hold, by the label of
      their stages, in the order of the tables.
    references: Label of what each is compared with, where it is.
    out_of_distribution: Predictions for images of none of the classes, by
      label.
  """

  data: str
  predictions: Mapping[str, Predictions | inputs.Given]
  references: Mapping[str, str]
  out_of_distribution: Mapping[str, Predictions] = {}


class Measured(NamedTuple):
  """What is reported of all sets.

  Attributes:
    rows: Measures of each method on each set, of several orders of the images
      the means over these, see `over_orders.row`; `best` says by which scores
      it is the best there, see `resampled.best`.
    by_order: Measures in each of several orders.
    along_stream: Scores early and late in the stream, as from
      `along_stream.rows`.
    differences: Paired differences, their p-values adjusted by Holm's method
      set by set.
    images: Predictions per image, by set and method.
    similar: Similarities of the classes' features before and after tuning, by
      set and method, of those that carry them.
    over_seeds: Means of the methods of `jaxcal tune` of which there are several
      seeds, as from `seeds.pool`.
    means: Means over sets of the methods that have them all, as from
      `aggregate.means`; none of a single set.
    notes: Sentences on what could not be compared.
  """

  rows: list[summary.Row]
  by_order: list[summary.Row]
  along_stream: list[summary.Row]
  differences: list[summary.Row]
  images: dict[str, dict[str, per_image.PerImage]]
  similar: dict[str, dict[str, prototypes.Similarities]]
  over_seeds: list[summary.Row]
  means: list[summary.Row]
  notes: list[str]

  @property
  def pictured(self) -> dict[str, dict[str, per_image.PerImage]]:
    """Predictions per image of what is in pictures: of orders, the first."""
    labels = [(row["data"], stages.labels(row)[0]) for row in self.rows]
    return {data: {label: by_method[label] for of, label in labels
                   if of == data and label in by_method}
            for data, by_method in self.images.items()}


class Written(NamedTuple):
  """What is said of a report that was written.

  Attributes:
    text: Tables, as in results.md, and where everything is.
    notes: Sentences on what to know about it, such as on what fits rest on.
  """

  text: str
  notes: list[str]


def references(
    labels: Sequence[str], recalibrated: Mapping[str, str] | None = None,
    reference: str | None = None
) -> dict[str, str]:
  """What each of the others is compared with, if it is there; all by label.

  Args:
    labels: Labels of predictions.
    recalibrated: Labels of predictions before recalibration, by the labels of
      those after it, which are compared with them.
    reference: Label of what the others are compared with; `tpt` if None, or
      `zero_shot` without it.
  """
  if reference is None:
    reference = next((name for name in _REFERENCES if name in labels), None)
  return {name: reference for name in labels
          if reference not in (None, name)} | dict(recalibrated or {})


def read(
    folder: pathlib.Path,
    names: Sequence[str],
    pairs: Mapping[str, str] | None = None,
    reference: str | None = None,
) -> Predicted:
  """What a run has saved of an image set.

  Args:
    folder: Folder of the set's predictions, RUN/predictions/SET.
    names: Names of the files of predictions, in the order of the tables.
    pairs: Names of what each is compared with; `references` if empty or None.
    reference: See `references`.

  Raises:
    ValueError: Images without labels, or damaged files; names set and method.
  """
  found, outside = {}, {}
  for name in names:
    with saved_runs.named(folder.name, name):
      found[name] = saved_runs.load_labelled(folder / name)
      other = saved_runs.out_of_distribution(folder / name)
      if other is not None:
        outside[name] = saved_runs.load(other)
  pairs = pairs or references(names, _before(found), reference)
  return Predicted(folder.name, found, pairs, outside)


def _before(found):
  """Of recalibrated predictions, the name of what they were before."""
  before = {
      name: stages.named(one.settings, name)._replace(recalibrator=None).label
      for name, one in found.items()}
  return {name: plain for name, plain in before.items()
          if plain != name and plain in found}


def measure(
    sets: Iterable[Predicted], conventions: summary.Conventions) -> Measured:
  """All numbers; one image set is looked at after the other.

  Rows have the stages of the predictions as fields, see `stages.fields`, and
  the numbers of the method, by name. Those of recalibrated predictions say
  `recalibration_images`, `recalibration_notes`, and the fitted numbers by their
  names. Rows of differences have the stages of the other side, too, see
  `stages.reference_fields`.
  """
  measured = Measured([], [], [], [], {}, {}, [], [], [])
  entries: list[aggregate.Entry] = []
  compared = []
  for data, predictions, pairs, outside in sets:
    through = {name: stages.named(one.settings, name)
               for name, one in predictions.items()}
    sampled = {name: resampled.of(one, conventions)
               for name, one in predictions.items()}
    each = {
        name: {"data": data} | stages.fields(through[name]) |
        one.settings.get("numbers", {}) |
        summary.summarise(one, conventions, sampled[name])
        for name, one in predictions.items()}
    more = {name: _detected(one, outside.get(name), conventions) | _fit(one)
            for name, one in predictions.items()}
    groups = over_orders.groups(through)
    means = {of: resampled.mean([sampled[name] for name in names])
             for of, names in groups.items()}
    best, notes = _best(data, means, conventions.level)
    measured.notes.extend(notes)
    for of, names in groups.items():
      if len(names) == 1:
        measured.rows.append(each[names[0]] | best[of] | more[names[0]])
        continue
      of_orders = [each[name] | more[name] for name in names]
      measured.by_order.extend(of_orders)
      measured.rows.append(over_orders.row(
          of_orders, [sampled[name] for name in names], conventions.level)
                           | best[of])
    measured.along_stream.extend(
        {"data": data} | row for row in along_stream.rows(
            groups, predictions, conventions, outside))
    measured.over_seeds.extend(_over_seeds(data, conventions.level, [
        (_without_seed(through[name], one.settings), sampled[name])
        for name, one in predictions.items()]))
    compared.append(_compared(groups, pairs))
    measured.differences.extend(_differences(
        data, predictions, through, sampled, groups, compared[-1],
        conventions.level))
    entries += [aggregate.Entry(data, of, one) for of, one in means.items()]
    measured.images[data] = {
        name: per_image.of(one) for name, one in predictions.items()}
    measured.similar[data] = dict(_similar(predictions))
  means, notes = _means(entries, compared, conventions)
  return measured._replace(means=means, notes=measured.notes + notes)


def _differences(
    data, predictions, through, sampled, groups, compared, level):
  """Paired differences of a set, p-values adjusted over all of them."""
  return resampled.adjusted([
      {"data": data} |
      summary.corruption(predictions[groups[of][0]].settings) |
      stages.fields(of) | _orders(through, groups[of]) |
      over_orders.difference_row(
          [sampled[name] for name in groups[of]],
          [sampled[name] for name in groups[reference]], level) |
      stages.reference_fields(reference) |
      _orders(through, groups[reference], "reference_")
      for of, reference in compared.items()])


def _compared(groups, pairs):
  """What each group is compared with, another one, where it is."""
  group_of = {name: of for of, names in groups.items() for name in names}
  return {of: group_of[pairs[names[0]]] for of, names in groups.items()
          if names[0] in pairs}


def _orders(through, names, side=""):
  """Seeds of the orders that a row is the mean over; nothing of a single one.
  """
  return {} if len(names) == 1 else {
      f"{side}{stages.ORDERS}": [through[name].order_seed for name in names]}


def _best(data, sampled, level):
  """What rows say of the best, by name, and why they say nothing."""
  nothing: dict[str, summary.Row] = {name: {} for name in sampled}
  if len(sampled) < 2:
    return nothing, []
  if len({one.ids for one in sampled.values()}) > 1:
    return nothing, [
        f"{data}: no number is bold, as its methods are not all measured on "
        "the same images."]
  return {name: {"best": of} for name, of in resampled.best(
      sampled, level).items()}, []


def _means(entries, compared, conventions):
  """Rows of means over the sets, and which methods lack some of them."""
  if len({one.data for one in entries}) < 2:
    return [], []
  lacking = aggregate.gaps(entries)
  kept = [one for one in entries if one.stages not in lacking]
  references = {of: reference for of, reference in compared[0].items()
                if not {of, reference} & lacking.keys() and
                all(one.get(of) == reference for one in compared)}
  notes = [f"{of.label} has no mean over the sets: it lacks "
           f"{', '.join(sets)}." for of, sets in lacking.items()]
  return aggregate.means(kept, conventions, references), notes


def write(
    output: pathlib.Path,
    measured: Measured,
    *,
    about: Mapping[str, Any],
    conventions: summary.Conventions,
    remarks: Sequence[str] = (),
    beside: Sequence[summary.Row] | None = None,
    small_images: thumbnails.Thumbnails | None = None,
    with_images: bool = False,
    more: Sequence[page.Section] = (),
    commands: Mapping[str, str] = {},
    page_by: Sequence[str] = (),
) -> Written:
  """Writes the report: tables, diagrams and the page.

  Args:
    output: Folder of the run.
    measured: Measures from `measure`.
    about: Settings of the run, as run.json holds them.
    conventions: What ECE and intervals mean.
    remarks: Sentences about all of the report.
    beside: Rows from `published.compare`; None where these are not asked for.
    small_images: Thumbnails of images that the page may show; they are kept.
    with_images: Whether to write images-SET.csv, too, see `per_image.as_csv`.
    more: Further sections of the page.
    commands: Command lines that it comes from, beside the one in `about`.
    page_by: Words of the command line that reports a finished run.
  """
  output.mkdir(parents=True, exist_ok=True)
  rows, differences = measured.rows, measured.differences
  remarks = [*saved_runs.remarks(about), *_fitted_to(about), *remarks,
             *over_orders.remarks(rows),
             *tables.floor_notes(rows),
             *tables.best_notes(rows, conventions.level), *measured.notes]
  _write_sets(output, measured, conventions, with_images)
  for name, some, columns in (
      ("results", rows, tables.RESULTS),
      ("orders", measured.by_order, tables.RESULTS),
      ("stream", measured.along_stream,
       along_stream.columns(measured.along_stream)),
      ("differences", differences, tables.DIFFERENCES),
      ("means", measured.means,
       tables.present(measured.means, tables.MEASURED_MEANS))):
    _write_table(output / name, some, columns)
  if beside is not None:
    saved_runs.write_rows(output / "published.jsonl", beside)
  if small_images:
    thumbnails.save(output, small_images)
  page.write(output / "report.html", page.Page(
      _title(about), _lead(rows),
      [sections.means(measured.means, conventions),
       sections.overview(rows, conventions, remarks),
       *_repaired(measured),
       *sections.of_sets(
           rows, measured.pictured, conventions, by_order=measured.by_order,
           similar=measured.similar, small_images=small_images),
       sections.over_orders(rows, measured.by_order, conventions),
       *sections.more(rows, differences, beside, conventions),
       sections.along_stream(measured.along_stream, conventions), *more],
      _page_settings(about, conventions),
      {**commands} | saved_runs.commands(about, page_by)))
  text = "\n\n".join(_blocks(measured, conventions, remarks, beside))
  atomic.write_whole(output / "results.md", f"{text}\n".encode())
  return Written(
      f"{text}\n\nWritten to {output}: report.html, diagram-*.svg, results.md, "
      f"results{', orders' * bool(measured.by_order)}"
      f"{', stream' * bool(measured.along_stream)}"
      f"{', means' * bool(measured.means)} and differences as .jsonl, .csv and "
      ".tex" +
      ("" if beside is None else ", published.jsonl") +
      (", images-*.csv" if with_images else ""), tables.fit_notes(rows))


def _write_sets(output, measured, conventions, with_images):
  """Files of each set: its diagrams and, where asked for, all images."""
  pictured = over_orders.pictured(measured.rows, measured.by_order)
  for data, group in summary.by_data(pictured).items():
    diagram = figures.svg(figures.reliability_diagrams({
        figures.panel_title(row): one.bins(conventions)
        for row, one in zip(group, measured.pictured[data].values())}))
    atomic.write_whole(output / f"diagram-{data}.svg", diagram.encode())
    if with_images:
      atomic.write_whole(output / f"images-{data}.csv",
                         per_image.as_csv(measured.images[data]).encode())


def _write_table(path, rows, columns):
  """Files of a table; of none that may be empty, nor of an earlier report."""
  texts = {"jsonl": saved_runs.as_lines(rows), "csv": tables.as_csv(rows),
           "tex": tables.latex(rows, columns)}
  for ending, text in texts.items():
    file = path.with_name(f"{path.name}.{ending}")
    if rows or path.name not in _MAY_BE_EMPTY:
      atomic.write_whole(file, text.encode())
    else:
      file.unlink(missing_ok=True)


def _similar(predictions):
  for name, one in predictions.items():
    found = None if isinstance(one, inputs.Given) else (
        prototypes.similarities(one))
    if found is not None:
      yield name, found


def _detected(one, other, conventions):
  """What the row says of images of none of the classes, where there are any."""
  return {} if other is None else summary.detect(one, other, conventions)


def _fit(one):
  """What the row of recalibrated predictions says of the fit."""
  if "recalibrator" not in one.settings:
    return {}
  about = one.settings["recalibration"]
  return {"recalibration_images": about["num_images"],
          "recalibration_notes": about["notes"], **predicted.numbers(one)}


def _without_seed(one, settings):
  """Stages of a seed without the seed; None where there are no seeds."""
  if one.tuned_seed is None and "tuned" in settings:
    # Predictions of an earlier version, which say their method only here.
    return stages.Stages(settings["tuned"]["spec"]["name"],
                         recalibrator=settings.get("recalibrator"))
  return None if one.tuned_seed is None else one._replace(tuned_seed=None)


def _over_seeds(data, level, by_method):
  """Means over the seeds of a set's tuned methods, see `Measured`."""
  groups: dict[stages.Stages, list[resampled.Resampled]] = {}
  for method, one in by_method:
    if method is not None:
      groups.setdefault(method, []).append(one)
  for method, group in groups.items():
    if len(group) > 1:
      yield {"data": data, **stages.fields(method), "seeds": len(group),
             **seeds.pool(group, level)}


def _title(about):
  """Heading of the page."""
  settings = saved_runs.settings_of(about)
  model = settings.get("config.model.name", "saved predictions")
  by = (f", by {about['recalibrator']}"
        if saved_runs.is_recalibration(about) else "")
  return f"Calibration of {model}{by}"


def _lead(rows):
  """What the page shows, in a sentence."""
  sets = summary.by_data(rows)
  methods = len(dict.fromkeys(map(stages.of, rows)))
  sizes = sorted({row["num_images"] for row in rows})
  size = " to ".join(f"{number:,}" for number in dict.fromkeys(
      (sizes[0], sizes[-1])))
  many = lambda number, name: f"{number} {name}{'s' * (number != 1)}"
  return (f"Accuracy and calibration of {many(methods, 'method')} on "
          f"{many(len(sets), 'image set')} ({', '.join(sets)}) of {size} "
          "images.")


def _repaired(measured):
  """What a temperature does to each method, by the means if there are any."""
  if measured.means:
    return [repaired.section(
        measured.means, f"means over {measured.means[0]['sets']} sets")]
  return [repaired.section(group, data)
          for data, group in summary.by_data(measured.rows).items()]


def _fitted_to(about):
  """Which images a recalibration was fitted to, and which are measured."""
  if not saved_runs.is_recalibration(about):
    return []
  share, seed = about["share"], about["seed"]
  said = []
  for data, by_method in about["fits"].items():
    for fit in by_method.values():
      chosen, rest = fit["fitted_to"], fit["measured_on"]
      if fit["fitted_on"] is None:
        if share is not None:
          said.append(
              f"{data}: a share of {share:g} of its images, drawn at random "
              f"(seed {seed}), is left out; everything here, the plain methods "
              f"too, is measured on the other {rest} alone.")
        continue
      said.append(
          f"{data}: {chosen} images of {fit['fitted_on']} were fitted to; "
          f"everything is measured on {rest} others." if share is None else
          f"{data}: {chosen} of its {chosen + rest} images, a share of "
          f"{share:g} drawn at random (seed {seed}), were fitted to; "
          f"everything here, the plain methods too, is measured on the other "
          f"{rest} alone.")
  return list(dict.fromkeys(said))


def _page_settings(about, conventions):
  """What the page says of the run."""
  return saved_runs.recalibration_of(about) | saved_runs.measured_by(
      about, conventions)


def _blocks(measured, conventions, remarks, beside):
  """Paragraphs and tables of results.md."""
  rows, differences = measured.rows, measured.differences
  notes = tables.fit_notes(rows)
  of = lambda key: [row for row in rows if key in row]
  yield tables.markdown(rows, tables.RESULTS)
  if notes:
    yield "On the fits:"
    yield "\n".join(f"- {note}." for note in notes)
  yield from remarks
  yield (f"ECE: {conventions.num_bins} {conventions.edges}-closed bins; floor: "
         "that of a perfectly calibrated model with these confidences; "
         f"brackets: {100 * conventions.level:g} % bootstrap.")
  yield from aggregate.blocks(measured.means, conventions)
  yield from over_orders.blocks(rows, conventions.level)
  yield from seeds.blocks(measured.over_seeds, conventions.level)
  for heading, some, columns in (
      ("Fitted calibrators:", of("recalibration_images"), tables.FITS),
      ("Uncertainty, of the median image:", of("median_epistemic"),
       tables.UNCERTAINTY),
      ("In and out of distribution, AUROC %:", of("auroc_confidence"),
       tables.DETECTION),
      ("Paired differences:", differences, tables.DIFFERENCES)):
    if some:
      yield heading
      yield tables.markdown(some, columns)
  if differences:
    yield tables.set_p_value_note(differences, conventions.num_resamples)
  yield from along_stream.blocks(measured.along_stream, conventions.level)
  if beside is not None:
    yield "Beside published numbers:"
    yield from published.blocks(beside)
