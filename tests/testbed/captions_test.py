"""Captions: true of their scene, and made of known words."""

from absl.testing import absltest
import numpy as np

from jaxcal.testbed import captions
from jaxcal.testbed import digits
from jaxcal.testbed import scenes
from jaxcal.testbed import tokenizer


def _scenes(count):
  drawn = [scenes.draw(np.random.default_rng([7, i])) for i in range(count)]
  scans = digits.split("train")[:count // 8]
  return drawn + [
      scenes.draw(np.random.default_rng([8, i]), scan=scan)
      for i, scan in enumerate(scans)]


class CaptionsTest(absltest.TestCase):

  def test_deterministic(self):
    values = [captions.attributes(scene) for scene in _scenes(50)]
    first, again, other = (
        [captions.compose(v, rng).text for v in values]
        for rng in map(np.random.default_rng, (1, 1, 2)))
    self.assertEqual(first, again)
    self.assertNotEqual(first, other)

  def test_every_word_is_in_the_vocabulary(self):
    known = set(captions.vocabulary())
    rng = np.random.default_rng(0)
    seen = set()
    for scene in _scenes(2500):
      caption = captions.compose(captions.attributes(scene), rng)
      seen |= set(caption.text.replace(".", "").split())
    self.assertEqual(seen, known)

  def test_claims_are_what_the_words_say(self):
    # Words that stand for one value of one attribute, wherever they occur.
    subjects = {name: i for i, name in enumerate(scenes.SHAPES)}
    textures = {name: i for i, name in enumerate(scenes.TEXTURES)}
    rng = np.random.default_rng(2)
    for scene in _scenes(1000):
      text, claims = captions.compose(captions.attributes(scene), rng)
      words = text.replace(".", "").split()
      for word in words:
        if word in subjects:
          self.assertEqual(claims[0], subjects[word], text)
        if word in textures:
          self.assertEqual(claims[2], textures[word], text)
        if word in ("photo", "picture"):
          self.assertEqual(scenes.STYLES[claims[3]], "photo", text)
        if word == "background":
          colour = words[words.index("background") - 1]
          if colour in scenes.COLOURS:
            self.assertEqual(scenes.COLOURS[claims[5]], colour, text)

  def test_captions_are_true_of_their_scene(self):
    drawn = _scenes(200)
    values = np.stack([captions.attributes(scene) for scene in drawn])
    rng = np.random.default_rng(3)
    claims = np.stack([captions.compose(v, rng).claims for v in values])
    true = captions.is_true(claims, values)
    self.assertTrue(np.diag(true).all())
    for i in range(0, 200, 17):
      for j in range(0, 200, 13):
        expected = all(c in (-1, v) for c, v in zip(claims[j], values[i]))
        self.assertEqual(true[i, j], expected)

  def test_outlines_have_no_texture_and_no_background(self):
    for style in ("sketch", "neon"):
      scene = scenes.draw(np.random.default_rng(0), style=style)
      values = captions.attributes(scene)
      self.assertEqual(values[captions.ATTRIBUTES.index("texture")], -1)
      self.assertEqual(values[captions.ATTRIBUTES.index("background")], -1)

  def test_captions_are_short(self):
    vocabulary, _ = tokenizer.build(captions.vocabulary())
    rng = np.random.default_rng(4)
    lengths = [
        len(tokenizer.encode(
            captions.compose(captions.attributes(scene), rng).text,
            vocabulary))
        for scene in _scenes(1000)]
    self.assertLessEqual(max(lengths), 16)


if __name__ == "__main__":
  absltest.main()
