"""DAC against stored numbers and a loop."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from scipy import special

from jaxcal.recalibration import base
from jaxcal.recalibration import dac
from jaxcal.recalibration import predicted
from jaxcal.recalibration import temperature
from tests.recalibration import made


def _text(stored, group):
  return (stored[f"data/text_{group}_tuned"], stored[f"data/text_{group}_zs"],
          stored["data/text_base_tuned"], stored["data/text_base_zs"])


class OracleTest(parameterized.TestCase):

  @parameterized.product(group=("base", "new"), number=(1, 3, 5))
  def test_factors(self, group, number):
    stored = made.oracle()
    np.testing.assert_allclose(
        dac.factors(*_text(stored, group), num_neighbours=number),
        stored[f"dac/gamma_{group}_k{number}"], rtol=1e-12)

  def test_logits_and_after_a_temperature(self):
    stored = made.oracle()
    names = ("text_features", "zero_shot_text_features", "base_text_features",
             "base_zero_shot_text_features")
    target = base.Evidence(
        stored["data/new_logits"], **dict(zip(names, _text(stored, "new"))))
    found = predicted.recalibrate(target, recalibrator=dac.Dac())
    np.testing.assert_allclose(found, stored["dac/new_logits"], rtol=1e-12)
    np.testing.assert_allclose(
        special.softmax(found, 1), stored["dac/new_probs"], rtol=1e-9)
    scaled = predicted.recalibrate(
        target, base.Evidence(
            stored["data/val_logits"], stored["data/val_labels"]),
        temperature.Temperature(same_classes=False))
    found = predicted.recalibrate(
        target._replace(logits=scaled), recalibrator=dac.Dac())
    np.testing.assert_allclose(
        special.softmax(found, 1), stored["dac/ts_new_probs"], rtol=1e-8)


class FactorsTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    one = made.evidence(0)
    self.tuned, self.before, self.base, self.base_before = (
        one.text_features, one.zero_shot_text_features, one.base_text_features,
        one.base_zero_shot_text_features)

  def test_a_loop(self):
    found = dac.factors(self.tuned, self.before, self.base, self.base_before)
    for i, factor in enumerate(found):
      distances = [
          sorted(np.linalg.norm(others - features[i], axis=1))[:5]
          for features, others in ((self.tuned, self.base),
                                   (self.before, self.base_before))]
      np.testing.assert_allclose(
          factor, np.exp(np.mean(distances[1]) - np.mean(distances[0])))
    self.assertGreater(np.abs(found - 1).min(), 1e-4)

  def test_base_classes_and_an_untuned_model_stay(self):
    np.testing.assert_array_equal(
        dac.factors(self.base, self.base_before, self.base, self.base_before),
        1)
    np.testing.assert_array_equal(
        dac.factors(self.before, self.before, self.base_before,
                    self.base_before), 1)

  def test_fewer_base_classes_than_neighbours(self):
    """The sum is divided by the number asked for, as in the released code."""
    found = dac.factors(
        self.tuned, self.before, self.base[:2], self.base_before[:2],
        num_neighbours=5)
    whole = dac.factors(
        self.tuned, self.before, self.base[:2], self.base_before[:2],
        num_neighbours=2)
    np.testing.assert_allclose(np.log(found), np.log(whole) * 2 / 5)

  def test_refuses(self):
    with self.assertRaisesRegex(ValueError, "at least one neighbour, got 0"):
      dac.factors(self.tuned, self.before, self.base, self.base_before,
                  num_neighbours=0)


if __name__ == "__main__":
  absltest.main()
