"""CoOp: the words before the class name become learned vectors.

Zhou et al., Learning to Prompt for Vision-Language Models (CoOp), IJCV 2022.

How many vectors there are and where the class name stands is the prompts' part
(`clip.prompts.prompt_bank`), and so is how many classes are encoded at a time:
`prefix.context_encoder(..., classes_per_chunk=...)` bounds the memory, which is
what ends training on many classes elsewhere.

What a method needs of the model is bound to its functions with
`jax.tree_util.Partial`, so that a method is a pytree: it passes through `jit`
as an argument, and its arrays are no constants of the program.
"""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
import optax

from jaxcal import precision
from jaxcal.compiled import compiled
from jaxcal.tuning import initial
from jaxcal.tuning import method as method_lib
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Key
from jaxcal.typing import Number


def method(
    *,
    logit_scale: Number,
    context: Float[Array, "m w"] | None = None,
) -> method_lib.Method:
  """One context for all classes; cross-entropy.

  Its parameters are {"context": [m w]}.

  Args:
    logit_scale: Factor of the cosines.
    context: Where it begins, e.g. `prompts.initial_context`; if None, at
      random with a standard deviation of 0.02.

  Source: Zhou et al. 2022, with the unified context.
  Differs from the released code in: no mixed precision.
  """
  scale = jnp.asarray(logit_scale)
  return method_lib.Method(
      init=Partial(_init, context), loss=Partial(_loss, scale),
      logits=Partial(_logits, scale), text_features=Partial(text_features))


def class_specific(
    *,
    logit_scale: Number,
    context: Float[Array, "m w"] | None = None,
) -> method_lib.Method:
  """A context for each class; cross-entropy.

  Its parameters are {"context": [k m w]}. They belong to the classes of the
  training, row by row, so it cannot predict others and has no `text_features`
  that would be defined for any list of names. Its prompts are those of
  `prompts.context_encoder`.

  Args:
    logit_scale: Factor of the cosines.
    context: Where each class begins; if None, at random, as in `method`.

  Source: Zhou et al. 2022, with class-specific context (CSC).
  Differs from the released code in: `context` is used here too.
  """
  scale = jnp.asarray(logit_scale)
  return method_lib.Method(
      init=Partial(_init_each, context), loss=Partial(_loss, scale),
      logits=Partial(_logits, scale))


@compiled
def cross_entropy(
    logits: Float[Array, "b k"], labels: Int[Array, "b"]) -> Float[Array, ""]:
  """Mean negative log probability of the labels, nats."""
  return jnp.mean(
      optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels))


def initial_context(
    key: Key[Array, ""],
    prompts: method_lib.Prompts,
    context: Float[Array, "m w"] | None,
) -> Float[Array, "m w"]:
  """The given context, or a random one if there is none.

  Raises:
    ValueError: A context of another shape than the prompts have room for.
  """
  shape = prompts.encode.context_shape
  if context is None:
    return initial.vectors(key, shape)
  if context.shape != shape:
    raise ValueError(f"a context of shape {shape} expected, for which the "
                     f"prompts have room, but {context.shape=}")
  return jnp.asarray(context)


@compiled
def text_features(
    params: method_lib.Params,
    prompts: method_lib.Prompts,
    images: method_lib.Images | None,
) -> Float[Array, "k d"]:
  """Of the prompts with `params["context"]`; no image is looked at.

  Raises:
    ValueError: Class-specific contexts of another number of classes.
  """
  del images
  context, num_classes = params["context"], len(prompts.zero_shot)
  if context.ndim == 3 and len(context) != num_classes:
    raise ValueError(
        f"class-specific contexts of {len(context)} classes predict these "
        f"classes alone, but there are {num_classes} names; a shared context "
        "(coop.method) predicts any")
  return prompts.encode(context)


@compiled
def _init(context, key, prompts):
  return {"context": initial_context(key, prompts, context)}


@compiled
def _init_each(context, key, prompts):
  each = lambda key: initial_context(key, prompts, context)
  return {"context": jax.vmap(each)(
      jax.random.split(key, len(prompts.zero_shot)))}


@compiled
@precision.highest
def _logits(scale, params, prompts, images):
  return scale * images.features @ text_features(params, prompts, images).T


@compiled
def _loss(scale, params, prompts, batch):
  logits = _logits(scale, params, prompts, batch.images)
  loss = cross_entropy(logits, batch.labels)
  return loss, {"cross_entropy": loss}
