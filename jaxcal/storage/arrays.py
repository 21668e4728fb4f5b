"""Arrays by name as an .npz that is checked when it is read.

A zip has a checksum of each member, but none of its directory, so that a
damaged one may seem to have fewer members. Here the zip's comment is the
SHA-256 of the directory: some of the arrays can be read without the others, and
what is read is known to be sound.
"""

from collections.abc import Callable, Mapping
import hashlib
import io
import pathlib
import zipfile

import numpy as np

# The end of a directory: its mark, its length without the comment, and where in
# it the comment's length lies.
_END = b"PK\x05\x06"
_END_LENGTH = 22
_COMMENT_LENGTH = slice(20, 22)
_DIGEST_LENGTH = 64


def pack(arrays: Mapping[str, np.ndarray], *,
         compressed: bool = False) -> bytes:
  """The bytes of an .npz; the same for the same arrays.

  Args:
    arrays: Arrays by name; a name has no ending.
    compressed: Whether to take time for less room.
  """
  file = io.BytesIO()
  write: Callable[..., None] = np.savez_compressed if compressed else np.savez
  write(file, **arrays)
  with zipfile.ZipFile(file, "a") as archive:
    archive.comment = bytes(_DIGEST_LENGTH)
    start = archive.start_dir
  content = file.getvalue()
  return content[:-_DIGEST_LENGTH] + _digest(content[start:-_DIGEST_LENGTH])


def unpack(
    packed: bytes | pathlib.Path,
    wanted: Callable[[str], bool] = lambda name: True,
) -> dict[str, np.ndarray]:
  """The arrays of an .npz, each of which agrees with its checksum.

  Args:
    packed: The content of the file, or the file; it may come from elsewhere and
      have no checksum of its directory.
    wanted: Function that says of a name whether to read it; of the others, only
      the names are looked at.

  Raises:
    FileNotFoundError: There is no such file.
    ValueError: It is not a whole .npz, or damaged, or holds objects.
  """
  with (io.BytesIO(packed) if isinstance(packed, bytes)
        else open(packed, "rb")) as file:
    try:
      return _unpack(file, wanted)
    except OSError:
      raise
    except Exception as error:
      # Damage shows as whatever zip, zlib or NumPy's reader come upon first.
      raise ValueError(
          f"not a whole .npz: {error or type(error).__name__}") from error


def _unpack(file, wanted):
  found = {}
  with zipfile.ZipFile(file) as archive:
    file.seek(archive.start_dir)
    _check_directory(file.read())
    for member in archive.namelist():
      name = member.removesuffix(".npy")
      if wanted(name):
        # All of it: NumPy reads as much as the header says, and so may stop
        # before the checksum is compared.
        content = io.BytesIO(archive.read(member))
        found[name] = np.lib.format.read_array(content, allow_pickle=False)
  return found


def _check_directory(directory):
  """Refuses a directory that does not agree with the digest after it."""
  end = directory.rfind(_END)
  length = int.from_bytes(directory[end:][_COMMENT_LENGTH], "little")
  start = end + _END_LENGTH
  if len(directory) != start + length:
    raise ValueError("its end is cut off")
  if length and directory[start:] != _digest(directory[:start]):
    raise ValueError("its directory does not have its checksum")


def _digest(directory):
  return hashlib.sha256(directory).hexdigest().encode()
