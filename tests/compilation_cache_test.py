"""Where compiled programs are kept, and when they are not."""

import os
import pathlib
import subprocess
import sys
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jaxlib
import pytest

from jaxcal import compilation_cache
from tests.cli import command

_DIR = "JAX_COMPILATION_CACHE_DIR"
_SECONDS = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
# Says where JAX kept programs, how many it found there, and how many not.
_CODE = """
import collections
import sys
import jax
from jaxcal.cli import main
seen = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: seen.update([event]))
status = main.run()
print(jax.config.jax_compilation_cache_dir)
for kind in ("hits", "misses"):
  print(seen[f"/jax/compilation_cache/cache_{kind}"])
sys.exit(status)
"""


def _mode(path):
  return path.stat().st_mode & 0o777


class CompilationCacheTest(parameterized.TestCase):

  def setUp(self):
    """JAX as it is where nobody has told it of a folder."""
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)
    self.folder = self.root / "jaxcal" / "programs"
    for name in (_DIR, _SECONDS):
      self.enter_context(mock.patch.dict(os.environ))
      os.environ.pop(name, None)
    os.environ["XDG_CACHE_HOME"] = str(self.root)
    self.before = (jax.config.jax_compilation_cache_dir,
                   jax.config.jax_persistent_cache_min_compile_time_secs)
    self.addCleanup(self._set, *self.before)
    self._set(None, 1.0)

  def _set(self, folder, seconds, enabled=True):
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)
    jax.config.update("jax_enable_compilation_cache", enabled)

  def _use(self):
    """The folder that JAX keeps programs in, and why there is none."""
    said = ""
    try:
      compilation_cache.use()
    except compilation_cache.NotPrivate as error:
      said = str(error)
    found = jax.config.jax_compilation_cache_dir
    return found and pathlib.Path(found), said

  def test_in_a_folder_of_the_users_own(self):
    found, said = self._use()
    self.assertEqual((found.parent, said), (self.folder, ""))
    self.assertEqual(_mode(self.folder), 0o700)
    self.assertEqual(jax.config.jax_persistent_cache_min_compile_time_secs, 0)
    self.assertStartsWith(
        found.name, f"jax-{jax.__version__}-jaxlib-{jaxlib.__version__}-")

  def test_apart_by_processor(self):
    names = set()
    for text in ("model name : a\nflags : fma\ncpu MHz : 1\n",
                 "model name : a\nflags : fma avx2\ncpu MHz : 1\n",
                 "model name : b\nflags : fma\ncpu MHz : 1\n",
                 "model name : a\nflags : fma\ncpu MHz : 2\n"):
      path = self.root / "cpuinfo"
      path.write_text(text)
      with mock.patch.object(compilation_cache, "_CPU_INFO", path):
        self._set(None, 1.0)
        names.add(self._use()[0].name)
    self.assertLen(names, 3)  # the clock is no matter

  def test_no_linux(self):
    with mock.patch.object(
        compilation_cache, "_CPU_INFO", self.root / "nowhere"):
      self.assertIsNotNone(self._use()[0])

  @parameterized.parameters(
      ({"XDG_CACHE_HOME": "/a/b", "HOME": "/c"}, "/a/b/jaxcal/programs"),
      ({"XDG_CACHE_HOME": "", "HOME": "/c"}, "/c/.cache/jaxcal/programs"),
      ({"XDG_CACHE_HOME": "a/b", "HOME": "/c"}, "/c/.cache/jaxcal/programs"),
      ({"HOME": "/c"}, "/c/.cache/jaxcal/programs"),
      ({"HOME": ""}, None), ({"HOME": "c"}, None), ({}, None))
  def test_folder_of(self, environment, expected):
    found = compilation_cache.folder_of(environment)
    self.assertEqual(found and str(found), expected)

  def test_off_without_a_home(self):
    with mock.patch.dict(os.environ):
      del os.environ["XDG_CACHE_HOME"]
      os.environ.pop("HOME", None)
      self.assertEqual(self._use(), (None, ""))

  @parameterized.parameters("/proc/nonexistent", "{root}/file")
  def test_off_where_no_folder_can_be(self, place):
    (self.root / "file").write_text("")
    os.environ["XDG_CACHE_HOME"] = place.format(root=self.root)
    self.assertEqual(self._use(), (None, ""))

  def test_off_where_nothing_can_be_written(self):
    with mock.patch.object(os, "access", return_value=False) as access:
      self.assertEqual(self._use(), (None, ""))
    access.assert_called_once_with(self.folder, os.W_OK)

  def test_the_commands_flag_and_what_it_says(self):
    start = lambda *flags: command.here(
        "evaluate", "--config.data.name=x", *flags)[2]
    self.assertStartsWith(start("--nocompilation_cache"), "jaxcal: unknown ima")
    self.assertFalse(self.folder.exists())
    with mock.patch.object(os, "getuid", return_value=os.getuid() + 1):
      said = start()
    self.assertStartsWith(said, "jaxcal: compiled programs are not kept, since")
    self.assertIn("give --nocompilation_cache\njaxcal: unknown image", said)
    self.assertIsNone(jax.config.jax_compilation_cache_dir)
    start()
    self.assertIsNotNone(jax.config.jax_compilation_cache_dir)

  def test_a_folder_of_somebody_else_is_not_used(self):
    user = os.getuid()
    with mock.patch.object(os, "getuid", return_value=user + 1):
      found, said = self._use()
    self.assertIsNone(found)
    self.assertStartsWith(
        said, f"compiled programs are not kept, since {self.folder} "
        f"must belong to you (user {user + 1})")
    self.assertLen(said.splitlines(), 1)

  @parameterized.parameters(0o750, 0o702, 0o777)
  def test_a_folder_that_is_open_to_others_is_not_used(self, mode):
    self.folder.mkdir(parents=True)
    self.folder.chmod(mode)
    found, said = self._use()
    self.assertIsNone(found)
    self.assertIn(f"with mode {mode:#o}; remove it", said)
    self.assertEqual(_mode(self.folder), mode)
    self.folder.chmod(0o700)
    self.assertIsNotNone(self._use()[0])

  def test_jaxs_own_settings_come_first(self):
    mine = str(self.root / "mine")
    self._set(mine, 2.0)
    self.assertEqual(self._use(), (pathlib.Path(mine), ""))
    self.assertEqual(jax.config.jax_persistent_cache_min_compile_time_secs, 2)
    self._set(None, 2.0, enabled=False)
    self.assertEqual(self._use(), (None, ""))
    self.assertFalse(self.folder.exists())
    self._set(None, 2.0)
    os.environ[_SECONDS] = "2"
    self.assertIsNotNone(self._use()[0])
    self.assertEqual(jax.config.jax_persistent_cache_min_compile_time_secs, 2)

  def test_what_was_not_used_for_longest_goes(self):
    self.folder.mkdir(parents=True, mode=0o700)
    kind = self.folder / "jax-0.1-jaxlib-0.1-abc"
    kind.mkdir()
    for name, read, written in (("old", 20, 10), ("read", 50, 10),
                                ("new", 40, 40)):
      (kind / name).write_bytes(bytes(100))
      os.utime(kind / name, (read, written))
    compilation_cache.bound(self.folder, 300)
    self.assertLen(list(kind.iterdir()), 3)
    compilation_cache.bound(self.folder, 299)
    self.assertEqual({path.name for path in kind.iterdir()}, {"read", "new"})
    with mock.patch.object(compilation_cache, "MAX_BYTES", 150):
      self.assertIsNotNone(self._use()[0])
    self.assertEqual([path.name for path in kind.iterdir()], ["read"])

  def _run(self, **environment):
    """Where programs are, how many were found and not, and the results."""
    run = self.create_tempdir().full_path
    done = subprocess.run(
        [sys.executable, "-c", _CODE, "evaluate", *command.SMALL,
         "--config.method.name=zero_shot", f"--output={run}"],
        cwd=command.ROOT, env=os.environ | environment, capture_output=True,
        text=True)
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertNotIn("cache", done.stderr)
    *_, folder, hits, misses = done.stdout.splitlines()
    return (pathlib.Path(folder), int(hits), int(misses),
            pathlib.Path(run, "results.jsonl").read_bytes())

  @pytest.mark.slow
  def test_a_second_run_finds_what_the_first_has_compiled(self):
    folder, _, compiled, results = self._run()
    self.assertEqual(folder.parent, self.folder)
    self.assertLen(list(folder.glob("*-cache")), compiled)
    self.assertGreater(compiled, 10)
    # One was half written: it is compiled again, without a word.
    half = max(folder.glob("*-cache"), key=lambda path: path.stat().st_size)
    half.write_bytes(half.read_bytes()[:half.stat().st_size // 2])
    again, found, missed, same = self._run()
    self.assertEqual((again, found, missed, same),
                     (folder, compiled - 1, 1, results))
    # These change no name of a folder, but every program.
    flags = " ".join(flag for flag in os.environ["XLA_FLAGS"].split()
                     if "optimization_level" not in flag)
    again, found, missed, _ = self._run(XLA_FLAGS=flags)
    self.assertEqual((again, found, missed), (folder, 0, compiled))


if __name__ == "__main__":
  absltest.main()
