"""What holds for the whole of Caltech-101, and for a stand-in of it.

The readers and the few-shot protocol are held against an independent reading:
json and random alone.
"""

import collections
import json
import pathlib
import random

from absl.testing import parameterized
import numpy as np

from jaxcal.data import catalogue
from jaxcal.data import check
from jaxcal.data import coop
from jaxcal.data import load
from jaxcal.tuning import protocol
from jaxcal.tuning import task
from tests.data import caltech_stand_in


class CaltechCase(parameterized.TestCase):
  """Tests of a copy of the set; `folder` is where that lies."""

  folder: pathlib.Path
  # Test images of the first and of the last 50 classes.
  halves: dict[str, int]

  def setUp(self):
    super().setUp()
    self.root = self.folder.parent
    self.images = self.folder / caltech_stand_in.IMAGES
    self.split_file = self.folder / caltech_stand_in.SPLIT
    self.lists = json.loads(self.split_file.read_text())

  def rows(self, split, labels=range(100)):
    """The entries of a split with one of some labels, in its order."""
    return [row for row in self.lists[split] if row[1] in labels]

  def drawn(self, seed, num_shots=16):
    """Entries of both splits that the published sampler draws."""
    random.seed(seed)
    drawn = {}
    for split, number in (("train", num_shots), ("val", min(num_shots, 4))):
      of_label = collections.defaultdict(list)
      for row in self.lists[split]:
        of_label[row[1]].append(row)
      drawn[split] = [row for rows in of_label.values()
                      for row in random.sample(rows, number)]
    return drawn

  def clean_report(self, look=check.Look()):
    """What a check says, once it is seen to be of a set without damage."""
    report = check.benchmark("caltech101", self.root, look)
    self.assertEqual(report.findings, ())
    self.assertEqual([(count.split, count.listed, count.there, count.expected)
                      for count in report.counts],
                     [(split, number, number, number) for split, number
                      in caltech_stand_in.COUNTS.items()])
    self.assertEqual(report.num_classes, 100)
    return report


class Splits(CaltechCase):

  @parameterized.parameters(*caltech_stand_in.COUNTS)
  def test_images_labels_and_names(self, split):
    found = catalogue.load("caltech101", self.root, split=split)
    self.assertLen(found.ids, caltech_stand_in.COUNTS[split])
    rows = self.lists[split]
    self.assertEqual(list(found.ids), [row[0] for row in rows])
    np.testing.assert_array_equal(found.labels, [row[1] for row in rows])
    for label, (_, _, name) in zip(found.labels, rows):
      self.assertEqual(found.class_names[label], name)
    self.assertEqual(
        [found.path(i) for i in range(len(rows))],
        [self.images / row[0] for row in rows])

  def test_the_splits_share_no_image_and_are_all_of_them(self):
    listed = [row[0] for rows in self.lists.values() for row in rows]
    there = [path.relative_to(self.images).as_posix()
             for path in self.images.glob("*/*.jpg")]
    self.assertCountEqual(listed, there)

  def test_the_folder_of_an_image_is_its_class(self):
    found = catalogue.load("caltech101", self.root)
    for image, label in zip(found.ids, found.labels):
      folder = pathlib.PurePosixPath(image).parent.name
      self.assertEqual(found.class_names[label],
                       caltech_stand_in.RENAMED.get(folder, folder.lower()))

  def test_class_order(self):
    names = load.class_names("caltech101")
    self.assertLen(set(names), 100)
    self.assertEqual(names[:5], (
        "face", "leopard", "motorbike", "accordion", "airplane"))
    self.assertEqual(names[5:], tuple(sorted(names[5:])))
    self.assertEqual(names, coop.entries(self.split_file, "test")[0])

  def test_by_its_name(self):
    found = load.images("caltech101", root=self.root, limit=200)
    self.assertEqual(collections.Counter(found.labels.tolist()),
                     {label: 2 for label in range(100)})

  def test_a_copy_that_lacks_a_class_is_refused_and_a_part_is_taken(self):
    copy = pathlib.Path(self.create_tempdir().full_path) / "Caltech101"
    copy.mkdir()
    for folder in (self.split_file, *self.images.iterdir()):
      if folder.name != "yin_yang":
        (copy / folder.name).symlink_to(folder)
    absent = len(self.rows("test", [99]))
    with self.assertRaisesRegex(
        FileNotFoundError, rf"(?s){absent} of the 2465 images.*yin_yang/"):
      catalogue.load("caltech101", copy.parent)
    with self.assertLogs(level="WARNING"):
      part = catalogue.load("caltech101", copy.parent, partial=True)
    self.assertLen(part.ids, 2465 - absent)
    self.assertLen(part.class_names, 100)


class FewShot(CaltechCase):

  @parameterized.parameters(1, 2, 3)
  def test_shots_are_the_published_ones(self, seed):
    train, val = (catalogue.load("caltech101", self.root, split=split)
                  for split in ("train", "val"))
    shots = protocol.few_shot(train, val, num_shots=16, seed=seed)
    expected = self.drawn(seed)
    for found, split, number in ((shots.train, "train", 16),
                                 (shots.val, "val", 4)):
      self.assertLen(expected[split], number * 100)
      self.assertEqual(list(found.ids), [row[0] for row in expected[split]])
      np.testing.assert_array_equal(
          found.labels, [row[1] for row in expected[split]])

  def test_base_to_new(self):
    found = task.of_splits(
        catalogue.load("caltech101", self.root, split="train"),
        catalogue.load("caltech101", self.root))
    names = {row[1]: row[2] for row in self.lists["test"]}
    for half, labels in (("base", range(50)), ("new", range(50, 100))):
      test, rows = found.tests[half], self.rows("test", labels)
      self.assertLen(test.ids, self.halves[half])
      self.assertEqual(list(test.ids), [row[0] for row in rows])
      self.assertEqual(
          list(test.class_names), [names[label] for label in labels])
      np.testing.assert_array_equal(
          test.labels, [row[1] - labels[0] for row in rows])
    self.assertEqual(found.class_names, found.tests["base"].class_names)
    for seed in found.seeds:
      shots = found.shots(seed)
      # All classes are drawn from before the new ones are left out.
      expected = [row for row in self.drawn(seed)["train"] if row[1] < 50]
      self.assertEqual(list(shots.ids), [row[0] for row in expected])
      np.testing.assert_array_equal(shots.labels, [row[1] for row in expected])

  def test_all_classes(self):
    found = task.of_splits(
        catalogue.load("caltech101", self.root, split="train"),
        catalogue.load("caltech101", self.root), classes="all")
    self.assertEqual(
        list(found.shots(2).ids), [row[0] for row in self.drawn(2)["train"]])
    self.assertLen(found.tests["all"].ids, 2465)

  def test_halves_by_their_name(self):
    for classes, first, last in (("base", "face", "helicopter"),
                                 ("new", "ibis", "yin_yang")):
      found = load.images("caltech101", root=self.root, classes=classes)
      self.assertLen(found.ids, self.halves[classes])
      self.assertEqual(
          (found.class_names[0], found.class_names[-1]), (first, last))
      self.assertEqual(
          load.class_names("caltech101", classes=classes), found.class_names)
