"""`jaxcal conformal` on saved predictions: files and refusals."""

import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import pytest

from tests.cli import command
from tests.report import prediction_sets_test


class ConformalTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.run_folder = pathlib.Path(self.create_tempdir().full_path, "run")
    prediction_sets_test.write_run(
        self.run_folder, sets=("cats",), names=("zero_shot",))

  def _run(self, *arguments):
    return command.here("conformal", self.run_folder, *arguments)

  def _about(self, folder):
    return json.loads((folder / "sets.json").read_text())

  @pytest.mark.slow
  def test_into_the_run_and_elsewhere(self):
    status, printed, error = self._run("--splits=3")
    self.assertEqual(status, 0, error)
    self.assertRegex(printed, r"\| cats +\| zero_shot +\| saps +\|")
    rows = (self.run_folder / "sets.jsonl").read_text().splitlines()
    self.assertLen(rows, 4)
    self.assertEqual(json.loads(rows[0])["num_calibration"], 30)
    before = (self.run_folder / "sets.md").read_text()
    output = self.run_folder.parent / "out"
    status, printed, error = self._run(
        "--score=lac", "--alpha=0.2", "--splits=2", "--share=0.25", "--seed=7",
        "--by_class", "--transport", "--full=ss_text", f"--output={output}")
    self.assertEqual(status, 0, error)
    self.assertIn("jaxcal: cats, zero_shot: no ss_text, full conf", error)
    self.assertIn(f"Written to {output}", printed)
    about = self._about(output)
    self.assertEqual(
        {name: about[name] for name in about
         if name not in ("provenance", "predictions")},
        {"run": "run", "scores": ["lac"], "full": ["ss_text"], "alpha": 0.2,
         "num_splits": 2, "share": 0.25, "seed": 7, "by_class": True,
         "transported": True})
    self.assertEqual((self.run_folder / "sets.md").read_text(), before)
    self.assertEqual(self._about(self.run_folder)["alpha"], 0.1)

  def test_refusals(self):
    other = self.run_folder.parent / "other"
    other.mkdir()
    (other / "run.json").write_text("{}")
    for flag, message in (
        ("--score=thr", "unknown score 'thr'; choose from: lac, aps, raps"),
        ("--alpha=10", "alpha in (0, 1), such as 0.1, but alpha=10.0"),
        ("--alpha=nan", "alpha in (0, 1), such as 0.1, but alpha=nan"),
        ("--splits=0", "one split or more"),
        ("--share=1", "--share is 1, expected in (0, 1)"),
        (f"--output={other}", "holds another run; give another --output"),
        ("--overwrite", "--overwrite has no effect on `jaxcal conformal`")):
      status, printed, error = self._run(flag)
      self.assertEqual((status, printed), (2, ""))
      self.assertIn(message, error)
    self.assertFalse((self.run_folder / "sets.md").exists())

  def test_help(self):
    status, printed, _ = command.here("conformal", "--help")
    self.assertEqual(status, 0)
    for flag in ("alpha", "splits", "score", "full", "by_class", "transport",
                 "share", "seed", "output"):
      self.assertIn(f"--{flag}\n", printed)


if __name__ == "__main__":
  absltest.main()
