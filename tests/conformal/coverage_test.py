"""Measures of sets by loops, and the floors beside them by simulation."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
from scipy import stats

from jaxcal.conformal import coverage
from tests import error_bars
from tests import quick


class MeasureTest(absltest.TestCase):

  def test_equal_loops(self):
    rng = np.random.default_rng(0)
    sets = rng.uniform(size=(200, 30)) < rng.uniform(size=(200, 1)) ** 3
    sets[:5], sets[5:9], sets[5:9, 3] = False, False, True
    labels = rng.choice([0, 1, 2, 3, 7], 200)
    covered = [sets[i, y] for i, y in enumerate(labels)]
    size = [row.sum() for row in sets]
    mean_of = lambda chosen: np.mean(
        [hit for hit, one in zip(covered, chosen) if one])
    strata = [[low <= s <= high for s in size] for low, high in (
        (0, 1), (2, 3), (4, 10), (11, 100))]
    gaps = [abs(mean_of(stratum) - 0.9) for stratum in strata]
    by_class = [mean_of(labels == y) for y in np.unique(labels)]
    with jax.enable_x64(True):
      found = coverage.measure(sets, labels, 0.1)
    for name, expected in {
        "coverage": np.mean(covered), "mean_size": np.mean(size),
        "median_size": np.median(size), "empty": np.mean(np.equal(size, 0)),
        "singletons": np.mean(np.equal(size, 1)),
        "singleton_hits": np.mean(np.equal(size, 1) & covered),
        "class_gap": np.mean(np.abs(np.subtract(by_class, 0.9))),
        "stratum_gap": max(gaps),
        "stratum_images": sum(strata[int(np.argmax(gaps))]),
        "classes_below": np.sum(np.less(by_class, 0.9))}.items():
      np.testing.assert_allclose(getattr(found, name), expected, err_msg=name)


class PromiseTest(parameterized.TestCase):

  @parameterized.parameters(
      # n, m, mean, standard deviation, share of valid splits.
      (502, 503, 453 / 503, 0.0188, 0.62),
      (57, 948, 53 / 58, 0.0376, None))
  def test_numbers(self, n, m, mean, std, valid):
    found = coverage.promise(n, m, 0.1)
    self.assertAlmostEqual(found.mean, mean, 12)
    self.assertAlmostEqual(found.std, std, 3)
    r = 453 if n == 502 else 53
    variance = r * (n + 1 - r) * (n + 1 + m) / ((n + 1) ** 2 * (n + 2) * m)
    self.assertAlmostEqual(found.std, variance ** 0.5, 9)
    if valid:
      self.assertAlmostEqual(found.valid, valid, 2)
    self.assertLess(found.low, found.mean)
    self.assertLess(found.mean, found.high)

  def test_of_too_few_images(self):
    self.assertEqual(coverage.promise(8, 100, 0.1), (1, 0, 1, 1, 1))

  def test_valid_at_the_very_edge(self):
    """With 200 images, 0.895 of them is a whole number."""
    found = coverage.promise(99, 200, 0.1)
    np.testing.assert_allclose(
        found.valid, stats.betabinom(200, 90, 10).sf(178), rtol=1e-9)


class FloorTest(absltest.TestCase):

  def test_numbers(self):
    for images, expected in ((25, 0.049), (100, 0.024)):
      self.assertAlmostEqual(coverage.class_gap_floor(
          np.full(3, images), 0.1), expected, 3)

  def test_perfect_sets_stay_at_their_floors(self):
    rng = np.random.default_rng(0)
    splits, k = 400, 10
    labels = rng.choice(k, (splits, 300), p=np.arange(1, k + 1) / 55)
    # Every class is in every set with 90 %, whatever the image.
    sets = rng.uniform(size=(splits, 300, k)) < 0.9
    with jax.enable_x64(True):
      found = np.asarray(quick.jit(jax.vmap(
          lambda s, y: coverage.measure(s, y, 0.1).class_gap))(sets, labels))
    counts = (labels[..., None] == np.arange(k)).sum(1)
    floor = coverage.class_gap_floor(counts, 0.1)
    error_bars.assert_means(found, floor)

  def test_classes_without_images_do_not_count(self):
    self.assertAlmostEqual(
        coverage.class_gap_floor(np.array([[0, 25, 25], [25, 0, 25]]), 0.1),
        coverage.class_gap_floor(np.array([25]), 0.1), 12)


if __name__ == "__main__":
  absltest.main()
