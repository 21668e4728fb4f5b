"""Broken inputs, and what a reader may make of them.

A reader of what lies on a user's disk gives a result, or refuses its input by
one of these errors, which the readers document:

  ValueError     what lies there is damaged (`damage.DamagedFile`), of another
                 form, or of something else
  OSError        nothing lies there (FileNotFoundError), or it cannot be opened
  ImportError    it needs a package that is not installed

It is exactly that or a kind of jaxcal's own, names the file, and says what is
expected or what to do. Errors of formats and of their libraries (KeyError,
BadZipFile, JSONDecodeError, UnicodeDecodeError, SafetensorError, ...) never
come through. Nothing is written outside of the folder that is read or written,
and time and memory have bounds.
"""

import collections
from collections.abc import Callable, Iterator, Sequence
import contextlib
import copy
import json
import pathlib
import re
import resource
import shutil
import signal
from typing import Any, NoReturn

from absl.testing import parameterized
import hypothesis
from hypothesis import strategies as st

# Bounds of what a reader takes for one input: seconds of processors, seconds of
# a clock, where it waits, and bytes beside what the process has already.
CPU_SECONDS = 5
SECONDS = 60
BYTES = 2**30

# By what is read: how many inputs, and how many of them were refused.
COUNTS: collections.Counter[str] = collections.Counter()

_DOCUMENTED = (ValueError, OSError, ImportError)
_WAYS_OUT = re.compile(
    r", but |expected|get |again|remove|give|save|choose|write|restore|call it|"
    r"convert|install|download|supported|should|must|need|rename|mend|bring|"
    r"are not built|do not|does not|cannot|takes? only|no file|no images|"
    r"belongs to|neither|more than once|both")


class Hung(Exception):
  """No result within the bounds of time."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
  """Ends what takes too long, and gives no more memory than the bound."""

  def stop(number, frame) -> NoReturn:
    raise Hung(f"no result after {CPU_SECONDS} s of work or {SECONDS} s")

  limits = resource.getrlimit(resource.RLIMIT_AS)
  before = [(kind, signal.signal(kind, stop))
            for kind in (signal.SIGPROF, signal.SIGALRM)]
  resource.setrlimit(resource.RLIMIT_AS, (_in_use() + BYTES, limits[1]))
  signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
  signal.setitimer(signal.ITIMER_REAL, SECONDS)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    resource.setrlimit(resource.RLIMIT_AS, limits)
    for kind, handler in before:
      signal.signal(kind, handler)


def _in_use():
  pages = pathlib.Path("/proc/self/statm").read_text().split()[0]
  return int(pages) * resource.getpagesize()


class FaultCase(parameterized.TestCase):
  """Reads broken inputs in a folder that has others beside it.

  Attributes:
    root: Folder that is made anew for each input.
  """

  def setUp(self):
    super().setUp()
    self._outer = pathlib.Path(self.create_tempdir().full_path)
    (self._outer / "others").write_text("untouched")
    self.root = self._outer / "inside"
    self.fresh()

  def fresh(self) -> pathlib.Path:
    """The empty folder."""
    shutil.rmtree(self.root, ignore_errors=True)
    self.root.mkdir()
    return self.root

  def read(self, what: str, reader: Callable[[], Any], *names: str) -> Any:
    """What a reader gives; None where it refused its input as it should.

    Args:
      what: What is read, for the counts.
      reader: Function that reads.
      names: Names of the files, of which the error has to name one; none
        where another function names them and says what to do.
    """
    COUNTS[f"{what}, inputs"] += 1
    try:
      with bounded():
        found = reader()
    except Exception as error:
      COUNTS[f"{what}, refused"] += 1
      self._check_documented(error, names)
      found = None
    self.assertCountEqual([path.name for path in self._outer.iterdir()],
                          ["inside", "others"])
    self.assertEqual((self._outer / "others").read_text(), "untouched")
    return found

  def _check_documented(self, error, names):
    text = str(error)
    try:
      kind = type(error)
      self.assertIsInstance(error, _DOCUMENTED)
      self.assertNotIsInstance(error, UnicodeError)
      self.assertIn(kind.__module__.partition(".")[0], ("builtins", "jaxcal"))
      for cause in _causes(error):
        self.assertNotIsInstance(cause, (MemoryError, Hung))
      self.assertTrue(any(name in text for name in names) or not names, text)
      if names and (not isinstance(error, OSError) or not error.errno):
        self.assertRegex(text, _WAYS_OUT)
    except AssertionError as wrong:
      raise wrong from error


def _causes(error):
  while error is not None:
    yield error
    error = error.__cause__ or error.__context__


# What may stand in the place of a value of JSON, as it is written there.
_VALUES = (
    "null", "true", "0", "1", "-1", "0.5", "1e400", "NaN", "-Infinity",
    "9" * 20, "9" * 5000, "1000000000000", '""', '"a"', '".."', '"../x"',
    '"/x"', r'"\u0000"', r'"\ud800"', f'"{"x" * 5000}"', "[]", "{}", "[null]",
    '{"a": 1}', "[[1]]", "[" * 100_000 + "]" * 100_000,
    '{"a":' * 100_000 + "1" + "}" * 100_000)
_HOLE = "a hole is here"
_ENCODINGS = ("utf-8", "utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16",
              "utf-32", "utf-16-le", "latin-1")


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
  """Bytes with one to three damages."""
  for _ in range(draw(st.integers(1, 3))):
    content = _DAMAGES[draw(st.integers(0, len(_DAMAGES) - 1))](draw, content)
  return content


def _place(draw, content):
  return draw(st.integers(0, len(content)))


def _flip(draw, content):
  if not content:
    return content
  place = draw(st.integers(0, len(content) - 1))
  value = content[place] ^ draw(st.integers(1, 255))
  return content[:place] + bytes([value]) + content[place + 1:]


def _cut(draw, content):
  return content[:_place(draw, content)]


def _remove(draw, content):
  first, last = sorted((_place(draw, content), _place(draw, content)))
  return content[:first] + content[last:]


def _insert(draw, content):
  place = _place(draw, content)
  return content[:place] + draw(st.binary(max_size=40)) + content[place:]


def _repeat(draw, content):
  first, last = sorted((_place(draw, content), _place(draw, content)))
  return content[:last] + content[first:]


def _fill(draw, content):
  """As after a crash: the length is right, the end is zeros or ones."""
  place = _place(draw, content)
  return content[:place] + draw(st.sampled_from(
      (b"\0", b"\xff"))) * (len(content) - place)


def _number(draw, content):
  """A number in a header that is much too large."""
  width = draw(st.sampled_from((2, 4, 8)))
  value = draw(st.sampled_from((0, 1, 2**31 - 1, 2**32, 10**12, 2**63, 2**64)))
  place = _place(draw, content)
  order = draw(st.sampled_from(("little", "big")))
  value = min(value, 2**(8 * width) - 1).to_bytes(width, order)
  return content[:place] + value + content[place + width:]


def _other(draw, content):
  return draw(st.sampled_from((
      b"", b"\xef\xbb\xbf" + content, b"\xff\xfe" + content, b"\n" + content,
      b"version https://git-lfs.github.com/spec/v1\n", b"<html>404",
      b"PK\x03\x04", content[::-1], content.replace(b"\n", b"\r"))))


_DAMAGES = (_flip, _flip, _cut, _remove, _insert, _repeat, _fill, _number,
            _other)


@st.composite
def damaged_json(
    draw: st.DrawFn, value: Any, *, bytewise: bool = True) -> bytes:
  """A file of JSON, broken in what it says or in how it is written.

  Args:
    draw: Given by hypothesis.
    value: What the sound file says.
    bytewise: Whether its bytes may be damaged, too.
  """
  text = draw(broken_json(value))
  encoding = draw(st.sampled_from(_ENCODINGS))
  content = text.encode(encoding, "replace")
  if bytewise and draw(st.integers(0, 3)) == 0:
    content = draw(damaged(content))
  return content


@st.composite
def broken_json(draw: st.DrawFn, value: Any) -> str:
  """JSON in which one value or key is another, gone, or there twice."""
  value = copy.deepcopy(value)
  places = list(_places(value))
  if not places:
    return draw(st.sampled_from(_VALUES))
  holder, key = draw(st.sampled_from(places))
  way = draw(st.sampled_from(
      ("other", "other", "other", "gone", "renamed", "twice", "all")))
  if way == "all":
    return draw(st.sampled_from(_VALUES))
  if way == "gone":
    del holder[key]
  elif way == "renamed" and isinstance(holder, dict):
    holder[draw(st.sampled_from(("", "x", f"{key} ", key.upper())))] = (
        holder.pop(key))
  elif way == "twice" and isinstance(holder, list):
    holder.insert(key, holder[key])
  elif way == "twice":
    again = json.dumps({key: holder[key]})[1:-1]
    holder[key] = _HOLE
    inner = draw(st.sampled_from(_VALUES))
    return json.dumps(value).replace(
        f'"{_HOLE}"', f"{inner}, {again}")
  else:
    holder[key] = _HOLE
  return json.dumps(value).replace(
      f'"{_HOLE}"', draw(st.sampled_from(_VALUES)))


def _places(value):
  """Every value below, as what holds it and its key there."""
  keys: Sequence[Any] = ()
  if isinstance(value, dict):
    keys = list(value)
  elif isinstance(value, list):
    keys = range(len(value))
  for key in keys:
    yield value, key
    yield from _places(value[key])


def fewer(share: float) -> Callable[[Any], Any]:
  """A share of the inputs, for what takes long."""
  most = hypothesis.settings().max_examples
  return hypothesis.settings(max_examples=max(5, int(share * most)))
