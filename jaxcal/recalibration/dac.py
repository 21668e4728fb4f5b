"""Distance-aware calibration (DAC): new classes that the tuning moved away.

Tuning on base classes moves the text features of other classes; where they end
up further from the base classes than they were, the model is over-confident in
them. Text features alone are looked at; no labels.
"""

import dataclasses

import numpy as np

from jaxcal.recalibration import base
from jaxcal.typing import AnyArray
from jaxcal.typing import Float

# Nearer than this to a base class is that class.
_SAME = 0.05

_NEEDS = ("text_features", "zero_shot_text_features", "base_text_features",
          "base_zero_shot_text_features")


@dataclasses.dataclass(frozen=True)
class Dac:
  """Logits scaled by how far tuning moved the predicted class.

  Attributes:
    num_neighbours: Number of base classes whose distances are averaged.
  """

  num_neighbours: int = 5

  def recalibrator(self) -> base.Recalibrator:
    """`apply` by the factors of `factors`; nothing is fitted."""
    return base.Recalibrator(
        "dac", needs=_NEEDS, needs_labels=False,
        apply=lambda _, evidence: apply(evidence.logits, factors(
            *(getattr(evidence, name) for name in _NEEDS),
            num_neighbours=self.num_neighbours)))


def factors(
    text_features: Float[AnyArray, "k d"],
    zero_shot_text_features: Float[AnyArray, "k d"],
    base_text_features: Float[AnyArray, "j d"],
    base_zero_shot_text_features: Float[AnyArray, "j d"],
    *,
    num_neighbours: int = 5,
) -> Float[np.ndarray, "k"]:
  r"""The factor of each class.

  .. math:: \gamma_i = \exp(D^0_i - D_i)

  D is the mean Euclidean distance to the nearest base classes, by tuned text
  features and by zero-shot ones.

  Args:
    text_features: Tuned text features, unit norm.
    zero_shot_text_features: Text features before the tuning, unit norm.
    base_text_features: Tuned text features of the classes of the training.
    base_zero_shot_text_features: Those before it.
    num_neighbours: Number of base classes whose distances are averaged. The sum
      is divided by it even where there are fewer.

  Returns:
    Factors above zero; one for classes nearer than 0.05 to a base class, which
    is how base classes are told. Above one where tuning drew classes together.

  Raises:
    ValueError: No neighbour.

  Source: Wang et al., Open-Vocabulary Calibration for Fine-tuned CLIP, ICML
  2024 (ml-stat-Sustech/CLIP_Calibration @5b68fb1).
  Differs from the released code in: nothing.
  """
  if num_neighbours < 1:
    raise ValueError(f"expected at least one neighbour, got {num_neighbours}")
  tuned = _nearest(text_features, base_text_features, num_neighbours)
  before = _nearest(zero_shot_text_features, base_zero_shot_text_features,
                    num_neighbours)
  moved = (before.sum(axis=1) - tuned.sum(axis=1)) / num_neighbours
  return np.where(tuned[:, 0] < _SAME, 1, np.exp(moved))


def apply(
    logits: Float[AnyArray, "n k"], factors: Float[np.ndarray, "k"]
) -> Float[np.ndarray, "n k"]:
  """All logits of an image times the factor of its predicted class.

  Args:
    logits: Scaled cosines, or what else is unnormalised log-probabilities.
    factors: Factors from `factors`.
  """
  logits = np.asarray(logits, np.float64)
  return logits * factors[logits.argmax(axis=1)][:, None]


def _nearest(features, others, number):
  """The least distances of each row to others, in ascending order."""
  from scipy.spatial import distance
  found = distance.cdist(
      np.asarray(features, np.float64), np.asarray(others, np.float64))
  return np.sort(found, axis=1)[:, :number]
