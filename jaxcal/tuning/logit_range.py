"""Training within the range of the zero-shot logits: ZS-Norm and Penalty.

Murugesan et al., Robust Calibration of Large Vision-Language Adapters, ECCV
2024. Each turns a method into another one; what it predicts stays as it was.
The logits are computed a second time for it.
"""

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxcal import precision
from jaxcal.compiled import compiled
from jaxcal.losses import logit_range
from jaxcal.tuning import coop
from jaxcal.tuning import method as method_lib
from jaxcal.typing import Number


def zs_norm(
    method: method_lib.Method, *, logit_scale: Number
) -> method_lib.Method:
  """Cross-entropy of the logits after they were moved to the zero-shot range.

  Takes the place of the method's part "cross_entropy"; other parts stay.

  Args:
    method: Method whose loss has that part and is followed downhill.
    logit_scale: Factor of the zero-shot cosines, which are those of
      `Prompts.target`.

  Raises:
    ValueError: If the method does not follow its loss but a direction of its
      own.

  Source: Murugesan et al. 2024.
  Differs from the released code in: nothing.
  """
  _check_follows_loss(method)
  return method._replace(loss=Partial(
      _matched_loss, method.loss, method.logits, jnp.asarray(logit_scale)))


def penalty(
    method: method_lib.Method,
    weight: Number = 10.0,
    *,
    logit_scale: Number,
) -> method_lib.Method:
  """The method's loss, plus how far its logits leave the zero-shot range.

  Args:
    method: Method that follows its loss downhill.
    weight: Weight of `losses.logit_range.range_excess`, averaged over the
      batch; 10 as published.
    logit_scale: Factor of the zero-shot cosines, which are those of
      `Prompts.target`.

  Raises:
    ValueError: If the method does not follow its loss but a direction of its
      own.

  Source: Murugesan et al. 2024.
  Differs from the released code in: nothing.
  """
  _check_follows_loss(method)
  return method._replace(loss=Partial(
      _penalised_loss, method.loss, method.logits, jnp.asarray(logit_scale),
      weight))


def _check_follows_loss(method):
  if method.gradient is not None:
    raise ValueError(
        "this method takes its steps in a direction of its own, which another "
        "loss would not change; use one whose `gradient` is None.")


def _matched_loss(loss, logits, scale, params, prompts, batch):
  total, parts = loss(params, prompts, batch)
  matched_entropy = _matched_entropy(
      logits(params, prompts, batch.images), scale, prompts, batch)
  rest = total - parts["cross_entropy"]
  return rest + matched_entropy, {**parts, "cross_entropy": matched_entropy}


def _penalised_loss(loss, logits, scale, weight, params, prompts, batch):
  total, parts = loss(params, prompts, batch)
  excess = _excess(logits(params, prompts, batch.images), scale, prompts, batch)
  return total + weight * excess, {**parts, "range_excess": excess}


@compiled
def _matched_entropy(logits, scale, prompts, batch):
  matched = logit_range.match_range(
      logits, _zero_shot_logits(scale, prompts, batch.images))
  return coop.cross_entropy(matched, batch.labels)


@compiled
def _excess(logits, scale, prompts, batch):
  return jnp.mean(logit_range.range_excess(
      logits, _zero_shot_logits(scale, prompts, batch.images)))


@precision.highest
def _zero_shot_logits(scale, prompts, images):
  return scale * images.features @ prompts.target.T
