"""Tests of jaxcal.data.augmix."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
from PIL import Image
from PIL import ImageOps
from scipy import stats

from jaxcal.data import augmix
from tests import shared

_LEVELLESS = ("autocontrast", "equalize")
_POINTWISE = ("autocontrast", "equalize", "posterize", "solarize")
# Functions by name, each compiled once per shape.
_APPLY = {
    name: jax.jit(getattr(augmix, name)) for name in augmix.OPERATIONS
}
_MIX = jax.jit(augmix.mix)
_DRAW = jax.jit(
    lambda keys, side: jax.vmap(lambda key: augmix.draw(key, side))(keys),
    static_argnums=1,
)


def _view(side=32, seed=0):
  """Smooth, so that an error of a fraction of a pixel stays small."""
  generator = np.random.default_rng(seed)
  coarse = generator.integers(256, size=(5, 5, 3), dtype=np.uint8)
  smooth = Image.fromarray(coarse).resize((side, side), Image.BICUBIC)
  return np.asarray(smooth)


def _noise(side=32, seed=0):
  generator = np.random.default_rng(seed)
  return generator.integers(256, size=(side, side, 3), dtype=np.uint8)


def _pillow(name, view, levels):
  """One operation as the released codes call it."""
  image = Image.fromarray(view)
  shift = functools.partial(
      image.transform, image.size, Image.AFFINE, resample=Image.BILINEAR)
  slope, pixels = float(levels.slope), float(levels.pixels)
  changed = {
      "autocontrast": lambda: ImageOps.autocontrast(image),
      "equalize": lambda: ImageOps.equalize(image),
      "posterize": lambda: ImageOps.posterize(image, int(levels.bits)),
      "solarize": lambda: ImageOps.solarize(image, int(levels.threshold)),
      "rotate": lambda: image.rotate(
          float(levels.degrees), resample=Image.BILINEAR),
      "shear_x": lambda: shift((1, slope, 0, 0, 1, 0)),
      "shear_y": lambda: shift((1, 0, 0, slope, 1, 0)),
      "translate_x": lambda: shift((1, 0, pixels, 0, 1, 0)),
      "translate_y": lambda: shift((1, 0, 0, 0, 1, pixels)),
  }[name]()
  return np.asarray(changed)


class StoredOperationsTest(parameterized.TestCase):

  @parameterized.parameters(*augmix.OPERATIONS)
  def test_operation(self, name):
    stored = shared.arrays("oracles/tpt/views_oracle.npz")
    for number, level in enumerate(stored[f"ops/{name}/levels"]):
      if name in ("posterize", "rotate", "solarize"):
        level = int(level)
      arguments = () if name in _LEVELLESS else (level,)
      for view, expected in zip(
          stored["ops/input"], stored[f"ops/{name}/out"], strict=True):
        difference = np.abs(
            np.asarray(_APPLY[name](view, *arguments), int) - expected[number])
        self.assertLessEqual(
            difference.max(), 0 if name in _POINTWISE else 1, f"{level=}")


class PointwiseTest(parameterized.TestCase):

  def test_autocontrast_of_ranges(self):
    # A third of all ranges of values, three to an image that has every value.
    low, high = np.array(np.triu_indices(256, 1))[:, :32640 // 9 * 9]
    low, high = (side.reshape(-1, 3, 3)[:, 0].ravel() for side in (low, high))
    values = np.clip(
        np.arange(256)[None], low[:, None], high[:, None]).astype(np.uint8)
    images = np.moveaxis(values.reshape(-1, 3, 16, 16), 1, -1)
    stretched = np.asarray(jax.jit(jax.vmap(augmix.autocontrast))(images))
    for image, view in zip(images, stretched, strict=True):
      expected = np.asarray(ImageOps.autocontrast(Image.fromarray(image)))
      np.testing.assert_array_equal(view, expected)

  @parameterized.parameters(*_LEVELLESS)
  def test_all_sorts_of_histograms(self, name):
    generator = np.random.default_rng(0)
    images = [_noise(side) for side in (2, 16, 23)]
    for spread in (1, 2, 5, 40):
      few = generator.normal(128, spread, size=(23, 23, 3))
      images.append(few.astype(np.uint8))
      images.append((generator.integers(spread + 1, size=(23, 23, 3)) * 6
                     ).astype(np.uint8))
    # One value but for a few pixels: steps of 0, 1 and more than one pixel.
    for count in (0, 1, 254, 255, 256, 400, 509, 510):
      flat = np.full(23 * 23, 200, np.uint8)
      flat[:count] = np.arange(count) % 150
      channels = np.stack([flat, flat, 255 - flat], axis=-1)
      images.append(channels.reshape(23, 23, 3))
    for image in images:
      np.testing.assert_array_equal(
          _APPLY[name](image), _pillow(name, image, augmix.Levels(*(5 * [0]))))

  def test_posterize(self):
    for bits in range(1, 9):
      expected = ImageOps.posterize(Image.fromarray(_noise()), bits)
      np.testing.assert_array_equal(
          _APPLY["posterize"](_noise(), bits), np.asarray(expected))

  def test_solarize(self):
    for threshold in (0, 1, 128, 231, 240, 254, 255, 256):
      expected = ImageOps.solarize(Image.fromarray(_noise()), threshold)
      np.testing.assert_array_equal(
          _APPLY["solarize"](_noise(), threshold), np.asarray(expected))


class GeometricTest(parameterized.TestCase):

  @parameterized.product(
      name=["rotate", "shear_x", "shear_y", "translate_x", "translate_y"],
      side=[23, 224],
  )
  def test_random_levels(self, name, side):
    generator = np.random.default_rng(0)
    view = _noise(side)
    scale = {"rotate": 180.0, "shear_x": 0.3, "shear_y": 0.3}.get(name, 9.0)
    for _ in range(12):
      level = np.float32(generator.uniform(-scale, scale))
      if name == "rotate":
        level = int(level)
      levels = augmix.Levels(8, 256, level, level, level)
      difference = np.abs(
          np.asarray(_APPLY[name](view, level), int) -
          _pillow(name, view, levels))
      self.assertLessEqual(difference.max(), 1, f"{level=}")

  def test_refuses_large_views(self):
    with self.assertRaisesRegex(ValueError, "at most 1024 pixels, got 1025"):
      augmix.rotate(np.zeros((1025, 1025, 3), np.uint8), 1)


class LevelsTest(absltest.TestCase):

  def test_ranges_at_severity_one(self):
    strength = np.arange(410, 4096)
    levels = augmix.operation_levels(strength, False, 224)
    mirrored = augmix.operation_levels(strength, True, 224)
    self.assertEqual(set(levels.bits.tolist()), {4})
    self.assertEqual(set(levels.threshold.tolist()), set(range(231, 255)))
    self.assertEqual(set(levels.degrees.tolist()), {0, 1, 2})
    self.assertEqual(set(levels.pixels.tolist()), set(range(8)))
    np.testing.assert_allclose(
        levels.slope, np.linspace(0.1 * 0.03, 0.03, 3687)[:-1], atol=1e-5)
    for up, down in zip(levels[2:], mirrored[2:], strict=True):
      np.testing.assert_array_equal(up, -down)
    for same, still in zip(levels[:2], mirrored[:2], strict=True):
      np.testing.assert_array_equal(same, still)

  def test_whole_levels_are_cut(self):
    # int(level * 30 / 10), int(level * 256 / 10), int(level * 224 / 3 / 10).
    strength = np.arange(410, 4096)
    levels = augmix.operation_levels(strength, False, 224)
    level = strength / 4096
    np.testing.assert_array_equal(levels.degrees, (level * 3).astype(int))
    np.testing.assert_array_equal(
        levels.threshold, 256 - (level * 25.6).astype(int))
    np.testing.assert_array_equal(
        levels.pixels, (level * 224 / 30).astype(int))


class DrawTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    keys = jax.random.split(jax.random.key(2), 4000)
    self.operations, self.levels, self.weights = jax.tree.map(
        np.asarray, _DRAW(keys, 224))

  def test_operations(self):
    used = self.operations < 9
    depth = used.sum(axis=2)
    # What is not used comes last.
    np.testing.assert_array_equal(used, np.arange(3) < depth[..., None])
    for counts in (
        np.bincount(depth.ravel(), minlength=4)[1:],
        np.bincount(self.operations[used], minlength=9),
    ):
      self.assertGreater(stats.chisquare(counts).pvalue, 0.01)
    # With replacement, and the copies on their own.
    twice = self.operations[depth == 3]
    self.assertLess(abs((twice[:, 0] == twice[:, 2]).mean() - 1 / 9), 0.02)
    self.assertLess(
        abs((self.operations[:, 0, 0] == self.operations[:, 1, 0]).mean() -
            1 / 9), 0.02)

  def test_levels(self):
    slope = self.levels.slope.ravel()
    self.assertGreater(
        stats.kstest(np.abs(slope), stats.uniform(0.003, 0.027).cdf).pvalue,
        0.01)
    self.assertLess(abs((slope > 0).mean() - 0.5), 0.02)

  def test_weights(self):
    np.testing.assert_array_equal(self.weights.sum(axis=1), 2**15)
    self.assertGreaterEqual(self.weights.min(), 0)
    own, copies = self.weights[:, 0] / 2**15, self.weights[:, 1:] / 2**15
    self.assertGreater(stats.kstest(own, stats.uniform().cdf).pvalue, 0.01)
    # Each share of a uniform point on the simplex is Beta(1, 2); that they go
    # together as they should, their largest tells: P(max < x) by inclusion.
    shares = copies[own < 0.9] / (1 - own[own < 0.9])[:, None]
    for share in shares.T:
      self.assertGreater(stats.kstest(share, stats.beta(1, 2).cdf).pvalue, 0.01)
    largest = lambda x: sum(
        sign * np.maximum(1 - count * x, 0)**2
        for count, sign in ((0, 1), (1, -3), (2, 3), (3, -1)))
    self.assertGreater(
        stats.kstest(shares.max(axis=1), largest).pvalue, 0.01)
    correlation = np.corrcoef(own[own < 0.9], shares[:, 0])[0, 1]
    self.assertLess(abs(correlation), 0.05)

  def test_operations_levels_and_weights_are_independent(self):
    numbers = np.stack([
        *self.operations[:, :, 0].T, *np.abs(self.levels.slope[:, :, 0]).T,
        *np.sign(self.levels.slope[:, :, 0]).T, self.weights[:, 0],
    ])
    correlation = np.corrcoef(numbers) - np.eye(len(numbers))
    self.assertLess(np.abs(correlation).max(), 0.06)


class ApplyOperationTest(absltest.TestCase):

  def test_each_number_is_its_operation(self):
    levels = augmix.Levels(3, 100, 7, 0.07, -4)
    own = {"posterize": 3, "solarize": 100, "rotate": 7, "shear_x": 0.07,
           "shear_y": 0.07, "translate_x": -4, "translate_y": -4}
    # Not of the whole range, so that there is contrast to gain.
    original = _noise() // 2
    changed = jax.jit(jax.vmap(augmix.apply_operation, (None, 0, None)))(
        original, np.arange(10), levels)
    for name, view in zip(augmix.OPERATIONS, changed, strict=False):
      arguments = (own[name],) if name in own else ()
      np.testing.assert_array_equal(view, _APPLY[name](original, *arguments))
      self.assertFalse(np.array_equal(view, original))
    np.testing.assert_array_equal(changed[9], original)


class MixTest(absltest.TestCase):

  def test_against_pillow_and_mixing_after_normalising(self):
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    std = np.array([0.26862954, 0.26130258, 0.27577711])
    normalise = lambda pixels: (pixels / 255 - mean) / std
    keys = jax.random.split(jax.random.key(0), 30)
    draws = jax.tree.map(np.asarray, _DRAW(keys, 32))
    for seed, key in enumerate(keys):
      view = _view(seed=seed)
      operations, levels, weights = jax.tree.map(
          lambda part: part[seed], draws)
      expected = float(weights[0]) / 2**15 * normalise(view)
      for copy in range(3):
        changed = view
        for step, number in enumerate(operations[copy]):
          if number < 9:
            changed = _pillow(
                augmix.OPERATIONS[number], changed,
                jax.tree.map(lambda level: level[copy, step], levels))
        expected += float(weights[1 + copy]) / 2**15 * normalise(changed)
      mixed = np.asarray(_MIX(key, view))
      self.assertEqual(mixed.dtype, np.float32)
      difference = np.abs(normalise(mixed.astype(np.float64)) - expected)
      # A difference of 1 may grow where equalize or posterize comes later.
      self.assertLess(np.quantile(difference, 0.98), 2 / 255 / std.min())
      self.assertLess(difference.mean(), 0.3 / 255 / std.min())

  def test_multiples_of_the_unit_within_the_range(self):
    mixed = np.asarray(_MIX(jax.random.key(0), _noise())) * 2.0**15
    np.testing.assert_array_equal(mixed, np.round(mixed))
    self.assertGreaterEqual(mixed.min(), 0)
    self.assertLessEqual(mixed.max(), 255 * 2**15)

  def test_white_stays_within_range(self):
    white = np.full((32, 32, 3), 255, np.uint8)
    for seed in range(5):
      mixed = np.asarray(_MIX(jax.random.key(seed), white))
      self.assertLessEqual(mixed.max(), 255)


if __name__ == "__main__":
  absltest.main()
