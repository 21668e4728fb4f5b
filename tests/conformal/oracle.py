"""Shared reference data of conformal sets, as float64 arrays."""

from typing import NamedTuple

import numpy as np

from tests import shared


class Features(NamedTuple):
  """Features of WHU-RS19, normalised once more in float64."""
  images: np.ndarray
  labels: np.ndarray
  text: np.ndarray


def stored(name):
  """Arrays of the reference file `name`."""
  return dict(shared.arrays(f"oracles/conformal/{name}.npz"))


def features(model="CLIP_ViT-B-32", prompt=90):
  """Features of an image encoder, and of one prompt's classes."""
  stored = shared.arrays(f"data/whurs19/{model}.npz")
  return Features(_unit(stored["image_features"]),
                  stored["labels"].astype(int),
                  _unit(stored["text_features"][prompt]))


def unpacked(sets, num_classes):
  """Sets that are stored as bits."""
  return np.unpackbits(sets, axis=-1, count=num_classes).astype(bool)


def softmax(logits):
  """Probabilities, by numpy."""
  powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
  return powers / powers.sum(axis=-1, keepdims=True)


def _unit(vectors):
  vectors = vectors.astype(np.float64)
  return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
