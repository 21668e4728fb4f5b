"""Flatness-aware prompt pre-training (FPP): a better context to start from.

Once per data set and without images, a context is trained to keep the text
features of a template while noise on the token vectors moves them little.
Every test-time method can then start there: hand the context to
`engine.prepare`.

FPP, github.com/YonseiML/fpp @bb9917f.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcal import pytrees
from jaxcal.clip import prefix
from jaxcal.compiled import compiled
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Key
from jaxcal.typing import Number
from jaxcal.typing import PyTree


@pytrees.register_dataclass
@dataclasses.dataclass(frozen=True)
class Recipe:
  """The numbers of the procedure; defaults are those of the released code.

  A pytree: `jit` compiles once for all but the two counts.

  Attributes:
    learning_rate: Learning rate of AdamW at the first step.
    final_learning_rate: Learning rate at `num_steps`, down a cosine.
    weight_decay: Weight decay of AdamW.
    context_std: Standard deviation of the noise on the context's vectors.
    other_std: Standard deviation of the noise on all other token vectors.
    flatness_weight: Weight of the flatness; None for 1 + 15 / k with k classes.
      The released scripts use 1.25 for ImageNet's variants; a summary of the
      paper has 1 + 0.15 / k.
    num_steps: Number of steps of the optimiser in all.
    num_draws: Number of draws of noise per step.
  """

  learning_rate: Number = 1e-2
  final_learning_rate: Number = 1e-4
  weight_decay: Number = 1e-2
  context_std: Number = 0.005**0.5
  other_std: Number = 0.02**0.5
  flatness_weight: Number | None = None
  num_steps: int = dataclasses.field(default=1000, metadata={"static": True})
  num_draws: int = dataclasses.field(default=4, metadata={"static": True})

  @property
  def optimiser(self) -> optax.GradientTransformation:
    """AdamW whose step size falls along a cosine."""
    schedule = optax.cosine_decay_schedule(
        self.learning_rate, self.num_steps,
        self.final_learning_rate / self.learning_rate)
    return optax.adamw(schedule, weight_decay=self.weight_decay)


class Pretraining(NamedTuple):
  """Where pre-training stands: all that it needs to go on."""

  context: Float[Array, "m w"]
  optimiser_state: PyTree
  step: Int[Array, ""]  # steps taken


class Losses(NamedTuple):
  """What is minimised, and its parts before weighting."""

  total: Float[Array, ""]
  alignment: Float[Array, ""]  # mean squared distance to the target, in [0, 4]
  flatness: Float[Array, ""]  # minus the mean cosine under noise, in [-1, 1]


def random_context(
    key: Key[Array, ""],
    shape: tuple[int, int],
    *,
    std: float = 0.02**0.5,
) -> Float[Array, "m w"]:
  """A normal context, from which the released code begins by default.

  Its vectors are about ten times as long as those of words, so that the same
  learning rate at test time moves them ten times less. The template's own
  context (`prompts.initial_context`) is the other way to begin.

  Differs from the released code in: not drawn in half precision.
  """
  # Drawn alike in 64-bit mode, which would draw other numbers.
  return std * jax.random.normal(key, shape, jnp.float32).astype(float)


def begin(context: Float[Array, "m w"], recipe: Recipe) -> Pretraining:
  """Pre-training before its first step, with an empty optimiser state."""
  return Pretraining(
      context, recipe.optimiser.init(context), jnp.zeros((), jnp.int32))


def advance(
    encode: prefix.Encoder,
    target_features: Float[Array, "k d"],
    key: Key[Array, ""],
    pretraining: Pretraining,
    recipe: Recipe,
    *,
    num_steps: int,
) -> tuple[Pretraining, Losses]:
  """Takes the next `num_steps` steps; for `jit` with `num_steps` static.

  The noise of a step depends on the key and the step's number alone, so that
  steps in parts, with a break in between, are those in one go.

  Args:
    encode: Function from `prefix.context_encoder`, the class name after the
      context.
    target_features: Unit-norm features to keep, such as the template's.
    key: Random key, the same for all parts.
    pretraining: State from `begin` or the last call.
    recipe: Recipe as in `begin`; past its own number of steps the learning rate
      stays at its last value.
    num_steps: Number of steps of this part.

  Returns:
    Where pre-training stands, and the losses [num_steps] before each step.

  Raises:
    ValueError: A context that is not wholly before the class name, or target
      features of another shape.
  """
  _check(encode, target_features)
  weight = recipe.flatness_weight
  if weight is None:
    weight = 1 + 15 / len(target_features)

  def step(now, _):
    noise = draw_noise(jax.random.fold_in(key, now.step), encode, recipe)

    def total(context):
      parts = losses(encode, context, target_features, noise, weight)
      return parts.total, parts

    gradient, parts = jax.grad(total, has_aux=True)(now.context)
    updates, state = recipe.optimiser.update(
        gradient, now.optimiser_state, now.context)
    context = optax.apply_updates(now.context, updates)
    return Pretraining(context, state, now.step + 1), parts

  return jax.lax.scan(step, pretraining, length=num_steps)


def pretrain(
    encode: prefix.Encoder,
    context: Float[Array, "m w"],
    target_features: Float[Array, "k d"],
    key: Key[Array, ""],
    recipe: Recipe = Recipe(),
) -> tuple[Float[Array, "m w"], Losses]:
  """The whole procedure; `advance` in parts is for showing and saving.

  Args:
    encode: Function from `prefix.context_encoder`, the class name after the
      context.
    context: Context to begin with, see `random_context`.
    target_features: Unit-norm features to keep, such as the template's.
    key: Random key of the noise.
    recipe: The procedure's numbers.

  Returns:
    The pre-trained context, and the losses [num_steps] before each step.

  Raises:
    ValueError: See `advance`.

  Source: FPP as released.
  Differs from the released code in: no tokens after the end token, which have
  no influence; no option to replace the class names by noise.
  """
  done, parts = advance(encode, target_features, key, begin(context, recipe),
                        recipe, num_steps=recipe.num_steps)
  return done.context, parts


@compiled
def losses(
    encode: prefix.Encoder,
    context: Float[Array, "m w"],
    target_features: Float[Array, "k d"],
    noise: Float[Array, "r t w"],
    flatness_weight: Number,
) -> Losses:
  r"""Alignment with the target plus weighted flatness under noise.

  .. math:: \frac{1}{K} \sum_k \lVert t_k - t^0_k \rVert^2
            - \frac{w}{R K} \sum_{r,k} \langle t_k, t^r_k \rangle

  Args:
    encode: Function from `prefix.context_encoder`.
    context: Context that gives the features t.
    target_features: Features t^0 to keep; not differentiated.
    noise: Noise added to the token vectors for the features t^r, which are not
      differentiated.
    flatness_weight: Weight w of the flatness.
  """
  noisy = jax.vmap(lambda one: encode(context, one))(noise)
  noisy, target = jax.lax.stop_gradient((noisy, target_features))
  features = encode(context)
  alignment = jnp.mean(jnp.sum(jnp.square(features - target), axis=-1))
  flatness = -jnp.mean(jnp.sum(features[None] * noisy, axis=-1))
  return Losses(alignment + flatness_weight * flatness, alignment, flatness)


@compiled
def draw_noise(
    key: Key[Array, ""],
    encode: prefix.Encoder,
    recipe: Recipe,
) -> Float[Array, "r t w"]:
  """Normal noise by token position, the same for all classes.

  The context's positions have a deviation of their own.
  """
  tokens, width = encode.positions.shape
  std = jnp.full((tokens,), recipe.other_std, encode.positions.dtype)
  std = std.at[1:1 + encode.num_context].set(recipe.context_std)
  normal = jax.random.normal(
      key, (recipe.num_draws, tokens, width), encode.positions.dtype)
  return std[None, :, None] * normal


def _check(encode, target_features):
  if not (isinstance(encode, prefix.Encoder)
          and encode.num_shared == encode.num_context):
    raise ValueError(
        "noise by token position needs the whole context before the class "
        "name: an encoder of prefix.context_encoder, from a bank with "
        "class_position='end'")
  expected = (len(encode.order), encode.projection.kernel.shape[-1])
  if target_features.shape != expected:
    raise ValueError(f"target features of shape {expected} expected, but "
                     f"{target_features.shape=}")
