"""Outlier words for regularisation: where from, which ones, and when.

Wang, Li, Wei, Dynamic Outlier Regularization (DOR), ICML 2025, arXiv
2410.02681, keeps the features of words that are related to the classes but none
of them. Its vocabulary is the nouns of WordNet: those like the base classes are
kept (`rank`), and some of them are drawn for every step (`shuffled`).

A vocabulary is a tuple of words. None is part of the package.
"""

from collections.abc import Callable, Sequence
import os
import pathlib
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcal.compiled import compiled_with
from jaxcal.data import text_files
from jaxcal.tuning import protocol
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Key

# Where Debian's package wordnet-base puts WordNet 3.0.
WORDNET = "/usr/share/wordnet"

_NOUNS = "data.noun"
_WAY_OUT = (
    "Install it with `apt-get install wordnet-base` (or unpack that package "
    "anywhere and name the folder), name a folder with the database files of "
    "https://wordnet.princeton.edu, or use a file of words of your own "
    "(from_file) or the tokenizer's words (from_tokenizer).")
# Proper names, such as Paris, point to what they are an instance of.
_INSTANCE_OF = "@i"
_PLAIN_WORD = re.compile(r"[a-z][a-z' -]*")
_WORD_END = "</w>"
_SHORTEST_TOKEN = 3


class Ranking(NamedTuple):
  """Words by their likeness to the base classes, the most alike first.

  Attributes:
    positions: Positions of the kept words in the vocabulary.
    similarity: Mean cosine of each of them to the base classes.
  """

  positions: Int[Array, "r"]
  similarity: Float[Array, "r"]


def from_wordnet(folder: str | os.PathLike = WORDNET) -> tuple[str, ...]:
  """Nouns of WordNet without proper names, 78,295 in version 3.0.

  Left out are the synsets that are instances (Paris, Einstein), and forms with
  other than small letters, spaces, hyphens and apostrophes. Underscores become
  spaces.

  Args:
    folder: Folder with WordNet's database file of nouns, data.noun.

  Returns:
    Distinct words, sorted.

  Raises:
    FileNotFoundError: If there is no such file; says how to obtain it.
    ValueError: If the file is not of that form.

  Source: Wang et al. 2025.
  Differs from the released code in: could not be compared with it; which of
  WordNet's nouns are candidates is not published.
  """
  path = pathlib.Path(folder) / _NOUNS
  if not path.is_file():
    raise FileNotFoundError(f"no WordNet nouns in {path}. {_WAY_OUT}")
  words = set()
  with path.open(encoding="utf-8") as lines:
    for number, line in enumerate(lines, start=1):
      if not line.startswith("  "):  # The licence.
        try:
          words.update(_common_nouns(line))
        except (IndexError, ValueError) as error:
          raise ValueError(
              f"{path}, line {number} is not a synset in WordNet's database "
              f"format: {line[:60]!r}.") from error
  return tuple(sorted(filter(_PLAIN_WORD.fullmatch, words)))


def from_file(path: str | os.PathLike) -> tuple[str, ...]:
  """Words of a file, one per line.

  Underscores become spaces; empty lines and words that come again are skipped.

  Returns:
    Distinct words in the order of the file.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If it holds no words.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"no file of words {path}")
  lines = text_files.read(path).splitlines()
  written = (" ".join(line.replace("_", " ").split()) for line in lines)
  words = tuple(dict.fromkeys(filter(None, written)))
  if not words:
    raise ValueError(f"{path} holds no words; one per line expected.")
  return words


def from_tokenizer(tokenizer: Any) -> tuple[str, ...]:
  """Whole words among a CLIP tokenizer's tokens.

  They need not be nouns, and common endings of words ("ing") are among them.

  Args:
    tokenizer: Tokenizer of transformers, whose tokens end in "</w>" where a
      word does.

  Returns:
    Distinct words of three or more letters from a to z, sorted.

  Raises:
    ValueError: If it has no such tokens.
  """
  tokens = (token.removesuffix(_WORD_END) for token in tokenizer.get_vocab()
            if token.endswith(_WORD_END))
  words = tuple(sorted(
      token for token in tokens if len(token) >= _SHORTEST_TOKEN and
      token.isascii() and token.isalpha()))
  if not words:
    raise ValueError(
        f"the tokenizer has no whole words (tokens that end in {_WORD_END!r}); "
        "use from_wordnet or from_file.")
  return words


def of_source(source: str, tokenizer: Any = None) -> tuple[str, ...]:
  """Words from wherever a text says.

  Args:
    source: "wordnet", "wordnet:FOLDER", "tokenizer", or the path of a file.
    tokenizer: See `from_tokenizer`; needed for "tokenizer" alone.

  Raises:
    FileNotFoundError: There is nothing.
    ValueError: It holds no words.
  """
  kind, _, folder = source.partition(":")
  if kind == "wordnet":
    return from_wordnet(os.path.expanduser(folder) or WORDNET)
  if kind == "tokenizer":
    return from_tokenizer(tokenizer)
  return from_file(source)


def exclude(words: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
  """The vocabulary without some names, such as those of the base classes.

  Args:
    words: The vocabulary.
    names: Names to leave out; case does not count, and underscores are spaces.

  Raises:
    ValueError: If no word is left.
  """
  left_out = set(map(protocol.plain_name, names))
  kept = tuple(
      word for word in words if protocol.plain_name(word) not in left_out)
  if not kept:
    raise ValueError(f"of {len(words)} words none is left without the "
                     f"{len(names)} names to exclude; use a larger vocabulary.")
  return kept


def overlap(words: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
  """Which names are in the vocabulary: what the outliers give away.

  Where names of the new classes are regularised, results on new classes are
  better than they would be on truly unknown ones. To be reported with every
  result; `exclude` removes them.

  Args:
    words: The vocabulary, or what was kept of it.
    names: Names of the new classes; case does not count, and underscores are
      spaces.

  Returns:
    The names that are words, as given.
  """
  known = set(map(protocol.plain_name, words))
  return tuple(name for name in names if protocol.plain_name(name) in known)


@compiled_with("num_kept")
def rank(
    features: Float[Array, "n d"],
    base_features: Float[Array, "k d"],
    num_kept: int = 5000,
) -> Ranking:
  """The words with the greatest mean cosine to the base classes.

  The mean of cosines is the product with the mean base feature, so that no
  matrix of words and classes is made.

  Args:
    features: Unit-norm text features of the vocabulary, zero-shot.
    base_features: Unit-norm text features of the base classes, zero-shot, of
      the same template ("a photo of a {}.").
    num_kept: How many to keep, at least 1; all where there are not so many.

  Returns:
    Equally similar words come in the order of the vocabulary.

  Raises:
    ValueError: If `num_kept` is below 1, or shapes do not fit together.

  Source: Wang et al. 2025, near outliers.
  Differs from the released code in: could not be compared with it; the template
  is not published.
  """
  if num_kept < 1:
    raise ValueError(f"expected at least 1 word to keep, got {num_kept}.")
  if (features.ndim, base_features.ndim) != (2, 2) or (
      features.shape[1] != base_features.shape[1]) or not len(base_features):
    raise ValueError("features [words, d] and base features [classes, d] "
                     f"expected, but {features.shape=} and "
                     f"{base_features.shape=}.")
  wide = jnp.promote_types(features.dtype, jnp.float32)
  similarity = jnp.matmul(
      features.astype(wide), jnp.mean(base_features.astype(wide), axis=0),
      precision=jax.lax.Precision.HIGHEST)
  positions = jnp.argsort(similarity, descending=True, stable=True)[:num_kept]
  return Ranking(positions, similarity[positions])


@compiled_with("num_words", "num_drawn")
def shuffled(
    key: Key[Array, ""],
    step: int | Int[Array, ""],
    *,
    num_words: int,
    num_drawn: int,
) -> Int[Array, "r"]:
  """The words of a step, drawn without replacement until all are used.

  No word comes twice in a pass through all of them, and every pass is shuffled
  anew. Words that would not fill the last step of a pass are left out of it.
  The words of a step depend on nothing but the arguments, so that training can
  stop and go on anywhere.

  Args:
    key: Key of the whole training.
    step: Number of the step, from 0; may be traced.
    num_words: Number of words in the vocabulary.
    num_drawn: Number of words per step; in the paper that of the base classes.

  Returns:
    Distinct positions in [0, num_words), `num_drawn` of them, or all in another
    order where there are not so many.

  Raises:
    ValueError: If there are no words, or none to draw.

  Source: Wang et al. 2025.
  Differs from the released code in: could not be compared with it; that words
  are drawn anew in each step is known, the order is not.
  """
  num_drawn = _num_drawn(num_words, num_drawn)
  steps_per_pass = num_words // num_drawn
  order = jax.random.permutation(
      jax.random.fold_in(key, step // steps_per_pass), num_words)
  return jax.lax.dynamic_slice_in_dim(
      order, step % steps_per_pass * num_drawn, num_drawn)


@compiled_with("num_words", "num_drawn")
def iid(
    key: Key[Array, ""],
    step: int | Int[Array, ""],
    *,
    num_words: int,
    num_drawn: int,
) -> Int[Array, "r"]:
  """Other words in each step, whatever the steps before had; see `shuffled`.

  Within a step they are distinct.
  """
  num_drawn = _num_drawn(num_words, num_drawn)
  return jax.random.permutation(
      jax.random.fold_in(key, step), num_words)[:num_drawn]


@compiled_with("num_words", "num_drawn")
def fixed(
    key: Key[Array, ""],
    step: int | Int[Array, ""],
    *,
    num_words: int,
    num_drawn: int,
) -> Int[Array, "r"]:
  """The same words in each step, drawn once; see `shuffled`."""
  del step
  return jax.random.permutation(
      key, num_words)[:_num_drawn(num_words, num_drawn)]


# How words are drawn, by name.
DRAWS: dict[str, Callable[..., Int[Array, "r"]]] = {
    "shuffled": shuffled, "iid": iid, "fixed": fixed}


def _num_drawn(num_words, num_drawn):
  if num_words < 1 or num_drawn < 1:
    raise ValueError("expected at least 1 word, and at least 1 to draw, got "
                     f"{num_words=} and {num_drawn=}.")
  return min(num_words, num_drawn)


def _common_nouns(line):
  """The words of a synset; none where it is an instance.

  A line holds: offset, file number, "n", number of words in hexadecimal, words
  each with a number, number of pointers, pointers of four fields each; a bar
  and the gloss.
  """
  fields = line.partition("|")[0].split()
  pointers = 4 + 2 * int(fields[3], 16)
  if fields[2] != "n" or len(fields) != pointers + 1 + 4 * int(
      fields[pointers]):
    raise ValueError("not a noun with as many fields as it says")
  if _INSTANCE_OF in fields[pointers + 1::4]:
    return []
  return [word.replace("_", " ") for word in fields[4:pointers:2]]
