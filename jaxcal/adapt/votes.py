"""Votes of an image's views."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxcal import pytrees
from jaxcal.adapt import base
from jaxcal.adapt import numbers as numbers_lib
from jaxcal.losses import entropy
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Number

# What breaks a tie that no view left out belongs to.
FALLBACKS = ("first_left_out", "class_zero")


@pytrees.register_dataclass
@dataclasses.dataclass(frozen=True)
class Zero:
  r"""Votes of the most confident views at zero temperature (ZERO).

  Each of the confident views votes for its most probable class. A tie is broken
  by the views that were left out, from the most confident on: the first one
  whose class is among the tied ones adds its vote.

  Scores are counts of votes. Their distribution adds `smoothing` votes spread
  evenly over the K classes, so that no class has probability zero:

  .. math:: p_k = \frac{c_k + s / K}{\sum_j c_j + s}

  Attributes:
    smoothing: Votes s that are spread over all classes, more than zero.
    selection_fraction: Share of the views that vote, in (0, 1]; rounded down.
    fallback: What breaks a tie of classes that no view left out votes for:
      "first_left_out" gives the vote to the tied class that the most confident
      view left out finds most probable, which is what was meant; "class_zero"
      to class 0, tied or not, as the released code of the benchmark does.

  Source: Farina et al., Frustratingly Easy Test-Time Adaptation of
  Vision-Language Models, NeurIPS 2024 (FarinaMatteo/zero @c609f7c), and the
  benchmark TomSheng21/tta-vlm @bcc735f.
  Differs from the released code in: the distribution, which it does not define;
  the fallback, unless it is "class_zero".
  """

  smoothing: Number = 1.0
  selection_fraction: float = dataclasses.field(
      default=0.3, metadata={"static": True})
  fallback: str = dataclasses.field(
      default="first_left_out", metadata={"static": True})

  def method(self) -> base.TestTimeMethod:
    """Scores are votes; info has the share of those for the prediction.

    Raises:
      ValueError: An unknown fallback, or a share outside (0, 1].
    """
    if not 0 < self.selection_fraction <= 1:
      raise ValueError("selection_fraction must lie in (0, 1], got "
                       f"{self.selection_fraction:g}")
    numbers_lib.refuse_unknown(self, "fallback", FALLBACKS)
    return base.episodic(_step, self)


def _step(numbers: Zero, task: base.Task, views: Float[Array, "v d"]):
  logits = base.logits(task, views)
  num_views, num_classes = logits.shape
  num_kept = int(numbers.selection_fraction * num_views)
  if num_kept < 1:
    raise ValueError(
        f"no view of {num_views} is kept at a selection_fraction of "
        f"{numbers.selection_fraction}; cut more, or raise it")
  order = jnp.argsort(entropy.prediction_entropy(logits), stable=True)
  votes = _votes(logits[order])
  counts = jnp.sum(votes[:num_kept], axis=0)
  counts += _tie_break(
      counts, logits[order][num_kept:], votes[num_kept:], numbers.fallback)
  probs = (counts + numbers.smoothing / num_classes) / (
      jnp.sum(counts) + numbers.smoothing)
  return base.Output(counts, jnp.log(probs), {
      "vote_share": jnp.max(counts) / jnp.sum(counts)})


def _votes(logits):
  """One vote a view; classes with exactly equal logits share it."""
  best = logits == jnp.max(logits, axis=-1, keepdims=True)
  best = best.astype(logits.dtype)
  return best / jnp.sum(best, axis=-1, keepdims=True)


def _tie_break(counts, logits, votes, fallback):
  """A further vote where several classes have the most; else none.

  Args:
    counts: Votes by class.
    logits: Logits of the views that have not voted, by falling confidence.
    votes: What they would have voted.
    fallback: See `Zero`.
  """
  tied = counts == jnp.max(counts)
  one = lambda index: jax.nn.one_hot(index, len(counts), dtype=counts.dtype)
  extra = one(0)
  if len(votes):
    if fallback == "first_left_out":
      extra = one(jnp.argmax(jnp.where(tied, logits[0], -jnp.inf)))
    wanted = jnp.argmax(votes, axis=-1)
    helps = tied[wanted]
    extra = jnp.where(jnp.any(helps), one(wanted[jnp.argmax(helps)]), extra)
  elif fallback == "first_left_out":
    extra = one(jnp.argmax(tied))
  return jnp.where(jnp.sum(tied) > 1, extra, jnp.zeros_like(counts))
