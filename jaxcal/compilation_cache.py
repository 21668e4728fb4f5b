"""Compiled programs, kept from one start of Python to the next.

They lie in the user's cache folder, apart by processor and version of JAX. Who
can write to them can run code as their reader, so that they are read from
folders of the user alone.
"""

from collections.abc import Mapping
import contextlib
import hashlib
import logging
import os
import pathlib
import platform
import stat
import warnings

# What all programs may take together, in bytes.
MAX_BYTES = 2**28
# Seconds that compiling must take. JAX alone would keep what takes one, but the
# first run's time goes into several hundred programs of less.
MIN_SECONDS = 0.0

_CPU_INFO = pathlib.Path("/proc/cpuinfo")
# Of its lines, those that tell what a processor can do.
_PROCESSOR = ("vendor_id", "cpu family", "model", "model name", "stepping",
              "flags", "CPU implementer", "CPU architecture", "CPU variant",
              "CPU part", "CPU revision", "Features")


class NotPrivate(ValueError):
  """The folder for programs is somebody else's, or open to others."""


def use() -> None:
  """Has JAX keep its programs, where a folder for them can be had.

  Nothing is changed where JAX has been told of a folder already, or not to keep
  programs, by its own variables or by a config file.

  Raises:
    NotPrivate: Others could put programs into the folder; none are kept.
  """
  import jax  # not before a command is known to need it
  if (jax.config.values["jax_compilation_cache_dir"] is not None or
      not jax.config.values["jax_enable_compilation_cache"]):
    return
  folder = folder_of(os.environ)
  if folder is None or not _is_usable(folder):
    return
  bound(folder, MAX_BYTES)
  # What cannot be read, or written on a full disk, is compiled as ever.
  warnings.filterwarnings(
      "ignore", "Error (reading|writing) persistent compilation cache entry")
  jax.config.update(
      "jax_compilation_cache_dir", str(folder / _kind_of_programs()))
  if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
    jax.config.update(
        "jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)


def folder_of(environment: Mapping[str, str]) -> pathlib.Path | None:
  """Where programs lie, if the environment says where a user's caches do.

  Args:
    environment: Variables by name; of `XDG_CACHE_HOME` and `HOME`, those that
      are no absolute path do not count.
  """
  for name, below in (("XDG_CACHE_HOME", ""), ("HOME", ".cache")):
    place = environment.get(name, "")
    if os.path.isabs(place):
      return pathlib.Path(place, below, "jaxcal", "programs")
  return None


def bound(folder: pathlib.Path, max_bytes: int) -> None:
  """Removes the files that were not used for longest, down to a size.

  Args:
    folder: Folder with programs, in sub-folders.
    max_bytes: What may stay, in bytes.
  """
  files = []
  for path in folder.rglob("*"):
    try:
      about = path.stat()
    except OSError:  # another process was faster
      continue
    if stat.S_ISREG(about.st_mode):
      # Many file systems write down the time of reading once a day at most,
      # some never.
      used = max(about.st_atime, about.st_mtime)
      files.append((used, about.st_size, path))
  total = sum(size for _, size, _ in files)
  for _, size, path in sorted(files):
    if total <= max_bytes:
      break
    with contextlib.suppress(OSError):
      path.unlink()
    total -= size


def _is_usable(folder):
  """Whether the folder is there, the user's own, and closed to all others."""
  try:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = folder.stat()
  except OSError as error:
    logging.debug("no compiled programs are kept: %s", error)
    return False
  mode = stat.S_IMODE(about.st_mode)
  if about.st_uid != os.getuid() or mode & 0o077:
    raise NotPrivate(
        f"compiled programs are not kept, since {folder} must belong to you "
        f"(user {os.getuid()}) and be open to nobody else (mode 0o700), but "
        f"belongs to user {about.st_uid} with mode {mode:#o}; remove it, or "
        "give --nocompilation_cache")
  return os.access(folder, os.W_OK)


def _kind_of_programs():
  """A name for all that decides whether a program can run here.

  JAX asks for versions and compiler flags itself, but not for what the host's
  processor can do: a home may be shared by several machines.
  """
  import jax
  import jaxlib
  digest = hashlib.sha256(_processor().encode()).hexdigest()[:12]
  return f"jax-{jax.__version__}-jaxlib-{jaxlib.__version__}-{digest}"


def _processor():
  """What the operating system says of it."""
  try:
    lines = _CPU_INFO.read_text(encoding="utf-8").splitlines()
  except OSError:  # no Linux
    return f"{platform.machine()} {platform.processor()}"
  return "\n".join((platform.machine(), *sorted({
      line for line in lines
      if line.partition(":")[0].strip() in _PROCESSOR})))
