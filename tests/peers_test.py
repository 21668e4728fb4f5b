"""Processes that share a run meet, fail and lose each other."""

import signal
import socket
import subprocess
import sys
from unittest import mock

from absl.testing import absltest
import jax
import pytest

from jaxcal import peers
from jaxcal import sharding

_LATE = """
from jaxcal import peers
peers.join("localhost:{port}", 2, {number}, meet_seconds=3)
"""
_COMPUTES = """
import time
from jaxcal import peers
peers.join("localhost:{port}", 2, {number}, heartbeat_seconds=5)
print("met", flush=True)
time.sleep(300)
"""
_FAILS = """
import time
from jaxcal import peers
peers.join("localhost:{port}", 2, {number})
if {number}:
  print("failed", flush=True)
  peers.leave(3)
try:
  from jaxcal import sharding
  sharding.barrier("never")
except RuntimeError as error:
  assert peers.is_loss(error)
  peers.lost(error)
  peers.leave(2)
"""


def _start(code, *numbers):
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    port = probe.getsockname()[1]
  return [subprocess.Popen(
      [sys.executable, "-c", code.format(port=port, number=number)],
      text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
          for number in numbers]


class PeersTest(absltest.TestCase):

  @pytest.mark.slow
  def test_one_that_never_comes(self):
    for process in _start(_LATE, 1):
      _, error = process.communicate()
      self.assertNotEqual(process.returncode, 0)
      self.assertIn("the processes have not met: within 3 s", error)

  def test_a_port_that_cannot_be_opened(self):
    with socket.socket() as other:
      other.bind(("", 0))
      other.listen()
      place = f"localhost:{other.getsockname()[1]}"
      with self.assertRaisesRegex(ValueError, f"cannot meet at {place}: .*in "
                                  "use; give another HOST:PORT to all"):
        peers.join(place, 2, 0)
    with self.assertRaisesRegex(ValueError, "cannot meet at localhost: "):
      peers.join("localhost", 2, 0)

  @pytest.mark.slow
  def test_one_that_waits_for_nobody_ends_when_heartbeats_are_missed(self):
    first, second = _start(_COMPUTES, 0, 1)
    while "met" not in second.stdout.readline():
      self.assertIsNone(second.poll())
    second.kill()
    second.communicate()
    _, error = first.communicate()
    self.assertEqual(first.returncode, -signal.SIGABRT, error)
    self.assertIn("process 0 of 2 ends here, as process 1 is gone: it says "
                  "why, or was killed.", error)

  @pytest.mark.slow
  def test_one_that_fails_alone_ends_the_other_in_words(self):
    first, second = _start(_FAILS, 0, 1)
    printed, error = second.communicate()
    self.assertEqual(second.returncode, 3, error)
    self.assertIn("failed", printed.splitlines())
    self.assertNotIn("jaxcal:", error)
    _, error = first.communicate()
    self.assertEqual(first.returncode, 2, error)
    self.assertRegex(error, r"process 0 of 2 ends here, as process 1 is gone "
                     r"\(.*Gloo.*\): it says why, or was killed.")

  def test_what_tells_that_another_process_is_gone(self):
    error = jax.errors.JaxRuntimeError("UNKNOWN: Gloo AllGather failed: ...")
    self.assertFalse(peers.is_loss(error))  # of a single process
    with mock.patch.object(sharding, "several", return_value=True):
      self.assertTrue(peers.is_loss(error))
      self.assertFalse(peers.is_loss(RuntimeError("UNAVAILABLE")))
      self.assertFalse(peers.is_loss(
          jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: ...")))

  def test_a_single_process_takes_leave_of_nobody(self):
    peers.leave(2)
    self.assertEqual(sharding.told_by_all("here"), ["here"])


if __name__ == "__main__":
  absltest.main()
