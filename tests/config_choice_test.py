"""Numbers that a sweep over other images has chosen."""

import dataclasses
import json
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import pytest

from jaxcal import config as config_lib
from jaxcal import config_choice
from jaxcal import config_methods
from jaxcal import predictions
from jaxcal import pytrees
from jaxcal.adapt import base
from jaxcal.report import saved_runs
from tests.cli import command

# Whole commands, trainings or towers.
pytestmark = pytest.mark.slow

# Both sweep and evaluation; digits and shapes.
_SMALL = (*command.SMALL, "--config.data.name=shapes",
          "--config.data.limit=12")


@pytrees.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Sharper:
  """A method of one's own."""

  factor: float = 1.0

  def method(self):
    return base.episodic(lambda factor, task, views: base.from_logits(
        factor * base.logits(task, views[0])), self.factor)


class ChoiceTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    scratch = tempfile.TemporaryDirectory()
    cls.addClassCleanup(scratch.cleanup)
    cls.run_folder = pathlib.Path(scratch.name, "grid")
    status, _, error = command.here(
        "sweep", *_SMALL, "--config.data.split=validation",
        "--sweep=method.name=zero_shot,tda,soc",
        "--sweep=method.tda.alpha=0.5,1,8", "--sweep=method.tda.beta=1,5",
        "--sweep=method.soc.weight=1,30", f"--output={cls.run_folder}")
    assert status == 0, error
    cls.rows = [json.loads(line) for line in (
        cls.run_folder / "results.jsonl").read_text().splitlines()]

  def _config(self, **changes):
    config = config_lib.ExperimentConfig()
    config.method.name = ("zero_shot", "tda", "soc")
    config.choice = config_lib.ChoiceConfig(
        sweep=str(self.run_folder), **changes)
    return config

  def _edited(self, edit):
    """A copy of the sweep's folder with other rows."""
    folder = pathlib.Path(self.create_tempdir().full_path)
    for name, text in (("run.json", None), ("results.jsonl", "".join(
        json.dumps(row) + "\n" for row in edit(self.rows)))):
      (folder / name).write_text(
          (self.run_folder / name).read_text() if text is None else text)
    config = self._config()
    config.choice.sweep = str(folder)
    return config

  @parameterized.parameters(
      ("nll", "each"), ("accuracy", "each"), ("ece", "each"),
      ("nll", "all"), ("accuracy", "all"))
  def test_of_each_method_the_best_setting(self, by, scope):
    found = config_choice.chosen(self._config(by=by, scope=scope), "shapes")
    sign = -1 if by == "accuracy" else 1
    for name in ("tda", "soc"):
      of_method = [row for row in self.rows if row["method"] == name and (
          scope == "all" or row["data"] == "shapes")]
      scores = {}
      for row in of_method:
        scores.setdefault(row["setting"], []).append(sign * row[by])
      mean = {setting: sum(values) / len(values)
              for setting, values in scores.items()}
      self.assertLen(mean, {"tda": 6, "soc": 2}[name])
      best = next(row for row in of_method
                  if mean[row["setting"]] == min(mean.values()))
      self.assertAlmostEqual(sign * found[name].score, min(mean.values()))
      self.assertEqual(found[name].num_settings, len(mean))
      for key in ("alpha", "beta", "weight"):
        self.assertEqual(found[name].numbers.get(key), best.get(key), key)
    self.assertEmpty(found["zero_shot"].numbers)

  def test_methods_have_them_where_nothing_is_given(self):
    config = self._config()
    alpha = config_choice.chosen(config, "shapes")["tda"].numbers["alpha"]
    config.method.tda.beta = 2.5
    config.method.soc.effective_weight = 3.0
    found = config_methods.methods_of(config_methods.for_set(config, "shapes"))
    self.assertEqual((found["tda"].alpha, found["tda"].beta), (alpha, 2.5))
    self.assertEqual(found["soc"].effective_weight, 3)
    self.assertIsNone(config.method.tda.alpha)  # nothing is left behind

  def test_they_come_before_what_is_published(self):
    config = self._config()
    config.protocol, config.data.family = "paper", "shift"
    weight = config_choice.chosen(config, "shapes")["soc"].numbers["weight"]
    found = config_methods.for_set(config, "shapes")
    self.assertEqual(config_methods.method_of(found, "soc").weight, weight)
    self.assertRegex(
        config_methods.remarks(config, ["shapes"])["shapes"],
        "chosen by nll on images of the split validation: .*tda the best of 6 "
        "settings, .*alpha .*protocol of the papers")

  def test_of_a_method_of_one_s_own(self):
    config = self._edited(lambda rows: [
        {**row, "method": "mine", "setting": f"mine-{factor}", "nll": nll,
         "factor": factor}
        for row, factor, nll in zip(rows, (0.5, 2.0), (0.3, 0.2))])
    config.methods = {"mine": _Sharper()}
    config.method.name = ("mine",)
    found = config_methods.for_set(config, self.rows[0]["data"])
    self.assertEqual(
        config_methods.method_of(found, "mine"), _Sharper(factor=2.0))

  def test_means_over_seeds(self):
    """The lowest NLL of a single seed is not that of the best mean."""
    config = self._edited(lambda rows: [
        {**rows[0], "data": "shapes", "method": "tda",
         "setting": f"tda-{alpha}", "alpha": alpha, "stream.seed": seed,
         "nll": nll}
        for alpha, values in ((1.0, (0.1, 0.9)), (2.0, (0.3, 0.4)))
        for seed, nll in enumerate(values)])
    found = config_choice.chosen(config, "shapes")["tda"]
    self.assertEqual(found.numbers, {"alpha": 2.0})
    self.assertAlmostEqual(found.score, 0.35)

  def test_settings_that_not_all_sets_have(self):
    config = self._edited(lambda rows: [
        row for row in rows if row["method"] != "tda" or
        row["data"] == "shapes" or row["alpha"] == 8])
    config.choice.scope = "all"
    self.assertEqual(
        config_choice.chosen(config, "anything")["tda"].numbers["alpha"], 8)
    config = self._edited(lambda rows: [
        row for row in rows if row["method"] != "tda" or
        row["data"] == "shapes"])
    config.choice.scope = "all"
    with self.assertRaisesRegex(ValueError, "no setting of tda for all"):
      config_choice.chosen(config, "shapes")

  def test_evaluation_with_them(self):
    output = pathlib.Path(self.create_tempdir().full_path, "run")
    given = ("evaluate", *_SMALL, "--config.method.name=zero_shot,tda",
             f"--config.choice.sweep={self.run_folder}")
    status, printed, error = command.here(*given, f"--output={output}")
    self.assertEqual(status, 0, error)
    for data in ("digits", "shapes"):
      expected = config_choice.chosen(self._config(), data)["tda"].numbers
      saved = predictions.settings(output / "predictions" / data / "tda")
      self.assertEqual(saved["numbers"]["alpha"], expected["alpha"])
      self.assertEqual(saved["identity"]["method.beta"], expected["beta"])
      self.assertRegex(printed, f"{data}: numbers chosen by nll on images of")
    # The sweep by what it holds, wherever it lies.
    self.assertRegex(saved_runs.settings_of(saved_runs.about(output))[
        "config.choice.sweep"], r"^grid \w{16}$")
    # Other numbers are other predictions.
    status, _, error = command.here(
        *given, "--config.method.tda.alpha=9", f"--output={output}")
    self.assertEqual(status, 2)
    self.assertRegex(error, "method.alpha: stored .*, asked 9")

  def test_what_is_refused(self):
    fails = lambda message, *flags: self._fails(message, *flags)
    given = f"--config.choice.sweep={self.run_folder}"
    fails("over 12 of the images of digits that are to be predicted, such as "
          "'digits/validation/.*another split", given,
          "--config.data.split=validation")
    fails("is of another model, with the fingerprint", given,
          "--config.model.name=testbed-stress")
    fails("has no rows of shades, only of digits, shapes; .*scope=all", given,
          "--config.data.name=shades")
    fails("no folder nowhere", "--config.choice.sweep=nowhere")
    fails("is no folder of `jaxcal sweep`",
          f"--config.choice.sweep={self.create_tempdir().full_path}")
    fails("choice.by is 'auc'", "--config.choice.by=auc")
    config = self._edited(lambda rows: [
        {**row, "views.number": 8} for row in rows])
    with self.assertRaisesRegex(ValueError, "goes over views.number, which"):
      config_choice.chosen(config, "shapes")

  def _fails(self, message, *flags):
    output = pathlib.Path(self.create_tempdir().full_path, "run")
    status, _, error = command.here(
        "evaluate", *_SMALL, "--config.method.name=zero_shot,tda", *flags,
        f"--output={output}")
    self.assertEqual(status, 2, error)
    self.assertRegex(error, message)
    self.assertFalse(output.exists())


if __name__ == "__main__":
  absltest.main()
