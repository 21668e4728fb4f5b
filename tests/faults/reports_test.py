"""Finished runs of which a file says something else than a run writes."""

import json

from absl.testing import absltest
import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from jaxcal import predictions
from jaxcal import stages
from jaxcal.report import compared
from jaxcal.report import joined_runs
from jaxcal.report import prediction_sets
from jaxcal.report import ranked
from jaxcal.report import recalibrated
from jaxcal.report import redrawn
from jaxcal.report import saved_runs
from jaxcal.report import summary
from jaxcal.report import thumbnails
from tests.faults import fuzz

_CONVENTIONS = summary.Conventions(num_bins=3, num_resamples=5)
_LABELS = ("zero_shot", "tpt")
_ABOUT = {
    "command": ["jaxcal", "evaluate", "--config=x"],
    "config.metrics.num_bins": 3, "config.metrics.num_resamples": 5,
    "config.metrics.level": 0.95, "config.data.name": ["pets"],
    "left_out.pets": {"a.png": "cut off"}, "protocol.pets": "As published.",
    "versions": {"jax": "1"}, "identity": {"computation": 1}}
_RECALIBRATION = {
    "recalibrator": "temperature", "settings": _ABOUT, "fits": {"pets": {}},
    "provenance": {}, "run": "x", "share": 0.5}


class ReportsTest(fuzz.FaultCase):
  num_bytes = fuzz.COMPILING_BYTES

  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    self.run_folder = self.root / "run"
    for label in _LABELS:
      predictions.save(predictions.Predictions(
          rng.normal(size=(12, 3)).astype(np.float32),
          np.arange(12, dtype=np.int32) % 3, tuple(map(str, range(12))),
          ("cat", "dog", "owl"), settings=stages.setting(
              stages.Stages(label))),
                       self.run_folder / "predictions/pets" / label)
    self._restore()
    redrawn.write(self.run_folder, _CONVENTIONS)
    plan = prediction_sets.plan(self.run_folder, ["lac"], num_splits=2)
    prediction_sets.write(plan, self.run_folder)
    found = ranked.rank(self.run_folder, _CONVENTIONS)
    ranked.write(self.run_folder, found, _CONVENTIONS,
                 output=self.run_folder)
    self._tables = {path.name: path.read_bytes() for path in (
        *self.run_folder.glob("*.json"), *self.run_folder.glob("*.jsonl"))}

  def _restore(self):
    for name, content in getattr(self, "_tables", {}).items():
      (self.run_folder / name).write_bytes(content)
    (self.run_folder / "run.json").write_text(json.dumps(_ABOUT))

  def _read(self, name, content):
    """What the commands on a finished run read, but no long computation."""
    self._restore()
    run = self.run_folder
    (run / name).write_bytes(content)

    def report():
      about = saved_runs.about(run)
      results = saved_runs.rows(run, "results")
      redrawn.kind_of(run, about, results)
      joined_runs.conventions([run])
      saved_runs.remarks(about)
      saved_runs.measured_by(about, saved_runs.conventions(about))
      saved_runs.commands(about)
      saved_runs.recalibration_of(about)
      list(redrawn.read(run, redrawn.saved_of(run, results)))
      thumbnails.saved(run)
      current = saved_runs.digests(run)
      prediction_sets.of_run(run, current)
      ranked.of_run(run, current)

    for reader in (
        report, lambda: compared.plan([run, run], _LABELS),
        lambda: recalibrated.plan(run, recalibrated.Share(0.5)),
        lambda: prediction_sets.plan(run, ["lac"])):
      self.read(f"run's {name}", reader, name, "run.json", "run")

  @fuzz.fewer(0.3)
  @hypothesis.given(fuzz.damaged_json(_ABOUT))
  @pytest.mark.slow
  def test_about(self, content):
    self._read("run.json", content)

  @fuzz.fewer(0.2)
  @hypothesis.given(fuzz.damaged_json(_RECALIBRATION))
  @pytest.mark.slow
  def test_about_recalibration(self, content):
    self._read("run.json", content)

  @fuzz.fewer(0.4)
  @hypothesis.given(st.data(), st.sampled_from((
      "results.jsonl", "differences.jsonl", "sets.jsonl", "failure.jsonl")))
  @pytest.mark.slow
  def test_tables(self, data, name):
    first, *others = self._tables[name].splitlines()
    broken = data.draw(fuzz.damaged_json(json.loads(first)))
    lines = [broken, *others]
    self._read(name, b"\n".join(data.draw(st.permutations(lines))))

  @fuzz.fewer(0.2)
  @hypothesis.given(st.data(), st.sampled_from((
      "sets.json", "failure.json", "thumbnails.json")))
  @pytest.mark.slow
  def test_beside(self, data, name):
    sound = json.loads(self._tables.get(name, b'{"pets": {"1": "data:x"}}'))
    self._read(name, data.draw(fuzz.damaged_json(sound)))


if __name__ == "__main__":
  absltest.main()
