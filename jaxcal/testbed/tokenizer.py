"""A byte-level BPE tokenizer in CLIP's file layout, built from a word list."""

import collections
from collections.abc import Iterable, Sequence
import json
import pathlib
import re

import numpy as np

from jaxcal.typing import Int

START = "<|startoftext|>"
END = "<|endoftext|>"
CONTEXT_LENGTH = 32

_WORD_END = "</w>"
_WORDS = re.compile(r"\w+|[^\w\s]+")


def _byte_symbols():
  """The printable stand-ins of the 256 bytes that GPT-2's BPE introduced."""
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [byte for byte in range(256) if byte not in printable]
  return [chr(byte) for byte in printable] + [
      chr(256 + i) for i in range(len(others))]


def _merges(words):
  """Merges, most frequent first, until every word is a single symbol."""
  spellings = {
      word: (*word[:-1], word[-1] + _WORD_END) for word in sorted(set(words))}
  merges: list[tuple[str, str]] = []
  while True:
    pairs = collections.Counter(
        pair for symbols in spellings.values()
        for pair in zip(symbols, symbols[1:]))
    if not pairs:
      return merges
    best = min(pairs, key=lambda pair: (-pairs[pair], pair))
    merges.append(best)
    spellings = {
        word: _apply(best, symbols) for word, symbols in spellings.items()}


def _apply(pair, symbols):
  merged, position = [], 0
  while position < len(symbols):
    if symbols[position:position + 2] == pair:
      merged.append("".join(pair))
      position += 2
    else:
      merged.append(symbols[position])
      position += 1
  return tuple(merged)


def build(words: Iterable[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
  """Vocabulary and merges in which each of the words is one token.

  Args:
    words: Lower-case words without spaces; duplicates do not matter.

  Returns:
    Token -> id, laid out as CLIP's (bytes, bytes that end a word, merges, start
    token, end token), and the merges in the order of their ranks.
  """
  merges = _merges(words)
  return vocabulary_of(merges), merges


def vocabulary_of(merges: Sequence[tuple[str, str]]) -> dict[str, int]:
  """Token -> id, laid out as CLIP's, see `build`.

  Args:
    merges: Merges in the order of their ranks, such as those of CLIP's own
      tokenizer.
  """
  symbols = _byte_symbols()
  tokens = symbols + [symbol + _WORD_END for symbol in symbols]
  tokens += ["".join(pair) for pair in merges]
  tokens += [START, END]
  return {token: index for index, token in enumerate(tokens)}


def encode(text: str, vocabulary: dict[str, int]) -> list[int]:
  """Token ids of a sentence of known words, start and end token included.

  Raises:
    ValueError: If a word of the sentence is not a single token.
  """
  ids = [vocabulary[START]]
  for word in _WORDS.findall(text.lower()):
    if word + _WORD_END not in vocabulary:
      raise ValueError(f"{word!r} in {text!r} is not a word of the testbed")
    ids.append(vocabulary[word + _WORD_END])
  return ids + [vocabulary[END]]


def encode_all(
    texts: Iterable[str],
    vocabulary: dict[str, int],
    length: int = CONTEXT_LENGTH,
) -> Int[np.ndarray, "n t"]:
  """Token ids of sentences, padded with end tokens to one length.

  Raises:
    ValueError: If a sentence has an unknown word or more than `length` tokens.
  """
  rows = []
  for text in texts:
    ids = encode(text, vocabulary)
    if len(ids) > length:
      raise ValueError(f"{text!r} has {len(ids)} tokens, at most {length} fit")
    rows.append(ids + [vocabulary[END]] * (length - len(ids)))
  return np.array(rows, np.int32)


def save(words: Iterable[str], folder: pathlib.Path) -> None:
  """Writes the tokenizer that `build` makes of words, see `save_merges`."""
  save_merges(build(words)[1], folder, CONTEXT_LENGTH)


def save_merges(
    merges: Sequence[tuple[str, str]],
    folder: pathlib.Path,
    context_length: int,
) -> None:
  """Writes the tokenizer files that `transformers.CLIPTokenizer` reads.

  Args:
    merges: Merges in the order of their ranks.
    folder: An existing folder.
    context_length: Number of tokens that a prompt has at most.
  """
  special = {"bos_token": START, "eos_token": END, "pad_token": END,
             "unk_token": END}
  settings = special | {
      "tokenizer_class": "CLIPTokenizer", "do_lower_case": True,
      "add_prefix_space": False, "model_max_length": context_length,
      "errors": "replace",
  }
  _write_json(folder / "vocab.json", vocabulary_of(merges))
  _write_json(folder / "special_tokens_map.json", special)
  _write_json(folder / "tokenizer_config.json", settings)
  lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
  (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")


def _write_json(path, content):
  path.write_text(
      json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf-8")
