"""What was compiled for TPUs belongs to the programs of today.

libtpu is not needed: programs are traced, not compiled.
"""

import functools
import importlib.metadata
import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import jax
import pytest

from benchmarks import aot
from benchmarks import jaxprs
from benchmarks import programs
from jaxcal import sharding

_RESULTS = pathlib.Path(aot.__file__).parent / "results"
_RECORDS = {path.stem: json.loads(path.read_text("utf-8"))
            for path in sorted(_RESULTS.glob("aot_*.json"))}
# libtpu has no part in what is traced.
_TRACERS = ("jax", "flax", "optax")


@functools.cache
def _today(num_devices, memory):
  """Digest and description of every program, from a jaxpr of today."""
  found = {}
  mesh = sharding.data_mesh(jax.devices()[:num_devices])
  for name, build in programs.PROGRAMS.items():
    program = build(mesh, programs.budget(memory))
    traced = jaxprs.trace(program.function, *program.arguments)
    found[name] = (jaxprs.digest(traced),
                   aot.described(program, traced, num_devices))
  return found


def _today_of(record):
  chip = record["chip"]
  return _today(aot.devices_of(chip["topology"]), chip["memory"])


def _anew(record):
  chip = record["chip"]
  return (f"run `python -m benchmarks.aot --chip {chip['name']} --topology "
          f"{chip['topology']}` anew")


class RecordTest(parameterized.TestCase):

  def test_the_usual_chip_has_one(self):
    self.assertIn("aot_v5e", _RECORDS)

  @parameterized.parameters(*[(name,) for name in _RECORDS])
  @pytest.mark.slow
  def test_is_of_these_programs(self, name):
    record = _RECORDS[name]
    self.assertEqual(list(record["programs"]), list(programs.PROGRAMS),
                     _anew(record))
    installed = {one: importlib.metadata.version(one) for one in _TRACERS}
    today = _today_of(record)
    changed, others = [], set()
    for program, row in record["programs"].items():
      versions = {one: row["versions"][one] for one in _TRACERS}
      if versions != installed:
        others.add(str(versions))
      elif row["digest"] != today[program][0]:
        changed.append(program)
    self.assertEmpty(changed, f"these programs have changed; {_anew(record)}")
    if others:
      self.skipTest(f"digests of {', '.join(sorted(others))} are not compared "
                    f"with those of {installed}")

  @parameterized.parameters(*[(name,) for name in _RECORDS])
  @pytest.mark.slow
  def test_counts_are_those_of_today(self, name):
    """Which do not hang on versions."""
    record = _RECORDS[name]
    today = _today_of(record)
    for program, row in record["programs"].items():
      for field, value in today[program][1].items():
        self.assertEqual(row[field], value,
                         f"{program}, {field}; {_anew(record)}")

  @parameterized.parameters(*[(name,) for name in _RECORDS])
  def test_claims_hold(self, name):
    record = _RECORDS[name]
    claims = [claim for program, row in record["programs"].items()
              for claim in aot.claims_of(program, row)]
    self.assertEqual([claim.describe() for claim in claims], record["claims"])
    failed = [claim.name for claim in claims if not claim.holds]
    # A compiler that was not waited for is no failure of the program.
    late = [f"{program}: compiles" for program, row in
            record["programs"].items()
            if (row["error"] or "").startswith("not done within")]
    self.assertEqual(failed, late)

  @parameterized.parameters(*[(name,) for name in _RECORDS])
  def test_bounds_follow_from_the_data_sheet(self, name):
    record = _RECORDS[name]
    chip = aot.CHIPS[record["chip"]["name"]]
    for field in ("flop_per_s", "bytes_per_s", "memory"):
      self.assertEqual(record["chip"][field], getattr(chip, field))
    for program, row in record["programs"].items():
      if row["error"] is None:
        passes = sum(record["passes"][asked] * number
                     for asked, number in row["flop"].items())
        self.assertAlmostEqual(row["bound_ms"], 1e3 * max(
            passes / chip.flop_per_s, row["bytes"] / chip.bytes_per_s),
                               msg=program)
        self.assertEqual(row["unknown_loops"], 0, program)


class PageTest(absltest.TestCase):

  def test_the_table_is_that_of_the_record(self):
    page = (_RESULTS.parents[1] / "docs" / "accelerators.md").read_text("utf-8")
    page, _ = page.split("\n## Planning a run\n")  # which has tables, too
    number = lambda x: f"{x:,.0f}" if x >= 1000 else f"{x:.3g}"
    rows = [[
        name, f"{row['images']:g}" if row["images"] else "",
        number(row["needed_bytes"] / 1e9),
        number(sum(row["flop"].values()) / 1e12), number(row["bytes"] / 1e9),
        number(row["bound_ms"]), row["bound_by"], f"{row['of_peak']:.0%}",
        number(row["compile_s"])]
            for name, row in _RECORDS["aot_v5e"]["programs"].items()]
    self.assertEqual(
        [line for line in page.splitlines() if line.startswith("| ")][2:],
        [f"| {' | '.join(cells)} |" for cells in rows])


class MeasuredTest(absltest.TestCase):
  """What follows from what the compiler says."""

  def _measured(self, text, flop, *, exchanges=(), **memory):
    memory = dict.fromkeys(
        ("argument_size", "output_size", "temp_size", "generated_code_size",
         "peak_memory"), 0) | memory
    return aot.measured(
        {"flop": flop, "handed_over_bytes": 1e9, "planned_bytes": 0},
        {"lowering_s": 1, "compile_s": 2, "memory": memory, "text": text,
         "cost": {"flops": 1.0, "bytes accessed": 2.0}},
        aot.CHIPS["v5e"], exchanges)

  _TEXT = ("ENTRY %main (x: f32[2048,2048]) -> f32[2048,2048] {{\n"
           "  %x = f32[2048,2048]{{1,0}} parameter(0)\n"
           "  %s = f32[2048,2048]{{1,0}} all-reduce(%x)\n"
           "  ROOT %y = f32[2048,2048]{{1,0}} convolution(%s, %s){}\n}}\n")
  _EXACT = ", operand_precision={highest,highest}"

  def test_passes_count(self):
    text = self._TEXT.format(self._EXACT)
    moved = (2 + 3) * 2048**2 * 4
    for asked, passes in (("highest", 6), ("bfloat16", 1)):
      found = self._measured(text, {asked: 197e12})
      self.assertEqual(found["arithmetic_ms"], 1e3 * passes)
      self.assertEqual(found["bound_by"], "arithmetic")
      self.assertEqual(found["of_peak"], 1)
      self.assertAlmostEqual(found["useful_of_peak"], 1 / passes)
    found = self._measured(text, {"highest": 1e6})
    self.assertEqual(found["bytes"], moved)
    self.assertEqual(found["bound_by"], "memory")
    self.assertAlmostEqual(found["bound_ms"], 1e3 * moved / 819e9)

  def test_claims_can_fail(self):
    good = self._measured(self._TEXT.format(self._EXACT), {"highest": 1.0},
                          exchanges=("all-reduce",), argument_size=1e9)
    claims = aot.claims_of("good", good | {"error": None})
    self.assertLen([one for one in claims if one.holds], 4)
    bad = self._measured(self._TEXT.format(""), {"highest": 1.0},
                         peak_memory=16.5e9)
    claims = aot.claims_of("bad", bad | {"error": None})
    self.assertEqual([one.name for one in claims if one.holds],
                     ["bad: compiles"])
    # What was handed over and is read by nothing lies there, too.
    self.assertEqual(bad["needed_bytes"], 17.5e9)
    claim, = aot.claims_of("late", {"error": "not done within 1 s"})
    self.assertFalse(claim.holds)


if __name__ == "__main__":
  absltest.main()
