"""Compiles the commands' programs for a TPU that is not there.

libtpu compiles ahead of time on a CPU, so without a TPU it can be known whether
each program compiles, fits the chip's memory, multiplies as exactly as
promised and exchanges nothing between images, and what its arithmetic and its
traffic allow at most by the chip's data sheet. How long it takes on a chip
cannot. Programs are those of `benchmarks.programs`, each compiled in a process
of its own; what has been compiled before is not compiled again.

  pip install '.[aot]'
  python -m benchmarks.aot
"""

import argparse
import gzip
import importlib.metadata
import importlib.util
import json
import math
import os
import pathlib
import tempfile
import time
from typing import NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
from jax.sharding import SingleDeviceSharding

from benchmarks import hlo
from benchmarks import jaxprs
from benchmarks import processes
from benchmarks import programs
from benchmarks import timing
from jaxcal import sharding


class Chip(NamedTuple):
  """A chip by its data sheet, and by its compiler.

  Attributes:
    topology: Chips of a small host, as libtpu names them.
    flop_per_s: Peak of bfloat16 products.
    bytes_per_s: Bandwidth of its memory (HBM).
    memory: Bytes of its memory that programs can have. Those are libtpu's,
      in its errors on programs that need more.
    source: Address of the data sheet with the other numbers.
  """

  topology: str
  flop_per_s: float
  bytes_per_s: float
  memory: float
  source: str


_SOURCE = "https://cloud.google.com/tpu/docs/"
CHIPS = {
    "v5e": Chip("2x2", 197e12, 819e9, 15.75 * 2**30, _SOURCE + "v5e"),
    "v5p": Chip("2x2x1", 459e12, 2765e9, 95.74 * 2**30, _SOURCE + "v5p"),
    "v6e": Chip("2x2", 918e12, 1640e9, 31.25 * 2**30, _SOURCE + "v6e"),
}
# bfloat16 products that stand for one of float32, see `jaxcal.precision`.
_PASSES = {"highest": 6, "high": 3, "default": 1, "bfloat16": 1}
# Asked of a product whose operands are float32, wherever one is.
_PROMISED = "highest"
_VERSIONS = ("jax", "flax", "optax", "libtpu")
# No machine is asked what it is, and no TPU is held, so that several processes
# may compile at once.
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--chip", choices=list(CHIPS), default="v5e")
  parser.add_argument("--topology", help="chips side by side, as in 2x4; a "
                      "host of four if not given")
  parser.add_argument("--program", nargs="+", choices=list(programs.PROGRAMS),
                      default=list(programs.PROGRAMS))
  parser.add_argument("--limit", type=float, default=900,
                      help="seconds that a program may take to compile")
  parser.add_argument("--keep", type=pathlib.Path, help="folder that keeps "
                      "what was compiled, to be read and measured again")
  args = parser.parse_args()
  if importlib.util.find_spec("libtpu") is None:
    parser.error("needs libtpu, which is not installed: pip install '.[aot]'")
  os.environ.update(_ENVIRONMENT)
  jax.config.update("jax_platforms", "cpu")

  topology = args.topology or CHIPS[args.chip].topology
  path = timing.path_of("aot", _backend(args.chip, topology))
  found = _stored(path, CHIPS[args.chip])
  with tempfile.TemporaryDirectory() as scratch:
    folder = args.keep or pathlib.Path(scratch)
    folder.mkdir(exist_ok=True)
    for name in args.program:
      found[name] = _row(name, args.chip, topology, folder, args.limit,
                         found.get(name))
      found = {name: found[name] for name in programs.PROGRAMS
               if name in found}
      claims = _write(args.chip, topology, found)
  print(timing.table([_shown(name, row) for name, row in found.items()]))
  timing.finish(claims)


def devices_of(topology: str) -> int:
  """Number of chips of a topology such as 2x2."""
  return math.prod(map(int, topology.split("x")))


def _backend(chip, topology):
  same = topology == CHIPS[chip].topology
  return chip if same else f"{chip}_{topology}"


def _stored(path, chip):
  """Programs of a record, unless it is of other numbers of the chip."""
  if not path.exists():
    return {}
  record = json.loads(path.read_text("utf-8"))
  same = all(record["chip"][name] == value
             for name, value in chip._asdict().items() if name != "topology")
  return record["programs"] if same else {}


def _write(chip, topology, found):
  """Writes what there is so far; its claims."""
  claims = [claim for name, row in found.items()
            for claim in claims_of(name, row)]
  timing.write("aot", {
      "chip": {"name": chip, **CHIPS[chip]._asdict(), "topology": topology},
      "passes": _PASSES, "programs": found}, claims,
      backend=_backend(chip, topology))
  return claims


def _row(name, chip, topology, folder, limit, before):
  """All that is known of a program; as before where it is still the same."""
  program = programs.PROGRAMS[name](
      programs.abstract_mesh(devices_of(topology)),
      programs.budget(CHIPS[chip].memory))
  traced = jaxprs.trace(program.function, *program.arguments)
  versions = {one: importlib.metadata.version(one) for one in _VERSIONS}
  row = {"digest": jaxprs.digest(traced), "versions": versions,
         **described(program, traced, devices_of(topology))}
  same = before and all(before.get(one) == row[one]
                        for one in ("digest", "versions"))
  path = folder / f"{row['digest'][:16]}_{chip}_{topology}.json.gz"
  if same and before["error"] is None and not path.exists():
    print(f"{name}: compiled before", flush=True)
    return before
  if not path.exists():
    print(f"{name}: compiling", flush=True)
    error = processes.alone(
        _compile, name, chip, topology, path, limit=limit).error
    if error is not None:
      print(f"{name}: {error}", flush=True)
      return {**row, "error": error}
  with gzip.open(path, "rt", encoding="utf-8") as file:
    compiled = json.load(file)
  return {**row, "error": None, **measured(row, compiled, CHIPS[chip],
                                           program.exchanges)}


def _compile(name, chip, topology, path):
  """Writes what the compiler makes of a program and says of it."""
  # One chip is less than a host, which has to be said.
  bounds = {"chips_per_host_bounds": (1, 1, 1)} if (
      devices_of(topology) == 1) else {}
  mesh = sharding.data_mesh(topologies.get_topology_desc(
      platform="tpu", topology_name=f"{chip}:{topology}", **bounds).devices)
  program = programs.PROGRAMS[name](
      mesh, programs.budget(CHIPS[chip].memory))
  start = time.perf_counter()
  lowered = jax.jit(program.function).lower(*_placed(program, mesh))
  lowering = time.perf_counter() - start
  compiled = lowered.compile()
  memory = compiled.memory_analysis()
  content = {
      "lowering_s": lowering,
      "compile_s": time.perf_counter() - start - lowering,
      "memory": {one.removesuffix("_in_bytes"): getattr(memory, one)
                 for one in dir(memory) if one.endswith("_in_bytes")},
      "cost": dict(compiled.cost_analysis()), "text": compiled.as_text()}
  with gzip.open(path.with_suffix(".part"), "wt", encoding="utf-8") as file:
    json.dump(content, file)
  path.with_suffix(".part").rename(path)


def _placed(program, mesh):
  """Arguments that know where they lie, as `run` puts them there."""
  if program.split:
    specs = [PartitionSpec(*mesh.axis_names) if split else PartitionSpec()
             for split in program.split]
    places = [NamedSharding(mesh, spec) for spec in specs]
  else:
    places = [SingleDeviceSharding(mesh.devices.flat[0])] * len(
        program.arguments)
  return [jax.tree.map(lambda x, place=place: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=place), one)
          for one, place in zip(program.arguments, places)]


def described(program, traced, num_devices):
  """What is known of a program before it is compiled, of one device."""
  bytes_of = lambda tree: sum(
      leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
  splits = program.split or (False,) * len(program.arguments)
  return {
      "images": program.images / num_devices,
      "planned_bytes": program.planned,
      "handed_over_bytes": sum(
          bytes_of(one) // (num_devices if split else 1)
          for one, split in zip(program.arguments, splits)),
      "flop": jaxprs.flop(traced)}


def measured(row, compiled, chip, exchanges):
  """What follows from a compiled program, of one device.

  Args:
    row: Result of `described`.
    compiled: Content of the file that `_compile` writes.
    chip: The chip.
    exchanges: Kinds of collectives that it may have.
  """
  module = hlo.parse(compiled["text"])
  memory, traffic = compiled["memory"], hlo.traffic(module)
  products = hlo.products(module)
  # Of arguments that no operation reads the compiler knows nothing, but they
  # lie there.
  unread = max(0, row["handed_over_bytes"] - memory["argument_size"])
  needed = unread + max(memory["peak_memory"], sum(
      memory[f"{one}_size"] for one in (
          "argument", "output", "temp", "generated_code")))
  arithmetic = sum(_PASSES[asked] * number
                   for asked, number in row["flop"].items()) / chip.flop_per_s
  moving = traffic.bytes / chip.bytes_per_s
  bound = max(arithmetic, moving)
  found = hlo.collectives(module)
  return {
      **{one: compiled[one] for one in ("lowering_s", "compile_s")},
      "memory": {one: memory[one] for one in sorted(memory)
                 if not one.startswith("host_")},
      "unread_argument_bytes": unread,
      "needed_bytes": needed, "of_memory": needed / chip.memory,
      # Of what the run has for it, which is counted before it is compiled.
      "of_planned": (memory["temp_size"] + memory["output_size"]) / row[
          "planned_bytes"] if row["planned_bytes"] else None,
      # The compiler's own counts, for which a loop runs once.
      "compiler_flop": compiled["cost"].get("flops"),
      "compiler_bytes": compiled["cost"].get("bytes accessed"),
      "bytes": traffic.bytes, "unknown_loops": traffic.unknown_loops,
      "arithmetic_ms": 1e3 * arithmetic, "memory_ms": 1e3 * moving,
      "bound_ms": 1e3 * bound,
      "bound_by": "arithmetic" if arithmetic > moving else "memory",
      "of_peak": arithmetic / bound,
      "useful_of_peak": sum(row["flop"].values()) / chip.flop_per_s / bound,
      "products": products,
      "products_below_promise": sum(
          number for name, number in products.items()
          if "f32" in name and not name.endswith(f", {_PROMISED}")),
      "collectives": found,
      "collectives_between_images": sum(
          number for kind, number in found.items() if kind not in exchanges)}


def claims_of(name, row):
  """Claims on a program; only that it compiles where it did not."""
  compiles = timing.Claim(
      f"{name}: compiles", float(row["error"] is None), floor=1)
  if row["error"] is not None:
    return [compiles]
  return [
      compiles,
      timing.Claim(f"{name}: of the chip's memory", row["of_memory"],
                   ceiling=1),
      timing.Claim(f"{name}: collectives between images",
                   row["collectives_between_images"], ceiling=0),
      timing.Claim(f"{name}: products less exact than promised",
                   row["products_below_promise"], ceiling=0)]


def _shown(name, row):
  if row["error"] is not None:
    return {"program": name, **dict.fromkeys((
        "compile_s", "memory_gb", "tflop", "gb_moved", "bound_ms", "bound_by",
        "of_peak"))}
  return {
      "program": name, "compile_s": row["compile_s"],
      "memory_gb": row["needed_bytes"] / 1e9,
      "tflop": sum(row["flop"].values()) / 1e12,
      "gb_moved": row["bytes"] / 1e9, "bound_ms": row["bound_ms"],
      "bound_by": row["bound_by"], "of_peak": row["of_peak"]}


if __name__ == "__main__":
  main()
