"""Models and prompts of real sizes with random contents: nothing to download.
"""

from collections.abc import Sequence
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.clip import prompts
from jaxcal.clip import resnet
from jaxcal.clip import siglip
from jaxcal.clip import towers
from jaxcal.typing import Array
from jaxcal.typing import Float

_SHARED = dict(vocab_size=49408, context_length=77, eos_token_id=2,
               image_size=224)
_SIGLIP = dict(width=768, layers=12, heads=12, mlp_width=3072,
               activation="gelu_pytorch_tanh", layer_norm_eps=1e-6)

MODELS = {
    "ViT-B/16": towers.ClipConfig(
        text=towers.TowerConfig(512, layers=12, heads=8, mlp_width=2048),
        vision=towers.TowerConfig(768, layers=12, heads=12, mlp_width=3072),
        patch_size=16, projection=512, **_SHARED),
    "ViT-L/14": towers.ClipConfig(
        text=towers.TowerConfig(768, layers=12, heads=12, mlp_width=3072),
        vision=towers.TowerConfig(1024, layers=24, heads=16, mlp_width=4096),
        patch_size=14, projection=768, **_SHARED),
}

# And those whose image tower is another one.
MODELS_BY_TOWER = MODELS | {
    "RN50": resnet.ResNetClipConfig(
        text=towers.TowerConfig(512, layers=12, heads=8, mlp_width=2048),
        vision=resnet.ResNetConfig(64, layers=(3, 4, 6, 3), heads=32),
        projection=1024, **_SHARED),
    "SigLIP-B/16": siglip.SiglipConfig(
        text=towers.TowerConfig(**_SIGLIP),
        vision=towers.TowerConfig(**_SIGLIP),
        patch_size=16, projection=768, image_size=224, vocab_size=32000,
        context_length=64),
}

LOGIT_SCALE = 100.0
NUM_VIEWS = 64

# Names of 1, 2, ... tokens among 1,000, by OpenAI's vocabulary: the class names
# of ImageNet, and the common nouns of WordNet.
CLASS_NAMES = (246, 508, 154, 50, 22, 10, 8, 0, 1, 0, 0, 1)
NOUNS = (124, 483, 245, 97, 32, 11, 5, 2, 1)

# Of OpenAI's vocabulary: start, "a photo of a", full stop, end.
_START, _CONTEXT, _STOP, _END = 49406, (320, 1125, 539, 320), 269, 49407


def small(config: towers.ClipConfig) -> towers.ClipConfig:
  """The same kind of model with hardly any parameters, to try programs on."""
  text = dataclasses.replace(
      config.text, width=32, layers=2, heads=2, mlp_width=64)
  vision = (
      dataclasses.replace(config.vision, width=4, layers=(1, 1, 1, 1), heads=4)
      if isinstance(config, resnet.ResNetClipConfig) else dataclasses.replace(
          config.vision, width=32, layers=2, heads=2, mlp_width=64))
  return dataclasses.replace(
      config, text=text, vision=vision, projection=32,
      image_size=2 * config.patch_size)


def text_params(config: towers.ClipConfig, dtype=jnp.float32) -> towers.Params:
  """Random parameters of the text side; the image tower is never computed."""
  return _some_params(config, dtype, towers.TEXT_PARAMS)


def image_params(config: towers.ClipConfig, dtype=jnp.float32) -> towers.Params:
  """Random parameters of the image side."""
  return _some_params(config, dtype, towers.IMAGE_PARAMS)


def prompt_bank(
    num_classes: int, lengths: Sequence[int] | None = None,
) -> prompts.PromptBank:
  """Prompts "a photo of a NAME." at all 77 positions.

  Args:
    num_classes: How many.
    lengths: How many names have 1, 2, ... tokens, in any unit; lengths are
      shared out in these proportions. If None, they are random, 1 to 4.
  """
  rng = np.random.default_rng(0)
  shared_out = lengths and rng.permutation(_shared_out(num_classes, lengths))
  ids = np.zeros((num_classes, _SHARED["context_length"]), np.int32)
  context = np.arange(1, 1 + len(_CONTEXT))
  ends = np.zeros(num_classes, np.int32)
  for number, row in enumerate(ids):
    length = rng.integers(1, 5) if lengths is None else shared_out[number]
    name = rng.integers(1000, 40000, length)
    prompt = [_START, *_CONTEXT, *name, _STOP, _END]
    row[:len(prompt)], ends[number] = prompt, len(prompt) - 1
  return prompts.from_token_ids(ids, context, ends)


def view_features(
    num_images: int, config: towers.ClipConfig, dtype=jnp.float32,
) -> Float[Array, "b v d"]:
  """Random unit vectors in place of what the image tower saw."""
  shape = (num_images, NUM_VIEWS, config.projection)
  return towers.normalise(jax.random.normal(jax.random.key(1), shape, dtype))


def _shared_out(number, lengths):
  """`number` lengths in the given proportions, ascending."""
  upto = np.cumsum(lengths)
  return 1 + np.searchsorted(
      upto, (np.arange(number) + 0.5) / number * upto[-1])


def _some_params(config, dtype, names):
  return jax.tree.map(lambda leaf: leaf.astype(dtype), _init(config, names))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _init(config, names):
  params = towers.init(config, jax.random.key(0))
  return {name: params[name] for name in names if name in params}
