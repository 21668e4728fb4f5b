"""The readers, the few-shot protocol and the check on Caltech-101 itself.

Pixels are held against Pillow.
"""

import collections

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
from PIL import Image
import pytest

from jaxcal.data import catalogue
from jaxcal.data import decoding
from jaxcal.data import findings
from jaxcal.data import views
from tests import shared
from tests.data import caltech_cases
from tests.data import caltech_stand_in

_FOLDER = shared.path("data/caltech-101")
# Narrow, wide, small, large and grey ones; no other modes are among them.
_ODD = {
    "flamingo/image_0002.jpg": ("RGB", (80, 300)),
    "airplanes/image_0433.jpg": ("RGB", (400, 103)),
    "Leopards/image_0061.jpg": ("RGB", (128, 192)),
    "Faces/image_0163.jpg": ("RGB", (708, 468)),
    "yin_yang/image_0042.jpg": ("L", (295, 300)),
}


class _Caltech:

  folder = _FOLDER
  halves = {"base": 1549, "new": 916}


class SplitsTest(_Caltech, caltech_cases.Splits):
  pass


class FewShotTest(_Caltech, caltech_cases.FewShot):
  pass


class PixelsTest(_Caltech, caltech_cases.CaltechCase):

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
    for split in caltech_stand_in.COUNTS:
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


class CheckTest(_Caltech, caltech_cases.CaltechCase):

  def test_clean(self):
    said = findings.text(self.clean_report())
    self.assertIn("8,242 images decoded", said)
    # What a check cannot know is said.
    self.assertRegex(said, "note: .*two classes .*exchanged")


if __name__ == "__main__":
  absltest.main()
