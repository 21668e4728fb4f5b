"""Sample-adaptive logit scaling (SaLS): the range of the zero-shot logits."""

import dataclasses

import jax
import numpy as np

from jaxcal.losses import logit_range
from jaxcal.recalibration import base
from jaxcal.recalibration import probabilities
from jaxcal.typing import AnyArray
from jaxcal.typing import Float


@dataclasses.dataclass(frozen=True)
class Sals:
  """Each image's logits moved to the range of its zero-shot ones."""

  def recalibrator(self) -> base.Recalibrator:
    """`apply`; nothing is fitted."""
    return base.Recalibrator(
        "sals", needs=("zero_shot_logits",), needs_labels=False,
        apply=lambda _, evidence: apply(
            evidence.logits, evidence.zero_shot_logits))


def apply(
    logits: Float[AnyArray, "n k"],
    zero_shot_logits: Float[AnyArray, "n k"] | None,
) -> Float[np.ndarray, "n k"]:
  """Logits with the least and the greatest zero-shot logit of the same image.

  See `losses.logit_range.match_range`, here in float64.

  Args:
    logits: Logits of the tuned model.
    zero_shot_logits: Zero-shot logits of the same images and classes; not None.

  Returns:
    Logits in the same order; alike where those of an image are.

  Raises:
    ValueError: The shapes differ.
  """
  with jax.enable_x64(True):
    found = np.asarray(logit_range.match_range(*(
        jax.device_put(np.array(x, np.float64))
        for x in (logits, zero_shot_logits))))
  return probabilities.keeping(logits, found)
