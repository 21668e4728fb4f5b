"""--dry_run: what would be computed, and nothing else."""

import pathlib
import re

from absl.testing import absltest
import pytest

from tests.cli import command


class DryRunTest(absltest.TestCase):

  def _run(self, *arguments):
    status, printed, error = command.here(*arguments)
    self.assertEqual(status, 0, error)
    return printed

  def _sums(self, printed):
    """Views and prompts in all."""
    return tuple(int(text.replace(",", "")) for text in re.search(
        "image tower: ([0-9,]+);.*contexts: ([0-9,]+)[.]", printed).groups())

  @pytest.mark.slow
  def test_evaluate(self):
    output = pathlib.Path(self.create_tempdir().full_path, "run")
    given = lambda methods: ("evaluate", *command.SMALL, f"--output={output}",
                             f"--config.method.name={methods}")
    # 6 images of 10 classes in 8 views; of these methods one tunes, one step.
    printed = self._run(*given("zero_shot,tpt,tda"), "--dry_run")
    self.assertEqual(self._sums(printed), (48, 60))
    self.assertFalse(output.exists())
    self._run(*given("zero_shot"))
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    printed = self._run(*given("zero_shot,c_tpt_two_step"), "--dry_run")
    self.assertEqual(self._sums(printed), (48, 120))
    self.assertRegex(printed, r"\| digits +\| 6 +\| 1 +\| c_tpt_two_step ")
    printed = self._run(*given("zero_shot"), "--dry_run")
    self.assertEqual(self._sums(printed), (0, 0))
    self.assertIn("| nothing ", printed)
    self.assertEqual(
        {path: path.stat().st_mtime_ns for path in output.rglob("*")}, before)

  @pytest.mark.slow
  def test_unfinished_work_counts(self):
    root = pathlib.Path(self.create_tempdir().full_path)
    for number in range(1, 20):  # until one of three batches is written
      given = ("evaluate", *command.SMALL, "--config.method.name=tpt",
               f"--output={root / str(number)}")
      with command.stopped_at_write(number):
        command.here(*given)
      if len(list((root / str(number)).rglob("parts-*/0*.npz"))) == 1:
        break
    printed = self._run(*given, "--dry_run")
    self.assertEqual(self._sums(printed), (32, 40))

  def test_sweep(self):
    output = pathlib.Path(self.create_tempdir().full_path, "run")
    printed = self._run(
        "sweep", *command.SMALL, f"--output={output}", "--dry_run",
        "--sweep=method.name=zero_shot,soc", "--sweep=views.seed=0,1",
        "--sweep=method.soc.delta=0.3,0.5,0.7")
    self.assertEqual(self._sums(printed), (96, 360))
    self.assertRegex(
        printed, r"digits/views.seed=1 .*zero_shot, soc-.*delta=0.7")
    self.assertFalse(output.exists())


if __name__ == "__main__":
  absltest.main()
