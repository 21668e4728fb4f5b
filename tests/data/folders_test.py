"""Tests of jaxcal.data.folders."""

import os

from absl.testing import absltest
from absl.testing import parameterized

from jaxcal.data import folders
from jaxcal.data import screening
from jaxcal.data import sources
from tests.data import files


class LeftBehindTest(files.FolderCase):

  @parameterized.parameters(
      "__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "$Recycle.Bin",
      "System Volume Information", "__pycache__", ".git", ".ipynb_checkpoints",
      "#recycle")
  def test_is_no_class_and_in_no_class(self, name):
    for one in ("cat/a.png", "dog/b.png", f"{name}/cat/._a.png",
                f"{name}/c.png", f"cat/{name}/a.png"):
      self.image(one)
    found = sources.image_folder(self.root)
    self.assertEqual(found.class_names, ("cat", "dog"))
    self.assertEqual(found.ids, ("cat/a.png", "dog/b.png"))

  def test_a_class_that_is_named_stays(self):
    self.image("lost+found/a.png")
    found = sources.image_folder(
        self.root, class_names={"lost+found": "lost property"})
    self.assertEqual(found.ids, ("lost+found/a.png",))

  def test_names_of_classes_that_resemble_them(self):
    for name in ("lost and found", "recycle bin", "pycache", "macosx"):
      self.assertFalse(folders.is_left_behind(name))


class LinksTest(files.FolderCase):

  def test_a_class_folder_may_be_a_link(self):
    self.image("far/a.png")
    self.image("near/ant/b.png")
    (self.root / "near/bee").symlink_to("../far")
    self.assertEqual(sources.image_folder(self.root / "near").ids,
                     ("ant/b.png", "bee/a.png"))

  def test_a_class_behind_a_link_without_an_end_is_said_to_be_missing(self):
    self.image("ant/a.png")
    (self.root / "bee").symlink_to("/nowhere/bee")
    (self.root / "circle").symlink_to("circle")
    with self.assertLogs(level="WARNING") as log:
      found = sources.image_folder(self.root)
    self.assertEqual(found.class_names, ("ant",))
    self.assertRegex(log.output[0], "bee is a link to /nowhere/bee, .* class "
                     "is missing")
    self.assertIn("circle is a link to circle", log.output[1])

  def test_links_in_a_circle_are_named(self):
    self.image("ant/a.png")
    (self.root / "bee").symlink_to(".")
    with self.assertRaisesRegex(ValueError, "bee/ant is a folder inside a cl"):
      sources.image_folder(self.root)

  def test_what_is_no_file_is_found_with_the_bad_images(self):
    self.image("ant/a.png")
    os.mkfifo(self.root / "ant/b.png")
    (self.root / "ant/c.png").symlink_to("/dev/zero")
    (self.root / "ant/d.png").symlink_to("nothing.png")
    os.mkfifo(self.root / "pipe")
    found = sources.image_folder(self.root)
    with self.assertRaisesRegex(
        ValueError, r"(?s)3 of 4 files .*ant/b.png: it is a FIFO.*"
        r"ant/c.png: it is a device.*ant/d.png: it is a link to nothing.png"):
      screening.check(found)


class NameOfTest(files.FolderCase):

  def test_names(self):
    inside = self.root / "images/cat"
    inside.mkdir(parents=True)
    for path in (self.root / "images", inside / "..", f"{self.root}/images/"):
      self.assertEqual(folders.name_of(path), "images")


if __name__ == "__main__":
  absltest.main()
