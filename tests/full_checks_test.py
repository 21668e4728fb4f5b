"""The parts of .ci/full: which tests they run, and what the table says."""

import os
import pathlib
import shutil
import subprocess

from absl.testing import absltest

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_SCRIPT = _ROOT / ".ci" / "full"
# Stands for Python: makes environments of itself and of a pip that does nothing
# or fails, and prints what pytest would.
_PYTHON = """#!/usr/bin/env bash
case "$1 $2" in
  "-m venv")
    mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
    printf '#!/usr/bin/env bash\\nexit %s\\n' "$PIP" > "$3/bin/pip"
    chmod +x "$3/bin/pip" ;;
  "-m pytest") echo "asked: ${@:3}"; echo "$SAID"; exit "$STATUS" ;;
  *) echo "$VERSION|0.10.2|0.12.8|5.24.0|2.4.6" ;;
esac
"""
# All else that there is while it runs: no real Python, above all.
_TOOLS = ("awk", "bash", "cat", "chmod", "column", "cp", "cut", "dirname",
          "env", "grep", "mkdir", "mktemp", "rm", "tail", "tee")


class FullChecksTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    folder = pathlib.Path(self.create_tempdir().full_path)
    for name in _TOOLS:
      (folder / name).symlink_to(shutil.which(name))
    for name, version in (("python3", "3.99.1"), ("python3.12", "3.12.9")):
      (folder / name).write_text(_PYTHON.replace("$VERSION", version))
      (folder / name).chmod(0o755)
    self.environment = os.environ | {
        "PATH": str(folder), "HOME": str(folder), "PIP": "0",
        "PYENV_ROOT": str(folder), "STATUS": "0",
        "SAID": "7 passed, 2 skipped in 3.10s"}

  def _run(self, *parts, **variables):
    done = subprocess.run(
        [shutil.which("bash"), _SCRIPT, *parts],
        env=self.environment | variables, check=False, capture_output=True,
        text=True, timeout=60)
    rows = [line.split() for line in done.stdout.splitlines()]
    return done.returncode, rows, done.stderr

  def test_unknown_parts_are_refused_before_any_work(self):
    status, rows, error = self._run("versions", "tests")
    self.assertEqual(status, 2)
    self.assertEqual(rows, [])
    self.assertIn("unknown part 'tests'; choose from: versions", error)

  def test_a_row_has_versions_and_counts(self):
    status, rows, _ = self._run("transformers4", TESTS="tests/clip tests/adapt")
    self.assertEqual(status, 0)
    self.assertIn(["asked:", "tests/clip", "tests/adapt"], rows)
    heading, row = rows[-2:]
    self.assertEqual(heading[:2] + heading[6:], [
        "part", "python", "passed", "failed", "skipped", "seconds"])
    self.assertEqual(row[:-1], [
        "transformers4", "3.99.1", "0.10.2", "0.12.8", "5.24.0", "2.4.6", "7",
        "0", "2"])

  def test_the_newest_versions_are_those_of_the_newest_python(self):
    _, rows, _ = self._run("versions")
    self.assertEqual(rows[-1][:2], ["versions", "3.12.9"])

  def test_failures_and_early_ends_fail(self):
    for said, counted in (("1 failed, 7 passed, 2 errors in 1.0s", ["7", "3"]),
                          ("Killed", ["0", "pytest:", "1"])):
      status, rows, _ = self._run("aot", STATUS="1", SAID=said)
      self.assertEqual(status, 1)
      self.assertEqual(rows[-1][6:6 + len(counted)], counted)
    status, rows, _ = self._run("aot", PIP="1")
    self.assertEqual(status, 1)
    self.assertEqual(rows[-1][:4], ["aot", "not", "installed", "-"])

  def test_a_python_that_is_not_there_is_no_failure(self):
    status, rows, _ = self._run("pythons")
    self.assertEqual(status, 0)
    found = {row[0]: row[1:3] for row in rows if row}
    self.assertEqual(found["python3.11"], ["not", "at"])
    self.assertEqual(found["python3.12"], ["3.12.9", "0.10.2"])
    self.assertEqual(found["python3.13"], ["not", "at"])


if __name__ == "__main__":
  absltest.main()
