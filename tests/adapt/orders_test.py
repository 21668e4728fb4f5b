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

  def test_unknown(self):
    with self.assertRaisesRegex(ValueError, "unknown order 'hard' .* choose"):
      orders.order("hard", _LABELS, 0)


if __name__ == "__main__":
  absltest.main()
