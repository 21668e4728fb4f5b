"""Ctrl-C while Python itself cannot hear of it."""

import os
import signal
import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized
import pytest

from jaxcal.cli import interrupt

_START = """
import hashlib
import signal
import sys
import threading
# It is ignored in what a shell has started in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)
import jax
import jax.numpy as jnp
from jaxcal import sharding
from jaxcal.cli import listing
from jaxcal.cli import main

def busy(rest):
"""
# Each takes hours. As compiling does, the first one leaves Python no say.
_IN_ONE_CALL = """
  threading.Timer(1, print, ("begun",), {"flush": True}).start()
  hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""
_ON_A_DEVICE = """
  x = jnp.ones((500, 500))
  result = jax.jit(lambda x: jax.lax.fori_loop(
      0, 10**8, lambda i, y: y @ x / 500, x))(x)
  print("begun", flush=True)
  sharding.wait(result)
"""
_RUN = """
sys.argv = ["jaxcal", "list", "methods"]
listing.main = busy
main.enter()
"""


class InterruptTest(parameterized.TestCase):

  @parameterized.parameters(
      (_IN_ONE_CALL, True), (_ON_A_DEVICE, False))
  @pytest.mark.slow
  def test_ends_without_the_device(self, busy, forced):
    program = _START + busy + _RUN
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={
            **os.environ, "JAX_PLATFORMS": "cpu"}) as process:
      try:
        self.assertEqual(process.stdout.readline(), "begun\n")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
      finally:
        process.kill()
    self.assertEqual(process.returncode, interrupt.STATUS, errors)
    self.assertEqual(errors.count(interrupt.MESSAGE), 1, errors)
    self.assertEqual("cannot be stopped half way" in errors, forced)

  def test_a_command_without_an_interrupt(self):
    done = subprocess.run(
        [sys.executable, "-m", "jaxcal", "--version"], capture_output=True,
        text=True, check=False)
    self.assertEqual((done.returncode, done.stderr), (0, ""))
    self.assertStartsWith(done.stdout, "jaxcal ")


if __name__ == "__main__":
  absltest.main()
