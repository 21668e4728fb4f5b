"""Captions as features: tokens, cropping, and independence of the batch."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from jaxcal.clip import captions
from jaxcal.clip import checkpoint
from jaxcal.clip import towers
from jaxcal.testbed import shipped

_SHORT = ("a red circle", "a big blue square on a green background", "a dot")
_MIDDLE = " ".join(["a red circle"] * 7)  # beyond 16 tokens
_LONG = " ".join(["a big blue square"] * 20)


class CaptionsTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.model = checkpoint.load(shipped.folder())

  def _uncropped(self, texts):
    """Features by hand, each row of the tower's full length."""
    config = self.model.config
    ids = np.zeros((len(texts), config.context_length), np.int32)
    for row, text in zip(ids, texts):
      tokens = self.model.tokenizer(text)["input_ids"]
      if len(tokens) > len(row):
        tokens = [*tokens[:len(row) - 1], tokens[-1]]
      row[:len(tokens)] = tokens
    ends = (ids == config.eos_token_id).argmax(1)
    return towers.pooled_text(
        config, self.model.params,
        towers.token_embeddings(self.model.params, ids), ends)

  @parameterized.parameters(
      (_SHORT, 16), ((*_SHORT, _MIDDLE), 32), ((*_SHORT, _LONG), 32))
  def test_rows_are_as_short_as_the_longest_text_allows(self, texts, length):
    ids, ends = captions.tokenise(self.model, texts)
    self.assertEqual(ids.shape, (len(texts), length))
    for row, end, text in zip(ids, ends, texts):
      self.assertEqual(row[end], self.model.config.eos_token_id)
      self.assertFalse(row[end + 1:].any())
      tokens = self.model.tokenizer(text)["input_ids"]
      self.assertEqual(row[:end].tolist(), tokens[:-1][:length - 1])

  def test_truncation_keeps_the_end(self):
    ids, ends = captions.tokenise(self.model, [_LONG])
    self.assertEqual(ends.tolist(), [self.model.config.context_length - 1])
    self.assertEqual(ids[0, -1], self.model.config.eos_token_id)

  @parameterized.parameters((_SHORT,), ((_SHORT[0], _MIDDLE),), ((_LONG,),))
  def test_cropping_is_exact(self, texts):
    expected = np.asarray(self._uncropped(texts))
    np.testing.assert_allclose(
        captions.pooled(self.model, texts), expected,
        atol=1e-6 * np.abs(expected).max())

  def test_a_text_does_not_see_the_others(self):
    alone = captions.pooled(self.model, _SHORT[:1])
    for others in (_SHORT[1:], (_LONG, _MIDDLE)):
      together = captions.pooled(self.model, (*others, _SHORT[0]))
      np.testing.assert_allclose(
          together[-1], alone[0], atol=1e-6 * np.abs(alone).max())

  def test_half_precision_gives_full_precision_features(self):
    half = checkpoint.in_precision(
        self.model, image="highest", text="bfloat16")
    features = captions.pooled(half, _SHORT)
    self.assertEqual(features.dtype, np.float32)
    expected = np.asarray(captions.pooled(self.model, _SHORT))
    np.testing.assert_allclose(
        features, expected, atol=0.05 * np.abs(expected).max())

  @parameterized.parameters(((),), ("a red circle",))
  def test_no_sequence_of_texts(self, texts):
    with self.assertRaisesRegex(ValueError, "expected a sequence of texts"):
      captions.tokenise(self.model, texts)

  def test_a_model_without_tokenizer(self):
    bare = dataclasses.replace(self.model, tokenizer=None)
    with self.assertRaisesRegex(ValueError, "came without a tokenizer"):
      captions.tokenise(bare, _SHORT)


if __name__ == "__main__":
  absltest.main()
