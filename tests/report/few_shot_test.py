"""What `jaxcal tune` predicted, measured from its folder alone."""

import json
import pathlib

from absl.testing import absltest
import numpy as np
import pytest

from jaxcal import predictions as predictions_lib
from jaxcal import stages
from jaxcal.report import few_shot
from jaxcal.report import redrawn
from jaxcal.report import summary
from jaxcal.storage import pair
from jaxcal.tuning import saved

_COOP = stages.Stages("coop")
_DOR = stages.Stages("coop", ("dor",))
_CONVENTIONS = summary.Conventions(num_resamples=20)


def _rows(folder, name="results"):
  return [json.loads(line) for line in
          (folder / f"{name}.jsonl").read_text().splitlines()]


class FewShotTest(absltest.TestCase):

  def setUp(self):
    """A run on two sets, with two seeds of two methods."""
    super().setUp()
    self.run = pathlib.Path(self.create_tempdir().full_path, "run")
    (self.run / "predictions").mkdir(parents=True)
    (self.run / "run.json").write_text(json.dumps({
        "config.model.name": "testbed", "config.metrics.num_resamples": 20,
        "command": ["jaxcal", "tune", "--config=mine"]}))
    self.seeds = {saved.ZERO_SHOT: 1, _COOP: 2, _DOR: 2}
    for data in ("cats", "dogs"):
      for of, number in self.seeds.items():
        for seed in range(1, number + 1):
          for half in ("base", "new"):
            self._save(data, of, half, seed)
          if of == _COOP:
            self._save_losses(data, of, seed)
    self.tasks = [few_shot.Task(
        data, ("base", "new"), self.seeds, {_DOR: shared})
                  for data, shared in (("cats", 1), ("dogs", 0))]

  def _save(self, data, of, half, seed):
    rng = np.random.default_rng(len(of.label) + seed)
    labels = np.random.default_rng(len(half)).integers(3, size=30)
    logits = 2 * np.eye(3)[labels] + rng.normal(size=(30, 3))
    predictions_lib.save(predictions_lib.Predictions(
        logits.astype(np.float32), labels.astype(np.int32),
        tuple(f"{half}{i}" for i in range(30)), tuple("abc"),
        settings=stages.setting(of) | {"fd_score": 0.5}),
        saved.path_of(self.run, data, of, half, seed))

  def _save_losses(self, data, of, seed):
    folder = self.run / "tuned" / data / of.label
    folder.mkdir(parents=True, exist_ok=True)
    pair.write(folder / f"seed-{seed}", "safetensors", b"", {
        "losses": [2.0, 1.0]})

  @pytest.mark.slow
  def test_rows_figures_and_page(self):
    text = few_shot.write(self.run, self.tasks, _CONVENTIONS)
    rows = _rows(self.run)
    self.assertEqual(
        [(row["data"], stages.of(row), row["seeds"]) for row in rows],
        [(data, *one) for data in ("cats", "dogs")
         for one in self.seeds.items()])
    self.assertEqual([row["shared_names"] for row in rows],
                     [None, None, 1, None, None, 0])
    self.assertEqual({row["num_new"] for row in rows}, {3})
    self.assertIn("Means over 2 seeds", text)
    pairs = [(stages.of(row).label, stages.reference_of(row).label)
             for row in _rows(self.run, "differences")[:6:2]]
    self.assertEqual(pairs, [("coop", "zero_shot"), ("coop+dor", "zero_shot"),
                             ("coop+dor", "coop")])
    page = (self.run / "report.html").read_text()
    for part in ("Few-shot tuning of testbed", "2 tuned methods", "cats, dogs",
                 "coop+dor, new classes", "Losses of the training",
                 "jaxcal tune --config=mine", "Paired differences"):
      self.assertIn(part, page)
    # A diagram for each method and half, and the losses of each set.
    self.assertEqual(page.count("<svg"), 2 * (3 * 2 + 1))

  @pytest.mark.slow
  def test_a_finished_run_tells_all_of_it(self):
    few_shot.write(self.run, self.tasks, _CONVENTIONS)
    self.assertEqual(few_shot.of_results(_rows(self.run)), [
        task._replace(shared=dict.fromkeys(self.seeds) | task.shared)
        for task in self.tasks])
    output = self.run.parent / "again"
    redrawn.write(self.run, output=output)
    for path in output.iterdir():
      if path.suffix != ".html":
        self.assertEqual(
            path.read_bytes(), (self.run / path.name).read_bytes(), path)
    self.assertIn("losses-cats.svg", {path.name for path in output.iterdir()})
    written = redrawn.write(self.run, _CONVENTIONS._replace(num_bins=5), output)
    self.assertIn("num_bins is 5, was 20", written.text)
    self.assertNotEqual(_rows(output), _rows(self.run))

  @pytest.mark.slow
  def test_all_classes(self):
    for path in (self.run / "predictions").rglob("base-*"):
      path.rename(path.with_name(path.name.replace("base", "all")))
    tasks = [task._replace(halves=("all",)) for task in self.tasks]
    text = few_shot.write(self.run, tasks, _CONVENTIONS)
    self.assertNotIn("HM", text)
    self.assertNotIn("num_new", _rows(self.run)[0])
    self.assertEqual(few_shot.of_results(_rows(self.run))[0].halves, ("all",))

  @pytest.mark.slow
  def test_what_is_missing_damaged_or_not_at_its_end(self):
    with self.assertRaisesRegex(
        ValueError, "not come to its end; give its command again: jaxcal tune "
        "--config=mine"):
      redrawn.write(self.run)
    few_shot.write(self.run, self.tasks, _CONVENTIONS)
    path = saved.path_of(self.run, "dogs", _DOR, "new", 2).with_suffix(".npz")
    content = path.read_bytes()
    path.write_bytes(content[:-40])
    with self.assertRaisesRegex(ValueError, r"dogs, coop\+dor: .*damaged"):
      redrawn.write(self.run)
    path.unlink()
    with self.assertRaisesRegex(
        FileNotFoundError, r"has results of dogs, coop\+dor, but no longer"):
      redrawn.write(self.run)


if __name__ == "__main__":
  absltest.main()
