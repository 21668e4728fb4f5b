"""Identities: what differs is named, and files are read only where needed."""

import hashlib
import os
import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from jaxcal.data import contents
from jaxcal.data import image_set as image_sets
from jaxcal.storage import arrays
from jaxcal.storage import identity

_LONG_AGO = 10**18


class IdentityTest(parameterized.TestCase):

  def test_differences_are_named_with_both_values(self):
    stored = {"a": 1, "b": [1, 2], "c": None, "gone": "x"}
    asked = {"a": 1.0, "b": (1, 2), "c": 0, "new": True}
    self.assertEqual(identity.differences(stored, asked), [
        "c: stored None, asked 0", "gone: stored 'x', asked 'nothing'",
        "new: stored 'nothing', asked True"])
    with self.assertRaisesRegex(ValueError, "(?s)^this:\n  c: .*\nthat way"):
      identity.check(stored, asked, what="this", way_out="that way")
    identity.check(asked, dict(reversed(asked.items())), what="", way_out="")
    for none in ("x", 3, [1], None):
      with self.assertRaisesRegex(ValueError, "new: stored 'nothing', asked T"):
        identity.check(none, asked, what="this", way_out="that way")

  @parameterized.parameters(
      dict(ids=("b", "a")),
      dict(ids=("a", "b", "c"), labels=[0, 1, 0],
           contents=np.zeros((3, 32))),
      dict(ids=("ab", "")), dict(labels=[1, 0]), dict(class_names=("x", "z")),
      dict(class_names=("x", "y", "z")), dict(contents=np.ones((2, 32))),
      dict(contents=None))
  def test_all_of_the_data_counts(self, **changes):
    plain = dict(ids=("a", "b"), labels=[0, 1], class_names=("x", "y"),
                 contents=np.zeros((2, 32)))
    of = lambda one: identity.of_data(**{
        **one, "labels": np.array(one["labels"]),
        "contents": None if one["contents"] is None else
                    one["contents"].astype(np.uint8)})
    self.assertEqual(of(plain), of(dict(plain)))
    self.assertNotEmpty(identity.differences(of(plain), of(plain | changes)))

  def test_names_that_are_no_utf8(self):
    self.assertNotEqual(identity.of_lines([os.fsdecode(b"caf\xe9")]),
                        identity.of_lines([os.fsdecode(b"caf\xe8")]))


class ContentsTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    self.memory = self.folder / "memory" / "set.npz"
    self.ids = tuple(f"{i}.png" for i in range(5))
    for i, name in enumerate(self.ids):
      (self.folder / name).write_bytes(bytes([i]) * 100)
      os.utime(self.folder / name, ns=(_LONG_AGO, _LONG_AGO + i))
    self.images = image_sets.ImageSet(
        "five", ("a", "b"), self.ids, np.int32([0, 1, 0, 1, 0]), read=None,
        path=lambda i: self.folder / self.ids[i])

  def _identity(self, images=None):
    """The digest of all contents, and which files were read for it."""
    read, digest = [], identity._digest
    with mock.patch.object(
        identity, "_digest",
        lambda path: (read.append(path.name), digest(path))[1]):
      found = contents.identity_of(images or self.images, memory=self.memory)
    return found["data.contents"], sorted(read)

  def test_by_hand(self):
    found, _ = self._identity()
    digests = b"".join(
        hashlib.sha256(bytes([i]) * 100).digest() for i in range(5))
    self.assertEqual(found, hashlib.sha256(digests).hexdigest()[:16])

  def test_what_is_no_file_is_not_opened(self):
    (self.folder / "2.png").unlink()
    os.mkfifo(self.folder / "2.png")  # reading it would wait for a writer
    with self.assertRaisesRegex(OSError, "expected a file, but .*2.png is non"):
      self._identity()

  def test_unchanged_files_are_not_read_again(self):
    first, read = self._identity()
    self.assertEqual(read, sorted(self.ids))
    self.assertEqual(self._identity(), (first, []))
    # Others of the same folder, in another order.
    some = image_sets.take(self.images, [4, 1])
    found, read = self._identity(some)
    self.assertEqual(read, [])
    self.assertNotEqual(found, first)

  def test_a_replaced_picture_of_the_same_size(self):
    first, _ = self._identity()
    (self.folder / "3.png").write_bytes(bytes([7]) * 100)
    found, read = self._identity()
    self.assertEqual(read, ["3.png"])
    self.assertNotEqual(found, first)

  def test_a_file_that_holds_many_images_is_read_once(self):
    held = self.images._replace(
        path=None, holder=lambda i: self.folder / f"{i % 2}.png")
    first, read = self._identity(held)
    self.assertEqual(read, ["0.png", "1.png"])
    self.assertEqual(self._identity(held), (first, []))
    # The same as with every image's holder read for it.
    digests = b"".join(
        hashlib.sha256(bytes([i % 2]) * 100).digest() for i in range(5))
    self.assertEqual(first, hashlib.sha256(digests).hexdigest()[:16])
    (self.folder / "1.png").write_bytes(bytes([7]) * 100)
    self.assertNotEqual(self._identity(held)[0], first)

  def test_a_touched_file_is_read_and_the_same(self):
    first, _ = self._identity()
    os.utime(self.folder / "2.png", ns=(_LONG_AGO + 9, _LONG_AGO + 9))
    self.assertEqual(self._identity(), (first, ["2.png"]))

  def test_a_file_that_has_just_changed_is_read_again(self):
    """Its time could not tell a second change from the first."""
    (self.folder / "0.png").write_bytes(bytes([9]) * 100)
    before = os.stat(self.folder / "0.png").st_mtime_ns
    first, _ = self._identity()
    (self.folder / "0.png").write_bytes(bytes([8]) * 100)
    os.utime(self.folder / "0.png", ns=(before, before))
    found, read = self._identity()
    self.assertEqual(read, ["0.png"])
    self.assertNotEqual(found, first)

  def test_a_damaged_memory_is_made_anew(self):
    first, _ = self._identity()
    content = self.memory.read_bytes()
    with np.load(self.memory) as stored:
      sound = dict(stored)
    others = [arrays.pack(sound | {name: value}) for name, value in (
        ("sizes", np.full(5, "x")), ("times", np.zeros((5, 2))),
        ("digests", np.zeros((5, 31), np.uint8)), ("digests", np.zeros(5)))]
    for damaged in (b"", content[:50], b"x" * 200, *others):
      self.memory.write_bytes(damaged)
      self.assertEqual(self._identity(), (first, sorted(self.ids)))

  def test_a_file_that_is_gone_is_named(self):
    (self.folder / "1.png").unlink()
    with self.assertRaisesRegex(FileNotFoundError, "1.png"):
      self._identity()

  def test_images_that_are_no_files(self):
    self.assertEqual(
        self._identity(self.images._replace(path=None)), (None, []))


if __name__ == "__main__":
  absltest.main()
