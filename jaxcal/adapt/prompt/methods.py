"""Methods that tune the prompt: what each of them adds to the entropy.

All of them minimise

    entropy of the mean prediction of the confident views
      + weighting(entropy, regulariser) * regulariser(text features)

for one unlabelled image, starting from the same context every time. Default
weights are those of the released scripts for fine-grained data sets.

A method here is a dataclass of its numbers, as everywhere in `adapt`; run many
of them together with `family.family`, which shares what they have in common.
"""

from collections.abc import Callable
import dataclasses
import functools
import types
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
import numpy as np
import optax

from jaxcal import precision
from jaxcal import pytrees
from jaxcal.adapt import base
from jaxcal.adapt import numbers as numbers_lib
from jaxcal.adapt.prompt import engine
from jaxcal.compiled import compiled
from jaxcal.losses import angular
from jaxcal.losses import cosines
from jaxcal.losses import dispersion
from jaxcal.losses import orthogonality
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Number

# Classes of dataclasses that are pytrees, all of their fields by name.
_frozen = functools.partial(
    dataclasses.dataclass, frozen=True, kw_only=True)
_static = functools.partial(dataclasses.field, metadata={"static": True})


@pytrees.register_dataclass
@_frozen()
class PromptMethod:
  """What all methods of the family have.

  Attributes:
    selection_fraction: Share of the views, those of lowest entropy, that enter
      the entropy, in (0, 1]; rounded down.
  """

  selection_fraction: float = _static(default=0.1)

  # Whether `view_weights` has none; a posterior knows of no other view.
  predicts_clean_view: ClassVar[bool] = True

  @property
  def num_contexts(self) -> int:
    """Contexts that are encoded for each image, after the initial one."""
    return self.objective().num_steps

  def objective(self) -> engine.Objective:
    """What is minimised; the base class takes no step."""
    return engine.Objective(num_steps=0)

  @property
  def optimiser(self) -> optax.GradientTransformation:
    """What takes the steps."""
    return optax.identity()

  def check(self, task: base.Task, num_views: int) -> None:
    """Refuses what the method cannot work with, before any work.

    Raises:
      ValueError: A share of the views outside (0, 1]; no encoder, or too few
        views, where prompts are tuned; or see `check_numbers`.
    """
    self.check_numbers()
    if not 0 < self.selection_fraction <= 1:
      raise ValueError("selection_fraction must lie in (0, 1], got "
                       f"{self.selection_fraction:g}")
    if not self.objective().num_steps:
      return
    check_encoder(self, task)
    if int(num_views * self.selection_fraction) < 1:
      raise ValueError(
          f"a selection_fraction of {self.selection_fraction:g} keeps none of "
          f"{num_views} views; raise it, or cut more views")

  def method(self) -> base.TestTimeMethod:
    """The method alone.

    Its text forward and backward at the initial context are repeated for every
    batch; `family.family` does them once per data set.
    """
    self.check_numbers()
    return base.episodic(_alone, self)

  def check_numbers(self) -> None:
    """Refuses numbers that contradict each other or lie out of range.

    Raises:
      ValueError: Says which.
    """
    numbers_lib.refuse_both(self)

  def view_weights(
      self, views: Float[Array, "v d"]) -> Float[Array, "v"] | None:
    """Weights by which the views are predicted; None for the clean one alone.
    """
    del views
    return None

  def of_classes(self, text_features: Float[Array, "k d"]) -> "PromptMethod":
    """The method with numbers where its own depend on the classes.

    Args:
      text_features: Unit-norm class features at the context where images
        start.
    """
    del text_features
    return self

  def of_context(
      self, prepared: engine.Prepared, penalty: engine.Penalty
  ) -> "PromptMethod":
    """The method of `of_classes` with the weight that has the effect asked for.

    Args:
      prepared: Features and derivative where images start.
      penalty: Regulariser of the method there, from `engine.penalty`.
    """
    del prepared, penalty
    return self


@pytrees.register_dataclass
@_frozen()
class ZeroShot(PromptMethod):
  """No tuning: the predictions of the initial context (Radford et al., 2021).

  Needs text features alone. Where the views are too few for
  `selection_fraction`, the entropies of its diagnostics are those of the clean
  view.
  """


@pytrees.register_dataclass
@_frozen()
class Tpt(PromptMethod):
  """Entropy alone. Shu et al., Test-Time Prompt Tuning, NeurIPS 2022.

  Attributes:
    learning_rate: Step size of AdamW; from an empty state its first step moves
      every coordinate by this, whatever the size of its gradient.
    weight_decay: Decay of AdamW, PyTorch's default (optax's is 0.0001).
    num_steps: Optimiser steps per image; 0 leaves the context as it is.

  Differs from the released code in: float32 throughout, where the released
  code runs in mixed precision and skips the images whose loss overflows.
  """

  learning_rate: Number = 5e-3
  weight_decay: Number = 1e-2
  num_steps: int = _static(default=1)

  def objective(self) -> engine.Objective:
    """The entropy."""
    return engine.Objective(num_steps=self.num_steps)

  @property
  def optimiser(self) -> optax.GradientTransformation:
    """AdamW as all released codes of this family use it."""
    return optax.adamw(self.learning_rate, weight_decay=self.weight_decay)


@pytrees.register_dataclass
@_frozen()
class Weighted(Tpt):
  """What methods have in common whose regulariser has a constant weight.

  Attributes:
    weight: Factor of the regulariser.
    effective_weight: Weight times the norm of the regulariser's gradient by
      the context where images start, which gives every data set a weight of
      its own, the same in all steps; None where `weight` is the weight. Beside
      it only the sign of `weight` counts.
  """

  weight: Number = 1.0
  effective_weight: Number | None = None

  def check_numbers(self) -> None:
    """See `PromptMethod.check_numbers`."""
    super().check_numbers()
    _check_range(self, "effective_weight", np.inf)

  def of_context(
      self, prepared: engine.Prepared, penalty: engine.Penalty
  ) -> "PromptMethod":
    """See `PromptMethod.of_context`; weight 0 where there is no gradient.

    Raises:
      ValueError: No gradient, where not traced.
    """
    if self.effective_weight is None:
      return self
    norm = _slope(prepared.text_features, penalty.gradient)
    if not isinstance(norm, jax.core.Tracer) and not norm > 0:
      raise ValueError(
          f"the regulariser of {type(self).__name__} has no gradient at these "
          "classes, so that no weight has an effect; with one class, or all of "
          "them alike, there is nothing to tell apart")
    size = self.effective_weight / jnp.where(norm > 0, norm, jnp.inf)
    return dataclasses.replace(  # type: ignore[type-var]
        self, weight=jnp.copysign(size, self.weight), effective_weight=None)


@pytrees.register_dataclass
@_frozen()
class CTpt(Weighted):
  """Text features spread around their centroid. Yoon et al., C-TPT, ICLR 2024.

  The released scripts use weight 50, and 20 for ImageNet's variants.

  Attributes:
    weight: Factor of the dispersion, which is rewarded.
  """

  weight: Number = 50.0

  def objective(self) -> engine.Objective:
    """The entropy minus the weighted dispersion."""
    return _sum(self, Partial(dispersion.text_dispersion), -self.weight)


@pytrees.register_dataclass
@_frozen()
class CTptTwoStep(CTpt):
  """C-TPT in two steps: the entropy alone, then the dispersion alone.

  The optimiser's state carries over, so the second step is not a sign step. An
  option (--two_step) of the released code that none of its scripts uses.
  """

  num_steps: int = _static(default=2)

  def objective(self) -> engine.Objective:
    """The same parts, a step each in turn."""
    return dataclasses.replace(super().objective(), turns=True)


@pytrees.register_dataclass
@_frozen()
class OTpt(Weighted):
  """Orthogonal text features, as released. Sharifdeen et al., O-TPT, CVPR 2025.

  Differs from the released code in: the closed form of its Householder
  construction, equal in value and gradient, without K reflectors of K x K.
  The released scripts use weight 18, and 2 for ImageNet's variants.

  Attributes:
    weight: Factor of the regulariser.
  """

  weight: Number = 18.0

  def objective(self) -> engine.Objective:
    """The entropy plus the weighted Householder orthogonality."""
    return _sum(
        self, Partial(orthogonality.householder_orthogonality), self.weight)


@pytrees.register_dataclass
@_frozen()
class OTptPublished(OTpt):
  """Orthogonal text features, ||S - I||^2 as in the text of the O-TPT paper.

  Differs from the released code in: the loss itself, see `OTpt`. The weight is
  the one released for the other form; none is known for this one.
  """

  def objective(self) -> engine.Objective:
    """The entropy plus the weighted squared distance from orthogonality."""
    return _sum(self, Partial(orthogonality.full_orthogonality), self.weight)


@pytrees.register_dataclass
@_frozen()
class ATpt(Weighted):
  """Largest angle to the nearest class, with the sign of the A-TPT paper.

  Differs from the released code in: the fine-grained script, whose sign is
  inverted (`ATptInverted`). The script for ImageNet's variants has this sign
  and this weight.

  Attributes:
    weight: Factor of the mean angle to the nearest class, which is rewarded.
  """

  weight: Number = 10.0

  def objective(self) -> engine.Objective:
    """The entropy minus the weighted angle."""
    return _sum(self, Partial(angular.nearest_angle), -self.weight)


@pytrees.register_dataclass
@_frozen()
class ATptInverted(Weighted):
  """A-TPT as its released fine-grained script runs: nearest classes attract.

  Attributes:
    weight: Factor of the mean angle to the nearest class, which is penalised.
  """

  weight: Number = 80.0

  def objective(self) -> engine.Objective:
    """The entropy plus the weighted angle."""
    return _sum(self, Partial(angular.nearest_angle), self.weight)


@pytrees.register_dataclass
@_frozen()
class Soc(Weighted):
  """Huber penalty on class similarities with a constant margin (SoC).

  Semantic Orthogonal Calibration: beyond the margin the pull on a pair no
  longer grows with its similarity, which spares semantically close classes.
  The paper's value of `delta` in [0, 1] is not public. 0.85 is our choice, the
  similarity from which the paper's figure 2 counts a pair as close: a margin
  below all pairs spares none, and on CLIP's text features 0.5 is one.

  Attributes:
    weight: Factor of the penalty.
    delta: Margin, a cosine in (0, 1].
    delta_quantile: Quantile, in [0, 1], of the zero-shot cosines of all pairs
      of classes at which the margin of a data set lies; None where `delta` is
      the margin.
  """

  weight: Number = 30.0
  delta: Number = 0.85
  delta_quantile: Number | None = None

  def check_numbers(self) -> None:
    """See `PromptMethod.check_numbers`."""
    super().check_numbers()
    _check_range(self, "delta_quantile", 1)

  def of_classes(self, text_features: Float[Array, "k d"]) -> "PromptMethod":
    """The method with the margin of these classes.

    Raises:
      ValueError: The cosine at the quantile is not positive, where not traced.
    """
    if self.delta_quantile is None:
      return self
    pairs = cosines.pair_cosines(text_features)
    if not pairs.size:  # one class, of which the penalty is 0
      return dataclasses.replace(  # type: ignore[type-var]
          self, delta_quantile=None)
    delta = jnp.quantile(pairs, self.delta_quantile)
    if not isinstance(delta, jax.core.Tracer) and not delta > 0:
      raise ValueError(
          f"the cosine at quantile {float(self.delta_quantile):g} of the pairs "
          f"of classes is {float(delta):.3g}, and a margin must be positive; "
          "raise delta_quantile, or give delta")
    return dataclasses.replace(  # type: ignore[type-var]
        self, delta=jnp.clip(delta, jnp.finfo(delta.dtype).tiny, 1),
        delta_quantile=None)

  def objective(self) -> engine.Objective:
    """The entropy plus the weighted penalty."""
    return _sum(self, Partial(
        orthogonality.semantic_orthogonality, delta=self.delta), self.weight)


@pytrees.register_dataclass
@_frozen()
class SocQuantile(Tpt):
  """SoC with the margin at a quantile of the min-max scaled similarities.

  The form in which the authors of CoTS re-implemented SoC: the regulariser is
  always worth `weight` times the entropy of the image (14 for ImageNet's
  variants), so that there is no `effective_weight` to be given. Its direction
  is not that of the published form, to which it is unrelated: on CLIP's text
  features their gradients have a cosine of about 0.01.

  Attributes:
    weight: Worth of the penalty, in entropies of the image.
    quantile: Place of the margin among the similarities, in [0, 1].
  """

  weight: Number = 30.0
  quantile: Number = 0.2

  def objective(self) -> engine.Objective:
    """The entropy plus the penalty at a weight that follows the entropy."""
    return engine.Objective(
        Partial(orthogonality.quantile_semantic_orthogonality,
                quantile=self.quantile),
        Partial(orthogonality.entropy_proportional_weight, self.weight),
        self.num_steps)


@pytrees.register_dataclass
@_frozen()
class Regularised(Weighted):
  """Entropy plus `weight` times any function of the text features.

  The way in for a regulariser of one's own.

  Attributes:
    regulariser: Function from unit-norm text features [k d] to a scalar; a
      `jax.tree_util.Partial` where it holds arrays.
    weight: Factor of it; negative to reward it, -1 beside an
      `effective_weight`.
  """

  regulariser: Callable[[Float[Array, "k d"]], Float[Array, ""]]

  def __post_init__(self):
    if isinstance(self.regulariser, types.FunctionType):
      # A plain function is no pytree.
      object.__setattr__(self, "regulariser", Partial(self.regulariser))

  def objective(self) -> engine.Objective:
    """The entropy plus the weighted regulariser."""
    return _sum(self, self.regulariser, self.weight)


def check_encoder(method: base.Numbers, task: base.Task) -> None:
  """Refuses a task without prompts for a method that tunes them.

  Raises:
    ValueError: Says how to get one.
  """
  if task.encode is None or task.context is None:
    raise ValueError(
        f"{type(method).__name__} tunes a prompt, but the task has text "
        "features alone; give it `encode` and `context` as well, for example "
        "by jaxcal.task_of(model, class_names)")


def resolved(
    method: PromptMethod, prepared: engine.Prepared) -> PromptMethod:
  """The method with the weight and margin that its numbers mean for classes.

  Args:
    method: Method, perhaps with an `effective_weight` or a `delta_quantile`.
    prepared: Features and derivative where images start, from
      `engine.prepare`.

  Raises:
    ValueError: There are none; see `Weighted.of_context`, `Soc.of_classes`.
  """
  method = method.of_classes(prepared.text_features)
  if getattr(method, "effective_weight", None) is None:
    return method
  return method.of_context(
      prepared, engine.penalty(prepared, method.objective()))


def _sum(numbers, regulariser, weight):
  weighting = (Partial(_constant, weight) if numbers.effective_weight is None
               else Partial(_unresolved))
  return engine.Objective(regulariser, weighting, numbers.num_steps)


def _unresolved(entropy, value):
  raise ValueError(
      "an effective_weight becomes a weight where the gradient by the context "
      "is known, by methods.resolved(method, prepared); text features alone do "
      "not tell it: give weight there")


@compiled
@precision.highest
def _slope(text_features, gradient):
  """Norm of a regulariser's gradient; none where all classes are alike."""
  return jnp.where(_alike(text_features), 0, jnp.linalg.norm(gradient))


def _alike(text_features):
  """Whether all classes are one but for rounding, which pulls nowhere."""
  apart = jnp.max(jnp.abs(text_features - text_features[:1]))
  return apart <= 100 * jnp.finfo(apart.dtype).eps


def _check_range(numbers, name, high):
  value = numbers_lib.known(getattr(numbers, name))
  if value is not None and not (0 <= value <= high and np.isfinite(value)):
    raise ValueError(f"{name} of {type(numbers).__name__} is {value:g}, "
                     f"expected a finite number from 0 to {high:g}")


def _constant(weight, entropy, value):
  del entropy, value
  return weight


def _alone(numbers, task, views):
  """One method on one image, from nothing but the task."""
  weights = numbers.view_weights(views)
  if not numbers.objective().num_steps:
    return output(engine.untuned(
        task.text_features, task.logit_scale, views,
        numbers.selection_fraction, weights=weights))
  numbers.check(task, len(views))
  prepared = engine.prepare(task.encode, task.context, task.logit_scale)
  numbers = resolved(numbers, prepared)
  return output(engine.adapt(
      task.encode, prepared, views, numbers.objective(),
      optimiser=numbers.optimiser,
      selection_fraction=numbers.selection_fraction, weights=weights))


def output(adapted: engine.Adapted) -> base.Output:
  """What was adapted, as methods hand it over."""
  views = adapted.random_views
  return base.from_logits(adapted.logits, adapted.info._asdict())._replace(
      evidence={} if views is None else views._asdict())
