"""Tests of jaxcal.data.screening."""

import os

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image

from jaxcal.data import image_set as image_sets
from jaxcal.data import screening
from jaxcal.data import sources
from tests.data import files


class CheckTest(files.FolderCase):

  def test_sound_files_and_progress(self):
    for name in ("ant/a.png", "ant/b.jpg", "bee/c.png"):
      self.image(name)
    seen = []
    screening.check(
        sources.image_folder(self.root),
        progress=lambda *numbers: seen.append(numbers),
    )
    self.assertEqual(seen, [(1, 3), (2, 3), (3, 3)])

  def test_names_every_bad_file(self):
    self.image("ant/a.png")
    self.text("ant/note.jpg", "not an image")
    self.text("bee/empty.png")
    gone = self.image("bee/gone.png")
    image_set = sources.image_folder(self.root)
    os.remove(gone)
    with self.assertRaisesRegex(
        ValueError,
        r"(?s)3 of 4 files .*ant/note\.jpg.*bee/empty\.png.*bee/gone\.png",
    ):
      screening.check(image_set)

  def test_long_lists_are_cut(self):
    for number in range(13):
      self.text(f"ant/{number:02}.jpg", "not an image")
    with self.assertRaisesRegex(ValueError, r"(?s)ant/09\.jpg.*and 3 more$"):
      screening.check(sources.image_folder(self.root))


class UsableTest(files.FolderCase):

  def setUp(self):
    super().setUp()
    for number in range(20):
      self.image(f"ant/{number:02}.png", files.pixels(seed=number))
    self.image("bee/a.jpg", files.pixels(64, 64))

  def _damage(self):
    cut = self.root / "bee/a.jpg"
    cut.write_bytes(cut.read_bytes()[:1500])
    self.text("ant/03.png", "not an image")
    Image.new("1", (1, 2000)).save(self.root / "ant/07.png")
    os.mkfifo(self.root / "ant/20.png")

  def test_nothing_is_left_out_of_sound_images(self):
    images, seen = sources.image_folder(self.root), []
    found = screening.usable(
        images, progress=lambda *numbers: seen.append(numbers))
    self.assertIs(found, images)
    self.assertEqual(seen, [(number, 21) for number in range(1, 22)])

  @parameterized.parameters(1, 3)
  def test_leaves_out_what_cannot_be_used_and_says_why(self, num_threads):
    self._damage()
    images = sources.image_folder(self.root)
    with self.assertLogs(level="WARNING") as log:
      found = screening.usable(images, num_threads=num_threads)
    self.assertEqual(list(found.left_out),
                     ["ant/03.png", "ant/07.png", "ant/20.png", "bee/a.jpg"])
    for reason, expected in zip(found.left_out.values(), (
        "it is no image", "cannot make views of an image of 2000 by 1",
        "it is a FIFO, not a file", "image file is truncated")):
      self.assertIn(expected, reason)
      self.assertNotIn(str(self.root), reason)
    self.assertRegex(log.output[0], r"left out 4 of 22 .*\n  ant/03.png")
    self.assertEqual(found.class_names, ("ant", "bee"))
    self.assertEqual(
        found.ids, tuple(image_id for image_id in images.ids
                         if image_id not in found.left_out))
    np.testing.assert_array_equal(found.labels, [0] * 18)
    np.testing.assert_array_equal(found.read(3), files.pixels(seed=4))
    self.assertEqual(found.path(3), self.root / "ant/04.png")
    # What is left out is not forgotten by whoever takes of the rest.
    self.assertEqual(
        image_sets.limit(found, 2).left_out, found.left_out)

  def test_none_that_can_be_used(self):
    for path in self.root.glob("*/*"):
      path.write_text("nothing", "utf-8")
    with self.assertRaisesRegex(
        ValueError, r"(?s)none of the 21 images .*ant/00.png: it is no image.*"
        "and 11 more"):
      screening.usable(sources.image_folder(self.root))

  def test_images_that_are_no_files(self):
    def read(position):
      if position == 1:
        raise ValueError("lost")
      return files.pixels()

    images = image_sets.ImageSet(
        "x", ("a",), ("0", "1"), np.zeros(2, np.int32), read)
    screening.check(images)  # no header to look at
    self.assertEqual(screening.usable(images).left_out, {"1": "lost"})


if __name__ == "__main__":
  absltest.main()
