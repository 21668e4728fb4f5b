"""Tests of jaxcal.report.saved_runs: what run.json says of images."""

import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized

from jaxcal.report import saved_runs
from jaxcal.report import summary


class LeftOutTest(absltest.TestCase):

  def test_nothing_without_any(self):
    self.assertEqual(saved_runs.left_out({"pets": {}, "pets/train": {}}), {})
    self.assertEqual(saved_runs.on_left_out({"config.batch_size": 3}), [])

  def test_sentences(self):
    told = saved_runs.left_out({
        "pets": {"a.png": "cut off"},
        "birds": {f"{i}.png": "narrow" for i in range(12)}})
    one, many = saved_runs.on_left_out(json.loads(json.dumps(told)))
    self.assertEqual(one, "pets: 1 image left out, which cannot be used: "
                     "a.png (cut off).")
    self.assertRegex(many, r"^birds: 12 images left out, .*; 9.png \(narrow\); "
                     "and 2 more.$")
    self.assertEqual(saved_runs.remarks(told), [one, many])
    # A recalibration has the settings of its run.
    self.assertEqual(saved_runs.on_left_out(
        {"recalibrator": "x", "settings": told}), [one, many])
    # On a page they are sentences, not settings.
    self.assertFalse([name for name in saved_runs.measured_by(
        told, summary.Conventions()) if "left_out" in name])

  def test_names_that_are_not_utf_8_can_be_written(self):
    told = saved_runs.left_out({"pets": {"caf\udce9.png": "cut \udce9"}})
    text, = saved_runs.on_left_out(told)
    self.assertIn(r"caf\udce9.png (cut \udce9)", text)
    text.encode("utf-8")


class DamagedTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.run_folder = pathlib.Path(self.create_tempdir().full_path)

  @parameterized.parameters(
      {"command": 3}, {"command": ["jaxcal", None]}, {"settings": [1]},
      {"left_out.pets": "all"}, {"left_out.pets": {"a.png": None}},
      {"protocol.pets": 3}, {"settings": {"left_out.pets": 3}})
  def test_what_a_run_says_of_itself(self, **told):
    (self.run_folder / "run.json").write_text(json.dumps(told))
    with self.assertRaisesRegex(ValueError, "run.json is damaged .*; restore"):
      saved_runs.about(self.run_folder)

  @parameterized.parameters(
      ("num_bins", "x"), ("num_bins", 3.5), ("level", None), ("edges", 3),
      ("seed", [1]))
  def test_conventions(self, name, value):
    with self.assertRaisesRegex(
        ValueError, f"config.metrics.{name} of run.json is .*expected such as"):
      saved_runs.conventions({f"config.metrics.{name}": value})

  @parameterized.parameters(
      ("results", {"method": "tpt"}), ("results", {"data": 3}),
      ("results", {"data": "pets", "method": 3}),
      ("results", {"data": "pets", "method": "tpt", "additions": "dor"}),
      ("results", {"data": "pets", "method": "tpt", "tuned_seed": "1"}),
      ("differences", {"data": "pets", "method": "tpt"}),
      ("differences", {"data": "pets", "reference": "tpt"}))
  def test_rows(self, name, row):
    (self.run_folder / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    with self.assertRaisesRegex(
        ValueError, f"{name}.jsonl is damaged .*; restore"):
      saved_runs.rows(self.run_folder, name)

  def test_what_lies_beside(self):
    with self.assertRaisesRegex(
        ValueError, "sets.json is damaged .'alpha'.; or what lies beside it"):
      with saved_runs.written(self.run_folder / "sets.json"):
        {}["alpha"]


if __name__ == "__main__":
  absltest.main()
