"""`jaxcal data` as a user runs it."""

import io
import pathlib
import tarfile

from absl.testing import absltest
from absl.testing import parameterized
import pytest

from jaxcal.data import catalogue
from jaxcal.testbed import sets
from tests.cli import command
from tests.data import miniatures


class DataTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.here = pathlib.Path(self.create_tempdir().full_path)

  def run_here(self, *arguments):
    return command.here("data", *arguments, folder=self.here)

  def test_list(self):
    (self.here / "DTD").mkdir()
    status, printed, _ = self.run_here("list", "--root=.")
    self.assertEqual(status, 0)
    names = [line.split()[0] for line in printed.splitlines()
             if line.startswith("  ") and line[2] != " "]
    self.assertEqual(names, [*sets.NAMES, *catalogue.CATALOGUE])
    for words in ("Describable Textures Dataset: 47 classes; 2,820 train, 1,128"
                  " val, 1,692 test", "found:   DTD", "not found below .",
                  "licence: CC BY 4.0", "archives: cifar-10-binary",
                  "listed in split_zhou_EuroSAT.json"):
      self.assertIn(words, printed)
    self.assertNotIn("found", self.run_here("list")[1])

  def test_check_a_folder(self):
    miniatures.images(self.here / "own", ["cat/1.png", "dog/1.png"])
    status, printed, _ = self.run_here("check", "own")
    self.assertEqual((status, printed.splitlines()[-1]), (0, "own is clean"))
    (self.here / "own/cat/1.png").write_bytes(b"")
    for flag in ("--headers_only", "--noheaders_only"):
      status, printed, _ = self.run_here("check", "./own", flag)
      self.assertEqual(status, 1)
      self.assertRegex(printed, r"(?s)1\. damaged images: .*cat/1.png.*mend: .*"
                       "own: 1 finding\n$")

  @pytest.mark.slow
  def test_a_shipped_set(self):
    status, printed, _ = self.run_here("check", "digits")
    self.assertEqual((status, printed.splitlines()[-1]), (0, "digits is clean"))

  def test_prepare_says_what_it_does_and_checks(self):
    names = catalogue.row("eurosat").class_names
    rows = [[f"{name}/1.jpg", label, name] for label, name in enumerate(names)]
    miniatures.images(self.here / "made", [row[0] for row in rows])
    miniatures.split_file(
        self.here / "downloads/split_zhou_EuroSAT.json", test=rows)
    with tarfile.open(self.here / "downloads/EuroSAT.tar", "w") as archive:
      for path, *_ in rows:
        archive.add(self.here / "made" / path, f"2750/{path}")
    status, printed, error = self.run_here(
        "prepare", "eurosat", "--root=sets", "--archives=downloads")
    self.assertEqual(status, 1, error)  # too few images
    self.assertRegex(printed, r"(?s)EuroSAT.tar: 10 files of .* go below sets/"
                     r"eurosat\n.*EuroSAT.tar: 10 files written.*split_zhou_Eur"
                     r"oSAT.json is in place.*lists 10 images under 'test', not"
                     " 8,100")
    self.assertLen(catalogue.load(
        "eurosat", self.here / "sets", partial=True).ids, 10)

  def test_a_hostile_archive_is_refused_in_words(self):
    (self.here / "downloads").mkdir()
    with tarfile.open(self.here / "downloads/EuroSAT.tar", "w") as archive:
      archive.addfile(tarfile.TarInfo("../../bad"), io.BytesIO())
    status, printed, error = self.run_here(
        "prepare", "eurosat", "--root=sets", "--archives=downloads")
    self.assertEqual((status, printed), (2, ""))
    self.assertIn("'../../bad' leads out of the folder", error)
    self.assertFalse((self.here / "sets").exists())

  @parameterized.parameters(
      ((), "expected one list|check NAME|prepare NAME"),
      (("look",), "unknown 'look'; choose from: list, check, prepare"),
      (("check",), "check takes one name, got 0"),
      (("check", "a", "b"), "check takes one name, got 2"),
      (("list", "a"), "list takes no name, got 1"),
      (("check", "dtd"), "--root is missing, the folder that holds dtd"),
      (("check", "nowhere"), "no file or folder nowhere"),
      (("prepare", "dtd", "--root=."), "--archives is missing"),
      (("prepare", "nowhere", "--root=.", "--archives=."),
       "unknown data set 'nowhere'"),
      (("check", "own", "--config.data.limit=3"), "has no effect on"))
  def test_refused(self, arguments, message):
    status, printed, error = self.run_here(*arguments)
    self.assertEqual((status, printed), (2, ""))
    self.assertIn(message, error)
    self.assertNotIn("Traceback", error)


if __name__ == "__main__":
  absltest.main()
