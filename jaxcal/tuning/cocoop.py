"""CoCoOp: a learned context that a small network moves for every image.

Zhou et al., Conditional Prompt Learning for Vision-Language Models (CoCoOp),
CVPR 2022.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxcal import precision
from jaxcal import pytrees
from jaxcal.compiled import compiled
from jaxcal.tuning import coop
from jaxcal.tuning import initial
from jaxcal.tuning import method as method_lib
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Number

# The hidden layer is so many times narrower than the image features.
_NARROWER = 16


@pytrees.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Bound:
  """What the functions of a method share."""

  scale: Float[Array, ""]
  context: Float[Array, "m w"] | None
  images_per_chunk: int | None = dataclasses.field(metadata={"static": True})


def method(
    *,
    logit_scale: Number,
    context: Float[Array, "m w"] | None = None,
    images_per_chunk: int | None = 1,
) -> method_lib.Method:
  """Every image has a context of its own; cross-entropy.

  An image's bias, from its features by a network of two layers, is added to
  all vectors of the context. So all prompts run once per image. Parameters are
  {"context": [m w], "meta": {"hidden", "out"}}, each of these two with
  "kernel" and "bias".

  Args:
    logit_scale: Factor of the cosines.
    context: Where it begins, as in `coop.method`; released with the vectors of
      "a photo of a".
    images_per_chunk: Bounds memory by this many images at a time, which run
      again in the backward pass; None runs all at once.

  Source: Zhou et al. 2022.
  Differs from the released code in: no mixed precision; batches above 1 do not
  need more memory.
  """
  bound = _Bound(jnp.asarray(logit_scale), context, images_per_chunk)
  return method_lib.Method(
      init=Partial(_init, bound), loss=Partial(_loss, bound),
      logits=Partial(_logits, bound),
      text_features=Partial(_text_features, bound))


@compiled
def _init(bound, key, prompts):
  context_key, hidden_key, out_key = jax.random.split(key, 3)
  context = coop.initial_context(context_key, prompts, bound.context)
  features = prompts.zero_shot.shape[-1]
  hidden = max(1, features // _NARROWER)
  return {"context": context, "meta": {
      "hidden": initial.linear(hidden_key, features, hidden),
      "out": initial.linear(out_key, hidden, context.shape[-1])}}


@compiled
@precision.highest
def _text_features(bound, params, prompts, images):
  hidden, out = params["meta"]["hidden"], params["meta"]["out"]

  def one(image):
    x = jax.nn.relu(image @ hidden["kernel"] + hidden["bias"])
    bias = x @ out["kernel"] + out["bias"]
    return prompts.encode(params["context"] + bias[None])

  size, features = bound.images_per_chunk, images.features
  if size is None or size >= len(features):
    return jax.vmap(one)(features)
  # Backward, a chunk runs again instead of keeping what it computed.
  return jax.lax.map(jax.checkpoint(one), features, batch_size=size)


@compiled
@precision.highest
def _logits(bound, params, prompts, images):
  features = _text_features(bound, params, prompts, images)
  return bound.scale * jnp.einsum("bd,bkd->bk", images.features, features)


@compiled
def _loss(bound, params, prompts, batch):
  loss = coop.cross_entropy(
      _logits(bound, params, prompts, batch.images), batch.labels)
  return loss, {"cross_entropy": loss}
