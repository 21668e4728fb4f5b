"""docs/faults.md: every fault has a test that shows it."""

import pathlib
import re

from absl.testing import absltest

_ROOT = pathlib.Path(__file__).resolve().parents[2]


class PageTest(absltest.TestCase):

  def test_every_fault_is_shown_by_a_test(self):
    page = (_ROOT / "docs" / "faults.md").read_text("utf-8")
    rows = [line for line in page.splitlines()
            if line.startswith("| ") and not line.startswith(
                ("| fault ", "| --- "))]
    self.assertGreater(len(rows), 60)
    for row in rows:
      shown = re.search(r"\| `(tests/[\w/]+\.py)`, `(test_\w+)` \|$", row)
      self.assertIsNotNone(shown, row)
      path, name = shown.groups()
      self.assertRegex((_ROOT / path).read_text("utf-8"),
                       rf"  def {name}\(\s*self", row)


if __name__ == "__main__":
  absltest.main()
