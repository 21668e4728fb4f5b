"""What is said of names that nothing has."""

from absl.testing import absltest
from absl.testing import parameterized

from jaxcal import spelling

_NAMES = ("Tpt", "c_tpt", "soc", "zero_shot")


class SpellingTest(parameterized.TestCase):

  @parameterized.parameters(
      ("zeroshot", ["zero_shot"]), ("SOC", ["soc"]), ("tpt", ["Tpt", "c_tpt"]),
      ("nothing", []), ("", []))
  def test_near(self, name, expected):
    self.assertEqual(spelling.near(name, _NAMES), expected)

  def test_names_that_differ_in_case_alone(self):
    self.assertEqual(spelling.near("Tqt", ["tpt", "Tpt"]), ["tpt", "Tpt"])

  def test_choices(self):
    self.assertEqual(
        spelling.choices("tpt", iter(_NAMES)), "did you mean Tpt or c_tpt? "
        "choose from: Tpt, c_tpt, soc, zero_shot.")
    self.assertEqual(spelling.choices("x", ["tpt"]), "choose from: tpt.")

  def test_lists_cut_short(self):
    lines = [str(number) for number in range(12)]
    self.assertEqual(spelling.shortened(lines), [*lines[:10], "and 2 more"])
    self.assertEqual(spelling.shortened(lines[:10]), lines[:10])


if __name__ == "__main__":
  absltest.main()
