"""Top-label calibrators: the mapped confidence, against loops."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from sklearn import isotonic as sklearn_isotonic

from jaxcal.metrics import calibration
from jaxcal.recalibration import base
from jaxcal.recalibration import probabilities
from jaxcal.recalibration import top_label
from tests.recalibration import made


def _apply(calibrator, on, target):
  one = calibrator.recalibrator()
  fit = one.fit(on)
  found = one.apply(fit.parameters, target)
  return probabilities.of_logits(found), fit


class TopLabelTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.on, self.target = made.evidence(0, 500), made.evidence(1, 200)
    self.predicted, self.confidence = (
        self.target.logits.argmax(1),
        probabilities.of_logits(self.target.logits).max(1))
    self.right = self.on.logits.argmax(1) == self.on.labels
    self.own = probabilities.of_logits(self.on.logits).max(1)

  def _of_predicted(self, probs):
    return probs[np.arange(len(probs)), self.predicted]

  def test_histogram(self):
    found, fit = _apply(top_label.TopLabelHistogram(8), self.on, self.target)
    bin_of = lambda confidence: np.ceil(8 * confidence)
    expected = np.array([
        self.right[bin_of(self.own) == bin_of(value)].mean()
        for value in self.confidence])
    np.testing.assert_allclose(
        self._of_predicted(found), np.maximum(expected, 1 / 4), rtol=1e-12)
    # Below the confidence of chance there is nothing, and so no image.
    self.assertRegex(fit.notes[0], "^[1-4] of 8 bins have no image")

  def test_on_its_own_images_a_histogram_has_no_error(self):
    found, _ = _apply(top_label.TopLabelHistogram(10), self.on, self.on)
    error = lambda confidence: float(calibration.expected_calibration_error(
        confidence, self.right, num_bins=10))
    self.assertGreater(error(self.own), 0.05)
    # But for bins with an accuracy below that of chance.
    self.assertLess(error(found.max(1)), 2e-3)

  def test_isotonic(self):
    found, fit = _apply(top_label.TopLabelIsotonic(), self.on, self.target)
    theirs = sklearn_isotonic.IsotonicRegression(out_of_bounds="clip")
    theirs.fit(self.own, self.right)
    np.testing.assert_allclose(
        self._of_predicted(found),
        np.maximum(theirs.predict(self.confidence), 1 / 4), rtol=1e-9)
    self.assertEqual(fit.notes, ())

  def test_isotonic_where_confidence_tells_nothing(self):
    labels = self.on.logits.argmax(1)
    fit = top_label.fit_isotonic(self.on._replace(labels=labels))
    self.assertRegex(fit.notes[0], "500 predictions does not tell.*become 1;")

  @parameterized.parameters(1, 4)
  def test_histogram_per_class(self, number):
    found, fit = _apply(
        top_label.TopLabelPerClass(number), self.on, self.target)
    self.assertEqual(fit.notes, ())
    own_predicted = self.on.logits.argmax(1)
    for row in range(len(found)):
      same = own_predicted == self.predicted[row]
      inner = np.quantile(self.own[same], np.arange(1, number) / number)
      index = lambda x, inner=inner: (x[:, None] > inner).sum(1)
      here = index(self.own[same]) == index(self.confidence[row:row + 1])
      expected = self.right[same][here].mean()
      np.testing.assert_allclose(
          found[row, self.predicted[row]], max(expected, 1 / 4), rtol=1e-12)

  def test_classes_that_are_never_predicted_keep_their_confidence(self):
    logits = np.array(self.on.logits)
    logits[:, 2] = -50
    found, fit = _apply(
        top_label.TopLabelPerClass(3),
        base.Evidence(logits, np.minimum(self.on.labels, 1)), self.target)
    self.assertStartsWith(fit.notes[0], "1 of 4 classes are predicted for none")
    theirs = self.predicted == 2
    np.testing.assert_allclose(
        self._of_predicted(found)[theirs], self.confidence[theirs], rtol=1e-9)
    self.assertGreater(np.abs(
        self._of_predicted(found) - self.confidence)[~theirs].max(), 0.05)

  def test_few_images_in_a_bin(self):
    fit = top_label.fit_histograms(made.evidence(0, 30), 10)
    self.assertRegex(fit.notes[-1], "bins have fewer than 5 images")


if __name__ == "__main__":
  absltest.main()
