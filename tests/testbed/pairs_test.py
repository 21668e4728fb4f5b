"""Tests of jaxcal.testbed.pairs."""

import json

from absl.testing import absltest
import numpy as np

from jaxcal.data import pairs as pair_sets
from jaxcal.testbed import captions
from jaxcal.testbed import pairs
from jaxcal.testbed import scenes
from jaxcal.testbed import shipped
from jaxcal.testbed import tokenizer
from jaxcal.testbed import train


class PairsTest(absltest.TestCase):

  def test_deterministic_and_a_longer_set_begins_with_the_shorter(self):
    first, again = pairs.load(20), pairs.load(20)
    pair_sets.check(first)
    self.assertEqual((first.ids, first.captions), (again.ids, again.captions))
    longer = pair_sets.limit(pairs.load(50), 20)
    self.assertEqual(first.ids, longer.ids)
    self.assertEqual(first.captions, longer.captions)
    for position in (19, 0, 8):
      image = first.read(position)
      self.assertEqual((image.shape, image.dtype), ((64, 64, 3), np.uint8))
      np.testing.assert_array_equal(image, longer.read(position))
    other = pairs.load(20, seed=2)
    self.assertNotEqual(first.captions, other.captions)
    self.assertEmpty(set(first.ids) & set(other.ids))
    self.assertFalse(np.array_equal(first.read(3), other.read(3)))

  def test_captions_are_true_of_the_scenes_and_not_of_others(self):
    pair_set = pairs.load(400)
    values = [captions.attributes(train.training_scene(1, i))
              for i in range(400)]
    for i, caption in enumerate(pair_set.captions):
      subject = scenes.SUBJECTS[values[i][0]].split()[-1]
      words = set(caption.rstrip(".").split())
      named = [name for name in scenes.SHAPES if name in words]
      # Words for other shapes than the scene's would be a lie.
      self.assertIn(named, ([], [subject]), caption)
      textures = words & set(scenes.TEXTURES)
      if textures:
        self.assertEqual(textures, {scenes.TEXTURES[values[i][2]]}, caption)
    self.assertGreater(len(set(pair_set.captions)), 200)

  def test_scenes_are_fresh_by_default(self):
    # The seed of the shipped model is on record.
    record = json.loads((shipped.folder() / "training.json").read_text())
    self.assertEqual(record["seed"], 0)
    default = pairs.load(10)
    for position in range(10):
      drawn = scenes.render(train.training_scene(0, position))
      self.assertFalse(np.array_equal(default.read(position), drawn))
      np.testing.assert_array_equal(
          pairs.load(10, seed=0).read(position), drawn)

  def test_captions_fit_the_shipped_tokenizer(self):
    vocabulary = json.loads((shipped.folder() / "vocab.json").read_text())
    # Raises where a word is not one token, or a caption has more than 16.
    rows = tokenizer.encode_all(pairs.load(2000).captions, vocabulary, 16)
    self.assertEqual(rows.shape, (2000, 16))
    self.assertTrue((rows[:, -1] == vocabulary[tokenizer.END]).all())

  def test_refuses_no_pairs(self):
    with self.assertRaisesRegex(ValueError, "at least 1 pair, got 0"):
      pairs.load(0)


if __name__ == "__main__":
  absltest.main()
