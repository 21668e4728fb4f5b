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
from jaxcal.typing import Float

# Of the zero-shot features that outliers are held at, whatever the data set.
GENERIC = "a photo of a {}."


def prompts_of(
    model: checkpoint.Model,
    class_names: Sequence[str],
    *,
    num_context: int | None = None,
    template: str = GENERIC,
    max_bytes: int = 2**32,
    as_table: bool = False,
) -> method_lib.Prompts:
  """All that methods need of a list of class names.

  Args:
    model: From `checkpoint.load`; its text tower must be causal.
    class_names: In label order, or outlier words.
    num_context: Context vectors in front of the name, in the place of
      placeholders; the words of "a photo of a" if None.
    template: The data set's own, of `target` and `embeddings`.
    max_bytes: Classes are encoded in chunks to stay within about this.
    as_table: Whether rows will be taken with `dor.take`.

  Raises:
    ValueError: see `prompts.prompt_bank` and `prefix.context_encoder`.
  """
  config = model.config
  bank = _bank(model, class_names, GENERIC if num_context is None else "{}.",
               num_context)
  per_chunk = prefix.classes_within(config, bank, max_bytes=max_bytes)
  encode = prefix.context_encoder(
      config, model.params, bank, classes_per_chunk=per_chunk,
      max_groups=1 if as_table else 2)
  own = _embeddings(model, class_names, template, per_chunk)
  generic = own if template == GENERIC else _embeddings(
      model, class_names, GENERIC, per_chunk)
  return method_lib.Prompts(encode, towers.normalize(generic),
                            towers.normalize(own), own)


def words_context(model: checkpoint.Model) -> Float[Array, "4 w"]:
  """The vectors of "a photo of a"."""
  bank = _bank(model, ["x"], GENERIC, None)
  return towers.at_least_float32(
      prompts_lib.initial_context(model.params, bank))


def _bank(model, class_names, template, num_context):
  return prompts_lib.prompt_bank(
      model.tokenizer, class_names, template=template,
      context_length=model.config.context_length,
      eos_token_id=model.config.eos_token_id, num_context_tokens=num_context)


def _embeddings(model, class_names, template, per_chunk):
  """Frozen text embeddings of a template, not normalised."""
  bank = _bank(model, class_names, template, None)
  encode = prefix.context_encoder(
      model.config, model.params, bank, classes_per_chunk=per_chunk,
      max_groups=2)
  context = prompts_lib.initial_context(model.params, bank)
  pooled = _pooled(encode, context)
  projection = towers.text_projection(model.config, model.params)
  return jnp.asarray(towers.project(
      towers.at_least_float32(pooled), projection))


@jax.jit
def _pooled(encode, context):
  return encode.pooled(context)
