"""The tiny random CLIP with which released programs tuned prompts.

Its parameters are in float64, so that it is to be called in 64-bit mode.
"""

import functools

import jax
import numpy as np

from jaxcal.clip import checkpoint
from jaxcal.clip import prefix
from jaxcal.clip import prompts
from tests import shared


@functools.cache
def folder():
  return shared.path("oracles/tpt")


@functools.cache
def oracle():
  with np.load(folder() / "tpt_oracle.npz", allow_pickle=False) as oracle:
    return dict(oracle)


@functools.cache
def model():
  """Configuration and parameters, in float64."""
  model = checkpoint.load(folder() / "hf_clip_tiny")
  return model.config, jax.tree.map(
      lambda x: jax.device_put(np.float64(x)), model.params)


@functools.cache
def encoder(k):
  bank = prompts.from_token_ids(
      oracle()[f"K{k}/input_ids"], np.broadcast_to(np.arange(1, 5), (k, 4)),
      oracle()[f"K{k}/eot_index"])
  return prefix.context_encoder(*model(), bank, max_groups=1)


def views(k):
  """View features of the images, [n v d]."""
  return oracle()[f"K{k}/image_features/f64"]
