"""How much of the device's matrix arithmetic the image tower uses.

Floating point operations are counted from the sizes of the model, the peak is
that of a large square matrix product of the same precision on the same device.
"""

import argparse
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import sizes
from benchmarks import timing
from jaxcal import precision
from jaxcal.clip import towers

_FLOOR = 0.5  # of the peak, in bfloat16 on a GPU
_DEFAULT_BATCH = {"cpu": 4, "gpu": 1024, "tpu": 1024}
_MATRIX = {"cpu": 2048, "gpu": 8192, "tpu": 8192}


def flop_per_image(config: towers.ClipConfig) -> int:
  """Multiplications and additions of all matrix products."""
  vision = config.vision
  patches = (config.image_size // config.patch_size)**2
  tokens, width = patches + 1, vision.width
  dense = tokens * (4 * width**2 + 2 * width * vision.mlp_width)
  attention = 2 * tokens**2 * width  # scores, and what they weight
  embedding = patches * 3 * config.patch_size**2 * width
  return 2 * (vision.layers * (dense + attention) + embedding +
              width * config.projection)


def stored(computed: str) -> jnp.dtype:
  """Type of the parameters at a precision."""
  return jnp.dtype("bfloat16" if computed == "bfloat16" else "float32")


def peak(computed: str) -> float:
  """Floating point operations per second of a large matrix product."""
  size = _MATRIX[jax.default_backend()]
  keys = jax.random.split(jax.random.key(0))
  one, other = (jax.random.normal(key, (size, size), stored(computed))
                for key in keys)

  def product(one, other):
    with precision.at(computed):
      return one @ other

  return 2 * size**3 / timing.measure(
      jax.jit(product), one, other, repeats=10)


def check(config, computed, pixels, features):
  """One image alone, at the highest precision, gives the same feature."""
  alone = jax.jit(towers.image_features, static_argnums=0)(
      config, sizes.image_params(config), pixels[:1].astype(jnp.float32))
  cosine = float(np.sum(np.asarray(alone[0]) * np.asarray(features[0])))
  least = 1 - (1e-5 if computed == "highest" else 1e-2)
  if not cosine >= least:
    raise AssertionError(f"feature and reference have a cosine of {cosine}, "
                         f"below {least}")
  return cosine


def main():
  backend = jax.default_backend()
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--model", nargs="+", default=list(sizes.MODELS),
                      choices=list(sizes.MODELS))
  parser.add_argument("--batch", type=int, default=_DEFAULT_BATCH[backend])
  parser.add_argument("--precision", nargs="+", choices=precision.PRECISIONS,
                      default=["highest", "bfloat16"])
  args = parser.parse_args()

  rows, claims = [], []
  for computed in args.precision:
    fastest = peak(computed)
    for name in args.model:
      row = _row(name, computed, args.batch, fastest)
      rows.append(row)
      if backend == "gpu" and computed == "bfloat16":
        claims.append(timing.Claim(
            f"{name}, {computed}: share of the peak", row["of_peak"], _FLOOR))
  print(timing.table(rows))
  timing.write("image_tower", {"batch": args.batch, "rows": rows}, claims)
  timing.finish(claims)


def _row(name, computed, batch, fastest):
  exact, dtype = sizes.MODELS[name], stored(computed)
  config = dataclasses.replace(exact, vision=dataclasses.replace(
      exact.vision, precision=computed))
  params = sizes.image_params(config, dtype)
  side = config.image_size
  pixels = jax.random.normal(
      jax.random.key(3), (batch, side, side, 3), dtype)
  given = (config, params, pixels)
  program = timing.compiled(towers.image_features, *given)
  cosine = check(exact, computed, pixels, program(*given))
  seconds = timing.measure(program, *given, repeats=5)
  flop = flop_per_image(config)
  compiler = (program.cost_analysis() or {}).get("flops")
  return {
      "model": name, "precision": computed, "images_per_s": batch / seconds,
      "gflop_per_image": flop / 1e9,
      # The compiler's count; it also has softmax, norms and activations.
      "compiler_gflop": compiler and compiler / batch / 1e9,
      "tflop_per_s": flop * batch / seconds / 1e12,
      "peak_tflop_per_s": fastest / 1e12,
      "of_peak": flop * batch / seconds / fastest,
      "temporary_mb": timing.temporary_bytes(program) / 1e6,
      "cosine_to_highest": cosine,
  }


if __name__ == "__main__":
  main()
