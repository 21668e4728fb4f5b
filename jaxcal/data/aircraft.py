"""FGVC-Aircraft in the text files that its authors distribute."""

import os
import pathlib

from jaxcal.data import image_set as image_sets
from jaxcal.data import sources
from jaxcal.data import text_files

SPLITS = ("train", "val", "trainval", "test")


def read(
    root: str | os.PathLike, *, split: str = "test", partial: bool = False
) -> image_sets.ImageSet:
  """The images of one split, labelled with the aircraft's variant.

  Args:
    root: The folder with `variants.txt`, `images_variant_SPLIT.txt` and
      `images/`.
    split: One of `SPLITS`; trainval is train and val together.
    partial: Whether to leave out listed images that are absent, with a warning
      in the log.

  Returns:
    The images in the order of the list, with ids such as `images/1514522.jpg`.
    The order of `variants.txt` is the label order.

  Raises:
    FileNotFoundError: If a list or (without `partial`) a listed image is
      absent.
    ValueError: If the split is unknown, a line is not a number and a variant,
      or a variant is not in `variants.txt`; names the line.

  Source: Maji et al., Fine-Grained Visual Classification of Aircraft, 2013.
  """
  if split not in SPLITS:
    raise ValueError(f"unknown split {split!r}; choose from: "
                     f"{', '.join(SPLITS)}.")
  root = pathlib.Path(root)
  class_names = _lines(root / "variants.txt")
  positions = {name: label for label, name in enumerate(class_names)}
  path, rows = root / f"images_variant_{split}.txt", []
  for number, line in enumerate(_lines(path), start=1):
    image, _, variant = line.partition(" ")
    if variant not in positions:
      raise ValueError(
          f"{path}, line {number}: expected the number of an image and one of "
          f"the {len(class_names)} variants in variants.txt, found {line!r}."
      )
    rows.append((f"images/{image}.jpg", positions[variant]))
  return sources.listed_files(
      path.stem, class_names, rows, root, partial=partial
  )


def _lines(path):
  lines = [line.strip() for line in text_files.read(path).splitlines()]
  return tuple(line for line in lines if line)
