"""Orders of streams: each image once, and what is at random in them."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from jaxcal.adapt import orders

_LABELS = np.random.default_rng(0).integers(5, size=60) * 3


class OrdersTest(parameterized.TestCase):

  @parameterized.parameters(*orders.KINDS)
  def test_every_image_once_and_the_same_again(self, kind):
    one, again = (orders.order(kind, _LABELS, 4) for _ in range(2))
    np.testing.assert_array_equal(np.sort(one), np.arange(60))
    np.testing.assert_array_equal(one, again)
    self.assertEqual(
        np.array_equal(one, orders.order(kind, _LABELS, 5)), kind == "given")

  def test_given_is_as_they_come(self):
    np.testing.assert_array_equal(
        orders.order("given", _LABELS, 3), np.arange(60))

  def test_shuffled_looks_at_no_labels(self):
    np.testing.assert_array_equal(
        orders.order("shuffled", _LABELS, 3),
        np.random.default_rng(3).permutation(60))

  def test_sorted_is_one_class_after_the_other(self):
    firsts, insides = set(), set()
    for seed in range(20):
      found = orders.order("sorted", _LABELS, seed)
      labels = _LABELS[found]
      # As many changes as there are further classes.
      self.assertEqual(np.sum(labels[1:] != labels[:-1]), 4)
      firsts.add(labels[0])
      insides.add(tuple(found[labels == 3]))
    self.assertLen(firsts, 5)
    self.assertLen(insides, 20)

  def test_several(self):
    found = orders.orders("sorted", _LABELS.tolist(), (2, 9))
    self.assertEqual(list(found), [2, 9])
    np.testing.assert_array_equal(found[9], orders.order("sorted", _LABELS, 9))

  @parameterized.parameters(*orders.KINDS)
  def test_images_keep_their_order_with_others_among_them(self, kind):
    for seed in (0, 4):
      found = orders.order(kind, _LABELS, seed, num_others=25)
      np.testing.assert_array_equal(np.sort(found), np.arange(85))
      np.testing.assert_array_equal(
          found[found < 60], orders.order(kind, _LABELS, seed))
      np.testing.assert_array_equal(
          found, orders.orders(kind, _LABELS, [seed], num_others=25)[seed])

  @parameterized.parameters(1, 7, 25, 60, 200)
  def test_given_spreads_others_evenly(self, num_others):
    found = orders.order("given", _LABELS, 3, num_others=num_others)
    others = found[found >= 60]
    np.testing.assert_array_equal(others, 60 + np.arange(num_others))
    come = np.cumsum(found >= 60)
    share = num_others / (60 + num_others)
    expected = share * np.arange(1, len(found) + 1)
    self.assertLessEqual(np.abs(come - expected).max(), 1)

  def test_sorted_has_others_as_a_class_of_their_own(self):
    firsts, insides = [], set()
    for seed in range(40):
      found = orders.order("sorted", _LABELS, seed, num_others=25)
      labels = np.append(_LABELS, np.full(25, -1))[found]
      changes = np.flatnonzero(labels[1:] != labels[:-1]) + 1
      self.assertLen(changes, 5)
      firsts.append([0, *changes].index(np.argmax(labels == -1)))
      insides.add(tuple(found[labels == -1]))
    self.assertEqual(set(firsts), set(range(6)))
    self.assertLen(insides, 40)

  def test_shuffled_has_others_anywhere(self):
    found = np.stack([orders.order("shuffled", _LABELS, seed, num_others=20)
                      for seed in range(500)])
    # Of a share of 1/4 in 500 draws, the deviation is 0.02.
    np.testing.assert_allclose((found >= 60).mean(0), 0.25, atol=0.1)
    places = np.argmax(found == 60, axis=1)
    self.assertAlmostEqual(places.mean(), 39.5, delta=4)

  def test_unknown(self):
    with self.assertRaisesRegex(ValueError, "unknown order 'hard' .* choose"):
      orders.order("hard", _LABELS, 0)


if __name__ == "__main__":
  absltest.main()
