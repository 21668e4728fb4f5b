"""The tokenizer's facts, and its files as transformers reads them."""

import json
import pathlib
import tempfile

from absl.testing import absltest
import numpy as np
import pytest

from jaxcal.testbed import captions
from jaxcal.testbed import scenes
from jaxcal.testbed import sets
from jaxcal.testbed import tokenizer


class TokenizerTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.vocabulary, cls.merges = tokenizer.build(captions.vocabulary())

  def test_layout(self):
    size = len(self.vocabulary)
    self.assertLess(size, 1000)
    self.assertEqual(sorted(self.vocabulary.values()), list(range(size)))
    self.assertEqual(self.vocabulary[tokenizer.END], size - 1)
    self.assertEqual(self.vocabulary[tokenizer.START], size - 2)
    self.assertEqual(size, 512 + len(self.merges) + 2)

  def test_context_is_four_tokens(self):
    self.assertLen(tokenizer.encode("a photo of a", self.vocabulary), 4 + 2)

  def test_every_word_is_one_token(self):
    for word in captions.vocabulary():
      self.assertLen(tokenizer.encode(word, self.vocabulary), 3)

  def test_period_is_its_own_token(self):
    with_period = tokenizer.encode("a red circle.", self.vocabulary)
    without = tokenizer.encode("a red circle", self.vocabulary)
    self.assertEqual(with_period[:4], without[:4])
    self.assertEqual(with_period[4], self.vocabulary[".</w>"])

  def test_word_of_one_letter_and_merges_of_repeats(self):
    vocabulary, merges = tokenizer.build(["a", "banana"])
    self.assertLen(tokenizer.encode("a banana", vocabulary), 4)
    self.assertLen(set(merges), len(merges))

  def test_padding(self):
    ids = tokenizer.encode_all(
        ["a ring.", "a big red ring."], self.vocabulary, 9)
    self.assertEqual(ids.shape, (2, 9))
    self.assertEqual(ids.dtype, np.int32)
    end = self.vocabulary[tokenizer.END]
    np.testing.assert_array_equal(ids[0, 4:], end)
    np.testing.assert_array_equal(ids[1, 6:], end)

  def test_errors(self):
    with self.assertRaisesRegex(ValueError, "'zebra'"):
      tokenizer.encode("a zebra", self.vocabulary)
    with self.assertRaisesRegex(ValueError, "has 5 tokens, at most 4"):
      tokenizer.encode_all(["a ring."], self.vocabulary, 4)

  def test_transformers_reads_the_files(self):
    transformers = pytest.importorskip("transformers")
    with tempfile.TemporaryDirectory() as folder:
      tokenizer.save(captions.vocabulary(), pathlib.Path(folder))
      theirs = transformers.CLIPTokenizer.from_pretrained(folder)
    end = self.vocabulary[tokenizer.END]
    self.assertEqual(theirs.eos_token_id, end)
    self.assertEqual(theirs.pad_token_id, end)
    self.assertEqual(theirs.bos_token_id, self.vocabulary[tokenizer.START])
    self.assertEqual(theirs.model_max_length, tokenizer.CONTEXT_LENGTH)
    rng = np.random.default_rng(0)
    texts = [
        captions.compose(captions.attributes(scenes.draw(rng)), rng).text
        for _ in range(200)]
    texts += [f"a photo of a {name}." for base in sets.BASES
              for name in sets.load(base, limit=1).class_names]
    for text in texts:
      self.assertEqual(
          theirs(text)["input_ids"], tokenizer.encode(text, self.vocabulary))
    # Bytes make every other word spellable.
    self.assertNotIn(end, theirs("a zebra, naïve!")["input_ids"][:-1])

  def test_files_say_the_same(self):
    with tempfile.TemporaryDirectory() as folder:
      tokenizer.save(captions.vocabulary(), pathlib.Path(folder))
      saved = json.loads((pathlib.Path(folder) / "vocab.json").read_text())
      lines = (pathlib.Path(folder) / "merges.txt").read_text().splitlines()
    self.assertEqual(saved, self.vocabulary)
    self.assertEqual([tuple(line.split()) for line in lines[1:]], self.merges)


if __name__ == "__main__":
  absltest.main()
