"""What holds for every test: virtual devices, strict shapes, parsed flags."""

import collections
import importlib.util
import os
import pathlib

from tests import compiler

# Most of the time goes into compiling; all processes of a run share it.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax"))
# But not those that take as long to be kept as to be compiled.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
# Before jax is imported: the sharding tests need several devices.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") +
    " --xla_force_host_platform_device_count=4"
    # Set JAXCAL_OPTIMISE=1 to test the programs that users run.
    + ("" if os.environ.get("JAXCAL_OPTIMISE") else
       # One part of a program is compiled faster than many, if they are small.
       f" {compiler.flags()} --xla_cpu_parallel_codegen_split_count=1"))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# For the processes that run the tests, which are as many as there are cores:
# more threads for small matrices would only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import atexit  # noqa: E402
import gc  # noqa: E402

from absl import flags  # noqa: E402
import chex  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

if "PYTEST_XDIST_WORKER" in os.environ:
  # The last thing that a process of a run does: JAX would free program by
  # program, for seconds. Whatever is registered from here on comes before.
  atexit.register(os._exit, 0)

from tests import annotations  # noqa: E402

# Before jaxcal is imported.
annotations.install()

# Tracing makes many objects and few cycles of them: looking for these as often
# as Python does takes a tenth of all time.
gc.set_threshold(20_000, 50, 50)

# Broadcasting between different ranks hides mistakes in axis order.
jax.config.update("jax_numpy_rank_promotion", "raise")

# Files of few tests that take long: begun last, they would leave all but one
# process without work at the end.
_FIRST = ("tests/docs_test.py", "tests/cli/")

# How many tests were taken out for want of a package, by its name.
_ABSENT = pytest.StashKey[dict[str, int]]()

_MAPS = pathlib.Path("/proc/self/maps")


@pytest.fixture(autouse=True, scope="module")
def _drop_programs():
  """Forgets the compiled programs of the files so far, once they are many.

  Each holds maps of memory, of which a process may have 65,530: one that keeps
  all programs of the suite dies of it while it compiles. A file adds some
  thousands.
  """
  yield
  if not _MAPS.exists() or _MAPS.read_bytes().count(b"\n") > 55_000:
    jax.clear_caches()
    gc.collect()


@pytest.fixture(autouse=True)
def _count_traces_anew():
  """As chex takes functions of one name and source in parameters for one."""
  chex.clear_trace_counter()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
  """File names that are no UTF-8, in what a test has logged or is told of.

  Between processes of a run they cannot be sent, and the whole run would end.
  """
  report = yield
  report.sections = [tuple(map(_printable, one)) for one in report.sections]
  if report.longrepr and not isinstance(report.longrepr, tuple):
    text = str(report.longrepr)
    if text != _printable(text):
      report.longrepr = _printable(text)
  return report


def _printable(text):
  return text.encode("utf-8", "backslashreplace").decode("utf-8")


def pytest_configure():
  flags.FLAGS.mark_as_parsed()


@pytest.hookimpl(tryfirst=True)
def pytest_unconfigure():
  """Looks for what nobody holds, such as open files, once."""
  gc.collect()
  gc.freeze()  # pytest would look another ten times


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
  """Sorts, and takes out what needs packages that are not installed."""
  items.sort(key=lambda item: not item.nodeid.startswith(_FIRST))
  absent = collections.Counter()
  for item in items[:]:
    mark = item.get_closest_marker("needs")
    if mark and not importlib.util.find_spec(*mark.args):
      items.remove(item)
      config.hook.pytest_deselected(items=[item])
      absent.update(mark.args)
  config.stash[_ABSENT] = dict(absent)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
  """All processes of a run collect all tests, so any that ends well knows."""
  found = getattr(node, "workeroutput", {}).get("absent")
  if found is not None:
    node.config.stash[_ABSENT] = found


def pytest_sessionfinish(session):
  if hasattr(session.config, "workeroutput"):
    session.config.workeroutput["absent"] = session.config.stash.get(
        _ABSENT, {})


def pytest_terminal_summary(terminalreporter, config):
  for name, number in config.stash.get(_ABSENT, {}).items():
    terminalreporter.write_line(
        f"tests left out, as {name} is not installed: {number}")
