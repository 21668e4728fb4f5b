"""Caltech-101 in its layout, with its classes and numbers, and no photos."""

import atexit
import functools
import json
import os
import pathlib
import shutil
import tempfile

import numpy as np

from jaxcal.data import catalogue
from tests.data import miniatures

COUNTS = {"train": 4128, "val": 1649, "test": 2465}
SPLIT = "split_zhou_Caltech101.json"
IMAGES = "101_ObjectCategories"
# Folders of the authors that the benchmark calls otherwise.
RENAMED = {"Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike",
           "airplanes": "airplane"}


@functools.cache
def folder() -> pathlib.Path:
  """The folder `caltech-101` of a stand-in, which is only to be read.

  The files of a class are links to one small picture of noise. Which images are
  in which split, and their order, is drawn; how many classes and images there
  are is as in the real set, how many of a class is made up.
  """
  scratch = pathlib.Path(tempfile.mkdtemp())
  atexit.register(shutil.rmtree, scratch, ignore_errors=True)
  root = scratch / "caltech-101"
  names = catalogue.row("caltech101").class_names
  folders = dict(zip(RENAMED.values(), RENAMED))
  generator = np.random.default_rng(0)
  lists: dict[str, list[list]] = {split: [] for split in COUNTS}
  numbers = {split: _numbers(total) for split, total in COUNTS.items()}
  for label, name in enumerate(names):
    images = root / IMAGES / folders.get(name, name)
    miniatures.picture(images / "image_0001.jpg", label)
    splits = [split for split in COUNTS for _ in range(numbers[split][label])]
    places = generator.permutation(len(splits)) + 1
    for number, split in zip(places.tolist(), splits):
      path = images / f"image_{number:04}.jpg"
      if number > 1:
        os.link(images / "image_0001.jpg", path)
      lists[split].append([f"{images.name}/{path.name}", label, name])
  (root / SPLIT).write_text(json.dumps(lists), encoding="utf-8")
  return root


def _numbers(total):
  """Images of each class, at least 16 where that can be, and few alike."""
  least = min(16, total // 200)
  ends = np.cumsum(np.arange(100) * 37 % 100) * (total - 100 * least) // 4950
  return least + np.diff(ends, prepend=0)
