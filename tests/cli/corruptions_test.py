"""Corrupted images through the commands, and values that mean none."""

import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from jaxcal import predictions
from tests.cli import command

_SMALL = ("--config.data.name=digits", "--config.data.limit=6",
          "--config.views.number=2", "--config.method.selection_fraction=0.5",
          "--config.metrics.num_resamples=20", "--config.method.name=zero_shot")
_NOISE = ("--config.data.corruption=gaussian_noise", "--config.data.severity=5")


class CorruptionsTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)

  def _run(self, output, *arguments, name="evaluate"):
    return command.here(
        name, *_SMALL, f"--output={self.root / output}", *arguments)

  def _logits(self, output, setting="predictions/digits"):
    return predictions.load(self.root / output / setting / "zero_shot").logits

  @pytest.mark.slow
  def test_images_are_corrupted_and_the_run_says_so(self):
    for output, arguments in (
        ("clean", ()), ("noisy", _NOISE), ("again", _NOISE),
        ("other", (*_NOISE, "--config.data.corruption_seed=1")),
        ("mild", (_NOISE[0], "--config.data.severity=1"))):
      self.assertEqual(self._run(output, *arguments)[0], 0)
    noisy = self._logits("noisy")
    np.testing.assert_array_equal(self._logits("again"), noisy)
    for output in ("clean", "other", "mild"):
      self.assertGreater(np.abs(self._logits(output) - noisy).max(), 1e-3)
    told = json.loads((self.root / "noisy/run.json").read_text("utf-8"))
    self.assertEqual(told["config.data.corruption"], "gaussian_noise")
    self.assertEqual(told["config.data.severity"], 5)
    row, = map(json.loads, (self.root / "noisy/results.jsonl").read_text(
        "utf-8").splitlines())
    self.assertEqual(
        (row["corruption"], row["severity"]), ("gaussian_noise", 5))

  @pytest.mark.slow
  def test_a_run_does_not_go_on_with_other_corruptions(self):
    self.assertEqual(self._run("out", *_NOISE)[0], 0)
    for changed in ("--config.data.severity=2", "--config.data.corruption=fog",
                    "--config.data.corruption_seed=4"):
      status, _, error = self._run("out", *_NOISE, changed)
      self.assertEqual(status, 2)
      self.assertIn(f"{changed[9:].partition('=')[0]}: stored", error)

  @parameterized.parameters(
      (("--config.data.corruption=fog",), "severity.* is None; give both"),
      (("--config.data.severity=3",), "corruption.* is None"),
      ((*_NOISE[:1], "--config.data.severity=6"), "expected from 1 to 5"),
      (("--config.data.corruption=fogg", _NOISE[1]), "fog"),
      (("--config.data.corruption=frost", _NOISE[1]), "frost_pictures"))
  def test_what_is_no_corruption(self, arguments, message):
    status, _, error = self._run("out", *arguments)
    self.assertEqual(status, 2)
    self.assertRegex(error, message)
    self.assertFalse((self.root / "out").exists())

  def test_a_sweep_over_severities(self):
    status, _, error = self._run(
        "sweep", _NOISE[0], "--sweep=data.severity=1,5", name="sweep")
    self.assertEqual(status, 0, error)
    rows = list(map(json.loads, (self.root / "sweep/results.jsonl").read_text(
        "utf-8").splitlines()))
    self.assertEqual([row["data.severity"] for row in rows], [1, 5])


if __name__ == "__main__":
  absltest.main()
