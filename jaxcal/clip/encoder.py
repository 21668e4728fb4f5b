"""Class names become text features of a context, in the fastest exact way."""

from collections.abc import Sequence

from jaxcal.clip import checkpoint
from jaxcal.clip import prefix
from jaxcal.clip import prompts
from jaxcal.typing import Array
from jaxcal.typing import at_least_float32
from jaxcal.typing import Float

# With few classes, compiling another group takes longer than the padding.
_FEW_CLASSES = 100


def prompt_bank(
    model: checkpoint.Model,
    class_names: Sequence[str],
    *,
    template: str = "a photo of a {}.",
    num_context_tokens: int | None = None,
    class_position: str = "end",
) -> prompts.PromptBank:
  """`prompts.prompt_bank` with the tokenizer and the sizes of a model."""
  config = model.config
  return prompts.prompt_bank(
      model.tokenizer, class_names, template=template,
      context_length=config.context_length, eos_token_id=config.eos_token_id,
      class_position=class_position, num_context_tokens=num_context_tokens,
      crop=config.causal)


def initial_context(
    model: checkpoint.Model, bank: prompts.PromptBank
) -> Float[Array, "m w"]:
  """The vectors of the words before the class name, float32 at least."""
  return at_least_float32(prompts.initial_context(model.params, bank))


def context_encoder(
    model: checkpoint.Model,
    bank: prompts.PromptBank,
    *,
    max_bytes: int = 2**32,
    num_contexts: int = 1,
    per_class: bool = False,
    max_groups: int | None = None,
) -> prefix.Encoder | prompts.Encoder:
  """Text features as a function of the context.

  What the prompts of all classes share runs once, where the tower is causal and
  the classes share a context; classes are encoded in chunks that fit a budget.

  Args:
    model: Model from `checkpoint.load`.
    bank: The prompts.
    max_bytes: Budget of the activations.
    num_contexts: Contexts that are encoded at once, under `vmap`.
    per_class: Whether each class has a context of its own.
    max_groups: Groups of equal length that the classes are padded to; a few,
      by their number, if None.
  """
  config, params = model.config, model.params
  per_chunk = prefix.classes_within(
      config, bank, max_bytes=max_bytes, num_contexts=num_contexts)
  if per_class or not config.causal:
    return prompts.context_encoder(
        config, params, bank, classes_per_chunk=per_chunk)
  if max_groups is None:
    max_groups = 2 if len(bank.end_positions) < _FEW_CLASSES else 4
  return prefix.context_encoder(
      config, params, bank, classes_per_chunk=per_chunk, max_groups=max_groups)
