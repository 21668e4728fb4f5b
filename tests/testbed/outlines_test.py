"""Distance tables against closed forms and areas."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from jaxcal.testbed import outlines


def _ticks():
  cells = np.arange(outlines.RESOLUTION) + 0.5
  return (cells / outlines.RESOLUTION * 2 - 1) * outlines.REACH


class OutlinesTest(parameterized.TestCase):

  def test_circle(self):
    x, y = np.meshgrid(_ticks(), _ticks())
    expected = np.hypot(x, y) - 0.88
    # The outline is a polygon of 96 corners, at most 0.0005 inside the circle.
    np.testing.assert_allclose(
        outlines.distance_table("circle"), expected, atol=1e-3)

  def test_square(self):
    x, y = np.meshgrid(_ticks(), _ticks())
    x, y = np.abs(x) - 0.78, np.abs(y) - 0.78
    expected = (np.hypot(np.maximum(x, 0), np.maximum(y, 0))
                + np.minimum(np.maximum(x, y), 0))
    np.testing.assert_allclose(
        outlines.distance_table("square"), expected, atol=1e-6)

  @parameterized.parameters(
      ("ring", np.pi * (0.92 ** 2 - 0.52 ** 2)),
      ("oval", np.pi * 0.88 * 1.1 * 0.88 * 0.62),
      ("cross", 0.6 * 1.84 * 2 - 0.36),
      ("diamond", 2 * 0.66),
  )
  def test_area(self, shape, area):
    inside = (outlines.distance_table(shape) < 0).mean()
    self.assertAlmostEqual(
        inside * (2 * outlines.REACH) ** 2, area, delta=0.04 * area)

  @parameterized.parameters(*outlines.SHAPES)
  def test_fits_the_table(self, shape):
    table = outlines.distance_table(shape)
    border = np.concatenate([table[0], table[-1], table[:, 0], table[:, -1]])
    self.assertGreater(border.min(), 0.3)
    self.assertLess(table.min(), -0.1)

  @parameterized.parameters(*outlines.SHAPES)
  def test_gradient_is_at_most_one(self, shape):
    # Holds for distances and for nothing that has a wrong sign somewhere.
    spacing = _ticks()[1] - _ticks()[0]
    table = outlines.distance_table(shape).astype(np.float64)
    for axis in (0, 1):
      steps = np.abs(np.diff(table, axis=axis)) / spacing
      self.assertLess(steps.max(), 1 + 1e-4)

  def test_shapes_differ(self):
    masks = [outlines.distance_table(s).ravel() < 0 for s in outlines.SHAPES]
    for i, one in enumerate(masks):
      for other in masks[:i]:
        overlap = (one & other).sum() / (one | other).sum()
        self.assertLess(overlap, 0.9)

  def test_unknown_shape(self):
    with self.assertRaisesRegex(ValueError, "hexagon"):
      outlines.distance_table("hexagon")


if __name__ == "__main__":
  absltest.main()
