"""Test-time prompt tuning of one image; vmap and jit are the caller's.

`prepare` computes what depends on the data set alone, `adapt` what depends on
the image. Under `vmap` over images the first step stays shared: every image
starts from the same context, so the text features, the residuals of their
derivative and the regulariser's gradient are computed once for the batch.

Shu et al., Test-Time Prompt Tuning for Zero-Shot Generalization in
Vision-Language Models, NeurIPS 2022, and the methods of `objectives`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcal.adapt import objectives
from jaxcal.losses import entropy
from jaxcal.typing import Array
from jaxcal.typing import Bool
from jaxcal.typing import Float

# From a context [m w] to unit-norm text features [k d]. A
# `jax.tree_util.Partial`, so that its arrays are arguments under `jit`.
Encode = Callable[[Float[Array, "m w"]], Float[Array, "k d"]]


class Prepared(NamedTuple):
  """What all images of a data set share."""

  context: Float[Array, "m w"]  # where every image starts
  text_features: Float[Array, "k d"]  # unit norm, at `context`
  logit_scale: Float[Array, ""]  # the factor of cosines, 100 for OpenAI's CLIP


class Step(NamedTuple):
  """The objective and its gradient at one context."""

  entropy: Float[Array, ""]  # nats, of the mean prediction of the kept views
  regulariser: Float[Array, ""]  # before weighting; 0 without one
  weight: Float[Array, ""]  # signed factor of the regulariser
  gradient: Float[Array, "m w"]  # of entropy + weight * regulariser
  gradient_ratio: Float[Array, ""]  # |weight * regulariser's| / |entropy's|


class Info(NamedTuple):
  """Diagnostics of one adapted image."""

  entropy_before: Float[Array, ""]  # nats, mean prediction of the kept views
  entropy_after: Float[Array, ""]  # the same views with the tuned context
  regulariser: Float[Array, ""]  # at the initial context
  gradient_ratio: Float[Array, ""]  # of the first step, see `Step`
  context_shift: Float[Array, ""]  # Euclidean norm of the context's change


class Adapted(NamedTuple):
  """The answer for one image."""

  logits: Float[Array, "k"]  # of the clean view with the tuned context
  context: Float[Array, "m w"]
  info: Info


def prepare(
    encode: Encode,
    context: Float[Array, "m w"],
    logit_scale: Float[Array, ""],
) -> Prepared:
  """Computes what depends on the class names but not on the image.

  Args:
    encode: From a context to unit-norm text features, one row per class.
    context: Initial context vectors, e.g. those of "a photo of a".
    logit_scale: Factor of the cosines (the exponential of the checkpoint's
      parameter of that name).
  """
  return Prepared(context, encode(context), jnp.asarray(logit_scale))


def tuning_step(
    encode: Encode,
    context: Float[Array, "m w"],
    views: Float[Array, "v d"],
    kept: Bool[Array, "v"],
    logit_scale: Float[Array, ""],
    method: objectives.Method,
) -> Step:
  """Objective of one image at one context, with its gradient.

  Entropy and regulariser are pulled back to the context apart from each
  other: a weight of 0 leaves exactly the gradient of the entropy, and under
  `vmap` the regulariser's part is computed once for all images.
  """
  features, pull_back = jax.vjp(encode, context)
  value, cotangent = jax.value_and_grad(
      lambda f: entropy.marginal_entropy(
          logit_scale * views @ f.T, where=kept))(features)
  gradient, = pull_back(cotangent)
  zero = jnp.zeros_like(value)
  if method.regulariser is None:
    return Step(value, zero, zero, gradient, zero)
  penalty, cotangent = jax.value_and_grad(method.regulariser)(features)
  weight = jnp.asarray(method.weighting(value, penalty), value.dtype)
  pull = weight * pull_back(cotangent)[0]
  ratio = _norm(pull) / jnp.maximum(
      _norm(gradient), jnp.finfo(gradient.dtype).tiny)
  return Step(value, penalty, weight, gradient + pull, ratio)


def adapt(
    encode: Encode,
    prepared: Prepared,
    views: Float[Array, "v d"],
    method: objectives.Method,
    *,
    optimizer: optax.GradientTransformation,
    selection_fraction: float = 0.1,
) -> Adapted:
  """Tunes the context on one image and answers for its clean view.

  Every image starts from the same context with an empty optimiser state. The
  views that enter the entropy are chosen once, at the initial context; the
  clean view competes with the others.

  Args:
    encode: As in `prepare`; the same function.
    prepared: What `prepare` returned.
    views: Unit-norm features of the views; row 0 is the clean view, the only
      one that is answered.
    method: From `objectives`.
    optimizer: See `default_optimizer`.
    selection_fraction: Part of the views, rounded down, with the lowest
      entropies that is kept; in (0, 1].

  Raises:
    ValueError: no view would be kept, or `views` and the text features differ
      in width.

  Source: Shu et al. 2022, Eq. (1)-(4) and their released loop.
  Differs from the released code in: no loss scaling, hence no image that is
  silently left unadapted; an error instead of NaN where no view is kept.
  """
  _check_views(views, prepared)
  logits = lambda features: prepared.logit_scale * views @ features.T
  before = logits(prepared.text_features)
  kept = entropy.confident_views(before, selection_fraction)
  context, state = prepared.context, optimizer.init(prepared.context)
  first = None
  for _ in range(method.num_steps):  # unrolled: the first step is shared
    step = tuning_step(
        encode, context, views, kept, prepared.logit_scale, method)
    first = first or step
    updates, state = optimizer.update(step.gradient, state, context)
    context = optax.apply_updates(context, updates)
  features = prepared.text_features
  if method.num_steps:
    # A context that did not move answers with the prepared features, so that
    # a learning rate of 0 is zero-shot to the last bit.
    moved = jnp.any(context != prepared.context)
    features = jnp.where(moved, encode(context), prepared.text_features)
  after = logits(features)
  zero = jnp.zeros((), before.dtype)
  return Adapted(
      after[0], context,
      Info(
          entropy_before=entropy.marginal_entropy(before, where=kept),
          entropy_after=entropy.marginal_entropy(after, where=kept),
          regulariser=first.regulariser if first else zero,
          gradient_ratio=first.gradient_ratio if first else zero,
          context_shift=_norm(context - prepared.context)))


def default_optimizer(
    learning_rate: float = 5e-3,
    weight_decay: float = 1e-2,
) -> optax.GradientTransformation:
  """AdamW as all released codes of this family use it.

  The decay is PyTorch's default of 0.01; optax's own default is 0.0001. From
  an empty state one step moves every coordinate by the learning rate, whatever
  the size of its gradient.
  """
  return optax.adamw(learning_rate, weight_decay=weight_decay)


def _norm(x):
  return jnp.sqrt(jnp.sum(x * x))


def _check_views(views, prepared):
  width = prepared.text_features.shape[-1]
  if views.ndim != 2 or views.shape[-1] != width:
    raise ValueError(
        f"view features of shape [v, {width}] expected, as wide as the text "
        f"features, but {views.shape=}; vmap adapt over a batch")
