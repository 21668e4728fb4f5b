"""Where the reference data beside the checkout lies."""

import os
import pathlib
import unittest


def folder(name: str) -> pathlib.Path:
  """The folder `name` of the shared data; skips the test where it is absent.

  The data lie in `../shared` seen from the checkout, or in the folder that the
  environment variable JAXCAL_SHARED names.
  """
  beside = pathlib.Path(__file__).resolve().parents[2] / "shared"
  path = pathlib.Path(os.environ.get("JAXCAL_SHARED", beside)) / name
  if not path.exists():
    raise unittest.SkipTest(f"no {path}: shared data absent, nothing checked")
  return path
