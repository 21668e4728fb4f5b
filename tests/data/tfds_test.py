"""Tests of jaxcal.data.tfds, on small data sets prepared without TensorFlow."""

import base64
import concurrent.futures
import json
import pathlib
import subprocess
import sys
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from jaxcal.data import screening
from jaxcal.data import tfds
from tests.data import miniatures

# Two examples as TensorFlow 2.21 wrote them (tfds build, file format tfrecord):
# PNG images of 2 x 1 pixels with all channels 10 and 20 (label 0, file name
# "a/1.png") and 30 and 40 (label 1, "b/2.png"), in another order.
_TFRECORD = """
hQAAAAAAAADpisxZCoIBChgKCWZpbGVfbmFtZRILCgkKB2IvMi5wbmcKDgoFbGFiZWwSBRoDCgEB
ClYKBWltYWdlEk0KSwpJiVBORw0KGgoAAAANSUhEUgAAAAEAAAACCAIAAAAW4yFwAAAAEElEQVR4
nGOQk5Nj4uLiAgACaAB7Szn2MgAAAABJRU5ErkJgghJZbfKFAAAAAAAAAOmKzFkKggEKGAoJZmls
ZV9uYW1lEgsKCQoHYS8xLnBuZwoOCgVsYWJlbBIFGgMKAQAKVgoFaW1hZ2USTQpLCkmJUE5HDQoa
CgAAAA1JSERSAAAAAQAAAAIIAgAAABbjIXAAAAAQSURBVHicY+Di4mLi4uICAAEAAD+7jBHfAAAA
AElFTkSuQmCCGza9bw==
"""


class ReadTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)

  @parameterized.parameters(True, False)
  def test_labels_are_joined_by_name_and_files_are_sorted(self, encoded):
    rows = [("b/2.png", 1, miniatures.pixels(0)),
            ("a/1.png", 0, miniatures.pixels(1)),
            ("b/1.png", 1, miniatures.pixels(2))]
    miniatures.prepare(
        self.root, "dots", {"train": rows[:1], "test": rows[1:]},
        classes=["polka_dotted", "Banded"], encoded=encoded)
    image_set = tfds.read(self.root, "dots", split="train+test",
                          class_names=["banded", "polka-dotted"])
    self.assertEqual(image_set.name, "dots")
    self.assertEqual(image_set.class_names, ("banded", "polka-dotted"))
    self.assertEqual(image_set.ids, ("b/1.png", "b/2.png", "a/1.png"))
    np.testing.assert_array_equal(image_set.labels, [0, 0, 1])
    for position, seed in enumerate((2, 0, 1)):
      image = image_set.read(position)
      self.assertEqual(image.dtype, np.uint8)
      np.testing.assert_array_equal(image, miniatures.pixels(seed))
    one_split = tfds.read(self.root, "dots", split="train",
                          class_names=["banded", "polka-dotted"])
    self.assertEqual(one_split.ids, ("b/2.png",))

  @parameterized.parameters(True, False)
  def test_headers_are_looked_at_where_images_are_encoded(self, encoded):
    narrow = np.zeros((2000, 1, 3), np.uint8)
    miniatures.prepare(
        self.root, "dots", {"test": [("a.png", 0, narrow)]}, classes=["dot"],
        encoded=encoded)
    image_set = tfds.read(
        self.root, "dots", split="test", class_names=["dot"])
    if not encoded:
      self.assertIsNone(image_set.encoded)
      screening.check(image_set)
      return
    with self.assertRaisesRegex(
        ValueError, r"(?s)1 of 1 files of 'dots' .*a\.png: cannot make views"):
      screening.check(image_set)

  def test_many_threads_read_what_one_reads(self):
    rows = [(f"{i:02}.png", i % 3, miniatures.pixels(i, 5 + i))
            for i in range(30)]
    miniatures.prepare(
        self.root, "many", {"test": rows}, classes=["a", "b", "c"])
    image_set = tfds.read(self.root, "many", split="test",
                          class_names=["a", "b", "c"])
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
      images = list(pool.map(image_set.read, range(30)))
    for file, image in zip(image_set.ids, images):
      number = int(file[:2])
      np.testing.assert_array_equal(
          image, miniatures.pixels(number, 5 + number))

  def test_tfrecord_as_tensorflow_wrote_it(self):
    grey = np.zeros((1, 1, 3), np.uint8)
    folder = miniatures.prepare(
        self.root, "two",
        {"test": [("a", 0, grey), ("b", 1, grey)]}, classes=["a", "b"])
    (folder / "two-test.array_record-00000-of-00001").unlink()
    path = folder / "two-test.tfrecord-00000-of-00001"
    path.write_bytes(base64.b64decode(_TFRECORD))
    about = json.loads((folder / "dataset_info.json").read_text())
    about["fileFormat"] = "tfrecord"
    (folder / "dataset_info.json").write_text(json.dumps(about))

    image_set = tfds.read(
        self.root, "two", split="test", class_names=["a", "b"])
    self.assertEqual(image_set.ids, ("a/1.png", "b/2.png"))
    np.testing.assert_array_equal(image_set.labels, [0, 1])
    for position, values in enumerate(([10, 20], [30, 40])):
      np.testing.assert_array_equal(
          image_set.read(position),
          np.broadcast_to(np.array(values)[:, None, None], (2, 1, 3)))
    half = tfds.read(
        self.root, "two", split="test[1:]", class_names=["a", "b"])
    self.assertLen(half.ids, 1)

    path.write_bytes(path.read_bytes()[:-5])
    with self.assertRaisesRegex(ValueError, "tfrecord.* is cut off"):
      tfds.read(self.root, "two", split="test", class_names=["a", "b"])

  def test_repeated_file_names_get_the_class_in_front(self):
    rows = [("image_0001.jpg", label, miniatures.pixels(label))
            for label in (0, 1, 2)]
    miniatures.prepare(
        self.root, "cal", {"test": rows}, key="image/file_name",
        classes=["airplanes", "background_google", "ant"])
    image_set = tfds.read(
        self.root, "cal", split="test", class_names=["ant", "airplane"],
        renamed={"airplane": "airplanes"}, unused=["Background_Google"])
    self.assertEqual(
        image_set.ids, ("ant/image_0001.jpg", "airplanes/image_0001.jpg"))
    np.testing.assert_array_equal(image_set.read(0), miniatures.pixels(2))

  def test_without_file_names_positions_are_the_ids(self):
    rows = [("", i % 2, miniatures.pixels(i)) for i in range(6)]
    miniatures.prepare(
        self.root, "anonymous", {"test": rows}, classes=["a", "b"], key=None)
    image_set = tfds.read(self.root, "anonymous", split="test",
                          class_names=["b", "a"])
    self.assertEqual(image_set.ids, tuple(f"test/00000{i}" for i in range(6)))
    seeds = [next(seed for seed in range(6)
                  if np.array_equal(miniatures.pixels(seed), image_set.read(i)))
             for i in range(6)]
    self.assertCountEqual(seeds, range(6))
    np.testing.assert_array_equal(
        image_set.labels, [1 - seed % 2 for seed in seeds])

  def test_newest_version_and_config(self):
    for version in ("9.0.0", "10.0.0"):
      miniatures.prepare(
          self.root, "set/rgb", {"test": [(version, 0, miniatures.pixels(0))]},
          classes=["a"], version=version)
    image_set = tfds.read(self.root, "set/rgb", split="test", class_names="a")
    self.assertEqual(image_set.ids, ("10.0.0",))

  def test_not_prepared(self):
    with self.assertRaisesRegex(
        FileNotFoundError, "no prepared data set in .*dtd.*tfds build dtd "
        "--file_format=array_record"):
      tfds.read(self.root, "dtd", split="test", class_names=["a"])

  def test_unknown_split_missing_feature_and_no_images(self):
    rows = [("x", 0, miniatures.pixels(0))]
    miniatures.prepare(
        self.root, "some", {"test": rows}, classes=["a", "b"])
    with self.assertRaisesRegex(ValueError, "Unknown split 'val'.*'test'"):
      tfds.read(self.root, "some", split="val", class_names=["a", "b"])
    with self.assertRaisesRegex(ValueError, "no images of the 1 classes"):
      tfds.read(self.root, "some", split="test", class_names=["b"],
                unused=["a"])
    miniatures.prepare(
        self.root, "other", {"test": rows}, classes=["a"], feature="picture")
    with self.assertRaisesRegex(ValueError, "'picture'.*expected image and la"):
      tfds.read(self.root, "other", split="test", class_names=["a"])

  def test_wrong_pixels(self):
    rows = [("x", 0, np.zeros((2, 2, 4), np.uint8))]
    miniatures.prepare(
        self.root, "odd", {"test": rows}, classes=["a"], encoded=False)
    image_set = tfds.read(self.root, "odd", split="test", class_names=["a"])
    with self.assertRaisesRegex(ValueError, r"'x' is stored as .*\(2, 2, 4\)"):
      image_set.read(0)

  def test_reading_loads_no_tensorflow(self):
    miniatures.prepare(
        self.root, "dots", {"test": [("x", 0, miniatures.pixels(0))]},
        classes=["a"])
    code = ("import sys; from jaxcal.data import tfds\n"
            "assert 'tensorflow_datasets' not in sys.modules\n"
            f"tfds.read({str(self.root)!r}, 'dots', split='test', "
            "class_names=['a']).read(0)\n"
            "print('tensorflow' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], check=True,
                          capture_output=True, text=True)
    self.assertEqual(done.stdout.strip(), "False")

  def test_not_installed(self):
    (self.root / "dtd/1.0.0").mkdir(parents=True)
    (self.root / "dtd/1.0.0/dataset_info.json").write_text("{}")
    with mock.patch.dict(sys.modules, tensorflow_datasets=None):
      with self.assertRaisesRegex(ImportError, r"pip install 'jaxcal\[data\]'"):
        tfds.read(self.root, "dtd", split="test", class_names=["a"])


class JoinLabelsTest(parameterized.TestCase):

  @parameterized.parameters(
      ("/a/apartment_building/outdoor", "outdoor apartment_building"),
      ("AM General Hummer SUV 2000", "2000 AM General Hummer SUV"),
      ("pink-yellow dahlia?", "pink-yellow dahlia"),
      ("Abyssinian", "abyssinian"),
  )
  def test_alike(self, theirs, ours):
    self.assertEqual(
        tfds.join_labels(["x", theirs], [ours, "x"]), [1, 0])

  @parameterized.named_parameters(
      ("missing", ["a"], ["a", "b"], r"1 expected .*\('b'\), 0 found"),
      ("further", ["a", "b"], ["b"], r"0 expected .*\(none\), 1 found.*'a'"),
      ("twice", ["a b", "b_a"], ["a b", "c"], "'a b' and 'b_a' cannot be told"),
      ("ours_twice", ["a", "b"], ["a", "A"], "'a' and 'A' cannot be told"),
  )
  def test_refuses(self, theirs, ours, message):
    with self.assertRaisesRegex(ValueError, message):
      tfds.join_labels(theirs, ours)


if __name__ == "__main__":
  absltest.main()
