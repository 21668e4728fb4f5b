"""Printing that does not turn a finished run into a failure."""

from collections.abc import Callable, Iterator
import contextlib
import io
import os
import sys
from typing import TextIO


@contextlib.contextmanager
def forgiving() -> Iterator[None]:
  """In here, what cannot be printed stops nothing; it is in files, too.

  Letters that the terminal lacks become question marks, and the reader of a
  pipe may have gone.
  """
  stream = _Forgiving(sys.stdout)
  with contextlib.redirect_stdout(stream):
    try:
      yield
    finally:
      stream.flush()


class _Forgiving(io.TextIOBase):
  """A stream in front of another, whose errors end here."""

  def __init__(self, stream: TextIO):
    self._stream = stream

  @property
  def encoding(self) -> str | None:  # type: ignore[override]
    return getattr(self._stream, "encoding", None)

  def isatty(self) -> bool:
    return self._stream.isatty()

  def fileno(self) -> int:
    return self._stream.fileno()

  def writable(self) -> bool:
    return True

  def write(self, text: str) -> int:
    if self.encoding:
      text = text.encode(self.encoding, "replace").decode(self.encoding)
    self._try(lambda: self._stream.write(text))
    return len(text)

  def flush(self) -> None:
    self._try(self._stream.flush)

  def _try(self, action: Callable[[], object]) -> None:
    try:
      action()
    except OSError as error:
      if not isinstance(error, BrokenPipeError):
        print(f"jaxcal: cannot print: {error}", file=sys.stderr)
      self._let_go()

  def _let_go(self) -> None:
    """From here on, and for what the interpreter flushes at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError):
      os.dup2(nowhere, self._stream.fileno())
    os.close(nowhere)
