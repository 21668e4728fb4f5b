"""Tests of jaxcal.data.decoding."""

import contextlib
import io
import os
import socket
import tracemalloc
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image

from jaxcal.data import decoding
from tests.data import files


class DecodeTest(files.FolderCase):

  def test_lossless_colours_come_back(self):
    pixels = files.pixels()
    decoded = decoding.decode(self.image("a.png", pixels))
    self.assertEqual(decoded.dtype, np.uint8)
    np.testing.assert_array_equal(decoded, pixels)

  def test_grey_fills_three_channels(self):
    grey = files.pixels()[..., 0]
    decoded = decoding.decode(self.image("a.png", grey))
    np.testing.assert_array_equal(decoded, np.stack([grey] * 3, axis=-1))

  @parameterized.parameters("a.png", "a.tif")
  def test_16_bit_grey_keeps_its_upper_bits(self, name):
    grey = np.array([[0, 255, 256], [20000, 40000, 65535]], np.uint16)
    decoded = decoding.decode(self.image(name, grey))
    expected = np.array([[0, 0, 1], [78, 156, 255]])
    np.testing.assert_array_equal(decoded, np.stack([expected] * 3, axis=-1))

  def test_transparency_is_dropped(self):
    pixels = files.pixels()
    alpha = np.zeros((6, 5, 1), np.uint8)
    path = self.image("a.png", np.concatenate([pixels, alpha], axis=-1))
    np.testing.assert_array_equal(decoding.decode(path), pixels)

  @parameterized.parameters(bytes([0, 128]), 1)
  def test_palette_with_transparency(self, transparency):
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(self.root / "a.png", transparency=transparency)
    decoded = decoding.decode(self.root / "a.png")
    np.testing.assert_array_equal(decoded[0], [[10, 20, 30], [200, 100, 50]])

  def test_cmyk(self):
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[..., 1] = 255  # Magenta alone: no green is left.
    Image.fromarray(inks, "CMYK").save(self.root / "a.jpg", quality=100)
    decoded = decoding.decode(self.root / "a.jpg").astype(int)
    np.testing.assert_allclose(decoded - [255, 0, 255], 0, atol=3)

  def test_the_cameras_orientation_is_not_applied(self):
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn by a quarter for display.
    pixels = files.pixels(6, 5)
    Image.fromarray(pixels).save(self.root / "a.png", exif=exif)
    with Image.open(self.root / "a.png") as image:
      self.assertEqual(image.getexif()[0x0112], 6)
    np.testing.assert_array_equal(decoding.decode(self.root / "a.png"), pixels)

  def test_first_frame_of_an_animation(self):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(self.root / "a.gif", save_all=True, append_images=frames[1:])
    decoded = decoding.decode(self.root / "a.gif")
    np.testing.assert_array_equal(decoded[0, 0], [255, 0, 0])

  def test_content_tells_the_format(self):
    path = self.image("a.png")
    np.testing.assert_array_equal(
        decoding.decode(path.rename(self.root / "a.jpg")), files.pixels()
    )

  @parameterized.parameters("a.jpg", "a.png")
  def test_cut_off(self, name):
    path = self.image(name, files.pixels(64, 64))
    path.write_bytes(path.read_bytes()[:1500])
    with self.assertRaisesRegex(ValueError, f"cannot read .*{name}.*truncated"):
      decoding.decode(path)

  def test_damaged_in_the_middle(self):
    path = self.image("a.png", files.pixels(64, 64))
    content = bytearray(path.read_bytes())
    content[60:3000] = bytes(2940)
    path.write_bytes(content)
    with self.assertRaisesRegex(ValueError, r"cannot read .*a\.png"):
      decoding.decode(path)

  def test_bytes_as_the_file(self):
    path = self.image("a.jpg", files.pixels(32, 32))
    np.testing.assert_array_equal(
        decoding.decode_bytes(path.read_bytes(), "x"), decoding.decode(path)
    )
    with self.assertRaisesRegex(ValueError, "cannot read test/7 as an image"):
      decoding.decode_bytes(b"not an image", "test/7")

  def test_text_named_jpg(self):
    path = self.text("note.jpg", "not an image")
    with self.assertRaisesRegex(ValueError, r"cannot read .*note\.jpg as an"):
      decoding.decode(path)

  def test_unknown_range(self):
    path = self.image("a.tif", np.ones((4, 4), np.float32))
    with self.assertRaisesRegex(ValueError, r"a\.tif.*no known range"):
      decoding.decode(path)

  def test_too_large(self):
    path = self.image("a.png")
    limit = Image.MAX_IMAGE_PIXELS
    self.addCleanup(setattr, Image, "MAX_IMAGE_PIXELS", limit)
    Image.MAX_IMAGE_PIXELS = 10
    with self.assertRaisesRegex(ValueError, r"a\.png.*exceeds limit"):
      decoding.decode(path)

  def test_a_length_that_is_a_lie_takes_no_memory(self):
    path = self.image("a.png", files.pixels(64, 64))
    start = path.read_bytes().index(b"IDAT") - 4
    with path.open("r+b") as file:
      file.seek(start)
      file.write((2**31 - 1).to_bytes(4, "big"))
    tracemalloc.start()
    self.addCleanup(tracemalloc.stop)
    with contextlib.suppress(ValueError):
      decoding.decode(path)
    self.assertLess(tracemalloc.get_traced_memory()[1], 2**24)

  def test_an_error_without_words_is_called_by_its_kind(self):
    path = self.image("a.png")
    with mock.patch.object(decoding, "_to_rgb", side_effect=MemoryError()):
      with self.assertRaisesRegex(ValueError, r"an image: MemoryError\(\)$"):
        decoding.decode(path)

  def test_missing(self):
    with self.assertRaisesRegex(FileNotFoundError, r"none\.png"):
      decoding.decode(self.root / "none.png")


def _damaged(content, rng):
  """A file's content with some bytes changed, cut out, or cut off."""
  content = bytearray(content)
  for _ in range(rng.integers(1, 6)):
    content[rng.integers(len(content))] = rng.integers(256)
  first, last = sorted(rng.integers(0, len(content), 2))
  kind = rng.integers(3)
  return bytes((content, content[:last], content[:first] + content[last:])[
      kind])


class HeaderTest(files.FolderCase):

  def test_sound_images_of_every_kind(self):
    grey = files.pixels()[..., 0]
    for name, values in (("a.png", None), ("a.jpg", None), ("a.webp", None),
                         ("a.bmp", grey), ("a.tif", grey.astype(np.uint16)),
                         ("a.pgm", grey.astype(np.uint16) << 8)):
      path = self.image(name, values)
      decoding.check_header(path)
      decoding.check_header(io.BytesIO(path.read_bytes()))
      self.assertEqual(decoding.decode(path).shape, (6, 5, 3), name)

  @parameterized.named_parameters(
      ("too_narrow", (1025, 1), "cannot make views of an image of 1025 by 1"),
      ("too_wide", (1, 16385), "of 1 by 16385 pixels"),
      ("too_large_for_pillow", (13400, 13400), "could be decompression bomb"))
  def test_sizes(self, size, message):
    path = self.root / "a.png"
    Image.new("1", size[::-1]).save(path)
    with self.assertRaisesRegex(ValueError, message):
      decoding.check_header(path)

  def test_narrow_ones_that_are_still_of_use(self):
    for size in ((1, 1024), (1024, 1), (1, 1)):
      Image.new("L", size).save(self.root / "a.png")
      decoding.check_header(self.root / "a.png")

  def test_ranges_that_are_not_known(self):
    path = self.image("a.tif", np.ones((4, 4), np.float32))
    with self.assertRaisesRegex(ValueError, "no known range"):
      decoding.check_header(path)

  def test_a_program_that_draws_is_not_run(self):
    path = self.text("a.jpg", "%!PS-Adobe-3.0 EPSF-3.0\n"
                     "%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    for look in (decoding.check_header, decoding.decode):
      with self.assertRaisesRegex(ValueError, r"a drawing \(EPS\), not pixels"):
        look(path)

  def test_what_is_no_file_is_not_opened(self):
    """Opening a FIFO would wait for a writer, for ever."""
    os.mkfifo(self.root / "fifo.png")
    (self.root / "device.png").symlink_to("/dev/zero")
    (self.root / "folder.png").mkdir()
    (self.root / "gone.png").symlink_to("elsewhere/0.png")
    (self.root / "circle.png").symlink_to("circle.png")
    with socket.socket(socket.AF_UNIX) as one:
      one.bind(os.path.relpath(self.root / "socket.png"))
    for name, message in (
        ("fifo", "it is a FIFO, not a file"), ("device", "it is a device, not"),
        ("folder", "it is a folder"), ("socket", "it is a socket"),
        ("gone", "a link to elsewhere/0.png, where no file can be found"),
        ("circle", "a link to circle.png, where no file")):
      path = self.root / f"{name}.png"
      with self.assertRaisesRegex(ValueError, message):
        decoding.check_header(path)
      with self.assertRaisesRegex(ValueError, f"{name}.png as an.*{message}"):
        decoding.decode(path)

  @parameterized.parameters("png", "jpg", "tif", "webp", "bmp", "gif", "ppm")
  def test_any_damage_is_said_in_one_kind_of_error(self, suffix):
    rng = np.random.default_rng(0)
    content = self.image(f"a.{suffix}", files.pixels(20, 20)).read_bytes()
    for _ in range(200):
      damaged = _damaged(content, rng)
      for look in (lambda: decoding.check_header(io.BytesIO(damaged)),
                   lambda: decoding.decode_bytes(damaged, "x")):
        with contextlib.suppress(ValueError, OSError):
          look()


if __name__ == "__main__":
  absltest.main()
