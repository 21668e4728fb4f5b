"""Modes of an image's views in the joint space."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxcal import pytrees
from jaxcal.adapt import base
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Number

# Of the views, those whose distances make the bandwidth of each.
_NEIGHBOURS = 0.3
_NUM_STEPS = 5  # at most, of each of the three loops
_TOLERANCE = 1e-6  # Euclidean, of a change that ends a loop


@pytrees.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mta:
  r"""Robust mean shift over views, each with an inlierness (MTA).

  Alternates between inlierness scores y and the mode m of the views x:

  .. math:: y \leftarrow \mathrm{softmax}\left(
            (g(m) + \lambda_q A y) / \lambda_y\right), \quad
            m \leftarrow \frac{\sum_j g_j(m) y_j x_j}
                              {\lVert \sum_j g_j(m) y_j x_j \rVert}

  with Gaussian kernels g of a bandwidth per view, and A the products of the
  views' predictions. The image is classified by its mode. Nothing is trained.

  Attributes:
    inlier_entropy: Weight of the entropy of y (lambda_y).
    affinity: Weight of the agreement of predictions (lambda_q).

  Source: Zanella and Ben Ayed, On the Test-Time Zero-Shot Generalization of
  Vision-Language Models, CVPR 2024 (MaxZanella/MTA @cafafdf).
  Differs from the released code in: views that coincide with their neighbours,
  as those of an image of one colour do, whose bandwidth is zero there and makes
  NaN; nothing else in float64.
  """

  inlier_entropy: Number = 0.2
  affinity: Number = 4.0

  def method(self) -> base.TestTimeMethod:
    """Scores are logits of the mode; info has the weight of the clean view."""
    return base.episodic(_step, self)


def _step(numbers: Mta, task: base.Task, views: Float[Array, "v d"]):
  num_neighbours = int(_NEIGHBOURS * (len(views) - 1))
  if num_neighbours < 1:
    raise ValueError(f"at least 5 views of an image are needed, got "
                     f"{len(views)}; cut more, or leave the method out")
  # Not 2 - 2 <x, y>, which loses the digits of close views.
  distance = jnp.sum(jnp.square(views[:, None] - views[None]), axis=-1)
  distance = jnp.where(jnp.eye(len(views), dtype=bool), jnp.inf, distance)
  nearest = jnp.sort(distance, axis=1)[:, :num_neighbours]
  # Squared; and not zero for views that coincide but for rounding.
  bandwidth = jnp.maximum(0.5 * jnp.mean(nearest, axis=1),
                          jnp.finfo(distance.dtype).eps ** 2)
  probs = jax.nn.softmax(base.logits(task, views))
  affinity = probs @ probs.T

  def density(mode):
    far = jnp.sum(jnp.square(views - mode[None]), axis=-1)
    return jnp.exp(-far / (2 * bandwidth))

  def update(_, carry):
    inlier, mode, _ = carry
    kernel = density(mode)
    inlier = _settle(lambda y: jax.nn.softmax(
        (kernel + numbers.affinity * affinity @ y) / numbers.inlier_entropy),
                     inlier)
    weights = lambda mode: density(mode) * inlier
    last = _settle(lambda both: _shift(views, weights(both[0])),
                   (mode, weights(mode)))
    return inlier, *last

  uniform = jnp.full_like(bandwidth, 1 / len(views))
  _, mode, weights = jax.lax.fori_loop(
      0, _NUM_STEPS, update, (uniform, views[0], uniform))
  return base.from_logits(base.logits(task, mode), {
      "clean_view_weight": weights[0] / jnp.sum(weights),
      "mode_shift": jnp.linalg.norm(mode - views[0])})


def _shift(views, weights):
  """The weighted mean of the views, at unit norm, and its weights."""
  total = weights @ views / jnp.sum(weights)
  return total / jnp.linalg.norm(total), weights


def _settle(function, start):
  """Repeats until the first part of the value stands still, five times at most.
  """
  first = lambda value: jax.tree.leaves(value)[0]

  def body(carry):
    value, number, _ = carry
    following = function(value)
    return following, number + 1, jnp.linalg.norm(
        first(following) - first(value))

  moving = lambda carry: (carry[1] < _NUM_STEPS) & (carry[2] > _TOLERANCE)
  infinite = jnp.full_like(jnp.ravel(first(start))[0], jnp.inf)
  return jax.lax.while_loop(moving, body, (start, 0, infinite))[0]
