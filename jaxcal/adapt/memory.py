"""Memories of test images, from which an image reads a classifier of its own.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxcal import precision
from jaxcal import pytrees
from jaxcal.adapt import base
from jaxcal.adapt import cache as caches
from jaxcal.adapt import numbers as numbers_lib
from jaxcal.clip import towers
from jaxcal.losses import entropy as entropies
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Number

# Whether an image enters a full memory in place of the highest entropy.
REPLACEMENTS = ("always", "lower_entropy")
# What of the confident views is averaged for the class that an image counts as.
AVERAGES = ("logits", "probabilities")


class State(NamedTuple):
  """What DMN remembers of the stream."""

  memory: caches.Cache


@pytrees.register_dataclass
@dataclasses.dataclass(frozen=True)
class DmnWeak:
  r"""Dual memory, its dynamic part, from one view of each image (DMN-weak).

  An image x reads a classifier from the images M_k that were predicted as k and
  the text feature of the class, and is predicted by it and by the texts:

  .. math:: v_k = \mathrm{unit}\Big(\sum_{m \in M_k \cup \{t_k\}}
            e^{-\beta (1 - \langle x, m \rangle)} m\Big), \quad
            z = p + \alpha\, \mathrm{softmax}(s V x)

  Scores are z, which sum to 1 + alpha; their distribution is z / (1 + alpha).

  Attributes:
    alpha: Weight of the predictions from the memory.
    beta: Sharpness of its kernel.
    capacity: Images per class in the memory, at least one.
    replacement: Rule of a full class: "always" puts the image in place of the
      highest entropy, as the benchmark does; "lower_entropy" only if its own is
      lower, as the original does.
    predict_first: Whether an image is predicted before it enters the memory; it
      enters first if not, as released.

  Source: Zhang et al., Dual Memory Networks: A Versatile Adaptation Approach
  for Vision-Language Models, CVPR 2024 (YBZh/DMN @c6c218c), in the form of the
  benchmark TomSheng21/tta-vlm @bcc735f: one template, and weights that are not
  searched on the test images.
  Differs from the released code in: equal entropies, of which the first one is
  replaced; nothing else in float64.
  """

  alpha: Number = 1.0
  beta: Number = 5.5
  capacity: int = dataclasses.field(default=50, metadata={"static": True})
  replacement: str = dataclasses.field(
      default="always", metadata={"static": True})
  predict_first: bool = dataclasses.field(
      default=False, metadata={"static": True})

  def method(self) -> base.TestTimeMethod:
    """Scores as above; info has the filled share of the memory, and where in it
    the image was put.

    Raises:
      ValueError: A capacity that is no positive integer, or an unknown rule.
    """
    numbers_lib.refuse_no_counts(self, "capacity")
    numbers_lib.refuse_unknown(self, "replacement", REPLACEMENTS)
    return base.TestTimeMethod(Partial(_init, self), Partial(_step, self))

  def trusted(
      self, task: base.Task, views: Float[Array, "v d"]) -> Float[Array, "k"]:
    """Probabilities that say which class an image enters, and its entropy."""
    return jax.nn.softmax(base.logits(task, views[0]))


@pytrees.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dmn(DmnWeak):
  """Dual memory, labelled by the confident views of each image (DMN).

  As `DmnWeak`, but for the class that an image enters and its entropy, which
  are those of a mean over the confident views. What is stored and predicted is
  the clean view.

  Attributes:
    selection_fraction: Share of the views, those of lowest entropy, that are
      averaged, in (0, 1]; rounded down.
    average: Mean that is taken: "logits", as the benchmark does, or
      "probabilities", as the original does.

  Source: See `DmnWeak`.
  Differs from the released code in: See `DmnWeak`.
  """

  selection_fraction: float = dataclasses.field(
      default=0.1, metadata={"static": True})
  average: str = dataclasses.field(
      default="logits", metadata={"static": True})

  def method(self) -> base.TestTimeMethod:
    """See `DmnWeak.method`.

    Raises:
      ValueError: Likewise; or an unknown average.
    """
    numbers_lib.refuse_unknown(self, "average", AVERAGES)
    return super().method()

  def trusted(
      self, task: base.Task, views: Float[Array, "v d"]) -> Float[Array, "k"]:
    """See `DmnWeak.trusted`."""
    logits = base.logits(task, views)
    kept = logits[entropies.most_confident(logits, self.selection_fraction)]
    if self.average == "probabilities":
      return jnp.mean(jax.nn.softmax(kept), axis=0)
    return jax.nn.softmax(jnp.mean(kept, axis=0))


def _init(numbers: DmnWeak, task: base.Task) -> State:
  return State(caches.empty(
      len(task.text_features), numbers.capacity, task.text_features))


@precision.highest
def _step(numbers: DmnWeak, task: base.Task, state: State,
          views: Float[Array, "v d"]):
  trusted = numbers.trusted(task, views)
  entered = caches.insert(
      state.memory, jnp.argmax(trusted), views[0], caches.entropy_of(trusted),
      always=numbers.replacement == "always")
  after = entered.cache
  classifier = _read(
      state.memory if numbers.predict_first else after, task.text_features,
      views[0], numbers.beta)
  by_memory = task.logit_scale * classifier @ views[0]
  log_probs = jnp.logaddexp(
      jax.nn.log_softmax(base.logits(task, views[0])),
      jnp.log(numbers.alpha) + jax.nn.log_softmax(by_memory)
  ) - jnp.log1p(numbers.alpha)
  scores = (1 + numbers.alpha) * jnp.exp(log_probs)
  return State(after), base.Output(scores, log_probs, {
      **entered.info(scores.dtype),
      "memory_filled": jnp.mean(jnp.isfinite(after.entropy),
                                dtype=scores.dtype)})


def _read(memory, text_features, features, beta):
  """The classifier that an image reads, a unit-norm row per class."""
  of_images = caches.similarities(memory, features, 1.0, beta)
  of_texts = jnp.exp(-beta * (1 - text_features @ features))
  return towers.normalise(
      jnp.einsum("kc,kcd->kd", of_images, memory.features)
      + of_texts[:, None] * text_features)
