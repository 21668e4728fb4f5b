"""Tokenizers: what is damaged is named, and texts are cleaned before."""

import json
import pathlib
import shutil

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from jaxcal.clip import captions
from jaxcal.clip import checkpoint
from jaxcal.clip import encoder
from jaxcal.clip import prompts
from jaxcal.clip import tokenizers
from jaxcal.storage import damage
from jaxcal.testbed import tokenizer as tokenizer_lib
from tests.clip import siglip_test
from tests.clip import tiny

_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


class ClipTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    tokenizer_lib.save(["photo", "cat", "house"], self.folder)

  def _refuses(self, file, message=""):
    with self.assertRaisesRegex(
        damage.DamagedFile, f"{file}.* is damaged .*{message}"):
      tokenizers.of_clip(self.folder)

  def _cut(self, file, share):
    path = self.folder / file
    content = path.read_bytes()
    path.write_bytes(content[:int(share * len(content))])

  @parameterized.product(
      file=("vocab.json", "merges.txt", "tokenizer_config.json",
            "tokenizer.json"),
      content=(b"", _POINTER, b"{", b"\xff\xfe", b"[" * 100_000))
  def test_files_that_are_none(self, file, content):
    (self.folder / file).write_bytes(content)
    self._refuses(file)

  @parameterized.product(file=("vocab.json", "merges.txt"), share=(.3, .6, .9))
  def test_cut_off(self, file, share):
    self._cut(file, share)
    self._refuses(file)

  def test_merges_that_end_with_a_line(self):
    """A shorter list is one, too, and would give other tokens."""
    path = self.folder / "merges.txt"
    lines = path.read_text("utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:-2]), "utf-8")
    self._refuses("merges.txt", "makes none of 2 tokens that vocab.json has")

  @parameterized.parameters(-1, 1.5, None, "7", True, 3)
  def test_ids_that_are_none(self, number):
    path = self.folder / "vocab.json"
    vocabulary = json.loads(path.read_text("utf-8"))
    vocabulary["photo</w>"] = number
    path.write_text(json.dumps(vocabulary), "utf-8")
    self._refuses("vocab.json")

  def test_an_id_that_the_tower_has_no_vector_of(self):
    path = self.folder / "vocab.json"
    vocabulary = json.loads(path.read_text("utf-8"))
    vocabulary["photo</w>"] = 10**6
    path.write_text(json.dumps(vocabulary), "utf-8")
    tokenizer = tokenizers.of_clip(self.folder)
    with self.assertRaisesRegex(ValueError, "1000001 tokens, .* only 2000"):
      tokenizers.check_fits(tokenizer, 2000, self.folder)

  @parameterized.parameters(
      ({"model_max_length": []},), ({"model_max_length": {}},))
  def test_settings_of_the_tokenizer(self, changes):
    path = self.folder / "tokenizer_config.json"
    settings = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(settings | changes), "utf-8")
    self._refuses("tokenizer_config.json")

  @parameterized.parameters(
      ("cat &amp; house", "cat & house"), ("\uff43\uff41\uff54", "cat"),
      ("the cat\u2019s house", "the cat's house"),
      ("caf\u00c3\u00a9", "caf\u00e9"))
  def test_texts_are_cleaned(self, written, cleaned):
    tokenizer = tokenizers.of_clip(self.folder)
    end = tokenizer("")["input_ids"][-1]
    rows = [prompts.prompt_bank(tokenizer, [name], context_length=77,
                                eos_token_id=end).token_ids
            for name in (written, cleaned)]
    np.testing.assert_array_equal(*rows)
    self.assertEqual(tokenizer([written])["input_ids"][0],
                     tokenizer(cleaned)["input_ids"])
    self.assertNotEqual(tokenizer.tokenizer(written)["input_ids"],
                        tokenizer.tokenizer(cleaned)["input_ids"])

  @parameterized.parameters("&nbsp;", "\x00", "\ufeff")
  def test_a_name_of_which_nothing_is_left(self, name):
    with self.assertRaisesRegex(ValueError, "class 1 has a name of which"):
      prompts.prompt_bank(
          tokenizers.of_clip(self.folder), ["cat", name], context_length=77,
          eos_token_id=2)


class SiglipTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = tiny.write_siglip(self.create_tempdir().full_path)

  @parameterized.parameters(b"", _POINTER, b"garbage", b"\x0a\xff\xff")
  def test_pieces_that_are_none(self, content):
    self._needs_sentencepiece()
    (self.folder / "spiece.model").write_bytes(content)
    with self.assertRaisesRegex(damage.DamagedFile, "spiece.model is damaged"):
      checkpoint.load(self.folder)

  def test_pieces_that_are_cut_off(self):
    """Between two pieces, too, where the parser sees a smaller vocabulary."""
    self._needs_sentencepiece()
    content = siglip_test._sentencepiece()
    piece = 2 + content[1]
    for end in (piece, 2 * piece, len(content) // 2, len(content) - 1):
      (self.folder / "spiece.model").write_bytes(content[:end])
      with self.assertRaisesRegex(damage.DamagedFile, "spiece.model is damag"):
        checkpoint.load(self.folder)

  def _needs_sentencepiece(self):
    try:
      import google.protobuf  # noqa: F401
      import sentencepiece  # noqa: F401
    except ImportError:
      self.skipTest("no sentencepiece")

  def _write_json(self, end=True, **settings):
    """A tokenizer of whole words, as a SigLIP 2 has one of Gemma's."""
    import tokenizers as fast
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "a", "photo", "of", "cat", "."]
    made = fast.Tokenizer(fast.models.WordLevel(
        {word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = fast.pre_tokenizers.Whitespace()
    if end:
      made.post_processor = fast.processors.TemplateProcessing(
          single="$A <eos>", special_tokens=[("<eos>", 1)])
    made.save(str(self.folder / "tokenizer.json"))
    tiny.write_json(self.folder / "tokenizer_config.json", {
        "tokenizer_class": "GemmaTokenizer", "pad_token": "<pad>",
        "eos_token": {"content": "<eos>", "lstrip": False},
        "unk_token": "<unk>", "bos_token": "<bos>"} | settings)

  def test_a_siglip_2(self):
    self._write_json()
    model = checkpoint.load(self.folder)
    bank = encoder.prompt_bank(model, ["Cat"], template="A photo of a {}.")
    self.assertEqual(
        bank.token_ids.tolist(), [[4, 5, 6, 4, 7, 8, 1, 0, 0]])
    self.assertEqual(bank.context_positions.tolist(), [[0, 1, 2, 3]])
    ids, ends = captions.tokenise(model, ["a photo of a CAT."])
    np.testing.assert_array_equal(ids, bank.token_ids)
    np.testing.assert_array_equal(ends, bank.end_positions)

  @parameterized.parameters(
      ({"end": False}, "expected tokens and an end token"),
      ({"pad_token": None}, "expected tokens and an end token"),
      ({"eos_token": 5}, ""))
  def test_a_siglip_2_without_an_end(self, changes, message):
    self._write_json(**changes)
    with self.assertRaisesRegex(
        damage.DamagedFile, f"tokenizer.json, .*is damaged .*{message}"):
      checkpoint.load(self.folder)

  def test_a_tokenizer_that_is_cut_off(self):
    self._write_json()
    path = self.folder / "tokenizer.json"
    path.write_text(path.read_text()[:200])
    with self.assertRaisesRegex(damage.DamagedFile, "tokenizer.json is damag"):
      checkpoint.load(self.folder)


class SeveralFilesTest(absltest.TestCase):

  def test_the_vocabulary_beside_a_whole_tokenizer(self):
    """Either form gives the same tokens."""
    folder = pathlib.Path(self.create_tempdir().full_path)
    tokenizer_lib.save(["photo", "cat"], folder)
    parts = tokenizers.of_clip(folder)
    whole = pathlib.Path(self.create_tempdir().full_path)
    parts.tokenizer.save_pretrained(whole)
    for file in ("vocab.json", "merges.txt"):
      (whole / file).unlink(missing_ok=True)
    self.assertEqual(tokenizers.of_clip(whole)("a photo")["input_ids"],
                     parts("a photo")["input_ids"])
    shutil.rmtree(whole)
    whole.mkdir()
    self.assertIsNone(tokenizers.of_clip(whole))


if __name__ == "__main__":
  absltest.main()
