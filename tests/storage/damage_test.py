import pathlib

from absl.testing import absltest
from absl.testing import parameterized

from jaxcal.storage import damage


class DamageTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.path = pathlib.Path(self.create_tempdir().full_path, "some.json")

  @parameterized.parameters(
      (b"", "it is empty"), (b"{", ""),
      (b'{"a": 1', ""), (b"\xff\xfe\x00{", ""),
      (b"[" * 100_000, "recursion"), (b'{"a":' * 100_000, "recursion"),
      (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
      (b"<html><body>404", "a web page"), (b"[1]", "it holds a list"),
      (b"null", "it holds a NoneType"))
  def test_no_object(self, content, reason):
    self.path.write_bytes(content)
    with self.assertRaisesRegex(
        damage.DamagedFile, rf"some\.json is damaged \(.*{reason}.*\); "):
      damage.read_object(self.path, "make it anew")

  def test_the_way_out(self):
    self.path.write_bytes(b"{")
    with self.assertRaisesRegex(ValueError, r"\); make it anew$"):
      damage.read_json(self.path, "make it anew")

  def test_a_long_reason_is_cut(self):
    self.assertLess(len(str(damage.DamagedFile("a", "x" * 10_000))), 500)

  def test_what_is_sound(self):
    self.path.write_bytes(b'\xef\xbb\xbf{"a": [1, null]}')
    self.assertEqual(damage.read_object(self.path), {"a": [1, None]})
    self.path.write_bytes(b'{"a": 1}\n{}\n')
    self.assertEqual(damage.read_rows(self.path), [{"a": 1}, {}])
    self.path.write_bytes(b"")
    self.assertEqual(damage.read_rows(self.path), [])

  @parameterized.parameters(
      (b'{"a": 1}\n{"a"', "line 2: "), (b"{}\n" + b"[" * 100_000, "line 2: "),
      (b"{}\n7", "line 2: "), (b"\xff", "utf-8"))
  def test_lines(self, content, reason):
    self.path.write_bytes(content)
    with self.assertRaisesRegex(
        damage.DamagedFile, rf"some\.json is damaged .*{reason}"):
      damage.read_rows(self.path)

  def test_errors_of_the_system_stay(self):
    with self.assertRaises(FileNotFoundError):
      damage.read_json(self.path)
    with self.assertRaises(MemoryError):
      with damage.told(self.path):
        raise MemoryError
    with self.assertRaisesRegex(damage.DamagedFile, "KeyError|'a'"):
      with damage.told(self.path):
        raise KeyError("a")


if __name__ == "__main__":
  absltest.main()
