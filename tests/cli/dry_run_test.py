"""--dry_run: what would be computed, and nothing else."""

import contextlib
import pathlib
import re
from unittest import mock

from absl.testing import absltest
import pytest

from jaxcal.features import extract
from jaxcal.features import sources
from jaxcal.features import store as stores
from tests.cli import command


def _stopped_after_one(write):
  """The function, killed when it is called again."""
  calls = []

  def write_or_stop(*given):
    if calls:
      raise command.Stopped
    calls.append(given)
    write(*given)

  return write_or_stop


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

  @pytest.mark.slow
  def test_views_that_the_run_keeps_for_its_orders_are_not_counted_again(self):
    output = pathlib.Path(self.create_tempdir().full_path, "run")
    given = lambda methods, orders: (
        "evaluate", *command.SMALL, f"--output={output}",
        f"--config.method.name={methods}", f"--config.stream.orders={orders}")
    # Methods with and without a state see the views of one pass.
    printed = self._run(*given("zero_shot,tda", 2), "--dry_run")
    self.assertEqual(self._sums(printed), (48, 0))
    self._run(*given("zero_shot,tda", 2))
    for methods, orders, views in (
        ("zero_shot,tda", 3, 0), ("zero_shot,tda,mta,dmn", 4, 0),
        # It goes on in the image tower, so that no store serves it.
        ("zero_shot,tda,ttl", 3, 48)):
      printed = self._run(*given(methods, orders), "--dry_run")
      self.assertEqual(self._sums(printed)[0], views, methods)
      self.assertRegex(printed, r"\| tda-order2[ ,].*\| 6 ")
    with mock.patch.object(extract, "from_images", return_value=iter(())):
      self._run(*given("zero_shot,tda", 3))

  @pytest.mark.slow
  def test_views_of_a_store_that_is_not_full(self):
    output = pathlib.Path(self.create_tempdir().full_path, "run")
    given = ("evaluate", *command.SMALL, f"--output={output}",
             "--config.method.name=zero_shot,tda", "--config.stream.orders=2")
    with mock.patch.object(sources, "_CHUNK", 4):
      with (mock.patch.object(stores, "write_chunk", _stopped_after_one(
          stores.write_chunk)), contextlib.suppress(command.Stopped)):
        command.here(*given)
      printed = self._run(*given, "--dry_run")
    self.assertEqual(self._sums(printed), (16, 0))

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
