"""Whether two ways to the same logits agree in float32.

The first step of AdamW has the size of the learning rate in every coordinate,
and rounding decides its sign where the gradient is close to zero. So some
logits may differ a little, but neither many nor by much.
"""

import numpy as np

from jaxcal.typing import ArrayLike
from jaxcal.typing import Float

TOLERANCE = 2e-3
_MOST_BEYOND, _LARGEST = 0.05, 0.1
_LARGEST_OF_HALF = 1.0


def differences(
    got: Float[ArrayLike, "*n k"], expected: Float[ArrayLike, "*n k"],
    *, half: bool = False,
) -> dict[str, float]:
  """The largest difference of a logit, and the share beyond `TOLERANCE`.

  Args:
    got: Logits.
    expected: Logits the other way.
    half: Whether the image features are of a tower in bfloat16, which rounds
      otherwise wherever the compiler fuses otherwise.

  Raises:
    AssertionError: One differs by more than 0.1, or more than 5% by more than
      the tolerance; in bfloat16, one by more than 1.
  """
  difference = np.abs(np.asarray(got) - np.asarray(expected))
  largest = float(difference.max())
  beyond = float((difference > TOLERANCE).mean())
  agrees = largest <= _LARGEST and beyond <= _MOST_BEYOND
  if not (agrees or half and largest <= _LARGEST_OF_HALF):
    raise AssertionError(f"logits differ by up to {largest:.2g}, and "
                         f"{beyond:.0%} of them by more than {TOLERANCE}")
  return {"max_difference": largest, "share_beyond": beyond}
