"""Tests of jaxcal.report.saved_runs: what run.json says of images."""

import json

from absl.testing import absltest

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


if __name__ == "__main__":
  absltest.main()
