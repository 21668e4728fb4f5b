"""Tip-Adapter: the few shots as a cache that is looked up, and may be tuned.

Zhang et al., Tip-Adapter: Training-free Adaption of CLIP for Few-shot
Classification, ECCV 2022. Without training, the method predicts with the
parameters that it begins with; trained (Tip-Adapter-F), with keys that moved.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
import numpy as np
import optax

from jaxcal import precision
from jaxcal.clip import towers
from jaxcal.compiled import compiled
from jaxcal.compiled import compiled_with
from jaxcal.tuning import coop
from jaxcal.tuning import method as method_lib
from jaxcal.tuning import training
from jaxcal.typing import AnyArray
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Number

# The grid of the released search on ImageNet; other data sets had wider ones.
ALPHAS = tuple(float(0.1 + i * (3 - 0.1) / 20) for i in range(20))
BETAS = tuple(float(0.1 + i * (7 - 0.1) / 200) for i in range(200))


class Cache(NamedTuple):
  """The few shots.

  Attributes:
    keys: Unit-norm image features.
    values: One-hot classes, a row of zeros and a one for each key.
  """

  keys: Float[Array, "n d"]
  values: Float[Array, "n k"]


class Found(NamedTuple):
  """Where a grid search ended.

  Attributes:
    alpha: Weight of the cache.
    beta: Sharpness of the cache.
    accuracy: Accuracy with them, on the searched images, as a fraction.
  """

  alpha: Float[Array, ""]
  beta: Float[Array, ""]
  accuracy: Float[Array, ""]


def make_cache(
    embeddings: Float[AnyArray, "v n d"],
    labels: Int[AnyArray, "n"],
    num_classes: int,
) -> Cache:
  """A cache of training images.

  Args:
    embeddings: Image features before normalisation, of v augmented views of
      each image (published: 10); their mean, normalised, is the key.
    labels: Labels of the images.
    num_classes: How many classes there are.

  Raises:
    ValueError: If shapes do not fit together, or a label has no class.

  Source: Zhang et al. 2022 (gaopengcuhk/Tip-Adapter).
  Differs from the released code in: nothing.
  """
  labels = np.asarray(labels)
  if embeddings.ndim != 3 or labels.shape != embeddings.shape[1:2]:
    raise ValueError("embeddings [views, images, dimensions] and one label per "
                     f"image expected, but {embeddings.shape=} and "
                     f"{labels.shape=}.")
  if labels.min() < 0 or labels.max() >= num_classes:
    raise ValueError(f"labels in [0, {num_classes}) expected, found "
                     f"{labels.min()} to {labels.max()}.")
  return _made(embeddings, labels, num_classes)


@compiled_with("num_classes")
def _made(embeddings, labels, num_classes):
  keys = towers.normalise(jnp.mean(embeddings, axis=0))
  return Cache(keys, jax.nn.one_hot(labels, num_classes, dtype=keys.dtype))


@compiled
def take_classes(cache: Cache, positions: Int[AnyArray, "k"]) -> Cache:
  """The cache with only some of its classes as candidates.

  Args:
    cache: Cache of all classes of the training; all keys stay.
    positions: Where the classes were in training; `protocol.class_positions`
      finds them by name.
  """
  return cache._replace(values=cache.values[:, positions])


def method(
    cache: Cache,
    *,
    logit_scale: Number,
    alpha: Number = 1.0,
    beta: Number = 1.0,
) -> method_lib.Method:
  r"""Zero-shot logits plus what the cache says; cross-entropy.

  .. math:: s z W^\top + \alpha \exp(-\beta (1 - z K^\top)) V

  Its parameters are {"keys": [n d]}, the cache's to begin with. The cache has a
  column for each class of the training: for some of these see `take_classes`;
  for other classes there is no prediction.

  Args:
    cache: The few shots.
    logit_scale: Factor of the zero-shot cosines, whose text features are those
      of `Prompts.target`.
    alpha: Weight of the cache; see `search`.
    beta: Sharpness of the lookup: the greater, the less do distant keys count.

  Source: Zhang et al. 2022 (gaopengcuhk/Tip-Adapter).
  Differs from the released code in: after training the last keys are taken, not
  those of the epoch that was best on the test images.
  """
  scale = jnp.asarray(logit_scale)
  bound = (scale, alpha, beta, cache.values)
  return method_lib.Method(
      init=Partial(_init, cache.keys), loss=Partial(_loss, *bound),
      logits=Partial(_logits, *bound))


def optimiser(
    num_steps: int, learning_rate: float = 1e-3
) -> optax.GradientTransformation:
  """AdamW with a half cosine to zero over all steps, for the keys.

  Source: Zhang et al. 2022: batches of 256 for 20 epochs.
  Differs from the released code in: nothing.
  """
  return training.adamw(
      optax.cosine_decay_schedule(learning_rate, num_steps), eps=1e-4)


def search(
    params: method_lib.Params,
    cache: Cache,
    prompts: method_lib.Prompts,
    images: method_lib.Images,
    labels: Int[Array, "b"],
    *,
    logit_scale: Number,
    alphas: Sequence[float] = ALPHAS,
    betas: Sequence[float] = BETAS,
) -> Found:
  """The weight and sharpness of the cache with the best accuracy.

  Of equally good pairs the first: by beta, then by alpha, in the order given.

  All grid points share the products with the keys; each sharpness needs one
  with the values.

  Args:
    params: Parameters as begun or as trained.
    cache: Cache of the method.
    prompts: Prompts of the classes of the cache.
    images: Validation images that are not in the cache.
    labels: Labels of these images.
    logit_scale: Factor of the zero-shot cosines.
    alphas: Weights to try.
    betas: Sharpnesses to try.

  Raises:
    ValueError: If there are not as many prompts as classes in the cache.

  Source: Zhang et al. 2022 (gaopengcuhk/Tip-Adapter).
  Differs from the released code in: nothing.
  """
  _check_classes(cache.values, prompts)
  return _search(params, cache, prompts, images, labels, logit_scale,
                 *map(np.asarray, (alphas, betas)))


@compiled
@precision.highest
def _search(params, cache, prompts, images, labels, logit_scale, alphas,
            betas):
  weights, sharpnesses = (
      jnp.asarray(grid, cache.values.dtype) for grid in (alphas, betas))
  zero_shot = logit_scale * images.features @ prompts.target.T
  distance = 1 - images.features @ params["keys"].T

  def of_beta(beta):
    lookup = jnp.exp(-beta * distance) @ cache.values
    of_alpha = lambda alpha: jnp.mean(
        jnp.argmax(zero_shot + alpha * lookup, axis=-1) == labels)
    return jax.lax.map(of_alpha, weights)

  accuracy = jax.lax.map(of_beta, sharpnesses)
  best = jnp.argmax(accuracy)  # The first of equals.
  row, column = jnp.unravel_index(best, accuracy.shape)
  return Found(weights[column], sharpnesses[row], accuracy[row, column])


def _check_classes(values, prompts):
  if values.shape[-1] != len(prompts.target):
    raise ValueError(
        f"the cache has columns for the {values.shape[-1]} classes of its "
        f"images and predicts these alone, but there are "
        f"{len(prompts.target)} names; for some of the classes use "
        "take_classes, for new ones another method")


def _init(keys, key, prompts):
  del key, prompts  # The keys are given.
  return {"keys": keys}


@compiled
@precision.highest
def _logits(scale, alpha, beta, values, params, prompts, images):
  _check_classes(values, prompts)
  distance = 1 - images.features @ params["keys"].T
  return (scale * images.features @ prompts.target.T +
          alpha * jnp.exp(-beta * distance) @ values)


@compiled
def _loss(scale, alpha, beta, values, params, prompts, batch):
  loss = coop.cross_entropy(
      _logits(scale, alpha, beta, values, params, prompts, batch.images),
      batch.labels)
  return loss, {"cross_entropy": loss}
