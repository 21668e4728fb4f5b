"""`jaxcal report`: a finished run measured anew, without the model."""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest
from scipy import special

import jaxcal
from jaxcal import predictions
from jaxcal import stages
from jaxcal.clip import checkpoint
from jaxcal.storage import lock
from tests.cli import command

# Whole commands, trainings or towers.
pytestmark = pytest.mark.slow

# A name given twice is two image sets.
_SMALL = tuple(
    flag for flag in command.SMALL if "config.data.name" not in flag)
_DRAWN = ("results.md", "report.html", "diagram-shapes.svg",
          "diagram-digits.svg")
_TABLES = ("results.jsonl", "differences.jsonl")
# What run.json and predictions of version 0.1.0 do not say.
_NEW = ("config.stream.", "config.tune.", "config.methods", "config.evidence",
        "config.data.classes", "config.method.tuned", "identity", "sha256",
        "stages")
_LOADED = ("import sys; from jaxcal.cli import main; status = main.run(); "
           "print([name for name in ('flax', 'optax', 'transformers', "
           "'jaxcal.clip.towers') if name in sys.modules]); sys.exit(status)")


def _contents(folder):
  """All files but for the line that says which command made the page."""
  return {path.relative_to(folder).as_posix(): re.sub(
      rb"<dt>Page by</dt>.*\n", b"", path.read_bytes())
          for path in sorted(folder.rglob("*")) if path.is_file()}


def _rows(folder, name="results"):
  return [json.loads(line) for line in
          (folder / f"{name}.jsonl").read_text().splitlines()]


def _name(row):
  return row["data"], stages.of(row).label


def _names(rows):
  return list(map(_name, rows))


def _joined(row):
  """A row as version 0.1.0 has it: all stages in the name of the method."""
  row = row | {"method": stages.of(row).label}
  if "ece_difference" in row:
    row.pop("recalibrator", None)
  return row


def _calibration_error(one, num_bins, side):
  """From loops over the bins."""
  probs = special.softmax(one.logits.astype(float), axis=-1)
  confidence, hits = probs.max(-1), probs.argmax(-1) == one.labels
  edges = np.arange(num_bins + 1) / num_bins
  found = 0
  for low, high in zip(edges[:-1], edges[1:]):
    inside = ((confidence >= low) & (confidence < high) if side == "left" else
              (confidence > low) & (confidence <= high))
    if inside.any():
      found += inside.mean() * abs(
          confidence[inside].mean() - hits[inside].mean())
  return found


class ReportTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    """A run with all that `evaluate` reports, and a recalibration of it."""
    super().setUpClass()
    cls.root = pathlib.Path(
        cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.saved, cls.recalibrated = cls.root / "run", cls.root / "recalibrated"
    for arguments in (
        ("evaluate", *_SMALL, "--config.data.name=shapes,digits",
         "--config.method.name=zero_shot,tpt",
         "--config.temperature.split=validation",
         "--config.temperature.limit=8", "--config.metrics.num_bins=10",
         "--config.data.out_of_distribution=shades", f"--output={cls.saved}"),
        ("recalibrate", cls.saved, "--share=0.5", "--seed=3",
         f"--output={cls.recalibrated}")):
      status, printed, error = command.here(*arguments)
      assert status == 0, error
      if arguments[0] == "evaluate":
        cls.printed = printed

  def setUp(self):
    """Every test has a run of its own."""
    super().setUp()
    self.run = pathlib.Path(self.create_tempdir().full_path, "run")
    shutil.copytree(self.saved, self.run)
    self.before = _contents(self.run)

  def _report(self, run, *arguments):
    with mock.patch.object(checkpoint, "load", side_effect=AssertionError):
      status, printed, error = command.here("report", run, *arguments)
    self.assertEqual(status, 0, error)
    return printed, error

  def _fails(self, message, *arguments):
    status, printed, error = command.here("report", *arguments)
    self.assertEqual((status, printed), (2, ""))
    self.assertRegex(error, message)
    self.assertNotIn("Traceback", error)

  def _other_run(self, source):
    run = pathlib.Path(self.create_tempdir().full_path, "other")
    shutil.copytree(source, run)
    return run

  def test_one_at_a_time(self):
    with lock.hold(self.run):
      self._fails("run is in use by another run: process", self.run)
      elsewhere = self.run.parent / "elsewhere"
      self._report(self.run, f"--output={elsewhere}")
    self._report(self.run)
    self.assertFalse((self.run / lock.NAME).exists())

  def test_as_the_run_has_it_every_byte_is_the_same(self):
    for name in _DRAWN:
      (self.run / name).unlink()
    printed, error = self._report(self.run)
    self.assertEqual(_contents(self.run), self.before)
    self.assertContainsSubset((*_DRAWN, *_TABLES), self.before)
    self.assertEqual(printed, self.printed.replace(
        str(self.saved), str(self.run)))
    for table in ("In and out of distribution", "Fitted calibrators", "Paired"):
      self.assertIn(table, printed)
    self.assertNotIn("cannot continue", error)

  def test_without_its_tables_in_the_order_of_names(self):
    rows, differences = _rows(self.run), _rows(self.run, "differences")
    for name in _TABLES:
      (self.run / name).unlink()
    self._report(self.run)
    self.assertEqual(_rows(self.run), sorted(rows, key=_name))
    self.assertEqual(
        _rows(self.run, "differences"), sorted(differences, key=_name))
    self.assertEqual(
        {row["reference"] for row in differences if "recalibrator" not in row},
        {"tpt"})
    # What is recalibrated is compared with what it was.
    self.assertTrue(all(
        row["reference"] == row["method"] for row in differences
        if "recalibrator" in row))

  def test_differences_to_the_references_of_the_run(self):
    path = self.run / "differences.jsonl"
    path.write_text(json.dumps({
        "data": "digits", "method": "tpt", "reference": "zero_shot"}) + "\n")
    folder = self.run / "predictions" / "digits"
    predictions.save(predictions.load(folder / "zero_shot"), folder / "a_new")
    self._report(self.run)
    found = _rows(self.run, "differences")
    self.assertEqual(
        [(row["method"], row["reference"]) for row in found
         if row["data"] == "digits"], [("tpt", "zero_shot")])
    # Of the other set it says nothing, and a new method comes last of its set.
    self.assertEqual(
        [row["reference"] for row in found if row["data"] == "shapes"],
        ["tpt", "zero_shot", "tpt"])
    self.assertEqual([method for data, method in _names(_rows(self.run))
                      if data == "digits"],
                     ["zero_shot", "tpt", "zero_shot+temperature",
                      "tpt+temperature", "a_new"])

  @parameterized.parameters((2, "left"), (7, "right"))
  def test_other_bins(self, num_bins, edges):
    output = self.root / f"bins_{num_bins}"
    printed, _ = self._report(
        self.run, f"--config.metrics.num_bins={num_bins}",
        f"--config.metrics.edges={edges}", f"--output={output}")
    self.assertEqual(_contents(self.run), self.before)
    self.assertIn(f"Written to {output}: report.html", printed)
    rows, old = _rows(output), _rows(self.run)
    self.assertEqual(_names(rows), _names(old))
    for row, before in zip(rows, old):
      one = predictions.load(
          self.run.joinpath("predictions", *_name(row)))
      self.assertAlmostEqual(
          row["ece"], _calibration_error(one, num_bins, edges), places=9)
      self.assertEqual(row["nll_low"], before["nll_low"])
    self.assertNotEqual([row["ece"] for row in rows],
                        [row["ece"] for row in old])
    page = (output / "report.html").read_text()
    self.assertIn(f"ECE: {num_bins} bins of equal width", page)
    said = f"num_bins is {num_bins}, was 10"
    for text in (page, printed, (output / "results.md").read_text()):
      self.assertIn(f"Measured anew, otherwise than in the run: {said}", text)
    self.assertIn(
        "<dt><code>config.metrics.num_bins</code></dt>"
        f"<dd>{num_bins}</dd>", page)

  def test_what_is_given_comes_before_the_run_even_where_it_is_the_default(
      self):
    self._report(self.run, "--config.metrics.num_resamples=1000",
                 "--config.metrics.level=0.5", "--config.metrics.seed=0")
    page = (self.run / "report.html").read_text()
    self.assertIn("(1000 resamples", page)
    self.assertIn("level is 0.5, was 0.95; num_resamples is 1000, was 50", page)
    self.assertNotIn("seed is", page)
    for row, before in zip(_rows(self.run), self._before()):
      self.assertEqual(row["ece"], before["ece"])
      self.assertLess(row["nll_high"] - row["nll_low"],
                      before["nll_high"] - before["nll_low"])
    self.assertEqual((self.run / "run.json").read_bytes(),
                     self.before["run.json"])
    # And back.
    self._report(self.run)
    self.assertEqual(_contents(self.run), self.before)

  def _before(self):
    return map(json.loads, self.before["results.jsonl"].splitlines())

  def test_a_recalibration(self):
    run = self._other_run(self.recalibrated)
    before = _contents(run)
    (run / "report.html").unlink()
    printed, _ = self._report(run)
    self.assertEqual(_contents(run), before)
    self.assertIn("shapes: 3 of its 6 images, a share of 0.5 drawn at random "
                  "(seed 3), were fitted to", printed)
    # The bins of the run that it is of, which nobody has named again.
    self.assertIn("ECE: 10 right-closed bins", printed)
    self.assertIn("Calibration of testbed, by temperature",
                  (run / "report.html").read_text())
    printed, _ = self._report(run, "--config.metrics.num_bins=4")
    self.assertIn("ECE: 4 right-closed bins", printed)

  @parameterized.parameters(True, False)
  def test_several_seeds_of_a_method(self, earlier):
    folder = self.run / "predictions" / "digits"
    plain = predictions.load(folder / "zero_shot")
    for seed, rows in ((1, slice(None)), (2, slice(None, None, -1))):
      told = stages.setting(stages.Stages("coop", ("dor",), seed))
      if earlier:
        told = {"tuned": {"spec": {"name": "coop+dor"}}}
      predictions.save(plain._replace(
          logits=plain.logits[rows], settings={**plain.settings, **told}),
          folder / f"coop+dor-{seed}")
    printed, _ = self._report(self.run)
    values = [row["accuracy"] for row in _rows(self.run)
              if stages.of(row).label.startswith("coop+dor-")]
    self.assertLen(set(values), 2)
    mean, std = 100 * np.mean(values), 100 * np.std(values, ddof=1)
    _, _, told = printed.partition("Over seeds")
    line, = (line for line in told.splitlines() if "| coop+dor " in line)
    # The interval over the two images, and with the seeds all there is.
    self.assertIn(f"| digits | coop+dor | 2 | {mean:.1f} [50.0, 50.0] +- "
                  f"{std:.1f} (0.0, 100.0) |", " ".join(line.split()))

  def _of_the_first_version(self):
    for path in (self.run / "run.json",
                 *(self.run / "predictions").rglob("*.json")):
      told = json.loads(path.read_text())
      for part in (told, told.get("settings", {})):
        for name in [name for name in part if name.startswith(_NEW)]:
          del part[name]
      path.write_text(json.dumps(told))
    for path in (self.run / "predictions").glob("*/out_of_distribution"):
      path.rename(path.with_name("unknown"))
    for name in ("results", "differences"):
      (self.run / f"{name}.jsonl").write_text("".join(
          json.dumps(_joined(row)) + "\n" for row in _rows(self.run, name)))

  def test_a_run_of_the_first_version(self):
    self._of_the_first_version()
    output = self.root / "first_version"
    printed, error = self._report(self.run, f"--output={output}")
    self.assertIn(
        f"made by other code than this (jaxcal {jaxcal.__version__}): it can "
        "be reported, but `jaxcal evaluate` cannot continue it", error)
    self.assertEqual(
        printed, self.printed.replace(str(self.saved), str(output)))
    methods = [row["method"] for row in _rows(output)]
    self.assertIn("zero_shot+temperature", methods)
    for name in ("results", "differences"):
      # Such rows said the calibrator twice, in the name and beside it.
      self.assertEqual(_rows(output, name), [
          {key: value for key, value in row.items() if key != "recalibrator"}
          for row in _rows(self.run, name)])
    # Of a run that says nothing of itself there are the predictions.
    (self.run / "run.json").unlink()
    printed, error = self._report(self.run, f"--output={output}")
    self.assertIn("other code than this (version unknown)", error)
    self.assertIn("ECE: 20 right-closed bins", printed)

  def test_a_run_of_the_first_version_is_recalibrated(self):
    self._of_the_first_version()
    output = self.root / "first_version_recalibrated"
    status, _, error = command.here(
        "recalibrate", self.run, "--share=0.5", "--seed=3",
        f"--output={output}")
    self.assertEqual(status, 0, error)
    for name in _TABLES:
      self.assertEqual((output / name).read_bytes(),
                       (self.recalibrated / name).read_bytes())

  @parameterized.parameters(
      ("npz", b"", "is damaged"), ("npz", b"no zip", "is damaged"),
      ("npz", None, "is damaged"), ("json", b"{", "is damaged"),
      ("json", b"{}", "is damaged"))
  def test_damaged_predictions_are_named(self, ending, content, message):
    path = self.run / "predictions" / "digits" / f"tpt.{ending}"
    path.write_bytes(
        path.read_bytes()[:-40] if content is None else content)
    self._fails(f"digits, tpt: .*digits/tpt.npz or .json {message}", self.run)
    # Nothing was written before it was seen.
    self.assertEqual(
        {name for name, content in _contents(self.run).items()
         if content != self.before[name]}, {f"predictions/digits/tpt.{ending}"})

  @parameterized.parameters("npz", "json")
  def test_missing_predictions_are_named(self, ending):
    (self.run / "predictions" / "digits" / f"tpt.{ending}").unlink()
    self._fails("has results of digits, tpt, but no longer both of "
                ".*predictions/digits/tpt.npz and .json", self.run)

  def test_without_labels(self):
    path = self.run / "predictions" / "digits" / "tpt"
    predictions.save(predictions.load(path)._replace(labels=None), path)
    self._fails("digits, tpt: the images have no labels", self.run)

  @parameterized.parameters("results.jsonl", "differences.jsonl", "run.json")
  def test_damaged_tables(self, name):
    (self.run / name).write_text("{\n")
    self._fails(f"{name} is damaged .no JSON", self.run)

  @parameterized.parameters(
      (("--config.views.number=8", "--config.metrics.level=0.9"),
       "--config.views.number has no effect on `jaxcal report`"),
      (("--config=quickstart",), "--config has no effect on `jaxcal report`"),
      (("--config.metrics.num_bins=0",),
       "config.metrics.num_bins is 0, expected >= 1"),
      (("--config.metrics.edges=middle",), "expected 'left' or 'right'"),
      (("--config.metrics.level=95",), r"level is 95.0, expected in \(0, 1\)"))
  def test_flags(self, arguments, message):
    self._fails(message, self.run, *arguments)
    self.assertEqual(_contents(self.run), self.before)

  def test_beside_published_numbers(self):
    """Of a model and sets of which nothing has been published."""
    printed, _ = self._report(self.run, "--against=published")
    self.assertIn("Beside published numbers:\n\nNothing published", printed)
    self.assertEqual((self.run / "published.jsonl").read_text(), "")
    self.assertEqual(_rows(self.run), list(self._before()))

  def test_output_of_another_run(self):
    self._fails("holds another run", self.run, f"--output={self.recalibrated}")

  def test_no_run(self):
    self._fails("no run .*nowhere", self.run / "nowhere")
    self._fails("no predictions in", self.create_tempdir().full_path)

  def test_rows_of_no_command_and_of_several(self):
    for some in ([{"data": "digits", "method": "tpt"}],
                 [{"data": "digits", "method": "tpt", "ece": 0.1},
                  {"data": "digits", "method": "tpt", "ece": 0.1,
                   "setting": "tpt-1"}]):
      (self.run / "results.jsonl").write_text(
          "".join(json.dumps(row) + "\n" for row in some))
      self._fails("results.jsonl has rows that are not all of one command; "
                  "expected .*`jaxcal evaluate`.*`sweep`", self.run)

  def test_runs_of_other_commands_tell_what_is_gone(self):
    (self.run / "results.jsonl").write_text(json.dumps(
        {"data": "digits", "setting": "tpt-1", "method": "tpt", "ece": 0.1}))
    self._fails("has results of digits, tpt-1, but no longer both", self.run)
    self._fails("a line for each image: these are of runs of `jaxcal evaluate`",
                self.run, "--per_image")

  def test_which_command_made_run_and_page(self):
    about = json.loads((self.run / "run.json").read_text())
    self.assertEqual(about["command"][:2], ["jaxcal", "evaluate"])
    self.assertEqual(about["command"][-1], f"--output={self.saved}")
    page = (self.run / "report.html").read_text()
    line = "<dt>Run by</dt><dd><code>jaxcal evaluate --config="
    self.assertIn(line, page)
    self.assertNotIn("config.metrics.level", about["command"])
    self.assertNotIn("Page by", page)
    self._report(self.run)
    page = (self.run / "report.html").read_text()
    self.assertIn(line, page)
    self.assertIn("<dt>Page by</dt><dd><code>jaxcal report", page)
    # It is no setting of the run, nor of its predictions.
    self.assertNotIn("<code>command</code>", page)
    path = self.run / "predictions" / "digits" / "tpt"
    self.assertNotIn("command", predictions.settings(path))

  def test_several_runs_become_one_report(self):
    other, output = self._other_run(self.saved), self.root / "both"
    for run, name in ((self.run, "digits"), (other, "shapes")):
      shutil.rmtree(run / "predictions" / name)
      for table in _TABLES:
        path = run / table
        path.write_text("".join(
            json.dumps(row) + "\n" for row in map(
                json.loads, path.read_text().splitlines())
            if row["data"] != name))
    self._fails("give --output=FOLDER, where the report of several runs goes",
                self.run, other)
    self.assertFalse(output.exists())
    printed, _ = self._report(self.run, other, f"--output={output}")
    before = list(self._before())
    self.assertEqual(_rows(output), [
        row for data in ("shapes", "digits") for row in before
        if row["data"] == data])
    self.assertIn("paired differences are within each run", printed)
    self.assertIn("<dt>Run by, other</dt><dd><code>jaxcal evaluate",
                  (output / "report.html").read_text())

  def test_no_model_and_no_library_for_one_is_loaded(self):
    done = subprocess.run(
        [sys.executable, "-c", _LOADED, "report", str(self.run)],
        cwd=command.ROOT, capture_output=True, text=True)
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertEqual(done.stdout.splitlines()[-1], "[]")

  def test_help(self):
    status, printed, _ = command.here("report", "--help")
    self.assertEqual(status, 0)
    for flag in ("output", "config.metrics.num_bins", "config.metrics.seed"):
      self.assertIn(f"--{flag}\n", printed)


if __name__ == "__main__":
  absltest.main()
