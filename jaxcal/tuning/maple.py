"""MaPLe: prompts in both towers, those of images being maps of those of texts.

Khattak et al., MaPLe: Multi-modal Prompt Learning, CVPR 2023.
"""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

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
    num_context: int = 2,
    depth: int = 9,
) -> method_lib.Method:
  """Deep prompts of texts, and linear maps from them to those of images.

  Trains from pixels. Its parameters, with e = depth: {"context": [n w],
  "deep_text": [e-1 n w], "vision": {"kernel": [e w v], "bias": [e v]}}, v being
  the width of the image tower. The context comes before the first layer and
  deep_text[i] takes its place before layer i + 1, in both towers; from layer e
  on, what became of them flows.

  Args:
    config: Sizes of the model.
    params: The whole parameter tree; stays as it is.
    logit_scale: Factor of the cosines.
    context: Vectors of the words before the class names, as many as the prompts
      have room for: those of "a photo of a", as in the paper. The first n of
      them are where the learned context begins, the rest stays as it is. If
      None, the context begins at random (the recipe of the outlier
      regularisation) and the prompts have room for n vectors, "X X {}.".
    num_context: Number n of context vectors.
    depth: Layers, from the first one, that get prompts of their own.

  Raises:
    ValueError: More context vectors than words, or a depth that a tower does
      not have.

  Source: Khattak et al. 2023.
  Differs from the released code in: no mixed precision; what the classes share
  of the text side runs once.
  """
  model = two_towers.bind(
      config, params, logit_scale=logit_scale, words=context,
      num_context=num_context, num_vision=num_context, text_depth=depth,
      vision_depth=depth)
  return method_lib.Method(
      init=Partial(_init, model), loss=Partial(_loss, model),
      logits=Partial(_logits, model),
      text_features=Partial(two_towers.text_features, model))


@compiled
def _init(model, key, prompts):
  del prompts
  text_key, first_key, deep_key = jax.random.split(key, 3)
  first, deep = (
      initial.linear(key, model.config.text.width, model.config.vision.width)
      for key in (first_key, deep_key))
  # All deep maps begin as the same one, as released.
  maps = jax.tree.map(
      lambda a, b: jnp.stack([a] + (model.vision_depth - 1) * [b]), first, deep)
  return {**two_towers.initial_text(model, text_key), "vision": maps}


@compiled
@precision.highest
def _logits(model, params, prompts, images):
  texts = jnp.concatenate([params["context"][None], params["deep_text"]])
  maps = params["vision"]
  vision = texts @ maps["kernel"] + maps["bias"][:, None]
  features = two_towers.image_features(model, vision, images)
  return model.scale * features @ two_towers.text_features(
      model, params, prompts, images).T


@compiled
def _loss(model, params, prompts, batch):
  loss = coop.cross_entropy(
      _logits(model, params, prompts, batch.images), batch.labels)
  return loss, {"cross_entropy": loss}
