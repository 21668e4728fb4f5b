"""Processes that run, that have ended, and that cannot be seen."""

import os
import subprocess
import sys
from unittest import mock

from absl.testing import absltest

from jaxcal.storage import process


def _start(code="import time; time.sleep(60)"):
  return subprocess.Popen([sys.executable, "-c", code])


class ProcessTest(absltest.TestCase):

  def _process_of(self, child):
    with mock.patch.object(os, "getpid", return_value=child.pid):
      return process.current()

  def test_this_one(self):
    ours = process.current()
    self.assertEqual(ours.pid, os.getpid())
    self.assertRegex(ours.machine, "^[0-9a-f]{8}$")
    self.assertEqual(ours, process.current())
    self.assertIs(process.runs(ours), True)

  def test_another_until_it_is_killed(self):
    child = _start()
    theirs = self._process_of(child)
    self.assertIs(process.runs(theirs), True)
    child.kill()
    while process.runs(theirs):  # even before anyone has asked for its status
      self.assertIsNone(child.returncode)
    child.wait()
    self.assertIs(process.runs(theirs), False)

  def test_a_number_that_is_used_again(self):
    child = _start()
    theirs = self._process_of(child)
    self.assertGreater(theirs.started, 0)
    self.assertIs(process.runs(
        theirs._replace(started=theirs.started - 1)), False)
    # Of a system that does not say when processes begin.
    self.assertIs(process.runs(theirs._replace(started=0)), True)
    child.kill()
    child.wait()

  def test_others_cannot_be_seen(self):
    ours = process.current()
    self.assertIsNone(process.runs(ours._replace(machine="0" * 8)))
    for pid in (2**30, 2**80):
      self.assertIs(process.runs(ours._replace(pid=pid)), False)


if __name__ == "__main__":
  absltest.main()
