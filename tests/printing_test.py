"""What cannot be printed does not fail a finished run."""

import contextlib
import io
import os
import subprocess
import sys

from absl.testing import absltest

from jaxcal import printing
from tests.cli import command

_CODE = """
import sys
from jaxcal import printing
with printing.forgiving():
  for number in range(int(sys.argv[1])):
    print("a line of a table")
    if number == 0:
      sys.stdout.flush()
print("finished", file=sys.stderr)
"""


class PrintingTest(absltest.TestCase):

  def test_letters_that_the_terminal_lacks(self):
    for encoding, expected in (("latin-1", b"caf\xe9 ??\n"),
                               ("ascii", b"caf? ??\n"),
                               ("utf-8", "café 猫?\n".encode())):
      written = io.BytesIO()
      terminal = io.TextIOWrapper(written, encoding=encoding)
      with contextlib.redirect_stdout(terminal):
        with printing.forgiving():
          # The last one stands for a byte of a name that is no UTF-8.
          print("café 猫\udce9" if encoding == "utf-8" else "café 猫犬")
        self.assertIs(sys.stdout, terminal)
      self.assertEqual(written.getvalue(), expected)

  def test_closed_pipe(self):
    for count in (1, 10_000):  # less and more than what is written at once
      reader, writer = os.pipe()
      os.close(reader)
      done = subprocess.run(
          [sys.executable, "-c", _CODE, str(count)], stdout=writer,
          stderr=subprocess.PIPE, text=True, cwd=command.ROOT)
      os.close(writer)
      self.assertEqual((done.returncode, done.stderr), (0, "finished\n"))

  def test_full_disk_is_said_once(self):
    with open("/dev/full", "w") as full:
      done = subprocess.run(
          [sys.executable, "-c", _CODE, "10000"], stdout=full,
          stderr=subprocess.PIPE, text=True, cwd=command.ROOT)
    self.assertEqual(done.returncode, 0)
    self.assertRegex(done.stderr, (
        "^jaxcal: cannot print: .*No space left on device\nfinished\n$"))

  def test_errors_of_the_run_go_on(self):
    with self.assertRaisesRegex(KeyError, "of the run"):
      with printing.forgiving():
        raise KeyError("of the run")


if __name__ == "__main__":
  absltest.main()
