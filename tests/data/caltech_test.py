"""The readers and the few-shot protocol on the whole of Caltech-101.

Held against an independent reading: json, random and Pillow alone.
"""

import collections
import json
import pathlib
import random

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
from PIL import Image
import pytest

from jaxcal.data import catalogue
from jaxcal.data import coop
from jaxcal.data import decoding
from jaxcal.data import load
from jaxcal.data import views
from jaxcal.tuning import protocol
from jaxcal.tuning import task
from tests import shared

_COUNTS = {"train": 4128, "val": 1649, "test": 2465}
# Folders of the authors that the benchmark calls otherwise.
_RENAMED = {"Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike",
            "airplanes": "airplane"}
# Narrow, wide, small, large and grey ones; no other modes are among them.
_ODD = {
    "flamingo/image_0002.jpg": ("RGB", (80, 300)),
    "airplanes/image_0433.jpg": ("RGB", (400, 103)),
    "Leopards/image_0061.jpg": ("RGB", (128, 192)),
    "Faces/image_0163.jpg": ("RGB", (708, 468)),
    "yin_yang/image_0042.jpg": ("L", (295, 300)),
}


class _CaltechCase(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = shared.path("data/caltech-101")
    self.root = self.folder.parent
    self.images = self.folder / "101_ObjectCategories"
    self.split_file = self.folder / "split_zhou_Caltech101.json"
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


class SplitsTest(_CaltechCase):

  @parameterized.parameters(*_COUNTS)
  def test_images_labels_and_names(self, split):
    found = catalogue.load("caltech101", self.root, split=split)
    self.assertLen(found.ids, _COUNTS[split])
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
                       _RENAMED.get(folder, folder.lower()))

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


class PixelsTest(_CaltechCase):

  def assert_read_as_by_pillow(self, found, position):
    """Returns the mode of the file."""
    pixels = found.read(position)
    views.check_image(pixels)
    with Image.open(self.images / found.ids[position]) as image:
      np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))
      return image.mode

  def test_grey_images_and_every_twentieth(self):
    found = catalogue.load("caltech101", self.root)
    grey = 0
    for position, image_id in enumerate(found.ids):
      with Image.open(self.images / image_id) as image:
        is_grey = image.mode == "L"
      if is_grey or position % 20 == 0:
        self.assert_read_as_by_pillow(found, position)
      if is_grey:
        grey += 1
        pixels = found.read(position)
        self.assertTrue((pixels == pixels[..., :1]).all(), image_id)
    self.assertEqual(grey, 119)

  @pytest.mark.slow
  def test_no_image_is_cut_off_or_damaged(self):
    modes = collections.Counter()
    for split in _COUNTS:
      found = catalogue.load("caltech101", self.root, split=split)
      for position in range(len(found.ids)):
        modes[self.assert_read_as_by_pillow(found, position)] += 1
    self.assertEqual(modes, {"RGB": 7861, "L": 381})

  @parameterized.parameters(*_ODD)
  def test_clean_view_of_an_odd_image(self, image_id):
    with Image.open(self.images / image_id) as image:
      self.assertEqual((image.mode, image.size), _ODD[image_id])
      pixels = decoding.decode(self.images / image_id)
      smaller = min(image.size)
      width, height = (224 * side // smaller for side in image.size)
      # Across, then down, as Pillow did in all versions before 13.
      resized = image.resize((width, image.height), Image.Resampling.BICUBIC)
      resized = resized.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (round((side - 224) / 2) for side in resized.size)
    expected = np.asarray(resized.crop(
        (left, top, left + 224, top + 224)).convert("RGB"))
    canvas = views.on_canvas(pixels, views.canvas_shape(*pixels.shape[:2]))
    clean = jax.jit(views.clean_view, static_argnames=("resize", "crop"))(
        canvas, np.array(pixels.shape[:2]), resize=224, crop=224)
    self.assertLessEqual(
        np.abs(np.asarray(clean).astype(int) - expected).max(), 2)


class FewShotTest(_CaltechCase):

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
    for half, labels, number in (("base", range(50), 1549),
                                 ("new", range(50, 100), 916)):
      test, rows = found.tests[half], self.rows("test", labels)
      self.assertLen(test.ids, number)
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
    for classes, number, first, last in (
        ("base", 1549, "face", "helicopter"),
        ("new", 916, "ibis", "yin_yang")):
      found = load.images("caltech101", root=self.root, classes=classes)
      self.assertLen(found.ids, number)
      self.assertEqual(
          (found.class_names[0], found.class_names[-1]), (first, last))
      self.assertEqual(
          load.class_names("caltech101", classes=classes), found.class_names)


if __name__ == "__main__":
  absltest.main()
