"""`jaxcal compare` on finished runs: text, files and refusals."""

import json
import pathlib

from absl.testing import absltest
import numpy as np

from jaxcal.storage import lock
from jaxcal.storage import output_folder
from tests.cli import command
from tests.report import compared_test


class CompareTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)
    self.runs = [self.root / name for name in ("one", "other")]
    for seed, run in enumerate(self.runs):
      for place, name in enumerate(("tpt", "soc")):
        compared_test.save(run, name, np.arange(40), seed=10 * seed + place)
      (run / "run.json").write_text(json.dumps(
          {"config.views.seed": seed, "config.metrics.num_resamples": 20,
           "config.metrics.level": 0.9}))

  def _files(self, folder):
    return sorted(path.name for path in folder.rglob("*"))

  def test_printed_alone_and_written(self):
    before = self._files(self.root)
    status, printed, error = command.here("compare", *self.runs)
    self.assertEqual((status, error), (0, ""))
    self.assertRegex(printed, r"\| one: tpt +\| other: tpt +\| 40 +\|")
    self.assertRegex(printed, r"\| config.views.seed +\| 0 +\| 1 +\|")
    self.assertIn("90 % bootstrap", printed)
    self.assertEqual(self._files(self.root), before)
    output = self.root / "out"
    status, again, error = command.here(
        "compare", *self.runs, f"--output={output}")
    self.assertEqual((status, error), (0, ""))
    written = ["compare.jsonl", "compare.md", "per_image.csv"]
    self.assertEqual(self._files(output), written)
    self.assertEqual(printed, (output / "compare.md").read_text())
    self.assertStartsWith(again, printed)
    self.assertIn(f"Written to {output}: compare.md, compare.jsonl, "
                  "per_image.csv", again)
    self.assertEmpty(output_folder.remove_written(output))

  def test_two_methods_of_one_run(self):
    status, printed, error = command.here(
        "compare", self.runs[0], self.runs[0], "--method=tpt,soc")
    self.assertEqual(status, 0, error)
    self.assertRegex(printed, r"\| one: tpt +\| one: soc +\| 40 +\|")
    self.assertNotIn("say of themselves", printed)

  def test_refusals(self):
    taken = self.root / "taken"
    taken.mkdir()
    for arguments, message in (
        ((), "expected one RUN_A RUN_B..."),
        (self.runs[:1], "two runs or more"),
        ((self.root / "none", self.runs[0]), "no run .*none"),
        ((*self.runs, "--method=mta"), "no method 'mta'"),
        ((*self.runs, f"--output={self.runs[1]}"), "would write into"),
        ((*self.runs, f"--output={taken}"), "in use by another run"),
        ((*self.runs, "--overwrite"), "has no effect on `jaxcal compare`")):
      with lock.hold(taken):
        status, printed, error = command.here("compare", *arguments)
      self.assertEqual((status, printed), (2, ""))
      self.assertRegex(error, message)
    self.assertEmpty(self._files(taken))


if __name__ == "__main__":
  absltest.main()
