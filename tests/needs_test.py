"""Tests of the mark `needs` are left out, and counted, where a package is not.
"""

import os
import pathlib
import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized
import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_TESTS = """
import pytest

@pytest.mark.needs("no_such_package")
@pytest.mark.parametrize("number", range(3))
def test_of_what_is_not_there(number):
  raise AssertionError

@pytest.mark.needs("numpy")
def test_of_what_is_there():
  pass

def test_that_needs_nothing():
  pass
"""


class NeedsTest(parameterized.TestCase):

  @parameterized.parameters("0", "2")
  @pytest.mark.slow
  def test_left_out_and_counted(self, processes):
    tests = self.create_tempfile("of_packages_test.py", _TESTS).full_path
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", "setup.cfg", "-n", processes,
         "-p", "tests.conftest", "-p", "no:cacheprovider", tests],
        cwd=_ROOT, env=environment, capture_output=True, text=True)
    self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
    self.assertIn("2 passed", done.stdout)
    self.assertIn("tests left out, as no_such_package is not installed: 3\n",
                  done.stdout)


if __name__ == "__main__":
  absltest.main()
