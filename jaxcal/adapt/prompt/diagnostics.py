"""Where the regularisers of prompt tuning pull, and how hard.

One AdamW step from an empty state moves every coordinate of the context by the
learning rate, in the direction of

    sign(gradient of the entropy + weight * gradient of the regulariser),

so that of a regulariser there are two things to know: the direction of its
gradient, and the *effective weight*, the weight times the gradient's norm.
Where two of them pull in one direction, equal effective weights are equal
methods.

Everything here is of a data set, not of its images: class names and a model
will do, or text features alone.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxcal import precision
from jaxcal.adapt.prompt import engine
from jaxcal.adapt.prompt import methods as methods_lib
from jaxcal.losses import cosines
from jaxcal.typing import Array
from jaxcal.typing import Float


class Pulls(NamedTuple):
  """Gradients of m regularisers, as they are minimised, side by side.

  Attributes:
    names: Names of the methods.
    values: Values of the regularisers.
    norms: Norms of their gradients, before weighting.
    weights: Sizes of their weights; NaN where the weight belongs to an image.
    cosines: Cosines between their gradients, those of rewarded regularisers
      turned round; NaN beside a gradient of zero.
    same_signs: Shares of the coordinates in which two gradients have one sign.
  """

  names: tuple[str, ...]
  values: Float[np.ndarray, "m"]
  norms: Float[np.ndarray, "m"]
  weights: Float[np.ndarray, "m"]
  cosines: Float[np.ndarray, "m m"]
  same_signs: Float[np.ndarray, "m m"]

  @property
  def effective_weights(self) -> Float[np.ndarray, "m"]:
    """Weight times norm: how hard each one pulls at the first step."""
    return self.weights * self.norms


class Geometry(NamedTuple):
  """How the text features of k classes lie.

  Attributes:
    cosines: Cosines of all pairs of classes, k (k - 1) / 2 of them.
    dominant_classes: Share of the classes whose largest coordinate is the one
      that is the largest most often.
    dominant_share: Mean share of that coordinate in the squared norm.
  """

  cosines: Float[np.ndarray, "pairs"]
  dominant_classes: float
  dominant_share: float

  def beyond(self, margin: float) -> float:
    """Share of the pairs with a cosine above a margin, in [0, 1]."""
    return float(np.mean(self.cosines > margin)) if self.cosines.size else 0.0


def geometry(text_features: Float[Any, "k d"]) -> Geometry:
  """How text features lie.

  Args:
    text_features: Unit-norm class features.

  Raises:
    ValueError: They are no such features.
  """
  features = jnp.asarray(text_features)
  pairs = np.asarray(cosines.pair_cosines(features))
  squared = np.square(np.asarray(features, np.float64))
  largest = squared.argmax(axis=1)
  dominant = np.bincount(largest).argmax()
  return Geometry(
      pairs, float(np.mean(largest == dominant)),
      float(np.mean(squared[:, dominant] / squared.sum(axis=1))))


def by_features(
    methods: Mapping[str, methods_lib.PromptMethod],
    text_features: Float[Any, "k d"],
) -> Pulls:
  """Gradients by the text features themselves, without their radial part.

  No encoder is needed. That part is lost in the normalisation of the features,
  whatever lies before it.

  Args:
    methods: Methods by name, from `family.resolved`; those without a
      regulariser are left out.
    text_features: Unit-norm class features.

  Raises:
    ValueError: They are no such features, no method has a regulariser, or one
      has an `effective_weight`.
  """
  features = jnp.asarray(text_features)
  cosines.check_class_features(features)
  found = {}
  for name, objective in _regularised(methods).items():
    value, gradient = engine.regulariser_at(features, objective)
    radial = jnp.sum(gradient * features, axis=-1, keepdims=True)
    found[name] = _Pull(objective, value, gradient - radial * features)
  return _pulls(found)


def by_context(
    methods: Mapping[str, methods_lib.PromptMethod],
    prepared: engine.Prepared,
) -> Pulls:
  """Gradients by the context where every image starts.

  They decide the first step, and with it the effective weight.

  Args:
    methods: Methods by name, from `family.resolved`; those without a
      regulariser are left out.
    prepared: Features and derivative there, from `engine.prepare`.

  Raises:
    ValueError: No method has a regulariser.
  """
  return _pulls({
      name: _Pull(objective, *engine.penalty(prepared, objective))
      for name, objective in _regularised(methods).items()})


class _Pull(NamedTuple):
  objective: engine.Objective
  value: Float[Array, ""]
  gradient: Float[Array, "*shape"]

  @property
  def weight(self) -> float:
    """Signed; NaN where it follows the entropy, which is none of a data set."""
    assert self.objective.weighting is not None
    return float(self.objective.weighting(jnp.asarray(jnp.nan), self.value))


def _regularised(methods):
  found = {name: method.objective() for name, method in methods.items()}
  found = {name: objective for name, objective in found.items()
           if objective.regulariser is not None}
  if not found:
    raise ValueError(f"none of the methods {', '.join(methods)} has a "
                     "regulariser")
  return found


@precision.highest
def _pulls(found: Mapping[str, _Pull]) -> Pulls:
  weights = np.array([pull.weight for pull in found.values()])
  # A weight that follows the entropy is positive.
  signs = np.where(weights < 0, -1, 1)
  gradients = np.stack([
      sign * np.ravel(np.asarray(pull.gradient, np.float64))
      for sign, pull in zip(signs, found.values())])
  norms = np.linalg.norm(gradients, axis=1)
  with np.errstate(divide="ignore", invalid="ignore"):
    unit = gradients / norms[:, None]
  same = [[np.mean(np.sign(one) == np.sign(other)) for other in gradients]
          for one in gradients]
  return Pulls(
      tuple(found), np.array([float(pull.value) for pull in found.values()]),
      norms, np.abs(weights), unit @ unit.T, np.array(same))
