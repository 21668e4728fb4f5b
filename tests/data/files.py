"""Images and texts that tests write into a folder of their own."""

import pathlib

from absl.testing import parameterized
import numpy as np
from PIL import Image


def pixels(height=6, width=5, seed=0):
  generator = np.random.default_rng(seed)
  return generator.integers(256, size=(height, width, 3), dtype=np.uint8)


class FolderCase(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)

  def image(self, name, values=None):
    path = self.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels() if values is None else values).save(path)
    return path

  def text(self, name, content=""):
    path = self.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path
