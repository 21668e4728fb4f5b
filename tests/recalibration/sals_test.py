"""SaLS against stored numbers: range, order and identity."""

from absl.testing import absltest
import numpy as np

from jaxcal.recalibration import sals
from tests.recalibration import made


class SalsTest(absltest.TestCase):

  def test_stored_oracle(self):
    stored = made.oracle()
    for group in ("test", "new"):
      np.testing.assert_allclose(
          sals.apply(stored[f"data/{group}_logits"],
                     stored[f"data/{group}_logits_zs"]),
          stored[f"sals/{group}_logits"], rtol=1e-12)

  def test_range_order_and_identity(self):
    one = made.evidence(0)
    found = sals.apply(one.logits, one.zero_shot_logits)
    for end in (np.min, np.max):
      np.testing.assert_allclose(
          end(found, axis=1), end(one.zero_shot_logits, axis=1), rtol=1e-14)
    np.testing.assert_array_equal(
        found.argsort(axis=1), one.logits.argsort(axis=1))
    np.testing.assert_allclose(
        sals.apply(one.logits, one.logits), one.logits, rtol=1e-12)

  def test_float32_is_widened_and_equal_logits_stay_finite(self):
    one = made.evidence(0)
    half = [np.asarray(x, np.float32)
            for x in (one.logits, one.zero_shot_logits)]
    found = sals.apply(*half)
    self.assertEqual(found.dtype, np.float64)
    np.testing.assert_array_equal(found, sals.apply(
        *(x.astype(float) for x in half)))
    np.testing.assert_array_equal(
        sals.apply(np.ones((1, 3)), np.array([[1., 4., 2.]])), 1)

  def test_refuses_other_classes(self):
    with self.assertRaisesRegex(ValueError, "same images and classes"):
      sals.apply(np.ones((2, 3)), np.ones((2, 4)))


if __name__ == "__main__":
  absltest.main()
