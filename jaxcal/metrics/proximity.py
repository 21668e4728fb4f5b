"""How near images lie to others, and calibration errors within that.

Images far from all others are often over-confident where those amid others are
not; an error over all images averages the two.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxcal.compiled import compiled_with
from jaxcal.metrics import binning
from jaxcal.metrics import calibration
from jaxcal.metrics import examples
from jaxcal.typing import Array
from jaxcal.typing import at_least_float32
from jaxcal.typing import Float
from jaxcal.typing import Shaped
from jaxcal.typing import Values


def proximity(
    features: Shaped[Any, "n d"] | Sequence[Any],
    references: Shaped[Any, "m d"] | Sequence[Any] | None = None,
    *,
    num_neighbours: int = 5,
    batch_size: int = 256,
) -> Float[Array, "n"]:
  r"""Proximity of each image to its nearest ones.

  .. math:: e^{-\frac{1}{K} \sum_{j \in \text{K nearest}} \|z - z_j\|}

  Args:
    features: Features of the images, one row each, of unit norm in the source.
    references: Features among which neighbours are looked for; if None, the
      images themselves, each without itself.
    num_neighbours: Number of neighbours, K.
    batch_size: Number of images that are looked up at a time.

  Returns:
    Proximities in (0, 1]; one where the neighbours are copies.

  Raises:
    ValueError: Features that are no matrices of one width, or fewer references
      than neighbours.

  Source: Xiong et al., Proximity-Informed Calibration, NeurIPS 2023; as
  ml-stat-Sustech/CLIP_Calibration @5b68fb1 has it, with the features of the
  tuned model and the validation images as references.
  Differs from the released code in: an image leaves out itself, not whichever
  is nearest, so that copies of it count.
  """
  leave_out = references is None
  features = examples.as_array(features)
  references = features if leave_out else examples.as_array(references)
  if features.ndim != 2 or references.shape[1:] != features.shape[1:]:
    raise ValueError(
        "features and references must be matrices of one width, but their "
        f"shapes are {features.shape} and {references.shape}.")
  available = len(references) - leave_out
  if not 1 <= num_neighbours <= available:
    raise ValueError(
        f"expected 1 to {available} neighbours, as there are {available} other "
        f"images, got {num_neighbours}; give more images, or ask for fewer.")
  return _near(features, references, leave_out=leave_out,
               num_neighbours=num_neighbours, batch_size=batch_size)


@compiled_with("leave_out", "num_neighbours", "batch_size")
def _near(features, references, *, leave_out, num_neighbours, batch_size):
  """Proximity of each image to its nearest references, itself left out."""
  features = at_least_float32(features)
  references = at_least_float32(references).astype(features.dtype)
  squares = jnp.sum(jnp.square(references), axis=1)

  def of_image(image_and_position):
    image, position = image_and_position
    products = jnp.matmul(
        references, image, precision=jax.lax.Precision.HIGHEST)
    own = jnp.arange(len(references)) == position
    # Squared distances but for a constant: they tell who is near.
    order = jnp.where(own & leave_out, jnp.inf, squares - 2 * products)
    _, nearest = jax.lax.top_k(-order, num_neighbours)
    # How near, without the cancellation: copies are at a distance of zero.
    distances = jnp.linalg.norm(
        references[nearest] - image[None], axis=1)
    return jnp.exp(-jnp.mean(distances))

  return jax.lax.map(
      of_image, (features, jnp.arange(len(features))),
      batch_size=min(batch_size, len(features)))


def proximity_calibration_error(
    confidence: Values,
    correct: Values,
    proximities: Values,
    *,
    num_bins: int = 10,
    num_groups: int = 10,
    edges: str = "left",
    weights: Values | None = None,
) -> Float[Array, ""]:
  """Proximity-informed calibration error (PIECE), a fraction.

  The expected calibration error of cells: bins of confidence of equal width
  within groups of equally many images by proximity.

  Args:
    confidence: Probability of the predicted class, in [0, 1].
    correct: Whether the prediction is right, as booleans or as 0 and 1.
    proximities: Proximity of each image, or another value to group by.
    num_bins: Bins of equal width in each group.
    num_groups: Groups of equal mass.
    edges: Edge that belongs to a bin, "right" or "left".
    weights: Multiplicity of each example; one if None.

  Returns:
    Error in [0, 1], at least the ECE with the same bins of confidence. The more
    cells, the fewer images in each and the larger its bias: compare it at one
    number of images only.

  Raises:
    ValueError: As `binning.grouped_bin_statistics`.

  Source: Xiong et al. 2023; as ml-stat-Sustech/CLIP_Calibration @5b68fb1.
  Differs from the released code in: edges of groups closer than 1e-8 are merged
  there, coinciding ones here.
  """
  return calibration.calibration_error(binning.grouped_bin_statistics(
      confidence, correct, proximities, num_bins=num_bins,
      num_groups=num_groups, edges=edges, weights=weights))
