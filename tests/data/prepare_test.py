"""Benchmark sets out of the archives of their homes, in miniature."""

import io
import pathlib
import tarfile
import zipfile

from absl.testing import absltest
from absl.testing import parameterized

from jaxcal.data import catalogue
from jaxcal.data import check
from jaxcal.data import findings
from jaxcal.data import prepare
from tests.cli import command
from tests.data import miniatures

_SPLIT = "split_zhou_Caltech101.json"


def _tar(files):
  content = io.BytesIO()
  with tarfile.open(fileobj=content, mode="w:gz") as archive:
    for name, data in files.items():
      info = tarfile.TarInfo(name)
      info.size = len(data)
      archive.addfile(info, io.BytesIO(data))
  return content.getvalue()


class PrepareTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    here = pathlib.Path(self.create_tempdir().full_path)
    self.archives, self.root = here / "downloads", here / "sets"
    self.archives.mkdir()
    names = catalogue.row("caltech101").class_names
    self.rows = [[f"{name}/image_0001.jpg", label, name]
                 for label, name in enumerate(names)]
    miniatures.images(here / "made", [row[0] for row in self.rows])
    self.images = {f"101_ObjectCategories/{row[0]}":
                   (here / "made" / row[0]).read_bytes() for row in self.rows}
    miniatures.split_file(self.archives / _SPLIT, test=self.rows)

  def zip_in_zip(self):
    """As its home has it: a tar.gz in a zip."""
    with zipfile.ZipFile(self.archives / "caltech-101.zip", "w") as archive:
      archive.writestr("caltech-101/101_ObjectCategories.tar.gz",
                       _tar(self.images))
      archive.writestr("caltech-101/Annotations.tar", b"not looked at")

  def prepare(self, name="caltech101"):
    planned = prepare.plan(name, self.archives, self.root)
    return planned, list(prepare.carry_out(planned))

  def loaded(self):
    return catalogue.load("caltech101", self.root, partial=True)

  def test_an_archive_in_an_archive(self):
    self.zip_in_zip()
    planned, done = self.prepare()
    self.assertFalse((self.root / "x").exists())
    self.assertRegex(prepare.text(planned), r"(?s)caltech-101.zip: 2 files of "
                     rf"[\d,]+ bytes go below \S*sets\n.*{_SPLIT} goes to "
                     rf"\S*sets/caltech-101/{_SPLIT}")
    self.assertEqual(done[:2], [
        "caltech-101.zip: 2 files written, 0 replaced, 0 there already",
        "101_ObjectCategories.tar.gz: 100 files written, 0 replaced, 0 there "
        "already"])
    self.assertLen(self.loaded().ids, 100)
    # Of the miniature, all that a check finds is that it is one.
    report = check.benchmark("caltech101", self.root)
    self.assertEqual({one.kind for one in report.findings}, {findings.COUNT})
    self.assertEqual(
        self.prepare()[1][1].partition(": ")[2],
        "0 files written, 0 replaced, 100 there already")

  def test_archives_of_others_in_the_root_are_left_alone(self):
    self.root.mkdir()
    (self.root / "101_ObjectCategories.zip").write_bytes(b"of another set")
    self.zip_in_zip()
    self.prepare()
    self.assertLen(self.loaded().ids, 100)

  def test_the_inner_archive_alone_and_mending(self):
    (self.archives / "101_ObjectCategories.tgz").write_bytes(_tar(self.images))
    self.prepare()
    folder = self.root / "caltech-101/101_ObjectCategories"
    (folder / "ant/image_0001.jpg").write_bytes(b"")
    (folder / "bass/image_0001.jpg").unlink()
    (self.root / "caltech-101" / _SPLIT).write_text("[")
    _, done = self.prepare()
    self.assertStartsWith(
        done[0], "101_ObjectCategories.tgz: 1 files written, 1 replaced, 98")
    self.loaded().read(0)

  def test_kills(self):
    self.zip_in_zip()
    for number in (1, 2, 50, 103):
      with command.stopped_at_write(number):
        self.prepare()
      for path in self.root.rglob("*.jpg"):
        self.assertEqual(
            path.read_bytes(), self.images[path.relative_to(
                self.root / "caltech-101").as_posix()])
    self.prepare()
    self.assertLen(self.loaded().ids, 100)
    self.assertEqual(list(self.root.rglob("*.half")), [])

  def test_into_the_folder_that_is_there(self):
    (self.root / "Caltech101").mkdir(parents=True)
    planned = prepare.plan("caltech101", self.archives, self.root)
    self.assertEqual(planned.split_place, self.root / "Caltech101" / _SPLIT)

  def test_what_is_not_there(self):
    (self.archives / _SPLIT).unlink()
    with self.assertRaisesRegex(
        FileNotFoundError, rf"has none of caltech-101.tar.gz, 101_Obj.*{_SPLIT}"
        r".* Obtain Caltech 101 from https://data.caltech.edu"):
      self.prepare()
    with self.assertRaisesRegex(FileNotFoundError, "no folder .*--archives"):
      prepare.plan("caltech101", self.archives / "none", self.root)
    self.assertFalse(self.root.exists())

  def test_refused_before_anything_is_written(self):
    (self.archives / "caltech-101.tar.gz").write_bytes(
        _tar({"good": b"", "../bad": b""}))
    with self.assertRaisesRegex(ValueError, "'../bad' leads out"):
      self.prepare()
    self.assertFalse(self.root.exists())

  def test_an_inner_archive_is_looked_through_as_well(self):
    with zipfile.ZipFile(self.archives / "caltech-101.zip", "w") as archive:
      archive.writestr("caltech-101/101_ObjectCategories.tar.gz",
                       _tar({"../../bad": b"x"}))
    with self.assertRaisesRegex(ValueError, "'../../bad' leads out"):
      self.prepare()
    self.assertEqual([path.name for path in self.root.rglob("*")
                      if path.is_file()], ["101_ObjectCategories.tar.gz"])

  def test_a_split_file_of_another_set(self):
    names = catalogue.row("eurosat").class_names
    miniatures.split_file(self.archives / _SPLIT, test=[
        [f"{name}.jpg", label, name] for label, name in enumerate(names)])
    with self.assertRaisesRegex(
        ValueError, "has the classes of eurosat, not of caltech101"):
      self.prepare()

  def test_names_and_places_are_of_the_catalogue(self):
    for name, row in catalogue.CATALOGUE.items():
      self.assertEqual(bool(prepare.archive_names(name)),
                       name not in ("imagenet", "imagenet_c"))
      for _, into in prepare._ARCHIVES.get(name, ()):
        self.assertIn(into, ("", *row.folders))

  def test_imagenet_says_how_it_lies(self):
    with self.assertRaisesRegex(ValueError, "imagenet/images/val/WNID"):
      prepare.plan("imagenet", self.archives, self.root)
    with self.assertRaisesRegex(
        ValueError, "imagenet-c/{corruption}/{severity}/WNID"):
      prepare.plan("imagenet_c", self.archives, self.root)


if __name__ == "__main__":
  absltest.main()
