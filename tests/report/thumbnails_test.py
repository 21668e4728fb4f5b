"""Small images of the most confident mistakes: kept, read back, left out."""

import base64
import io

from absl.testing import absltest
import numpy as np
from PIL import Image

from jaxcal.report import per_image
from jaxcal.report import thumbnails

_WRONG = per_image.PerImage(
    np.array([0.9, 0.8, 0.7]), np.array([False, True, False]),
    ("a.png", "b.png", "gone.png"), per_image.Classes(
        np.array([0, 1, 1]), np.array([1, 1, 0])))


def _read(data, image_id):
  assert data == "pets"
  if image_id == "gone.png":
    raise OSError("no such file")
  return np.full((200, 400, 3), (250, 0, 0), np.uint8)


class ThumbnailsTest(absltest.TestCase):

  def test_mistakes_that_can_be_read_are_kept(self):
    folder = self.create_tempdir().full_path
    found = thumbnails.make({"pets": {"tpt": _WRONG}}, _read)
    self.assertEqual(list(found["pets"]), ["a.png"])
    thumbnails.save(folder, found)
    self.assertEqual(thumbnails.saved(folder), found)

  def test_small_and_of_the_same_shape_and_colour(self):
    kind, content = thumbnails.encode(_read("pets", "a.png")).split(",")
    self.assertEqual(kind, "data:image/jpeg;base64")
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    self.assertEqual(image.size, (96, 48))
    np.testing.assert_allclose(
        np.asarray(image).mean(axis=(0, 1)), (250, 0, 0), atol=4)

  def test_none_and_damaged(self):
    folder = self.create_tempdir()
    self.assertEqual(thumbnails.saved(folder), {})
    for text in ("[1", "[1]", '{"pets": 3}', '{"pets": {"1": 3}}',
                 '{"pets": {"1": "http://elsewhere/1.png"}}'):
      folder.create_file("thumbnails.json", text)
      with self.assertRaisesRegex(ValueError, "thumbnails.json is damaged"):
        thumbnails.saved(folder)


if __name__ == "__main__":
  absltest.main()
