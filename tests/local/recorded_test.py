"""Recorded confidences of image networks, beside what others make of them."""

import json

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
from scipy import optimize
from scipy import special
from sklearn import metrics as sklearn_metrics

from jaxcal.metrics import binning
from jaxcal.metrics import calibration
from jaxcal.metrics import selective
from jaxcal.recalibration import temperature
from jaxcal.report import foreign
from jaxcal.report import summary
from tests import shared
from tests.metrics import measured
from tests.report import drawn

_FOLDER = shared.path("data/recorded_confidences")
_CIFAR = ("lenet-5-cifar-10", "wideresnet-16-4-cifar-10",
          "densenet-bc-100-cifar-100")
_IMAGENET = _FOLDER / "resnext101_32x8d.csv"
_EXPECTED = json.loads(shared.path("data/expected_metrics.json").read_text())


def _cifar(name):
  with np.load(_FOLDER / f"{name}.npz") as recorded:
    return recorded["predictions"], recorded["ground_truth"].ravel()


def _imagenet():
  """Confidences, and whether each is right."""
  rows = np.genfromtxt(_IMAGENET, delimiter=",", names=True)
  return rows["confidence"], rows["true_label"] == rows["pred_label"]


class MetricsTest(parameterized.TestCase):
  """Against netcal, torchmetrics, scikit-learn and the authors' notebook."""

  @parameterized.parameters(*_CIFAR)
  def test_cifar_networks(self, name):
    measured.check(_EXPECTED[f"{name}.npz"], *_cifar(name))

  def test_imagenet_network(self):
    expected = _EXPECTED["hollance/ImageNet_torchvision/resnext101_32x8d.csv"]
    confidence, correct = _imagenet()
    with jax.enable_x64(True):
      for num_bins in (10, 15, 20):
        errors = calibration.errors_of(binning.bin_statistics(
            confidence, correct, num_bins=num_bins))
        np.testing.assert_allclose(
            errors.expected, expected[f"ece_numpy_{num_bins}"], rtol=0,
            atol=1e-9)
      np.testing.assert_allclose(
          errors.maximum, 0.1919470946617725, rtol=0, atol=1e-9)

  def test_ranking(self):
    confidence, correct = _imagenet()
    wrong = ~correct
    with jax.enable_x64(True):
      roc = selective.roc_area(-confidence, wrong)
      area = selective.risk_coverage_area(wrong, confidence)
      flat = selective.risk_coverage_area(wrong, np.zeros(len(wrong)))
    np.testing.assert_allclose(
        roc, sklearn_metrics.roc_auc_score(wrong, -confidence), rtol=1e-12)
    # Over random orders of equal confidences, which there are.
    generator, areas = np.random.default_rng(0), []
    for _ in range(5):
      order = np.lexsort((generator.random(len(wrong)), -confidence))
      areas.append(np.mean(
          np.cumsum(wrong[order]) / np.arange(1, len(wrong) + 1)))
    self.assertGreater(np.ptp(areas), 0)
    np.testing.assert_allclose(area, np.mean(areas), atol=5 * np.ptp(areas))
    np.testing.assert_allclose(flat, wrong.mean(), rtol=1e-9)


class TemperatureTest(parameterized.TestCase):

  @parameterized.parameters(*_CIFAR)
  def test_cifar_networks(self, name):
    probs, labels = _cifar(name)
    logits, labels = np.log(probs[:4000]), labels[:4000]

    def loss(value):
      scaled = logits.astype(float) / value
      return np.mean(special.logsumexp(scaled, axis=-1) -
                     scaled[np.arange(len(labels)), labels])

    fitted = temperature.fit_temperature(logits, labels)
    least = optimize.minimize_scalar(
        lambda log: loss(np.exp(log)), bounds=(-3, 3), method="bounded",
        options={"xatol": 1e-9})
    np.testing.assert_allclose(fitted, np.exp(least.x), rtol=1e-6)
    for value in (1., fitted * 1.001, fitted / 1.001):
      self.assertLess(loss(fitted), loss(value))
    scaled = np.asarray(temperature.apply(fitted, logits))
    np.testing.assert_array_equal(scaled.argmax(-1), logits.argmax(-1))

    def error(logits):
      probs = special.softmax(logits, axis=-1)
      return calibration.expected_calibration_error(
          probs.max(-1), probs.argmax(-1) == labels)

    self.assertLess(error(scaled), error(logits) + 0.003)


class ReportTest(parameterized.TestCase):

  @parameterized.parameters(*_CIFAR)
  def test_rows_of_cifar_networks(self, name):
    probs, labels = _cifar(name)
    # The recorded likelihoods are clipped there, too.
    row = summary.summarise(drawn.predictions(
        np.log(np.maximum(probs.astype(float), 1e-12)), labels), drawn.QUICK)
    for ours, theirs, places in (
        ("accuracy", "acc", 12), ("confidence", "mean_conf", 6),
        ("ece", "ece_netcal_20", 6), ("mce", "mce_netcal_20", 5),
        ("brier", "brier_sum", 6), ("nll", "nll", 5)):
      self.assertAlmostEqual(
          row[ours], _EXPECTED[f"{name}.npz"][theirs], places, msg=ours)

  def test_files(self):
    content = foreign.read(_FOLDER / "lenet-5-cifar-10.npz")
    self.assertEqual(content.given.kind, "probabilities")
    content = foreign.read(_IMAGENET)
    found = summary.summarise(
        content.given, summary.Conventions(num_resamples=2))
    # As the authors of that file print it.
    self.assertAlmostEqual(found["ece"], 0.08073629151433703, places=9)
    self.assertAlmostEqual(found["mce"], 0.1919470946617725, places=9)
    self.assertNotIn("nll", found)


if __name__ == "__main__":
  absltest.main()
