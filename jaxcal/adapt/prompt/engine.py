"""Test-time prompt tuning of one image; vmap and jit are the caller's.

Every image starts from the same context. So the text features there, their
derivative and the gradients of all regularisers are constants of a data set
(`prepare`, `penalty`); the gradient of the entropy is one of the image, for all
methods (`begin`); and what is left for each method is to step and to encode the
prompts once with the image's own context (`tune`, `predict`). `adapt` is all of
it for one image and method.

Shu et al., Test-Time Prompt Tuning for Zero-Shot Generalization in
Vision-Language Models, NeurIPS 2022, and the methods of `methods`.
"""

from collections.abc import Callable
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
import optax

from jaxcal import precision
from jaxcal import pytrees
from jaxcal.adapt import base
from jaxcal.compiled import compiled
from jaxcal.compiled import compiled_with
from jaxcal.losses import entropy
from jaxcal.typing import Array
from jaxcal.typing import Bool
from jaxcal.typing import Float
from jaxcal.typing import Number

# What is minimised over views in place of the entropy of their mean prediction:
# a function of their logits [v k], of which ones count [v], and of what judges
# them, see `Start`.
LossOfViews = Callable[
    [Float[Array, "v k"], Bool[Array, "v"], Float[Array, "v k"] | None],
    Float[Array, ""]]


@pytrees.register_dataclass
@dataclasses.dataclass(frozen=True)
class Objective:
  """What is minimised per image, and for how many optimiser steps.

  A pytree: weights and margins are leaves, so that `jit` compiles once for
  all of them; the functions and `num_steps` are static.

  Attributes:
    regulariser: Function of unit-norm text features `[k, d]` to a scalar, or
      None.
    weighting: Function of (entropy, regulariser value) to the signed factor
      of the regulariser. It is not differentiated.
    num_steps: Optimiser steps per image; 0 leaves the context as it is.
    turns: Whether entropy and regulariser take turns, a step each beginning
      with the entropy, instead of being summed.
    of_views: Loss that takes the place of the entropy; None for the entropy.
      Hashable and equal to others like it.
  """

  regulariser: Partial | None = None
  weighting: Partial | None = None
  num_steps: int = dataclasses.field(default=1, metadata={"static": True})
  turns: bool = dataclasses.field(default=False, metadata={"static": True})
  of_views: LossOfViews | None = dataclasses.field(
      default=None, metadata={"static": True})


class Prepared(NamedTuple):
  """What all images of a data set share, at the context where each starts."""

  context: Float[Array, "m w"]
  text_features: Float[Array, "k d"]  # unit norm
  # From a gradient by the text features [k d] to one by the context [m w]: a
  # `jax.tree_util.Partial` over residuals or over the Jacobian.
  pull_back: Callable[[Float[Array, "k d"]], Float[Array, "m w"]]
  logit_scale: Float[Array, ""]  # the factor of cosines, 100 for OpenAI's CLIP


class Penalty(NamedTuple):
  """A method's regulariser at the initial context, the same for all images."""

  value: Float[Array, ""]
  gradient: Float[Array, "m w"]  # before weighting


class Start(NamedTuple):
  """What methods with one loss of views share of an image, where it starts.

  Attributes:
    kept: Views that enter the loss.
    entropy: Entropy of their mean prediction, in nats.
    gradient: Gradient of the loss, which is this entropy for most methods.
    judged: Cosines of the views with the classes that a loss of its own may
      look at, the same in all steps; None where the loss is the entropy.
  """

  kept: Bool[Array, "v"]
  entropy: Float[Array, ""]
  gradient: Float[Array, "m w"]
  judged: Float[Array, "v k"] | None = None


class Step(NamedTuple):
  """What the optimiser sees at one step."""

  gradient: Float[Array, "m w"]
  pull: Float[Array, "m w"]  # the weighted regulariser's share of it
  weight: Float[Array, ""]  # signed factor of the regulariser


class Tuned(NamedTuple):
  """A context that was tuned on one image."""

  context: Float[Array, "m w"]
  regulariser: Float[Array, ""]  # at the initial context
  gradient_ratio: Float[Array, ""]  # |weight * regulariser's| / |entropy's|
  weight: Float[Array, ""]  # size of the regulariser's factor there
  effective_weight: Float[Array, ""]  # |weight * gradient of the regulariser|
  # |gradient of the entropy|, or of the loss in its place
  entropy_gradient: Float[Array, ""]


class Info(NamedTuple):
  """Diagnostics of one adapted image."""

  entropy_before: Float[Array, ""]  # nats, mean prediction of the kept views
  entropy_after: Float[Array, ""]  # the same views with the tuned context
  regulariser: Float[Array, ""]  # at the initial context
  gradient_ratio: Float[Array, ""]  # of the first step, see `Tuned`
  context_shift: Float[Array, ""]  # Euclidean norm of the context's change
  # At the initial context, by which the gradients are, see `Tuned`:
  weight: Float[Array, ""]
  effective_weight: Float[Array, ""]
  entropy_gradient: Float[Array, ""]


class RandomViews(NamedTuple):
  """The most confident random views; view 0, the clean one, is none of them.
  """

  view_logits: Float[Array, "s k"]  # with the tuned context
  zero_shot_view_logits: Float[Array, "s k"]  # with the initial one


class Adapted(NamedTuple):
  """Prediction for one image."""

  # Of the clean view with the tuned context, or of all views by their weights.
  logits: Float[Array, "k"]
  context: Float[Array, "m w"] | None  # None where none was needed
  info: Info
  random_views: RandomViews | None = None  # where asked for


@precision.highest
def prepare(
    encode: base.Encode,
    context: Float[Array, "m w"],
    logit_scale: Number,
    *,
    linearisation: str = "vjp",
) -> Prepared:
  """Computes what depends on the class names but not on the image.

  Args:
    encode: Function from a context to unit-norm text features, one row per
      class: `prefix.context_encoder` or `prompts.context_encoder`.
    context: Initial context vectors, e.g. those of "a photo of a".
    logit_scale: Factor of the cosines (the exponential of the checkpoint's
      parameter of that name).
    linearisation: How gradients by the text features become gradients by the
      context: "vjp" keeps what the backward pass needs, "jacobian" the whole
      derivative [k d m w], which costs about 4 d images and makes every
      gradient one matrix product. See `choose_linearisation`. "none" keeps
      nothing, for methods that take no step.

  Raises:
    ValueError: An unknown linearisation, or "jacobian" for an encoder that
      has no `jacobian` method.
  """
  scale = jnp.asarray(logit_scale)
  if linearisation == "none":
    return Prepared(context, encode(context), Partial(_no_derivative), scale)
  if linearisation == "vjp":
    features, pull_back = jax.vjp(encode, context)
    return Prepared(context, features, Partial(_first_of, pull_back), scale)
  if linearisation != "jacobian":
    raise ValueError(f"unknown linearisation {linearisation!r}; choose from: "
                     "jacobian, none, vjp.")
  if not hasattr(encode, "jacobian"):
    raise ValueError("this encoder has no Jacobian class by class; use "
                     "prefix.context_encoder, or linearisation='vjp'")
  jacobian = encode.jacobian(context)
  return Prepared(context, encode(context), Partial(_contract, jacobian), scale)


def choose_linearisation(
    num_classes: int,
    projection: int,
    context_size: int,
    *,
    num_images: int,
    max_bytes: int,
) -> str:
  """The faster of `prepare`'s linearisations, "vjp" or "jacobian".

  The Jacobian costs about as much as the backward passes of 4 d images (at 47
  classes on a CPU; `benchmarks.prefix_sharing`), so it pays where there are
  more, and where its float32 matrix fits the budget.

  Args:
    num_classes: Number of classes, k.
    projection: Width of the joint space, d.
    context_size: Numbers in a context, m times w.
    num_images: Number of images that will be adapted.
    max_bytes: The budget for the matrix.
  """
  fits = 4 * num_classes * projection * context_size <= max_bytes
  return "jacobian" if fits and num_images > 4 * projection else "vjp"


def penalty(prepared: Prepared, objective: Objective) -> Penalty:
  """The regulariser's value and gradient at the initial context.

  They do not depend on the weight; zeros for a method without regulariser.
  """
  value, cotangent = regulariser_at(prepared.text_features, objective)
  return Penalty(value, prepared.pull_back(cotangent))


@compiled
def regulariser_at(
    text_features: Float[Array, "k d"], objective: Objective
) -> tuple[Float[Array, ""], Float[Array, "k d"]]:
  """The regulariser and its gradient by the text features; or zeros."""
  if objective.regulariser is None:
    return (jnp.zeros((), text_features.dtype), jnp.zeros_like(text_features))
  return jax.value_and_grad(objective.regulariser)(text_features)


@compiled_with("selection_fraction", "of_views")
@precision.highest
def begin(
    prepared: Prepared,
    views: Float[Array, "v d"],
    selection_fraction: float,
    of_views: LossOfViews | None = None,
    *,
    judged: Float[Array, "v k"] | None = None,
) -> Start:
  """Selects an image's views and differentiates their entropy, or their loss.

  Args:
    prepared: Result of `prepare`.
    views: Unit-norm features of the views.
    selection_fraction: Part of the views, rounded down, with the lowest
      entropies that is kept; in (0, 1].
    of_views: Loss of views of the method; the entropy if None.
    judged: Cosines of the views with the classes for this loss; those with the
      prepared text features if None.

  Raises:
    ValueError: No view would be kept, or `views` and the text features differ
      in width.
  """
  _check_views(views, prepared)
  logits = prepared.logit_scale * views @ prepared.text_features.T
  kept = entropy.confident_views(logits, selection_fraction)
  if of_views is not None and judged is None:
    judged = views @ prepared.text_features.T
  return entropy_at(prepared, views, kept, of_views, judged)


@compiled_with("of_views")
@precision.highest
def entropy_at(
    prepared: Prepared,
    views: Float[Array, "v d"],
    kept: Bool[Array, "v"],
    of_views: LossOfViews | None = None,
    judged: Float[Array, "v k"] | None = None,
) -> Start:
  """Entropy of the kept views and its gradient, at the prepared context.

  Args:
    prepared: Result of `prepare`.
    views: Unit-norm features of the views.
    kept: Views that enter the entropy.
    of_views: Loss whose gradient is wanted in place of the entropy's.
    judged: Cosines that this loss looks at, see `begin`.
  """
  logits = lambda features: prepared.logit_scale * views @ features.T
  marginal = lambda features: entropy.marginal_entropy(
      logits(features), where=kept)
  if of_views is None:
    value, cotangent = jax.value_and_grad(marginal)(prepared.text_features)
  else:
    value = marginal(prepared.text_features)
    cotangent = jax.grad(lambda features: of_views(
        logits(features), kept, judged))(prepared.text_features)
  return Start(kept, value, prepared.pull_back(cotangent), judged)


@compiled_with("step")
def combine(
    objective: Objective,
    start: Start,
    pulled: Penalty,
    step: int = 0,
) -> Step:
  """The objective's gradient at the context where both gradients were taken.

  A weight of 0 leaves exactly the gradient of the entropy.

  Args:
    objective: Objective of the method.
    start: The entropy, from `begin` or `entropy_at`.
    pulled: The regulariser, from `penalty`.
    step: Number of the step, for methods whose parts take turns.
  """
  weight = weight_of(objective, start, pulled)
  if objective.regulariser is None or objective.weighting is None:
    return Step(start.gradient, jnp.zeros_like(start.gradient), weight)
  pull = weight * pulled.gradient
  if not objective.turns:
    return Step(start.gradient + pull, pull, weight)
  if step % 2:
    return Step(pull, pull, weight)
  return Step(start.gradient, jnp.zeros_like(pull), jnp.zeros_like(weight))


@compiled
def weight_of(
    objective: Objective, start: Start, pulled: Penalty) -> Float[Array, ""]:
  """The signed factor of the regulariser, whose turn it may not be; or 0.

  Args:
    objective: Objective of the method.
    start: The entropy, from `begin` or `entropy_at`.
    pulled: The regulariser, from `penalty`.
  """
  if objective.regulariser is None or objective.weighting is None:
    return jnp.zeros_like(start.entropy)
  return jnp.asarray(
      objective.weighting(start.entropy, pulled.value), start.entropy.dtype)


def tune(
    encode: base.Encode,
    prepared: Prepared,
    views: Float[Array, "v d"],
    start: Start,
    first: Penalty,
    objective: Objective,
    optimiser: optax.GradientTransformation,
) -> Tuned:
  """Takes a method's steps on one image, the first without a text forward.

  Args:
    encode: Function as in `prepare`; used from the second step on.
    prepared: Result of `prepare`.
    views: Unit-norm features of the views.
    start: Start of the image, from `begin`.
    first: First gradient of the method, from `penalty`.
    objective: Objective of the method.
    optimiser: Optimiser; its state begins empty for every image.
  """
  context, state = prepared.context, optimiser.init(prepared.context)
  ratio = jnp.zeros_like(start.entropy)
  here, at, pulled = prepared, start, first
  for number in range(objective.num_steps):
    if number:
      here = prepare(encode, context, prepared.logit_scale)
      at = entropy_at(
          here, views, start.kept, objective.of_views, start.judged)
      pulled = penalty(here, objective)
    step = combine(objective, at, pulled, number)
    if not number:
      ratio = _norm(step.pull) / jnp.maximum(
          _norm(at.gradient), jnp.finfo(ratio.dtype).tiny)
    updates, state = optimiser.update(step.gradient, state, context)
    context = optax.apply_updates(context, updates)
  weight = jnp.abs(weight_of(objective, start, first))
  return Tuned(context, first.value, ratio, weight,
               weight * _norm(first.gradient), _norm(start.gradient))


@precision.highest
def predict(
    encode: base.Encode,
    prepared: Prepared,
    views: Float[Array, "v d"],
    start: Start,
    tuned: Tuned,
    weights: Float[Array, "v"] | None = None,
    *,
    num_random: int = 0,
) -> Adapted:
  """Predicts the clean view (row 0), or all of them, with a tuned context.

  Args:
    encode: Function as in `prepare`.
    prepared: Result of `prepare`.
    views: Unit-norm features of the views.
    start: Start of the image, from `begin`.
    tuned: Tuned context, from `tune`.
    weights: Weights of the views, whose logits are summed; the clean view alone
      if None.
    num_random: Random views whose logits are wanted, too, those of lowest
      entropy with the tuned context.
  """
  # A context that did not move keeps the prepared features, so that a learning
  # rate of 0 is zero-shot to the last bit.
  moved = jnp.any(tuned.context != prepared.context)
  features = jnp.where(moved, encode(tuned.context), prepared.text_features)
  logits = prepared.logit_scale * views @ features.T
  return Adapted(
      _predicted(logits, weights), tuned.context,
      Info(entropy_before=start.entropy,
           entropy_after=entropy.marginal_entropy(logits, where=start.kept),
           regulariser=tuned.regulariser,
           gradient_ratio=tuned.gradient_ratio,
           context_shift=_norm(tuned.context - prepared.context),
           weight=tuned.weight,
           effective_weight=tuned.effective_weight,
           entropy_gradient=tuned.entropy_gradient),
      _random_views(logits, prepared.logit_scale * views @
                    prepared.text_features.T, num_random))


@precision.highest
def untuned(
    text_features: Float[Array, "k d"],
    logit_scale: Number,
    views: Float[Array, "v d"],
    selection_fraction: float,
    *,
    weights: Float[Array, "v"] | None = None,
    num_random: int = 0,
) -> Adapted:
  """Predicts with text features as they are.

  The entropy of the diagnostics is that of the confident views; of the clean
  view alone where `selection_fraction` would keep none. `weights` and
  `num_random` as in `predict`.
  """
  logits = logit_scale * views @ text_features.T
  if int(len(views) * selection_fraction):
    kept = entropy.confident_views(logits, selection_fraction)
  else:
    kept = jnp.arange(len(views)) == 0
  value = entropy.marginal_entropy(logits, where=kept)
  zero = jnp.zeros_like(value)
  return Adapted(
      _predicted(logits, weights), None, Info(value, value, *[zero] * 6),
      _random_views(logits, logits, num_random))


def adapt(
    encode: base.Encode,
    prepared: Prepared,
    views: Float[Array, "v d"],
    objective: Objective,
    *,
    optimiser: optax.GradientTransformation,
    selection_fraction: float = 0.1,
    weights: Float[Array, "v"] | None = None,
    judged: Float[Array, "v k"] | None = None,
) -> Adapted:
  """Tunes the context on one image and predicts its clean view.

  Every image starts from the same context with an empty optimiser state. The
  views that enter the entropy are chosen once, at the initial context; the
  clean view competes with the others. For many methods on the same images see
  `family.adapt`.

  Args:
    encode: Function as in `prepare`; the same function.
    prepared: Result of `prepare`.
    views: Unit-norm features of the views; row 0 is the clean view, the only
      one that is predicted unless there are weights.
    objective: Objective of the method.
    optimiser: Optimiser that takes the steps, e.g. `methods.Tpt().optimiser`.
    selection_fraction: See `begin`.
    weights: See `predict`.
    judged: See `begin`.

  Raises:
    ValueError: See `begin`.

  Source: Shu et al. 2022, Eq. (1)-(4) and their released loop.
  Differs from the released code in: no loss scaling, hence no image that is
  silently left unadapted; an error instead of NaN where no view is kept.
  """
  if not objective.num_steps:
    return untuned(
        prepared.text_features, prepared.logit_scale, views,
        selection_fraction, weights=weights)._replace(context=prepared.context)
  start = begin(prepared, views, selection_fraction, objective.of_views,
                judged=judged)
  tuned = tune(encode, prepared, views, start, penalty(prepared, objective),
               objective, optimiser)
  return predict(encode, prepared, views, start, tuned, weights)


def _predicted(logits, weights):
  return logits[0] if weights is None else weights @ logits


def _no_derivative(cotangent):
  raise ValueError("prepared for methods that take no step (linearisation "
                   f"'none'), but a gradient {cotangent.shape} is wanted")


@compiled
def _first_of(pull_back, cotangent):
  return pull_back(cotangent)[0]


@compiled
@precision.highest
def _contract(jacobian, cotangent):
  return jnp.tensordot(cotangent, jacobian, 2)


def _random_views(logits, zero_shot, number):
  if not number:
    return None
  entropies = entropy.prediction_entropy(logits[1:])
  rows = 1 + jnp.argsort(entropies, stable=True)[:number]
  return RandomViews(logits[rows], zero_shot[rows])


def _norm(x):
  return jnp.sqrt(jnp.sum(x * x))


def _check_views(views, prepared):
  width = prepared.text_features.shape[-1]
  if views.ndim != 2 or views.shape[-1] != width:
    raise ValueError(
        f"view features of shape [v, {width}] expected, as wide as the text "
        f"features, but {views.shape=}; vmap adapt over a batch")
