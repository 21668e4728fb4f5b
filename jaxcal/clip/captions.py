"""Any texts become features: tokenised, cropped, and read off at their ends."""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.clip import checkpoint
from jaxcal.clip import prompts
from jaxcal.clip import towers
from jaxcal.typing import Array
from jaxcal.typing import at_least_float32
from jaxcal.typing import Float
from jaxcal.typing import Int

# Rows are cropped to one of few lengths, so that few programs are compiled.
_LENGTHS = (16, 32)


def tokenise(
    model: checkpoint.Model, texts: Sequence[str]
) -> tuple[Int[np.ndarray, "n t"], Int[np.ndarray, "n"]]:
  """Token ids and the positions that are read off.

  Texts that are longer than the tower are cut and keep their end token. Rows
  of a causal tower are as short as the longest text allows, which is exact;
  those of another are padded to all its positions, as in its training.

  Args:
    model: Model from `checkpoint.load`.
    texts: Texts, at least one.

  Raises:
    ValueError: No texts, or the model came without a tokenizer.
  """
  config = model.config
  if isinstance(texts, str) or not len(texts):
    raise ValueError(f"expected a sequence of texts, got {texts!r}")
  if model.tokenizer is None:
    raise ValueError(f"{model.name} came without a tokenizer; texts need one")
  if not config.causal:
    rows = model.tokenizer(
        list(texts), padding="max_length", truncation=True,
        max_length=config.context_length)["input_ids"]
    ids = np.asarray(rows, np.int32)
    return ids, np.full(len(ids), config.context_length - 1, np.int32)
  rows = model.tokenizer(list(texts), truncation=True,
                         max_length=config.context_length)["input_ids"]
  longest = max(map(len, rows))
  length = next((some for some in _LENGTHS
                 if longest <= some <= config.context_length),
                config.context_length)
  ids = np.zeros((len(rows), length), np.int32)
  for filled, row in zip(ids, rows):
    filled[:len(row)] = row
  return ids, prompts.end_positions(ids, config.eos_token_id)


def pooled(
    model: checkpoint.Model, texts: Sequence[str]) -> Float[Array, "n w"]:
  """Features of texts before the projection; arguments as in `tokenise`."""
  ids, ends = tokenise(model, texts)
  return _pooled(model.config, {"text_model": model.params["text_model"]},
                 ids, ends)


@functools.partial(jax.jit, static_argnums=0)
def _pooled(config, params, ids, ends):
  embeddings = towers.token_embeddings(params, ids)
  return at_least_float32(
      towers.pooled_text(config, params, embeddings, jnp.asarray(ends)))
