"""Tests of jaxcal.data.coop."""

import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from jaxcal.data import coop
from tests.data import miniatures

_ROWS = {
    "train": [["b/1.jpg", 1, "polka_dotted"], ["c/1.jpg", 2, "woven"]],
    "val": [["a/1.jpg", 0, "banded"]],
    "test": [["c/2.jpg", 2, "woven"], ["a/2.jpg", 0, "banded"]],
}


class ReadTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)
    self.path = self.root / "split_zhou_Stripes.json"
    self.images = [row[0] for rows in _ROWS.values() for row in rows]
    miniatures.images(self.root / "images", self.images)

  def test_order_labels_names_and_pixels(self):
    miniatures.split_file(self.path, **_ROWS)
    image_set = coop.read(self.path, self.root / "images")
    self.assertEqual(image_set.name, "split_zhou_Stripes")
    # No test image is polka dotted, but the class stays a candidate.
    self.assertEqual(
        image_set.class_names, ("banded", "polka_dotted", "woven"))
    self.assertEqual(image_set.ids, ("c/2.jpg", "a/2.jpg"))
    np.testing.assert_array_equal(image_set.labels, [2, 0])
    np.testing.assert_array_equal(image_set.read(1), miniatures.pixels(4))
    train = coop.read(self.path, self.root / "images", split="train")
    self.assertEqual(train.ids, ("b/1.jpg", "c/1.jpg"))
    self.assertEqual(train.class_names, image_set.class_names)

  def test_absent_images(self):
    rows = [["a/1.jpg", 0, "a"]] + [
        [f"a/none{i:02}.jpg", 0, "a"] for i in range(12)]
    miniatures.split_file(self.path, test=rows)
    with self.assertRaisesRegex(
        FileNotFoundError, r"(?s)12 of the 13 images .*none00\.jpg.*none09\.jpg"
        r"\s+and 2 more$"):
      coop.read(self.path, self.root / "images")
    with self.assertLogs(level="WARNING") as log:
      image_set = coop.read(self.path, self.root / "images", partial=True)
    self.assertRegex(log.output[0], "left out 12 of 13")
    self.assertEqual(image_set.ids, ("a/1.jpg",))
    with self.assertRaisesRegex(FileNotFoundError, "13 of the 13 images"):
      coop.read(self.path, self.root, partial=True)
    miniatures.split_file(self.path, test=[*rows, ["x" * 300, 0, "a"]])
    image_set = coop.read(self.path, self.root / "images", partial=True)
    self.assertEqual(image_set.ids, ("a/1.jpg",))

  def test_absent_file_and_folder(self):
    with self.assertRaisesRegex(FileNotFoundError, r"no file .*Stripes\.json"):
      coop.read(self.path, self.root)
    miniatures.split_file(self.path, **_ROWS)
    with self.assertRaisesRegex(FileNotFoundError, "no folder .*nowhere"):
      coop.read(self.path, self.root / "nowhere")

  @parameterized.named_parameters(
      ("two_names", [["x", 0, "a"], ["y", 0, "b"]], "0 both 'a' and 'b'"),
      ("gap", [["x", 0, "a"], ["y", 2, "b"]], "from 0 to 2, but none is 1"),
      ("from_one", [["x", 1, "a"], ["y", 2, "b"]], "to 2, but none is 0"),
      ("short", [["x", 0, "a"], ["y", 1]], r"test, entry 1: .*\['y', 1\]"),
      ("text", [["x", "0", "a"]], "entry 0: expected .path, label, class name"),
      ("none", [], "lists no images under 'test'"),
      ("repeated", [["a/1.jpg", 0, "a"]] * 2, "id 'a/1.jpg' more than once"),
  )
  def test_refuses(self, rows, message):
    miniatures.split_file(self.path, test=rows)
    with self.assertRaisesRegex(ValueError, message):
      coop.read(self.path, self.root / "images")

  @parameterized.parameters(
      ("{", "is damaged .no JSON"), ("[]", "expected the keys .*found list"),
      ('{"train": [], "test": []}', r"found \['test', 'train'\]"))
  def test_not_a_split_file(self, content, message):
    self.path.write_text(content)
    with self.assertRaisesRegex(ValueError, message):
      coop.read(self.path, self.root)

  def test_unknown_split(self):
    with self.assertRaisesRegex(ValueError, "'dev'; choose from: train, val"):
      coop.read(self.path, self.root, split="dev")


if __name__ == "__main__":
  absltest.main()
