"""The testbed's pairs: scenes as its model was trained on, with captions."""

import numpy as np

from jaxcal.data import pairs
from jaxcal.testbed import captions
from jaxcal.testbed import scenes
from jaxcal.testbed import train

# First word of the captions' seed sequences; the scenes have that of training.
_CAPTION_STREAM = 5


def load(num_pairs: int, *, seed: int = 1) -> pairs.PairSet:
  """Scenes from the training distribution, each with a caption true of it.

  Scenes are drawn by `train.training_scene` and captions by `captions.compose`,
  as in training, where each scene has a new caption at every step and half of
  them are seen through a window; here each has one caption and is seen whole. A
  pair depends on the seed and its position alone.

  Args:
    num_pairs: How many; a longer set begins with the shorter one.
    seed: The shipped model was trained with 0, so with any other seed the
      pairs are fresh draws. (One scene in eight shows a scan of a digit; these
      are the same few scans as in training.) With 0, the first 100,000 scenes
      are those of training.

  Returns:
    The pairs; images are drawn when they are read.

  Raises:
    ValueError: If `num_pairs` is below 1.
  """
  if num_pairs < 1:
    raise ValueError(f"expected at least 1 pair, got {num_pairs}.")
  return pairs.PairSet(
      name="scenes",
      ids=tuple(f"scenes/{seed}/{i:06d}" for i in range(num_pairs)),
      captions=tuple(_caption(seed, i) for i in range(num_pairs)),
      read=lambda i: scenes.render(train.training_scene(seed, i)),
      skipped={},
  )


def _caption(seed, index):
  rng = np.random.default_rng([_CAPTION_STREAM, seed, index])
  scene = train.training_scene(seed, index)
  return captions.compose(captions.attributes(scene), rng).text
