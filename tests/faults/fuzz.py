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
from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import copy
import io
import json
import os
import pathlib
import re
import resource
import shutil
import signal
from typing import Any, NoReturn
from unittest import mock
import zipfile

from absl.testing import parameterized
import hypothesis
from hypothesis import strategies as st
import numpy as np

from jaxcal.storage import arrays

# Bounds of what a reader takes for one input: seconds of processors, seconds of
# a clock, where it waits, and bytes beside what the process has already.
CPU_SECONDS = 5
SECONDS = 60
BYTES = 2**30
# The same where programs are compiled, which reserves much and uses little.
COMPILING_BYTES = 2**33

# By what is read: how many inputs, and how many of them were refused.
COUNTS: collections.Counter[str] = collections.Counter()

_MEMORY = pathlib.Path("/proc/self/statm")  # of Linux; no bound elsewhere
_DOCUMENTED = (ValueError, OSError, ImportError)
_WAYS_OUT = re.compile(
    r", but |expected|get |again|remove|give|save|choose|write|restore|call it|"
    r"convert|install|download|supported|should|must|need|rename|mend|bring|"
    r"keep |are not built|do not|does not|cannot|takes? only|no file|no images|"
    r"belongs to|neither|more than once|both|\?$")


class Hung(Exception):
  """No result within the bounds of time."""


@contextlib.contextmanager
def bounded(num_bytes: int = BYTES) -> Iterator[None]:
  """Ends what takes too long, and gives no more memory than the bound."""

  def stop(number, frame) -> NoReturn:
    raise Hung(f"no result after {CPU_SECONDS} s of work or {SECONDS} s")

  limits = resource.getrlimit(resource.RLIMIT_AS)
  before = [(kind, signal.signal(kind, stop))
            for kind in (signal.SIGPROF, signal.SIGALRM)]
  if _MEMORY.exists():
    used = int(_MEMORY.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + num_bytes, limits[1]))
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


class FaultCase(parameterized.TestCase):
  """Reads broken inputs in a folder that has others beside it.

  Attributes:
    num_bytes: Bound of what a reader allocates.
    root: Folder that is made anew for each input.
  """

  num_bytes = BYTES

  def setUp(self):
    super().setUp()
    # What a power cut takes is not looked at, and waiting for a disk is long.
    self.enter_context(mock.patch.object(os, "fsync"))
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
      with bounded(self.num_bytes):
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


@st.composite
def broken_arrays(draw: st.DrawFn, sound: Mapping[str, np.ndarray]) -> bytes:
  """An .npz in which one array is another, gone, or not what it says.

  It is packed anew: no checksum tells of it.
  """
  found = dict(sound)
  name = draw(st.sampled_from(sorted(found)))
  value = found.pop(name)
  way = draw(st.sampled_from(("other", "other", "gone", "renamed", "lie")))
  if way == "lie":
    packed = arrays.pack(found) if found else arrays.pack({"x": np.zeros(1)})
    file = io.BytesIO(packed)
    with zipfile.ZipFile(file, "a") as archive:
      archive.comment = b""
      archive.writestr(f"{name}.npy", draw(npy_with_a_lie()))
    return file.getvalue()
  if way == "renamed":
    found[draw(st.sampled_from(("x", "a/b", "/", "info/../../x", "evidence/x",
                                f"{name}/{name}", name.upper())))] = value
  elif way == "other":
    found[name] = draw(another_array(np.asarray(value)))
  return arrays.pack(found, compressed=draw(st.booleans()))


@st.composite
def another_array(draw, value):
  ways: dict[str, Callable[[], np.ndarray]] = {
      "text": lambda: np.full(value.shape, "x"),
      "empty text": lambda: np.full(value.shape, ""),
      "bytes": lambda: np.full(value.shape, b"x"),
      "bool": lambda: np.zeros(value.shape, bool),
      "complex": lambda: np.ones(value.shape, complex),
      "float16": lambda: np.ones(value.shape, np.float16),
      "float64": lambda: np.full(value.shape, 1e300),
      "int8": lambda: np.full(value.shape, -1, np.int8),
      "int64": lambda: np.full(value.shape, 2**62),
      "uint64": lambda: np.full(value.shape, 2**64 - 1, np.uint64),
      "date": lambda: np.full(value.shape, "2020", "datetime64[Y]"),
      "record": lambda: np.zeros(value.shape, [("a", "f4"), ("b", "i4")]),
      "NaN": lambda: np.full(value.shape, np.nan, np.float32),
      "infinite": lambda: np.full(value.shape, np.inf, np.float32),
      "one": lambda: value.reshape(-1)[:1],
      "number": lambda: np.asarray(value.reshape(-1)[0]),
      "none": lambda: value[:0] if value.ndim else value.reshape(-1),
      "fewer": lambda: value[1:] if value.ndim else value,
      "more": lambda: np.concatenate([np.atleast_1d(value)] * 2),
      "axis": lambda: value[..., None], "turned": lambda: value.T,
      "columns": lambda: np.asfortranarray(value),
      "other end": lambda: value.astype(value.dtype.newbyteorder()),
      "wide": lambda: np.broadcast_to(value, (3, *value.shape))}
  return ways[draw(st.sampled_from(sorted(ways)))]()


@st.composite
def npy_with_a_lie(draw):
  """A member of an .npz whose header promises what does not follow."""
  shape = draw(st.sampled_from(
      ("(1000000000000,)", "(4,)", "(-1,)", "(0, 10000000000000)", "()",
       "(2, 2.5)", "'x'", "(True,)", "((1,),)", "(1,) * 3", "1", "(" * 300)))
  kind = draw(st.sampled_from(
      ("'<f4'", "'|O'", "'<U9999999'", "'|V0'", "[('a', '<f4')]", "'x'",
       "None", "'<m8'", "'S0'")))
  order = draw(st.sampled_from(("False", "True", "0", "None")))
  header = (f"{{'descr': {kind}, 'fortran_order': {order}, 'shape': {shape}, "
            "}").encode()
  magic = draw(st.sampled_from((b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00",
                                b"\x93NUMPY\x03\x00", b"\x93NUMPY\x09\x00")))
  width = 2 if magic[6] == 1 else 4
  return (magic + len(header).to_bytes(width, "little") + header +
          draw(st.binary(max_size=32)))
