"""How much of the device's matrix arithmetic the image tower uses.

Floating point operations are counted in what is traced, the peak is that of a
large square matrix product of the same precision on the same device.
"""

import argparse
from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import jaxprs
from benchmarks import sizes
from benchmarks import timing
from jaxcal import precision
from jaxcal.clip import towers

_FLOOR = 0.5  # of the peak: transformers in bfloat16 on a GPU
BATCH = {"cpu": 4, "gpu": 1024, "tpu": 1024}
MATRIX = {"cpu": 2048, "gpu": 8192, "tpu": 8192}


def flop_per_image(config: towers.ClipConfig) -> float:
  """Multiplications and additions of all matrix products and convolutions."""
  params = jax.eval_shape(lambda: sizes.image_params(config))
  side = config.image_size
  return sum(jaxprs.flop(jaxprs.trace(
      functools.partial(towers.image_features, config), params,
      jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))).values())


def stored(computed: str) -> jnp.dtype:
  """Type of the parameters at a precision."""
  return jnp.dtype("bfloat16" if computed == "bfloat16" else "float32")


def peak(computed: str, size: int) -> float:
  """Floating point operations per second of a square matrix product."""
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
  parser.add_argument("--model", nargs="+", default=list(sizes.MODELS_BY_TOWER),
                      choices=list(sizes.MODELS_BY_TOWER))
  parser.add_argument("--batch", type=int, default=BATCH[backend])
  parser.add_argument("--precision", nargs="+", choices=precision.PRECISIONS,
                      default=["highest", "bfloat16"])
  args = parser.parse_args()

  models = {name: sizes.MODELS_BY_TOWER[name] for name in args.model}
  rows = measured(models, args.precision, args.batch, MATRIX[backend])
  claims = claims_of(rows)
  print(timing.table(rows))
  timing.write("image_tower", {"batch": args.batch, "rows": rows}, claims)
  timing.finish(claims)


def measured(
    models: Mapping[str, towers.ClipConfig], precisions: Sequence[str],
    batch: int, matrix: int,
) -> list[dict[str, Any]]:
  """A row for each precision and model.

  Args:
    models: Models by name.
    precisions: Precisions of the towers.
    batch: Images at a time.
    matrix: Side of the matrices whose product is the peak.
  """
  rows = []
  for computed in precisions:
    fastest = peak(computed, matrix)
    rows += [_row(name, config, computed, batch, fastest)
             for name, config in models.items()]
  return rows


def claims_of(rows: Sequence[Mapping[str, Any]]) -> list[timing.Claim]:
  """Made on a GPU, of CLIP's transformers in bfloat16."""
  if jax.default_backend() != "gpu":
    return []
  return [timing.Claim(
      f"{row['model']}, bfloat16: share of the peak", row["of_peak"], _FLOOR)
          for row in rows
          if row["precision"] == "bfloat16" and row["model"] in sizes.MODELS]


def _row(name, exact, computed, batch, fastest):
  dtype = stored(computed)
  config = dataclasses.replace(exact, vision=dataclasses.replace(
      exact.vision, precision=computed))
  params = sizes.image_params(exact, dtype)
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
