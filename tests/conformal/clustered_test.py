"""Clusters of classes: what is alike is found, and covered as promised."""

from absl.testing import absltest
import jax
import numpy as np

from jaxcal.conformal import clustered
from jaxcal.conformal import split
from tests import error_bars


def _data(seed, n, k=9):
  """Own scores of classes of three kinds, and labels."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(k, size=n)
  return rng.beta(1 + 6 * (labels % 3), 4), labels


def _partition(of_class):
  return {frozenset(np.flatnonzero(of_class == one).tolist())
          for one in np.unique(of_class)}


class ClustersTest(absltest.TestCase):

  def test_kinds_are_found_whatever_the_seed(self):
    own, labels = _data(0, 1800)
    for seed in range(3):
      found = clustered.clusters(own, labels, alpha=0.1, num_classes=9,
                                 num_clusters=3, seed=seed)
      self.assertEqual(_partition(found), {
          frozenset({0, 3, 6}), frozenset({1, 4, 7}), frozenset({2, 5, 8})})

  def test_rare_classes_have_no_cluster(self):
    own, labels = _data(0, 1800)
    few = np.flatnonzero(labels == 4)[8:]  # 9 are needed
    own, labels = np.delete(own, few), np.delete(labels, few)
    of = lambda k, clusters: clustered.clusters(
        own, labels, alpha=0.1, num_classes=k, num_clusters=clusters)
    found = of(10, 3)  # the last class does not occur
    np.testing.assert_array_equal(np.flatnonzero(found == 3), [4, 9])
    np.testing.assert_array_equal(of(9, 8), np.full(9, 8))
    self.assertEqual(set(of(9, 7)), set(range(8)))

  def test_thresholds_by_a_loop(self):
    own, labels = _data(1, 500)
    of_class = np.array([0, 1, 1, 0, 3, 2, 0, 2, 3])
    with jax.enable_x64(True):
      found = clustered.thresholds(
          own, labels, of_class, alpha=0.1, num_clusters=3)
      for one, cluster in enumerate(of_class):
        mine = np.ones(500, bool) if cluster == 3 else (
            of_class[labels] == cluster)
        self.assertEqual(found[one], split.threshold(own[mine], 0.1))

  def test_classes_are_covered_more_evenly_than_by_one_threshold(self):
    by_cluster, by_one = [], []
    new, new_labels = _data(2, 30_000)
    of = lambda limits: np.array([
        np.mean((new <= limits[new_labels])[new_labels == one])
        for one in range(9)])
    for seed in range(20):
      own, labels = _data(100 + seed, 600)
      parts = clustered.split_images(600, 0.4, seed=seed)
      of_class = clustered.clusters(
          own[parts.cluster], labels[parts.cluster], alpha=0.1, num_classes=9,
          num_clusters=3)
      by_cluster.append(of(np.asarray(clustered.thresholds(
          own[parts.calibrate], labels[parts.calibrate], of_class, alpha=0.1,
          num_clusters=3))))
      by_one.append(of(np.full(9, split.threshold(own, 0.1))))
    # Of n images that calibrate a cluster, about 120, up to 1 / n more are
    # covered. The new images are the same for all seeds, a ninth in each class.
    error = np.hypot(error_bars.of_mean(by_cluster), (0.09 / (30_000 / 9))**0.5)
    np.testing.assert_array_less(
        np.abs(np.mean(by_cluster, axis=0) - 0.9 - 0.5 / 120),
        error_bars.LEVEL * error + 0.5 / 120)
    self.assertLess((np.mean(by_one, axis=0) + error_bars.LEVEL * np.hypot(
        error_bars.of_mean(by_one), (0.09 / (30_000 / 9))**0.5)).min(), 0.9)

  def test_parts(self):
    parts = clustered.split_images(50, 0.3, seed=1)
    self.assertLen(parts.cluster, 15)
    np.testing.assert_array_equal(
        np.sort(np.concatenate(parts)), np.arange(50))

  def test_refuses(self):
    with self.assertRaisesRegex(ValueError, "expected a share in"):
      clustered.split_images(50, 30)
    with self.assertRaisesRegex(ValueError, "num_clusters=0"):
      clustered.clusters(*_data(0, 50), alpha=0.1, num_classes=9,
                         num_clusters=0)


if __name__ == "__main__":
  absltest.main()
