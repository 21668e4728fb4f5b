"""What the methods that learn prompts in both towers share."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxcal.clip import towers
from jaxcal.tuning import initial
from jaxcal.tuning import method as method_lib
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Key


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Model:
  """A frozen CLIP whose towers take prompts.

  Attributes:
    config: Sizes of the model.
    params: Of the image tower.
    scale: Factor of the cosines.
    words: Vectors of the words before the class name, of which a shorter
      context takes the place of the first ones; or None.
  """

  config: towers.ClipConfig
  params: towers.Params
  scale: Float[Array, ""]
  words: Float[Array, "m w"] | None

  def text_features(
      self, params: method_lib.Params, prompts: method_lib.Prompts,
  ) -> Float[Array, "k d"]:
    """Unit-norm, of `params["context"]` and `params["deep_text"]`."""
    context = params["context"]
    if self.words is not None:
      context = jnp.concatenate([context, self.words[len(context):]])
    return prompts.encode(context, deep=params["deep_text"])

  def image_features(
      self,
      vision: Float[Array, "e n w"],
      images: method_lib.Images,
  ) -> Float[Array, "b d"]:
    """Unit-norm, with prompts as in `towers.pooled_image`.

    Raises:
      ValueError: images without pixels.
    """
    if images.pixels is None:
      raise ValueError("images with pixels expected, because prompts of the "
                       "image tower are tuned, but there are features alone")
    return towers.image_features(
        self.config, self.params, images.pixels, vision)

  def initial_text(
      self, key: Key[Array, ""], num_context: int, depth: int,
  ) -> method_lib.Params:
    """Context (the first words, or random) and random deep prompts."""
    context_key, deep_key = jax.random.split(key)
    width = self.config.text.width
    context = (
        initial.vectors(context_key, (num_context, width))
        if self.words is None else jnp.asarray(self.words[:num_context]))
    return {
        "context": context,
        "deep_text": initial.vectors(deep_key, (depth - 1, num_context, width))}


def bind(
    config: towers.ClipConfig,
    params: towers.Params,
    *,
    logit_scale: Float[Array, ""],
    words: Float[Array, "m w"] | None,
    num_context: int,
    text_depth: int,
    vision_depth: int,
) -> Model:
  """The model for a method that learns `num_context` vectors.

  Raises:
    ValueError: more vectors than words, or depths that the towers do not have.
  """
  if num_context < 1 or (words is not None and num_context > len(words)):
    most = "" if words is None else f" and at most the {len(words)} words"
    raise ValueError(f"at least 1 context vector{most} expected, but "
                     f"{num_context=}")
  for name, depth, tower in (("text", text_depth, config.text),
                             ("vision", vision_depth, config.vision)):
    if not 1 <= depth <= tower.layers:
      raise ValueError(f"a depth from 1 to the {tower.layers} layers of the "
                       f"{name} tower expected, but {depth=}")
  image_side = {name: params[name] for name in towers.IMAGE_PARAMS}
  return Model(config, image_side, jnp.asarray(logit_scale), words)
