"""What the Kronecker factors of a contrastive loss cost.

Summing the GGN of all rows before any [d d] of a row exists makes it matrix
products of O(m c d), where the released form is one of O(c d^2) for every row.
"""

import argparse
import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from jaxcal.posterior import curvature

_BIAS = {"infonce": None, "sigmoid": -10.0}
_LOGIT_SCALE = 30.0
# Of [rows candidates]: logits, and what follows for each of them.
_PRODUCTS = {"infonce": 3, "sigmoid": 2}
_RELEASED_ROWS = 5  # that the released code treats at once
_SWEEP = (1, 2, 4)

_SLOPE = 1.3
_FRACTION = 0.3
_TIMES = 50.0


def pairs(num_pairs, num_activations, width):
  """Activations, embeddings and targets; partners are near each other."""
  keys = jax.random.split(jax.random.key(0), 4)
  normal = lambda key, width: jax.random.normal(key, (num_pairs, width))
  common = normal(keys[0], width)
  return (normal(keys[1], num_activations), common + normal(keys[2], width),
          common + normal(keys[3], width))


def whole_stream(args):
  """All pairs, by either loss: time, memory and how much of it is products."""
  activations, embeddings, targets = pairs(
      args.num_pairs, args.num_activations, args.width)
  some = slice(0, min(args.block, args.num_pairs))
  product = timing.compiled(_product, embeddings[some], targets[some])
  entries = sum(
      (rows.stop - rows.start) * (candidates.stop - candidates.start)
      for rows, candidates in curvature.blocks(args.num_pairs, args.block))
  rows = []
  for loss, bias in _BIAS.items():
    factors = functools.partial(
        curvature.kronecker_factors, activations, embeddings, targets,
        _LOGIT_SCALE, bias, block=args.block,
        rows_per_chunk=args.rows_per_chunk)
    seconds = timing.measure_in_turns({
        "factors": lambda: tuple(factors())[:2],
        "product": lambda: product(embeddings[some], targets[some])},
        repeats=args.repeats)
    rate = 2 * len(embeddings[some]) ** 2 * args.width / seconds["product"]
    flops = 2 * (_PRODUCTS[loss] * entries * args.width
                 + args.num_pairs * args.num_activations ** 2)
    program = timing.compiled(
        functools.partial(curvature.add, logit_scale=_LOGIT_SCALE,
                          logit_bias=bias, rows_per_chunk=args.rows_per_chunk),
        curvature.start(args.num_activations, args.width),
        activations[some], embeddings[some], targets[some])
    rows.append({
        "loss": loss, "seconds": seconds["factors"],
        "gflop_per_s": flops / seconds["factors"] / 1e9,
        "of_one_product": flops / seconds["factors"] / rate,
        "temporary_mb": timing.temporary_bytes(program) / 1e6,
        "bound_mb": _bound(args) / 1e6})
  return rows


def _bound(args):
  """Bytes: some arrays of one chunk's logits, and copies of what goes in."""
  block = min(args.block, args.num_pairs)
  chunk = min(args.rows_per_chunk, block) * block
  inputs = block * (args.num_activations + 2 * args.width)
  outputs = args.num_activations ** 2 + args.width ** 2
  return 4 * (6 * chunk + inputs + outputs)


def _product(x, y):
  return jnp.matmul(x, y.T, precision=lax.Precision.HIGHEST)


def scaling(args):
  """Seconds of `ggn_sum` where one size grows at a time, and the powers."""
  base = {"m": args.sweep_size, "c": args.sweep_size, "d": args.sweep_size // 8}
  calls = {}
  for axis in base:
    for times in _SWEEP:
      sizes = {**base, axis: times * base[axis]}
      _, embeddings, targets = pairs(max(sizes["m"], sizes["c"]), 1, sizes["d"])
      calls[axis, times] = functools.partial(
          jax.jit(curvature.ggn_sum), embeddings[:sizes["m"]],
          targets[:sizes["c"]], _LOGIT_SCALE)
  seconds = timing.measure_in_turns(calls)
  return [{
      "axis": axis, "from": base[axis],
      **{f"seconds x{times}": seconds[axis, times] for times in _SWEEP},
      "power": float(np.polyfit(
          np.log(_SWEEP), np.log([seconds[axis, times] for times in _SWEEP]),
          1)[0])} for axis in base]


def per_row(args):
  """The same sum from a [d d] for each row, a few rows at once."""
  num_rows = args.released_rows // _RELEASED_ROWS * _RELEASED_ROWS
  _, embeddings, targets = pairs(
      max(num_rows, args.released_candidates), 1, args.width)
  embeddings = embeddings[:num_rows]
  targets = targets[:args.released_candidates]

  def released(bias, embeddings, targets):
    def block(embedding):
      if bias is None:
        return curvature.infonce_block(embedding, targets, _LOGIT_SCALE)
      return curvature.sigmoid_block(embedding, targets, _LOGIT_SCALE, bias)

    def add(total, rows):
      return total + jnp.sum(jax.vmap(block)(rows), axis=0), None

    zero = jnp.zeros((embeddings.shape[1],) * 2)
    groups = embeddings.reshape(-1, _RELEASED_ROWS, embeddings.shape[1])
    return lax.scan(add, zero, groups)[0]

  rows = []
  for loss, bias in _BIAS.items():
    slow = timing.compiled(functools.partial(released, bias), embeddings,
                           targets)
    fast = timing.compiled(
        functools.partial(curvature.ggn_sum, logit_scale=_LOGIT_SCALE,
                          logit_bias=bias), embeddings, targets)
    expected, released_seconds = timing.timed(slow, embeddings, targets)
    difference = float(jnp.max(jnp.abs(fast(embeddings, targets) - expected))
                       / jnp.max(jnp.abs(expected)))
    if not difference < 1e-4:
      raise ValueError(f"{loss}: the two sums differ by {difference:.2g} of "
                       "the largest entry")
    seconds = timing.measure(fast, embeddings, targets)
    rows.append({
        "loss": loss, "rows": num_rows, "candidates": len(targets),
        "difference": difference, "released_seconds": released_seconds,
        "seconds": seconds, "times": released_seconds / seconds,
        "released_mb": timing.temporary_bytes(slow) / 1e6,
        "temporary_mb": timing.temporary_bytes(fast) / 1e6})
  return rows


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--num_pairs", type=int, default=32768)
  parser.add_argument("--block", type=int, default=8192)
  parser.add_argument("--width", type=int, default=512, help="d")
  parser.add_argument("--num_activations", type=int, default=768, help="p")
  parser.add_argument("--rows_per_chunk", type=int, default=256)
  parser.add_argument("--repeats", type=int, default=2)
  parser.add_argument("--sweep_size", type=int, default=2048,
                      help="rows and candidates that the sweep starts from; "
                      "the width is an eighth")
  parser.add_argument("--released_rows", type=int, default=500)
  parser.add_argument("--released_candidates", type=int, default=2048)
  args = parser.parse_args()

  stream = whole_stream(args)
  print(timing.table(stream))
  powers = scaling(args)
  print(timing.table(powers))
  released = per_row(args)
  print(timing.table(released))
  claims = [
      *(timing.Claim(f"{row['loss']}: temporary memory over its bound",
                     row["temporary_mb"] / row["bound_mb"], ceiling=1.0)
        for row in stream),
      *(timing.Claim(f"{row['loss']}: rate over that of one matrix product",
                     row["of_one_product"], floor=_FRACTION)
        for row in stream),
      *(timing.Claim(f"power of {row['axis']} in the time", row["power"],
                     ceiling=_SLOPE) for row in powers),
      *(timing.Claim(f"{row['loss']}: times faster than a matrix per row",
                     row["times"], floor=_TIMES) for row in released)]
  timing.write("curvature", {
      "dtype": "float32", **vars(args), "stream": stream, "scaling": powers,
      "released": released}, claims)
  timing.finish(claims)


if __name__ == "__main__":
  main()
