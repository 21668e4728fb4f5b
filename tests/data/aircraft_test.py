"""Tests of jaxcal.data.aircraft."""

import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from jaxcal.data import aircraft
from tests.data import miniatures


class ReadTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)
    self.text("variants.txt", "707-320\nBAE 146-200\nF-16A/B\n")
    self.text("images_variant_test.txt",
              "0062765 BAE 146-200\n1025794 707-320\n0481847 F-16A/B\n")
    self.text("images_variant_val.txt", "1025794 707-320\n")
    miniatures.images(
        self.root / "images", ["0062765.jpg", "1025794.jpg", "0481847.jpg"])

  def text(self, name, content):
    (self.root / name).write_text(content, encoding="utf-8")

  def test_order_labels_names_and_pixels(self):
    image_set = aircraft.read(self.root)
    self.assertEqual(image_set.class_names,
                     ("707-320", "BAE 146-200", "F-16A/B"))
    self.assertEqual(image_set.ids, (
        "images/0062765.jpg", "images/1025794.jpg", "images/0481847.jpg"))
    np.testing.assert_array_equal(image_set.labels, [1, 0, 2])
    np.testing.assert_array_equal(image_set.read(2), miniatures.pixels(2))
    self.assertLen(aircraft.read(self.root, split="val").ids, 1)

  @parameterized.parameters("0000001 Concorde", "0000001", "BAE 146-200")
  def test_unknown_variant(self, line):
    self.text("images_variant_test.txt", f"1025794 707-320\n{line}\n")
    with self.assertRaisesRegex(
        ValueError, f"test.txt, line 2: .*the 3 variants .*found '{line}'"):
      aircraft.read(self.root)

  def test_absent(self):
    (self.root / "images/1025794.jpg").unlink()
    with self.assertRaisesRegex(
        FileNotFoundError, r"(?s)1 of the 3 images .*images/1025794\.jpg"):
      aircraft.read(self.root)
    self.assertLen(aircraft.read(self.root, partial=True).ids, 2)
    with self.assertRaisesRegex(FileNotFoundError, "images_variant_train.txt"):
      aircraft.read(self.root, split="train")
    with self.assertRaisesRegex(FileNotFoundError, "no file .*variants.txt"):
      aircraft.read(self.root / "images")

  def test_unknown_split(self):
    with self.assertRaisesRegex(ValueError, "'dev'; choose from: .*trainval"):
      aircraft.read(self.root, split="dev")


if __name__ == "__main__":
  absltest.main()
