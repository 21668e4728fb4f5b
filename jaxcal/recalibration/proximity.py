"""How near an image is to others, in the space of features."""

import numpy as np

from jaxcal.typing import AnyArray
from jaxcal.typing import Float

# Distances that are held in memory at a time.
_BLOCK = 2 ** 22


def proximities(
    features: Float[AnyArray, "n d"] | None,
    others: Float[AnyArray, "m d"] | None = None,
    *,
    num_neighbours: int = 5,
) -> Float[np.ndarray, "n"]:
  r"""The exponential of minus the mean distance to the nearest others.

  .. math:: \exp\Big(-\frac{1}{K} \sum_{j \in N_K(i)} |z_i - z_j|\Big)

  Args:
    features: Image features, unit norm; not None.
    others: Features of the images among which neighbours are sought; if None,
      `features` themselves, each without itself.
    num_neighbours: Number of neighbours K.

  Returns:
    Proximities in (0, 1].

  Raises:
    ValueError: Fewer others than neighbours, or no neighbour.

  Source: Xiong et al., Proximity-Informed Calibration, NeurIPS 2023, as in
  ml-stat-Sustech/CLIP_Calibration @5b68fb1.
  Differs from the released code in: float64; an image leaves out itself, not
  whichever is nearest, so that copies of it count.
  """
  known = np.asarray(features, np.float64)
  among = known if others is None else np.asarray(others, np.float64)
  there = len(among) - (others is None)
  if not 1 <= num_neighbours <= there:
    raise ValueError(
        f"expected 1 to {there} neighbours, as there are {there} other images, "
        f"got {num_neighbours}; fit to more images, or ask for fewer")
  from scipy.spatial import distance
  rows, found = max(1, _BLOCK // len(among)), []
  for start in range(0, len(known), rows):
    distances = distance.cdist(known[start:start + rows], among)
    if others is None:
      own = np.arange(len(distances))
      distances[own, start + own] = np.inf
    nearest = np.partition(distances, num_neighbours - 1, axis=1)
    found.append(nearest[:, :num_neighbours].mean(axis=1))
  return np.exp(-np.concatenate(found))
