"""Isotonic maps: stored oracles, scikit-learn, the min-max formula."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest
from sklearn import isotonic as sklearn_isotonic

from jaxcal.recalibration import base
from jaxcal.recalibration import isotonic
from jaxcal.recalibration import probabilities
from tests.recalibration import made


class OracleTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.stored = made.oracle()
    self.on = base.Evidence(
        self.stored["data/val_logits"], self.stored["data/val_labels"])
    self.logits = self.stored["data/test_logits"]

  def test_per_class(self):
    fit = isotonic.fit_per_class(self.on)
    self.assertEqual(fit.notes, ())
    probs = probabilities.of_logits(self.logits)
    np.testing.assert_allclose(
        isotonic.unnormalised(probs, **fit.parameters),
        self.stored["iso/test_probs_unnormalised"], rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(
        isotonic.apply_per_class(probs, **fit.parameters),
        self.stored["iso/test_probs"], rtol=1e-10, atol=1e-15)

  def test_multi(self):
    fit = isotonic.fit_multi(self.on)
    np.testing.assert_allclose(
        isotonic.apply_multi(self.logits, **fit.parameters),
        self.stored["multi_iso/test_probs"], rtol=1e-9, atol=1e-12)
    # The calibrator divides rows by their sum.
    one = isotonic.MultiIsotonic().recalibrator()
    found = one.apply(fit.parameters, base.Evidence(self.logits))
    expected = self.stored["multi_iso/test_probs"]
    np.testing.assert_allclose(
        probabilities.of_logits(found),
        expected / expected.sum(axis=1, keepdims=True), rtol=1e-9, atol=1e-12)


class NetcalTest(absltest.TestCase):

  @pytest.mark.needs("netcal")
  def test_per_class(self):
    from netcal import binning as netcal
    on, target = made.evidence(0), made.evidence(1)
    fit = isotonic.fit_per_class(on)
    theirs = netcal.IsotonicRegression()
    theirs.fit(probabilities.of_logits(on.logits), on.labels)
    probs = probabilities.of_logits(target.logits)
    np.testing.assert_allclose(
        isotonic.apply_per_class(probs, **fit.parameters),
        theirs.transform(probs), rtol=1e-6, atol=1e-9)


class MapTest(parameterized.TestCase):

  @parameterized.parameters(range(5))
  def test_scikit_learn(self, seed):
    rng = np.random.default_rng(seed)
    values = np.round(rng.random(200), 2)  # with ties
    hits = rng.random(200) < values ** 2
    theirs = sklearn_isotonic.IsotonicRegression(out_of_bounds="clip")
    theirs.fit(values, hits)
    known, shares = isotonic.fit_map(values, hits)
    asked = np.linspace(0, 1, 500)
    np.testing.assert_allclose(
        np.interp(asked, known, shares), theirs.predict(asked), rtol=1e-9,
        atol=1e-12)

  @parameterized.parameters(range(5))
  def test_min_max_formula(self, seed):
    rng = np.random.default_rng(seed)
    values, hits = np.arange(15) / 15, rng.random(15) < 0.5
    expected = [max(min(hits[a:b].mean() for b in range(i + 1, 16))
                    for a in range(i + 1)) for i in range(15)]
    known, shares = isotonic.fit_map(values, hits)
    np.testing.assert_allclose(
        np.interp(values, known, shares), expected, atol=1e-12)

  def test_one_value(self):
    known, shares = isotonic.fit_map(np.full(4, 0.3), np.arange(4) < 1)
    np.testing.assert_array_equal(known, [0.3])
    np.testing.assert_array_equal(np.interp([0, 1], known, shares), 0.25)

  def test_flat_parts_have_two_knots(self):
    values = np.arange(1000) / 1000
    known, shares = isotonic.fit_map(values, values > 0.5)
    np.testing.assert_array_equal(known, [0, 0.5, 0.501, 0.999])
    np.testing.assert_array_equal(shares, [0, 0, 1, 1])


class CalibratorTest(absltest.TestCase):

  def test_classes_without_images_keep_their_probabilities(self):
    on = made.evidence(0)
    fit = isotonic.fit_per_class(on._replace(labels=np.minimum(on.labels, 2)))
    self.assertStartsWith(fit.notes[0], "1 of 4 classes have no image among")
    probs = probabilities.of_logits(on.logits)
    found = isotonic.unnormalised(probs, **fit.parameters)
    np.testing.assert_array_equal(found[:, 3], probs[:, 3])
    self.assertGreater(np.abs(found - probs)[:, :3].max(), 0.1)

  def test_rows_of_zeros_keep_their_probabilities(self):
    probs = np.array([[0.1, 0.9], [0.8, 0.2]])
    found = isotonic.apply_per_class(
        probs, np.array([0.5, 0.6, 0., 1.]), np.array([0., 1., 0., 0.]),
        np.array([0, 2, 4]))
    np.testing.assert_allclose(found, [[0.1, 0.9], [1, 0]])

  def test_fewer_images_than_classes(self):
    on = made.evidence(0, 3)
    self.assertStartsWith(
        isotonic.fit_multi(on).notes[0], "it was fitted to 3 images, fewer")

  def test_a_flat_map_keeps_the_order(self):
    logits = np.random.default_rng(0).normal(size=(50, 6))
    found = isotonic.apply_multi(logits, np.array([0.5]), np.array([0.3]))
    np.testing.assert_array_equal(found.argsort(1), logits.argsort(1))
    np.testing.assert_allclose(found, 0.3, atol=1e-8)


if __name__ == "__main__":
  absltest.main()
