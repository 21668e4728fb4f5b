"""Proximity and the errors within it against loops and stored numbers."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
import pytest
from scipy import special

from jaxcal.metrics import calibration
from jaxcal.metrics import proximity
from tests import shared


def _unit(seed, n, d=6):
  features = np.random.default_rng(seed).normal(size=(n, d))
  return features / np.linalg.norm(features, axis=1, keepdims=True)


class ProximityTest(parameterized.TestCase):

  @parameterized.product(num_neighbours=(1, 4), batch_size=(3, 256))
  def test_plain_loop(self, num_neighbours, batch_size):
    images, others = _unit(0, 10), _unit(1, 7)
    expected = [np.exp(-np.mean(sorted(
        np.linalg.norm(image - other) for other in others)[:num_neighbours]))
        for image in images]
    with jax.enable_x64(True):
      np.testing.assert_allclose(
          proximity.proximity(images, others, num_neighbours=num_neighbours,
                              batch_size=batch_size), expected, rtol=1e-12)

  def test_among_themselves_without_themselves(self):
    images = _unit(2, 8)
    expected = [proximity.proximity(
        images[i:i + 1], np.delete(images, i, 0), num_neighbours=3)[0]
        for i in range(8)]
    np.testing.assert_allclose(
        proximity.proximity(images, num_neighbours=3), expected, rtol=1e-5)

  def test_copies_of_an_image_count(self):
    images = _unit(5, 9)
    images[5] = images[6]
    self.assertEqual(proximity.proximity(images, num_neighbours=1)[5], 1)

  def test_a_copy_is_at_no_distance_in_single_precision(self):
    images = _unit(3, 5, d=512).astype(np.float32)
    np.testing.assert_array_equal(
        proximity.proximity(images, images, num_neighbours=1), np.ones(5))

  def test_refuses(self):
    features = _unit(0, 5)
    with self.assertRaisesRegex(ValueError, "1 to 4 neighbours, .* got 5"):
      proximity.proximity(features)
    proximity.proximity(features, features, num_neighbours=5)
    for number in (0, 6):
      with self.assertRaisesRegex(ValueError, f"1 to 5 .* got {number}"):
        proximity.proximity(features, features, num_neighbours=number)
    with self.assertRaisesRegex(ValueError, "matrices of one width"):
      proximity.proximity(_unit(0, 9), _unit(0, 9, d=3))


class PieceTest(parameterized.TestCase):

  def _data(self, n=120):
    generator = np.random.default_rng(4)
    confidence, grouping = generator.uniform(size=(2, n))
    # Over-confident where isolated, under-confident where not.
    chance = np.clip(confidence + 0.3 * np.sign(grouping - 0.5), 0, 1)
    return confidence, generator.uniform(size=n) < chance, grouping

  def test_plain_loop(self):
    confidence, correct, grouping = self._data()
    edges = np.percentile(grouping, [25, 50, 75])
    expected = 0.
    for group in range(4):
      for b in range(5):
        inside = (np.searchsorted(edges, grouping, side="right") == group) & (
            (confidence * 5).astype(int) == b)
        expected += abs(np.sum((confidence - correct)[inside])) / len(correct)
    with jax.enable_x64(True):
      np.testing.assert_allclose(
          proximity.proximity_calibration_error(
              confidence, correct, grouping, num_bins=5, num_groups=4),
          expected, rtol=1e-12)

  @pytest.mark.slow
  def test_at_least_the_error_without_groups(self):
    confidence, correct, grouping = self._data()
    plain = calibration.expected_calibration_error(
        confidence, correct, num_bins=10, edges="left")
    found = proximity.proximity_calibration_error(confidence, correct, grouping)
    self.assertGreater(found, plain + 0.05)
    np.testing.assert_allclose(
        proximity.proximity_calibration_error(
            confidence, correct, grouping, num_groups=1), plain, rtol=1e-6)

  def test_order_and_copies(self):
    confidence, correct, grouping = self._data(60)
    order = np.random.default_rng(5).permutation(60)
    copies = np.random.default_rng(6).permutation([0, 0, 1, 1, 1, 3] * 10)
    of = proximity.proximity_calibration_error
    with jax.enable_x64(True):
      found = of(confidence, correct, grouping)
      np.testing.assert_allclose(
          of(confidence[order], correct[order], grouping[order]), found,
          rtol=1e-12)
      spoilt = np.where(copies > 0, grouping, np.nan)
      np.testing.assert_allclose(
          of(confidence, correct, spoilt, weights=copies),
          of(*(np.repeat(x, copies) for x in (confidence, correct, grouping))),
          rtol=1e-12)

  @parameterized.parameters("val", "test", "new")
  def test_stored_numbers(self, split):
    path = shared.path("oracles/few_shot") / "calibration_oracle.npz"
    with np.load(path) as stored, jax.enable_x64(True):
      probs = special.softmax(stored[f"data/{split}_logits"], axis=-1)
      hits = probs.argmax(-1) == stored[f"data/{split}_labels"]
      near = proximity.proximity(
          stored[f"data/{split}_features"],
          None if split == "val" else stored["data/val_features"])
      np.testing.assert_allclose(
          near, stored[f"proximity/{split}"], rtol=1e-12)
      for groups, bins in ((10, 10), (5, 15)):
        np.testing.assert_allclose(
            proximity.proximity_calibration_error(
                probs.max(-1), hits, near, num_bins=bins, num_groups=groups),
            stored[f"metrics/{split}/piece_{groups}x{bins}"], rtol=0, atol=1e-9)

  def test_refuses(self):
    confidence, correct, grouping = self._data(20)
    of = proximity.proximity_calibration_error
    with self.assertRaisesRegex(ValueError, r"shapes are \(19,\) and \(20,\)"):
      of(confidence, correct, grouping[1:])
    with self.assertRaisesRegex(ValueError, "must be finite, but 1 are not"):
      of(confidence, correct, np.where(grouping == grouping[0], np.inf,
                                       grouping))
    with self.assertRaisesRegex(ValueError, "num_groups=0"):
      of(confidence, correct, grouping, num_groups=0)


if __name__ == "__main__":
  absltest.main()
