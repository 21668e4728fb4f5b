"""Every recalibrator behind every test-time method of a run."""

import json
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from jaxcal import predictions
from jaxcal.adapt import methods
from jaxcal.recalibration import calibrators
from jaxcal.recalibration import predicted
from tests.cli import command

_EVIDENCE = ("image_features", "zero_shot_text_features", "zero_shot_logits",
             "mean_cosine", "view_logits", "zero_shot_view_logits")
# Needs what few-shot tuning alone has.
_OF_TUNED = ("dac",)
# Look at what tuning a prompt does to the logits of single views.
_OF_PROMPTS = ("cots", "e_cots")
_UNLABELLED = ("sals", "cots", "e_cots")


@pytest.mark.slow
class CompositionTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    scratch = tempfile.TemporaryDirectory()
    cls.addClassCleanup(scratch.cleanup)
    cls.output = pathlib.Path(scratch.name, "run")
    status, _, error = command.here(
        "evaluate", "--config=configs/quickstart.py",
        "--config.data.name=digits", "--config.data.limit=30",
        "--config.views.number=24", "--config.method.selection_fraction=0.25",
        f"--config.method.name={','.join(methods.METHODS)}",
        "--config.temperature.split=validation",
        "--config.temperature.limit=30",
        f"--config.evidence={','.join(_EVIDENCE)}",
        "--config.metrics.num_resamples=20", f"--output={cls.output}")
    assert status == 0, error

  @parameterized.parameters(
      *(name for name in calibrators.RECALIBRATORS if name not in _OF_TUNED))
  def test_of_all_methods(self, name):
    folder = self.output / "predictions" / "digits"
    calibrator, found = calibrators.calibrator(name), []
    for method in methods.METHODS:
      one, other = (predictions.load(folder / where / method)
                    for where in ("", "validation"))
      if name in _OF_PROMPTS and "view_logits" not in one.evidence:
        with self.assertRaisesRegex(ValueError, "view_logits"):
          predicted.recalibrate_quietly(one, None, calibrator)
        continue
      on = None if name in _UNLABELLED else other
      logits = predicted.recalibrate_quietly(one, on, calibrator).logits
      total = np.exp(np.float64(logits)).sum(-1)
      self.assertTrue((np.isfinite(total) & (total > 0)).all(), method)
      found.append(method)
    if name in _OF_PROMPTS:
      self.assertContainsSubset(("zero_shot", "tpt", "soc"), found)
      self.assertNotIn("tda", found)
    else:
      self.assertEqual(found, list(methods.METHODS))

  def test_by_the_command(self):
    output = pathlib.Path(self.create_tempdir().full_path, "recalibrated")
    status, _, error = command.here(
        "recalibrate", str(self.output), "--recalibrator=temperature",
        "--on=validation", f"--output={output}")
    self.assertEqual(status, 0, error)
    rows = [json.loads(line) for line in
            (output / "results.jsonl").read_text().splitlines()]
    self.assertEqual([row["method"] for row in rows if row.get("recalibrator")],
                     list(methods.METHODS))

  def test_of_tuned_parameters_alone(self):
    status, _, error = command.here(
        "recalibrate", str(self.output), "--recalibrator=dac",
        "--share=0.5")
    self.assertEqual(status, 2)
    self.assertIn("dac needs", error)


if __name__ == "__main__":
  absltest.main()
