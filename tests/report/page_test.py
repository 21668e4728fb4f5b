"""Tables, diagrams and the page: what they show, not how they look."""

import csv
import datetime
import io
import re
import shutil
import subprocess

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from jaxcal.metrics import binning
from jaxcal.report import figures
from jaxcal.report import page
from jaxcal.report import per_image
from jaxcal.report import scores
from jaxcal.report import sections
from jaxcal.report import summary
from jaxcal.report import tables

_BINS = binning.BinStatistics(
    np.array([0., 4., 0., 16.]), np.array([0., 1.6, 0., 15.2]),
    np.array([0., 3., 0., 8.]))


def _row(**changes):
  row = {"data": "digits", "method": "soc", "num_images": 20,
         "ece_floor": 0.063, "confidence_gap": -0.0004,
         "confidence": 0.4996, "adaptive_ece": 0.071, "mce": 0.25,
         "nll_clamped": 0.47,
         "median_entropy_before": 1.0, "median_entropy_after": 0.5,
         "median_context_shift": 0.113, "median_regulariser": 0.3,
         "median_gradient_ratio": 12.34}
  for name in scores.SCORES:
    row |= {name: 0.5, f"{name}_low": 0.4, f"{name}_high": 0.625}
  return row | changes


def _difference():
  row = {"data": "digits", "method": "soc", "reference": "tpt"}
  for name in scores.SCORES:
    row |= {f"{name}_difference": -0.05, f"{name}_difference_low": -0.1,
            f"{name}_difference_high": 0.0001}
  return row


_CONFIDENCE = np.array([0.9, 0.8, 0.6, 0.4])
_IMAGES = {"digits": {"soc": per_image.PerImage(
    _CONFIDENCE, np.array([True, False, True, False]),
    ("one/<1>", "one/2", "two/1", "two/2"), per_image.Classes(
        np.array([0, 0, 1, 1]), np.array([0, 1, 1, 0]), ("one", "two")))}}


def _page(rows=None, differences=(_difference(),), beside=None, means=()):
  rows = [_row()] if rows is None else rows
  conventions = summary.Conventions()
  return page.render(page.Page(
      "A <title>", "What it shows.", [
          sections.overview(rows, conventions, ["A remark."]),
          *sections.of_sets(rows, _IMAGES, conventions, small_images={
              "digits": {"one/2": "data:image/jpeg;base64,AAAA"}}),
          sections.means(means, conventions),
          *sections.more(rows, differences, beside, conventions)],
      {"a.b": "<c>"}, {"Run by": "jaxcal evaluate --config=<mine>"}),
                     date=datetime.date(2026, 11, 30))


class TablesTest(parameterized.TestCase):

  def test_markdown(self):
    lines = tables.markdown([_row()], tables.RESULTS).splitlines()
    self.assertLen({len(line) for line in lines}, 1)
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    self.assertEqual(cells, [
        "digits", "20", "soc", "50.0 [40.0, 62.5]", "50.0 [40.0, 62.5]", "6.3",
        "0.0", "0.500 [0.400, 0.625]", "0.500 [0.400, 0.625]"])

  def test_a_bar_in_a_name_ends_no_column_of_markdown(self):
    lines = tables.markdown(
        [_row(data="a|b"), _row(data="a")], tables.RESULTS).splitlines()
    self.assertIn(r"| a\|b ", lines[2])
    bars = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
    self.assertLen(bars, 1)

  def test_csv_has_all_numbers_unrounded(self):
    rows = list(csv.DictReader(io.StringIO(tables.as_csv(
        [{"data": "a,b", "ece": 1 / 3}, {"ece": 0.5, "notes": ['"x"', "y"]}]))))
    self.assertEqual(rows, [
        {"data": "a,b", "ece": repr(1 / 3), "notes": ""},
        {"data": "", "ece": "0.5", "notes": '["\\"x\\"", "y"]'}])

  def test_latex_is_balanced_escaped_and_ruled_between_sets(self):
    rows = [_row(data=r"50%_{a}\b&c#$~^"), _row(data="d", confidence_gap=-.01)]
    lines = tables.latex(rows, tables.RESULTS).splitlines()
    self.assertEqual(lines[1:3], [r"\begin{tabular}{lllllllll}", r"\toprule"])
    self.assertEqual(lines[-2:], [r"\bottomrule", r"\end{tabular}"])
    self.assertEqual(lines.count(r"\midrule"), 2)
    bodies = [line for line in lines if line.endswith(r"\\")]
    self.assertLen(bodies, 3)
    for body in bodies:
      self.assertLen(re.findall(r"(?<!\\)&", body), 8)
      self.assertEqual(len(re.findall(r"(?<!\\)\{", body)),
                       len(re.findall(r"(?<!\\)\}", body)))
    self.assertStartsWith(
        bodies[1], r"50\%\_\{a\}\textbackslash{}b\&c\#\$"
        r"\textasciitilde{}\textasciicircum{} & 20 & soc & "
        r"50.0 {[}40.0, 62.5{]}")
    self.assertIn("& $-$1.0 &", bodies[2])

  def test_latex_compiles(self):
    latex = shutil.which("pdflatex")
    if latex is None:
      self.skipTest("no pdflatex is installed")
    folder = self.create_tempdir()
    folder.create_file("table.tex", tables.latex(
        [_row(data=r"50%_{a}\b&c#$~^")], tables.RESULTS))
    folder.create_file("main.tex", "\n".join([
        r"\documentclass{article}", r"\usepackage{booktabs}",
        r"\begin{document}", r"\input{table}", r"\end{document}"]))
    subprocess.run([latex, "-halt-on-error", "main.tex"], check=True,
                   cwd=folder.full_path, capture_output=True)

  def test_the_best_is_bold(self):
    row = _row(best=["ece", "aurc"])
    lines = tables.markdown([row, _row()], tables.RESULTS).splitlines()
    self.assertLen({len(line) for line in lines}, 1)
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    self.assertEqual(cells[3:5], ["50.0 [40.0, 62.5]", "**50.0 [40.0, 62.5]**"])
    self.assertEqual("".join(lines).count("**"), 2)
    self.assertTrue(tables.marked_cells([row], tables.MORE)[0][0].is_best)
    self.assertIn(r"& \textbf{50.0 {[}40.0, 62.5{]}} &",
                  tables.latex([row], tables.RESULTS))

  def test_totals_over_images_and_seeds(self):
    row = {"data": "digits", "method": "coop", "seeds": 3}
    for name in ("accuracy", "ece", "nll"):
      row |= {name: 0.5, f"{name}_low": 0.4, f"{name}_high": 0.6,
              f"{name}_std": 0.05, f"{name}_total_low": 0.3,
              f"{name}_total_high": 0.75}
    self.assertEqual(tables.cells([row], tables.OVER_SEEDS), [[
        "digits", "coop", "3", "50.0 [40.0, 60.0] +- 5.0 (30.0, 75.0)",
        "50.0 [40.0, 60.0] +- 5.0 (30.0, 75.0)",
        "0.500 [0.400, 0.600] +- 0.050 (0.300, 0.750)"]])

  def test_rows_of_a_posterior(self):
    row = {"side": "image", "inputs": 768, "outputs": 512, "pairs": 327680,
           "a": (1e-9, 0.01234, 45.678), "b": (0, 1, 2),
           "prior_precision": 1234.567}
    self.assertEqual(tables.cells([row], tables.POSTERIOR), [[
        "image", "768", "512", "327,680", "1e-09, 0.0123, 45.7", "0, 1, 2",
        "1234.6"]])
    prior = {"side": "text", "released": 600., "released_count": 10.,
             "superseded": 599.99999, "corrected": 90.0, "chosen": 300.0,
             "pseudo_count": 4.0}
    self.assertEqual(tables.cells([prior], tables.PRIORS), [[
        "text", "600 (count 10)", "600", "90", "300 (count 4)", "x 0.500"]])
    grid = {"pseudo_count": 40.0, "factor": 0.1, "nll": 0.12345}
    self.assertEqual(tables.cells([grid], tables.VALIDATION),
                     [["40", "x 0.1", "0.1235"]])

  def test_learning_uncertainty_and_detection(self):
    row = _row(strategy="epig", budget=25, seeds=3, median_variance=2.5,
               median_aleatoric=0.70049, median_epistemic=0.0314)
    self.assertEqual(tables.cells([row], tables.LEARNING), [[
        "digits", "epig", "25", "3", "50.0 [40.0, 62.5]", "50.0 [40.0, 62.5]",
        "0.500 [0.400, 0.625]"]])
    self.assertEqual(tables.cells([row], tables.UNCERTAINTY), [[
        "digits", "soc", "50.0 [40.0, 62.5]", "0.470", "2.500", "0.700",
        "0.031"]])
    row |= {"auroc_confidence": 0.71, "auroc_confidence_low": 0.6,
            "auroc_confidence_high": 0.8}
    self.assertEqual(tables.cells([row], tables.DETECTION), [[
        "digits", "soc", "71.0 [60.0, 80.0]", "", "", ""]])

  def test_differences_carry_their_sign(self):
    text = tables.markdown([_difference()], tables.DIFFERENCES)
    self.assertIn("soc - tpt", text)
    staged = _difference() | {"posterior": "full", "reference_additions": ["a"]}
    self.assertIn("soc+full - tpt+a", tables.markdown(
        [staged], tables.DIFFERENCES))
    self.assertIn("-5.0 [-10.0, 0.0]", text)
    self.assertIn("-0.050 [-0.100, 0.000]", text)

  @parameterized.parameters(
      (0.1234, "+12.3"), (-0.1234, "-12.3"), (0.0004, "0.0"), (-0.0004, "0.0"))
  def test_signed_percent(self, value, text):
    self.assertEqual(tables.signed_percent(value), text)

  def test_what_bold_means(self):
    for best, words in (
        (["nll", "aurc"], r"^Bold: the best method of its set"),
        (["aurc"], r"^Bold \(AURC, on the page\): "),
        ([], r"^No number is bold: ")):
      note, = tables.best_notes([_row(best=best), _row(best=[])], 0.95)
      self.assertRegex(note, words)
    self.assertEqual(tables.best_notes([_row()], 0.95), [])


class FiguresTest(parameterized.TestCase):

  def test_bars_are_accuracies_of_filled_bins(self):
    figure = figures.reliability_diagrams({"soc": _BINS, "tpt": _BINS})
    top, _, bottom, _ = figure.axes
    bars = {round(bar.get_x() + bar.get_width() / 2, 9): bar.get_height()
            for bar in top.patches}
    self.assertEqual(bars, {0.375: 0.75, 0.875: 0.5})
    segments = top.collections[0].get_segments()
    np.testing.assert_allclose(segments[0][:, 1], [0.75, 0.4])
    np.testing.assert_allclose(segments[1][:, 1], [0.5, 0.95])
    np.testing.assert_allclose(  # right ones, and wrong ones above them
        [bar.get_height() for bar in bottom.patches], [0, 3, 0, 8, 0, 1, 0, 8])
    np.testing.assert_allclose(
        [bar.get_y() for bar in bottom.patches], [0, 0, 0, 0, 0, 3, 0, 8])
    self.assertEqual(top.get_title(), "soc")

  def test_rows_of_panels(self):
    names = ("a", "b", "c")
    figure = figures.reliability_diagrams(
        dict.fromkeys(names, _BINS), per_row=2)
    shown = [panel for panel in figure.axes if panel.get_visible()]
    self.assertLen(shown, 6)
    titles = [panel.get_title() for panel in shown if panel.get_title()]
    self.assertCountEqual(titles, names)
    self.assertGreater(  # the first two above the third
        shown[0].get_position().y0, shown[-1].get_position().y0)

  def test_many_panels_wrap_in_rows_of_one_length(self):
    for number, columns in ((5, 5), (6, 3), (11, 4), (12, 4)):
      figure = figures.reliability_diagrams(
          {str(i): _BINS for i in range(number)})
      self.assertEqual(
          figure.axes[0].get_gridspec().ncols, columns, msg=str(number))

  def test_accuracy_against_error_has_a_number_for_each_method(self):
    figure = figures.accuracy_against_error(
        [_row(ece=0.45, accuracy=0.6), _row(method="tpt")])
    panel, = figure.axes
    self.assertEqual([(text.get_text(), *text.xy) for text in panel.texts],
                     [("1", 45.0, 60.0), ("2", 50.0, 50.0)])
    with self.assertRaisesRegex(ValueError, "no methods"):
      figures.accuracy_against_error([])

  def test_before_and_after_of_each_method(self):
    row = {"method": "ecalp", "accuracy": 0.6, "nll": 20.0, "nll_after": 1.0,
           "ece": 0.3, "ece_after": 0.1}
    for score, heading, ends, scale in (
        ("nll", "NLL", (20, 1), "log"), ("ece", "ECE %", (30, 10), "linear")):
      panel, = figures.before_and_after([row, row], score, heading).axes
      self.assertEqual(panel.get_xscale(), scale)
      _, before, after, *_ = panel.get_lines()
      np.testing.assert_allclose(
          [*before.get_xdata(), *after.get_xdata()], ends)
      np.testing.assert_allclose([*before.get_ydata(), *after.get_ydata()], 60)
      self.assertEqual(after.get_markerfacecolor(), "white")
      self.assertEqual([text.get_text() for text in panel.texts], ["1", "2"])
    self.assertNotIn("mathdefault", figures.svg(
        figures.before_and_after([row], "nll", "NLL"), inline=True))
    with self.assertRaisesRegex(ValueError, "no methods"):
      figures.before_and_after([], "ece", "ECE %")

  def test_risk_coverage_curves_in_percent(self):
    curve = per_image.Curve(np.array([0.5, 1.0]), np.array([0.0, 0.25]))
    figure = figures.risk_coverage({"soc": curve, "tpt": curve})
    line = figure.axes[0].get_lines()[0]
    np.testing.assert_allclose(line.get_xdata(), [50, 100])
    np.testing.assert_allclose(line.get_ydata(), [0, 25])
    self.assertEqual([text.get_text() for text in figure.legends[0]
                      .get_texts()], ["soc", "tpt"])
    with self.assertRaisesRegex(ValueError, "no curves"):
      figures.risk_coverage({})

  def test_in_a_page_text_is_text_and_parts_have_no_names(self):
    drawn = figures.svg(
        figures.reliability_diagrams({"soc": _BINS}), inline=True)
    self.assertIn(">confidence</text>", drawn)
    self.assertNotIn('<g id=', drawn)

  def test_loss_curves_show_the_mean_and_range_of_seeds(self):
    figure = figures.loss_curves({
        "coop": np.array([[3., 2.], [1., 0.]]), "maple": np.array([[1.]])})
    panel, = figure.axes
    coop, maple = panel.get_lines()
    np.testing.assert_allclose(coop.get_xdata(), [0.5, 1])
    np.testing.assert_allclose(coop.get_ydata(), [2, 1])
    np.testing.assert_allclose(maple.get_ydata(), [1])
    corners = panel.collections[0].get_paths()[0].vertices
    self.assertEqual((corners[:, 1].min(), corners[:, 1].max()), (0, 3))
    self.assertEqual([text.get_text() for text in figure.legends[0]
                      .get_texts()], ["coop (2)", "maple (1)"])
    with self.assertRaisesRegex(ValueError, "no losses"):
      figures.loss_curves({})

  def test_same_bytes_twice(self):
    draw = lambda: figures.svg(figures.reliability_diagrams({"soc": _BINS}))
    self.assertEqual(draw(), draw())
    self.assertStartsWith(draw(), "<svg")

  def test_title_tells_the_error_and_its_floor(self):
    self.assertEqual(
        figures.panel_title(_row(posterior="full", recalibrator="temperature")),
        "soc+full+temperature\nECE 50.0 %, floor 6.3")

  @parameterized.parameters("a $photo$", "$x^2$", "a$b_$c^", "$\\frac$")
  def test_names_are_no_formulas(self, name):
    figure = figures.sweep_curves(
        {name: [_row(method=name, weight=1.), _row(method=name, weight=2.)]},
        {}, "weight")
    self.assertIn(f">{name}</text>", figures.svg(figure, inline=True))
    figures.svg(figure)

  def test_nothing_to_draw(self):
    with self.assertRaisesRegex(ValueError, "no predictions to draw"):
      figures.reliability_diagrams({})

  def test_sweep_curves_draw_every_setting_in_order(self):
    rows = [_row(weight=weight, ece=ece)
            for weight, ece in ((30., 0.3), (1., 0.1), (10., 0.2))]
    figure = figures.sweep_curves(
        {"soc": rows}, {"tpt": _row(ece=0.05)}, "weight")
    accuracy, error, likelihood = figure.axes
    np.testing.assert_allclose(  # in nats, not in percent
        likelihood.get_lines()[1].get_ydata(), [_row()["nll"]] * 3)
    curve, line = error.get_lines()[1], error.get_lines()[0]
    np.testing.assert_allclose(curve.get_xdata(), [1, 10, 30])
    np.testing.assert_allclose(curve.get_ydata(), [10, 20, 30])
    np.testing.assert_allclose(line.get_ydata(), [5, 5])
    self.assertEqual(error.get_xscale(), "log")
    self.assertEqual([tick.get_text() for tick in accuracy.get_xticklabels()],
                     ["1", "10", "30"])
    with self.assertRaisesRegex(ValueError, "no rows with a weight"):
      figures.sweep_curves({}, {}, "weight")

  def test_a_score_of_a_sweep_and_of_learning_in_a_narrow_figure(self):
    rows = [_row(weight=weight, budget=weight, nll=nll, nll_low=nll - 0.1,
                 nll_high=nll + 0.1)
            for weight, nll in ((30., 0.3), (1., 0.1))]
    for figure in (
        figures.sweep_curve({"soc": rows}, {}, "weight", "nll", "NLL"),
        figures.learning_curve({"soc": rows}, "nll", "NLL")):
      panel, = figure.axes
      np.testing.assert_allclose(panel.get_lines()[0].get_ydata(), [0.1, 0.3])
      band = panel.collections[0].get_paths()[0].vertices
      self.assertAlmostEqual(band[:, 1].max(), 0.4)
      self.assertEqual(panel.get_ylabel(), "NLL")
      self.assertLessEqual(figure.get_figwidth(), 4.2)
      self.assertEqual([text.get_text() for text in
                        figure.legends[0].get_texts()], ["soc"])
    for nothing in (lambda: figures.sweep_curve({}, {}, "w", "nll", "NLL"),
                    lambda: figures.learning_curve({}, "nll", "NLL")):
      with self.assertRaises(ValueError):
        nothing()

  def test_losses_may_be_narrow(self):
    figure = figures.loss_curves({"coop": np.array([[2., 1.]])}, narrow=True)
    self.assertLessEqual(figure.get_figwidth(), 4.2)
    self.assertLen(figure.legends, 1)

  def test_areas_have_intervals_or_deviations(self):
    rows = [{"method": "soc", "score": "msp", "auroc": 0.8, "auroc_low": 0.7,
             "auroc_high": 0.85},
            {"method": "tpt", "score": "msp", "auroc": 0.6, "auroc_sd": 0.1}]
    panel, = figures.areas_by_method(rows).axes
    points, = panel.containers
    np.testing.assert_allclose(points[0].get_xydata(), [[80, 0], [60, 1]])
    ends = [bar[:, 0].tolist() for bar in points[2][0].get_segments()]
    np.testing.assert_allclose(ends, [[70, 85], [50, 70]])
    self.assertEqual([text.get_text() for text in panel.get_yticklabels()],
                     ["1 soc", "2 tpt"])
    with self.assertRaisesRegex(ValueError, "no rankings"):
      figures.areas_by_method([])

  def test_spectra_descend_to_what_rounding_leaves(self):
    figure = figures.spectra(
        {"image": [np.array([1e-30, 4., 2.]), np.array([3., 5.])],
         "text": [np.array([1., 1.]), np.array([1., 1.])]},
        {"image": 0.25, "text": 7.})
    image, text = figure.axes
    inputs, outputs, prior = image.get_lines()
    np.testing.assert_allclose(inputs.get_ydata(), [4, 2, 4e-8])
    np.testing.assert_allclose(inputs.get_xdata(), [0, 0.5, 1])
    np.testing.assert_allclose(outputs.get_ydata(), [5, 3])
    np.testing.assert_allclose(prior.get_ydata(), 0.25)
    self.assertEqual(image.get_yscale(), "log")
    self.assertEqual([panel.get_title() for panel in (image, text)],
                     ["image projection", "text projection"])
    self.assertStartsWith(figures.svg(figure), "<svg")
    with self.assertRaisesRegex(ValueError, "no spectra"):
      figures.spectra({}, {})

  def test_learning_curves_show_means_and_extremes_by_label_count(self):
    rows = [_row(budget=budget, accuracy=value, accuracy_low=value - 0.1,
                 accuracy_high=value + 0.1, nll=2 * value)
            for budget, value in ((10, 0.5), (0, 0.2), (2, 0.3))]
    names = [f"strategy {number}" for number in range(8)]
    figure = figures.learning_curves(
        dict.fromkeys(names, rows), {"accuracy": "accuracy %", "nll": "NLL"})
    accuracy, nll = figure.axes
    line = accuracy.get_lines()[0]
    np.testing.assert_allclose(line.get_xdata(), [0, 2, 10])
    np.testing.assert_allclose(line.get_ydata(), [20, 30, 50])
    np.testing.assert_allclose(nll.get_lines()[0].get_ydata(), [.4, .6, 1])
    corners = accuracy.collections[0].get_paths()[0].vertices
    self.assertAlmostEqual(corners[:, 1].min(), 10)
    self.assertAlmostEqual(corners[:, 1].max(), 60)
    self.assertEqual(accuracy.get_ylabel(), "accuracy %")
    self.assertEqual([text.get_text()
                      for text in figure.legends[0].get_texts()], names)
    self.assertLen({(one.get_color(), one.get_linestyle())
                    for one in accuracy.get_lines()}, 8)
    self.assertStartsWith(figures.svg(figure), "<svg")
    for nothing in (({}, {"nll": "NLL"}), ({"random": rows}, {})):
      with self.assertRaisesRegex(ValueError, "no learning curves"):
        figures.learning_curves(*nothing)


class PageTest(absltest.TestCase):

  def test_holds_everything_and_escapes_it(self):
    text = _page()
    for needed in ("A &lt;title&gt;", "What it shows.", "A remark.",
                   "&lt;c&gt;",
                   "<dt>Page of</dt><dd>2026-11-30</dd>",
                   "jaxcal evaluate --config=&lt;mine&gt;",
                   "50.0 [40.0, 62.5]", "-5.0 [-10.0, 0.0]", "12.3", "7.1",
                   "20 bins of equal width", "95 % bootstrap",
                   "ECE 50.0 %, floor 6.3", "Risk against coverage",
                   "one, taken for two", "confidence 80.0 %"):
      self.assertIn(needed, text)
    self.assertEqual(text.count("<svg"), 3)  # points, diagram, curve
    self.assertEqual(text.count("<img"), 1)

  def test_a_table_may_be_folded(self):
    render = lambda folded: page.render(page.Page("", "", [page.Section("", [
        page.Table([_row()], tables.RESULTS, folded)])], {}),
                                        date=datetime.date(2026, 11, 30))
    self.assertIn("<summary>Much &lt;more&gt;</summary>\n<table>",
                  render("Much <more>"))
    self.assertEqual(render("").count("<summary>"), 1)  # of the settings

  def test_asks_for_nothing_from_anywhere(self):
    text = _page()
    self.assertNotIn("://", text)
    self.assertNotRegex(text, r"url\((?!#)")
    for address in re.findall(r'(?:src|href)="([^"]*)"', text):
      self.assertStartsWith(address, ("#", "data:"))

  def test_every_section_has_an_anchor_of_its_own(self):
    text = page.render(page.Page("", "", [
        page.Section(heading, ["text"]) for heading in ("a b", "a-b", "!")] + [
            page.Section("left out", [])], {}), date=datetime.date.today())
    self.assertEqual(re.findall('<h2 id="([^"]*)"', text),
                     ["a-b", "a-b-2", "section", "settings"])
    self.assertEqual(re.findall('<li><a href="#([^"]*)"', text),
                     ["a-b", "a-b-2", "section", "settings"])

  def test_means_over_sets_and_what_p_values_are_of(self):
    mean = _row(sets=2) | {"best": ["nll"]}
    compared = {"sets": 2, **_row(method="tpt"), **_difference()} | {
        f"{name}_difference_p": 0.037 for name in scores.SCORES}
    text = " ".join(_page(means=[mean, compared], differences=[
        {"data": "digits", **compared}]).split())
    for needed in (">Means over 2 sets</a></h2>", "Each set counts the same.",
                   ">0.037</td>",
                   "by Holm&#39;s method over the differences of an image set"):
      self.assertIn(needed, text)
    self.assertNotIn("Means over", _page())

  def test_strength_of_the_regulariser_where_it_is_known(self):
    cells = lambda **row: re.findall(
        '<td data-of="(?:weight|effective.*?|entropy&#39;s.*?)">(.*?)</td>',
        _page(rows=[_row(**row)]))
    self.assertEqual(cells(), ["", "", ""])  # of an earlier version
    self.assertEqual(
        cells(median_weight=30.0, median_effective_weight=1.62,
              median_entropy_gradient=0.43), ["30", "1.62", "0.43"])

  def test_empty_sections_are_left_out(self):
    text = _page(differences=[], rows=[_row(median_context_shift=0.0)])
    self.assertNotIn("Paired differences", text)
    self.assertNotIn("What tuning did", text)
    self.assertNotIn("Uncertainty", text)
    self.assertNotIn("out of distribution", text)
    self.assertNotIn("published", text)

  def test_uncertainty_and_detection_are_shown_where_rows_have_them(self):
    uncertain = _row(
        posterior="full", median_variance=2.5, median_aleatoric=0.7,
        median_epistemic=0.031, auroc_confidence=0.71, auroc_confidence_low=0.6,
        auroc_confidence_high=0.8, auroc_epistemic=0.83,
        auroc_epistemic_low=0.75, auroc_epistemic_high=0.9)
    plain = _row(auroc_confidence=0.55, auroc_confidence_low=0.5,
                 auroc_confidence_high=0.6)
    text = _page(rows=[plain, uncertain])
    for needed in ("2.500", "0.031", "71.0 [60.0, 80.0]", "83.0 [75.0, 90.0]",
                   "55.0 [50.0, 60.0]"):
      self.assertIn(needed, text)


if __name__ == "__main__":
  absltest.main()
