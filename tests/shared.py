"""Where reference data lie, in the checkout or beside it; their arrays."""

from collections.abc import Mapping
import functools
import os
import pathlib
import types
import unittest

import numpy as np

_HERE = pathlib.Path(__file__).resolve()


def path(name: pathlib.Path | str) -> pathlib.Path:
  """The file or folder `name` of the reference data.

  What is small and free is in tests/reference. The rest is in `../shared`, seen
  from the checkout, or in the folder that the environment variable
  JAXCAL_SHARED names; the test is skipped where it is absent.
  """
  kept = _HERE.parent / "reference" / name
  if kept.exists():
    return kept
  beside = _HERE.parents[2] / "shared"
  found = pathlib.Path(os.environ.get("JAXCAL_SHARED", beside)) / name
  if not found.exists():
    raise unittest.SkipTest(
        f"no {found}: reference data absent, nothing checked")
  return found


@functools.cache
def arrays(name: pathlib.Path | str) -> Mapping[str, np.ndarray]:
  """The arrays of a .npz file, none to be written to; `path` says where it is.
  """
  with np.load(path(name), allow_pickle=False) as stored:
    found = dict(stored)
  for array in found.values():
    array.flags.writeable = False
  return types.MappingProxyType(found)
