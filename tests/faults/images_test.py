"""Images that are broken, and folders as nobody should have them."""

import io
import os

from absl.testing import absltest
import hypothesis
from hypothesis import strategies as st
import numpy as np
from PIL import Image

from jaxcal.data import decoding
from jaxcal.data import load
from jaxcal.data import views
from tests.faults import fuzz

# Sides at the edge of what views are made of, and beyond.
_SIDES = (1, 2, 15, 16, 17, 63, 64, 65, 1023, 1024, 1025, 16383, 16384, 16385)
_MOST_PIXELS = 2**20


def _encoded(kind, image=None, **settings):
  file = io.BytesIO()
  if image is None:
    noise = np.random.default_rng(0).integers(256, size=(9, 12, 3))
    image = Image.fromarray(noise.astype(np.uint8))
  image.save(file, kind, **settings)
  return file.getvalue()


def _exif():
  exif = Image.Exif()
  exif[0x0112], exif[0x010E] = 6, "a turned picture"
  return exif


SOUND = {
    "JPEG": _encoded("JPEG"), "PNG": _encoded("PNG"), "WEBP": _encoded("WEBP"),
    "BMP": _encoded("BMP"), "TIFF": _encoded("TIFF"), "PPM": _encoded("PPM"),
    "progressive JPEG": _encoded("JPEG", progressive=True),
    "JPEG with EXIF": _encoded("JPEG", exif=_exif()),
    "PNG with EXIF": _encoded("PNG", exif=_exif()),
    "lossless WEBP": _encoded("WEBP", lossless=True),
    "palette PNG": _encoded("PNG", Image.new("P", (9, 7))),
    "16-bit PNG": _encoded("PNG", Image.fromarray(
        np.arange(63, dtype=np.uint16).reshape(9, 7))),
    "CMYK JPEG": _encoded("JPEG", Image.new("CMYK", (9, 7))),
    "LZW TIFF": _encoded("TIFF", compression="tiff_lzw"),
    "GIF": _encoded("GIF"), "ICO": _encoded("ICO", Image.new("RGB", (16, 16)))}


@st.composite
def _broken_image(draw):
  return draw(fuzz.damaged(SOUND[draw(st.sampled_from(sorted(SOUND)))]))


@st.composite
def _of_a_size(draw):
  """A sound image with sides at the edge."""
  height, width = draw(st.sampled_from(_SIDES)), draw(st.sampled_from(_SIDES))
  if height * width > _MOST_PIXELS:
    width = 1
  kind = draw(st.sampled_from(("PNG", "BMP", "JPEG")))
  return _encoded(kind, Image.new("L", (width, height)))


class ImagesTest(fuzz.FaultCase):

  def _use(self, content):
    """All that a run does with an image until its views are computed."""
    path = self.root / "cat" / "1.jpg"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    found = self.read("image", lambda: decoding.decode(path), path.name)
    again = self.read("image", lambda: decoding.decode_bytes(
        content, path.name), path.name)
    sound = self.read("header of an image", lambda: (
        decoding.check_header(path), True))
    if found is None:
      self.assertIsNone(again)
      return
    np.testing.assert_array_equal(found, again)
    if sound is not None:
      # What a header promises is kept, where the rest can be decoded.
      views.check_image(found)
      views.canvas_shape(*found.shape[:2])

  @hypothesis.given(_broken_image())
  def test_bytes(self, content):
    self._use(content)

  @fuzz.fewer(0.5)
  @hypothesis.given(_of_a_size())
  def test_sizes(self, content):
    self._use(content)

  @hypothesis.given(st.lists(_broken_image(), min_size=1, max_size=3),
                    st.booleans())
  def test_a_folder_is_refused_or_read_without_them(self, broken, skip):
    (self.fresh() / "pets" / "cat").mkdir(parents=True)
    for number, content in enumerate([SOUND["PNG"], *broken]):
      (self.root / f"pets/cat/{number}.png").write_bytes(content)
    found = self.read("folder of images", lambda: load.images(
        self.root / "pets", on_bad_image="skip" if skip else "fail",
        num_threads=1), "cat/1.png", "cat/2.png", "cat/3.png")
    if skip:
      self.assertIsNotNone(found)
      for position in range(len(found.ids)):
        found.read(position)

  def test_what_is_sound(self):
    for name, content in SOUND.items():
      with self.subTest(name):
        self.assertIsNotNone(decoding.decode_bytes(content, name))


def _picture(path):
  path.write_bytes(SOUND["PNG"])


def _into(content):
  return lambda path: path.write_bytes(content)


# What may lie in a folder of class folders, or in one of these.
_ENTRIES = {
    "picture": _picture, "empty": _into(b""), "text": _into(b"not an image"),
    "folder": lambda path: path.mkdir(),
    "folder of pictures": lambda path: (
        path.mkdir(), _picture(path / "1.png")),
    "FIFO": os.mkfifo,
    "broken link": lambda path: path.symlink_to("gone"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to the folder": lambda path: path.symlink_to("."),
    "link up": lambda path: path.symlink_to("../.."),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "tar": _into(b"\0" * 1024), "parquet": _into(b"PAR1"),
}
_NAMES = (
    "cat", "dog", "1.png", "2.jpg", "a.PNG", ".hidden", "Thumbs.db",
    "__MACOSX", "a b", "a\nb", "a\tb.png", "caf\udce9", "caf\u00e9",
    "cafe\u0301", "x" * 250, "x" * 246 + ".png", "train", "test", "0", "10",
    "\u0661", "-1", "a.tar", "b.parquet", "_", "  ", "\u200b")


@st.composite
def _tree(draw):
  """What lies in a folder and in two folders below, by path."""
  return {
      f"{draw(st.sampled_from(('', 'cat/', 'dog/')))}{name}":
      draw(st.sampled_from(sorted(_ENTRIES)))
      for name in draw(st.lists(st.sampled_from(_NAMES), max_size=6))}


class FoldersTest(fuzz.FaultCase):

  @hypothesis.given(_tree(), st.booleans(), st.sampled_from(
      (None, "test", "Art")))
  def test_folders(self, tree, skip, domain):
    pets = self.fresh() / "pets"
    for name in ("cat", "dog"):
      (pets / name).mkdir(parents=True)
      _picture(pets / name / "0.png")
    for name, kind in tree.items():
      if not os.path.lexists(pets / name):
        _ENTRIES[kind](pets / name)
    found = self.read("folder", lambda: load.images(
        pets, on_bad_image="skip" if skip else "fail", domain=domain),
                      "pets")
    for position in range(0 if found is None else len(found.ids)):
      if skip:
        found.read(position)


if __name__ == "__main__":
  absltest.main()
