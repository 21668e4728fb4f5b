"""`jaxcal sweep`: rows and predictions, sharing, growing, kills, errors."""

import json
import pathlib
import random

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from jaxcal import predictions
from tests.cli import command

_SWEEP = ("sweep", *command.SMALL, "--sweep=method.name=zero_shot,c_tpt,soc",
          "--sweep=method.weight=1,30")


def _rows(output):
  return [json.loads(line) for line in
          (output / "results.jsonl").read_text().splitlines()]


class SweepTest(parameterized.TestCase):

  def _folder(self, name):
    return pathlib.Path(self.create_tempdir().full_path, name)

  def _sweep(self, output, *extra):
    status, printed, error = command.here(
        *_SWEEP, f"--output={output}", *extra)
    self.assertEqual(status, 0, error)
    return printed, error

  @pytest.mark.slow
  def test_killed_at_random_moments_and_resumed_is_the_undisturbed_sweep(self):
    whole, killed = self._folder("whole"), self._folder("killed")
    _, _, took = command.run_timed(*_SWEEP, f"--output={whole}")
    rng = random.Random(0)
    for _ in range(command.KILLS):
      command.kill_after(rng.uniform(0.2, 0.7) * took, *_SWEEP,
                         f"--output={killed}")
    self._sweep(killed)
    self.assertEqual((killed / "results.jsonl").read_bytes(),
                     (whole / "results.jsonl").read_bytes())
    folder = pathlib.Path("predictions", "digits")
    names = sorted(path.stem for path in (whole / folder).glob("*.npz"))
    self.assertLen(names, 5)  # zero_shot has no weight
    self.assertEqual(
        sorted(path.stem for path in (killed / folder).glob("*.npz")), names)
    for name in names:
      a, b = (predictions.load(out / folder / name) for out in (whole, killed))
      np.testing.assert_array_equal(a.logits, b.logits)
      self.assertEqual(a.ids, b.ids)

  @pytest.mark.slow
  def test_rows_are_those_of_evaluate_and_a_sweep_can_grow(self):
    output, single = self._folder("sweep"), self._folder("single")
    printed, error = self._sweep(output)
    self.assertIn("5 settings in one pass over each of digits", error)
    rows = _rows(output)
    self.assertEqual(
        [(row["method"], row.get("weight")) for row in rows],
        [("zero_shot", None), ("c_tpt", 1), ("c_tpt", 30), ("soc", 1),
         ("soc", 30)])
    status, _, error = command.here(
        "evaluate", *command.SMALL, "--config.method.name=soc",
        "--config.method.weight=1", f"--output={single}")
    self.assertEqual(status, 0, error)
    alone = _rows(single)[0]
    swept, = (row for row in rows
              if row["method"] == "soc" and row["weight"] == 1)
    for field in ("accuracy", "ece", "nll"):
      self.assertAlmostEqual(swept[field], alone[field], places=5)
    before = {path: path.stat().st_mtime_ns
              for path in output.rglob("*.npz")}
    self.assertRegex(printed, r"\| soc-[^|]*weight=1 ")
    self.assertIn("<svg", (output / "weight-digits.svg").read_text())
    self._sweep(output, "--sweep=method.learning_rate=0.005,0.01")
    grown = _rows(output)
    self.assertEqual(grown[:5], rows)
    self.assertEqual([row["learning_rate"] for row in grown[5:]], [0.01] * 4)
    for path, written in before.items():
      self.assertEqual(path.stat().st_mtime_ns, written, path)

  @pytest.mark.slow
  def test_streams_of_their_own_are_said_unless_they_are_swept(self):
    images = ("--config.data.limit=40", "--sweep=method.name=zero_shot,tda",
              "--config.views.number=2")
    small = [flag for flag in command.SMALL if "limit" not in flag and
             "views" not in flag and "selection" not in flag]
    for flags, said in (
        (("--config.stream.imbalance=4", "--config.stream.order=sorted"), True),
        (("--sweep=stream.imbalance=1,4",), False)):
      output = self._folder("run")
      status, printed, error = command.here(
          "sweep", *small, *images, *flags,
          "--config.method.selection_fraction=0.5", f"--output={output}")
      self.assertEqual(status, 0, error)
      for text in (printed, (output / "run.json").read_text()):
        self.assertEqual("images are kept; the share of a class" in text, said)
        self.assertEqual("see the images sorted" in text, said)

  @pytest.mark.slow
  def test_seeds_that_were_swept_are_pooled(self):
    output = self._folder("seeds")
    status, printed, error = command.here(
        "sweep", *command.SMALL, "--sweep=method.name=zero,mta",
        "--sweep=views.seed=0,1", f"--output={output}")
    self.assertEqual(status, 0, error)
    pooled = [json.loads(line) for line in
              (output / "seeds.jsonl").read_text().splitlines()]
    self.assertEqual([(row["method"], row["seeds"]) for row in pooled],
                     [("zero", 2), ("mta", 2)])
    rows = _rows(output)
    for row in pooled:
      each = [one["nll"] for one in rows if one["method"] == row["method"]]
      np.testing.assert_allclose(row["nll_seeds"], each, rtol=1e-9)
      self.assertGreater(row["nll_std"], 0)
    self.assertIn("Over seeds:", printed)
    self.assertEmpty(list(output.glob("*.svg")))

  @parameterized.parameters(
      ((), "--sweep is missing"),
      (("--sweep=method.wight=1",), "no field 'method.wight'"),
      (("--sweep=metrics.level=0.9",), "no field 'metrics.level'"),
      (("--sweep=method.name=tpt", "--sweep=method.delta=0.1,0.2"),
       "none of the methods has a delta"),
      (("--sweep=method.name=soc", "--sweep=method.delta=0.1,2"),
       "config.method.delta is 2.0, expected in"))
  def test_errors_come_before_the_work(self, arguments, message):
    status, printed, error = command.here("sweep", *command.SMALL, *arguments)
    self.assertEqual(status, 2)
    self.assertEqual(printed, "")
    self.assertIn(message, error)


if __name__ == "__main__":
  absltest.main()
