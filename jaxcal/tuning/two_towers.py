"""What the methods that learn prompts in both towers share."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxcal import pytrees
from jaxcal.clip import towers
from jaxcal.compiled import compiled
from jaxcal.tuning import initial
from jaxcal.tuning import method as method_lib
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Key
from jaxcal.typing import Number


def _static():
  return dataclasses.field(metadata={"static": True})


@pytrees.register_dataclass
@dataclasses.dataclass(frozen=True)
class Model:
  """A frozen CLIP whose towers take prompts, and how many.

  Attributes:
    config: Sizes of the model.
    params: Parameters of the image tower.
    scale: Factor of the cosines.
    words: Vectors of the words before the class name, of which a shorter
      context takes the place of the first ones; or None.
    num_context: Vectors before each layer of the text tower.
    num_vision: Vectors before each layer of the image tower.
    text_depth: Layers of the text tower, from the first one, with vectors.
    vision_depth: Layers of the image tower, from the first one, with vectors.
  """

  config: towers.ClipConfig
  params: towers.Params
  scale: Float[Array, ""]
  words: Float[Array, "m w"] | None
  num_context: int = _static()
  num_vision: int = _static()
  text_depth: int = _static()
  vision_depth: int = _static()


def bind(
    config: towers.ClipConfig,
    params: towers.Params,
    *,
    logit_scale: Number,
    words: Float[Array, "m w"] | None,
    num_context: int,
    num_vision: int,
    text_depth: int,
    vision_depth: int,
) -> Model:
  """The `Model` for a method; of `params` it keeps the image tower's.

  Raises:
    ValueError: More context vectors than words, a depth that a tower does not
      have, or an image tower that takes no prompts.
  """
  towers.check_image_prompts(config)
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
  return Model(config, image_side, jnp.asarray(logit_scale), words,
               num_context, num_vision, text_depth, vision_depth)


def initial_text(model: Model, key: Key[Array, ""]) -> method_lib.Params:
  """Context (the first words, or random) and random deep prompts."""
  context_key, deep_key = jax.random.split(key)
  shape = model.num_context, model.config.text.width
  context = (initial.vectors(context_key, shape) if model.words is None else
             jnp.asarray(model.words[:model.num_context]))
  return {
      "context": context,
      "deep_text": initial.vectors(deep_key, (model.text_depth - 1, *shape))}


@compiled
def text_features(
    model: Model,
    params: method_lib.Params,
    prompts: method_lib.Prompts,
    images: method_lib.Images | None,
) -> Float[Array, "k d"]:
  """Of `params["context"]` and `params["deep_text"]`; no image is looked at."""
  del images
  context = params["context"]
  if model.words is not None:
    context = jnp.concatenate([context, model.words[len(context):]])
  return prompts.encode(context, deep=params["deep_text"])


@compiled
def image_features(
    model: Model,
    vision: Float[Array, "e n w"],
    images: method_lib.Images,
) -> Float[Array, "b d"]:
  """Unit-norm, with prompts as in `towers.pooled_image`.

  Raises:
    ValueError: Images without pixels.
  """
  if images.pixels is None:
    raise ValueError("images with pixels expected, because prompts of the "
                     "image tower are tuned, but there are features alone")
  kernel = towers.image_projection(model.config, model.params).kernel
  return towers.image_features(
      model.config, model.params, images.pixels.astype(kernel.dtype), vision)
