"""What the views of an image cost on the device, and by Pillow on the host.

Both make the same views: boxes, mirroring and AugMix are drawn beforehand, and
the results are compared before anything is measured.
"""

import argparse
from concurrent import futures
import functools
import os

import jax
import numpy as np
from PIL import Image
from PIL import ImageOps

from benchmarks import timing
from jaxcal.data import augmix
from jaxcal.data import views

SHAPES = ((375, 500), (600, 600))
_DEFAULT_IMAGES = {"cpu": 1, "gpu": 16, "tpu": 16}
# Of the plain views, in 1/255. AugMix may spread a single pixel of difference
# over a whole value of equalize or posterize; so there a share counts.
MOST_DIFFERENCE = 2
_LEAST_SHARE_CLOSE = 0.99


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--size", type=int, default=224)
  parser.add_argument("--views", type=int, default=64)
  parser.add_argument("--images", type=int, help="in one call on the device",
                      default=_DEFAULT_IMAGES[jax.default_backend()])
  parser.add_argument("--threads", type=int, default=os.cpu_count(),
                      help="of the host, beside one")
  args = parser.parse_args()

  rows, claims = [], []
  for shape in SHAPES:
    for mixed in (False, True):
      row = _row(shape, mixed, args)
      rows.append(row)
      name = f"{row['image']}{', AugMix' if mixed else ''}"
      if mixed:
        claims.append(timing.Claim(f"{name}: share within 2/255",
                                   row["close"], floor=_LEAST_SHARE_CLOSE))
      else:
        claims.append(timing.Claim(f"{name}: greatest difference from Pillow",
                                   row["difference"], ceiling=MOST_DIFFERENCE))
      if jax.default_backend() != "cpu":
        claims.append(timing.Claim(f"{name}: times as fast as all threads",
                                   row["threads_ms"] / row["device_ms"], 1.0))
  print(timing.table(rows))
  timing.write("views", {"arguments": vars(args), "rows": rows}, claims)
  timing.finish(claims)


def host_views(image, draws, recipe):
  """The views of one image by Pillow, as on the device: [v s s 3].

  Args:
    image: uint8 [h w 3].
    draws: (boxes [v - 1, 4], mirrored [v - 1], `augmix.Draw` of each view).
    recipe: Recipe of the views.
  """
  photo = Image.fromarray(image)
  made = [np.asarray(_clean(photo, recipe))]
  for box, mirrored, mixture in zip(*draws, strict=True):
    top, left, height, width = box
    view = photo.crop((left, top, left + width, top + height)).resize(
        (recipe.size, recipe.size), Image.BILINEAR)
    view = ImageOps.mirror(view) if mirrored else view
    made.append(_mix(view, mixture) if recipe.augmix else np.asarray(view))
  return np.stack(made)


def _row(shape, mixed, args):
  recipe = views.Recipe(args.size, args.size, num_views=args.views,
                        augmix=mixed)
  images = [photo(*shape, seed) for seed in range(args.images)]
  canvas = views.canvas_shape(*shape)
  given = (
      np.stack([views.on_canvas(image, canvas) for image in images]),
      np.tile(np.int32(shape), (args.images, 1)),
      np.stack([views.image_key(0, str(n)) for n in range(args.images)]),
  )
  given = jax.device_put(given)
  program = timing.compiled(
      jax.vmap(lambda *one: views.make_views(*one, recipe)), *given)
  draws = draws_of(given[1], given[2], recipe)
  host = functools.partial(host_views, recipe=recipe)

  difference = np.abs(
      np.asarray(program(*given), np.float64) -
      np.stack(list(map(host, images, draws))))
  with futures.ThreadPoolExecutor(args.threads) as pool:
    # One image on one thread, then as many at once as there are threads.
    many = [(images[0], draws[0])] * args.threads
    threads = timing.measure(lambda: list(pool.map(host, *zip(*many))))
  return {
      "image": f"{shape[0]}x{shape[1]}", "augmix": mixed,
      "difference": float(difference.max()),
      "close": float((difference <= MOST_DIFFERENCE).mean()),
      "device_ms": timing.measure(program, *given) / args.images * 1e3,
      "host_ms": timing.measure(host, images[0], draws[0]) * 1e3,
      "threads_ms": threads / args.threads * 1e3,
      "device_mb_per_image":
          timing.temporary_bytes(program) / args.images / 1e6,
  }


def draws_of(sizes, keys, recipe):
  """For each image what `host_views` takes.

  Args:
    sizes: int32 [b 2], heights and widths.
    keys: uint32 [b 2], see `views.image_key`.
    recipe: Recipe of the views.
  """
  @jax.jit
  @jax.vmap
  def all_images(key, size):
    boxes, mirrored, mix_keys = views.draw(key, size, recipe)
    mixtures = jax.vmap(lambda one: augmix.draw(one, recipe.size))(mix_keys)
    return boxes, mirrored, mixtures

  boxes, mirrored, mixtures = jax.tree.map(np.asarray, all_images(keys, sizes))
  count = recipe.num_views - 1
  return [
      (
          np.stack([edge[n] for edge in boxes], axis=1).tolist(),
          mirrored[n],
          [jax.tree.map(lambda part: part[n, view], mixtures)
           for view in range(count)],
      ) for n in range(len(sizes))
  ]


def photo(height, width, seed):
  """Soft shapes with grain."""
  generator = np.random.default_rng(seed)
  coarse = generator.integers(256, size=(12, 16, 3), dtype=np.uint8)
  soft = Image.fromarray(coarse).resize((width, height), Image.BICUBIC)
  grain = generator.normal(0, 6, size=(height, width, 3))
  return np.clip(np.asarray(soft) + grain, 0, 255).astype(np.uint8)


def _clean(photo, recipe):
  short = min(photo.size)
  width, height = (recipe.resize * side // short for side in photo.size)
  left = round((width - recipe.size) / 2)
  top = round((height - recipe.size) / 2)
  return photo.resize((width, height), Image.BICUBIC).crop(
      (left, top, left + recipe.size, top + recipe.size))


def _mix(view, mixture):
  """AugMix of one view by Pillow's operations."""
  own, *weights = mixture.weights / 2.0**15
  mixed = own * np.asarray(view, np.float32)
  for copy, weight in enumerate(weights):
    changed = view
    for step, number in enumerate(mixture.operations[copy]):
      if number < len(augmix.OPERATIONS):
        levels = jax.tree.map(lambda level: level[copy, step], mixture.levels)
        changed = _operation(augmix.OPERATIONS[number], changed, levels)
    mixed += weight * np.asarray(changed, np.float32)
  return mixed


def _operation(name, view, levels):
  if name == "autocontrast":
    return ImageOps.autocontrast(view)
  if name == "equalize":
    return ImageOps.equalize(view)
  if name == "posterize":
    return ImageOps.posterize(view, int(levels.bits))
  if name == "solarize":
    return ImageOps.solarize(view, int(levels.threshold))
  if name == "rotate":
    return view.rotate(int(levels.degrees), resample=Image.BILINEAR)
  slope, pixels = float(levels.slope), int(levels.pixels)
  matrix = {
      "shear_x": (1, slope, 0, 0, 1, 0),
      "shear_y": (1, 0, 0, slope, 1, 0),
      "translate_x": (1, 0, pixels, 0, 1, 0),
      "translate_y": (1, 0, 0, 0, 1, pixels),
  }[name]
  return view.transform(view.size, Image.AFFINE, matrix,
                        resample=Image.BILINEAR)


if __name__ == "__main__":
  main()
