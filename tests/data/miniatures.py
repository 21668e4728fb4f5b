"""Small data sets in the layouts of the real ones."""

import importlib.util
import io
import json
import pathlib
import unittest

import numpy as np
from PIL import Image

from jaxcal.typing import UInt8

_INSTALLED = all(importlib.util.find_spec(name)
                 for name in ("tensorflow_datasets", "array_record"))


def pixels(seed: int, height: int = 5) -> UInt8[np.ndarray, "h w 3"]:
  """Noise; PNG keeps it, whatever the file is called."""
  generator = np.random.default_rng(seed)
  return generator.integers(256, size=(height, 4, 3), dtype=np.uint8)


def prepare(root, name, splits, *, classes, version="1.0.0", key="file_name",
            encoded=True, feature="image"):
  """Writes a data set of (file name, label, pixels) by split.

  The image feature's encoder takes PNG bytes without TensorFlow, but neither
  paths nor arrays.
  """
  if not _INSTALLED:
    raise unittest.SkipTest("tensorflow-datasets or array_record is not "
                            "installed: nothing prepared, nothing checked")
  import tensorflow_datasets as library

  name, _, config = name.partition("/")

  def info(builder):
    shape = next(iter(splits.values()))[0][-1].shape
    image = (library.features.Image() if encoded else
             library.features.Tensor(shape=shape, dtype=np.uint8))
    features = {feature: image,
                "label": library.features.ClassLabel(names=classes)}
    if key:
      features[key] = library.features.Text()
    return library.core.DatasetInfo(
        builder=builder, features=library.features.FeaturesDict(features))

  def examples(_, rows):
    for number, (file, label, image) in enumerate(rows):
      if encoded:
        content = io.BytesIO()
        Image.fromarray(image).save(content, "PNG")
        image = io.BytesIO(content.getvalue())
      example = {feature: image, "label": label}
      if key:
        example[key] = file
      yield number, example

  class Miniature(library.core.GeneratorBasedBuilder, skip_registration=True):
    __module__ = "miniature"  # A package would be searched for checksums.
    VERSION = library.core.Version(version)
    BUILDER_CONFIGS = (
        [library.core.BuilderConfig(name=config)] if config else [])
    _info = info
    _generate_examples = examples

    def _split_generators(self, _):
      return {split: self._generate_examples(rows)
              for split, rows in splits.items()}

  Miniature.name = name
  builder = Miniature(data_dir=root, file_format="array_record")
  builder.download_and_prepare()
  return pathlib.Path(builder.data_dir)


def images(root, paths):
  """Writes a small image to each path below the root, all different."""
  for seed, path in enumerate(paths):
    path = pathlib.Path(root, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed)).save(path, "PNG")


def split_file(path, **splits):
  """Writes a split file of (path, label, class name) by split."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  lists = {split: splits.get(split, []) for split in ("train", "val", "test")}
  path.write_text(json.dumps(lists), encoding="utf-8")
