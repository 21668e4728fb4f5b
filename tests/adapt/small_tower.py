"""The last blocks of a small image tower, and what every method sees of images.
"""

import dataclasses

import numpy as np

from jaxcal.adapt import base
from jaxcal.clip import last_blocks
from tests.clip import tiny

_TOKENS = 5


def blocks(projection, number=3):
  """Random blocks that lead to features of this width."""
  config = dataclasses.replace(
      tiny.CONFIG, projection=projection, vision=dataclasses.replace(
          tiny.CONFIG.vision, layers=number))
  return last_blocks.of(config, tiny.params(config), number)


def seen(numbers, views):
  """View features of images as they are, or with random states beside them."""
  if not base.image_blocks(numbers):
    return views
  shape = (*views.shape[:-1], _TOKENS, tiny.CONFIG.vision.width)
  states = np.random.default_rng(0).standard_normal(shape)
  return base.Seen(views, states.astype(views.dtype))
