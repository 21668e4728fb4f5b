"""What a calibrator is: other logits for the same images, often fitted.

A calibrator is a frozen dataclass of its own constants with a method
`recalibrator()`. What that returns is a pair of pure functions of arrays and
says what they need; ids, files and class names are not their business.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.typing import AnyArray
from jaxcal.typing import Float
from jaxcal.typing import Integer


class FitWarning(UserWarning):
  """A fit rests on less than its user may think; the message says on what."""


class Evidence(NamedTuple):
  """What calibrators look at, all of it of the same images in one order.

  n images, k classes, s random views, d of the joint space, j base classes.
  Only the logits are always there; `Recalibrator.needs` says what else must be.

  Attributes:
    logits: Unnormalised log-probabilities: their softmax is the distribution
      that is to be calibrated.
    labels: True classes; needed where something is fitted to them.
    scores: Scores as released, where they are not the logits: votes, sums of
      probabilities.
    image_features: Image features of the clean view, unit norm.
    text_features: Tuned, unit norm, where all images share them.
    zero_shot_text_features: Zero-shot text features, from before the tuning,
      unit norm.
    base_text_features: Text features of the classes of the training, tuned.
    base_zero_shot_text_features: Text features of the classes of the training,
      before it.
    zero_shot_logits: Zero-shot logits of the clean view.
    view_logits: Tuned, of the most confident random views.
    zero_shot_view_logits: Zero-shot logits of the same views.
    mean_cosine: Mean cosine of pairs of classes at the initial context.
  """

  logits: Float[AnyArray, "n k"]
  labels: Integer[AnyArray, "n"] | None = None
  scores: Float[AnyArray, "n k"] | None = None
  image_features: Float[AnyArray, "n d"] | None = None
  text_features: Float[AnyArray, "k d"] | None = None
  zero_shot_text_features: Float[AnyArray, "k d"] | None = None
  base_text_features: Float[AnyArray, "j d"] | None = None
  base_zero_shot_text_features: Float[AnyArray, "j d"] | None = None
  zero_shot_logits: Float[AnyArray, "n k"] | None = None
  view_logits: Float[AnyArray, "n s k"] | None = None
  zero_shot_view_logits: Float[AnyArray, "n s k"] | None = None
  mean_cosine: Float[AnyArray, ""] | None = None


class Fit(NamedTuple):
  """What was learnt from one set of images, to be applied to others.

  Attributes:
    parameters: Numbers and arrays by name; JSON holds them once arrays are
      lists. None where nothing could be learnt: logits are then left as they
      are.
    notes: Plain sentences about what the fit rests on; none where there is
      nothing to be said.
  """

  parameters: Mapping[str, Any]
  notes: tuple[str, ...] = ()


class Recalibrator(NamedTuple):
  """A calibrator as functions.

  Attributes:
    name: Name of the calibrator, as in `calibrators.RECALIBRATORS`.
    apply: Function of the parameters and the evidence of the images that are to
      be recalibrated; returns their logits, [n k]. Never looks at the labels.
    fit: Function of the evidence of other images; None where every image is
      recalibrated by itself, so that there is nothing to fit: `apply` then sees
      no parameters.
    needs: Fields of `Evidence` beside logits and labels that both functions
      look at.
    needs_labels: Whether the fit looks at the labels.
    keeps_prediction: Whether every image keeps its predicted class.
    same_classes: Whether a fit holds for its own classes alone.
  """

  name: str
  apply: Callable[[Mapping[str, Any], Evidence], Float[AnyArray, "n k"]]
  fit: Callable[[Evidence], Fit] | None = None
  needs: tuple[str, ...] = ()
  needs_labels: bool = True
  keeps_prediction: bool = True
  same_classes: bool = True


@runtime_checkable
class Calibrator(Protocol):
  """Anything that becomes a `Recalibrator`."""

  def recalibrator(self) -> Recalibrator:
    """The calibrator as functions, its constants bound."""


def check_needs(
    recalibrator: Recalibrator, evidence: Evidence, *, of: str,
    for_fit: bool = False,
) -> None:
  """Refuses evidence that lacks what the calibrator looks at.

  Args:
    recalibrator: The calibrator.
    evidence: Evidence of the images that it is fitted or applied to.
    of: How the message calls these images.
    for_fit: Whether it is to be fitted to them, perhaps to their labels.

  Raises:
    ValueError: Names what is missing and how to get it.
  """
  missing = [name for name in recalibrator.needs
             if getattr(evidence, name) is None]
  if missing:
    raise ValueError(
        f"{recalibrator.name} needs {', '.join(missing)} of {of}, which are "
        "not there; `jaxcal evaluate` keeps them with --config.evidence="
        f"{','.join(missing)}")
  if for_fit and recalibrator.needs_labels and evidence.labels is None:
    raise ValueError(f"{recalibrator.name} is fitted to labels, which {of} do "
                     "not have; give images whose classes are known")


def check_logits(
    recalibrator: Recalibrator, before: Float[AnyArray, "n k"], after: Any
) -> None:
  """Refuses logits that no metric should see, or that break a promise.

  Args:
    recalibrator: The calibrator.
    before: Logits before it.
    after: Logits that it returned.

  Raises:
    ValueError: They have another shape or are not finite, or a prediction
      changes that was to be kept.
  """
  before, after = np.asarray(before), np.asarray(after)
  name = recalibrator.name
  if after.shape != before.shape or not np.isfinite(after).all():
    raise ValueError(f"{name} must return finite logits of shape "
                     f"{before.shape}, but they have shape {after.shape} and "
                     f"{int((~np.isfinite(after)).sum())} are not finite")
  if not recalibrator.keeps_prediction:
    return
  # Rounding may make logits equal that were not, never the other way round.
  highest = lambda logits: logits == logits.max(axis=1, keepdims=True)
  kept = (highest(before) & highest(after)).any(axis=1)
  if not kept.all():
    raise ValueError(
        f"{name} says that it keeps every predicted class, but it changes "
        f"{int((~kept).sum())} of {len(kept)}, the first one in row "
        f"{int((~kept).argmax())}")


def told_apart(
    before: Float[AnyArray, "n k"], logits: Float[AnyArray, "n k"]
) -> Float[AnyArray, "n k"]:
  """Logits in which rounding has made no other class as high as the predicted.

  Of equal logits, the first class would be the predicted one.

  Args:
    before: Logits before a calibrator that keeps predictions.
    logits: Logits after it.
  """
  before = np.asarray(before)
  rows = np.arange(len(before))
  predicted = before.argmax(axis=1)
  found = np.asarray(logits)
  changed = found.argmax(axis=1) != predicted
  if not changed.any():
    return logits
  rows, predicted = rows[changed], predicted[changed]
  found = np.array(found)
  found[rows, predicted] = np.nextafter(
      found[rows].max(axis=1), np.asarray(np.inf, found.dtype))
  return jnp.asarray(found) if isinstance(logits, jax.Array) else found
