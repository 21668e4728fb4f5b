"""Two processes on loopback give the predictions of one."""

import pathlib
import socket

from absl.testing import absltest
import numpy as np
import pytest

from jaxcal import predictions
from jaxcal.storage import lock
from tests.cli import command

_SMALL = ("evaluate", *command.SMALL, "--config.data.limit=11",
          "--config.method.name=soc", "--config.batch_size=1")


def _free_port():
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    return probe.getsockname()[1]


class DistributedTest(absltest.TestCase):

  def _start(self, output):
    coordinator = f"--coordinator=localhost:{_free_port()}"
    return [command.start(
        *_SMALL, f"--output={output}", coordinator, "--num_processes=2",
        f"--process_id={i}", num_devices=4) for i in range(2)]

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
