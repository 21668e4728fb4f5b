"""Prompts in CLIP's own tokens, by the published list of its merges."""

import functools
import gzip
import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from jaxcal.clip import prompts
from jaxcal.testbed import tokenizer as tokenizer_lib
from tests import shared

_MERGES = shared.path("data/clip_bpe") / "bpe_simple_vocab_16e6.txt.gz"
# EOT index, minimum / mean / maximum, of "a photo of a {}." as the released
# test-time tuning codes tokenise their class names.
_ENDS = {
    "imagenet": (7, 8.16, 17),
    "sun397": (7, 7.98, 11),
    "stanford_cars": (13, 14.54, 22),
    "food101": (7, 8.17, 12),
    "oxford_flowers": (7, 8.54, 12),
    "ucf101": (7, 8.10, 11),
    "oxford_pets": (7, 8.16, 10),
    "fgvc_aircraft": (7, 11.24, 14),
    "caltech101": (7, 7.47, 9),
    "dtd": (7, 7.96, 9),
    "eurosat": (7, 8.40, 10),
}


@functools.cache
def _tokenizer():
  """CLIP's own tokenizer from its published list of merges."""
  import transformers
  lines = gzip.decompress(_MERGES.read_bytes()).decode("utf-8").split("\n")
  merges = [tuple(line.split()) for line in lines[1:49152 - 256 - 2 + 1]]
  folder = pathlib.Path(absltest.get_default_test_tmpdir()) / "clip_bpe"
  folder.mkdir(parents=True, exist_ok=True)
  tokenizer_lib.save_merges(merges, folder, 77)
  return transformers.CLIPTokenizerFast.from_pretrained(folder)


class ClipTokenizerTest(parameterized.TestCase):

  def _bank(self, names, **settings):
    return prompts.prompt_bank(
        _tokenizer(), names, context_length=77, eos_token_id=2, **settings)

  def test_a_photo_of_a(self):
    bank = self._bank(["Tiger_cat", "dog"], crop=False)
    self.assertEqual(bank.token_ids.shape, (2, 77))
    self.assertEqual(
        bank.token_ids[1, :8].tolist(),
        [49406, 320, 1125, 539, 320, 1929, 269, 49407])
    self.assertEqual(bank.context_positions.tolist(), [[1, 2, 3, 4]] * 2)
    self.assertEqual(bank.end_positions.tolist(), [8, 7])
    self.assertEqual(
        bank.token_ids[0].tolist(),
        self._bank(["tiger cat"], crop=False).token_ids[0].tolist())

  @parameterized.parameters(*_ENDS)
  def test_where_the_prompts_of_known_data_sets_end(self, name):
    folder = shared.path("data/class_names")
    names = json.loads((folder / "class_names.json").read_text())[name]
    bank = self._bank(names)
    ends = np.asarray(bank.end_positions)
    lowest, mean, highest = _ENDS[name]
    self.assertEqual((ends.min(), ends.max()), (lowest, highest))
    self.assertAlmostEqual(ends.mean(), mean, delta=0.00501)
    self.assertEqual(bank.token_ids.shape[1], highest + 1)

  def test_placeholders(self):
    bank = self._bank(["dog"], num_context_tokens=16)
    self.assertLen(set(bank.token_ids[0, 1:17].tolist()), 1)
    self.assertEqual(
        bank.token_ids[0, 17:].tolist(), [1929, 269, 49407])

  def test_a_name_too_long_is_named(self):
    with self.assertRaisesRegex(
        ValueError, "77 positions, but 'very very.*' needs 87; shorten"):
      self._bank(["dog", "very " * 80])


if __name__ == "__main__":
  absltest.main()
