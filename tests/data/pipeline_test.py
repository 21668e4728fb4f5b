"""Tests of jaxcal.data.pipeline."""

import functools
import itertools
import threading
import time

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from jaxcal.data import image_set as image_sets
from jaxcal.data import pipeline
from jaxcal.data import views

_COUNT = 11


def _image(position):
  generator = np.random.default_rng(position)
  return generator.integers(256, size=(20, 24, 3), dtype=np.uint8)


def _image_set(read=_image):
  return image_sets.ImageSet(
      name="birds",
      class_names=("wren", "rook", "owl"),
      ids=tuple(f"{position}.png" for position in range(_COUNT)),
      labels=(np.arange(_COUNT) % 3).astype(np.int32),
      read=read,
  )


_make_views = functools.partial(
    views.make_views, seed=3, num_views=4, resize=8, crop=8
)


def _alive():
  names = (thread.name for thread in threading.enumerate())
  return [name for name in names if name.startswith("views")]


class BatchesTest(parameterized.TestCase):

  def tearDown(self):
    super().tearDown()
    self.assertEmpty(_alive(), "threads outlived their iterator")

  @parameterized.product(
      batch_size=[1, 4, 11, 16], num_threads=[1, 5], prefetch=[1, 3]
  )
  def test_equal_to_a_plain_loop(self, batch_size, num_threads, prefetch):
    image_set = _image_set()
    batches = list(
        pipeline.batches(
            image_set, _make_views, batch_size=batch_size,
            num_threads=num_threads, prefetch=prefetch,
        )
    )
    self.assertLen(batches, -(-_COUNT // batch_size))
    seen = 0
    for batch in batches:
      self.assertEqual(batch.views.shape, (batch_size, 4, 8, 8, 3))
      self.assertEqual(batch.views.dtype, np.uint8)
      self.assertEqual(batch.labels.shape, (batch_size,))
      self.assertEqual(batch.labels.dtype, np.int32)
      self.assertEqual(batch.mask.shape, (batch_size,))
      self.assertEqual(batch.mask.dtype, np.bool_)
      self.assertLen(batch.ids, batch_size)
      for row in range(batch_size):
        self.assertEqual(batch.mask[row], seen < _COUNT)
        if seen < _COUNT:
          self.assertEqual(batch.ids[row], f"{seen}.png")
          self.assertEqual(batch.labels[row], seen % 3)
          last = _make_views(_image(seen), f"{seen}.png")
          seen += 1
        else:
          self.assertEqual(batch.ids[row], "")
          self.assertEqual(batch.labels[row], -1)
        np.testing.assert_array_equal(batch.views[row], last)
    self.assertEqual(seen, _COUNT)

  @parameterized.parameters(0, 1, 4, 10)
  def test_resumed_run_gives_the_rest(self, start):
    def gather(start):
      batches = pipeline.batches(
          _image_set(), _make_views, batch_size=3, num_threads=2, start=start
      )
      return {
          image_id: batch.views[row]
          for batch in batches
          for row, image_id in enumerate(batch.ids)
          if batch.mask[row]
      }

    whole, rest = gather(0), gather(start)
    self.assertEqual(list(rest), list(whole)[start:])
    for image_id, made in rest.items():
      np.testing.assert_array_equal(made, whole[image_id])

  def test_nothing_left(self):
    batches = pipeline.batches(
        _image_set(), _make_views, batch_size=3, num_threads=2, start=_COUNT
    )
    self.assertEmpty(list(batches))

  def test_a_view_depends_on_the_id_and_not_on_the_position(self):
    reversed_set = image_sets.take(_image_set(), range(_COUNT)[::-1])
    forth, back = (
        np.concatenate([
            batch.views[batch.mask] for batch in pipeline.batches(
                image_set, _make_views, batch_size=4, num_threads=3
            )
        ]) for image_set in (_image_set(), reversed_set)
    )
    np.testing.assert_array_equal(forth, back[::-1])

  def test_order_is_kept_if_early_images_are_slow(self):
    def read(position):
      time.sleep(0.05 if position == 0 else 0)
      return _image(position)

    batches = pipeline.batches(
        _image_set(read), _make_views, batch_size=4, num_threads=4
    )
    ids = list(itertools.chain(*(batch.ids for batch in batches)))
    self.assertEqual(ids[:_COUNT], [f"{i}.png" for i in range(_COUNT)])

  def test_threads_work_side_by_side(self):
    # Passes only when three images are in the making at the same time.
    together = threading.Barrier(3, timeout=20)

    def read(position):
      if position < 9:
        together.wait()
      return _image(position)

    batches = pipeline.batches(
        _image_set(read), _make_views, batch_size=1, num_threads=3, prefetch=1
    )
    self.assertLen(list(batches), _COUNT)

  @parameterized.parameters((1, 1, 1, 1), (2, 1, 2, 4), (1, 3, 1, 3))
  def test_works_ahead_but_not_further(
      self, batch_size, num_threads, prefetch, window
  ):
    read = []

    def note(position):
      read.append(position)
      return _image(position)

    batches = pipeline.batches(
        _image_set(note), _make_views, batch_size=batch_size,
        num_threads=num_threads, prefetch=prefetch,
    )
    self.assertEmpty(read)
    next(batches)
    deadline = time.monotonic() + 10
    while len(read) < batch_size + window and time.monotonic() < deadline:
      time.sleep(0.01)
    time.sleep(0.05)
    self.assertLen(read, batch_size + window)
    batches.close()

  def test_closing_early_ends_the_threads(self):
    read = []

    def note(position):
      read.append(position)
      time.sleep(0.01)
      return _image(position)

    batches = pipeline.batches(
        _image_set(note), _make_views, batch_size=2, num_threads=2, prefetch=4
    )
    next(batches)
    self.assertLen(_alive(), 2)
    batches.close()
    self.assertEmpty(_alive())
    self.assertLess(len(read), _COUNT)
    with self.assertRaises(StopIteration):
      next(batches)

  def test_leaving_the_loop_ends_the_threads(self):
    for _ in pipeline.batches(
        _image_set(), _make_views, batch_size=2, num_threads=2
    ):
      break
    self.assertEmpty(_alive())

  @parameterized.parameters(1, 4)
  def test_bad_image_is_named_after_the_batches_before_it(self, num_threads):
    def read(position):
      if position == 5:
        raise OSError("disk on fire")
      return _image(position)

    batches = pipeline.batches(
        _image_set(read), _make_views, batch_size=2, num_threads=num_threads
    )
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

    batches = pipeline.batches(
        _image_set(read), _make_views, batch_size=_COUNT, num_threads=1
    )
    with self.assertRaisesRegex(ValueError, r"'0\.png'.*disk on fire"):
      next(batches)
    self.assertLess(len(begun), _COUNT)

  def test_failing_views_are_named(self):
    batches = pipeline.batches(
        _image_set(lambda position: np.zeros((4, 4))), _make_views,
        batch_size=2, num_threads=1,
    )
    with self.assertRaisesRegex(ValueError, r"'0\.png'.*uint8 \[h w 3\]"):
      next(batches)

  @parameterized.named_parameters(
      ("shape", lambda p: np.zeros((p // 3 + 1, 8, 8, 3), np.uint8),
       r"'3\.png' are uint8 \[2, 8, 8, 3\]; expected uint8 \[1, 8, 8, 3\]"),
      ("type", lambda p: np.zeros((1, 8, 8, 3), np.float32),
       r"'0\.png' are float32 .*expected uint8"),
  )
  def test_views_of_another_kind(self, make, message):
    batches = pipeline.batches(
        _image_set(lambda position: position),
        lambda position, _: make(position), batch_size=2, num_threads=2,
    )
    with self.assertRaisesRegex(ValueError, message):
      list(batches)

  @parameterized.parameters(
      (dict(batch_size=0), "batch_size of at least 1, got 0"),
      (dict(num_threads=0), "num_threads of at least 1, got 0"),
      (dict(prefetch=0), "prefetch of at least 1, got 0"),
      (dict(start=-1), r"start in \[0, 11\].*'birds', got -1"),
      (dict(start=12), r"start in \[0, 11\].*'birds', got 12"),
  )
  def test_refuses_at_once(self, changes, message):
    arguments = dict(batch_size=2, num_threads=2) | changes
    with self.assertRaisesRegex(ValueError, message):
      pipeline.batches(_image_set(), _make_views, **arguments)


if __name__ == "__main__":
  absltest.main()
