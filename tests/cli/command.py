"""The `jaxcal` command as a user runs it, with or without a process of its own.

With one is the dearer way by far: for kills, environments and device counts.
"""

import contextlib
import importlib
import io
import os
import pathlib
import re
import subprocess
import sys
import time
from unittest import mock

from absl.testing import flagsaver
import jax

from jaxcal import sharding
from jaxcal.cli import main
from jaxcal.storage import atomic
from jaxcal.storage import process

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Few images and views of the shipped testbed.
SMALL = ("--config=configs/quickstart.py", "--config.data.name=digits",
         "--config.data.limit=6", "--config.views.number=8",
         "--config.method.selection_fraction=0.25",
         "--config.metrics.num_resamples=50", "--config.batch_size=2")
# Each kill costs a start; two find what ten find, most of the time.
KILLS = int(os.environ.get("JAXCAL_KILLS", "2"))
# Flags that were first defined within `here` would be gone after it.
for _command in main.COMMANDS.values():
  importlib.import_module(f"jaxcal.cli.{_command.module}")
_CODE = "from jaxcal.cli import main; main.enter()"


def small(name):
  """Those of `SMALL` that have an effect on a command."""
  module = importlib.import_module(
      f"jaxcal.cli.{main.COMMANDS[name].module}")
  return tuple(flag for flag in SMALL if flag[2:].partition("=")[0] in (
      "config", *module.FIELDS))


def start(*arguments, num_devices=1):
  """The running process; `num_devices` virtual ones on the CPU."""
  environment = os.environ | {"XLA_FLAGS": re.sub(
      r"(device_count)=\d+", rf"\1={num_devices}", os.environ["XLA_FLAGS"])}
  return subprocess.Popen(
      [sys.executable, "-c", _CODE, *map(str, arguments)], cwd=ROOT, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


def run(*arguments, num_devices=1):
  """Exit status, standard output and standard error of a command line."""
  process = start(*arguments, num_devices=num_devices)
  printed, error = process.communicate()
  return process.returncode, printed, error


def run_timed(*arguments):
  """Standard output, standard error and seconds of a command that succeeds."""
  start_time = time.monotonic()
  status, printed, error = run(*arguments)
  assert status == 0, error
  return printed, error, time.monotonic() - start_time


def kill_after(seconds, *arguments):
  """Starts a command and kills it; whether it was still running then."""
  process = start(*arguments)
  try:
    process.communicate(timeout=seconds)
  except subprocess.TimeoutExpired:
    process.kill()
    process.communicate()
    return True
  return False


def here(*arguments, num_devices=1, folder=ROOT):
  """The same as `run`, in this process: no start, and compiled only once."""
  printed, error = io.StringIO(), io.StringIO()
  saved, mesh = flagsaver.save_flag_values(), sharding.data_mesh
  first = lambda devices=None: mesh(
      list(devices or jax.devices())[:num_devices])
  try:
    with (contextlib.chdir(folder), contextlib.redirect_stdout(printed),
          contextlib.redirect_stderr(error),
          mock.patch.object(sharding, "data_mesh", first),
          mock.patch.object(sys, "argv", ["jaxcal", *map(str, arguments)])):
      status = main.run()
  finally:
    flagsaver.restore_flag_values(saved)
  return status, printed.getvalue(), error.getvalue()


class Stopped(BaseException):
  """Stands for a kill: nothing catches it."""


@contextlib.contextmanager
def stopped_at_write(number):
  """Kills what runs in here at its `number`-th file, with half of it written.

  Yields:
    Its second item is whether it came to that.
  """
  writes, rename = [0, False], atomic._rename
  # Of a process that has ended; this one has not.
  killed = process.current()._replace(pid=2**30)

  def rename_or_stop(half, path):
    writes[0] += 1
    if writes[0] == number:
      writes[1] = True
      left = pathlib.Path(half).with_name(atomic.leftover_name(killed))
      left.write_bytes(pathlib.Path(half).read_bytes()[:9])
      raise Stopped
    rename(half, path)

  with (mock.patch.object(atomic, "_rename", rename_or_stop),
        contextlib.suppress(Stopped)):
    yield writes
