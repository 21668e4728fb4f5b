"""Text files that people bring: lists, names of classes, JSON.

They are UTF-8, or what begins with a byte order mark, as UTF-16 from Windows'
programs does. Without a mark no encoding but UTF-8 can be told from others, and
a guess would change names in silence.
"""

import codecs
import json
import os
import pathlib
from typing import Any

from jaxcal.storage import damage

# Those of UTF-32 begin with those of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read(path: str | os.PathLike) -> str:
  """The text of a file; the ends of its lines are as they stand there.

  Args:
    path: The file, in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If it is in another encoding, or no text; names file and line.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"no file {path}")
  content = path.read_bytes()
  encoding = next((name for mark, name in _MARKS if content.startswith(mark)),
                  "utf-8")
  try:
    text = content.decode(encoding)
  except UnicodeDecodeError as error:
    before = content[:error.start].decode(encoding, "replace")
    raise ValueError(
        f"{path}, line {_line(before)}: {path.name} is not UTF-8, nor UTF-16 "
        f"with a byte order mark ({error}); save it as UTF-8.") from error
  if "\0" in text:
    raise ValueError(
        f"{path}, line {_line(text[:text.index(chr(0))])}: {path.name} is no "
        "text, or UTF-16 without a byte order mark; save it as UTF-8.")
  return text


def read_json(path: str | os.PathLike) -> Any:
  """What a file of JSON holds.

  Args:
    path: The file, in an encoding as `read` takes it.

  Raises:
    FileNotFoundError: If there is no such file.
    DamagedFile: If it is no JSON, or nested too deeply to be read; names it.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"no file {path}")
  damage.refuse_stub(path)
  text = read(path)
  try:
    return json.loads(text)
  except (ValueError, RecursionError) as error:  # a number of 5,000 digits, too
    raise damage.DamagedFile(path, f"no JSON: {error}") from error


def _line(before):
  """The number of the line that this text ends in."""
  return max(len((before + "x").splitlines()), 1)
