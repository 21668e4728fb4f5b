"""Class names become prompts, and prompts become functions of their context.

A prompt is a row of token ids of which some, the context, can be replaced by
learned vectors. Shapes and positions are fixed here, on the host; what a tuned
context means for the text features is a pure function of arrays.

Zhou et al., Learning to Prompt for Vision-Language Models, IJCV 2022.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcal import pytrees
from jaxcal.clip import towers
from jaxcal.compiled import compiled
from jaxcal.typing import AnyArray
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Int

# The word that stands where a context without words goes, as in CoOp's code.
PLACEHOLDER = "X"

CLASS_POSITIONS = ("end", "middle", "front")

# The end token id that means "the highest id of the row"; see end_positions.
_LEGACY_END = 2


class PromptBank(NamedTuple):
  """One prompt per class.

  Attributes:
    token_ids: Rows of start, context, name and end token, then padding.
    context_positions: Where the context stands in each row.
    end_positions: Where each row is read off: at its end token, or at its last
      position.
  """

  token_ids: Int[Array, "k t"]
  context_positions: Int[Array, "k m"]
  end_positions: Int[Array, "k"]


@pytrees.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
  """From a context [m w] to unit-norm text features [k d].

  A pytree: pass it through `jit` as an argument; other weights or prompts of
  the same shapes do not compile again. Also takes [k m w] with a context per
  class.

  Attributes:
    config: Sizes of the model.
    params: Parameters of the text tower.
    projection: The last linear map; acts on what `pooled` returns.
    embeddings: Vectors of all tokens, without positions.
    bank: The prompts whose context is replaced.
    classes_per_chunk: Classes that run at a time, or None for all.
  """

  config: towers.ClipConfig
  params: towers.Params
  projection: towers.Projection
  embeddings: Float[Array, "k t w"]
  bank: PromptBank
  classes_per_chunk: int | None = dataclasses.field(
      default=None, metadata={"static": True})

  @property
  def context_shape(self) -> tuple[int, int]:
    """Number and width of the context's vectors."""
    return self.bank.context_positions.shape[-1], self.embeddings.shape[-1]

  @compiled
  def __call__(
      self,
      context: Float[Array, "m w"] | Float[Array, "k m w"],
      *,
      deep: Float[Array, "e n w"] | None = None,
  ) -> Float[Array, "k d"]:
    """Unit-norm text features.

    Args:
      context: Context shared by all classes, or one for each.
      deep: Vectors, of which deep[i] take the place of the states of the first
        n context vectors before layer i + 1.

    Raises:
      ValueError: A context of another shape, or deep prompts that do not fit.
    """
    return towers.normalise(towers.project(
        self.pooled(context, deep=deep), self.projection,
        precision=self.config.text.precision))

  @compiled
  def pooled(
      self,
      context: Float[Array, "m w"] | Float[Array, "k m w"],
      *,
      deep: Float[Array, "e n w"] | None = None,
  ) -> Float[Array, "k w"]:
    """What the projection sees of each class; arguments as in a call."""
    _check_context(
        context, self.bank.context_positions, self.embeddings.shape[-1])
    classes = (self.embeddings, self.bank,
               context if context.ndim == 3 else None)
    size = self.classes_per_chunk
    if size is None or size >= len(self.embeddings):
      return self._classes(classes, context, deep)

    def one(given):
      alone = jax.tree.map(lambda x: x[None], given)
      return self._classes(alone, context, deep)[0]

    # Backward, a chunk runs again instead of keeping what it computed.
    return jax.lax.map(jax.checkpoint(one), classes, batch_size=size)

  def _classes(self, classes, shared, deep):
    """`pooled` of some classes, with contexts of their own or a shared one."""
    embeddings, bank, own = classes
    positions = bank.context_positions
    embeddings = insert_context(
        embeddings, shared if own is None else own, positions)
    if deep is not None:
      towers.check_deep_prompts(deep, self.config.text, positions.shape[1])
      deep = towers.DeepPrompts(deep, positions[:, :deep.shape[1]])
    return towers.pooled_text(
        self.config, self.params, embeddings, bank.end_positions, deep)

  @compiled
  def take(self, rows: Int[AnyArray, "r"]) -> "Encoder":
    """The encoder of these classes alone."""
    return dataclasses.replace(
        self, embeddings=self.embeddings[rows],
        bank=jax.tree.map(lambda x: x[rows], self.bank))


def prompt_bank(
    tokenizer: Any,
    class_names: Sequence[str],
    *,
    template: str = "a photo of a {}.",
    context_length: int,
    eos_token_id: int | None,
    class_position: str = "end",
    num_context_tokens: int | None = None,
    crop: bool = True,
) -> PromptBank:
  """Prompts of class names, their context being the words before the name.

  Underscores in names become spaces. Words after the name stay as they are.

  Args:
    tokenizer: Tokenizer of transformers; gives start token, text and end token.
      Without the start token where `eos_token_id` is None, and then its padding
      fills the rows.
    class_names: Class names, at least one. Duplicates are allowed: some data
      sets have two classes of one name.
    template: Template with "{}" once, where the name goes.
    context_length: Positions of the text tower.
    eos_token_id: Id of the end token of the model's configuration, not of the
      tokenizer; see `end_positions`.
    class_position: Where the name stands among the m context tokens: "end"
      after them, "front" before them, "middle" after the first m // 2.
    num_context_tokens: Number of placeholders that, if given, stand in for the
      words before the name: room for a context that does not begin with words.
    crop: Whether rows end with the longest prompt, which is exact because the
      tower is causal, or have all the tower's positions. They always have them
      where they are read off at the last one.

  Raises:
    ValueError: If there is no tokenizer, there are no names or an empty one, a
      prompt is longer than the tower, or the template has not exactly one "{}".

  Source: the prompt learner of Zhou et al. 2022.
  Differs from the released code in: the whole prompt is tokenised at once, so
  that context and name are found by position; rows are cropped.
  """
  if tokenizer is None:
    raise ValueError("the checkpoint came without a tokenizer (or with one that"
                     " is not supported); make prompts with from_token_ids")
  names = _clean_names(class_names)
  before, after = _split_template(template, num_context_tokens)
  read_off_last = eos_token_id is None
  first = 0 if read_off_last else 1
  start = tokenizer(before)["input_ids"][:-1]  # the end token comes later
  num_context = len(start) - first
  if num_context_tokens not in (None, num_context):
    raise ValueError(
        f"{num_context_tokens} placeholders {PLACEHOLDER!r} became "
        f"{num_context} tokens; the tokenizer should know the word. Use a "
        "template whose words are one token each.")
  rows = tokenizer([before + name + after for name in names])["input_ids"]
  _check_lengths(names, rows, context_length)
  for name, row in zip(names, rows):
    if row[:len(start)] != start:
      raise ValueError(f"the words before {name!r} in {template!r} become "
                       "other tokens with the name than alone; put a space "
                       "between")
  name_lengths = [
      len(ids) - first - 1 for ids in tokenizer(names)["input_ids"]]
  if 0 in name_lengths:
    empty = name_lengths.index(0)
    raise ValueError(f"class {empty} has a name of which the tokenizer leaves "
                     f"nothing: {names[empty]!r}")
  in_front = _context_in_front(num_context, class_position)
  placed = [
      _place_name(row, first, num_context, length, in_front)
      for row, length in zip(rows, name_lengths)]
  cropped = crop and not read_off_last
  num_tokens = max(map(len, rows)) if cropped else context_length
  padding = tokenizer.pad_token_id if read_off_last else 0
  token_ids = np.full((len(rows), num_tokens), padding, np.int32)
  for ids, (row, _) in zip(token_ids, placed):
    ids[:len(row)] = row
  positions = np.array([positions for _, positions in placed], np.int32)
  return from_token_ids(
      token_ids, positions, end_positions(token_ids, eos_token_id))


def from_token_ids(
    token_ids: Int[AnyArray, "k t"] | Sequence[Sequence[int]],
    context_positions: (
        Int[AnyArray, "m"] | Int[AnyArray, "k m"] | Sequence[int] |
        Sequence[Sequence[int]]),
    end_positions: Int[AnyArray, "k"] | Sequence[int],
) -> PromptBank:
  """A bank of rows that are tokenised already.

  Args:
    token_ids: Token ids, start and end tokens included.
    context_positions: Positions of the context, [k m], or [m] where they are
      the same in all rows.
    end_positions: See the function of that name.

  Raises:
    ValueError: If shapes do not fit together, a position lies outside its row,
      or the context is not a set of distinct positions before the end token.
  """
  ids = np.asarray(token_ids)
  context, ends = np.asarray(context_positions), np.asarray(end_positions)
  if ids.ndim != 2 or not ids.size or ends.shape != ids.shape[:1]:
    raise ValueError("token ids of shape [k, t] and end positions of shape [k] "
                     f"expected, but {ids.shape=}, {ends.shape=}")
  if context.ndim == 1:
    context = np.broadcast_to(context, (len(ids), len(context)))
  if context.ndim != 2 or len(context) != len(ids):
    raise ValueError(f"context positions of shape [m] or [{len(ids)}, m] "
                     f"expected, but {context.shape=}")
  if (ends < 0).any() or (ends >= ids.shape[1]).any():
    raise ValueError(f"end positions outside rows of {ids.shape[1]} tokens: "
                     f"{ends}")
  if (context < 0).any() or (context >= ends[:, None]).any():
    raise ValueError("context positions must come before the end token: what "
                     "comes after it has no effect")
  if (np.diff(np.sort(context, axis=1), axis=1) == 0).any():
    raise ValueError("a context position occurs twice in a prompt")
  return PromptBank(*jax.device_put([
      array.astype(np.int32) for array in (ids, context, ends)]))


def end_positions(
    token_ids: Int[AnyArray, "k t"] | Sequence[Sequence[int]],
    eos_token_id: int | None,
) -> Int[np.ndarray, "k"]:
  """Index of each row's end token, where its feature is read off.

  Args:
    token_ids: Rows that hold an end token.
    eos_token_id: The first such token of a row is its end. But the value 2,
      which OpenAI's converted checkpoints carry by mistake, means "where the
      highest id stands", as those models have always been read. None means the
      last position, as in SigLIP.

  Raises:
    ValueError: If a row has no end token.
  """
  ids = np.asarray(token_ids)
  if eos_token_id is None:
    return np.full(len(ids), ids.shape[1] - 1, np.int32)
  if eos_token_id == _LEGACY_END:
    return ids.argmax(axis=1).astype(np.int32)
  is_end = ids == eos_token_id
  if not is_end.any(axis=1).all():
    row = int(is_end.any(axis=1).argmin())
    raise ValueError(
        f"prompt {row} has no end token {eos_token_id}, only "
        f"{ids[row].tolist()}; tokenizer and model do not belong together")
  return is_end.argmax(axis=1).astype(np.int32)


@compiled
def insert_context(
    embeddings: Float[Array, "k t w"],
    context: Float[Array, "m w"] | Float[Array, "k m w"],
    context_positions: Int[Array, "k m"],
) -> Float[Array, "k t w"]:
  """Token vectors with the context in its places.

  Args:
    embeddings: Embeddings of all tokens.
    context: Context shared by the classes, or [k m w] with one for each.
    context_positions: Positions of the context, distinct in each row.

  Raises:
    ValueError: If the context has another number or width of vectors.
  """
  _check_context(context, context_positions, embeddings.shape[-1])
  return towers.place(embeddings, context, context_positions)


@compiled
def initial_context(
    params: towers.Params, bank: PromptBank) -> Float[Array, "m w"]:
  """Vectors of the context's own tokens, which all prompts share."""
  ids = bank.token_ids[0, bank.context_positions[0]]
  return towers.token_embeddings(params, ids)


def context_encoder(
    config: towers.ClipConfig,
    params: towers.Params,
    bank: PromptBank,
    *,
    classes_per_chunk: int | None = None,
) -> Encoder:
  """The function from a context to the unit-norm text features.

  Args:
    config: Sizes of the model.
    params: The whole parameter tree.
    bank: The prompts whose context is replaced.
    classes_per_chunk: Bounds memory by this many classes at a time, which run
      again in the backward pass; None runs all at once.
  """
  return Encoder(
      config, {"text_model": params["text_model"]},
      towers.text_projection(config, params),
      towers.token_embeddings(params, bank.token_ids), bank,
      classes_per_chunk)


def _check_context(context, context_positions, width):
  k, m = context_positions.shape
  if context.shape not in ((m, width), (k, m, width)):
    raise ValueError(f"a context of shape [{m}, {width}] or "
                     f"[{k}, {m}, {width}] expected, but {context.shape=}")


def _clean_names(class_names):
  if isinstance(class_names, str) or not len(class_names):
    raise ValueError("expected a sequence of class names with at least one, "
                     f"got {class_names!r}")
  names = [" ".join(name.replace("_", " ").split()) for name in class_names]
  if not all(names):
    raise ValueError(f"class {names.index('')} has an empty name: "
                     f"{class_names[names.index('')]!r}")
  return names


def _split_template(template, num_context_tokens):
  """What comes before the name, and what after."""
  parts = template.split("{}")
  if len(parts) != 2:
    raise ValueError("expected a template with '{}' exactly once, got "
                     f"{template!r}")
  before, after = parts
  if num_context_tokens is not None:
    if num_context_tokens < 0:
      raise ValueError(f"expected {num_context_tokens=} to be 0 or more")
    before = f"{PLACEHOLDER} " * num_context_tokens
  return before, after


def _check_lengths(names, rows, context_length):
  long = [
      f"{name!r} needs {len(row)}"
      for name, row in zip(names, rows) if len(row) > context_length]
  if long:
    raise ValueError(
        f"the text tower has {context_length} positions, but "
        f"{', '.join(long)}; shorten the names or the template")


def _context_in_front(num_context, class_position):
  """How many context tokens come before the name."""
  counts = dict(zip(CLASS_POSITIONS, (num_context, num_context // 2, 0)))
  if class_position not in counts:
    raise ValueError(f"unknown class position {class_position!r}; choose from: "
                     f"{', '.join(CLASS_POSITIONS)}.")
  return counts[class_position]


def _place_name(row, first, num_context, name_length, in_front):
  """A row start-context-name-rest with the name moved into the context."""
  start, context = row[:first], row[first:first + num_context]
  name = row[first + num_context:][:name_length]
  rest = row[first + num_context + name_length:]
  moved = start + context[:in_front] + name + context[in_front:] + rest
  positions = [
      first + i + (name_length if i >= in_front else 0)
      for i in range(num_context)]
  return moved, positions
