"""Handwritten digits: the split and the scans."""

from absl.testing import absltest
import numpy as np
from sklearn import datasets

from jaxcal.testbed import digits


class DigitsTest(absltest.TestCase):

  def test_splits_are_disjoint_and_complete(self):
    parts = [digits.split(name) for name in ("train", "validation", "test")]
    self.assertEqual([len(part) for part in parts], [1000, 200, 597])
    self.assertEqual(sorted(sum(parts, ())), list(range(1797)))

  def test_splits_are_balanced_and_interleaved(self):
    for name, count in (("train", 100), ("validation", 20)):
      labels = digits.labels()[list(digits.split(name))]
      np.testing.assert_array_equal(labels, np.tile(np.arange(10), count))
    labels = digits.labels()[list(digits.split("test"))]
    np.testing.assert_array_equal(labels[:50], np.tile(np.arange(10), 5))

  def test_labels_are_those_of_the_source(self):
    np.testing.assert_array_equal(
        digits.labels(), datasets.load_digits().target)

  def test_ink_keeps_the_scan(self):
    scans = datasets.load_digits().images / 16
    for scan in (0, 700, 1796):
      ink = digits.ink(scan)
      self.assertEqual(ink.shape, (100, 100))
      self.assertBetween(ink.min(), 0, 1)
      # Averaged back to the scanner's grid it is the scan, up to contrast.
      coarse = ink.reshape(10, 10, 10, 10).mean(axis=(1, 3))[1:-1, 1:-1]
      correlation = np.corrcoef(coarse.ravel(), scans[scan].ravel())[0, 1]
      self.assertGreater(correlation, 0.95)

  def test_unknown_split(self):
    with self.assertRaisesRegex(ValueError, "train, validation, test"):
      digits.split("valid")


if __name__ == "__main__":
  absltest.main()
