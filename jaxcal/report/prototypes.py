"""How alike the classes' text features are, before tuning and after it."""

from typing import NamedTuple

import numpy as np

from jaxcal.predictions import Predictions
from jaxcal.typing import Float
from jaxcal.typing import Int

# Steps of 0.01 over all cosines that there can be.
EDGES = np.linspace(-1, 1, 201)


class Similarities(NamedTuple):
  """Numbers of pairs of classes by their cosine, between `EDGES`."""

  before: Int[np.ndarray, "bins"]
  after: Int[np.ndarray, "bins"]


def similarities(predictions: Predictions) -> Similarities | None:
  """Cosines of all pairs of classes, where the predictions carry both features.

  Args:
    predictions: Predictions, perhaps with the evidence `text_features` and
      `zero_shot_text_features`; test-time methods have other features for each
      image, and carry none.

  Returns:
    Both histograms; None without features, and where none has moved.
  """
  features = [predictions.evidence.get(name) for name in (
      "zero_shot_text_features", "text_features")]
  before, after = features
  if before is None or after is None or np.array_equal(before, after):
    return None
  return Similarities(_histogram(before), _histogram(after))


def _histogram(
    features: Float[np.ndarray, "k d"]) -> Int[np.ndarray, "bins"]:
  features = np.asarray(features, np.float64)
  cosines = np.clip(features @ features.T, -1, 1)
  counts, _ = np.histogram(
      cosines[np.triu_indices(len(features), k=1)], bins=EDGES)
  return counts
