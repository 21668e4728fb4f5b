"""Names out of files become paths that stay where they belong."""

import os
import pathlib

_SEPARATORS = ("/", "\\")


def inside(folder: str | os.PathLike, *names: str) -> pathlib.Path:
  """A path below a folder, by names that lead nowhere else.

  Args:
    folder: Where the path begins.
    names: Names, one for each step: folders, and perhaps a file.

  Raises:
    ValueError: A name is empty, "." or "..", or has a separator (so that it may
      be absolute or several names) or a NUL in it.
  """
  for name in names:
    check_name(name)
  return pathlib.Path(folder, *names)


def check_name(name: str) -> None:
  """Refuses what is not the name of one file or folder.

  Raises:
    ValueError: See `inside`.
  """
  if (not isinstance(name, str) or name in ("", ".", "..") or "\0" in name or
      any(separator in name for separator in _SEPARATORS)):
    raise ValueError(
        f"{name!r} cannot be the name of a file or folder: expected one name, "
        "not empty, '.' or '..' and without '/', '\\' and NUL; call it "
        "something else")
