"""Calibrators one after the other: the same numbers as one by one by hand."""

import dataclasses
import json
import warnings

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from jaxcal import predictions
from jaxcal import stages
from jaxcal.recalibration import base
from jaxcal.recalibration import calibrators
from jaxcal.recalibration import chain
from jaxcal.recalibration import predicted
from jaxcal.recalibration import sals
from jaxcal.recalibration import temperature
from tests.recalibration import made


def _quietly(*arguments):
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", base.FitWarning)
    return predicted.recalibrate(*arguments)


def _by_hand(names, target, on):
  """Each one fitted to, and applied to, what those before it gave."""
  for name in names:
    one = calibrators.calibrator(name)
    logits = [_quietly(of, on, one) for of in (target, on)]
    target, on = (of._replace(logits=after)
                  for of, after in zip((target, on), logits))
  return target.logits


@dataclasses.dataclass(frozen=True)
class _Of:
  """A calibrator from its functions."""

  one: base.Recalibrator

  def recalibrator(self):
    return self.one


class ChainTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.on, self.target = made.evidence(1), made.evidence(2, n=120)

  @parameterized.parameters(
      "temperature,dac", "dac,temperature", "sals,vector",
      "temperature,top_label_isotonic", "vector,procal_isotonic",
      "cots,temperature,multi_isotonic", "dac,sals",
      "temperature,temperature", "top_label_per_class,matrix")
  def test_equals_doing_all_by_hand(self, names):
    both = calibrators.calibrator(names)
    self.assertIsInstance(both, chain.Chain)
    found = _quietly(self.target, self.on, both)
    expected = _by_hand(names.split(","), self.target, self.on)
    np.testing.assert_array_equal(found, expected)
    self.assertGreater(np.abs(np.asarray(found) - self.target.logits).max(),
                       1e-3)

  def test_the_order_matters_and_a_chain_of_one_is_the_one(self):
    one, other = (_quietly(self.target, self.on, calibrators.calibrator(names))
                  for names in ("vector,sals", "sals,vector"))
    self.assertGreater(np.abs(one - other).max(), 0.01)
    alone = temperature.Temperature()
    np.testing.assert_array_equal(
        _quietly(self.target, self.on, chain.Chain((alone,))),
        _quietly(self.target, self.on, alone))

  def test_what_it_says_of_itself(self):
    of = lambda names: calibrators.calibrator(names).recalibrator()
    one = of("temperature,procal_density_ratio,sals")
    self.assertEqual(one.name, "temperature+procal_density_ratio+sals")
    self.assertEqual(one.needs, ("image_features", "zero_shot_logits"))
    self.assertFalse(one.keeps_prediction)
    self.assertTrue(one.needs_labels)
    self.assertTrue(of("sals,multi_isotonic,temperature").keeps_prediction)
    self.assertFalse(of("sals,multi_isotonic").same_classes)
    self.assertTrue(of("multi_isotonic,temperature").same_classes)
    # Without labels only where none of it needs them.
    self.assertIsNone(of("dac,sals").fit)
    found = _quietly(self.target, None, calibrators.calibrator("dac,sals"))
    self.assertEqual(found.shape, self.target.logits.shape)
    with self.assertRaisesRegex(ValueError, "sals.temperature is fitted to"):
      predicted.recalibrate(
          self.target, None, calibrators.calibrator("sals,temperature"))
    with self.assertRaisesRegex(ValueError, "unknown recalibrator ''"):
      calibrators.calibrator("temperature,")

  def test_of_predictions(self):
    of = lambda seed, evidence: predictions.Predictions(
        np.asarray(evidence.logits, np.float32),
        evidence.labels.astype(np.int32),
        tuple(f"{seed}/{row}" for row in range(len(evidence.labels))),
        tuple("abcd"), settings={
            "data": "pets", **stages.setting(stages.Stages("tpt"))})
    on, target = of(1, self.on), of(2, self.target)
    both = calibrators.calibrator("temperature,temperature,vector")
    found = _quietly(target, on, both)
    expected = _by_hand(
        ("temperature", "temperature", "vector"),
        *(base.Evidence(one.logits, one.labels) for one in (target, on)))
    np.testing.assert_array_equal(
        found.logits, np.asarray(expected, np.float32))
    name = "temperature+temperature+vector"
    self.assertEqual(found.settings["method"], f"tpt+{name}")
    self.assertEqual(stages.of(found.settings["stages"]),
                     stages.Stages("tpt", recalibrator=name))
    about = found.settings["recalibration"]
    self.assertEqual((about["num_images"], about["fitted_on"]), (300, "pets"))
    self.assertEqual(list(about["parameters"]), [
        "temperature.temperature", "temperature-2.temperature",
        "vector.scale", "vector.shift"])
    # The second has nothing left to do.
    first, second = list(about["parameters"].values())[:2]
    self.assertGreater(first, 1.2)
    self.assertAlmostEqual(second, 1, 4)
    json.dumps(about)

  def test_notes_and_broken_promises_name_their_calibrator(self):
    with self.assertWarnsRegex(
        base.FitWarning, r"temperature\+vector: vector: "):
      predicted.recalibrate(
          self.target, self.on._replace(
              labels=np.minimum(self.on.labels, 2)),
          calibrators.calibrator("temperature,vector"))
    broken = _Of(base.Recalibrator(
        "broken", apply=lambda _, evidence: -evidence.logits))
    with self.assertRaisesRegex(ValueError, "broken says that it keeps"):
      predicted.recalibrate(
          self.target, None, chain.Chain((broken, sals.Sals())))


if __name__ == "__main__":
  absltest.main()
