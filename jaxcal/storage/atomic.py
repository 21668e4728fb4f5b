"""Files that a reader sees whole or not at all."""

import os
import pathlib


def write_whole(path: str | os.PathLike, content: bytes) -> None:
  """Writes a file so that a reader sees all of it or nothing."""
  half = with_ending(path, "half")
  half.write_bytes(content)
  os.replace(half, path)


def with_ending(path: str | os.PathLike, ending: str) -> pathlib.Path:
  """`path`.`ending`; unlike `with_suffix`, a dot in the name stays."""
  return pathlib.Path(f"{os.fspath(path)}.{ending}")
