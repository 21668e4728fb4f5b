"""Predictions with everything that calibrators look at, and stored numbers."""

import numpy as np

from jaxcal.recalibration import base
from tests import shared


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def oracle():
  """The stored arrays of calibrators, by name."""
  path = shared.path("oracles/few_shot") / "calibration_oracle.npz"
  with np.load(path) as stored:
    return dict(stored)


def evidence(seed, n=300, k=4, factor=2., width=16, num_views=3):
  """Over-confident predictions of a model that was moved by a tuning.

  Args:
    seed: Seed of the images; the classes are the same for all.
    n: Number of images.
    k: Number of classes.
    factor: Factor of logits under which labels would be drawn.
    width: Width of the joint space.
    num_views: Number of random views.
  """
  fixed, rng = np.random.default_rng(0), np.random.default_rng([1, seed])
  zero_shot = unit(fixed.normal(size=(k, width)))
  tuned = unit(zero_shot + 0.1 * fixed.normal(size=(k, width)))
  base_zero_shot = unit(fixed.normal(size=(6, width)))
  base_tuned = unit(base_zero_shot + 0.02 * fixed.normal(size=(6, width)))
  labels = rng.integers(k, size=n)
  images = unit(zero_shot[labels] + 0.7 * rng.normal(size=(n, width)))
  views = unit(images[:, None] + 0.1 * rng.normal(size=(n, num_views, width)))
  logits = 8 * images @ tuned.T
  labels = (logits / factor + rng.gumbel(size=(n, k))).argmax(-1)
  return base.Evidence(
      logits, labels, scores=np.exp(logits), image_features=images,
      text_features=tuned, zero_shot_text_features=zero_shot,
      base_text_features=base_tuned,
      base_zero_shot_text_features=base_zero_shot,
      zero_shot_logits=6 * images @ zero_shot.T,
      view_logits=8 * views @ tuned.T,
      zero_shot_view_logits=6 * views @ zero_shot.T,
      mean_cosine=np.asarray(0.7))
