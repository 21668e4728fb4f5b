"""Prompts tuned view by view, and views weighted by how reliable they are."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxcal import precision
from jaxcal import pytrees
from jaxcal.adapt import base
from jaxcal.adapt import numbers as numbers_lib
from jaxcal.adapt.prompt import engine
from jaxcal.adapt.prompt import methods
from jaxcal.compiled import compiled_with
from jaxcal.losses import entropy
from jaxcal.typing import Array
from jaxcal.typing import Bool
from jaxcal.typing import Float
from jaxcal.typing import Number


@pytrees.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class RTpt(methods.Tpt):
  r"""Mean entropy of single views, and a weighted sum of all (R-TPT).

  Minimises the mean of the selected views' entropies, not the entropy of their
  mean, and predicts by the tuned logits z of all views, weighted by how near
  their neighbours in feature space are:

  .. math:: \sum_j w_j z_j, \quad w = \mathrm{softmax}(r / \tau), \quad
            r_j = \frac{1}{n} \sum_{i \in N_j} \langle x_j, x_i \rangle

  N_j are the n views nearest to view j, itself excluded. Without steps it is
  the weighted zero-shot prediction, for which features are enough.

  Attributes:
    num_neighbours: Number n of neighbours of each view; there must be more
      views than that.
    temperature: Temperature tau of the weights.

  Source: Sheng et al., R-TPT: Improving Adversarial Robustness of
  Vision-Language Models through Test-Time Prompt Tuning, CVPR 2025
  (TomSheng21/R-TPT @e085f13), in the form of the benchmark TomSheng21/tta-vlm
  @bcc735f.
  Differs from the released code in: a view is left out of its own neighbours by
  its place. The released code leaves out cosines of 1 or more, which a view and
  itself have or miss by the last rounding, so that its numbers are those of a
  device, and copies of a view go with it; this is not offered. And float32
  throughout, as in `Tpt`.
  """

  num_neighbours: int = dataclasses.field(
      default=20, metadata={"static": True})
  temperature: Number = 0.01

  predicts_clean_view: ClassVar[bool] = False

  def objective(self) -> engine.Objective:
    """The mean entropy."""
    return engine.Objective(num_steps=self.num_steps, of_views=_mean_entropy)

  def check(self, task: base.Task, num_views: int) -> None:
    """See `PromptMethod.check`.

    Raises:
      ValueError: Likewise; or too few views for the neighbours.
    """
    super().check(task, num_views)
    self._check_neighbours(num_views)

  def check_numbers(self) -> None:
    """See `PromptMethod.check_numbers`."""
    super().check_numbers()
    numbers_lib.refuse_no_counts(self, "num_neighbours")

  def view_weights(self, views: Float[Array, "v d"]) -> Float[Array, "v"]:
    """Weights of the views, which sum to one.

    Raises:
      ValueError: Too few views for the neighbours.
    """
    self._check_neighbours(len(views))
    return _weights(views, self.temperature, self.num_neighbours)

  def _check_neighbours(self, num_views):
    if num_views <= self.num_neighbours:
      raise ValueError(
          f"num_neighbours is {self.num_neighbours}, but of {num_views} views "
          f"each has {num_views - 1} others; lower it, or cut more views")


def _mean_entropy(
    logits: Float[Array, "v k"], kept: Bool[Array, "v"],
    judged: Float[Array, "v k"] | None) -> Float[Array, ""]:
  del judged
  return entropy.mean_entropy(logits, where=kept)


@compiled_with("num_neighbours")
@precision.highest
def _weights(views, temperature, num_neighbours):
  itself = jnp.eye(len(views), dtype=bool)
  cosines = jnp.where(itself, -jnp.inf, views @ views.T)
  nearest, _ = jax.lax.top_k(cosines, num_neighbours)
  return jax.nn.softmax(jnp.mean(nearest, axis=1) / temperature)
