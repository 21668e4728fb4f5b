"""Classifiers of images that are learned online, as the images come."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxcal import precision
from jaxcal import pytrees
from jaxcal.adapt import base
from jaxcal.adapt import numbers as numbers_lib
from jaxcal.clip import towers
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Number


class State(NamedTuple):
  """What OnZeta has learned from the stream.

  Attributes:
    proxies: Classifier in the space of images, a unit-norm row per class.
    duals: Multipliers of the constraints on how often classes are predicted.
    seen: Number of images so far.
  """

  proxies: Float[Array, "k d"]
  duals: Float[Array, "k"]
  seen: Int[Array, ""]


@pytrees.register_dataclass
@dataclasses.dataclass(frozen=True)
class OnZeta:
  r"""Online zero-shot transfer: balanced labels, learned proxies (OnZeta).

  Of the t-th of n images x, with text features T,

  .. math:: q \propto \mathrm{softmax}(s T x)\, e^{\rho}, \quad
            u = \mathrm{softmax}(w x / \tau), \quad
            p = b u + (1 - b) q, \quad b = \beta \sqrt{t / n}

  and then the multipliers of the balance and the proxies take a step each:

  .. math:: \rho \leftarrow \max\left(0, \rho - \tfrac{c_r}{\sqrt t}
            (q - \alpha / K)\right), \quad
            w_k \leftarrow \mathrm{unit}\left(w_k - \tfrac{c_w}{\sqrt t\, \tau}
            (u_k - q_k) x\right)

  The balance draws the predicted shares of the classes to equal ones, which
  does harm where the images are not; on short streams its first steps are large
  ones. Scores are the probabilities p, and log_probs their logarithm, computed
  as such: nothing becomes zero.

  The default numbers are those of ImageNet. The benchmark has a beta of 0.4 on
  fine-grained sets, and a balance of 0 on Caltech-101.

  Attributes:
    beta: Weight of the proxies at the end of the stream.
    balance: Share of 1 / K that each class is to have at least (alpha).
    proxy_temperature: Temperature of the proxies' predictions (tau).
    proxy_step: Step size of the proxies (c_w).
    dual_step: Step size of the multipliers (c_r).

  Source: Qian and Hu, Online Zero-Shot Classification with CLIP, ECCV 2024
  (idstcv/OnZeta @befef06), in the form of the benchmark TomSheng21/tta-vlm
  @bcc735f.
  Differs from the released code in: the model's own scale of logits, where it
  has CLIP's 100.
  """

  beta: Number = 0.8
  balance: Number = 1.0
  proxy_temperature: Number = 0.04
  proxy_step: Number = 0.5
  dual_step: Number = 20.0

  def method(self) -> base.TestTimeMethod:
    """Scores are probabilities; info has the weight b of the proxies.

    Raises:
      ValueError: A beta outside [0, 1].
    """
    numbers_lib.refuse_outside(self, "beta", 0, 1)
    return base.TestTimeMethod(Partial(_init), Partial(_step, self))


def _init(task: base.Task) -> State:
  return State(task.text_features, jnp.zeros_like(task.text_features[:, 0]),
               jnp.zeros((), jnp.int32))


@precision.highest
def _step(numbers: OnZeta, task: base.Task, state: State,
          views: Float[Array, "v d"]):
  features, seen = views[0], state.seen + 1
  time = seen.astype(features.dtype)
  by_text = jax.nn.log_softmax(base.logits(task, features) + state.duals)
  by_proxies = jax.nn.log_softmax(
      state.proxies @ features / numbers.proxy_temperature)
  # No more than at the end, should the stream be longer than was said.
  mix = numbers.beta * jnp.sqrt(
      jnp.minimum(1, time / jnp.maximum(1, task.num_images)))
  log_probs = jnp.logaddexp(
      jnp.log(mix) + by_proxies, jnp.log1p(-mix) + by_text)
  state = State(
      _proxies_after(numbers, state.proxies, features, time,
                     jnp.exp(by_proxies) - jnp.exp(by_text)),
      _duals_after(numbers, state.duals, time, jnp.exp(by_text)), seen)
  return state, base.Output(
      jnp.exp(log_probs), log_probs, {"proxy_weight": mix})


def _proxies_after(numbers, proxies, features, time, surplus):
  """The proxies after the step of an image.

  Args:
    numbers: Numbers of the method.
    proxies: The proxies before.
    features: Features of the image.
    time: Number of images, this one included.
    surplus: Probabilities of the proxies less those of the texts.
  """
  rate = numbers.proxy_step / (jnp.sqrt(time) * numbers.proxy_temperature)
  return towers.normalise(proxies - rate * jnp.outer(surplus, features))


def _duals_after(numbers, duals, time, probs):
  rate = numbers.dual_step / jnp.sqrt(time)
  return jnp.maximum(0, duals - rate * (probs - numbers.balance / len(probs)))
