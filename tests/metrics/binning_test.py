"""Bins: where every confidence goes, and sums that add up."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcal.metrics import binning
from tests import shared


def _data(seed, n):
  generator = np.random.default_rng(seed)
  confidence = generator.uniform(size=n)
  return confidence, generator.uniform(size=n) < confidence


def _filled(confidence, num_bins, edges, dtype=jnp.float32):
  """The index of the only filled bin."""
  bins = binning.bin_statistics(
      np.asarray([confidence], dtype), np.array([True]), num_bins=num_bins,
      edges=edges)
  return int(np.flatnonzero(bins.count).item())


class BinStatisticsTest(parameterized.TestCase):

  @parameterized.parameters(
      (0.0, 0, 0), (0.05, 0, 1), (0.1, 1, 2), (0.5, 9, 10), (0.501, 10, 10),
      (0.95, 18, 19), (0.999, 19, 19), (1.0, 19, 19))
  def test_where_twenty_bins_put_a_confidence(self, confidence, right, left):
    for dtype in (jnp.float32, np.float64):
      with jax.enable_x64(dtype == np.float64):
        self.assertEqual(_filled(confidence, 20, "right", dtype), right)
        self.assertEqual(_filled(confidence, 20, "left", dtype), left)

  @parameterized.product(
      num_bins=(1, 3, 7, 10, 15, 20, 100), dtype=(np.float32, np.float64))
  def test_every_edge_belongs_to_the_bin_of_its_rule(self, num_bins, dtype):
    k = np.arange(num_bins + 1)
    confidence = (k / num_bins).astype(dtype)
    hit = np.ones(num_bins + 1, bool)
    with jax.enable_x64(dtype == np.float64):
      right = binning.bin_statistics(confidence, hit, num_bins=num_bins)
      left = binning.bin_statistics(
          confidence, hit, num_bins=num_bins, edges="left")
    # Each bin has one edge, but 0 and 1 share a bin with a neighbour.
    np.testing.assert_array_equal(right.count, [2] + [1] * (num_bins - 1))
    np.testing.assert_array_equal(left.count, [1] * (num_bins - 1) + [2])

  @parameterized.product(num_bins=(4, 8, 10, 16, 20), edges=("left", "right"))
  def test_reference_counts_on_edges(self, num_bins, edges):
    numbers = shared.arrays("oracles/few_shot/calibration_oracle.npz")
    bins = binning.bin_statistics(
        numbers["edge/confidence"], numbers["edge/correct"],
        num_bins=num_bins, edges=edges)
    np.testing.assert_array_equal(
        bins.count, numbers[f"edge/count_{num_bins}_{edges}"])

  @parameterized.parameters("left", "right")
  def test_plain_loop(self, edges):
    confidence, correct = _data(0, 500)
    expected = np.zeros((3, 15))
    for c, a in zip(confidence, correct):
      for b in range(15):
        low, high = b / 15, (b + 1) / 15
        if (low <= c < high) if edges == "left" else (low < c <= high):
          expected[:, b] += 1, c, a
    with jax.enable_x64(True):
      bins = binning.bin_statistics(
          confidence, correct, num_bins=15, edges=edges)
      np.testing.assert_allclose(np.stack(bins), expected, rtol=1e-12)

  @pytest.mark.slow
  def test_statistics_of_parts_add_up(self):
    confidence, correct = _data(1, 300)
    with jax.enable_x64(True):
      whole = binning.bin_statistics(confidence, correct)
      parts = [
          binning.bin_statistics(confidence[part], correct[part])
          for part in (slice(0, 7), slice(7, 120), slice(120, 300))]
      merged = parts[0] + parts[1] + parts[2]
      self.assertIsInstance(merged, binning.BinStatistics)
      for ours, theirs in zip(merged, whole, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)

  @parameterized.parameters(
      binning.bin_statistics, binning.equal_mass_bin_statistics)
  def test_a_weight_is_a_number_of_copies(self, function):
    confidence, correct = _data(2, 30)
    confidence[10:20] = confidence[10]
    copies = np.random.default_rng(3).permutation([0, 0, 1, 1, 1, 3] * 5)
    with jax.enable_x64(True):
      weighted = function(confidence, correct, num_bins=7, weights=copies)
      repeated = function(
          np.repeat(confidence, copies), np.repeat(correct, copies),
          num_bins=7)
      for ours, theirs in zip(weighted, repeated, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)

  @parameterized.parameters(
      binning.bin_statistics, binning.equal_mass_bin_statistics)
  def test_examples_of_no_weight_may_hold_anything(self, function):
    confidence, correct = _data(4, 30)
    mask = np.arange(30) % 3 > 0
    spoilt = np.where(mask, confidence, np.nan)
    weighted = function(spoilt, correct, num_bins=5, weights=mask)
    subset = function(confidence[mask], correct[mask], num_bins=5)
    for ours, theirs in zip(weighted, subset, strict=True):
      np.testing.assert_allclose(ours, theirs, rtol=1e-6)

  @parameterized.parameters(jnp.bfloat16, jnp.float16)
  def test_half_precision_is_counted_in_single(self, dtype):
    bins = binning.bin_statistics(
        jnp.ones(1000, dtype), jnp.ones(1000, bool), num_bins=10)
    self.assertEqual(bins.count.dtype, jnp.float32)
    bins = np.asarray(bins)
    np.testing.assert_array_equal(bins[:2, -1], 1000)

  @parameterized.parameters(
      binning.bin_statistics, binning.equal_mass_bin_statistics)
  def test_jit_vmap_and_strict_dtypes(self, function):
    data = [_data(seed, 30) for seed in range(3)]
    confidence = np.asarray([c for c, _ in data], np.float32)
    correct = np.asarray([a for _, a in data])
    with jax.numpy_dtype_promotion("strict"):
      batched = jax.jit(jax.vmap(function))(confidence, correct)
      loop = [function(c, a) for c, a in zip(confidence, correct)]
    for ours, theirs in zip(batched, zip(*loop), strict=True):
      np.testing.assert_allclose(ours, np.stack(theirs), rtol=1e-6, atol=1e-6)

  def test_parts_of_one_size(self):
    confidence = np.arange(11) / 20
    bins = binning.equal_mass_bin_statistics(
        confidence, np.ones(11, bool), num_bins=4, rule="equal_count")
    np.testing.assert_allclose(bins.count, [3, 3, 3, 2])
    np.testing.assert_allclose(
        bins.confidence_sum, [x.sum() for x in np.array_split(confidence, 4)],
        rtol=1e-6)

  def test_equal_confidences_are_shared_between_parts(self):
    # Three of one confidence, two hits; one and a half go to each part.
    bins = binning.equal_mass_bin_statistics(
        np.full(3, 0.5), np.array([1, 0, 1]), num_bins=3, rule="equal_count")
    np.testing.assert_allclose(bins.count, np.ones(3))
    np.testing.assert_allclose(bins.correct_sum, np.full(3, 2 / 3), rtol=1e-6)

  @parameterized.product(num_bins=(3, 7), ties=(False, True))
  def test_nearest_ranks_as_published(self, num_bins, ties):
    confidence, correct = _data(6, 40)
    if ties:
      confidence = np.round(confidence * 8) / 8
    ranks = np.round(np.linspace(0, 1, num_bins + 1) * 39).astype(int)
    edges = np.unique(np.sort(confidence)[ranks])
    expected = []
    for low, high in zip(edges[:-1], edges[1:]):
      inside = (confidence > low) & (confidence <= high)
      inside |= (low == edges[0]) & (confidence == low)
      expected.append([inside.sum(), confidence[inside].sum(),
                       correct[inside].sum()])
    with jax.enable_x64(True):
      bins = binning.equal_mass_bin_statistics(
          confidence, correct, num_bins=num_bins, rule="nearest_rank")
    found = np.stack(bins, -1)
    np.testing.assert_allclose(found[found[:, 0] > 0], expected, rtol=1e-12)

  def test_smallest_confidences_fall_out_of_interpolated_bins(self):
    confidence = np.array([0.1, 0.1, 0.3, 0.6])
    bins = binning.equal_mass_bin_statistics(
        confidence, np.ones(4, bool), num_bins=2, rule="interpolated")
    np.testing.assert_allclose(bins.count, [2, 1, 1])
    np.testing.assert_allclose(bins.confidence_sum, [0, 0.3, 0.6], rtol=1e-6)
    np.testing.assert_allclose(bins.correct_sum, [0, 1, 1])

  @parameterized.parameters(*binning.RULES)
  def test_copies_and_order_for_every_rule(self, rule):
    confidence, correct = _data(7, 30)
    confidence[10:16] = confidence[10]
    copies = np.random.default_rng(3).permutation([0, 0, 1, 1, 1, 3] * 5)
    order = np.random.default_rng(4).permutation(30)
    of = lambda *x, **k: np.stack(
        binning.equal_mass_bin_statistics(*x, num_bins=7, rule=rule, **k))
    with jax.enable_x64(True):
      np.testing.assert_allclose(
          of(confidence, correct, weights=copies),
          of(np.repeat(confidence, copies), np.repeat(correct, copies)),
          rtol=1e-12, atol=1e-14)
      np.testing.assert_allclose(
          of(confidence[order], correct[order]), of(confidence, correct),
          rtol=1e-12, atol=1e-14)

  def test_errors(self):
    good, hit = np.array([0.2, 0.9]), np.array([True, False])
    with self.assertRaisesRegex(ValueError, "edges='both'.*left, right"):
      binning.bin_statistics(good, hit, edges="both")
    with self.assertRaisesRegex(ValueError, "num_bins=0"):
      binning.bin_statistics(good, hit, num_bins=0)
    with self.assertRaisesRegex(ValueError, "num_bins=0"):
      binning.equal_mass_bin_statistics(good, hit, num_bins=0)
    with self.assertRaisesRegex(ValueError, r"\(2,\) and \(1,\)"):
      binning.bin_statistics(good, hit[:1])
    with self.assertRaisesRegex(ValueError, "n > 0"):
      binning.bin_statistics(good[:0], hit[:0])
    with self.assertRaisesRegex(ValueError, r"shape \(2, 1\)"):
      binning.bin_statistics(good[:, None], hit[:, None])
    with self.assertRaisesRegex(ValueError, "weights must be one per example"):
      binning.bin_statistics(good, hit, weights=np.ones(3))
    for weight in (-1.0, np.nan, np.inf):
      with self.assertRaisesRegex(ValueError, "finite and not negative"):
        binning.bin_statistics(good, hit, weights=np.array([1, weight]))

  @parameterized.parameters(np.nan, 1.01, -0.1, 76.6, np.inf)
  def test_a_confidence_outside_its_range_raises(self, value):
    with self.assertRaisesRegex(ValueError, r"\[0, 1\].*1 of 2 values"):
      binning.bin_statistics(np.array([0.5, value]), np.array([True, True]))

  def test_a_rounding_excess_is_in_the_last_bin(self):
    self.assertEqual(_filled(np.nextafter(np.float32(1), 2), 20, "left"), 19)


class EqualMassTest(parameterized.TestCase):

  @parameterized.parameters(1, 3, 10, 15)
  def test_percentiles_by_numpy(self, num_bins):
    confidence, correct = _data(5, 97)
    edges = np.percentile(confidence, np.linspace(0, 100, num_bins + 1))
    expected = []
    for b, (low, high) in enumerate(zip(edges[:-1], edges[1:])):
      last = b == num_bins - 1
      inside = (confidence >= low) & (
          (confidence <= high) if last else (confidence < high))
      expected.append([
          inside.sum(), confidence[inside].sum(), correct[inside].sum()])
    with jax.enable_x64(True):
      bins = binning.equal_mass_bin_statistics(
          confidence, correct, num_bins=num_bins)
      np.testing.assert_allclose(
          np.stack(bins, axis=1), expected, rtol=1e-12)

  def test_equal_confidences_stay_together(self):
    # Saturated confidences: three of the six quantile edges are one. The edges
    # that remain, 0.2, 0.38, 0.8 and 1, are those of scikit-learn 1.9.1.
    confidence = np.array([0.2, 0.3, 0.4, 0.5, 1, 1, 1, 1, 1, 1])
    bins = binning.equal_mass_bin_statistics(
        confidence, np.ones(10, bool), num_bins=5)
    np.testing.assert_array_equal(bins.count, [2, 2, 6, 0, 0])

  def test_all_equal_is_one_bin(self):
    bins = binning.equal_mass_bin_statistics(
        np.full(9, 0.7), np.ones(9, bool), num_bins=4)
    self.assertEqual(sorted(np.asarray(bins.count)), [0, 0, 0, 9])


if __name__ == "__main__":
  absltest.main()
