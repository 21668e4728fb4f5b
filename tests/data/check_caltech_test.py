"""What a check says of each damage to Caltech-101, on a stand-in for it.

The damaged copies are made of links; the stand-in itself is only read.
"""

import json
import pathlib
import shutil
import subprocess
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import pytest

from jaxcal.data import catalogue
from jaxcal.data import check
from jaxcal.data import findings
from tests.data import caltech_stand_in

_HEADERS = check.Look(headers_only=True)
_SPLIT, _IMAGES = caltech_stand_in.SPLIT, caltech_stand_in.IMAGES


class _Copy:
  """A copy of the set, of which one part after the other may be damaged."""

  def __init__(self, original: pathlib.Path, root: pathlib.Path):
    self.root, self.folder = root, root / "caltech-101"
    self.images = self.folder / _IMAGES
    self._original = original / _IMAGES
    self.images.mkdir(parents=True)
    shutil.copy(original / _SPLIT, self.folder / _SPLIT)
    for folder in self._original.iterdir():
      (self.images / folder.name).symlink_to(folder)

  def own(self, name):
    """A class folder of the copy's own, of links to files."""
    folder = self.images / name
    if folder.is_symlink():
      folder.unlink()
      folder.mkdir()
      for path in (self._original / name).iterdir():
        (folder / path.name).symlink_to(path)
    return folder

  def put(self, path, content):
    """Gives an image other bytes."""
    path = pathlib.PurePath(path)
    file = self.own(path.parent.name) / path.name
    file.unlink()
    file.write_bytes(content)

  def bytes_of(self, path):
    return (self._original / path).read_bytes()

  def lists(self, change):
    """Changes the lists by split."""
    path = self.folder / _SPLIT
    lists = json.loads(path.read_text())
    path.write_text(json.dumps(change(lists) or lists))


def _file_missing(copy):
  (copy.own("yin_yang") / "image_0007.jpg").unlink()


def _suffix_changed(copy):
  file = copy.own("yin_yang") / "image_0007.jpg"
  file.rename(file.with_suffix(".JPG"))


def _images_renamed(copy):
  copy.images.rename(copy.folder / "101_objectcategories")


def _images_too_deep(copy):
  (copy.folder / "caltech-101").mkdir()
  copy.images.rename(copy.folder / "caltech-101" / _IMAGES)


def _folder_missing(copy):
  (copy.images / "yin_yang").unlink()


def _folder_renamed(copy):
  (copy.images / "yin_yang").rename(copy.images / "Yin-Yang")


def _folders_swapped(copy):
  first, second, aside = (copy.images / name for name in (
      "yin_yang", "wrench", "aside"))
  first.rename(aside)
  second.rename(first)
  aside.rename(second)


def _extra_folder(copy):
  (copy.images / "dragon").symlink_to((copy.images / "ant").resolve())


def _cut(copy):
  path = "yin_yang/image_0007.jpg"
  copy.put(path, copy.bytes_of(path)[:1000])


def _empty(copy):
  copy.put("yin_yang/image_0007.jpg", b"")


def _no_image(copy):
  copy.put("yin_yang/image_0007.jpg", b"<html>404 not found</html>")


def _no_split_file(copy):
  (copy.folder / _SPLIT).unlink()


def _cut_split_file(copy):
  path = copy.folder / _SPLIT
  path.write_text(path.read_text()[:5000])


def _deep_split_file(copy):
  (copy.folder / _SPLIT).write_text("[" * 100_000)


def _split_file_of_another(copy):
  names = catalogue.row("dtd").class_names
  copy.lists(lambda _: {split: [
      [f"{name}/{name}_{number:04}.jpg", label, name]
      for label, name in enumerate(names) for number in numbers]
                        for split, numbers in (
                            ("train", range(4)), ("val", range(4, 6)),
                            ("test", range(6, 9)))})


def _all_labels_off(copy):
  copy.lists(lambda lists: {split: [[path, label + 1, name]
                                    for path, label, name in rows]
                            for split, rows in lists.items()})


def _label_off(copy):
  def change(lists):
    lists["test"][5][1] += 1
  copy.lists(change)


def _last_label_off(copy):
  def change(lists):
    row = next(row for row in lists["test"] if row[1] == 99)
    row[1] += 1
  copy.lists(change)


def _order_changed(copy):
  def change(lists):
    names = sorted({row[2] for row in lists["test"]})
    return {split: [[path, names.index(name), name] for path, _, name in rows]
            for split, rows in lists.items()}
  copy.lists(change)


def _listed_as_another(copy):
  def change(lists):
    row = next(row for row in lists["train"] if row[2] == "yin_yang")
    row[1:] = [0, "face"]
  copy.lists(change)


def _two_classes_listed_as_each_other(copy):
  def change(lists):
    exchanged = {"yin_yang": [98, "wrench"], "wrench": [99, "yin_yang"]}
    return {split: [[path, *exchanged.get(name, (label, name))]
                    for path, label, name in rows]
            for split, rows in lists.items()}
  copy.lists(change)


def _extra_class(copy):
  def change(lists):
    row = next(row for row in lists["train"] if row[2] == "ant")
    row[1:] = [100, "dragon"]
  copy.lists(change)


def _twice(copy):
  copy.lists(lambda lists: lists["test"].__setitem__(3, lists["test"][4]))


def _overlap(copy):
  def change(lists):
    test = next(row for row in lists["test"] if row[1] == 7)
    train = next(row for row in lists["train"] if row[1] == 7)
    train[0] = test[0]
  copy.lists(change)


def _odd_entries(copy):
  def change(lists):
    lists["val"] += [["../../etc/passwd", 3, "accordion"], ["a.jpg", "3"], None]
  copy.lists(change)


# Each damage with what is found: kind, words, words of the mend.
_DAMAGES = (
    (_file_missing, (findings.FILES_ABSENT, "1 listed files .*yin_yang/image_"
                     "0007.jpg", "jaxcal data prepare caltech101")),
    (_suffix_changed, (findings.FILES_ABSENT, "yin_yang/image_0007.jpg",
                       r"^mv \S*0007.JPG \S*0007.jpg$")),
    (_images_renamed, (findings.FOLDER_RENAMED, "images are in .*jectcategories"
                       ", where they are not looked for",
                       r"^mv \S*101_objectcategories \S*101_ObjectCategories$"
                       )),
    (_images_too_deep, (findings.FOLDER_RENAMED,
                        "images are in .*caltech-101/caltech-101/101_Obj",
                        "^mv .*/caltech-101/101_ObjectCategories$")),
    (_folder_missing, (findings.FOLDER_ABSENT,
                       "1 of 100 folders .* 97 images: yin_yang", "prepare")),
    (_folder_renamed, (findings.FOLDER_RENAMED, "Yin-Yang has .* yin_yang",
                       r"^mv \S*/Yin-Yang \S*/yin_yang$")),
    (_folders_swapped, (findings.FOLDERS_SWAPPED, "yin_yang|wrench",
                        r"^mv .* && mv .* && mv ")),
    (_extra_folder, (findings.FOLDER_EXTRA, "dragon with 56 images", "move")),
    (_empty, (findings.IMAGES, r"1 files .*yin_yang/image_0007.jpg \(",
              "prepare")),
    (_no_image, (findings.IMAGES, r"1 files .*yin_yang/image_0007.jpg \(",
                 "prepare")),
    (_no_split_file, (findings.SPLIT_ABSENT, f"no {_SPLIT} for caltech101",
                      f"put the published {_SPLIT} at .*/caltech-101/{_SPLIT}"
                      )),
    (_cut_split_file, (findings.SPLIT_DAMAGED, "no JSON", "put the pub")),
    (_deep_split_file, (findings.SPLIT_DAMAGED, "no JSON: .*recursion", "put")),
    (_split_file_of_another, (findings.SPLIT_OF_OTHER,
                              "has the classes of dtd, not of caltech101",
                              "put the published")),
    (_all_labels_off, (findings.LABELS, "all 8,242 labels .* 1 too high: "
                       "'face' has 1 in place of 0", "^subtract 1 from every")),
    (_label_off, (findings.LABELS, "1 entries .* is a 'face' with label 1 in "
                  "place of 0", "write these labels")),
    (_last_label_off, (findings.LABELS, "is a 'yin_yang' with label 100 in "
                       "place of 99", "write these labels")),
    (_order_changed, (findings.CLASS_ORDER, "'accordion' has label 0 in place "
                      "of 3", "put the published")),
    (_listed_as_another, (findings.LABELS, "1 images under another class than "
                          "the rest of their folder: yin_yang/.* as 'face', not"
                          " 'yin_yang'", "as their folder says")),
    (_two_classes_listed_as_each_other, (
        findings.LABELS, "2 folders as other classes .*(yin_yang as 'wrench'|"
        "wrench as 'yin_yang')", "put the published")),
    (_extra_class, (findings.CLASS_NAMES, r"1 classes that are none of the 100:"
                    r" 'dragon' \(1 images\)", "put the published")),
    (_twice, (findings.REPEATED, "1 images more than once in a split",
              "leave one of each")),
    (_overlap, (findings.OVERLAP, "1 images of .* are in train and in test",
                "put the published")),
    (_odd_entries, (findings.SPLIT_DAMAGED, "3 entries that are no .*passwd",
                    "put the published")),
)
# What a damage brings with it.
_ALSO = {_extra_class: {findings.LABELS}}


class CaltechTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.original = caltech_stand_in.folder()

  def copy(self):
    return _Copy(self.original,
                 pathlib.Path(self.create_tempdir().full_path))

  @parameterized.parameters(*_DAMAGES)
  @pytest.mark.slow
  def test_damage(self, damage, expected):
    kind, what, mend = expected
    copy = self.copy()
    damage(copy)
    report = check.benchmark("caltech101", copy.root, _HEADERS)
    found = {finding.kind: finding for finding in report.findings}
    self.assertEqual(set(found), {kind} | _ALSO.get(damage, set()),
                     findings.text(report))
    self.assertRegex(found[kind].what, what)
    self.assertRegex(found[kind].mend, mend)

  @pytest.mark.slow
  def test_what_lies_behind_the_header(self):
    copy = self.copy()
    _cut(copy)
    report = check.benchmark("caltech101", copy.root, _HEADERS)
    self.assertEqual(report.findings, ())
    self.assertRegex("\n".join(report.notes), "only headers were looked at")
    # All others were decoded in `test_clean`.
    look_at = check._look_at
    with mock.patch.object(check, "_look_at", lambda image, look: look_at(
        image, look if image.parent.name == "yin_yang" else _HEADERS)):
      report = check.benchmark("caltech101", copy.root)
    finding, = report.findings
    self.assertEqual(finding.kind, findings.IMAGES)
    self.assertRegex(finding.what, r"1 files .*yin_yang/image_0007.jpg \(")

  def test_one_damage_hides_no_other(self):
    copy = self.copy()
    for damage in (_no_image, _label_off, _overlap, _extra_folder,
                   _odd_entries):
      damage(copy)
    (copy.own("yin_yang") / "image_0008.jpg").unlink()
    (copy.images / "wrench").rename(copy.images / "wrenches")
    report = check.benchmark("caltech101", copy.root, _HEADERS)
    self.assertCountEqual(
        [finding.kind for finding in report.findings],
        [findings.FILES_ABSENT, findings.IMAGES, findings.LABELS,
         findings.OVERLAP, findings.FOLDER_EXTRA, findings.SPLIT_DAMAGED,
         findings.FOLDER_RENAMED])

  def test_mends_that_are_commands_mend(self):
    copy = self.copy()
    _folders_swapped(copy)
    file = copy.own("bass") / "image_0007.jpg"
    file.rename(file.with_suffix(".JPEG"))
    (copy.images / "ant").rename(copy.images / "some ants")
    report = check.benchmark("caltech101", copy.root, _HEADERS)
    self.assertLen(report.findings, 3)
    for finding in report.findings:
      subprocess.run(finding.mend, shell=True, check=True)
    report = check.benchmark("caltech101", copy.root, _HEADERS)
    self.assertEqual(report.findings, ())

  @pytest.mark.slow
  def test_exchanged_pictures_show_in_the_contents_alone(self):
    copy = self.copy()
    clean = check.benchmark("caltech101", copy.root, _HEADERS).contents
    first, second = "yin_yang/image_0001.jpg", "wrench/image_0001.jpg"
    copy.put(first, copy.bytes_of(second))
    copy.put(second, copy.bytes_of(first))
    report = check.benchmark("caltech101", copy.root, _HEADERS)
    self.assertEqual(report.findings, ())
    self.assertNotEqual(report.contents, clean)

  @pytest.mark.slow
  def test_classes_that_the_benchmark_leaves_out(self):
    copy = self.copy()
    (copy.images / "BACKGROUND_Google").symlink_to(
        (copy.images / "ant").resolve())
    report = check.benchmark("caltech101", copy.root, _HEADERS)
    self.assertEqual(report.findings, ())
    self.assertRegex("\n".join(report.notes), "leaves out BACKGROUND_Google")


if __name__ == "__main__":
  absltest.main()
