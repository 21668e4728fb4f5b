"""PromptSRC: prompts in both towers, regularised towards the frozen model.

Khattak et al., Self-regulating Prompts: Foundational Model Adaptation without
Forgetting (PromptSRC), ICCV 2023.

Three things regularise them: losses that tie features and predictions to the
frozen ones, the average of many templates that the frozen text features are,
and the average over epochs that the tuned prompts are (`epoch_weights`).
"""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
import numpy as np

from jaxcal import precision
from jaxcal.clip import towers
from jaxcal.compiled import compiled
from jaxcal.tuning import coop
from jaxcal.tuning import initial
from jaxcal.tuning import method as method_lib
from jaxcal.tuning import two_towers
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Number


def method(
    config: towers.ClipConfig,
    params: towers.Params,
    *,
    logit_scale: Number,
    context: Float[Array, "m w"] | None = None,
    num_context: int = 4,
    num_vision: int = 4,
    text_depth: int = 9,
    vision_depth: int = 9,
    text_weight: Number = 25.0,
    image_weight: Number = 10.0,
) -> method_lib.Method:
  """Deep prompts of both towers, independent of each other.

  Trains from pixels; `Images.features` are the frozen tower's for the same
  pixels, and `Prompts.target` is `average_templates` of many templates.
  Its parameters: {"context": [n w], "deep_text": [e-1 n w], "vision":
  [e' n' v]}, with e and e' the depths and v the width of the image tower.

  The loss is cross-entropy, plus the mean absolute difference of text features
  from the target and that of image features from the frozen ones, times their
  weights, plus the divergence KL(frozen, tuned), averaged over images and, as
  released, over classes too.

  Args:
    config: Sizes of the model.
    params: The whole parameter tree; stays as it is.
    logit_scale: Factor of the cosines.
    context: Context from the words before the class names, as in
      `maple.method`.
    num_context: Number n of context vectors.
    num_vision: Number n' of visual prompts.
    text_depth: Layers of the text tower, from the first one, that get prompts
      of their own.
    vision_depth: Layers of the image tower, likewise.
    text_weight: Weight of the difference of text features.
    image_weight: Weight of the difference of image features.

  Raises:
    ValueError: More context vectors than words, or a depth that a tower does
      not have.

  Source: Khattak et al. 2023.
  Differs from the released code in: no mixed precision; the frozen image
  features are given, not computed again in every step.
  """
  model = two_towers.bind(
      config, params, logit_scale=logit_scale, words=context,
      num_context=num_context, num_vision=num_vision, text_depth=text_depth,
      vision_depth=vision_depth)
  return method_lib.Method(
      init=Partial(_init, model),
      loss=Partial(_loss, model, text_weight, image_weight),
      logits=Partial(_logits, model),
      text_features=Partial(two_towers.text_features, model))


def average_templates(
    embeddings: Float[Array, "t k d"]) -> Float[Array, "k d"]:
  """Unit-norm mean over templates of class embeddings before normalisation."""
  return towers.normalise(jnp.mean(embeddings, axis=0))


def epoch_weights(
    num_epochs: int, *, mean: float, std: float,
) -> Float[np.ndarray, "e"]:
  r"""Weights of the epochs in Gaussian prompt aggregation.

  .. math:: g_e \propto \exp(-(e - \mu)^2 / (2 \sigma^2)), \quad
            e = 1, \dots, E

  Args:
    num_epochs: Number of epochs, E.
    mean: The epoch that weighs most, counted from 1.
    std: Standard deviation in epochs. Released: mean 15 and std 1 of 20 epochs
      for base-to-new, 30 and 30 of 50 for few-shot tuning.

  Returns:
    Weights in [0, 1] that sum to one, float64: the `share` of each epoch in
    `training.State.average`, which after the last one are the tuned parameters.

  Raises:
    ValueError: No epochs, or a standard deviation of zero or less.
  """
  if num_epochs < 1 or not std > 0:
    raise ValueError(f"at least 1 epoch and a standard deviation above 0 "
                     f"expected, but {num_epochs=} and {std=}")
  epochs = np.arange(1, num_epochs + 1, dtype=np.float64)
  exponents = -(epochs - mean)**2 / (2 * std**2)
  # Shifted, so that the largest one cannot underflow.
  weights = np.exp(exponents - exponents.max())
  return weights / weights.sum()


@compiled
def _init(model, key, prompts):
  del prompts
  text_key, vision_key = jax.random.split(key)
  shape = model.vision_depth, model.num_vision, model.config.vision.width
  return {**two_towers.initial_text(model, text_key),
          "vision": initial.vectors(vision_key, shape)}


@compiled
@precision.highest
def _logits(model, params, prompts, images):
  features = two_towers.image_features(model, params["vision"], images)
  return model.scale * features @ two_towers.text_features(
      model, params, prompts, images).T


@compiled
@precision.highest
def _loss(model, text_weight, image_weight, params, prompts, batch):
  images = batch.images
  texts = two_towers.text_features(model, params, prompts, images)
  features = two_towers.image_features(model, params["vision"], images)
  logits = model.scale * features @ texts.T
  parts = {
      "cross_entropy": coop.cross_entropy(logits, batch.labels),
      "text_difference": jnp.mean(jnp.abs(texts - prompts.target)),
      "image_difference": jnp.mean(jnp.abs(features - images.features)),
      "divergence": _divergence(
          model.scale * images.features @ prompts.target.T, logits),
  }
  return (parts["cross_entropy"] + text_weight * parts["text_difference"] +
          image_weight * parts["image_difference"] +
          parts["divergence"]), parts


def _divergence(frozen, logits):
  """KL(frozen, tuned), averaged over images and classes."""
  frozen, logits = (jax.nn.log_softmax(x) for x in (frozen, logits))
  return jnp.mean(jnp.exp(frozen) * (frozen - logits))
