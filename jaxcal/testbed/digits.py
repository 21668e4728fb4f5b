"""Real handwritten digits: scans, labels and a fixed split.

The scans are those of scikit-learn's `load_digits` (1,797 images of 8 x 8
pixels): the test part of the UCI ML hand-written digits data set (Alpaydin and
Kaynak, 1998), CC BY 4.0.
"""

import functools

import numpy as np

from jaxcal.typing import Float
from jaxcal.typing import Int

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven",
         "eight", "nine")
TRAIN_PER_CLASS = 100
VALIDATION_PER_CLASS = 20

_SPLIT_SEED = 8


@functools.cache
def _scans():
  from sklearn import datasets
  bunch = datasets.load_digits()
  return (bunch.images / 16).astype(np.float32), bunch.target.astype(np.int32)


def labels() -> Int[np.ndarray, "n"]:
  """The digit on each of the 1,797 scans, in scikit-learn's order."""
  return _scans()[1]


@functools.lru_cache(maxsize=256)
def ink(scan: int) -> Float[np.ndarray, "r r"]:
  """How much ink covers the paper, in [0, 1], smoothly enlarged tenfold."""
  from PIL import Image
  padded = np.pad(_scans()[0][scan], 1)
  side = 10 * len(padded)
  large = np.asarray(Image.fromarray(padded).resize(
      (side, side), Image.Resampling.BICUBIC))
  # A steeper edge hides the eight coarse pixels.
  return (1.6 * (large - .5) + .5).clip(0, 1)


@functools.cache
def split(name: str) -> tuple[int, ...]:
  """Scan indices of a split, interleaved by class.

  Every class gives 100 scans to train and 20 to validation, chosen once by a
  fixed seed; the rest is test.

  Args:
    name: Split, "train", "validation" or "test".

  Raises:
    ValueError: If the split is unknown.
  """
  first, second = TRAIN_PER_CLASS, TRAIN_PER_CLASS + VALIDATION_PER_CLASS
  parts = {"train": slice(0, first), "validation": slice(first, second),
           "test": slice(second, None)}
  if name not in parts:
    raise ValueError(
        f"unknown split {name!r}; choose from: {', '.join(parts)}.")
  rng = np.random.default_rng(_SPLIT_SEED)
  ranked = []
  for digit in range(len(NAMES)):
    scans = rng.permutation(np.flatnonzero(labels() == digit))[parts[name]]
    ranked += [(rank, digit, int(scan)) for rank, scan in enumerate(scans)]
  return tuple(scan for _, _, scan in sorted(ranked))
