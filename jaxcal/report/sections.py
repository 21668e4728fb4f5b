"""What the page of a run says of methods that were measured on image sets."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxcal.report import aggregate
from jaxcal.report import along_stream as streams
from jaxcal.report import figures
from jaxcal.report import over_orders as orders
from jaxcal.report import page
from jaxcal.report import per_image
from jaxcal.report import prototypes
from jaxcal.report import published
from jaxcal.report import summary
from jaxcal.report import tables
from jaxcal.report import thumbnails

_ByMethod = Mapping[str, per_image.PerImage]

ON_DIAGRAMS = (
    "A bar is the accuracy of a bin and the red line ends at its mean "
    "confidence: above the bar the model is over-confident, below it "
    "under-confident. Below, how many images the bins hold: right ones in "
    "blue, wrong ones in red.")
ON_DIFFERENCES = (
    "The same images and the same resamples on both sides. An interval that "
    "contains 0 ranks nothing.")
_ON_CURVES = (
    "Risk against coverage: the error among the most confident images, by "
    "their share. A curve that falls to the left knows its mistakes.")


def of_sets(
    rows: Sequence[summary.Row],
    images: Mapping[str, _ByMethod],
    conventions: summary.Conventions,
    *,
    by_order: Sequence[summary.Row] = (),
    similar: Mapping[str, Mapping[str, prototypes.Similarities]] | None = None,
    small_images: thumbnails.Thumbnails | None = None,
) -> Iterator[page.Section]:
  """A section for each image set: measures, diagrams, classes, mistakes.

  Args:
    rows: Rows from `summary.summarise`, with `data` and their stages.
    images: Predictions per image of the same methods, by set; of means over
      orders those of the first order.
    conventions: What ECE and intervals mean.
    by_order: Rows of each order where rows are means over several.
    similar: Similarities of the classes' features, by set and method.
    small_images: Thumbnails of images of these sets.
  """
  for data, group in summary.by_data(rows).items():
    by_method = images.get(data, {})
    notes = tables.fit_notes(group)
    yield page.Section(data, [
        page.Table(group, tables.RESULTS[1:] + tables.MORE),
        *([page.Bullets([f"{note}." for note in notes])] if notes else []),
        *_diagrams(orders.pictured(group, by_order), by_method, conventions),
        *_classes(by_method),
        *_prototypes((similar or {}).get(data, {})),
        *_mistakes(by_method, (small_images or {}).get(data, {}))])


def on_images(remarks: Sequence[str]) -> list[page.Section]:
  """What is said of the images themselves; nothing where nothing is."""
  return [page.Section("Images", list(remarks))] if remarks else []


def overview(
    rows: Sequence[summary.Row], conventions: summary.Conventions,
    remarks: Sequence[str]
) -> page.Section:
  """All rows, what their columns mean, and accuracy against ECE."""
  groups = summary.by_data(rows)
  keys = {data: _numbered(group) for data, group in groups.items()}
  alike = len(set(keys.values())) == 1
  return page.Section("Summary" if len(groups) == 1 else "By image set", [
      page.Table(rows, tables.RESULTS), *remarks,
      page.Figures([
          page.Figure(
              figures.svg(figures.accuracy_against_error(group), inline=True),
              data if alike else f"{data}\n{keys[data]}")
          for data, group in groups.items()], are_small=True),
      *([f"Points: {keys[rows[0]['data']]}."] if alike else []),
      legend(conventions)])


def legend(conventions: summary.Conventions) -> str:
  """What the columns of the tables mean."""
  return (
      f"ECE: {conventions.num_bins} bins of equal width, closed on the "
      f"{conventions.edges}, mean absolute gap. Floor: the ECE that a "
      "perfectly calibrated model with the same confidences would show at this "
      "sample size; an ECE near its floor says nothing against the model. "
      f"Brackets: {100 * conventions.level:g} % bootstrap intervals over "
      f"images ({conventions.num_resamples} resamples, recentred on the "
      "estimate). Conf - acc: mean confidence minus accuracy, in points. Brier "
      "is summed over classes; NLL is in nats. AURC: area under the curve of "
      "risk against coverage. Adaptive ECE: bins of equal mass instead of "
      "equal width; MCE: the largest gap of a bin, however few images it "
      "holds.")


def means(
    rows: Sequence[summary.Row], conventions: summary.Conventions
) -> page.Section:
  """Means over sets, and their differences; nothing without rows.

  Args:
    rows: Rows from `aggregate.means`.
    conventions: Conventions of the intervals and tests.
  """
  if not rows:
    return page.Section("", [])
  compared = [row for row in rows if "reference" in row]
  blocks: list[page.Block] = [page.Table(
      rows, tables.present(rows, tables.MEASURED_MEANS))]
  if compared:
    blocks.append(page.Table(compared, tables.present(
        compared, tables.MEASURED_DIFFERENCES)))
  return page.Section(aggregate.title(rows), [
      *blocks, *aggregate.remarks(rows, conventions)])


def over_orders(
    rows: Sequence[summary.Row], by_order: Sequence[summary.Row],
    conventions: summary.Conventions
) -> page.Section:
  """Means over orders of the images and each order; nothing without several.

  Args:
    rows: Rows of all sets, those with several orders among them.
    by_order: Rows of each order.
    conventions: Conventions of the intervals.
  """
  several = orders.of_several(rows)
  return page.Section(orders.HEADING, [
      page.Table(several, tables.OVER_ORDERS),
      orders.legend(conventions.level),
      page.Table(by_order, tables.RESULTS, "Each order by itself"),
  ] if several else [])


def along_stream(
    rows: Sequence[summary.Row], conventions: summary.Conventions
) -> page.Section:
  """Early against late in the stream; nothing without rows.

  Args:
    rows: Rows from `along_stream.rows`, with `data`.
    conventions: Conventions of the intervals.
  """
  if not rows:
    return page.Section("", [])
  return page.Section(streams.HEADING, [
      page.Table(streams.ends(rows), streams.columns(
          rows, tables.ALONG_STREAM_BRIEFLY)),
      streams.legend(rows, conventions.level),
      *_drawn_along(rows),
      page.Table(rows, streams.columns(rows), "All quarters, all scores")])


def _drawn_along(rows) -> Iterator[page.Block]:
  """Differences to zero-shot by quarter, where there are some."""
  groups: dict[str, list[summary.Row]] = {}
  for row in rows:
    if "accuracy_difference" in row:
      groups.setdefault(row["data"], []).append(row)
  if groups:
    yield page.Figures([
        page.Figure(figures.svg(figures.along_stream(
            group, score, heading), inline=True), f"{data}: {heading}")
        for data, group in groups.items()
        for score, heading in streams.DRAWN.items()])


def more(
    rows: Sequence[summary.Row],
    differences: Sequence[summary.Row],
    beside: Sequence[summary.Row] | None,
    conventions: summary.Conventions,
) -> Iterator[page.Section]:
  """Differences, published numbers, fits, uncertainty, detection and tuning.

  Args:
    rows: Rows of all sets.
    differences: Paired differences of all sets.
    beside: Rows from `published.compare`; None for no such part.
    conventions: Conventions of the intervals and tests.
  """
  of = lambda key: [row for row in rows if key in row]
  yield _table("Paired differences", differences, tables.DIFFERENCES,
               " ".join([ON_DIFFERENCES, *(
                   [tables.set_p_value_note(
                       differences, conventions.num_resamples)]
                   if differences else [])]))
  if beside is not None:
    shown = published.shown(beside)
    yield page.Section("Beside published numbers", [
        *published.remarks(beside),
        *([page.Table(shown, tables.PUBLISHED)] if shown else [])])
  yield _table(
      "Fitted calibrators", of("recalibration_images"), tables.FITS,
      "Each was fitted to labelled images of which none is among those that "
      "are measured. A temperature divides the logits: above 1 it lowers every "
      "confidence, below 1 it raises it, and no prediction changes.")
  yield _table(
      "Uncertainty, of the median image", of("median_epistemic"),
      tables.UNCERTAINTY,
      "From a Laplace posterior over the last projections. Aleatoric: the "
      "entropy that the prediction would have on average if the projections "
      "were known; epistemic: the rest, which more evidence would remove.")
  yield _table(
      "In and out of distribution", of("auroc_confidence"), tables.DETECTION,
      "Images of other things, predicted among the same classes. The AUROC, in "
      "percent: the probability that such an image has less confidence, or "
      "more of each uncertainty, than an image of the set; 50 tells nothing. "
      "The variance of the image's embedding does not depend on the classes.")
  yield tuning(rows)


def tuning(rows: Sequence[summary.Row]) -> page.Section:
  """What tuning did to the context and the entropy, and how strongly.

  Args:
    rows: Rows of all sets.
  """
  return _table(
      "What tuning did to the median image",
      [row for row in rows if row.get("median_context_shift", 0) > 0],
      tables.TUNING,
      "Entropy of the mean prediction of the confident views, in nats. The "
      "effective weight is the weight times the norm of the regulariser's "
      "gradient, which stands against the norm of the entropy's; both are by "
      "the context where images start. One AdamW step from an empty state "
      "moves every coordinate by the learning rate, so a weight only decides "
      "signs: where the ratio of gradients is far above 1 the regulariser "
      "decides nearly all of them, whatever the image.")


def _table(heading, rows: Sequence[Any], columns, note) -> page.Section:
  """A section of one table; without rows, one without blocks."""
  return page.Section(
      heading, [note, page.Table(rows, columns)] if rows else [])


def _numbered(rows):
  return ", ".join(f"{number}\N{NO-BREAK SPACE}{tables.method(row)}"
                   for number, row in enumerate(rows, start=1))


def _diagrams(rows, by_method, conventions) -> Iterator[page.Block]:
  if not by_method:
    return
  yield page.Figures([
      page.Figure(
          figures.svg(figures.reliability_diagrams(
              {"": one.bins(conventions)}), inline=True),
          figures.panel_title(row))
      for row, one in zip(rows, by_method.values())], are_small=True)
  yield ON_DIAGRAMS
  yield page.Figures([page.Figure(
      figures.svg(figures.risk_coverage({
          name: per_image.risk_coverage(one)
          for name, one in by_method.items()}), inline=True),
      "Risk against coverage")])
  yield _ON_CURVES


def _classes(by_method) -> Iterator[page.Block]:
  found = per_image.hardest_classes(by_method)
  if not found:
    return
  chance = max(per_image.lowest_by_chance(one.classes.labels, one.correct)
               for one in by_method.values() if one.classes is not None)
  yield (f"The {len(found)} hardest classes, all methods counted alike. They "
         "are chosen for their low accuracy: if all classes were equally hard, "
         f"the lowest would still be near {tables.percent(chance)} %.")
  yield page.Table(found, tables.CLASSES)


def _prototypes(similar) -> Iterator[page.Block]:
  if not similar:
    return
  yield ("Cosines of the classes' text features, of all pairs of classes, as "
         "the model has them and as they were tuned.")
  yield page.Figures([
      page.Figure(figures.svg(
          figures.prototype_similarities(one), inline=True), name)
      for name, one in similar.items()], are_small=True)


def _mistakes(by_method, small_images) -> Iterator[page.Block]:
  found = per_image.confident_mistakes(by_method)
  if not found:
    return
  yield ("The most confident mistakes: confidence in wrong classes, a mean "
         "over all methods.")
  yield page.Pictures([
      page.Picture(small_images.get(one.id, ""), [
          f"{one.label}, taken for {one.predicted}",
          "confidence " + "-".join(dict.fromkeys(map(
              tables.percent, one.confidence))) + " %",
          *([f"by {len(one.methods)} of {one.num_methods} methods"]
            if one.num_methods > 1 else []),
          one.id])
      for one in found])
