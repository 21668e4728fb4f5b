"""Every recalibrator behind every test-time method, as the command has them."""

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
    output = pathlib.Path(self.create_tempdir().full_path, "recalibrated")
    fitted = () if name in _UNLABELLED else ("--on=validation",)
    status, _, error = command.here(
        "recalibrate", str(self.output), f"--recalibrator={name}", *fitted,
        f"--output={output}")
    self.assertEqual(status, 0, error)
    rows = [json.loads(line) for line in
            (output / "results.jsonl").read_text().splitlines()]
    found = [row["method"] for row in rows if row.get("recalibrator") == name]
    if name in _OF_PROMPTS:
      self.assertContainsSubset(("zero_shot", "tpt", "soc"), found)
      self.assertNotIn("tda", found)
    else:
      self.assertEqual(found, list(methods.METHODS))
    for method in found:
      one = predictions.load(
          output / "predictions" / "digits" / f"{method}+{name}")
      total = np.exp(np.float64(one.logits)).sum(-1)
      self.assertTrue((np.isfinite(total) & (total > 0)).all(), method)

  def test_of_tuned_parameters_alone(self):
    status, _, error = command.here(
        "recalibrate", str(self.output), "--recalibrator=dac",
        "--share=0.5")
    self.assertEqual(status, 2)
    self.assertIn("dac needs", error)


if __name__ == "__main__":
  absltest.main()
