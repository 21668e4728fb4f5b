"""Writes corruption_numbers.npz: what the reference packages make of pictures.

A program of its own, for an environment with Python 3.9, numpy 1.22,
scikit-image 0.18, opencv-python-headless 4.5, Pillow 9.5, imagecorruptions
1.1.2 and imagenet_c 0.0.3 (which needs the libraries of ImageMagick 6):

  python tests/data/corruption_numbers.py

Kept are a few hundred values of each output, at places drawn at random. The
packages draw from numpy's global generator, whose numbers are the same in all
versions, so a test can draw them again.
"""

import pathlib

import numpy as np

PATH = pathlib.Path(__file__).with_suffix(".npz")
NUM_VALUES = 160
# What is not of three channels of one size alone is left to imagenet_c.
SHAPES = {"imagecorruptions": ((48, 80),), "imagenet_c": ((224, 224),)}
SEVERITIES = (1, 2, 3, 4, 5)


def picture(height, width):
  """Soft colours with grain, and flat black, white and grey; uint8 [h w 3]."""
  draws = np.random.RandomState(7)
  coarse = draws.randint(0, 256, (height // 8, width // 8, 3))
  soft = np.repeat(np.repeat(coarse, 8, axis=0), 8, axis=1)
  soft = sum(np.roll(np.roll(soft, i, 0), j, 1)
             for i in range(-4, 5) for j in range(-4, 5)) // 81
  grained = np.clip(soft + draws.randint(-8, 9, soft.shape), 0, 255)
  grained[:8, :8], grained[-8:, :8], grained[:8, -8:] = 0, 255, 100
  return grained.astype(np.uint8)


def places(height, width):
  """Where values are kept, in a flattened picture."""
  return np.random.RandomState(3).randint(0, 3 * height * width, NUM_VALUES)


def frost_picture():
  """Stands for a photograph of ice; uint8 [h w 3]."""
  return picture(296, 400)


def main():
  # pylint: disable=import-outside-toplevel
  import cv2
  import imagecorruptions.corruptions as imagecorruptions
  import imagenet_c.corruptions as imagenet_c
  from PIL import Image

  cv2.imread = lambda *_: frost_picture()[..., ::-1]
  modules = {"imagecorruptions": imagecorruptions, "imagenet_c": imagenet_c}
  names = [name for name in NAMES if name != "elastic_transform"]
  asked = [(package, name, shape) for package, shapes in SHAPES.items()
           for shape in shapes for name in names
           if package == "imagenet_c" or name not in ("snow", "frost")]
  asked += [("imagenet_c", "elastic_transform", (224, 224)),
            ("imagecorruptions", "elastic_transform", (224, 224)),
            ("imagecorruptions", "elastic_transform", (64, 64))]
  found = {}
  for package, name, shape in asked:
    for severity in SEVERITIES:
      np.random.seed(severity)
      made = getattr(modules[package], name)(
          Image.fromarray(picture(*shape)), severity)
      made = np.uint8(np.asarray(made))
      assert made.shape == (*shape, 3), (package, name, made.shape)
      key = f"{package}/{name}/{severity}/{shape[0]}x{shape[1]}"
      found[key] = made.reshape(-1)[places(*shape)]
  np.savez_compressed(PATH, names=list(found), values=list(found.values()))


NAMES = (
    "gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise",
    "gaussian_blur", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
    "snow", "frost", "fog", "spatter", "brightness", "contrast", "saturate",
    "jpeg_compression", "pixelate", "elastic_transform")


if __name__ == "__main__":
  main()
