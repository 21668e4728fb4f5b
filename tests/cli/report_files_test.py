"""`jaxcal report` of files of other programs, and beside published numbers."""

import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from jaxcal import predictions
from jaxcal.storage import lock
from tests.cli import command

_QUICK = ("--config.metrics.num_resamples=20", "--config.metrics.num_bins=20")


class ReportFilesTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    self.output = self.folder / "report"
    rng = np.random.default_rng(0)
    self.labels = rng.integers(47, size=1692)
    self.logits = rng.normal(size=(1692, 47))
    self.logits[np.arange(1692), self.labels] += 3
    np.save(self.folder / "tpt.npy", self.logits)
    np.save(self.folder / "labels.npy", self.labels)
    lines = ["true_label,pred_label,confidence", *(
        f"{label},{predicted},0.5" for label, predicted in zip(
            self.labels, self.logits.argmax(-1)))]
    (self.folder / "top.csv").write_text("\n".join(lines))

  def _fails(self, message, *arguments):
    status, printed, error = command.here("report", *arguments)
    self.assertEqual((status, printed), (2, ""))
    self.assertRegex(error, message)
    self.assertNotIn("Traceback", error)

  @pytest.mark.slow
  def test_files_beside_published_numbers(self):
    status, printed, error = command.here(
        "report", self.folder / "tpt.npy", f"certain={self.folder / 'top.csv'}",
        f"--labels={self.folder / 'labels.npy'}", "--kind=logits", "--data=dtd",
        "--model=ViT-B/16", "--against=published", f"--output={self.output}",
        *_QUICK)
    self.assertEqual(status, 0, error)
    rows, differences, beside = ([
        json.loads(line) for line in
        (self.output / f"{name}.jsonl").read_text().splitlines()]
        for name in ("results", "differences", "published"))
    accuracy = np.mean(self.logits.argmax(-1) == self.labels)
    self.assertEqual([(row["method"], row["accuracy"]) for row in rows],
                     [("tpt", accuracy), ("certain", accuracy)])
    self.assertEqual([(row["method"], row["reference"]) for row in differences],
                     [("certain", "tpt")])
    self.assertEqual({row["method"] for row in beside}, {"tpt"})
    page = (self.output / "report.html").read_text()
    self.assertIn("Calibration of ViT-B/16", page)
    for text in (page, printed):
      self.assertIn("not told, and taken for those of the published", text)
      self.assertIn("cots, Table 1", text)
    self.assertIn(".tex, published.jsonl", printed)
    np.testing.assert_allclose(
        predictions.load(self.output / "predictions/dtd/tpt").logits,
        self.logits, rtol=1e-6)
    self._fails("is a report of files", self.output)
    status, printed, error = command.here(
        "recalibrate", self.output, "--share=0.5")
    self.assertEqual(status, 0, error)
    self.assertIn("tpt+temperature", printed)

  def test_one_at_a_time(self):
    self.output.mkdir()
    arguments = (self.folder / "top.csv", f"--output={self.output}", *_QUICK)
    with lock.hold(self.output):
      self._fails("report is in use by another run: process", *arguments)
      self.assertEqual([path.name for path in self.output.iterdir()],
                       [lock.NAME])
    status, _, error = command.here("report", *arguments)
    self.assertEqual(status, 0, error)
    self.assertFalse((self.output / lock.NAME).exists())

  @parameterized.parameters(
      ((), "give --output=FOLDER"),
      (("--data=dtdd", "--against=published"), "did you mean dtd"),
      (("--data=dtd", "--against=published"), "the model is None"),
      (("--kind=percent",), "--kind.*logits|probabilities"),
      (("--config.views.number=8",), "has no effect"),
      (("--config.metrics.level=95",), "level is 95.0, expected"))
  def test_flags(self, arguments, message):
    output = [f"--output={self.output}"] if arguments else []
    self._fails(message, self.folder / "top.csv", *arguments, *output)
    self.assertFalse(self.output.exists())

  def test_what_is_of_files_is_not_of_runs(self):
    self._fails("--data is of files, but .* is none", self.folder, "--data=dtd")
    self._fails("expected one RUN...|FILE", "--data=dtd")
    self._fails("is a folder; expected runs alone", self.folder / "top.csv",
                self.folder, f"--output={self.output}")


if __name__ == "__main__":
  absltest.main()
