"""How the time of a prediction grows with devices, classes and images.

From view features to logits of C-TPT with ViT-B/16's text tower. On a machine
without accelerators the devices are virtual ones, which share its cores: their
number then says what sharing out costs, not what it gains.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import agreement
from benchmarks import sizes
from benchmarks import timing
from jaxcal import sharding
from jaxcal.adapt.prompt import engine
from jaxcal.adapt.prompt import family
from jaxcal.adapt.prompt import methods
from jaxcal.clip import prefix
from jaxcal.clip import prompts

_CONFIG = sizes.MODELS["ViT-B/16"]
_METHODS = {"c_tpt": methods.CTpt()}
_VIRTUAL_DEVICES = 4


def predictor(num_classes, devices):
  """The compiled function from features [b v d] to logits on these devices."""
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
  return lambda views: compiled(shared, sharding.split(views, mesh))


def over_devices(num_classes, num_images):
  """The same images on ever more devices; they must predict the same."""
  views = sizes.view_features(num_images, _CONFIG)
  counts = [2**i for i in range(jax.device_count().bit_length())]
  rows, first = [], None
  for count in counts:
    predict = predictor(num_classes, jax.devices()[:count])
    logits = np.asarray(predict(views))
    first = logits if first is None else first
    rows.append({"devices": count, "seconds": timing.measure(predict, views),
                 **agreement.differences(logits, first)})
  return rows


def over_classes(all_classes, num_images):
  views = sizes.view_features(num_images, _CONFIG)
  return [{"classes": count,
           "seconds": timing.measure(
               predictor(count, jax.devices()[:1]), views)}
          for count in all_classes]


def over_images(num_classes, all_images):
  predict = predictor(num_classes, jax.devices()[:1])
  return [{"images": count,
           "seconds": timing.measure(
               predict, sizes.view_features(count, _CONFIG))}
          for count in all_images]


def slope(rows):
  """Exponent p of a fit seconds = c * size^p."""
  size = next(iter(rows[0]))
  return float(np.polyfit(np.log([row[size] for row in rows]),
                          np.log([row["seconds"] for row in rows]), 1)[0])


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--num_classes", type=int, nargs="+",
                      default=[10, 20, 40, 80])
  parser.add_argument("--num_images", type=int, nargs="+",
                      default=[1, 2, 4, 8, 16])
  args = parser.parse_args()
  # Has an effect on the CPU backend only, and before its first use.
  jax.config.update("jax_num_cpu_devices", _VIRTUAL_DEVICES)

  few, several = min(args.num_classes), 8
  series = {
      f"{several} images, {few} classes, more devices":
          over_devices(few, several),
      f"{several} images, more classes":
          over_classes(args.num_classes, several),
      f"{few} classes, more images": over_images(few, args.num_images),
  }
  slopes = {}
  for name, rows in series.items():
    slopes[name] = slope(rows) if len(rows) > 1 else None
    print(name, timing.table(rows), sep="\n")
    print(f"seconds grow with the power {slopes[name]} of the first column\n")
  virtual = jax.default_backend() == "cpu"
  note = ("virtual devices that share the machine's cores: no gain can be seen"
          if virtual else "devices of their own")
  print(f"Devices: {note}.")
  timing.write("scaling", {"model": "ViT-B/16", "method": "c_tpt",
                           "dtype": "float32", "devices": note,
                           "series": series, "slopes": slopes})
  timing.finish([])


if __name__ == "__main__":
  main()
