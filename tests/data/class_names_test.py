"""Tests of jaxcal.data.class_names."""

from absl.testing import absltest
from absl.testing import parameterized

from jaxcal.data import class_names
from tests.data import files


class AlikeTest(absltest.TestCase):

  def test_names_that_are_one_to_a_model(self):
    self.assertEqual(class_names.alike(
        ("T_shirt", "cat", "t  shirt", "Cat", "caf\u00e9", "cafe\u0301",
         "dog")),
                     [("T_shirt", "t  shirt"), ("cat", "Cat"),
                      ("caf\u00e9", "cafe\u0301")])
    self.assertEqual(class_names.alike(("cat", "cats")), [])

  def test_names_that_differ_in_what_nobody_sees(self):
    for other in ("c\u00adat", "cat\u200b", "\ufeffcat", "\u00a0cat", "ｃat"):
      self.assertEqual(
          class_names.alike(("cat", other)), [("cat", other)])


class ReadTest(files.FolderCase):

  def test_names(self):
    path = self.text("names.txt", "tench\n great white shark \n")
    self.assertEqual(
        class_names.read(path), ("tench", "great white shark")
    )

  def test_mapping_keeps_its_order(self):
    path = self.text("names.txt", "n02\tshark\nn01\ttench\n")
    self.assertEqual(
        list(class_names.read(path).items()),
        [("n02", "shark"), ("n01", "tench")],
    )

  @parameterized.named_parameters(
      ("empty", "", "is empty"),
      ("blank", "a\n\nb\n", "line 2: expected a class name, .* got ''"),
      ("mixed", "n01\ta\nb\n", "line 2: .* got 'b'"),
      ("three", "a\tb\tc\n", "line 1: "),
      ("twice", "n01\ta\nn01\tb\n", "names a folder twice"),
  )
  def test_refuses(self, content, message):
    with self.assertRaisesRegex(ValueError, message):
      class_names.read(self.text("names.txt", content))

  @parameterized.parameters("9" * 5000, "2", "-1", "1.0", "\u00b2")
  def test_a_label_that_is_no_position(self, label):
    with self.assertRaisesRegex(
        ValueError, "a.csv, line 2: label .* nor a position in .0, 2.") as told:
      class_names.numbered("a.csv", [("line 2", label)], ("cat", "dog"))
    self.assertLess(len(str(told.exception)), 400)

  def test_not_utf8(self):
    (self.root / "names.txt").write_bytes(b"caf\xe9\n")
    with self.assertRaisesRegex(ValueError, r"names\.txt is not UTF-8"):
      class_names.read(self.root / "names.txt")

  def test_missing(self):
    with self.assertRaisesRegex(FileNotFoundError, r"no file .*names\.txt"):
      class_names.read(self.root / "names.txt")


if __name__ == "__main__":
  absltest.main()
