"""Histogram binning against a stored oracle and a loop."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from jaxcal.recalibration import base
from jaxcal.recalibration import binned
from jaxcal.recalibration import probabilities
from tests.recalibration import made


class OracleTest(absltest.TestCase):

  def test_stored_numbers(self):
    stored = made.oracle()
    fit = binned.fit(base.Evidence(
        stored["data/val_logits"], stored["data/val_labels"]), 10)
    frequencies = fit.parameters["frequencies"]
    np.testing.assert_allclose(frequencies, stored["hist/bin_maps"], rtol=1e-12)
    probs = probabilities.of_logits(stored["data/test_logits"])
    np.testing.assert_allclose(
        binned.unnormalised(probs, frequencies),
        stored["hist/test_probs_unnormalised"], rtol=1e-12)
    np.testing.assert_allclose(
        binned.apply(probs, **fit.parameters), stored["hist/test_probs"],
        rtol=1e-12)
    self.assertLen(fit.notes, 1)
    self.assertStartsWith(fit.notes[0], "7 of 110 bins have no image; ")

  @pytest.mark.needs("netcal")
  def test_netcal(self):
    from netcal import binning as netcal
    on, target = made.evidence(0), made.evidence(1)
    fit = binned.fit(on, 10)
    theirs = netcal.HistogramBinning(bins=10)
    theirs.fit(probabilities.of_logits(on.logits), on.labels)
    probs = probabilities.of_logits(target.logits)
    np.testing.assert_allclose(
        binned.apply(probs, **fit.parameters), theirs.transform(probs),
        rtol=1e-9)


class BinsTest(parameterized.TestCase):

  @parameterized.parameters(1, 4, 10)
  def test_a_loop(self, number):
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.random(60), np.arange(number + 1) / number])
    hits = rng.random(len(values)) < 0.4
    found, counts = binned.frequencies(
        values, hits, binned.equal_width(number))
    for index in range(number):
      low, high = index / number, (index + 1) / number
      inside = (values > low) & (values <= high)
      if index == 0:
        inside |= values == 0
      self.assertEqual(counts[index], inside.sum())
      np.testing.assert_allclose(found[index], hits[inside].mean())
    self.assertEqual(counts.sum(), len(values))

  def test_an_empty_bin_has_its_middle(self):
    found, counts = binned.frequencies(
        np.array([0.1, 0.9]), np.array([True, False]), binned.equal_width(3))
    np.testing.assert_allclose(found, [1, 0.5, 0])
    np.testing.assert_array_equal(counts, [1, 0, 1])

  def test_equal_mass(self):
    values = np.random.default_rng(0).random(100) ** 3
    edges = binned.equal_mass(values, 5)
    _, counts = binned.frequencies(values, values > 0, edges)
    np.testing.assert_array_equal(counts, [20] * 5)
    self.assertEqual((edges[0], edges[-1]), (0, 1))
    # Values that are alike are not torn apart.
    edges = binned.equal_mass(np.repeat([0.2, 0.7], [90, 10]), 5)
    self.assertLess(len(edges), 6)
    _, counts = binned.frequencies(
        np.repeat([0.2, 0.7], [90, 10]), np.ones(100, bool), edges)
    self.assertIn(90, counts)
    np.testing.assert_array_equal(binned.equal_mass(np.ones(3), 4), [0, 1])

  def test_refuses(self):
    for number in (0, -1):
      with self.assertRaisesRegex(ValueError, "at least one bin, got"):
        binned.HistogramPerClass(number).recalibrator().fit(made.evidence(0))


class PerClassTest(absltest.TestCase):

  def test_a_loop(self):
    on, target = made.evidence(0), made.evidence(1, 50)
    fit = binned.fit(on, 5)
    probs, own = (probabilities.of_logits(one.logits) for one in (target, on))
    found = binned.apply(probs, **fit.parameters)
    expected = np.zeros_like(found)
    for row, label in np.ndindex(*expected.shape):
      same = np.ceil(5 * own[:, label]) == np.ceil(5 * probs[row, label])
      expected[row, label] = (
          (on.labels[same] == label).mean() if same.any() else
          (np.ceil(5 * probs[row, label]) - 0.5) / 5)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-12)

  def test_rows_of_zeros_keep_their_probabilities(self):
    probs = np.array([[0.1, 0.9], [0.6, 0.4]])
    found = binned.apply(
        probs, np.array([[0., 0.5], [0.25, 0.]]), np.array([True, True]))
    np.testing.assert_allclose(found, [[0.1, 0.9], [2 / 3, 1 / 3]])

  def test_classes_without_images_keep_their_probabilities(self):
    on = made.evidence(0)
    fit = binned.fit(on._replace(labels=np.minimum(on.labels, 2)), 10)
    self.assertStartsWith(fit.notes[0], "1 of 4 classes have no image among")
    np.testing.assert_array_equal(fit.parameters["seen"], [1, 1, 1, 0])
    probs = probabilities.of_logits(on.logits)
    found = binned.apply(probs, **fit.parameters)
    total = binned.unnormalised(
        probs, fit.parameters["frequencies"])[:, :3].sum(1) + probs[:, 3]
    np.testing.assert_allclose(found[:, 3], probs[:, 3] / total)


if __name__ == "__main__":
  absltest.main()
