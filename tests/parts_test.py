"""Outputs batch by batch: gathered in order, never mixed, never lost."""

import pathlib

from absl.testing import absltest
import numpy as np

from jaxcal import parts
from jaxcal.storage import atomic
from jaxcal.storage import process

_IDS = tuple("abcdefg")
_NAMES = ("zero_shot", "soc-weight=0.5/x")


def _flipped(content, bit):
  content = bytearray(content)
  content[bit // 8] ^= 1 << bit % 8
  return bytes(content)


def _inode_time(path):
  return path.stat().st_ctime_ns


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

  def test_missing_are_those_without_an_output(self):
    self.assertEqual(parts.missing(self.folder, 7).tolist(), list(range(7)))
    self._write((5, 1))
    (self.folder / atomic.leftover_name(process.current())).write_bytes(b"kil")
    self.assertEqual(parts.missing(self.folder, 7).tolist(), [0, 2, 3, 4, 6])

  def test_an_unfinished_run_is_not_gathered(self):
    self._write((0, 1, 2))
    with self.assertRaisesRegex(ValueError, "outputs of 3 of 7 images; run"):
      parts.gather(self.folder, "zero_shot")

  def test_outputs_that_do_not_say_of_what_are_refused(self):
    self._write((0, 1))
    (self.folder / "about.json").unlink()
    with self.assertRaisesRegex(ValueError, "no about.json.*remove that"):
      parts.open_folder(self.folder, _IDS, _NAMES)

  def test_another_run_is_refused(self):
    with self.assertRaisesRegex(ValueError, "with other names; remove it"):
      parts.open_folder(self.folder, _IDS, ("tpt",))
    with self.assertRaisesRegex(ValueError, "with other ids; remove it"):
      parts.open_folder(self.folder, _IDS[::-1], _NAMES)
    with self.assertRaisesRegex(ValueError, "with other order; remove it"):
      parts.open_folder(self.folder, _IDS, _NAMES, range(7))
    parts.open_folder(self.folder, _IDS, _NAMES)

  def test_another_identity_is_refused_naming_every_key(self):
    folder = self.folder.with_name("other")
    ours = {"data.labels": "ab", "views": [0.5, 1], "model": None}
    parts.open_folder(folder, _IDS, _NAMES, identity=ours)
    parts.open_folder(folder, _IDS, _NAMES, identity={
        "model": None, "views": (0.5, 1), "data.labels": "ab"})
    parts.open_folder(folder, _IDS, _NAMES)  # not compared
    with self.assertRaises(ValueError) as caught:
      parts.open_folder(folder, _IDS, _NAMES, identity={
          "data.labels": "cd", "views": [0.5, 1], "order": 3})
    self.assertEqual(str(caught.exception), (
        f"{folder} holds outputs of another unfinished run:\n"
        "  data.labels: stored 'ab', asked 'cd'\n"
        "  model: stored None, asked 'nothing'\n"
        "  order: stored 'nothing', asked 3\n"
        "remove it, or write to another folder"))
    with self.assertRaisesRegex(ValueError, "model: stored 'nothing', ask"):
      parts.open_folder(self.folder, _IDS, _NAMES, identity={"model": 1})

  def test_damaged_parts_are_set_aside_and_computed_again(self):
    rng = np.random.default_rng(0)
    sound = {}
    for positions in ((0, 1, 2, 3), (4, 5, 6)):
      self._write(positions)
      path = self.folder / f"{positions[0]:08d}.npz"
      sound[path] = path.read_bytes()
    path = self.folder / "00000004.npz"
    content = sound[path]
    flips = [_flipped(content, bit) for bit in rng.choice(
        8 * len(content), 200, replace=False)]
    kept = 0
    for damaged in (b"", b"no zip", *(
        content[:cut] for cut in rng.choice(len(content), 20)), *flips):
      path.write_bytes(damaged)
      missing = parts.missing(self.folder, 7).tolist()
      if path.exists():
        # A bit that says nothing of the arrays, such as one of a date.
        kept += 1
        self.assertEqual(missing, [])
        for i, name in enumerate(_NAMES):
          np.testing.assert_array_equal(
              parts.gather(self.folder, name)["logits"], self.logits[i])
        continue
      self.assertEqual(missing, [4, 5, 6])
      aside = sorted(self.folder.glob("*.damaged*"), key=_inode_time)[-1]
      self.assertEqual(aside.read_bytes(), damaged)
      with self.assertRaisesRegex(ValueError, "outputs of 4 of 7"):
        parts.gather(self.folder, "zero_shot")
    self.assertLess(kept, 100)
    path.write_bytes(content)
    self.assertEqual((self.folder / "00000000.npz").read_bytes(),
                     sound[self.folder / "00000000.npz"])
    np.testing.assert_array_equal(
        parts.gather(self.folder, _NAMES[0])["logits"], self.logits[0])
    # The folder goes, what was set aside stays.
    parts.remove(self.folder)
    self.assertEqual({p.name.partition("damaged")[1] for p in
                      self.folder.iterdir()}, {"damaged"})

  def test_the_warning_names_the_file(self):
    self._write((0, 1))
    (self.folder / "00000000.npz").write_bytes(b"")
    with self.assertLogs("absl", "WARNING") as logs:
      self.assertLen(parts.missing(self.folder, 7), 7)
    self.assertRegex(logs.output[0], "00000000.npz is damaged .*called "
                     "00000000.npz.damaged now.*computed again")

  def test_parts_that_do_not_fit(self):
    for positions, rows in (([7], 1), ([-1], 1), ([[0]], 1), ([0.5], 1),
                            ([0, 1], 3), ([], 0)):
      np.savez(self.folder / "00000000.npz", positions=np.array(positions),
               **{"zero_shot/logits": np.ones((rows, 3))})
      self.assertLen(parts.missing(self.folder, 7), 7)
      self.assertFalse((self.folder / "00000000.npz").exists())

  def test_rows_that_are_no_numbers(self):
    np.savez(self.folder / "00000000.npz", positions=np.array([0, 1]),
             **{"zero_shot/logits": np.full((2, 3), "x")})
    self.assertLen(parts.missing(self.folder, 7), 7)
    self.assertFalse((self.folder / "00000000.npz").exists())

  def test_rows_of_another_shape_than_before(self):
    self._write(range(5))
    np.savez(self.folder / "00000005.npz", positions=np.array([5, 6]),
             **{f"{_NAMES[0]}/logits": np.ones((2, 4), np.float32)})
    with self.assertRaisesRegex(
        ValueError, "00000005.npz has .* in another shape .*; remove it"):
      parts.gather(self.folder, _NAMES[0])

  def test_a_power_loss_undoes_the_renaming(self):
    self._write((0, 1))
    self._write((2, 3))
    path = self.folder / "00000002.npz"
    path.rename(path.with_name(atomic.leftover_name(process.current())))
    self.assertEqual(parts.missing(self.folder, 7).tolist(), [2, 3, 4, 5, 6])

  def test_damaged_about(self):
    for content in (b"", b"{", b"[]", b'{"ids": []}',
                    b'{"ids": 3, "names": []}', b'{"ids": [], "names": [3]}'):
      (self.folder / "about.json").write_bytes(content)
      self.assertEqual(parts.names(self.folder), ())
      with self.assertRaisesRegex(ValueError, "about.json is damaged.*remove"):
        parts.open_folder(self.folder, _IDS, _NAMES)

  def test_removed_when_gathered(self):
    self._write((0, 1))
    parts.remove(self.folder)
    self.assertFalse(self.folder.exists())
    parts.remove(self.folder.parent / "never_there")

  def test_names(self):
    self.assertEqual(parts.names(self.folder), _NAMES)
    self.assertEqual(parts.names(self.folder / "nowhere"), ())


if __name__ == "__main__":
  absltest.main()
