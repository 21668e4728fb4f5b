"""The testbed's image sets: four drawn or scanned, each with four shifts.

  shapes        which shape; pairs of colour and shape as in training
  compositions  pairs of a basic colour and a shape never seen together
  shades        which of several close colours
  digits        real handwritten digits that training has not seen

`NAME-noise`, `-blur`, `-contrast` and `-sketch` show the same scenes changed.
"""

import functools
from typing import NamedTuple

import numpy as np

from jaxcal import spelling
from jaxcal.data import image_set
from jaxcal.testbed import digits
from jaxcal.testbed import scenes
from jaxcal.typing import UInt8

BASES = ("shapes", "compositions", "shades", "digits")
SHIFTS = ("noise", "blur", "contrast", "sketch")
NAMES = BASES + tuple(f"{base}-{shift}" for base in BASES for shift in SHIFTS)
SPLITS = ("train", "validation", "test")

# Images per drawn set; few-shot methods draw their shots from "train".
NUM_IMAGES = {"train": 2000, "validation": 2000, "test": 5000}

SHADES = (
    "red", "crimson", "scarlet", "maroon", "coral", "orange", "amber", "olive",
    "lime", "green", "emerald", "mint", "teal", "cyan", "azure", "blue",
    "navy", "indigo", "purple", "violet", "magenta", "pink",
)


class Conditions(NamedTuple):
  """Under what a set's photos are taken; each range is drawn from evenly.

  Attributes:
    radius: Radius of the subject, in half-images (training: 0.4 to 0.9).
    noise: Noise of the camera, of the full range (training: 0 to 0.08).
    contrast: Contrast of the camera (training: 0.7 to 1.1).
    cast: Deviation of the light's colour per channel (training: 0.025).
  """

  radius: tuple[float, float]
  noise: tuple[float, float]
  contrast: tuple[float, float]
  cast: float


# From the hard end of what training shows to a little beyond. Chosen on the
# validation splits: the shipped model should be useful and imperfect on each
# set.
CONDITIONS = {
    "shapes": Conditions((.32, .48), (.05, .1), (.6, .9), .025),
    "compositions": Conditions((.28, .42), (.04, .1), (.6, .9), .05),
    "shades": Conditions((.3, .5), (.04, .1), (.6, .9), .1),
    "digits": Conditions((.35, .5), (.06, .12), (.5, .9), .025),
}

_SCENE_STREAM = 3
_SHIFT_STREAM = 4


def load(
    name: str, *, split: str = "test", limit: int | None = None
) -> image_set.ImageSet:
  """An image set whose images are drawn when they are read.

  Classes are interleaved, so every prefix is balanced to within one image
  per class (the digits as far as the scans go).

  Args:
    name: One of `NAMES`.
    split: Split, "train", "validation" or "test"; they share no scene and no
      scan.
    limit: Number of images to keep, from the front; all if None.

  Raises:
    ValueError: If the name or the split is unknown or the limit is not
      positive.
  """
  if name not in NAMES:
    raise ValueError(
        f"unknown image set {name!r}; {spelling.choices(name, NAMES)}")
  if split not in SPLITS:
    raise ValueError(
        f"unknown split {split!r}; choose from: {', '.join(SPLITS)}.")
  if limit is not None and limit < 1:
    raise ValueError(f"expected at least 1 image to keep, got {limit}.")
  base, _, shift = name.partition("-")
  class_names = _class_names(base)
  if base == "digits":
    labels = digits.labels()[list(digits.split(split))]
  else:
    labels = np.arange(NUM_IMAGES[split]) % len(class_names)
  labels = labels[:limit].astype(np.int32)
  return image_set.ImageSet(
      name=name,
      class_names=class_names,
      ids=tuple(f"{name}/{split}/{i:05d}" for i in range(len(labels))),
      labels=labels,
      read=functools.partial(_read, base, shift, split),
  )


def _class_names(base):
  return {
      "shapes": scenes.SHAPES,
      "compositions": tuple(" ".join(pair) for pair in _held_out_pairs()),
      "shades": tuple(f"{colour} shape" for colour in SHADES),
      "digits": tuple(f"handwritten {name}" for name in digits.NAMES),
  }[base]


def _held_out_pairs():
  return [(colour, shape) for colour in scenes.BASIC_COLOURS
          for shape in scenes.SHAPES if (colour, shape) in scenes.HELD_OUT]


def _read(base, shift, split, index):
  key = [BASES.index(base), SPLITS.index(split), index]
  image = scenes.render(_scene(base, split, index, key))
  if not shift:
    return image
  rng = np.random.default_rng([_SHIFT_STREAM, SHIFTS.index(shift), *key])
  return _SHIFT[shift](image, rng)


def _scene(base, split, index, key):
  rng = np.random.default_rng([_SCENE_STREAM, *key])
  scene = scenes.draw(rng, **_fixed(base, split, index))
  return _under(CONDITIONS[base], scene, rng)


def _fixed(base, split, index):
  """The attributes that make an example one of its class."""
  if base == "digits":
    return {"scan": digits.split(split)[index]}
  if base == "shapes":
    shape = scenes.SHAPES[index % len(scenes.SHAPES)]
    return {"shape": shape, "style": "photo"}
  if base == "shades":
    return {"colour": SHADES[index % len(SHADES)], "style": "photo"}
  pairs = _held_out_pairs()
  colour, shape = pairs[index % len(pairs)]
  return {"colour": colour, "shape": shape, "style": "photo"}


def _under(conditions, scene, rng):
  """The scene as a photo that was taken under the given conditions."""
  pose = scene.pose._replace(radius=rng.uniform(*conditions.radius))
  camera = scene.camera._replace(
      noise=rng.uniform(*conditions.noise),
      contrast=rng.uniform(*conditions.contrast),
      gain=1 + conditions.cast * rng.standard_normal(3),
  )
  return scene._replace(camera=camera, pose=pose)


def add_noise(
    image: UInt8[np.ndarray, "64 64 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "64 64 3"]:
  """Gaussian noise of standard deviation 0.15 (of the full range)."""
  noise = rng.standard_normal(image.shape, np.float32)
  return _to_bytes(_to_unit(image) + np.float32(.15) * noise)


def blur(
    image: UInt8[np.ndarray, "64 64 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "64 64 3"]:
  """Gaussian blur of one and a half to two and a half pixels."""
  kernel = scenes.gaussian_matrix(rng.uniform(1.5, 2.5))
  return _to_bytes(_filter(_to_unit(image), kernel))


def lower_contrast(
    image: UInt8[np.ndarray, "64 64 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "64 64 3"]:
  """Half to four fifths of the contrast, around the image's mean."""
  unit = _to_unit(image)
  mean = unit.mean(axis=(0, 1))
  return _to_bytes(mean + np.float32(rng.uniform(.5, .8)) * (unit - mean))


def sketch(
    image: UInt8[np.ndarray, "64 64 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "64 64 3"]:
  """A tinted drawing: the edges in dark ink over fainter colours."""
  unit = _to_unit(image)
  down, right = np.gradient(
      _filter(unit, scenes.gaussian_matrix(1.)), axis=(0, 1))
  strength = np.sqrt((down ** 2 + right ** 2).sum(axis=-1))
  ink = (strength / np.float32(rng.uniform(.15, .3))).clip(0, 1)[..., None]
  tint = 1 - np.float32(rng.uniform(.75, .95)) * (1 - unit)
  return _to_bytes((1 - np.float32(.8) * ink) * tint)


_SHIFT = {"noise": add_noise, "blur": blur, "contrast": lower_contrast,
          "sketch": sketch}


def _filter(image, kernel):
  return np.stack(
      [kernel @ image[..., c] @ kernel.T for c in range(3)], axis=-1)


def _to_unit(image):
  return image.astype(np.float32) / 255


def _to_bytes(unit):
  return np.round(255 * unit.clip(0, 1)).astype(np.uint8)
