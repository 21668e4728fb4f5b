"""Checks of sets in other layouts than Caltech-101's, in miniature."""

import contextlib
import os
import pathlib
import subprocess

from absl.testing import absltest
from absl.testing import parameterized
from PIL import Image

from jaxcal.data import catalogue
from jaxcal.data import check
from jaxcal.data import findings
from tests.data import miniatures


class _InAFolder(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)

  def found(self, report):
    return {finding.kind: finding for finding in report.findings}


class ClassFoldersTest(_InAFolder):

  def setUp(self):
    super().setUp()
    self.row = catalogue.row("imagenet_a")
    self.folder = self.root / "imagenet-a"
    miniatures.images(
        self.folder, [f"{name}/1.jpg" for name in self.row.class_folders])

  def check(self):
    return self.found(check.benchmark("imagenet_a", self.root))

  def test_a_miniature_lacks_images_alone(self):
    found = self.check()
    self.assertEqual(set(found), {findings.COUNT})
    self.assertRegex(found[findings.COUNT].what, "has 200 images .* not 7,500")

  def test_renamed_extra_and_damaged(self):
    first, second = self.row.class_folders[:2]
    (self.folder / first).rename(
        self.folder / self.row.class_names[0].replace(" ", "_"))
    (self.folder / second / "1.jpg").write_bytes(b"no image")
    miniatures.images(self.folder, ["n00000000/1.jpg"])
    found = self.check()
    self.assertEqual(set(found), {
        findings.COUNT, findings.FOLDER_RENAMED, findings.FOLDER_EXTRA,
        findings.IMAGES})
    self.assertRegex(found[findings.FOLDER_RENAMED].mend, f"^mv .*/{first}$")
    self.assertIn("n00000000", found[findings.FOLDER_EXTRA].what)
    self.assertIn(f"{second}/1.jpg", found[findings.IMAGES].what)

  def test_missing(self):
    for name in self.row.class_folders[:2]:
      (self.folder / name / "1.jpg").unlink()
      (self.folder / name).rmdir()
    found = self.check()
    self.assertRegex(found[findings.FOLDER_ABSENT].what,
                     f"2 of 200 .*{self.row.class_folders[0]}")

  def test_nothing(self):
    found = self.found(check.benchmark("imagenet_r", self.root))
    self.assertEqual(set(found), {findings.ABSENT})
    self.assertRegex(found[findings.ABSENT].mend, "prepare imagenet_r")

  def test_imagenet_without_training_images_is_told_in_a_note(self):
    miniatures.images(self.root / "imagenet/val", [
        f"{name}/1.jpg" for name in catalogue.row("imagenet").class_folders])
    report = check.benchmark("imagenet", self.root, check.Look(True))
    self.assertEqual([count.split for count in report.counts], ["val"])
    self.assertRegex(report.notes[0], "no images of the split 'train'")


class AircraftTest(_InAFolder):

  def setUp(self):
    super().setUp()
    self.folder = self.root / "fgvc_aircraft"
    self.names = catalogue.row("fgvc_aircraft").class_names
    miniatures.images(self.folder / "images", [f"{n}.jpg" for n in range(8)])
    self.text("variants.txt", *self.names)
    for split, numbers in (("train", (0, 1)), ("val", (2, 3)),
                           ("trainval", (0, 1, 2, 3)), ("test", (4, 5))):
      self.text(f"images_variant_{split}.txt",
                *(f"{number} {self.names[number]}" for number in numbers))

  def text(self, name, *lines):
    (self.folder / name).write_text("".join(f"{line}\n" for line in lines))

  def check(self):
    found = self.found(check.benchmark("fgvc_aircraft", self.root))
    # Of a miniature.
    found.pop(findings.COUNT)
    found.pop(findings.CLASS_NAMES)
    return found

  def test_trainval_is_no_overlap(self):
    self.assertEqual(self.check(), {})

  def test_overlap_missing_list_and_line(self):
    self.text("images_variant_test.txt", f"4 {self.names[4]}",
              f"0 {self.names[0]}", "5 Zeppelin")
    (self.folder / "images_variant_val.txt").unlink()
    found = self.check()
    self.assertEqual(set(found), {
        findings.OVERLAP, findings.SPLIT_ABSENT, findings.SPLIT_DAMAGED})
    self.assertRegex(found[findings.OVERLAP].what, "images/0.jpg")
    self.assertRegex(found[findings.SPLIT_DAMAGED].what, "5 Zeppelin")

  def test_order_of_the_variants(self):
    self.text("variants.txt", *self.names[::-1])
    found = self.check()
    self.assertRegex(found[findings.CLASS_ORDER].what,
                     f"{self.names[0]!r} has label 99 in place of 0")


class CifarTest(_InAFolder):

  def test_each_split_is_told(self):
    folder = self.root / "cifar10"
    folder.mkdir()
    (folder / "test_batch.bin").write_bytes(bytes(3073 * 3))
    (folder / "data_batch_1.bin").write_bytes(bytes(3073 * 3 - 1))
    report = check.benchmark("cifar10", self.root)
    found = self.found(report)
    self.assertEqual(set(found), {findings.COUNT, findings.LAYOUT})
    self.assertRegex(found[findings.COUNT].what, "3 images .* not 10,000")
    self.assertRegex(found[findings.LAYOUT].what, "train: .*data_batch_1.bin ha"
                     "s 9,218 bytes, expected a multiple")
    self.assertRegex(found[findings.LAYOUT].mend, "data prepare cifar10")

  def test_the_python_version(self):
    folder = self.root / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("data_batch_1", "test_batch"):
      (folder / name).write_bytes(b"")
    found = self.found(check.benchmark("cifar10", self.root))
    self.assertRegex(found[findings.LAYOUT].what, "pickles")


class OwnTest(_InAFolder):

  def check(self, name, **options):
    return self.found(check.own_path(str(self.root / name), **options))

  def test_clean(self):
    miniatures.images(self.root / "own", ["cat/1.png", "dog/1.png"])
    report = check.own_path(str(self.root / "own"))
    self.assertEqual(report.findings, ())
    self.assertEqual((report.name, report.num_classes, set(report.contents)),
                     ("own", 2, {"images"}))

  def test_an_image_that_no_views_can_be_made_of(self):
    miniatures.images(self.root / "own", ["cat/1.png"])
    Image.new("L", (17_000, 2)).save(self.root / "own/cat/2.png")
    for headers_only in (False, True):
      found = self.check("own", look=check.Look(headers_only))
      self.assertEqual(set(found), {findings.IMAGES})
      self.assertIn("cat/2.png (", found[findings.IMAGES].what)

  def test_everything_at_once(self):
    miniatures.images(self.root / "own", [
        "cat/1.png", "T_shirt/1.png", "t shirt/1.png", "dog/bad.png"])
    (self.root / "own/dog/bad.png").write_bytes(b"")
    (self.root / "own/t shirt/2.png").write_bytes(
        (self.root / "own/cat/1.png").read_bytes())
    (self.root / "own/empty").mkdir()
    report = check.own_path(str(self.root / "own"))
    found = self.found(report)
    self.assertEqual(set(found), {
        findings.CLASS_NAMES, findings.IMAGES, findings.CONTENTS})
    self.assertIn("dog/bad.png", found[findings.IMAGES].what)
    self.assertRegex(found[findings.CONTENTS].what,
                     "1 pictures are of two classes: cat/1.png and t shirt/2")
    self.assertRegex("\n".join(report.notes), "1 classes have no image .*empty")

  def test_one_level_too_high_hides_no_damage(self):
    miniatures.images(self.root, ["own/a/cat/1.png", "own/a/cat/2.png"])
    (self.root / "own/a/cat/2.png").write_bytes(b"GIF8")
    found = self.check("own")
    self.assertEqual(set(found), {findings.LAYOUT, findings.IMAGES})
    self.assertRegex(found[findings.LAYOUT].what, "folder inside a class fold")

  def test_a_list(self):
    miniatures.images(self.root, ["1.png", "2.png"])
    (self.root / "own.csv").write_text(
        "path,label\n1.png,cat\n2.png,\n3.png,dog\n1.png,cat\n4.png,dog\n")
    found = self.check("own.csv")
    self.assertEqual(set(found), {
        findings.LAYOUT, findings.SPLIT_DAMAGED, findings.FILES_ABSENT,
        findings.REPEATED})
    self.assertRegex(found[findings.SPLIT_DAMAGED].what, "line 3")
    self.assertRegex(found[findings.FILES_ABSENT].what, "2 .*3.png, 4.png")
    self.assertRegex(found[findings.REPEATED].what, "1 .*1.png")

  def test_a_list_with_a_name_that_no_file_can_have(self):
    miniatures.images(self.root, ["1.png"])
    (self.root / "own.csv").write_text(
        f"path,label\n1.png,cat\n{'c' * 300}.png,dog\n")
    self.assertIn(findings.FILES_ABSENT, self.check("own.csv"))

  def test_folders_deeper_than_recursion_and_links_in_a_circle(self):
    # Python would remove them by recursion.
    self.addCleanup(subprocess.run, ["rm", "-r", self.root / "a"], check=True)
    with contextlib.chdir(self.root):
      for _ in range(1200):
        os.mkdir("a")
        os.chdir("a")
      os.symlink(self.root, "circle")
    found = self.check("")
    self.assertEqual(set(found), {findings.LAYOUT})

  def test_nothing_and_no_image_set(self):
    with self.assertRaisesRegex(FileNotFoundError, "no file or folder"):
      self.check("none")
    (self.root / "a.jpg").write_bytes(b"")
    self.assertEqual(set(self.check("a.jpg")), {findings.LAYOUT})


class CorruptedTest(absltest.TestCase):

  def test_says_how_to_check_one_corruption(self):
    with self.assertRaisesRegex(ValueError, "/data/imagenet-c/fog/3"):
      check.benchmark("imagenet_c", "/data")


if __name__ == "__main__":
  absltest.main()
