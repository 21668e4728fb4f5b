"""Prompts tuned by what CLIP itself, or another model, rewards (RLCF)."""

import dataclasses
from typing import NamedTuple

from jaxcal import pytrees
from jaxcal.adapt import base
from jaxcal.adapt.prompt import engine
from jaxcal.adapt.prompt import methods
from jaxcal.losses import rewards
from jaxcal.typing import Array
from jaxcal.typing import Bool
from jaxcal.typing import Float
from jaxcal.typing import Number


class RewardModel(NamedTuple):
  """What another, frozen model makes of the classes and of one image's views.

  Attributes:
    text_features: Unit-norm class features, of a width of its own.
    view_features: Unit-norm features of the same views, as wide.
  """

  text_features: Float[Array, "k e"]
  view_features: Float[Array, "v e"]


@dataclasses.dataclass(frozen=True)
class _Likelihood:
  """The loss of views; equal to all others that sample as many classes."""

  num_sampled: int

  def __call__(
      self, logits: Float[Array, "v k"], kept: Bool[Array, "v"],
      judged: Float[Array, "v k"] | None) -> Float[Array, ""]:
    assert judged is not None
    return rewards.reward_weighted_likelihood(
        logits, judged, num_sampled=self.num_sampled, where=kept)


@pytrees.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Rlcf(methods.Tpt):
  """Likelihood of the top classes by their CLIP reward, no entropy (RLCF).

  Of each selected view the classes of the highest logits are sampled, anew in
  each step; where the reward model finds one more alike than the mean of them,
  its likelihood grows, see `losses.rewards`. The reward model is the model
  itself at the initial context, as in the benchmark, where a second copy of it
  is what rewards: rewards follow from the features that are there. For another
  one, see `adapt`.

  The default numbers are those of the benchmark on all sets and of the original
  on ImageNet and its variants; on fine-grained sets the original takes 5 steps
  at the same learning rate. The original's reward model is CLIP's ViT-L/14.

  Attributes:
    learning_rate: Step size of AdamW.
    weight_decay: Decay of AdamW.
    num_steps: Optimiser steps per image; the first comes from the derivative
      at the initial context, each further one costs a text forward and
      backward.
    num_sampled: Number of sampled classes of each view, at least two.

  Source: Zhao et al., Test-Time Adaptation with CLIP Reward for Zero-Shot
  Generalization in Vision-Language Models, ICLR 2024 (mzhaoshuai/RLCF
  @0996a5d), in the form of the benchmark TomSheng21/tta-vlm @bcc735f.
  Differs from the released code in: float32 throughout, as in `Tpt`.
  """

  learning_rate: Number = 7e-3
  weight_decay: Number = 5e-4
  num_steps: int = dataclasses.field(default=3, metadata={"static": True})
  num_sampled: int = dataclasses.field(default=3, metadata={"static": True})

  def objective(self) -> engine.Objective:
    """The reward-weighted likelihood in place of the entropy."""
    return engine.Objective(
        num_steps=self.num_steps, of_views=_Likelihood(self.num_sampled))

  def check(self, task: base.Task, num_views: int) -> None:
    """See `PromptMethod.check`.

    Raises:
      ValueError: Likewise; or fewer classes than are to be sampled.
    """
    super().check(task, num_views)
    num_classes = len(task.text_features)
    if not 2 <= self.num_sampled <= num_classes:
      raise ValueError(
          f"num_sampled must lie between 2 and the number of classes, "
          f"{num_classes}, got {self.num_sampled}; set it, or leave the method "
          "out")


def adapt(
    numbers: Rlcf,
    encode: base.Encode,
    prepared: engine.Prepared,
    views: Float[Array, "v d"],
    reward: RewardModel,
) -> engine.Adapted:
  """`engine.adapt` for one image, rewarded by another model.

  Args:
    numbers: Numbers of the method.
    encode: Function as in `engine.prepare`.
    prepared: Result of `engine.prepare`.
    views: Unit-norm features of the views, by the model that is tuned.
    reward: Features by the model that rewards.

  Raises:
    ValueError: See `engine.begin`.
  """
  return engine.adapt(
      encode, prepared, views, numbers.objective(),
      optimiser=numbers.optimiser,
      selection_fraction=numbers.selection_fraction,
      judged=reward.view_features @ reward.text_features.T)
