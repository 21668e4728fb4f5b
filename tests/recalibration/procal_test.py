"""ProCal against stored numbers and loops."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from scipy import special
from scipy import stats

from jaxcal.recalibration import base
from jaxcal.recalibration import probabilities
from jaxcal.recalibration import procal
from tests.recalibration import made


class OracleTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.stored = made.oracle()
    self.on = base.Evidence(
        self.stored["data/val_logits"], self.stored["data/val_labels"],
        image_features=self.stored["data/val_features"])
    self.target = base.Evidence(
        self.stored["data/test_logits"],
        image_features=self.stored["data/test_features"])

  def test_proximity(self):
    known = self.on.image_features
    np.testing.assert_allclose(
        procal.proximities(known, num_neighbours=5),
        self.stored["proximity/val"], rtol=1e-12)
    np.testing.assert_allclose(
        procal.proximities(
            self.target.image_features, known, num_neighbours=5),
        self.stored["proximity/test"], rtol=1e-12)

  def test_density_ratio(self):
    one = procal.ProcalDensityRatio().recalibrator()
    parameters = one.fit(self.on).parameters
    for ours, theirs in (("right", "correct"), ("wrong", "wrong")):
      np.testing.assert_allclose(
          parameters[f"{ours}_bandwidth"], self.stored[f"density/bw_{theirs}"],
          rtol=1e-12)
      points = np.stack([
          probabilities.of_logits(self.target.logits).max(1),
          self.stored["proximity/test"]], 1)
      np.testing.assert_allclose(
          procal.density(points, parameters[ours],
                         parameters[f"{ours}_bandwidth"]),
          self.stored[f"density/pdf_{theirs}"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        parameters["wrong_to_right"], self.stored["density/wrong_to_correct"])
    np.testing.assert_allclose(
        special.softmax(one.apply(parameters, self.target), 1),
        self.stored["density/test_probs"], rtol=1e-9, atol=1e-12)

  def test_isotonic_per_bin(self):
    one = procal.ProcalIsotonic().recalibrator()
    parameters = one.fit(self.on).parameters
    np.testing.assert_allclose(
        parameters["edges"], self.stored["bms_multi_iso/proximity_edges"][1:-1],
        rtol=1e-12)
    expected = self.stored["bms_multi_iso/test_probs"]
    rest = {name: value for name, value in parameters.items()
            if name != "image_features"}
    np.testing.assert_allclose(
        procal.mapped(self.target, self.stored["proximity/test"], **rest),
        expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        special.softmax(one.apply(parameters, self.target), 1),
        expected / expected.sum(1, keepdims=True), rtol=1e-9, atol=1e-12)


class DensityTest(absltest.TestCase):

  def test_products_of_normal_densities(self):
    rng = np.random.default_rng(0)
    of, points, width = rng.random((7, 2)), rng.random((5, 2)), [0.2, 0.5]
    self.enter_context(absltest.mock.patch.object(procal, "_BLOCK", 14))
    found = procal.density(points, of, np.asarray(width))
    expected = [np.mean([
        np.prod(stats.norm.pdf(point, center, width)) for center in of])
                for point in points]
    np.testing.assert_allclose(found, expected, rtol=1e-12)

  def test_where_both_densities_are_zero_the_confidence_stays(self):
    points = np.array([[0.9, 0.8], [0.8, 0.7]])
    found = procal.posterior(
        np.array([0.1, 0.9]), np.array([0.1, 0.8]), points, points,
        np.full(2, 1e-3), np.full(2, 1e-3), 3.)
    np.testing.assert_allclose(found, [0.1, 1 / 4], rtol=1e-12)

  def test_none_wrong_or_all_alike_is_left_alone(self):
    on = made.evidence(0, 40)
    one = procal.ProcalDensityRatio().recalibrator()
    for logits, labels in (
        (on.logits, on.logits.argmax(1)),
        (np.tile([[1., 0, 0, 0]], (40, 1)), np.arange(40) % 2)):
      fit = one.fit(on._replace(logits=logits, labels=labels))
      self.assertEqual(fit.parameters, {})
      self.assertIn("a density takes two of each that differ", fit.notes[0])
      self.assertIs(one.apply({}, on), on.logits)


class MeanShiftTest(parameterized.TestCase):

  @parameterized.parameters(1., 0.5)
  def test_a_loop(self, strength):
    on, target = made.evidence(0, 400), made.evidence(1, 60)
    one = procal.ProcalBinMeanShift(
        num_proximity_bins=3, num_confidence_bins=4,
        strength=strength).recalibrator()
    fit = one.fit(on)
    found = probabilities.of_logits(one.apply(fit.parameters, target))
    near = procal.proximities(on.image_features, num_neighbours=5)
    edges = np.quantile(near, [1 / 3, 2 / 3])
    cell = lambda near, confidence: (
        (near[:, None] >= edges).sum(1) * 10 + np.ceil(4 * confidence))
    own = probabilities.of_logits(on.logits).max(1)
    right = on.logits.argmax(1) == on.labels
    confidence = probabilities.of_logits(target.logits).max(1)
    asked = cell(procal.proximities(
        target.image_features, on.image_features, num_neighbours=5), confidence)
    seen = cell(near, own)
    for row in range(60):
      same = seen == asked[row]
      shift = right[same].mean() - own[same].mean() if same.any() else 0
      expected = np.clip(confidence[row] + strength * shift, 1 / 4, 1)
      np.testing.assert_allclose(
          found[row, target.logits[row].argmax()], expected, rtol=1e-9)
    self.assertRegex(fit.notes[0], "of 12 cells of proximity and confidence")

  @parameterized.parameters(0., 1.5, np.nan)
  def test_refuses(self, strength):
    one = procal.ProcalBinMeanShift(strength=strength).recalibrator()
    with self.assertRaisesRegex(ValueError, r"strength in \(0, 1\], got"):
      one.fit(made.evidence(0, 40))


class IsotonicPerBinTest(absltest.TestCase):

  def test_bins_without_images_change_nothing(self):
    on, target = made.evidence(0, 40), made.evidence(1, 5)
    # Half of the proximities are alike: all in the uppermost bin.
    near = np.repeat([0.2, 0.4], [10, 30])
    fit = procal.fit_maps(on, near, 4)
    np.testing.assert_allclose(fit.parameters["edges"], [0.35, 0.4, 0.4])
    self.assertStartsWith(fit.notes[0], "2 of 4 bins of proximity have no im")
    np.testing.assert_allclose(
        procal.mapped(target, np.full(5, 0.37), **fit.parameters),
        special.softmax(target.logits, 1), rtol=1e-12)
    changed = procal.mapped(target, np.full(5, 0.4), **fit.parameters)
    self.assertGreater(
        np.abs(changed - special.softmax(target.logits, 1)).max(), 0.05)


if __name__ == "__main__":
  absltest.main()
