"""Names from elsewhere lead nowhere else."""

import pathlib

from absl.testing import absltest
from absl.testing import parameterized

from jaxcal.storage import paths


class PathsTest(parameterized.TestCase):

  @parameterized.parameters(
      "digits", "a b", "猫と犬", "o_tpt.v1", "...", "..x", "-x", "a:b", "~",
      "soc-weight=0.5", "kgcoop+dor")
  def test_names(self, name):
    self.assertEqual(paths.inside("runs/x", "predictions", name),
                     pathlib.Path("runs/x/predictions") / name)

  @parameterized.parameters(
      "..", ".", "", "../x", "x/..", "a/b", "/etc", "a\\b", "a\0b", "\0",
      "C:\\x", "..\\x", None, 3)
  def test_refusals(self, name):
    with self.assertRaisesRegex(ValueError, "cannot be the name of a file"):
      paths.inside("runs/x", "predictions", name)
    with self.assertRaisesRegex(ValueError, "expected one name"):
      paths.inside("runs/x", name, "predictions")

  def test_no_names(self):
    self.assertEqual(paths.inside("/runs"), pathlib.Path("/runs"))


if __name__ == "__main__":
  absltest.main()
