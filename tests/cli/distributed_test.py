"""Two processes on loopback give the numbers of one, killed or not."""

import pathlib
import socket
import time

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from benchmarks import scale_out
from jaxcal import predictions
from jaxcal.storage import lock
from tests.cli import command

_SMALL = ("evaluate", *command.SMALL, "--config.data.limit=11",
          "--config.method.name=soc", "--config.batch_size=1")
_ORDERS = ("evaluate", "--config.method.name=tda", *_SMALL[1:],
           "--config.stream.orders=2")
_LONGER = (*_SMALL, "--config.data.limit=60")
_TUNE = ("tune", "--config=configs/dor_base_to_new.py",
         "--config.data.name=shapes", "--config.data.limit=20",
         "--config.tune.num_shots=2", "--config.tune.num_seeds=2",
         "--config.tune.num_epochs=60", "--config.tune.num_context=4",
         "--config.tune.num_outliers=50", "--config.tune.name=kgcoop",
         "--config.tune.seeds_at_once=1", "--config.metrics.num_resamples=20")
_FIT = ("posterior", "fit", "--config=configs/bayesvlm.py", "--num_pairs=40",
        "--candidates=8", "--config.batch_size=2")


def _free_port():
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    return probe.getsockname()[1]


class DistributedTest(parameterized.TestCase):

  def _start(self, output, given=_SMALL, num_devices=4, flag="--output"):
    coordinator = f"--coordinator=localhost:{_free_port()}"
    return [command.start(
        *given, f"{flag}={output}", coordinator, "--num_processes=2",
        f"--process_id={i}", num_devices=num_devices) for i in range(2)]

  def _end_well(self, processes):
    """What each has printed."""
    ended = [process.communicate() for process in processes]
    for process, (_, error) in zip(processes, ended):
      self.assertEqual(process.returncode, 0, error)
    return [printed for printed, _ in ended]

  def _whole(self, given, flag="--output"):
    """The arrays of a command of one process, and its table."""
    folder = self.create_tempdir().full_path
    status, table, error = command.here(
        *given, f"{flag}={folder}", num_devices=2)
    self.assertEqual(status, 0, error)
    return scale_out.arrays(pathlib.Path(folder)), table.split("\n\nWritten")[0]

  def _assert_same(self, folder, expected, tolerance):
    found = scale_out.difference(
        scale_out.arrays(pathlib.Path(folder)), expected)
    self.assertIsNotNone(found)
    self.assertLessEqual(found, tolerance)

  @parameterized.parameters(
      (_TUNE, "--output", 0), (_FIT, "--config.posterior.folder", 1e-5),
      (_ORDERS, "--output", 1e-4))
  @pytest.mark.slow
  def test_work_that_is_shared_is_that_of_one_process(
      self, given, flag, tolerance):
    expected, table = self._whole(given, flag)
    folder = self.create_tempdir().full_path
    first, second = self._end_well(self._start(folder, given, 2, flag))
    self.assertIn(table.split("\n")[0], first)
    self.assertNotIn("| ", second)
    self._assert_same(folder, expected, tolerance)

  @parameterized.parameters(
      (_LONGER, 0, "predictions/*/parts-*/0*.npz"),
      (_LONGER, 1, "predictions/*/parts-*/0*.npz"),
      (_TUNE, 1, "tuned/*/*/state-*.npz"))
  @pytest.mark.slow
  def test_a_kill_ends_the_other_in_words_and_nothing_is_lost(
      self, given, victim, marker):
    folder = pathlib.Path(self.create_tempdir().full_path)
    processes = self._start(folder, given, 2)
    while not any(folder.glob(marker)):
      self.assertIsNone(processes[victim].poll())
      time.sleep(0.02)
    processes[victim].kill()
    processes[victim].communicate()
    _, error = processes[1 - victim].communicate()
    self.assertNotEqual(processes[1 - victim].returncode, 0)
    self.assertRegex(
        error, f"jaxcal: process {1 - victim} of 2 ends here, as process "
        rf"{victim} is gone.*What was computed is kept; start all processes")
    self._end_well(self._start(folder, given, 2))
    self._assert_same(folder, self._whole(given)[0], 0)

  @pytest.mark.slow
  def test_a_folder_of_another_run_is_refused_by_both(self):
    output = pathlib.Path(self.create_tempdir().full_path)
    with lock.hold(output):
      first, second = self._start(output)
      _, error = first.communicate()
      self.assertEqual(first.returncode, 2)
      self.assertRegex(error, f"{output} is in use by another run: process")
      _, error = second.communicate()
      self.assertEqual(second.returncode, 2)
      self.assertRegex(error, f"process 0 could not take {output}")

  @pytest.mark.slow
  def test_two_processes_of_four_devices(self):
    root = pathlib.Path(self.create_tempdir().full_path)
    processes = self._start(root / "two")
    printed = []
    for process in processes:
      out, error = process.communicate()
      self.assertEqual(process.returncode, 0, error)
      printed.append(out)
    status, table, error = command.here(*_SMALL, f"--output={root / 'one'}")
    self.assertEqual(status, 0, error)
    self.assertIn(table.split("\n\nWritten")[0], printed[0])
    self.assertNotIn("| digits", printed[1])
    one, two = (
        predictions.load(root / name / "predictions" / "digits" / "soc")
        for name in ("one", "two"))
    self.assertEqual(two.ids, one.ids)
    np.testing.assert_array_equal(two.labels, one.labels)
    np.testing.assert_allclose(two.logits, one.logits, atol=1e-5)

  def test_flags_that_do_not_go_together(self):
    for flags, message in (
        (("--num_processes=2",), "need --coordinator"),
        (("--coordinator=localhost:1", "--num_processes=2"),
         "needs --num_processes and --process_id"),
        (("--coordinator=localhost:1", "--num_processes=2", "--process_id=2"),
         "needs --num_processes and --process_id")):
      status, _, error = command.here(*_SMALL, *flags)
      self.assertEqual(status, 2)
      self.assertIn(message, error)


if __name__ == "__main__":
  absltest.main()
