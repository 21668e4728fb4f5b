"""One run at a time writes to a folder, whatever became of the one before."""

import contextlib
import errno
import json
import os
import pathlib
import time
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import pytest

from jaxcal.storage import lock
from jaxcal.storage import process
from tests.storage import workers


def _hold(folder, seconds):
  with lock.hold(folder):
    (folder / "held").touch()
    time.sleep(seconds)


def _compete(folder, barrier, rounds):
  """How often this process had the folder, of locks that are stale at first."""
  held = 0
  for number in range(rounds):
    place = folder / str(number)
    barrier.wait()
    try:
      with lock.hold(place):
        held += 1
        # Fails if another one is inside.
        inside = os.open(place / "inside", os.O_CREAT | os.O_EXCL)
        time.sleep(0.02)
        os.close(inside)
        os.unlink(place / "inside")
    except lock.FolderLocked:
      pass
  return held


class LockTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    self.path = self.folder / lock.NAME

  def _names(self):
    return sorted(path.name for path in self.folder.iterdir())

  def _leave(self, seconds_ago=0, **changes):
    """A lock of another owner, as a crash leaves it."""
    with lock.hold(self.folder):
      content = self.path.read_text()
    self.path.write_text(json.dumps(json.loads(content) | changes))
    self._touch(seconds_ago)
    return self.path.read_text()

  def _touch(self, seconds_ago):
    then = time.time() - seconds_ago
    os.utime(self.path, (then, then))

  def _held_until_stale(self):
    """Checks that what lies there is kept for minutes, and no longer."""
    content = self.path.read_bytes()
    self._touch(lock._STALE_SECONDS - 30)
    with self.assertRaises(lock.FolderLocked):
      with lock.hold(self.folder):
        self.fail("held twice")
    self.assertEqual(self.path.read_bytes(), content)
    self._touch(lock._STALE_SECONDS + 30)
    with lock.hold(self.folder) as before:
      self.assertNotEqual(self.path.read_bytes(), content)
    self.assertEmpty(self._names())
    return before

  def test_held_and_given_back(self):
    for _ in range(2):
      with lock.hold(self.folder) as before:
        self.assertIsNone(before)
        self.assertEqual(self._names(), [lock.NAME])
      self.assertEmpty(self._names())
    with self.assertRaisesRegex(KeyError, "of the run"):
      with lock.hold(self.folder):
        raise KeyError("of the run")
    self.assertEmpty(self._names())

  def test_a_second_run_is_told_who_holds_it_and_since_when(self):
    argv = ["/usr/bin/jaxcal", "evaluate", "--output=my runs"]
    with mock.patch("sys.argv", argv), lock.hold(self.folder):
      with self.assertRaisesRegex(ValueError, (
          rf"^{self.folder} is in use by another run: process {os.getpid()} on "
          r"\S+, since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d, `jaxcal "
          "evaluate '--output=my runs'`. Wait until it has ended, or write to "
          "another folder")) as caught:
        with lock.hold(self.folder):
          self.fail("held twice")
      self.assertEqual(caught.exception.owner.pid, os.getpid())
      self.assertEqual(self._names(), [lock.NAME])

  def test_of_another_process_until_it_is_killed(self):
    worker = workers.Worker(_hold, self.folder, 60)
    while not (self.folder / "held").exists():
      time.sleep(0.01)
    # It may sleep for long without touching its lock.
    self._touch(10 * lock._STALE_SECONDS)
    with self.assertRaisesRegex(ValueError, f"process {worker.pid} on "):
      with lock.hold(self.folder):
        self.fail("held twice")
    pid = worker.pid
    worker.kill()
    with lock.hold(self.folder) as before:
      self.assertEqual(before.pid, pid)
      self.assertIn(f"process {pid} on", lock.describe(before))
    self.assertEqual(self._names(), ["held"])

  def test_number_used_again(self):
    self._leave(started=process.current().started - 1)
    with lock.hold(self.folder) as before:
      self.assertEqual(before.pid, os.getpid())

  def test_of_another_machine_or_system(self):
    self._leave(machine="0" * 8, host="elsewhere")
    self.assertEqual(self._held_until_stale().host, "elsewhere")
    self._leave(started=0)  # of a process that may be another one by now
    self.assertEqual(self._held_until_stale().pid, os.getpid())

  @parameterized.parameters(b"", b"{", b"[]", b"{}", b"\xff", b'{"pid": "x"}',
                            b"[" * 100_000,
                            b'{"host": "", "command": "", "since": "", '
                            b'"machine": "", "pid": Infinity}')
  def test_damaged(self, content):
    self.path.write_bytes(content)
    self.assertEqual(self._held_until_stale().host, "an unknown machine")

  def test_touched_while_it_is_held(self):
    with mock.patch.object(lock, "_BEAT_SECONDS", 0.02):
      with lock.hold(self.folder):
        self._touch(1000)
        begun = time.monotonic()
        while time.time() - self.path.stat().st_mtime > 500:
          self.assertLess(time.monotonic() - begun, 30)
          time.sleep(0.01)
      # Not that of another one.
      with lock.hold(self.folder):
        content = self._leave_there()
        time.sleep(0.2)
        self.assertGreater(time.time() - self.path.stat().st_mtime, 500)
    self.assertEqual(self.path.read_text(), content)

  def _leave_there(self):
    content = self.path.read_text().replace("token", "other")
    self.path.write_text(content)
    self._touch(1000)
    return content

  def test_removed_by_someone(self):
    with lock.hold(self.folder):
      self.path.unlink()
    self.assertEmpty(self._names())

  def test_a_claim_that_was_left(self):
    """Of one that was killed while taking over."""
    self._leave(pid=2**30)
    write = lock.atomic.write_whole

    def killed(path, content):
      raise KeyboardInterrupt

    with (mock.patch.object(lock.atomic, "write_whole", killed),
          mock.patch.object(pathlib.Path, "unlink"),
          contextlib.suppress(KeyboardInterrupt)):
      with lock.hold(self.folder):
        self.fail("held")
    claim, = [name for name in self._names() if name != lock.NAME and
              lock.is_lock(name)]
    with self.assertRaises(lock.FolderLocked):
      with lock.hold(self.folder):
        self.fail("held")
    then = time.time() - 2 * lock._CLAIM_SECONDS
    os.utime(self.folder / claim, (then, then))
    self.assertIs(lock.atomic.write_whole, write)
    with lock.hold(self.folder) as before:
      self.assertEqual(before.pid, 2**30)
    self.assertNotIn(claim, self._names())

  def test_one_that_was_faster_keeps_its_lock(self):
    """Both have seen the same stale lock."""
    stale = self._leave(pid=2**30).encode()
    with lock.hold(self.folder):
      ours = self.path.read_bytes()
      self.assertFalse(lock._take_over(self.path, stale, b"another"))
      self.assertEqual(self.path.read_bytes(), ours)
      self.assertEqual(self._names(), [lock.NAME])

  def test_where_nothing_can_be_written(self):
    with self.assertRaisesRegex(FileNotFoundError, f"nowhere/{lock.NAME}; "):
      with lock.hold(self.folder / "nowhere"):
        self.fail("held")
    error = OSError(errno.EROFS, "Read-only file system")
    with (mock.patch("builtins.open", side_effect=error),
          self.assertRaisesRegex(OSError, f"{lock.NAME}; choose a place")):
      with lock.hold(self.folder):
        self.fail("held")

  def _race(self, rounds):
    for number in range(rounds):
      place = self.folder / str(number)
      place.mkdir()
      if number % 2:  # the others have no lock
        stale = self._leave(pid=2**30)
        self.path.rename(place / lock.NAME)
        self.assertIn("pid", stale)
    barrier = workers.barrier(3)
    started = [workers.Worker(_compete, self.folder, barrier, rounds)
               for _ in range(3)]
    held = [worker.result() for worker in started]
    self.assertGreaterEqual(sum(held), rounds)
    for number in range(rounds):
      self.assertEmpty(list((self.folder / str(number)).iterdir()))

  def test_several_start_at_once(self):
    self._race(20)

  @pytest.mark.slow
  def test_several_start_at_once_many_times(self):
    self._race(300)

  def test_names(self):
    for name in (lock.NAME, f"{lock.NAME}-0123456789abcdef"):
      self.assertTrue(lock.is_lock(name))
    for name in ("lock", f"{lock.NAME}-x", f"{lock.NAME}.txt", "my.lock"):
      self.assertFalse(lock.is_lock(name))


if __name__ == "__main__":
  absltest.main()
