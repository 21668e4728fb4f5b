"""Where a number comes from: versions, commit and device."""

import functools
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import subprocess

import jax

import jaxcal

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "pillow",
             "transformers", "safetensors")


def describe() -> dict[str, str | None]:
  """Versions of what computes, the code's own hash and commit, the device.

  `commit` is None where the running code is not that of a git checkout;
  `source` identifies it in any case. `jax_enable_x64` is "True" where JAX
  computes with 64 bits.
  """
  return {
      "jaxcal": jaxcal.__version__,
      "source": source_hash(_package()),
      "commit": _commit(),
      "python": platform.python_version(),
      **{name: importlib.metadata.version(name) for name in _PACKAGES},
      "jax_enable_x64": str(jax.dtypes.canonicalize_dtype(float).itemsize == 8),
      "platform": f"{platform.system()} {platform.machine()}",
      "num_cores": str(os.cpu_count()),
      "device": jax.devices()[0].device_kind,
      "num_devices": str(jax.device_count()),
  }


@functools.cache
def source_hash(package: pathlib.Path) -> str:
  """SHA-256 over the Python files below a folder, names and contents.

  Without the configs, which an installed package has inside and a checkout has
  beside it: what they decide is recorded field by field.
  """
  digest = hashlib.sha256()
  for path in sorted(package.rglob("*.py")):
    if package / "configs" in path.parents:
      continue
    digest.update(path.relative_to(package).as_posix().encode())
    digest.update(path.read_bytes())
  return digest.hexdigest()


def _package():
  return pathlib.Path(jaxcal.__file__).resolve().parent


def _commit():
  """The commit of the checkout whose code is running, if it is one.

  An installed copy counts where the current folder holds the same code.
  """
  for root in (_package().parent, pathlib.Path.cwd()):
    package = root / "jaxcal"
    if not (root / ".git").exists() or not package.is_dir():
      continue
    if source_hash(package) == source_hash(_package()):
      return _git_head(root)
  return None


def _git_head(root):
  try:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, check=True,
                          capture_output=True, text=True)
  except (OSError, subprocess.CalledProcessError):
    return None
  return done.stdout.strip()
