"""`jaxcal failure`: tables of a finished run, without the model."""

import html
import json
import pathlib

from absl.testing import absltest
import numpy as np
import pytest

from jaxcal import predictions as predictions_lib
from jaxcal import stages
from jaxcal.metrics import failure
from jaxcal.report import page as page_lib
from jaxcal.report import ranked
from jaxcal.report import saved_runs
from jaxcal.report import tables
from jaxcal.storage import output_folder
from tests.cli import command


def _predictions(seed, n=60, k=5, labels=None):
  labels = np.random.default_rng(0).integers(k, size=n)
  logits = np.random.default_rng(seed).normal(size=(n, k))
  return predictions_lib.Predictions(
      np.asarray(logits + 2 * np.eye(k)[labels], np.float32),
      labels.astype(np.int32), tuple(map(str, range(n))),
      tuple(map(str, range(k))))


class FailureTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.run_folder = pathlib.Path(self.create_tempdir().full_path) / "run"
    self.saved = {"zero_shot": _predictions(1), "tpt": _predictions(2)}
    folder = self.run_folder / "predictions" / "pets"
    for name, one in self.saved.items():
      predictions_lib.save(one, folder / name)
    predictions_lib.save(
        _predictions(3, n=30)._replace(labels=None),
        folder / "out_of_distribution" / "tpt")
    (self.run_folder / "run.json").write_text(json.dumps(
        {"config.metrics.num_resamples": 30, "config.metrics.level": 0.9}))

  def _rows(self, folder):
    return [json.loads(line) for line in
            (folder / "failure.jsonl").read_text().splitlines()]

  @pytest.mark.slow
  def test_all_tables(self):
    status, printed, error = command.here(
        "failure", str(self.run_folder), "--held_out=2", "--draws=20",
        "--logit_scale=100")
    self.assertEqual(status, 0, error)
    for text in ("pets, failures:", "pets, outliers:", "60, 30",
                 "pets, held-out classes:", "2, 20", "90 % bootstrap"):
      self.assertIn(text, printed)
    self.assertIn(
        (self.run_folder / "failure.md").read_text().strip(), printed)
    rows = {(row["kind"], row["method"], row["score"]): row
            for row in self._rows(self.run_folder) if "reference" not in row}
    self.assertLen(rows, 2 * 8 + 8 + 2 * 8)
    one = self.saved["tpt"]
    expected = failure.failure_prediction(
        failure.max_softmax(one.logits), one.logits.argmax(-1) == one.labels)
    row = rows["failures", "tpt", "msp"]
    self.assertEqual(row["data"], "pets")
    self.assertAlmostEqual(row["auroc"], float(expected.auroc), 5)
    self.assertIn(("outliers", "tpt", "mcm"), rows)
    page = (self.run_folder / "failure.html").read_text()
    self.assertEqual(page.count("<svg"), 3)
    for text in ("Failures, pets", "Held-out classes, pets", "AUROC of images "
                 "of the classes against others", "--held_out=2"):
      self.assertIn(text, page)
    # All of it can be read again, and the report of the run has it, too.
    found, said = ranked.of_run(
        self.run_folder, saved_runs.digests(self.run_folder))
    self.assertEmpty(said)
    for section in found:
      self.assertIn(section.heading, page)
      for block in section.blocks:
        if isinstance(block, page_lib.Table):
          for row in tables.cells(block.rows, block.columns):
            self.assertIn(html.escape(row[0]), page)
    status, printed, error = command.here("report", str(self.run_folder))
    self.assertEqual(status, 0, error)
    self.assertNotIn("jaxcal failure", printed)
    self.assertIn("Outliers, pets",
                  (self.run_folder / "report.html").read_text())
    path = self.run_folder / "predictions/pets/out_of_distribution/tpt"
    predictions_lib.save(
        _predictions(4, n=30)._replace(labels=None), path)
    status, printed, error = command.here("report", str(self.run_folder))
    self.assertEqual(status, 0, error)
    self.assertIn(f"jaxcal failure {self.run_folder}", printed)
    self.assertNotIn("Outliers, pets",
                     (self.run_folder / "report.html").read_text())

  @pytest.mark.slow
  def test_predictions_that_say_their_logit_scale(self):
    path = self.run_folder / "predictions" / "pets" / "zero_shot"
    one = self.saved["zero_shot"]
    predictions_lib.save(one._replace(settings={"logit_scale": 50.0}), path)
    status, _, error = command.here(
        "failure", self.run_folder, "--held_out=2", "--draws=20")
    self.assertEqual(status, 0, error)
    found = {(row["kind"], row["method"]): row
             for row in self._rows(self.run_folder)
             if "reference" not in row and row["score"] == "mcm"}
    # Of the other it is not known.
    self.assertEqual(set(found), {("failures", "zero_shot"),
                                  ("held-out classes", "zero_shot")})
    expected = failure.failure_prediction(
        failure.max_concept_matching(one.logits / 50.0),
        one.logits.argmax(-1) == one.labels)
    self.assertAlmostEqual(found["failures", "zero_shot"]["auroc"],
                           float(expected.auroc), 5)
    status, *_ = command.here("failure", self.run_folder, "--logit_scale=20")
    self.assertEqual(status, 0)
    rows = {(row["kind"], row["method"]): row
            for row in self._rows(self.run_folder)
            if "reference" not in row and row["score"] == "mcm"}
    self.assertLen(rows, 3)
    expected = failure.failure_prediction(
        failure.max_concept_matching(one.logits / 20.0),
        one.logits.argmax(-1) == one.labels)
    self.assertAlmostEqual(rows["failures", "zero_shot"]["auroc"],
                           float(expected.auroc), 5)

  def test_stages_are_fields(self):
    path = self.run_folder / "predictions" / "pets" / "tpt+full"
    predictions_lib.save(_predictions(4)._replace(settings=stages.setting(
        stages.Stages("tpt", posterior="full"))), path)
    status, printed, error = command.here("failure", str(self.run_folder))
    self.assertEqual(status, 0, error)
    found = {(row["method"], row.get("posterior"), row.get("reference"))
             for row in self._rows(self.run_folder)
             if row["kind"] == "failures"}
    self.assertContainsSubset(
        {("tpt", None, None), ("tpt", "full", None)}, found)
    self.assertNotIn("tpt+full", {method for method, *_ in found})
    self.assertIn("| tpt+full ", printed)

  @pytest.mark.slow
  def test_a_folder_of_its_own_and_nothing_asked(self):
    output = self.run_folder / "other"
    status, printed, error = command.here(
        "failure", str(self.run_folder), f"--output={output}")
    self.assertEqual(status, 0, error)
    self.assertNotIn("held-out", printed)
    self.assertNotIn("mcm", printed)
    self.assertFalse((self.run_folder / "failure.md").exists())
    self.assertNotEmpty(self._rows(output))

  def test_the_folder_of_another_run_is_refused_and_its_own_is_cleared(self):
    other = self.run_folder.parent / "another"
    other.mkdir()
    (other / "run.json").write_text("{}")
    status, _, error = command.here(
        "failure", str(self.run_folder), f"--output={other}")
    self.assertEqual(status, 2)
    self.assertIn("holds another run; give another --output", error)
    self.assertEqual([path.name for path in other.iterdir()], ["run.json"])
    self.assertEqual(command.here("failure", str(self.run_folder))[0], 0)
    self.assertEmpty([name for name in output_folder.remove_written(
        self.run_folder) if name.startswith("failure")])

  @pytest.mark.slow
  def test_refuses(self):
    for flag, message in (
        ("--held_out=4", "num_classes=4 must leave two of the 5 classes"),
        ("--held_out=2 --draws=3", "at least 20 draws"),
        ("--logit_scale=0.1", "divide logits by the logit scale"),
        ("--config.metrics.level=0.5", "config.metrics.level")):
      status, _, error = command.here(
          "failure", str(self.run_folder), *flag.split())
      self.assertEqual(status, 2)
      self.assertIn(message, error)
    status, _, error = command.here("failure", str(self.run_folder / "none"))
    self.assertEqual(status, 2)
    self.assertIn("no run", error)


if __name__ == "__main__":
  absltest.main()
