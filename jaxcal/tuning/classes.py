"""Class names become the prompts that methods tune and compare with."""

from collections.abc import Sequence
import pathlib

import jax
import jax.numpy as jnp

from jaxcal.clip import checkpoint
from jaxcal.clip import encoder
from jaxcal.clip import towers
from jaxcal.data import text_files
from jaxcal.tuning import method as method_lib
from jaxcal.typing import Array
from jaxcal.typing import at_least_float32
from jaxcal.typing import Float

# Template of the features that outliers are regularised towards, in all data
# sets.
GENERIC = "a photo of a {}."
NUM_WORDS = 4  # in front of the name, a token each
# Methods encode as many tables of classes as they have; each group compiles.
_MAX_GROUPS = 2


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
    model: Model from `checkpoint.load`.
    class_names: Class names in label order, or outlier words.
    num_context: Context vectors in front of the name, in the place of
      placeholders; the words of "a photo of a" if None.
    template: The data set's own, of `target` and `embeddings`.
    class_position: Position of the name among the context vectors, see
      `prompts.prompt_bank`.
    per_class: Whether `encode` is given a context for each class.
    max_bytes: Classes are encoded in chunks to stay within about this.
    as_table: Whether rows will be taken with `dor.take`.

  Raises:
    ValueError: See `prompts.prompt_bank` and `prefix.context_encoder`.
  """
  bank = encoder.prompt_bank(
      model, class_names, template=GENERIC if num_context is None else "{}.",
      num_context_tokens=num_context, class_position=class_position)
  encode = encoder.context_encoder(
      model, bank, max_bytes=max_bytes, per_class=per_class,
      max_groups=model.config.context_length if as_table else _MAX_GROUPS)
  own = template_embeddings(model, class_names, template, max_bytes=max_bytes)
  generic = own if template == GENERIC else template_embeddings(
      model, class_names, GENERIC, max_bytes=max_bytes)
  return method_lib.Prompts(encode, towers.normalise(generic),
                            towers.normalise(own), own)


def fitting(
    model: checkpoint.Model, words: Sequence[str], num_context: int
) -> list[str]:
  """The words whose prompts the text tower has positions for.

  Args:
    model: Model from `checkpoint.load`.
    words: Outliers; vocabularies hold some that are very long.
    num_context: Number of context vectors in front of the name, at most.
  """
  room = model.config.context_length - max(0, num_context - NUM_WORDS)
  rows = model.tokenizer([GENERIC.format(word) for word in words])["input_ids"]
  return [word for word, row in zip(words, rows) if len(row) <= room]


def words_context(model: checkpoint.Model) -> Float[Array, "4 w"]:
  """The vectors of "a photo of a"."""
  return encoder.initial_context(
      model, encoder.prompt_bank(model, ["x"], template=GENERIC))


def read_templates(path: pathlib.Path) -> tuple[str, ...]:
  """The lines of a file, each a template.

  Raises:
    FileNotFoundError: There is no such file.
    ValueError: It is no text, there are none, or one has not exactly one {}.
  """
  lines = text_files.read(path).splitlines()
  broken = [line for line in lines if line.count("{}") != 1]
  if broken or not lines:
    raise ValueError(f"{path} must have one template per line, each with "
                     f"exactly one {{}}, but has {broken[:1] or 'no lines'}")
  return tuple(lines)


def template_embeddings(
    model: checkpoint.Model,
    class_names: Sequence[str],
    template: str,
    *,
    max_bytes: int = 2**32,
) -> Float[Array, "k d"]:
  """Frozen text embeddings of a template, not normalised."""
  bank = encoder.prompt_bank(model, class_names, template=template)
  encode = encoder.context_encoder(
      model, bank, max_bytes=max_bytes, max_groups=_MAX_GROUPS)
  pooled = _pooled(encode, encoder.initial_context(model, bank))
  projection = towers.text_projection(model.config, model.params)
  return jnp.asarray(towers.project(
      at_least_float32(pooled), projection))


@jax.jit
def _pooled(encode, context):
  return encode.pooled(context)
