"""Files are whole, between processes, after kills and after power losses."""

import errno
import hashlib
import itertools
import os
import pathlib
import random
import subprocess
import sys
import time
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from jaxcal.storage import atomic
from jaxcal.storage import process
from tests.storage import workers


def _content(rng):
  """Any length, from nothing to what no system writes at once."""
  body = rng.randbytes(rng.choice((0, 9, 4096, 300_000)))
  return hashlib.sha256(body).digest() + body


def _is_whole(content):
  return hashlib.sha256(content[32:]).digest() == content[:32]


def _keep_writing(path, seed, seconds):
  rng, end, count = random.Random(seed), time.monotonic() + seconds, 0
  while time.monotonic() < end:
    atomic.write_whole(path, _content(rng))
    count += 1
  return count


def _write_new(folder, content, barrier):
  succeeded = []
  for number in range(30):
    barrier.wait()
    succeeded.append(atomic.write_new(folder / f"new-{number}", content))
  return succeeded


def _names(folder):
  return sorted(path.name for path in folder.iterdir())


class AtomicTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    self.path = self.folder / "result.v1.bin"

  def test_written_and_written_anew(self):
    for content in (b"first", b"", bytes(10**6)):
      atomic.write_whole(self.path, content)
      self.assertEqual(self.path.read_bytes(), content)
    self.assertEqual(_names(self.folder), ["result.v1.bin"])
    # As any other file of the user.
    plain = self.folder / "plain"
    plain.write_bytes(b"")
    self.assertEqual(self.path.stat().st_mode, plain.stat().st_mode)

  @parameterized.parameters(True, False)
  def test_written_in_parts(self, on_disk):
    for parts in ((b"one", b"two"), (), (bytes(10**6), b"x")):
      atomic.write_parts(self.path, iter(parts), on_disk=on_disk)
      self.assertEqual(self.path.read_bytes(), b"".join(parts))

    def cut():
      yield b"half"
      raise EOFError("cut off")

    with self.assertRaisesRegex(EOFError, "cut off"):
      atomic.write_parts(self.path, cut(), on_disk=on_disk)
    self.assertEqual(self.path.read_bytes(), bytes(10**6) + b"x")
    self.assertEqual(_names(self.folder), ["result.v1.bin"])

  def _two_writers_and_a_reader(self, seconds):
    writers = [workers.Worker(_keep_writing, self.path, seed, seconds)
               for seed in (1, 2)]
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
      try:
        self.assertTrue(_is_whole(self.path.read_bytes()))
        count += 1
      except FileNotFoundError:
        self.assertEqual(count, 0)  # it does not go once it is there
    for writer in writers:
      self.assertGreater(writer.result(), 10)
    self.assertGreater(count, 100)
    self.assertEqual(_names(self.folder), ["result.v1.bin"])

  def test_two_writers_and_a_reader(self):
    self._two_writers_and_a_reader(1)

  @pytest.mark.slow
  def test_two_writers_and_a_reader_for_long(self):
    self._two_writers_and_a_reader(5)

  def test_killed_at_random_moments(self):
    rng, left, kills = random.Random(0), 0, 0
    # Six at least, and on until one came amid a write: most do on a quiet
    # machine, and few on a busy one.
    while kills < 6 or not left:
      self.assertLess(kills, 200)  # or they test little
      seed, kills = kills, kills + 1
      writer = workers.Worker(_keep_writing, self.path, seed, 60)
      time.sleep(rng.uniform(0.02, 0.1))
      living = [path for path in self.folder.iterdir() if path != self.path]
      self.assertFalse(set(living) & set(atomic.remove_leftovers(self.folder)))
      writer.kill()
      if self.path.exists():
        self.assertTrue(_is_whole(self.path.read_bytes()))
      halves = [path for path in self.folder.iterdir() if path != self.path]
      left += len(halves)
      self.assertTrue(all(atomic.is_leftover(half.name) for half in halves))
      self.assertEqual(atomic.remove_leftovers(self.folder), halves)
      self.assertLessEqual(_names(self.folder), ["result.v1.bin"])
    self.assertTrue(self.path.exists())

  def test_safe_on_the_disk_before_it_has_its_name(self):
    steps = []
    sync, rename = os.fsync, atomic._rename

    def synced(descriptor):
      steps.append(os.readlink(f"/proc/self/fd/{descriptor}"))
      sync(descriptor)

    def renamed(half, path):
      self.assertEqual(half.read_bytes(), path.name.encode())
      steps.append((str(half), str(path)))
      rename(half, path)

    paths = self.folder / "a", self.folder / "b"
    with (mock.patch.object(os, "fsync", synced),
          mock.patch.object(atomic, "_rename", renamed)):
      atomic.write_together({path: path.name.encode() for path in paths})
    (*halves, first, second, folder), real = steps, os.path.realpath
    self.assertEqual([first, second], [
        (half, str(path)) for half, path in zip(halves, paths)])
    self.assertEqual(folder, real(self.folder))

  def test_stamps_tell_who_wrote_last(self):
    self.assertIsNone(atomic.stamp(self.path))
    ours = atomic.write_together({self.path: b"same"})
    self.assertEqual(atomic.stamp(self.path), ours[self.path])
    theirs = atomic.write_together({self.path: b"same"})
    self.assertNotEqual(ours, theirs)

  @parameterized.parameters(
      (errno.ENOSPC, OSError, "No space left on device while writing .*result"
       ".*; make room and give the same command again, it goes on from here"),
      (errno.EDQUOT, OSError, "result.*; make room"),
      (errno.EROFS, OSError, "Read-only file system while .*result.*; choose "
       "a place that can be written to"),
      (errno.EACCES, PermissionError, "result.*; choose a place"),
      (errno.EIO, OSError, r"Input/output error while writing .*result.v1.bin$")
  )
  def test_errors_name_the_file_and_the_way_out(self, number, kind, message):
    atomic.write_whole(self.path, b"before")
    raised = OSError(number, os.strerror(number))
    for broken in ("fsync", "replace"):
      with (mock.patch.object(os, broken, side_effect=raised),
            self.assertRaisesRegex(kind, message) as caught):
        atomic.write_whole(self.path, b"after")
      self.assertEqual(caught.exception.errno, number)
      self.assertEqual(self.path.read_bytes(), b"before")
      self.assertEqual(_names(self.folder), ["result.v1.bin"])

  def test_errors_of_the_system(self):
    with self.assertRaisesRegex(
        OSError, "File name too long while .*nnn; choose a shorter name"):
      atomic.write_whole(self.folder / ("n" * 300), b"")
    # There is no room for a longer name beside this one.
    atomic.write_whole(self.folder / ("n" * 255), b"")
    with self.assertRaisesRegex(FileNotFoundError, "nowhere/x; the folder abo"):
      atomic.write_whole(self.folder / "nowhere" / "x", b"")
    self.path.write_bytes(b"")
    with self.assertRaisesRegex(NotADirectoryError, "making the folder .*/x; "):
      atomic.make_folder(self.path / "x")
    self.assertLen(_names(self.folder), 2)

  def test_no_room(self):
    code = (
        "import resource, signal, sys\n"
        "from jaxcal.storage import atomic\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "for size in (999, 1001, 10**6):\n"
        "  try:\n"
        "    atomic.write_whole(sys.argv[1], bytes(size))\n"
        "  except OSError as error:\n"
        "    print(size, error)\n")
    done = subprocess.run(
        [sys.executable, "-c", code, self.path], capture_output=True,
        text=True, check=True)
    self.assertRegex(done.stdout, (
        "^1001 .*too large while writing .*bin; make room .*\n1000000 .*\n$"))
    self.assertEqual(self.path.read_bytes(), bytes(999))
    self.assertEqual(_names(self.folder), ["result.v1.bin"])

  def test_of_several_writers_of_a_new_file_one_succeeds(self):
    barrier = workers.barrier(3)
    started = [workers.Worker(
        _write_new, self.folder, bytes([seed]) * 9999, barrier)
               for seed in range(3)]
    winners = np.array([worker.result() for worker in started])
    self.assertEqual(winners.sum(0).tolist(), [1] * 30)
    for number, winner in enumerate(winners.argmax(0)):
      path = self.folder / f"new-{number}"
      self.assertEqual(path.read_bytes(), bytes([winner]) * 9999)
    self.assertFalse(atomic.write_new(path, b"more"))
    self.assertLen(_names(self.folder), 30)

  def test_new_files_where_there_are_no_links(self):
    error = OSError(errno.EPERM, "no links here")
    with mock.patch.object(os, "link", side_effect=error):
      self.assertTrue(atomic.write_new(self.path, b"first"))
      self.assertFalse(atomic.write_new(self.path, b"second"))
    self.assertEqual(self.path.read_bytes(), b"first")
    self.assertEqual(_names(self.folder), ["result.v1.bin"])

  def test_what_is_left_over(self):
    ours, below = process.current(), self.folder / "a" / "b"
    below.mkdir(parents=True)
    gone = ours._replace(pid=2**30)
    another = ours._replace(machine="0" * 8)
    files = {}
    for kind, writer, hours in (
        ("running", ours, 2), ("gone", gone, 0), ("elsewhere", another, 0.9),
        ("elsewhere, old", another, 1.1),
        ("reused", ours._replace(started=ours.started + 1), 0)):
      files[kind] = below / atomic.leftover_name(writer)
      files[kind].write_bytes(b"half")
      then = time.time() - 3600 * hours
      os.utime(files[kind], (then, then))
    for name in ("x.half", ".half", ".12-3.half", "result.json"):
      (below / name).write_bytes(b"mine")
    removed = atomic.remove_leftovers(self.folder)
    self.assertCountEqual(
        removed, [files[kind] for kind in ("gone", "elsewhere, old", "reused")])
    self.assertLen(_names(below), 6)
    self.assertEqual(atomic.remove_leftovers(self.folder / "nowhere"), [])

  def test_set_aside(self):
    names = []
    for number in range(3):
      self.path.write_bytes(bytes([number]))
      names.append(atomic.set_aside(self.path).name)
    self.assertEqual(names, [f"result.v1.bin.damaged{end}"
                             for end in ("", "-2", "-3")])
    for number, name in enumerate(names):
      self.assertEqual((self.folder / name).read_bytes(), bytes([number]))
    atomic.set_aside(self.path)  # another process was faster
    self.assertLen(_names(self.folder), 3)

  def test_a_name_for_each(self):
    names = {atomic.leftover_name(process.current()) for _ in range(100)}
    self.assertLen(names, 100)
    self.assertTrue(all(map(atomic.is_leftover, names)))
    for name, ending in itertools.product(names, ("x", ".half")):
      self.assertFalse(atomic.is_leftover(name + ending))


if __name__ == "__main__":
  absltest.main()
