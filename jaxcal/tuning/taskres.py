"""TaskRes: a learned residual on the text features, class by class.

Yu et al., Task Residual for Tuning Vision-Language Models, CVPR 2023.
"""

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxcal import precision
from jaxcal.clip import towers
from jaxcal.compiled import compiled
from jaxcal.tuning import coop
from jaxcal.tuning import method as method_lib
from jaxcal.typing import AnyArray
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Number


def method(
    *, logit_scale: Number, residual_weight: Number = 0.5
) -> method_lib.Method:
  """A residual on each class's text feature, from zero; cross-entropy.

  Its parameters are {"residual": [k d]}. They belong to the classes of the
  training, row by row: for some of these, in any order, see `take_classes`; for
  other classes there is no prediction, and so no `text_features` for outliers.

  Args:
    logit_scale: Factor of the cosines.
    residual_weight: Weight of the residual beside the text feature, which is
      the one of `Prompts.embeddings`, not normalised; published: 0.5, and 1 for
      flowers.

  Source: Yu et al. 2023 (geekyutao/TaskRes).
  Differs from the released code in: underscores in names are replaced before
  they are encoded.
  """
  scale = jnp.asarray(logit_scale)
  return method_lib.Method(
      init=Partial(_init), loss=Partial(_loss, scale, residual_weight),
      logits=Partial(_logits, scale, residual_weight))


@compiled
def take_classes(
    params: method_lib.Params, positions: Int[AnyArray, "k"]
) -> method_lib.Params:
  """The parameters of some of the classes of the training.

  Args:
    params: Parameters as trained.
    positions: Where these classes were in training; `protocol.class_positions`
      finds them by name.
  """
  return {"residual": params["residual"][positions]}


@compiled
@precision.highest
def text_features(
    params: method_lib.Params,
    embeddings: Float[Array, "k d"],
    *,
    residual_weight: Number = 0.5,
) -> Float[Array, "k d"]:
  """Unit-norm text features with the residual.

  Args:
    params: Parameters of these classes.
    embeddings: Text features of the classes before normalisation.
    residual_weight: Weight of the residual.

  Raises:
    ValueError: Another number of classes.
  """
  residual = params["residual"]
  if residual.shape != embeddings.shape:
    raise ValueError(
        f"the residual is of {len(residual)} classes and predicts these "
        f"alone, but there are {len(embeddings)} names; for some of the "
        "classes use take_classes, for new ones another method")
  return towers.normalise(embeddings + residual_weight * residual)


@compiled
def _init(key, prompts):
  del key  # Begins at zero.
  return {"residual": jnp.zeros_like(prompts.embeddings)}


@compiled
@precision.highest
def _logits(scale, weight, params, prompts, images):
  text = text_features(params, prompts.embeddings, residual_weight=weight)
  return scale * images.features @ text.T


@compiled
def _loss(scale, weight, params, prompts, batch):
  loss = coop.cross_entropy(
      _logits(scale, weight, params, prompts, batch.images), batch.labels)
  return loss, {"cross_entropy": loss}
