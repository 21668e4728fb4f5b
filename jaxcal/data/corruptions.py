"""The standard corruptions of ImageNet-C, by name, for any image set.

  images = load.images("photos", corruption=Corruption("fog", 3))

Fifteen corruptions, four more and a second elastic transform, at severities 1
to 5. An image is made as those of ImageNet-C are: its shorter side becomes 256
pixels, the central 224 x 224 pixels are cut out and corrupted; views are cut
from the result. (The published files were then saved as JPEG, which changes
noise a lot; made on the fly, images are not.) What is random, and whether an
image is corrupted where a share of them is, depends on the seed and the image's
id alone.
"""

import hashlib
import os
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from jaxcal import spelling
from jaxcal.data import corruptions_on_device as on_device
from jaxcal.data import corruptions_on_host as on_host
from jaxcal.data import decoding
from jaxcal.data import folders
from jaxcal.data import image_set as image_sets
from jaxcal.data import views
from jaxcal.typing import UInt8

# Of ImageNet-C, with the group whose archive has each.
GROUPS = {
    "gaussian_noise": "noise", "shot_noise": "noise", "impulse_noise": "noise",
    "defocus_blur": "blur", "glass_blur": "blur", "motion_blur": "blur",
    "zoom_blur": "blur",
    "snow": "weather", "frost": "weather", "fog": "weather",
    "brightness": "weather",
    "contrast": "digital", "elastic_inet": "digital", "pixelate": "digital",
    "jpeg_compression": "digital",
    "speckle_noise": "extra", "gaussian_blur": "extra", "spatter": "extra",
    "saturate": "extra",
}
NAMES = (*GROUPS, "elastic_ic")
SEVERITIES = (1, 2, 3, 4, 5)
# What is corrupted: the central crop, or the image as it was read.
CROP, IMAGE = "crop", "image"

_RESIZED, _SIDE = 256, 224
_FROST = "frost"


class Corruption(NamedTuple):
  """What is done to the images of a set.

  Attributes:
    name: One of `NAMES`.
    severity: Severity, 1 to 5.
    seed: Seed of what is random, beside the image's id.
    of: What is corrupted: "crop", the central 224 x 224 pixels once the shorter
      side has 256, as in ImageNet-C; or "image", the image as it was read, of
      any size. On a device every size is compiled once.
    pictures: Folder with pictures of ice; for frost alone.
    share: Probability that an image is corrupted, in (0, 1]; the others stay as
      they were taken. With a higher one further images are corrupted.
  """

  name: str
  severity: int
  seed: int = 0
  of: str = CROP
  pictures: str | os.PathLike | None = None
  share: float = 1.0


def check(corruption: Corruption) -> None:
  """Refuses an unknown corruption, severity, kind of image or share.

  Raises:
    ValueError: Says what was expected.
  """
  name = corruption.name
  if name not in NAMES:
    near = ("choose elastic_inet, as in ImageNet-C, or elastic_ic, as in the "
            "package imagecorruptions" if name == "elastic_transform" else
            spelling.choices(name, NAMES))
    raise ValueError(f"unknown corruption {name!r}; {near}")
  if corruption.severity not in SEVERITIES:
    raise ValueError(f"the severity of {name} is {corruption.severity!r}, "
                     "expected a whole number from 1 to 5")
  if corruption.of not in (CROP, IMAGE):
    raise ValueError(f"what is corrupted is {corruption.of!r}, expected "
                     f"{CROP!r} or {IMAGE!r}")
  if not 0 < corruption.share <= 1:
    raise ValueError(f"the share of corrupted images is {corruption.share!r}, "
                     "expected one in (0, 1]")


def corrupted(
    image_set: image_sets.ImageSet, corruption: Corruption
) -> image_sets.ImageSet:
  """The set with every image, or a share of them, corrupted as it is read.

  Args:
    image_set: Image set to corrupt; none of its images is read yet.
    corruption: Corruption of the images.

  Returns:
    The set with the same name, ids and labels, which says its corruption.

  Raises:
    FileNotFoundError: There is no folder of pictures where one is named.
    ValueError: See `check`; frost lacks pictures; or the images are corrupted
      already.
  """
  check(corruption)
  if image_set.corruption is not None:
    raise ValueError(f"the images of {image_set.name} are corrupted already: "
                     f"{image_set.corruption}")
  ice = _pictures(corruption)

  def read(position):
    image, image_id = image_set.read(position), image_set.ids[position]
    if not is_corrupted(image_id, corruption):
      return image
    return corrupt(image, corruption, image_id, pictures=ice)

  return image_set._replace(
      read=read, corruption=_identity(corruption, ice))


def is_corrupted(image_id: str, corruption: Corruption) -> bool:
  """Whether an image is of the share that is corrupted, whatever the others.

  Args:
    image_id: Id of the image in its set.
    corruption: Corruption of the set.
  """
  words = views.image_key(corruption.seed, f"share of {image_id}")
  # Never 1, so that a share of 1 is all.
  return float(np.random.default_rng(words).random()) < corruption.share


def corrupt(
    image: UInt8[np.ndarray, "h w 3"],
    corruption: Corruption,
    image_id: str,
    *,
    pictures: tuple[UInt8[np.ndarray, "_ _ 3"], ...] = (),
) -> UInt8[np.ndarray, "H W 3"]:
  """A corrupted image; may be called from several threads at once.

  Args:
    image: Image as it was read.
    corruption: Corruption of it.
    image_id: Id of the image in its set.
    pictures: Pictures of ice, for frost alone.
  """
  views.check_image(image)
  name, severity = corruption.name, corruption.severity
  if corruption.of == CROP:
    image = central_crop(image)
  words = views.image_key(corruption.seed, f"corruption of {image_id}")
  if name in on_device.CORRUPTIONS:
    key = jax.random.wrap_key_data(
        jax.device_put(words), impl="threefry2x32")
    return np.asarray(on_device.corrupt(name, image, key, severity))
  kind, generator = on_host.CORRUPTIONS[name], np.random.default_rng(words)
  return kind.make(
      image, kind.draw(generator, image, severity, pictures), severity)


def central_crop(
    image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "224 224 3"]:
  """What ImageNet-C corrupts of an image: 224 x 224 pixels of its middle.

  The shorter side becomes 256 pixels by Pillow's bilinear filter, as in
  torchvision's Resize and CenterCrop.
  """
  height, width = image.shape[:2]
  short = min(height, width)
  height, width = (_RESIZED * side // short for side in (height, width))
  top, left = (round((side - _SIDE) / 2) for side in (height, width))
  resized = Image.fromarray(image).resize(
      (width, height), Image.Resampling.BILINEAR)
  return np.asarray(resized.crop((left, top, left + _SIDE, top + _SIDE)))


def pictures(
    folder: str | os.PathLike) -> tuple[UInt8[np.ndarray, "_ _ 3"], ...]:
  """The pictures of a folder, of which frost is made.

  Args:
    folder: Folder; files with other suffixes than images have are left out.

  Raises:
    FileNotFoundError: There is no such folder.
    ValueError: It has no pictures, or one cannot be read.
  """
  folder = folders.existing(pathlib.Path(folder).expanduser())
  paths = [entry.path for entry in folders.entries(folder)
           if folders.is_image(entry.name)]
  if not paths:
    raise ValueError(f"{folder} has no pictures for frost (known suffixes: "
                     f"{', '.join(decoding.IMAGE_SUFFIXES)})")
  return tuple(map(decoding.decode, paths))


def published(corruption: Corruption) -> dict[str, Any]:
  """What identifies the corruption of files that were published."""
  return {"data.corruption": corruption.name,
          "data.severity": corruption.severity, "data.corruption_of": "files"}


def _identity(corruption, ice):
  """What identifies the corruption, as sets, stores and runs record it."""
  found = {"data.corruption": corruption.name,
           "data.severity": corruption.severity,
           "data.corruption_of": corruption.of,
           "data.corruption_seed": corruption.seed}
  if corruption.share < 1:
    found["stream.corrupted_share"] = corruption.share
  if ice:
    digest = hashlib.sha256()
    for picture in ice:
      digest.update(repr(picture.shape).encode() + picture.tobytes())
    found["data.frost_pictures"] = digest.hexdigest()[:16]
  return found


def _pictures(corruption):
  """The pictures that frost is made of; none for the others."""
  if corruption.name != _FROST:
    return ()
  if corruption.pictures is None:
    raise ValueError(
        "frost needs pictures of ice, which do not come with jaxcal: name a "
        "folder that has some (pictures, --config.data.frost_pictures), such "
        "as the folder frost of the package imagecorruptions")
  return pictures(corruption.pictures)
