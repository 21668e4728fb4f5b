"""A sheet of one picture under all corruptions, to look at: a row for each.

  python -m benchmarks.corruption_sheet photo.jpg --output=sheet.png
"""

import argparse

import numpy as np
from PIL import Image
from PIL import ImageDraw

from benchmarks import views as views_benchmark
from jaxcal.data import corruptions
from jaxcal.data import decoding

_MARGIN = 4
_LINE = 14  # pixels of a name above its row


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("image", nargs="?", help="soft shapes without")
  parser.add_argument("--output", default="sheet.png")
  parser.add_argument("--names", nargs="+", default=corruptions.NAMES)
  parser.add_argument("--side", type=int, default=224, help="of each picture")
  parser.add_argument("--frost_pictures", help="folder; a grey one without")
  args = parser.parse_args()

  image = (views_benchmark.photo(375, 500, 0) if args.image is None else
           decoding.decode(args.image))
  step = args.side + _MARGIN
  sheet = Image.new("RGB", (
      step * len(corruptions.SEVERITIES), (step + _LINE) * len(args.names)))
  write = ImageDraw.Draw(sheet)
  for row, name in enumerate(args.names):
    top = row * (step + _LINE)
    write.text((2, top + 1), name, fill="white")
    for column, severity in enumerate(corruptions.SEVERITIES):
      made = corruptions.corrupt(
          image, corruptions.Corruption(name, severity), args.output,
          pictures=_ice(args.frost_pictures))
      sheet.paste(Image.fromarray(made).resize((args.side, args.side)),
                  (column * step, top + _LINE))
  sheet.save(args.output)


def _ice(folder):
  if folder is not None:
    return corruptions.pictures(folder)
  return (np.full((256, 256, 3), 180, np.uint8),)


if __name__ == "__main__":
  main()
