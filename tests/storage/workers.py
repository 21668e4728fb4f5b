"""Processes of tests: they start quickly, do one thing again and again, die."""

import multiprocessing
import os
import signal
import time

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([
    "jaxcal.storage.atomic", "jaxcal.storage.lock", "jaxcal.storage.pair"])


class Worker:
  """A process that calls a function with arguments, and says what it raised.

  Attributes:
    pid: Of the process.
  """

  def __init__(self, function, *arguments):
    self._pipe, theirs = _CONTEXT.Pipe()
    self._process = _CONTEXT.Process(
        target=_run, args=(theirs, function, arguments))
    self._process.start()
    theirs.close()
    assert self._pipe.recv() == "ready"
    self.pid = self._process.pid

  def result(self):
    """What the function returned; raises what it raised, as text."""
    kind, value = self._pipe.recv()
    self._process.join()
    self._end()
    if kind == "raised":
      raise AssertionError(value)
    return value

  def kill(self):
    """Kills it, wherever it is; it is forgotten only by `end`."""
    os.kill(self.pid, signal.SIGKILL)
    while self._process.exitcode is None:
      time.sleep(0.001)
    assert self._process.exitcode == -signal.SIGKILL
    self._end()

  def _end(self):
    self._process.close()
    self._pipe.close()


def barrier(count):
  """Where so many processes wait for each other."""
  return _CONTEXT.Barrier(count)


def _run(pipe, function, arguments):
  pipe.send("ready")
  try:
    pipe.send(("returned", function(*arguments)))
  except Exception as error:  # whatever it is, the test must see it
    pipe.send(("raised", f"{type(error).__name__}: {error}"))
