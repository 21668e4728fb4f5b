"""Class names become the prompts that methods tune and compare with."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxcal.clip import checkpoint
from jaxcal.clip import prefix
from jaxcal.clip import prompts as prompts_lib
from jaxcal.clip import towers
from jaxcal.tuning import method as method_lib
from jaxcal.typing import Array
from jaxcal.typing import at_least_float32
from jaxcal.typing import Float

# Of the zero-shot features that outliers are held at, whatever the data set.
GENERIC = "a photo of a {}."
NUM_WORDS = 4  # in front of the name, a token each


def prompts_of(
    model: checkpoint.Model,
    class_names: Sequence[str],
    *,
    num_context: int | None = None,
    template: str = GENERIC,
    class_position: str = "end",
    per_class: bool = False,
    max_bytes: int = 2**32,
    as_table: bool = False,
) -> method_lib.Prompts:
  """All that methods need of a list of class names.

  Args:
    model: From `checkpoint.load`.
    class_names: In label order, or outlier words.
    num_context: Context vectors in front of the name, in the place of
      placeholders; the words of "a photo of a" if None.
    template: The data set's own, of `target` and `embeddings`.
    class_position: Of the name among the context vectors, see
      `prompts.prompt_bank`.
    per_class: Whether `encode` is given a context for each class.
    max_bytes: Classes are encoded in chunks to stay within about this.
    as_table: Whether rows will be taken with `dor.take`.

  Raises:
    ValueError: see `prompts.prompt_bank` and `prefix.context_encoder`.
  """
  bank = _bank(model, class_names, GENERIC if num_context is None else "{}.",
               num_context, class_position)
  encode = _encoder(
      model, bank, max_bytes, shared=not per_class,
      max_groups=model.config.context_length if as_table else 2)
  own = template_embeddings(model, class_names, template, max_bytes=max_bytes)
  generic = own if template == GENERIC else template_embeddings(
      model, class_names, GENERIC, max_bytes=max_bytes)
  return method_lib.Prompts(encode, towers.normalize(generic),
                            towers.normalize(own), own)


def fitting(
    model: checkpoint.Model, words: Sequence[str], num_context: int
) -> list[str]:
  """The words whose prompts the text tower has positions for.

  Args:
    model: From `checkpoint.load`.
    words: Outliers; vocabularies hold some that are very long.
    num_context: Most context vectors in front of the name.
  """
  room = model.config.context_length - max(0, num_context - NUM_WORDS)
  rows = model.tokenizer([GENERIC.format(word) for word in words])["input_ids"]
  return [word for word, row in zip(words, rows) if len(row) <= room]


def words_context(model: checkpoint.Model) -> Float[Array, "4 w"]:
  """The vectors of "a photo of a"."""
  bank = _bank(model, ["x"], GENERIC, None)
  return at_least_float32(
      prompts_lib.initial_context(model.params, bank))


def template_embeddings(
    model: checkpoint.Model,
    class_names: Sequence[str],
    template: str,
    *,
    max_bytes: int = 2**32,
) -> Float[Array, "k d"]:
  """Frozen text embeddings of a template, not normalised."""
  bank = _bank(model, class_names, template, None)
  encode = _encoder(model, bank, max_bytes, max_groups=2, shared=True)
  context = prompts_lib.initial_context(model.params, bank)
  pooled = _pooled(encode, context)
  projection = towers.text_projection(model.config, model.params)
  return jnp.asarray(towers.project(
      at_least_float32(pooled), projection))


def _bank(model, class_names, template, num_context, class_position="end"):
  config = model.config
  return prompts_lib.prompt_bank(
      model.tokenizer, class_names, template=template,
      context_length=config.context_length, eos_token_id=config.eos_token_id,
      class_position=class_position, num_context_tokens=num_context,
      crop=config.causal)


def _encoder(model, bank, max_bytes, *, max_groups, shared):
  """The fastest one that is exact: what classes share runs once, if it can."""
  config = model.config
  per_chunk = prefix.classes_within(config, bank, max_bytes=max_bytes)
  if not (config.causal and shared):
    return prompts_lib.context_encoder(
        config, model.params, bank, classes_per_chunk=per_chunk)
  return prefix.context_encoder(
      config, model.params, bank, classes_per_chunk=per_chunk,
      max_groups=max_groups)


@jax.jit
def _pooled(encode, context):
  return encode.pooled(context)
