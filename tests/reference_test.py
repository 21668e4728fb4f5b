"""Metrics and prediction sets as other packages have them.

Always against their numbers in reference_numbers.json, and against the packages
themselves where these are installed (`pip install jaxcal[reference]`).
"""

import configparser
import importlib.util
import json
import unittest
import warnings

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.conformal import clustered
from jaxcal.conformal import scores
from jaxcal.conformal import split
from jaxcal.metrics import calibration
from jaxcal.metrics import scoring
from jaxcal.metrics import selective
from tests import reference_numbers as reference

_STORED = json.loads(reference.FILE.read_text("utf-8"))
# What is imported of a package.
_MODULES = {"torch-uncertainty": "torch_uncertainty"}
_HALF = 200
# Packages keep some sums in float32, whatever they are given.
_SINGLE = 2e-7
_BINS = {"num_bins": reference.NUM_BINS}
_PENALTY = {"penalty": reference.RAPS["penalty"],
            "free_rank": reference.RAPS["kreg"]}


def _ours():
  """Our numbers by package and the name there."""
  of = reference.data()
  seen, losses = of.seen, 1.0 - of.seen[1]
  given = of.probs, of.labels
  expected = calibration.expected_calibration_error
  adaptive = calibration.adaptive_calibration_error
  edges = lambda side: expected(
      *reference.on_edges(), num_bins=16, edges=side)
  found = {
      "netcal": {
          "ECE": expected(*seen, **_BINS),
          "MCE": calibration.maximum_calibration_error(*seen, **_BINS),
          "ACE": calibration.average_calibration_error(*seen, **_BINS),
          "ECE of predictions": expected(*seen, **_BINS),
          "ECE on edges": edges("left")},
      "torchmetrics": {
          **{f"ECE {norm}": expected(*seen, norm=norm, **_BINS)
             for norm in ("l1", "l2", "max")},
          "ECE on edges": edges("left"),
          "accuracy micro": scoring.accuracy(*given),
          "accuracy macro": scoring.balanced_accuracy(*given),
          "accuracy top 3": scoring.accuracy(*given, k=3),
          "AUROC": selective.roc_area(*seen),
          "AUPR": selective.average_precision(*seen)},
      "torch-uncertainty": {
          "classwise": calibration.classwise_calibration_errors(
              *given, **_BINS),
          **{f"adaptive {norm}": adaptive(
              *seen, rule="equal_count", norm=norm, **_BINS)
             for norm in ("l1", "l2", "max")},
          "Brier": jnp.mean(scoring.brier_score(*given)),
          "NLL": jnp.mean(scoring.negative_log_likelihood(
              jnp.log(of.probs), of.labels)),
          "AURC": selective.risk_coverage_trapezoid(losses, seen[0])}}
  return jax.tree.map(np.asarray, found)


def _sets(name):
  """Our threshold and sizes of sets by the name of torchcp's."""
  of = reference.data()
  uniforms = of.uniforms if name.endswith("randomised") else None
  kind = name.split()[0]
  values = {
      "LAC": lambda: scores.least_ambiguous(of.probs),
      "APS": lambda: scores.adaptive(of.probs, uniforms),
      "RAPS": lambda: scores.regularised_adaptive(
          of.probs, uniforms, **_PENALTY),
      "SAPS": lambda: scores.sorted_adaptive(of.probs, uniforms, weight=0.2),
  }[kind]()
  labels = of.labels[:_HALF]
  own = np.asarray(values)[np.arange(_HALF), labels]
  k, alpha = of.probs.shape[1], reference.ALPHA
  if name.endswith("by class"):
    threshold = split.group_thresholds(own, labels, alpha, num_groups=k)
  elif name.endswith("by cluster"):
    several = {"alpha": alpha, "num_clusters": reference.NUM_CLUSTERS}
    threshold = clustered.thresholds(own, labels, clustered.clusters(
        own, labels, num_classes=k, **several), **several)
  else:
    threshold = split.threshold(own, alpha)
  sets = split.prediction_sets(values[_HALF:], threshold)
  return np.asarray(threshold), np.asarray(sets).sum(1)


class StoredTest(parameterized.TestCase):

  @parameterized.parameters(*reference.PACKAGES[:3])
  def test_metrics(self, package):
    with jax.enable_x64(True):
      ours = _ours()[package]
    theirs = _STORED[package]["numbers"]
    self.assertEqual(set(ours), set(theirs))
    for name, value in ours.items():
      np.testing.assert_allclose(
          value, theirs[name], rtol=0, atol=_SINGLE, err_msg=name)

  @parameterized.parameters(*_STORED["torchcp"]["numbers"])
  def test_sets(self, name):
    theirs = _STORED["torchcp"]["numbers"][name]
    with jax.enable_x64(True):
      threshold, sizes = _sets(name)
    np.testing.assert_allclose(
        threshold, theirs["threshold"], rtol=0, atol=_SINGLE)
    np.testing.assert_array_equal(sizes, theirs["sizes"])

  def test_a_side_of_the_edges_is_told_apart(self):
    with jax.enable_x64(True):
      left, right = (float(calibration.expected_calibration_error(
          *reference.on_edges(), num_bins=16, edges=side))
          for side in ("left", "right"))
    self.assertGreater(abs(left - right), 1e-3)

  def test_versions_are_the_least_of_the_extra(self):
    setup = configparser.ConfigParser()
    setup.read(reference.FILE.parents[1] / "setup.cfg", "utf-8")
    self.assertEqual(
        setup["options.extras_require"]["reference"].split(),
        [f"{package}>={_STORED[package]['version']}"
         for package in reference.PACKAGES])


class InstalledTest(parameterized.TestCase):

  @parameterized.parameters(*reference.PACKAGES)
  def test_gives_the_stored_numbers(self, package):
    if importlib.util.find_spec(_MODULES.get(package, package)) is None:
      raise unittest.SkipTest(f"{package} is not installed: its stored numbers "
                              "alone are compared")
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # theirs
      found = reference.numbers(package)
    stored = _STORED[package]["numbers"]
    self.assertEqual(jax.tree.structure(found), jax.tree.structure(stored))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(
        a, b, rtol=0, atol=_SINGLE), found, stored)


if __name__ == "__main__":
  absltest.main()
