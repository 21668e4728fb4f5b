"""What an image costs the host: reading it, against cutting its views, too.

The input pipeline reads a JPEG file and lays the image on a canvas; views are
cut on the device. The released test-time tuning codes cut all 64 on the host,
by Pillow. Both are timed on one thread in turns, once it is known that the
views cut from the canvas are those of Pillow.
"""

import argparse
import pathlib
import tempfile

import jax
import numpy as np
from PIL import Image

from benchmarks import timing
from benchmarks import views as views_benchmark
from jaxcal.data import decoding
from jaxcal.data import image_set as image_sets
from jaxcal.data import pipeline
from jaxcal.data import views

_LEAST_RATIO = 10
_QUALITY = 90  # of the JPEG files


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--size", type=int, default=224)
  parser.add_argument("--views", type=int, default=64)
  parser.add_argument("--images", type=int, default=4)
  args = parser.parse_args()

  rows, claims = [], []
  for shape in views_benchmark.SHAPES:
    with tempfile.TemporaryDirectory() as folder:
      row = _row(_images(pathlib.Path(folder), shape, args.images), args)
    rows.append({"image": f"{shape[0]}x{shape[1]}", **row})
    name = rows[-1]["image"]
    claims.append(timing.Claim(
        f"{name}: greatest difference from Pillow", row["difference"],
        ceiling=views_benchmark.MOST_DIFFERENCE))
    for kind in ("plain", "augmix"):
      claims.append(timing.Claim(
          f"{name}: times as long with {args.views} views, {kind}",
          row[f"{kind}_ms"] / row["pipeline_ms"], floor=_LEAST_RATIO))
  print(timing.table(rows))
  timing.write("decode", {"arguments": vars(args), "rows": rows}, claims)
  timing.finish(claims)


def _images(folder, shape, count):
  """A set of JPEG files of one shape."""
  names = tuple(f"{number}.jpg" for number in range(count))
  for number, name in enumerate(names):
    Image.fromarray(views_benchmark.photo(*shape, number)).save(
        folder / name, quality=_QUALITY)
  return image_sets.ImageSet(
      "photos", ("photo",), names, np.zeros(count, np.int32),
      lambda position: decoding.decode(folder / names[position]))


def _row(images, args):
  """Milliseconds per image by the pipeline and by Pillow."""
  recipes = {kind: views.Recipe(args.size, args.size, num_views=args.views,
                                augmix=kind == "augmix")
             for kind in ("plain", "augmix")}
  batch = _read(images)
  draws = {kind: views_benchmark.draws_of(batch.sizes, batch.keys, recipe)
           for kind, recipe in recipes.items()}

  def released(kind):
    return [views_benchmark.host_views(images.read(position), one,
                                       recipes[kind])
            for position, one in enumerate(draws[kind])]

  # On one canvas after the other, as all views of several take much memory.
  make = jax.jit(lambda *one: views.make_views(*one, recipes["plain"]))
  difference = max(
      np.abs(np.asarray(make(*one), np.int32) - theirs).max()
      for *one, theirs in zip(batch.canvases, batch.sizes, batch.keys,
                              released("plain")))
  seconds = timing.measure_in_turns({
      "pipeline": lambda: _read(images),
      **{kind: lambda kind=kind: released(kind) for kind in recipes}})
  return {"difference": float(difference), **{
      f"{name}_ms": one / len(images.ids) * 1e3
      for name, one in seconds.items()}}


def _read(images):
  """One batch of the pipeline, read by one thread."""
  batch, = pipeline.batches(
      images, [range(len(images.ids))], seed=0, batch_size=len(images.ids),
      num_threads=1)
  return batch


if __name__ == "__main__":
  main()
