"""Tests of jaxcal.data.text_files."""

import codecs

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from jaxcal.data import aircraft
from jaxcal.data import class_names
from jaxcal.data import coop
from jaxcal.data import sources
from jaxcal.data import text_files
from tests.data import files

_MARKED = {
    "utf-8": codecs.BOM_UTF8, "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE, "utf-32-le": codecs.BOM_UTF32_LE}


class ReadTest(files.FolderCase):

  @parameterized.parameters(*_MARKED)
  def test_encodings_that_say_which_they_are(self, encoding):
    path = self.root / "a.txt"
    path.write_bytes(_MARKED[encoding] + "café\r\n猫\n".encode(encoding))
    self.assertEqual(text_files.read(path), "café\r\n猫\n")

  @parameterized.named_parameters(
      ("latin_1", "a\nb\ncafé\n".encode("latin-1"), "line 3: .* not UTF-8"),
      ("utf_16", "a\nb\n".encode("utf-16-le"), "line 1: .*without a byte or"),
      ("cut", codecs.BOM_UTF16_LE + b"a\0\n\0b", "line 2: .* not UTF-8"),
      ("no_text", b"a\nb\0\n", "line 2: .* no text"))
  def test_others_are_refused_with_file_and_line(self, content, message):
    path = self.root / "a.txt"
    path.write_bytes(content)
    with self.assertRaisesRegex(ValueError, rf"/a\.txt, {message}"):
      text_files.read(path)

  def test_what_is_not_there(self):
    for name in ("none.txt", "."):
      with self.assertRaisesRegex(FileNotFoundError, "no file"):
        text_files.read(self.root / name)


class ReadersTest(files.FolderCase):
  """All that people write by hand is read in the same way."""

  def setUp(self):
    super().setUp()
    for name in ("b.png", "images/1.jpg"):
      self.image(name)

  def _write(self, name, text, encoding="utf-16"):
    (self.root / name).write_bytes(text.encode(encoding))
    return self.root / name

  def test_utf_16(self):
    found = sources.csv_file(
        self._write("l.csv", "path,label\r\nb.png,café\r\n"))
    self.assertEqual(found.class_names, ("café",))
    self.assertEqual(
        class_names.read(self._write("n.txt", "café\n")), ("café",))
    split = self._write("s.json", '{"train": [["b.png", 0, "café"]], "val": '
                        '[], "test": [["b.png", 0, "café"]]}')
    self.assertEqual(coop.read(split, self.root).class_names, ("café",))
    self._write("variants.txt", "707\n")
    self._write("images_variant_test.txt", "1 707\n")
    np.testing.assert_array_equal(aircraft.read(self.root).labels, [0])

  def test_latin_1(self):
    latin = lambda name, text: self._write(name, text, "latin-1")
    for name, read, text in (
        ("l.csv", sources.csv_file, "path,label\nb.png,café\n"),
        ("n.txt", class_names.read, "cat\ncafé\n"),
        ("s.json", lambda path: coop.read(path, self.root), '{\n"café": 1}')):
      with self.assertRaisesRegex(ValueError, f"{name}, line 2: .*not UTF-8"):
        read(latin(name, text))
    latin("variants.txt", "707\ncafé\n")
    with self.assertRaisesRegex(ValueError, "variants.txt, line 2: .*not UTF"):
      aircraft.read(self.root)

  @parameterized.parameters(
      ("[" * 100_000, "no JSON: .*recursion"), ("{", "no JSON"),
      ("9" * 5000, "no JSON: .*5000 digits"),
      ("[]", "expected the keys"), ("3", "expected the keys"),
      ('{"train": null, "val": [], "test": []}', "train: expected a list"),
      ('{"train": [], "val": {}, "test": []}', "val: expected a list"),
      ('{"train": [], "val": [], "test": []}', "lists no images"),
      ('{"train": [], "val": [], "test": [null]}', "test, entry 0"))
  def test_json_of_another_form(self, text, message):
    path = self._write("s.json", text, "utf-8")
    with self.assertRaisesRegex(ValueError, rf"s\.json.*{message}"):
      coop.read(path, self.root)


if __name__ == "__main__":
  absltest.main()
