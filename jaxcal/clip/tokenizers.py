"""Tokenizers out of the files of a checkpoint, which are looked at first.

A vocabulary that is cut off may still be one, with other tokens for the same
text; so it is compared with itself, and with the model.
"""

from collections.abc import Callable, Sequence
import dataclasses
import pathlib
from typing import Any

from jaxcal.clip import cleaning
from jaxcal.storage import damage

_WHOLE = "tokenizer.json"
_VOCABULARY = "vocab.json"
_MERGES = "merges.txt"
_PIECES = "spiece.model"
_SETTINGS = "tokenizer_config.json"
# Read by transformers where they are there.
_BESIDE = (_SETTINGS, "special_tokens_map.json", "added_tokens.json")
_WORD_END = "</w>"
_ALL = (_WHOLE, _VOCABULARY, _MERGES, _PIECES, *_BESIDE)
_SPECIAL = ("pad_token", "eos_token", "bos_token", "unk_token")
# In a model of sentencepiece: pieces, how it was trained, how texts are
# normalised, the latter two behind the pieces.
_PARTS_OF_PIECES = {1, 2, 3}


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
  """A tokenizer of transformers that sees cleaned texts.

  Attributes:
    tokenizer: Tokenizer of transformers.
    clean: Function from a text to what was tokenised of it in training.
  """

  tokenizer: Any
  clean: Callable[[str], str]

  def __call__(
      self,
      texts: str | Sequence[str],
      *,
      truncation: bool = False,
      padding: bool | str = False,
      max_length: int | None = None,
  ) -> dict[str, Any]:
    """Token ids of a text, or of each text, as "input_ids".

    Args:
      texts: Text, or several.
      truncation: Whether longer texts are cut to `max_length`.
      padding: Padding as transformers has it: "max_length", or none.
      max_length: Number of tokens to cut and to pad to.
    """
    cleaned: str | list[str] = (
        self.clean(texts) if isinstance(texts, str)
        else [self.clean(text) for text in texts])
    found = self.tokenizer(cleaned, truncation=truncation, padding=padding,
                           max_length=max_length)
    return {"input_ids": found["input_ids"]}

  def __len__(self) -> int:
    return len(self.tokenizer)

  @property
  def pad_token_id(self) -> int:
    """Id of the token that fills rows."""
    return self.tokenizer.pad_token_id

  def get_vocab(self) -> dict[str, int]:
    """Ids by token."""
    return self.tokenizer.get_vocab()


def of_clip(folder: pathlib.Path) -> Tokenizer | None:
  """The tokenizer of a CLIP; None where the folder has no files of one.

  Texts are cleaned as the released CLIP does, see `cleaning.clean`.

  Raises:
    damage.DamagedFile: A file is damaged; names it.
  """
  whole = (folder / _WHOLE).exists()
  if not whole and not all(
      (folder / file).exists() for file in (_VOCABULARY, _MERGES)):
    return None
  for file in (_WHOLE, *_BESIDE):
    _check_object(folder / file)
  if all((folder / file).exists() for file in (_VOCABULARY, _MERGES)):
    _check_merges(folder / _VOCABULARY, folder / _MERGES)
  import transformers
  with damage.told(_tokenizer_of(folder)):
    found = Tokenizer(transformers.CLIPTokenizerFast.from_pretrained(
        folder, local_files_only=True), cleaning.clean)
    _check_ends(found.tokenizer, starts=True)
  return found


def of_siglip(folder: pathlib.Path) -> Any:
  """The tokenizer of a SigLIP; None where the folder has no files of one.

  A SigLIP has spiece.model, whose tokenizer cleans texts itself; a SigLIP 2 has
  tokenizer.json, and texts in lower case.

  Raises:
    damage.DamagedFile: A file is damaged; names it.
    ImportError: The tokenizer needs packages that are not installed.
  """
  if (folder / _PIECES).exists():
    return _of_pieces(folder)
  if (folder / _WHOLE).exists():
    return _of_json(folder)
  return None


def check_fits(
    tokenizer: Any, vocab_size: int, folder: pathlib.Path) -> None:
  """Refuses a tokenizer that gives ids the text tower has no vectors for.

  Args:
    tokenizer: Tokenizer from `of_clip` or `of_siglip`.
    vocab_size: Number of token vectors of the text tower.
    folder: Folder of the tokenizer, for the error.

  Raises:
    ValueError: It does.
  """
  ids = tokenizer.get_vocab().values()
  count = max(len(tokenizer), 1 + max(ids, default=0))
  if count > vocab_size:
    raise ValueError(
        f"the tokenizer in {folder} has {count} tokens, but the text "
        f"tower only {vocab_size}; it belongs to another model")


def _of_pieces(folder):
  try:
    import google.protobuf  # noqa: F401
    import sentencepiece  # noqa: F401
  except ImportError as error:
    raise ImportError(
        f"the tokenizer in {folder} needs sentencepiece and protobuf: "
        "pip install 'jaxcal[siglip]'") from error
  import transformers
  for file in _BESIDE:
    _check_object(folder / file)
  path = folder / _PIECES
  damage.refuse_stub(path)
  with damage.told(path):
    if not _PARTS_OF_PIECES <= _fields_of(path.read_bytes()):
      raise ValueError("it is cut off")
  with damage.told(_tokenizer_of(folder)):
    found = transformers.SiglipTokenizer.from_pretrained(
        folder, local_files_only=True)
    _check_ends(found, starts=False)
  return found


def _of_json(folder):
  """The fast tokenizer of tokenizer.json, without code for its family."""
  import transformers
  path, settings = folder / _WHOLE, {}
  _check_object(path)
  if (folder / _SETTINGS).exists():
    settings = damage.read_object(folder / _SETTINGS)
  # As a text, or as an object with the text and how to look for it.
  special = {name: value.get("content") if isinstance(value, dict) else value
             for name in _SPECIAL
             if (value := settings.get(name)) is not None}
  with damage.told(_tokenizer_of(folder)):
    found = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(path), **special)
    _check_ends(found, starts=False)
  return Tokenizer(found, str.lower)


def _tokenizer_of(folder):
  """What to call a tokenizer that several files make together."""
  files = ", ".join(file for file in _ALL if (folder / file).exists())
  return f"the tokenizer in {folder} ({files})"


def _check_ends(tokenizer, *, starts):
  """Refuses rows that prompts cannot be made of; a call tells what is wrong."""
  start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
  row = tokenizer("a")["input_ids"]
  if not row or row[-1] != end or (row[0] == start) != starts or (
      tokenizer.pad_token_id is None):
    raise ValueError(
        f"it makes {row} of 'a', with {start=}, {end=} and padding="
        f"{tokenizer.pad_token_id}; expected "
        f"{'a start token, ' if starts else ''}tokens and an end token")


def _check_object(path):
  if path.exists():
    damage.read_object(path)


def _check_merges(vocabulary_path, merges_path):
  """Every token but the single letters is made by a merge of two others."""
  vocabulary = damage.read_object(vocabulary_path)
  ids = list(vocabulary.values())
  if not all(type(number) is int and number >= 0 for number in ids):
    raise damage.DamagedFile(
        vocabulary_path, "expected an id, 0 or more, for every token")
  if len(set(ids)) < len(ids):
    raise damage.DamagedFile(vocabulary_path, "two tokens have one id")
  damage.refuse_stub(merges_path)
  with damage.told(merges_path):
    lines = merges_path.read_text(encoding="utf-8").splitlines()
  pairs = [line.split(" ") for line in lines
           if line and not line.startswith("#version")]
  made = {"".join(pair) for pair in pairs}
  odd = sorted(made - vocabulary.keys())
  if odd:
    raise damage.DamagedFile(
        vocabulary_path if len(odd) > 1 else merges_path,
        f"{merges_path.name} makes {odd[0]!r}, which {vocabulary_path.name} "
        "does not have")
  lost = [token for token in vocabulary if token not in made and
          len(token.removesuffix(_WORD_END)) > 1 and
          not (token.startswith("<") and token.endswith(">"))]
  if lost:
    raise damage.DamagedFile(
        merges_path, f"it makes none of {len(lost)} tokens that "
        f"{vocabulary_path.name} has, such as {lost[0]!r}")


def _fields_of(content):
  """Numbers of the fields of a protobuf that is whole.

  The parser takes one that ends between two fields.
  """
  found, place = set(), 0
  while place < len(content):
    key, place = _varint(content, place)
    found.add(key >> 3)
    if key & 7 == 2:
      length, place = _varint(content, place)
      place += length
    elif key & 7 in (1, 5):
      place += 8 if key & 7 == 1 else 4
    else:
      _, place = _varint(content, place)
  if place > len(content):
    raise ValueError("it is cut off")
  return found


def _varint(content, place):
  value, shift = 0, 0
  while True:
    byte = content[place]
    value |= (byte & 127) << shift
    place, shift = place + 1, shift + 7
    if byte < 128:
      return value, place
