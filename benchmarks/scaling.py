"""How the time of a prediction grows with images, classes, views and devices.

From view features to logits of C-TPT with ViT-B/16's text tower, and views
through its image tower. Slopes are those of the seconds of all cores, which
other work on the machine does not change by much; those of the clock are beside
them.

On a machine without accelerators the devices are virtual ones, which share its
cores. They show that a batch is shared out rightly and exchanges nothing, and
what sharing out costs: the seconds of all cores should be those of each share
alone. They cannot show that more devices take less time, nor what it costs to
feed devices of their own or a network between them.
"""

import argparse
import json
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import agreement
from benchmarks import hlo
from benchmarks import sizes
from benchmarks import timing
from jaxcal import sharding
from jaxcal.adapt.prompt import engine
from jaxcal.adapt.prompt import family
from jaxcal.adapt.prompt import methods
from jaxcal.clip import prefix
from jaxcal.clip import prompts
from jaxcal.clip import towers

_CONFIG = sizes.MODELS["ViT-B/16"]
_METHODS = {"c_tpt": methods.CTpt()}
_VIRTUAL_DEVICES = 4
_SERIES = ("images", "classes", "views", "tower", "devices")
_NOTE = ("virtual devices that share the machine's cores: they show that "
         "numbers are equal, that nothing is exchanged and what sharing out "
         "costs, and no gain in time")
# Seconds of all cores on several devices, of those of their shares alone.
_COST = 1.5


def predictor(num_classes, devices):
  """A function from features [b v d] to logits, and the collectives in it."""
  params, bank = sizes.text_params(_CONFIG), sizes.prompt_bank(num_classes)
  encode = prefix.context_encoder(_CONFIG, params, bank)
  prepared = jax.jit(engine.prepare)(
      encode, prompts.initial_context(params, bank),
      jnp.asarray(sizes.LOGIT_SCALE))
  mesh = sharding.data_mesh(devices)
  shared = sharding.replicate(family.share(encode, prepared, _METHODS), mesh)
  compiled = sharding.over_rows(
      lambda shared, views: jax.vmap(family.adapt, (None, 0))(
          shared, views)["c_tpt"].logits, mesh)

  def predict(views):
    return compiled(shared, sharding.split(views, mesh))

  def collectives(views):
    text = compiled.lower(
        shared, sharding.split(views, mesh)).compile().as_text()
    return sum(hlo.collectives(hlo.parse(text)).values())

  return predict, collectives


def measured(function, *given, repeats=3):
  """Seconds of the clock and of all cores: the least of some calls."""
  jax.block_until_ready(function(*given))
  found = []
  for _ in range(repeats):
    before = time.process_time()
    _, seconds = timing.timed(function, *given)
    found.append((seconds, time.process_time() - before))
  seconds, cores = (min(some) for some in zip(*found))
  return {"seconds": seconds, "core_seconds": cores}


def over_devices(num_classes, num_images):
  """The same images on ever more devices; they must predict the same.

  Beside the seconds of all cores are those of one device with its share of the
  images, times the devices: what sharing out would cost if it were free.
  """
  views = sizes.view_features(num_images, _CONFIG)
  counts = [2**i for i in range(jax.device_count().bit_length())]
  rows, first = [], None
  for count in counts:
    predict, collectives = predictor(num_classes, jax.devices()[:count])
    logits = np.asarray(predict(views))
    first = logits if first is None else first
    alone, _ = predictor(num_classes, jax.devices()[:1])
    share = measured(alone, views[:num_images // count])["core_seconds"]
    rows.append({"devices": count, **measured(predict, views),
                 "core_seconds_alone": count * share,
                 "collectives": collectives(views),
                 **agreement.differences(logits, first)})
  return rows


def over_classes(all_classes, num_images):
  views = sizes.view_features(num_images, _CONFIG)
  return [{"classes": count, **measured(
      predictor(count, jax.devices()[:1])[0], views)}
          for count in all_classes]


def over_images(num_classes, all_images):
  predict, _ = predictor(num_classes, jax.devices()[:1])
  return [{"images": count, **measured(
      predict, sizes.view_features(count, _CONFIG))}
          for count in all_images]


def over_views(num_classes, num_images, all_views):
  """Predictions, which look at ever more views of the same images."""
  predict, _ = predictor(num_classes, jax.devices()[:1])
  features = sizes.view_features(num_images, _CONFIG)
  return [{"views": count, **measured(predict, features[:, :count])}
          for count in all_views]


def over_views_of_the_tower(all_views):
  """Views of one image through the image tower."""
  params, side = sizes.image_params(_CONFIG), _CONFIG.image_size
  tower = jax.jit(towers.image_features, static_argnums=0)
  pixels = jax.random.normal(
      jax.random.key(3), (max(all_views), side, side, 3))
  return [{"views": count, **measured(tower, _CONFIG, params, pixels[:count])}
          for count in all_views]


def slope(rows, of):
  """Exponent p of a fit seconds = c * size^p; None of a single size."""
  size = next(iter(rows[0]))
  if len(rows) < 2:
    return None
  return float(np.polyfit(np.log([row[size] for row in rows]),
                          np.log([row[of] for row in rows]), 1)[0])


def claims_of(rows):
  """Claims on the same images on ever more devices."""
  costs = [row["core_seconds"] / row["core_seconds_alone"] for row in rows]
  return [
      timing.Claim("largest difference of a logit over devices", max(
          row["max_difference"] for row in rows), ceiling=1e-4),
      timing.Claim("collectives", max(row["collectives"] for row in rows),
                   ceiling=0),
      timing.Claim("seconds of all cores, of those of the shares alone",
                   max(costs), ceiling=_COST)]


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--num_classes", type=int, nargs="+",
                      default=[10, 20, 40, 80])
  parser.add_argument("--num_images", type=int, nargs="+",
                      default=[1, 2, 4, 8, 16])
  parser.add_argument("--num_views", type=int, nargs="+",
                      default=[16, 32, 64])
  parser.add_argument(
      "--series", nargs="+", choices=_SERIES, default=list(_SERIES),
      help="what is measured anew; the others keep their rows")
  args = parser.parse_args()
  # Has an effect on the CPU backend only, and before its first use.
  jax.config.update("jax_num_cpu_devices", _VIRTUAL_DEVICES)

  few, several = min(args.num_classes), 8
  measure = {
      "images": lambda: over_images(few, args.num_images),
      "classes": lambda: over_classes(args.num_classes, several),
      "views": lambda: over_views(few, several, args.num_views),
      "tower": lambda: over_views_of_the_tower(args.num_views),
      "devices": lambda: over_devices(few, several),
  }
  names = {
      "images": f"{few} classes, more images",
      "classes": f"{several} images, more classes",
      "views": f"{several} images, {few} classes, more views",
      "tower": "image tower, more views",
      "devices": f"{several} images, {few} classes, more devices",
  }
  path = timing.path_of("scaling")
  series = json.loads(path.read_text("utf-8"))["series"] if (
      path.exists()) else {}
  series |= {names[one]: measure[one]() for one in args.series}
  slopes = {}
  for name, rows in series.items():
    slopes[name] = {of: slope(rows, of) for of in ("core_seconds", "seconds")}
    print(name, timing.table(rows), sep="\n")
    print(f"they grow with the powers {slopes[name]} of the first column\n")
  note = (_NOTE if jax.default_backend() == "cpu" else "devices of their own")
  print(f"Devices: {note}.")
  claims = claims_of(series[names["devices"]]) if (
      names["devices"] in series) else []
  timing.write("scaling", {"model": "ViT-B/16", "method": "c_tpt",
                           "dtype": "float32", "devices": note,
                           "series": series, "slopes": slopes}, claims)
  timing.finish(claims)


if __name__ == "__main__":
  main()
