"""Arrays by name as an .npz that is checked when it is read.

A zip has a checksum of each member, but none of its directory, so that a
damaged one may seem to have fewer members. Here the zip's comment is the
SHA-256 of the directory: some of the arrays can be read without the others, and
what is read is known to be sound.
"""

from collections.abc import Callable, Mapping
import errno
import hashlib
import io
import math
import pathlib
import zipfile

import numpy as np

# The end of a directory: its mark, its length without the comment, and where in
# it the comment's length lies.
_END = b"PK\x05\x06"
_END_LENGTH = 22
_COMMENT_LENGTH = slice(20, 22)
_DIGEST_LENGTH = 64

# Those of version 3 have names of fields, which no array here has.
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0}


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
    except Exception as error:
      # A place before the file's beginning is damage, too.
      if isinstance(error, OSError) and error.errno != errno.EINVAL:
        raise
      # Damage shows as whatever zip, zlib or NumPy's reader come upon first.
      raise ValueError(
          f"not a whole .npz: {str(error) or type(error).__name__}") from error


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
        found[name] = _array(archive.read(member))
  return found


def unpack_one(content: bytes) -> np.ndarray:
  """The array of an .npy.

  Args:
    content: The content of the file.

  Raises:
    ValueError: It is not a whole .npy, or holds objects.
  """
  try:
    return _array(content)
  except Exception as error:  # as in `unpack`
    raise ValueError(
        f"not a whole .npy: {str(error) or type(error).__name__}") from error


def _array(content):
  """An array in the byte order of this machine.

  The header must agree with the length: nothing is allocated for what does not
  follow.
  """
  file = io.BytesIO(content)
  version = np.lib.format.read_magic(file)
  if version not in _HEADERS:
    raise ValueError(f"an array of the format version {version}")
  shape, _, dtype = _HEADERS[version](file)
  announced = math.prod(shape) * dtype.itemsize
  left = len(content) - file.tell()
  if announced != left and not dtype.hasobject:
    raise ValueError(f"an array of {shape} {dtype} in {left} bytes, expected "
                     f"{announced}")
  file.seek(0)
  found = np.lib.format.read_array(file, allow_pickle=False)
  return found.astype(found.dtype.newbyteorder("="), copy=False)


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
