"""Archives are unpacked into one folder or not at all."""

import io
import os
import pathlib
import stat
import tarfile
import zipfile

from absl.testing import absltest
from absl.testing import parameterized

from jaxcal.data import archives
from tests.cli import command

_FILES = {"set/a/1.jpg": b"one", "set/b/2.jpg": b"two" * 1000,
          "set/names.txt": b""}


def _info(name, kind=tarfile.REGTYPE, size=0, link=""):
  info = tarfile.TarInfo(name)
  info.type, info.size, info.linkname = kind, size, link
  return info


class _ArchiveCase(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.here = pathlib.Path(self.create_tempdir().full_path)
    self.root = self.here / "root"
    self.root.mkdir()

  def write(self, name, files=None):
    """An archive of some files, of the kind that its suffix says."""
    path, files = self.here / name, _FILES if files is None else files
    if name.endswith(".zip"):
      with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("set")
        for member, content in files.items():
          archive.writestr(member, content)
      return path
    mode = "w" if name.endswith(".tar") else "w:gz"
    with tarfile.open(path, mode) as archive:
      archive.addfile(_info("./set/", tarfile.DIRTYPE))
      for member, content in files.items():
        archive.addfile(_info(member, size=len(content)), io.BytesIO(content))
    return path

  def tar_of(self, *infos):
    with tarfile.open(self.here / "a.tar", "w") as archive:
      for info in infos:
        archive.addfile(info, io.BytesIO(bytes(info.size)))
    return self.here / "a.tar"

  def unpack(self, path, folder="", **options):
    return archives.unpack(path, self.root / folder, root=self.root, **options)

  def files(self, folder=None):
    folder = folder or self.root
    return {path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*") if path.is_file()}

  def assert_refused(self, path, message):
    before = self.files(self.here)
    for action in (archives.members, self.unpack):
      with self.assertRaisesRegex(ValueError, message):
        action(path)
    self.assertEqual(self.files(self.here), before)


class UnpackTest(_ArchiveCase):

  @parameterized.parameters(*archives.SUFFIXES)
  def test_all_files_and_a_second_time_none(self, suffix):
    path = self.write(f"a{suffix}", _FILES | {
        "__MACOSX/set/._1.jpg": b"x", "set/.DS_Store": b"x"})
    self.assertEqual([tuple(member) for member in archives.members(path)],
                     [(name, len(content)) for name, content in _FILES.items()])
    told = []
    done = self.unpack(path, progress=lambda *numbers: told.append(numbers))
    self.assertEqual(done, (3, 0, 0))
    self.assertEqual(told, [(1, 3), (2, 3), (3, 3)])
    self.assertEqual(self.files(), _FILES)
    self.assertEqual(self.unpack(path), (0, 0, 3))

  def test_other_content_is_put_right_and_other_files_stay(self):
    path = self.write("a.zip")
    self.unpack(path)
    (self.root / "set/a/1.jpg").write_bytes(b"ONE")  # of the same size
    (self.root / "set/b/2.jpg").write_bytes(b"cut")
    (self.root / "set/mine.txt").write_bytes(b"mine")
    self.assertEqual(self.unpack(path), (0, 2, 1))
    self.assertEqual(self.files(), _FILES | {"set/mine.txt": b"mine"})

  @parameterized.parameters("a.tar.gz", "a.zip")
  def test_a_kill_leaves_whole_files_alone(self, name):
    path = self.write(name)
    for number in (1, 2, 3):
      with command.stopped_at_write(number) as stopped:
        self.unpack(path)
      if stopped[1]:
        whole = {name: content for name, content in self.files().items()
                 if not name.endswith(".half")}
        self.assertEqual(whole, {name: _FILES[name] for name in whole})
    self.assertEqual(sum(self.unpack(path)), 3)
    self.assertEqual({name for name in self.files()
                      if not name.endswith(".half")}, set(_FILES))


class RefusedTest(_ArchiveCase):

  @parameterized.parameters(
      ("../out.jpg", "leads out of the folder"),
      ("set/../../out.jpg", "leads out of the folder"),
      ("/etc/out.jpg", "is no path below a folder"),
      ("C:/out.jpg", "is no path below a folder"),
      ("set\\..\\..\\out.jpg", "is no path below a folder"))
  def test_names(self, name, message):
    for kind in archives.SUFFIXES:
      path = self.write(f"a{kind}", {"good.jpg": b"x", name: b"x"})
      self.assert_refused(path, message)
      self.assertEqual(self.files(), {})

  @parameterized.parameters(
      (tarfile.SYMTYPE, "is a link"), (tarfile.LNKTYPE, "is a link"),
      (tarfile.CHRTYPE, "device"), (tarfile.BLKTYPE, "device"),
      (tarfile.FIFOTYPE, "device"))
  def test_no_files(self, kind, message):
    self.assert_refused(
        self.tar_of(_info("good.jpg", size=3),
                    _info("bad.jpg", kind, link="/etc/passwd")),
        f"not unpacked: 'bad.jpg' .*{message}")

  def test_a_link_in_a_zip(self):
    path = self.here / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
      info = zipfile.ZipInfo("bad.jpg")
      info.external_attr = (stat.S_IFLNK | 0o777) << 16
      archive.writestr(info, "/etc/passwd")
    self.assert_refused(path, "'bad.jpg' is a link")

  def test_all_that_is_refused_is_named(self):
    path = self.write("a.tar", {"../1": b"", "/2": b"", "good": b""})
    self.assert_refused(path, "'../1' leads out of the folder, '/2' is no path")

  def test_twice(self):
    self.assert_refused(self.tar_of(_info("a/1.jpg"), _info("a/./1.jpg")),
                        "'a/./1.jpg' is there twice")

  @parameterized.parameters("a.tar.gz", "a.zip")
  def test_what_would_grow_beyond_bounds(self, name):
    path = self.write(name, {"zeros": bytes(65 * 2**20)})
    self.assertLess(os.path.getsize(path), 2**20)
    self.assert_refused(path, "would grow to more than 67,108,864 bytes")

  def test_declared_sizes_count_before_they_are_read(self):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
      archive.addfile(_info("small.jpg", size=1), io.BytesIO(b"x"))
    content = bytearray(content.getvalue())
    content[:512] = _info("huge.jpg", size=2**40).tobuf(tarfile.GNU_FORMAT)
    (self.here / "a.tar").write_bytes(content)
    self.assert_refused(self.here / "a.tar", "would grow to more than|cut off")

  def test_a_header_that_would_fill_the_memory(self):
    header = _info("x", tarfile.XHDTYPE, size=2**33).tobuf(tarfile.GNU_FORMAT)
    (self.here / "a.tar").write_bytes(header + bytes(2**12))
    self.assert_refused(
        self.here / "a.tar", r"has a header of 8,589,934,\d+ bytes")

  @parameterized.parameters(*archives.SUFFIXES)
  def test_cut_off(self, suffix):
    path = self.write(f"a{suffix}", {
        f"{number}.jpg": os.urandom(2000) for number in range(9)})
    content = path.read_bytes()
    for cut in (b"", content[:100], content[:len(content) // 2],
                b"<html>" * 300):
      path.write_bytes(cut)
      with self.assertRaisesRegex(
          ValueError, f"a{suffix} is cut off, damaged or no archive"):
        self.unpack(path)

  def test_a_member_that_would_begin_before_the_file(self):
    path = self.write("a.zip", {"1.jpg": b"x"})
    path.write_bytes(path.read_bytes()[40:])
    with self.assertRaisesRegex(ValueError, "a.zip is cut off, damaged or no"):
      self.unpack(path)
    self.assertEqual(self.files(), {})

  def test_a_member_without_a_name(self):
    path = self.here / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
      info = zipfile.ZipInfo("x")
      info.filename = ""
      archive.writestr(info, b"x")
    self.assert_refused(path, "not unpacked: '' is no name")

  @parameterized.parameters(zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)
  def test_a_damaged_member_packed_in_another_way(self, way):
    path = self.here / "a.zip"
    with zipfile.ZipFile(path, "w", way) as archive:
      archive.writestr("1.jpg", bytes(range(256)) * 20)
    content = path.read_bytes()
    path.write_bytes(content[:60] + bytes(40) + content[100:])
    with self.assertRaisesRegex(ValueError, "a.zip is cut off, damaged"):
      self.unpack(path)
    self.assertEqual(self.files(), {})

  def test_a_damaged_member_does_not_appear(self):
    path = self.write("a.zip", {"1.jpg": bytes(range(256)) * 20})
    content = bytearray(path.read_bytes())
    content[60] ^= 255
    path.write_bytes(content)
    with self.assertRaisesRegex(ValueError, "a.zip is cut off, damaged"):
      self.unpack(path)
    self.assertEqual(self.files(), {})

  def test_encrypted(self):
    path = self.write("a.zip", {"1.jpg": b"x"})
    content = bytearray(path.read_bytes())
    for start in (content.rindex(b"PK\1\2") + 8,):
      content[start] |= 1
    path.write_bytes(content)
    self.assert_refused(path, "'1.jpg' is encrypted")

  def test_a_folder_that_is_a_link_out_of_the_root(self):
    outside = self.here / "outside"
    outside.mkdir()
    (self.root / "set").symlink_to(outside)
    with self.assertRaisesRegex(ValueError, "leads to .*outside.*: a link"):
      self.unpack(self.write("a.tar"))
    self.assertEqual(self.files(outside), {})

  def test_a_file_that_is_a_link_is_replaced_not_followed(self):
    (self.here / "mine.txt").write_bytes(b"mine")
    (self.root / "set/a").mkdir(parents=True)
    (self.root / "set/a/1.jpg").symlink_to(self.here / "mine.txt")
    self.assertEqual(self.unpack(self.write("a.tar")), (2, 1, 0))
    self.assertEqual((self.here / "mine.txt").read_bytes(), b"mine")
    self.assertEqual(self.files(), _FILES)

  def test_none(self):
    with self.assertRaisesRegex(FileNotFoundError, "no file .*none.zip"):
      archives.members(self.here / "none.zip")


if __name__ == "__main__":
  absltest.main()
