"""Where reference data lie: in the checkout, or beside it."""

import os
import pathlib
import unittest

_HERE = pathlib.Path(__file__).resolve()


def path(name: str) -> pathlib.Path:
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
