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


def picture(path, seed):
  """Writes an image file of noise; its folder is made."""
  path.parent.mkdir(parents=True, exist_ok=True)
  noise = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8)
  Image.fromarray(noise).save(path)


def prepare(root, name, splits, *, classes, version="1.0.0", key="file_name",
            encoded=True, feature="image"):
  """Writes a data set of (file name, label, pixels) by split."""
  library = _library()
  shape = next(iter(splits.values()))[0][-1].shape
  features = {
      feature: (library.features.Image() if encoded else
                library.features.Tensor(shape=shape, dtype=np.uint8)),
      "label": library.features.ClassLabel(names=classes)}
  if key:
    features[key] = library.features.Text()

  def example(file, label, image):
    content = {feature: _png(image) if encoded else image, "label": label}
    return content | ({key: file} if key else {})

  return _prepare(root, name, features, version, {
      split: [example(*row) for row in rows] for split, rows in splits.items()})


def prepare_captions(root, name, rows, *, captions, key="image/filename"):
  """Writes the split "train" of (file name, captions, pixels).

  `captions` names their feature: "caption" takes a text, "text" a list of
  texts, and "captions" a list of records with a text.
  """
  library = _library()
  text = library.features.Text()
  features = {"image": library.features.Image(), captions: {
      "caption": text, "text": library.features.Sequence(text),
      "captions": library.features.Sequence({"id": np.int64, "text": text}),
  }[captions]}
  if key:
    features[key] = text
  return _prepare(root, name, features, "1.0.0", {"train": [
      {"image": _png(image), captions: texts} | ({key: file} if key else {})
      for file, texts, image in rows]})


def _library():
  if not _INSTALLED:
    raise unittest.SkipTest("tensorflow-datasets or array_record is not "
                            "installed: nothing prepared, nothing checked")
  import tensorflow_datasets
  return tensorflow_datasets


def _png(image):
  """What the image feature encodes without TensorFlow: no paths, no arrays."""
  content = io.BytesIO()
  Image.fromarray(image).save(content, "PNG")
  return io.BytesIO(content.getvalue())


def _prepare(root, name, features, version, splits):
  """Writes examples by split as array_record."""
  library = _library()
  name, _, config = name.partition("/")

  def info(builder):
    return library.core.DatasetInfo(
        builder=builder, features=library.features.FeaturesDict(features))

  class Miniature(library.core.GeneratorBasedBuilder, skip_registration=True):
    __module__ = "miniature"  # A package would be searched for checksums.
    VERSION = library.core.Version(version)
    BUILDER_CONFIGS = (
        [library.core.BuilderConfig(name=config)] if config else [])
    _info = info

    def _generate_examples(self, examples):
      yield from enumerate(examples)

    def _split_generators(self, _):
      return {split: self._generate_examples(examples)
              for split, examples in splits.items()}

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
