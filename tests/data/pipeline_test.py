"""Tests of jaxcal.data.pipeline."""

import itertools
import threading
import time

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from jaxcal.data import image_set as image_sets
from jaxcal.data import pairs
from jaxcal.data import pipeline
from jaxcal.data import sources
from jaxcal.data import views

_COUNT = 11


def _image(position):
  """Of sizes that need canvases of 64 or 96 pixels."""
  generator = np.random.default_rng(position)
  shape = (20 + 7 * position, 90 - 6 * position, 3)
  return generator.integers(256, size=shape, dtype=np.uint8)


def _image_set(read=_image):
  return image_sets.ImageSet(
      name="birds",
      class_names=("wren", "rook", "owl"),
      ids=tuple(f"{position}.png" for position in range(_COUNT)),
      labels=(np.arange(_COUNT) % 3).astype(np.int32),
      read=read,
  )


def _in_turn(batch_size):
  return [
      range(first, min(first + batch_size, _COUNT))
      for first in range(0, _COUNT, batch_size)
  ]


def _batches(image_set, positions, **options):
  arguments = dict(seed=3, batch_size=2, num_threads=2) | options
  return pipeline.batches(image_set, positions, **arguments)


def _alive():
  names = (thread.name for thread in threading.enumerate())
  return [name for name in names if name.startswith("decoding")]


class BatchesTest(parameterized.TestCase):

  def tearDown(self):
    super().tearDown()
    self.assertEmpty(_alive(), "threads outlived their iterator")

  @parameterized.product(
      batch_size=[1, 4, 11, 16], num_threads=[1, 5], prefetch=[1, 3]
  )
  def test_equal_to_a_plain_loop(self, batch_size, num_threads, prefetch):
    batches = list(_batches(
        _image_set(), _in_turn(batch_size), batch_size=batch_size,
        num_threads=num_threads, prefetch=prefetch,
    ))
    self.assertLen(batches, -(-_COUNT // batch_size))
    seen = 0
    for batch in batches:
      self.assertEqual(batch.canvases.dtype, np.uint8)
      self.assertEqual(batch.sizes.dtype, np.int32)
      self.assertEqual(batch.keys.dtype, np.uint32)
      self.assertEqual(batch.mask.dtype, np.bool_)
      for entries in batch[:-1]:
        self.assertLen(entries, batch_size)
      self.assertEmpty(batch.apart)
      for row in range(batch_size):
        self.assertEqual(batch.mask[row], seen < _COUNT)
        if seen < _COUNT:
          self.assertEqual(batch.ids[row], f"{seen}.png")
          last = _image(seen), views.image_key(3, f"{seen}.png")
          seen += 1
        else:
          self.assertEqual(batch.ids[row], "")
        image, key = last
        height, width = batch.sizes[row]
        canvas = batch.canvases[row]
        np.testing.assert_array_equal(canvas[:height, :width], image)
        self.assertEqual(canvas.sum(), image.sum())
        np.testing.assert_array_equal(batch.keys[row], key)
    self.assertEqual(seen, _COUNT)

  def test_smallest_canvas_for_each_batch(self):
    # Heights 20, 27, ..., 90 and widths 90, 84, ..., 30.
    positions = [[0], [0, 1], [9, 10], [5, 6], [0, 10]]
    shapes = [batch.canvases.shape[1:3] for batch in _batches(
        _image_set(), positions)]
    self.assertEqual(
        shapes, [(64, 96), (64, 96), (96, 64), (64, 64), (96, 96)])

  def test_positions_in_any_order_and_number(self):
    positions = [[], [7, 2], [], [2], [10], []]
    batches = list(_batches(_image_set(), iter(positions)))
    for chosen, batch in zip(positions, batches, strict=True):
      names = [f"{position}.png" for position in chosen]
      self.assertEqual([name for name in batch.ids if name], names)
      self.assertEqual(batch.mask.sum(), len(chosen))
    np.testing.assert_array_equal(
        batches[1].keys[1], batches[3].keys[0])

  def test_filling_only(self):
    batch, = _batches(_image_set(), [[]])
    self.assertEqual(batch.canvases.shape, (2, 64, 64, 3))
    self.assertFalse(batch.canvases.any() or batch.mask.any())
    np.testing.assert_array_equal(batch.sizes, 1)
    self.assertEqual(batch.ids, ("", ""))

  def test_no_batches(self):
    self.assertEmpty(list(_batches(_image_set(), [])))

  def test_order_is_kept_if_early_images_are_slow(self):
    def read(position):
      time.sleep(0.05 if position == 0 else 0)
      return _image(position)

    batches = _batches(
        _image_set(read), _in_turn(4), batch_size=4, num_threads=4)
    ids = list(itertools.chain(*(batch.ids for batch in batches)))
    self.assertEqual(ids[:_COUNT], [f"{i}.png" for i in range(_COUNT)])

  def test_threads_work_side_by_side(self):
    # Passes only when three images are being read at the same time.
    together = threading.Barrier(3, timeout=20)

    def read(position):
      if position < 9:
        together.wait()
      return _image(position)

    batches = _batches(
        _image_set(read), _in_turn(1), batch_size=1, num_threads=3, prefetch=1)
    self.assertLen(list(batches), _COUNT)

  @parameterized.parameters((1, 1, 1, 1), (2, 1, 2, 4), (1, 3, 1, 3))
  def test_works_ahead_but_not_further(
      self, batch_size, num_threads, prefetch, window
  ):
    read, taken = [], []

    def note(position):
      read.append(position)
      return _image(position)

    def positions():
      for chosen in _in_turn(batch_size):
        taken.append(chosen)
        yield chosen

    batches = _batches(
        _image_set(note), positions(), batch_size=batch_size,
        num_threads=num_threads, prefetch=prefetch,
    )
    self.assertEmpty(read + taken)
    next(batches)
    deadline = time.monotonic() + 10
    while len(read) < batch_size + window and time.monotonic() < deadline:
      time.sleep(0.01)
    time.sleep(0.05)
    self.assertLen(read, batch_size + window)
    self.assertLen(taken, -(-(batch_size + window) // batch_size))
    batches.close()

  def test_closing_early_ends_the_threads(self):
    read = []

    def note(position):
      read.append(position)
      time.sleep(0.01)
      return _image(position)

    batches = _batches(_image_set(note), _in_turn(2), prefetch=4)
    next(batches)
    self.assertLen(_alive(), 2)
    batches.close()
    self.assertEmpty(_alive())
    self.assertLess(len(read), _COUNT)
    with self.assertRaises(StopIteration):
      next(batches)

  def test_leaving_the_loop_ends_the_threads(self):
    for _ in _batches(_image_set(), _in_turn(2)):
      break
    self.assertEmpty(_alive())

  @parameterized.parameters(1, 4)
  def test_bad_image_is_named_after_the_batches_before_it(self, num_threads):
    def read(position):
      if position == 5:
        raise OSError("disk on fire")
      return _image(position)

    batches = _batches(_image_set(read), _in_turn(2), num_threads=num_threads)
    self.assertEqual(next(batches).ids, ("0.png", "1.png"))
    self.assertEqual(next(batches).ids, ("2.png", "3.png"))
    with self.assertRaisesRegex(
        ValueError, r"'5\.png' \(number 5 of 'birds'\): disk on fire"
    ) as raised:
      next(batches)
    self.assertIsInstance(raised.exception.__cause__, OSError)
    self.assertEmpty(_alive())

  def test_later_images_are_not_waited_for(self):
    begun = []

    def read(position):
      begun.append(position)
      if position == 0:
        raise OSError("disk on fire")
      time.sleep(0.1)
      return _image(position)

    batches = _batches(
        _image_set(read), _in_turn(_COUNT), batch_size=_COUNT, num_threads=1)
    with self.assertRaisesRegex(ValueError, r"'0\.png'.*disk on fire"):
      next(batches)
    self.assertLess(len(begun), _COUNT)

  @parameterized.named_parameters(
      ("shape", np.zeros((4, 4)), r"uint8 \[h w 3\], got float64 \[4, 4\]"),
      ("empty", np.zeros((0, 4, 3), np.uint8), r"got uint8 \[0, 4, 3\]"),
      ("size", np.zeros((2, 5000, 3), np.uint8), "2 by 5000 pixels; expected"),
  )
  def test_unusable_images_are_named(self, image, message):
    batches = _batches(_image_set(lambda position: image), [[3]])
    with self.assertRaisesRegex(ValueError, r"'3\.png' .*" + message):
      next(batches)

  @parameterized.product(batch_size=[1, 4], num_threads=[1, 3])
  def test_unusable_images_are_masked_and_reported(
      self, batch_size, num_threads):
    bad = {0: OSError("disk on fire"), 4: np.zeros((0, 4, 3), np.uint8),
           5: MemoryError(), 10: np.zeros((2, 5000, 3), np.uint8)}

    def read(position):
      image = bad.get(position, _image(position))
      if isinstance(image, Exception):
        raise image
      return image

    reports = []
    batches = _batches(
        _image_set(read), _in_turn(batch_size), batch_size=batch_size,
        num_threads=num_threads, on_unusable=lambda *it: reports.append(it))
    plain = _batches(
        _image_set(), _in_turn(batch_size), batch_size=batch_size)
    position = 0
    for batch, whole in zip(batches, plain, strict=True):
      self.assertEqual(batch.ids, whole.ids)
      np.testing.assert_array_equal(batch.keys, whole.keys)
      self.assertEqual(batch.mask.dtype, np.bool_)
      self.assertLen(batch.mask, batch_size)
      for row in range(sum(whole.mask)):
        self.assertEqual(batch.mask[row], position not in bad)
        height, width = whole.sizes[row] if batch.mask[row] else (1, 1)
        self.assertEqual(tuple(batch.sizes[row]), (height, width))
        shown = batch.canvases[row, :height, :width]
        if position in bad:
          self.assertFalse(batch.canvases[row].any())
        else:
          np.testing.assert_array_equal(shown, _image(position))
        position += 1
      self.assertFalse(batch.mask[row + 1:].any())
      # Reported by now, and none of a later batch.
      self.assertEqual([one for one, _ in reports],
                       [one for one in sorted(bad) if one < position])
    self.assertEqual(position, _COUNT)
    for (_, reason), message in zip(reports, (
        "disk on fire", r"uint8 \[h w 3\]", r"MemoryError\(\)", "2 by 5000")):
      self.assertRegex(reason, message)

  def test_a_report_that_raises_ends_the_batches(self):
    def read(position):
      raise OSError("disk on fire")

    def enough(position, reason):
      raise RuntimeError(f"number {position}: {reason}")

    batches = _batches(_image_set(read), _in_turn(2), on_unusable=enough)
    with self.assertRaisesRegex(RuntimeError, "number 0: disk on fire"):
      next(batches)
    self.assertEmpty(_alive())

  def test_positions_outside_are_no_unusable_images(self):
    batches = _batches(
        _image_set(), [[_COUNT]], on_unusable=lambda *it: None)
    with self.assertRaisesRegex(ValueError, "no image number 11"):
      next(batches)

  def test_pairs_are_images_too(self):
    pair_set = pairs.PairSet(
        "web", tuple("abc"), ("one", "two", "three"), _image, {})
    batch, = _batches(pair_set, [[2, 0]])
    self.assertEqual(batch.ids, ("c", "a"))
    height, width = batch.sizes[0]
    np.testing.assert_array_equal(
        batch.canvases[0, :height, :width], _image(2))

  def test_damaged_files_are_named(self):
    folder = self.create_tempdir()
    for name in ("a.png", "b.png"):
      folder.create_file(f"wren/{name}", content="no image at all")
    batches = _batches(sources.image_folder(folder.full_path), [[1]])
    with self.assertRaisesRegex(
        ValueError, r"'wren/b\.png' .*cannot read .*b\.png as an image"):
      next(batches)

  @parameterized.parameters(-1, _COUNT)
  def test_refuses_positions_outside(self, position):
    batches = _batches(_image_set(), [[0], [position]])
    next(batches)
    with self.assertRaisesRegex(
        ValueError, f"no image number {position} in 'birds' of 11 images"):
      next(batches)

  def test_refuses_too_many_positions(self):
    batches = _batches(_image_set(), [[0], [1, 2, 3]])
    next(batches)
    with self.assertRaisesRegex(ValueError, "3 positions for a batch of 2"):
      next(batches)

  @parameterized.parameters(
      (dict(batch_size=0), "batch_size of at least 1, got 0"),
      (dict(num_threads=0), "num_threads of at least 1, got 0"),
      (dict(prefetch=0), "prefetch of at least 1, got 0"),
  )
  def test_refuses_at_once(self, changes, message):
    with self.assertRaisesRegex(ValueError, message):
      _batches(_image_set(), _in_turn(2), **changes)


if __name__ == "__main__":
  absltest.main()
