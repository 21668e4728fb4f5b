"""Image sets: balance, disjoint splits, determinism and what shifts do."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from jaxcal.data import image_set
from jaxcal.testbed import digits
from jaxcal.testbed import scenes
from jaxcal.testbed import sets


class SetsTest(parameterized.TestCase):

  @parameterized.product(name=sets.NAMES, split=sets.SPLITS)
  def test_well_formed(self, name, split):
    loaded = sets.load(name, split=split)
    image_set.check(loaded)
    self.assertEqual(loaded.name, name)
    self.assertEqual(loaded.ids[17], f"{name}/{split}/00017")
    self.assertEqual(loaded.labels.dtype, np.int32)
    if not name.startswith("digits"):
      self.assertLen(loaded.ids, sets.NUM_IMAGES[split])
      # Any prefix is balanced, this one too.
      for part in (loaded.labels, loaded.labels[:777]):
        counts = np.bincount(part, minlength=len(loaded.class_names))
        self.assertLessEqual(counts.max() - counts.min(), 1)

  def test_twenty_sets_of_five_thousand(self):
    self.assertLen(sets.NAMES, 20)
    self.assertLen(sets.load("shapes").ids, 5000)
    self.assertLen(sets.load("digits").ids, 597)
    np.testing.assert_array_equal(
        sets.load("digits").labels,
        digits.labels()[list(digits.split("test"))])

  @parameterized.parameters(*sets.NAMES)
  def test_deterministic(self, name):
    one, two = sets.load(name), sets.load(name, limit=4)
    self.assertLen(two.ids, 4)
    for i in range(4):
      image = one.read(i)
      self.assertEqual(image.shape, (64, 64, 3))
      self.assertEqual(image.dtype, np.uint8)
      self.assertEqual(image.tobytes(), two.read(i).tobytes())

  @parameterized.parameters(*sets.BASES)
  def test_splits_share_no_image(self, name):
    seen = set()
    for split in sets.SPLITS:
      loaded = sets.load(name, split=split)
      seen |= {loaded.read(i).tobytes() for i in range(40)}
    self.assertLen(seen, 3 * 40)

  def test_classes_of_compositions_are_the_held_out_pairs(self):
    names = sets.load("compositions").class_names
    pairs = {tuple(name.split()) for name in names}
    self.assertEqual(pairs, scenes.HELD_OUT)
    self.assertLen(names, len(pairs))

  @parameterized.parameters(*sets.SHIFTS)
  def test_shifts_change_the_same_scenes(self, shift):
    for base in sets.BASES:
      clean, shifted = sets.load(base), sets.load(f"{base}-{shift}")
      np.testing.assert_array_equal(clean.labels, shifted.labels)
      self.assertEqual(clean.class_names, shifted.class_names)
      self.assertNotEqual(clean.read(5).tobytes(), shifted.read(5).tobytes())

  def test_noise_has_its_size(self):
    image = np.full((64, 64, 3), 128, np.uint8)
    noisy = sets.add_noise(image, np.random.default_rng(0)) / 255
    self.assertAlmostEqual(noisy.std(), .15, delta=.01)
    self.assertAlmostEqual(noisy.mean(), .5, delta=.01)

  def test_blur_keeps_the_mean_and_takes_detail(self):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::2] = 200
    blurred = sets.blur(stripes, np.random.default_rng(0)).astype(float)
    self.assertAlmostEqual(blurred.mean(), 100, delta=2)
    self.assertLess(blurred.std(), 5)

  def test_contrast_shrinks_around_the_mean(self):
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, :32] = [200, 100, 50]
    flat = sets.lower_contrast(image, np.random.default_rng(0)).astype(float)
    np.testing.assert_allclose(flat.mean(axis=(0, 1)), [100, 50, 25], atol=1)
    ratio = flat[..., 0].std() / image[..., 0].std()
    self.assertBetween(ratio, .5, .8)

  def test_sketch_draws_edges_and_keeps_fainter_colours(self):
    image = np.full((64, 64, 3), 255, np.uint8)
    image[20:44, 20:44] = [200, 0, 0]
    drawn = sets.sketch(image, np.random.default_rng(0)).astype(int)
    self.assertGreater(drawn[4, 4].min(), 250)
    self.assertLess(drawn[32, 20].max(), 100)
    inside = drawn[32, 32]
    self.assertGreater(inside[0], 200)
    self.assertBetween(inside[1], 5, 70)

  def test_photos_keep_their_conditions(self):
    for base, conditions in sets.CONDITIONS.items():
      scenes_seen = [
          sets._scene(base, "validation", i, [0, 1, i]) for i in range(50)]
      for scene in scenes_seen:
        self.assertEqual(scenes.STYLES[scene.style], "photo")
        self.assertBetween(scene.pose.radius, *conditions.radius)
        self.assertBetween(scene.camera.noise, *conditions.noise)
        self.assertBetween(scene.camera.contrast, *conditions.contrast)

  def test_errors(self):
    with self.assertRaisesRegex(ValueError, "'shapes-fog'; did you mean shap"):
      sets.load("shapes-fog")
    with self.assertRaisesRegex(ValueError, "train, validation, test"):
      sets.load("shapes", split="dev")
    with self.assertRaisesRegex(ValueError, "at least 1 image"):
      sets.load("shapes", limit=0)


if __name__ == "__main__":
  absltest.main()
