"""Dynamic Outlier Regularisation: words outside the task keep their features.

Tuning pulls the text features of all classes apart, those of new classes too,
which makes predictions of them over-confident. DOR keeps the features of
outliers, words that are related to the classes but none of them, where they
were; a few of them are drawn for every step (`tuning.outliers`).

Wang, Li, Wei, Dynamic Outlier Regularization (DOR), ICML 2025, arXiv
2410.02681.
"""


import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxcal.compiled import compiled
from jaxcal.losses import deviation
from jaxcal.tuning import method as method_lib
from jaxcal.typing import AnyArray
from jaxcal.typing import Int
from jaxcal.typing import Number

_Table = method_lib.Prompts | method_lib.Images


def with_outliers(
    base: method_lib.Method,
    weight: Number,
    *,
    last_image_only: bool = False,
) -> method_lib.Method:
  """Any method with `text_features`, regularised on outliers.

  Adds `weight` times the mean cosine deviation of the batch's outliers from
  their zero-shot features. Where a base method steps in another direction than
  that of its loss (ProGrad), it does so as before, and the regulariser's
  gradient is added to that direction: it is not projected, nor does it enter
  the test of whether the base method's gradients conflict.

  Args:
    base: The base method, whose own objective stays as it is.
    weight: Factor of the regulariser; the paper has 8 for CoOp and 2 for all
      other base methods.
    last_image_only: Where text features depend on the image, whether the
      outliers are encoded for the last image of the batch alone, as released,
      and not for each of them.

  Raises:
    ValueError: A base method that cannot encode other names than its classes;
      on a batch, one without outliers.

  Source: Wang et al. 2025.
  Differs from the released code in: the frozen features come from a table and
  are not encoded in every step; nothing runs at evaluation; `last_image_only`
  is not the default. Base methods other than CoOp, CoCoOp and MaPLe are not in
  it.
  """
  if base.text_features is None:
    raise ValueError(
        "outliers need a method whose text features are tuned and defined for "
        "any names, but this one has no text_features; shared contexts have "
        "them (coop.method)")
  penalty = Partial(_last if last_image_only else _mean, base.text_features)
  gradient = base.gradient and Partial(
      _gradient, base.gradient, penalty, weight)
  return base._replace(
      loss=Partial(_loss, base.loss, penalty, weight), gradient=gradient)


@compiled
def take(outliers: _Table, rows: Int[AnyArray, "r"]) -> _Table:
  """Some of a table of outliers, e.g. those drawn for a step.

  Shapes depend on the number of rows alone, so that a step compiles once
  whichever outliers are drawn.

  Args:
    outliers: Names or images.
    rows: Positions in the table, all different, see `prefix.Encoder.take`.
  """
  if isinstance(outliers, method_lib.Images):
    return jax.tree.map(lambda x: x[rows], outliers)
  return method_lib.Prompts(
      outliers.encode.take(rows), *(table[rows] for table in outliers[1:]))


def _mean(text_features, params, batch):
  """Mean deviation over outliers, and over images where they matter."""
  outliers = _outliers(batch)
  return _mean_deviation(
      text_features(params, outliers, batch.images), outliers.zero_shot)


@compiled
def _mean_deviation(tuned, frozen):
  tuned = tuned.reshape(-1, *frozen.shape)
  return jnp.mean(jax.vmap(deviation.cosine_deviation, (0, None))(
      tuned, frozen))


def _last(text_features, params, batch):
  last = jax.tree.map(lambda x: x[-1:], batch.images)
  return _mean(text_features, params, batch._replace(images=last))


def _outliers(batch) -> method_lib.Prompts:
  if batch.outliers is None:
    raise ValueError("a batch with outliers expected, but it has none; draw "
                     "some for every step and pass take(outliers, rows)")
  return batch.outliers


def _loss(base_loss, penalty, weight, params, prompts, batch):
  loss, parts = base_loss(params, prompts, batch)
  found = penalty(params, batch)
  return loss + weight * found, {**parts, "outliers": found}


def _gradient(base_gradient, penalty, weight, params, prompts, batch):
  (loss, parts), direction = base_gradient(params, prompts, batch)
  found, pull = jax.value_and_grad(penalty)(params, batch)
  added = jax.tree.map(lambda a, b: a + weight * b, direction, pull)
  return (loss + weight * found, {**parts, "outliers": found}), added
