"""CoTS and E-CoTS: a temperature of each image, from its own random views.

Tuning at test time makes a model more confident than the zero-shot one, which
is better calibrated. On the most confident random views of an image, the
temperature is sought at which the tuned confidence is the zero-shot one.
"""

import dataclasses

import numpy as np

from jaxcal.recalibration import base
from jaxcal.recalibration import probabilities
from jaxcal.typing import AnyArray
from jaxcal.typing import Float

# Logits that are worked on at a time.
_BLOCK = 2 ** 20

_VIEWS = ("view_logits", "zero_shot_view_logits")


@dataclasses.dataclass(frozen=True)
class Cots:
  """A temperature for each image, from its random views.

  Attributes:
    num_steps: Number of steps of Adam.
    learning_rate: Learning rate, of the temperature's logarithm.
  """

  num_steps: int = 50
  learning_rate: float = 0.1

  def recalibrator(self) -> base.Recalibrator:
    """Logits divided by `temperatures`; nothing is fitted."""
    return base.Recalibrator(
        "cots", needs=_VIEWS, needs_labels=False,
        apply=lambda _, evidence: np.asarray(
            evidence.logits, np.float64) / _of(self, evidence)[:, None])


@dataclasses.dataclass(frozen=True)
class ECots:
  """CoTS, with the views' distributions mixed in; may change predictions.

  Attributes:
    num_steps: Number of steps of Adam.
    learning_rate: Learning rate, of the temperature's logarithm.
    share: Share of the image's own distribution; the mean cosine of pairs of
      classes, as in the paper, if None. The released code also has 0.6.
  """

  num_steps: int = 50
  learning_rate: float = 0.1
  share: float | None = None

  def recalibrator(self) -> base.Recalibrator:
    """`mixture` at `temperatures`; nothing is fitted."""
    needs = _VIEWS if self.share is not None else (*_VIEWS, "mean_cosine")

    def apply(_, evidence):
      share = evidence.mean_cosine if self.share is None else self.share
      return probabilities.to_logits(mixture(
          evidence.logits, evidence.view_logits, _of(self, evidence),
          share=float(share)))

    return base.Recalibrator("e_cots", needs=needs, needs_labels=False,
                             keeps_prediction=False, apply=apply)


def temperatures(
    view_logits: Float[AnyArray, "n s k"],
    zero_shot_view_logits: Float[AnyArray, "n s k"],
    *,
    num_steps: int = 50,
    learning_rate: float = 0.1,
) -> Float[np.ndarray, "n"]:
  r"""The temperature of each image after some steps of Adam, from one.

  .. math:: \min_T \frac{1}{S} \sum_s \big(\max \mathrm{softmax}(z_s / T)
            - \max \mathrm{softmax}(z^0_s)\big)^2

  The steps end it, not a minimum: it stays within a factor of 150 of one.

  Args:
    view_logits: Tuned logits of the most confident random views.
    zero_shot_view_logits: Zero-shot logits of the same views.
    num_steps: Number of steps.
    learning_rate: Learning rate, of the temperature's logarithm.

  Raises:
    ValueError: No view, or shapes that differ.

  Source: Bridging the Confidence Gap (yuweiliang911/CoTS @104997f).
  Differs from the released code in: float64 throughout.
  """
  views, reference = np.asarray(view_logits), np.asarray(zero_shot_view_logits)
  if views.shape != reference.shape or not views.shape[1]:
    raise ValueError(
        "expected logits of one random view or more, tuned and zero-shot, but "
        f"they have shapes {views.shape} and {reference.shape}; there is a "
        "random view where --config.method.selection_fraction times the number "
        "of views is at least one")
  rows = max(1, _BLOCK // views[0].size)
  return np.concatenate([
      _adam(views[start:start + rows].astype(np.float64),
            reference[start:start + rows], num_steps, learning_rate)
      for start in range(0, len(views), rows)])


def mixture(
    logits: Float[AnyArray, "n k"],
    view_logits: Float[AnyArray, "n s k"],
    temperatures: Float[np.ndarray, "n"],
    *,
    share: float,
) -> Float[np.ndarray, "n k"]:
  """The image's own distribution mixed with the mean of its views'.

  Args:
    logits: Tuned logits of the clean view.
    view_logits: Tuned logits of the most confident random views.
    temperatures: Temperatures from `temperatures`, for all of them.
    share: Share of the clean view; cut to [0, 1], since a mean cosine may be
      negative.

  Source: The same as of `temperatures`.
  """
  share = min(max(share, 0.), 1.)
  clean = probabilities.of_logits(
      np.asarray(logits, np.float64) / temperatures[:, None])
  views = probabilities.of_logits(
      np.asarray(view_logits, np.float64) / temperatures[:, None, None])
  return share * clean + (1 - share) * views.mean(axis=1)


def _adam(views, reference, num_steps, learning_rate):
  """`temperatures` of as many images as memory takes at a time."""
  target = probabilities.of_logits(reference).max(axis=-1)
  log_temperature = np.zeros(len(views))
  first, second = np.zeros(len(views)), np.zeros(len(views))
  for step in range(1, num_steps + 1):
    slope = _slope(log_temperature, views, target)
    first = 0.9 * first + 0.1 * slope
    second = 0.999 * second + 0.001 * slope ** 2
    log_temperature = log_temperature - (
        learning_rate * (first / (1 - 0.9 ** step)) /
        (np.sqrt(second / (1 - 0.999 ** step)) + 1e-8))
  return np.exp(log_temperature)


def _of(numbers, evidence):
  return temperatures(
      evidence.view_logits, evidence.zero_shot_view_logits,
      num_steps=numbers.num_steps, learning_rate=numbers.learning_rate)


def _slope(log_temperature, views, target):
  """Derivative of the mean squared gap by the temperature's logarithm."""
  scaled = views / np.exp(log_temperature)[:, None, None]
  probs = probabilities.of_logits(scaled)
  confidence = probs.max(axis=-1)
  # Of the confidence: minus itself times how far its logit is above the mean.
  change = -confidence * (scaled.max(axis=-1) - (probs * scaled).sum(axis=-1))
  return (2 * (confidence - target) * change).mean(axis=1)
