"""Several runs as one report: rows of all, and what cannot be joined."""

import json
import pathlib

from absl.testing import absltest
import numpy as np
import pytest

from jaxcal import predictions as predictions_lib
from jaxcal import stages
from jaxcal.report import joined_runs
from jaxcal.report import redrawn
from jaxcal.report import summary

_CONVENTIONS = summary.Conventions(num_resamples=20)


def _rows(folder, name="results"):
  return [json.loads(line) for line in
          (folder / f"{name}.jsonl").read_text().splitlines()]


class JoinedRunsTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)
    self.output = self.root / "both"

  def _run(self, name, methods, data="pets", num_images=40, **settings):
    """A run that has been reported, with predictions by some methods."""
    run = self.root / name
    for method in methods:
      rng = np.random.default_rng(len(method))
      labels = np.random.default_rng(0).integers(3, size=num_images)
      logits = 2 * np.eye(3)[labels] + rng.normal(size=(num_images, 3))
      predictions_lib.save(predictions_lib.Predictions(
          logits.astype(np.float32), labels.astype(np.int32),
          tuple(map(str, range(num_images))), tuple("abc"),
          settings=stages.setting(stages.Stages(method)) | {
              "identity": {"data.labels": "as they are", "views.seed": 0,
                           **settings}}), run / "predictions" / data / method)
    (run / "run.json").write_text(json.dumps({
        "config.model.name": "testbed", "config.views.number": 64,
        "config.metrics.num_resamples": 20, "config.data.name": [data],
        "config.method.name": list(methods),
        "command": ["jaxcal", "evaluate", f"--output={name}"]}))
    redrawn.write(run)
    return run

  @pytest.mark.slow
  def test_rows_and_differences_of_all(self):
    one = self._run("one", ("zero_shot", "tpt"))
    two = self._run("two", ("soc", "zero_shot"), data="dogs")
    three = self._run("three", ("mta",))
    said = joined_runs.write(
        [one, two, three], self.output, page_by=["jaxcal", "report", "all"])
    by_run = {run: _rows(run) for run in (one, two, three)}
    # Which is the best is another question among more methods.
    plain = lambda rows: [{name: value for name, value in row.items()
                           if name != "best"} for row in rows]
    self.assertEqual(plain(_rows(self.output)), plain(
        by_run[one] + by_run[three] + by_run[two]))
    # MTA is not compared: its run had no method to compare it with.
    self.assertEqual(
        _rows(self.output, "differences"),
        _rows(one, "differences") + _rows(two, "differences"))
    self.assertLen(_rows(self.output, "differences"), 2)
    page = (self.output / "report.html").read_text()
    for part in (
        "Calibration of testbed", "4 methods on 2 image sets",
        "<dt>Run by, two</dt><dd><code>jaxcal evaluate --output=two</code>",
        "<dt>Page by</dt><dd><code>jaxcal report all</code>",
        "<code>config.views.number</code>", "<code>two: config.data.name"):
      self.assertIn(part, page)
    self.assertIn("paired differences are within each run", said.text)
    self.assertFalse((self.output / "run.json").exists())

  @pytest.mark.slow
  def test_a_method_twice(self):
    one, two = self._run("one", ("tpt",)), self._run("two", ("tpt", "mta"))
    with self.assertRaisesRegex(
        ValueError, "pets, tpt is in .*/one and in .*/two; leave out one"):
      joined_runs.write([one, two], self.output)
    seed = self._run("seed", ("tpt",), **{"views.seed": 1})
    with self.assertRaisesRegex(
        ValueError, "the seed of the views alone.*--sweep=views.seed=0,1,2"):
      joined_runs.write([one, seed], self.output)
    self.assertFalse(self.output.exists())

  @pytest.mark.slow
  def test_other_images_or_classes_of_the_same_name(self):
    one = self._run("one", ("tpt",))
    for name, changes in (("fewer", {"num_images": 30}),
                          ("labels", {"data.labels": "others"})):
      other = self._run(name, ("mta",), **changes)
      with self.assertRaisesRegex(
          ValueError, f"pets has other images or classes in .*/{name} than in "
          ".*/one"):
        joined_runs.write([one, other], self.output)

  @pytest.mark.slow
  def test_other_conventions_and_commands(self):
    one, two = self._run("one", ("tpt",)), self._run("two", ("mta",))
    about = json.loads((two / "run.json").read_text())
    (two / "run.json").write_text(json.dumps(
        about | {"config.metrics.num_bins": 15}))
    with self.assertRaisesRegex(
        ValueError, "one was measured with num_bins 20, .*two with 15; say "
        "which to take, such as --config.metrics.num_bins=20"):
      joined_runs.write([one, two], self.output)
    given = joined_runs.conventions([one, two], {"num_bins": 15})
    self.assertEqual(given, _CONVENTIONS._replace(num_bins=15))
    joined_runs.write([one, two], self.output, given)
    self.assertLen(_rows(self.output), 2)
    with self.assertRaisesRegex(ValueError, "is one of the runs"):
      joined_runs.write([one, two], one, given)
    row, = _rows(two)
    (two / "results.jsonl").write_text(json.dumps(row | {"setting": "mta"}))
    with self.assertRaisesRegex(ValueError, "two is of `jaxcal sweep`; runs"):
      joined_runs.write([one, two], self.output, given)


if __name__ == "__main__":
  absltest.main()
