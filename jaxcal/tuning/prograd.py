"""ProGrad: steps that do not work against what zero-shot CLIP knows.

Zhu et al., Prompt-aligned Gradient for Prompt Tuning (ProGrad), ICCV 2023.
"""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
import optax

from jaxcal import precision
from jaxcal.compiled import compiled
from jaxcal.tuning import coop
from jaxcal.tuning import method as method_lib
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Number
from jaxcal.typing import PyTree


def method(
    *,
    logit_scale: Number,
    context: Float[Array, "m w"] | None = None,
    strength: Number = 1.0,
) -> method_lib.Method:
  """CoOp whose gradient does not oppose that of the zero-shot teacher.

  The teacher's text features are `Prompts.target`. What is minimised, and
  reported as the loss, is the cross-entropy; the teacher only turns its
  gradient, by `project`. Parameters are CoOp's.

  Args:
    logit_scale: Factor of the cosines, of teacher and pupil.
    context: Where it begins, as in `coop.method`; released with `after_zeros`.
    strength: Strength of the projection (lambda of the paper). 0 is CoOp.

  Source: Zhu et al. 2023, Eq. (4)-(5), at temperature 1.
  Differs from the released code in: no mixed precision; the teacher has the
  precision of its features.
  """
  scale = jnp.asarray(logit_scale)
  base = coop.method(logit_scale=logit_scale, context=context)
  return base._replace(
      loss=Partial(_loss, scale), gradient=Partial(_gradient, scale, strength))


def after_zeros(
    words: Float[Array, "r w"], num_context: int) -> Float[Array, "m w"]:
  """A context that ends with these words and is zero before.

  Raises:
    ValueError: More words than vectors.
  """
  if len(words) > num_context:
    raise ValueError(f"{len(words)} words do not fit a context of "
                     f"{num_context=} vectors")
  return jnp.pad(words, ((num_context - len(words), 0), (0, 0)))


@compiled
def project(
    gradient: PyTree, teacher: PyTree, strength: Number = 1.0) -> PyTree:
  """A gradient without what points against the teacher's, array by array.

  With strength 1 no array of the result has a negative inner product with its
  teacher's; where it had none before, it is left as it is.

  Args:
    gradient: Gradient by the parameters.
    teacher: Gradient of the teacher, of the same structure.
    strength: Part of the opposing component that is removed.
  """

  def one(g, t):
    square = jnp.sum(t * t)
    share = jnp.sum(g * t) / jnp.where(square > 0, square, 1)
    return g - strength * jnp.minimum(share, 0) * t

  return jax.tree.map(one, gradient, teacher)


@precision.highest
def _losses(scale, params, prompts, batch):
  """Cross-entropy to the labels, and to the teacher's probabilities."""
  features = coop.text_features(params, prompts, batch.images)
  logits = scale * batch.images.features @ features.T
  teacher = jax.nn.softmax(scale * batch.images.features @ prompts.target.T)
  to_teacher = optax.losses.softmax_cross_entropy(
      logits, jax.lax.stop_gradient(teacher))
  return coop.cross_entropy(logits, batch.labels), jnp.mean(to_teacher)


def _parts(cross_entropy, to_teacher):
  return {"cross_entropy": cross_entropy, "teacher": to_teacher}


@compiled
def _loss(scale, params, prompts, batch):
  losses = _losses(scale, params, prompts, batch)
  return losses[0], _parts(*losses)


@compiled
def _gradient(scale, strength, params, prompts, batch):
  (losses, pull_back) = jax.vjp(
      lambda params: _losses(scale, params, prompts, batch), params)
  one, zero = jnp.ones_like(losses[0]), jnp.zeros_like(losses[0])
  (gradient,), (teacher,) = pull_back((one, zero)), pull_back((zero, one))
  return (losses[0], _parts(*losses)), project(gradient, teacher, strength)
