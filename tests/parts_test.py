"""Answers batch by batch: gathered in order, never mixed, never lost."""

import pathlib

from absl.testing import absltest
import numpy as np

from jaxcal import parts

_IDS = tuple("abcdefg")
_NAMES = ("zero_shot", "soc-weight=0.5/x")


class PartsTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path, "parts")
    parts.open_folder(self.folder, _IDS, _NAMES)
    rng = np.random.default_rng(0)
    self.logits = rng.normal(size=(2, 7, 3)).astype(np.float32)
    self.shift = rng.normal(size=(2, 7)).astype(np.float32)

  def _write(self, positions):
    positions = np.array(positions)
    # The order of names is the writer's; what counts is what they are called.
    parts.write(self.folder, positions, {
        name: {"logits": self.logits[i, positions],
               "shift": self.shift[i, positions]}
        for i, name in reversed(list(enumerate(_NAMES)))})

  def test_gathered_in_the_order_of_the_set_bit_for_bit(self):
    for positions in ((4, 5, 6), (0, 2), (3, 1)):
      self._write(positions)
    for i, name in enumerate(_NAMES):
      got = parts.gather(self.folder, name)
      np.testing.assert_array_equal(got["logits"], self.logits[i])
      np.testing.assert_array_equal(got["shift"], self.shift[i])

  def test_parts_that_overlap_as_those_of_other_batch_sizes(self):
    for positions in ((0, 1, 2, 3), (2, 3, 4), (5, 6)):
      self._write(positions)
    np.testing.assert_array_equal(
        parts.gather(self.folder, _NAMES[0])["logits"], self.logits[0])

  def test_a_field_that_some_parts_lack(self):
    self._write((0, 1, 2, 3, 4))
    parts.write(self.folder, np.array([6, 5]), {
        "zero_shot": {"shift": np.float32([1, 2])}, "": {"texts": np.ones(2)}})
    got = parts.gather(self.folder, "zero_shot")
    np.testing.assert_array_equal(
        got["logits"][:5], self.logits[0, :5])
    self.assertTrue(np.isnan(got["logits"][5:]).all())
    np.testing.assert_array_equal(got["shift"][5:], [2, 1])
    self.assertEqual(set(parts.gather(self.folder, "")), {"texts"})

  def test_missing_are_those_without_an_answer(self):
    self.assertEqual(parts.missing(self.folder, 7).tolist(), list(range(7)))
    self._write((5, 1))
    (self.folder / "00000003.npz.half").write_bytes(b"killed")
    self.assertEqual(parts.missing(self.folder, 7).tolist(), [0, 2, 3, 4, 6])

  def test_an_unfinished_run_is_not_gathered(self):
    self._write((0, 1, 2))
    with self.assertRaisesRegex(ValueError, "answers to 3 of 7 images; run"):
      parts.gather(self.folder, "zero_shot")

  def test_another_run_is_refused(self):
    with self.assertRaisesRegex(ValueError, "with other names; remove it"):
      parts.open_folder(self.folder, _IDS, ("tpt",))
    with self.assertRaisesRegex(ValueError, "with other ids; remove it"):
      parts.open_folder(self.folder, _IDS[::-1], _NAMES)
    with self.assertRaisesRegex(ValueError, "with other order; remove it"):
      parts.open_folder(self.folder, _IDS, _NAMES, range(7))
    parts.open_folder(self.folder, _IDS, _NAMES)

  def test_names(self):
    self.assertEqual(parts.names(self.folder), _NAMES)
    self.assertEqual(parts.names(self.folder / "nowhere"), ())


if __name__ == "__main__":
  absltest.main()
