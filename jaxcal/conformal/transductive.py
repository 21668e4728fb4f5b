"""Conf-OT: probabilities made to fit the shares of classes, before any score.

The probabilities of an image depend on the others here, so that calibration
images and those with sets go through it together, all at once.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.compiled import compiled_with
from jaxcal.metrics import examples
from jaxcal.typing import AnyArray
from jaxcal.typing import Array
from jaxcal.typing import at_least_float32
from jaxcal.typing import Float
from jaxcal.typing import Integer


def transport(
    logits: Float[AnyArray, "n k"],
    shares: Float[AnyArray, "k"] | None = None,
    *,
    rounds: int = 3,
    epsilon: float = 1.0,
) -> Float[Array, "n k"]:
  """Probabilities after some rounds of Sinkhorn's algorithm, in logarithms.

  Each round scales the classes to their shares of all images, then every image
  to a sum of one. With shares that were not counted among the calibration
  labels, the scores are exchangeable for any draw; see `observed_shares`.

  Args:
    logits: Cosines times the logit scale of calibration images and those with
      sets, together. Constants of an image matter: after three rounds,
      log-probabilities in their place give something else.
    shares: Shares of the classes, positive, summing to one; equal if None.
    rounds: Number of rounds.
    epsilon: Entropic regularisation, a temperature of the logits.

  Raises:
    ValueError: Shares that are not positive or do not sum to one.

  Source: Silva-Rodríguez et al., Conformal Prediction for Zero-Shot Models,
  CVPR 2025. Differs from the released code in: shares are equal unless given,
  there counted among the calibration labels; 1 / n is not rounded to float32.
  """
  if shares is not None:
    _check_shares(shares)
  return _transport(logits, shares, epsilon, rounds=rounds)


@compiled_with("rounds")
def _transport(logits, shares, epsilon, *, rounds):
  logits = at_least_float32(logits)
  num_images, num_classes = logits.shape
  if shares is None:
    shares = jnp.full(num_classes, 1 / num_classes, logits.dtype)
  log_shares = jnp.log(jnp.asarray(shares, logits.dtype))[None]

  def one_round(_, plan):
    of_class = jax.nn.logsumexp(plan, axis=0, keepdims=True)
    plan = plan + log_shares - of_class
    return jax.nn.log_softmax(plan, axis=-1) - jnp.log(num_images)

  plan = jax.lax.fori_loop(0, rounds, one_round, logits / epsilon)
  return jax.nn.softmax(plan, axis=-1)


def observed_shares(
    labels: Integer[AnyArray, "n"], num_classes: int
) -> Float[Array, "k"]:
  """Shares of the classes among the calibration labels, as released.

  Only for calibration images drawn with a fixed number from every class
  (stratified): the shares are then the same for every draw. With shares counted
  in an independent draw, sets cover too little, the less the fewer the images.

  Args:
    labels: Labels of the calibration images.
    num_classes: Number of classes.

  Raises:
    ValueError: A class has no calibration image, or a label is out of range.
    TypeError: Labels that are not integers.
  """
  labels = examples.readable(labels)
  examples.check_labels(labels, num_classes)
  _check_all_there(labels, num_classes)
  return _shares(labels, num_classes)


@compiled_with("num_classes")
def _shares(labels, num_classes):
  return jnp.bincount(labels, length=num_classes) / len(labels)


def _check_shares(shares):
  if examples.is_traced(shares):
    return
  concrete = np.asarray(shares)
  if not (concrete > 0).all() or abs(concrete.sum() - 1) > 1e-5:
    raise ValueError(
        "expected shares of all classes, positive and summing to one, but the "
        f"least is {concrete.min()} and they sum to {concrete.sum()}; leave "
        "them out for equal ones")


def _check_all_there(labels, num_classes):
  if examples.is_traced(labels):
    return
  absent = np.setdiff1d(np.arange(num_classes), np.asarray(labels))
  if absent.size:
    raise ValueError(
        f"{absent.size} classes have no calibration image, the first one "
        f"{absent[0]}; give images of all of them, or known shares")
