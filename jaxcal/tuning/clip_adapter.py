"""CLIP-Adapter: a small network after the image tower, mixed with its input.

Gao et al., CLIP-Adapter: Better Vision-Language Models with Feature Adapters,
IJCV 2024.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxcal import precision
from jaxcal.clip import towers
from jaxcal.compiled import compiled
from jaxcal.losses import deviation
from jaxcal.tuning import coop
from jaxcal.tuning import method as method_lib
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Number


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Reduction:
  """A number that shapes depend on: no leaf of the method."""

  factor: int


def method(
    *,
    logit_scale: Number,
    ratio: Number = 0.2,
    reduction: int = 4,
    outlier_weight: Number | None = None,
) -> method_lib.Method:
  """Two layers on the image feature; cross-entropy.

  Its parameters are {"hidden": [d h], "out": [h d]}, without biases, drawn
  evenly from plus and minus one over the root of the layer's input width. The
  text features are those of `Prompts.target`, so that it predicts any class.

  Args:
    logit_scale: Factor of the cosines.
    ratio: Share of the network's output in the feature; the rest is the image
      feature, not normalised.
    reduction: Factor by which d is divided to give h.
    outlier_weight: Outlier weight; if given, the batch's `outliers` are not
      names but `Images` outside the task, and the loss keeps them where they
      were: this times the mean cosine deviation of adapted from frozen image
      features (visual DOR).

  Raises:
    ValueError: On images without `embeddings`, or on a batch without outliers
      where they have a weight.

  Source: Gao et al. 2024 (gaopengcuhk/CLIP-Adapter); its visual outliers: Wang,
  Li, Wei, Dynamic Outlier Regularization (DOR), ICML 2025, arXiv 2410.02681.
  Differs from the released code in: no mixed precision. The visual outliers
  could not be compared with released code.
  """
  scale = jnp.asarray(logit_scale)
  loss = Partial(_loss, scale, ratio)
  if outlier_weight is not None:
    loss = Partial(_loss_with_outliers, loss, ratio, outlier_weight)
  return method_lib.Method(
      init=Partial(_init, _Reduction(reduction)), loss=loss,
      logits=Partial(_logits, scale, ratio))


@compiled
@precision.highest
def image_features(
    params: method_lib.Params, images: method_lib.Images, *, ratio: Number = 0.2
) -> Float[Array, "b d"]:
  """Adapted image features of unit norm.

  Raises:
    ValueError: Images without `embeddings`.
  """
  if images.embeddings is None:
    raise ValueError("the adapter sees image features before normalisation; "
                     "give Images their embeddings")
  hidden = jax.nn.relu(images.embeddings @ params["hidden"])
  adapted = jax.nn.relu(hidden @ params["out"])
  return towers.normalise(ratio * adapted + (1 - ratio) * images.embeddings)


@compiled
def _init(reduction, key, prompts):
  width = prompts.target.shape[-1]
  if not 1 <= reduction.factor <= width:
    raise ValueError(f"a reduction from 1 to the {width} dimensions of the "
                     f"features expected, got {reduction.factor}.")
  narrow = width // reduction.factor
  return {
      name: jax.random.uniform(
          part, shape, prompts.target.dtype, -1, 1) / shape[0] ** 0.5
      for name, part, shape in zip(
          ("hidden", "out"), jax.random.split(key),
          ((width, narrow), (narrow, width)))}


@compiled
@precision.highest
def _logits(scale, ratio, params, prompts, images):
  features = image_features(params, images, ratio=ratio)
  return scale * features @ prompts.target.T


@compiled
def _loss(scale, ratio, params, prompts, batch):
  loss = coop.cross_entropy(
      _logits(scale, ratio, params, prompts, batch.images), batch.labels)
  return loss, {"cross_entropy": loss}


def _loss_with_outliers(base_loss, ratio, weight, params, prompts, batch):
  loss, parts = base_loss(params, prompts, batch)
  outliers = batch.outliers
  if not isinstance(outliers, method_lib.Images):
    raise ValueError("the outliers of an image-side method are Images, but the "
                     f"batch has {type(outliers).__name__}.")
  found = deviation.cosine_deviation(
      image_features(params, outliers, ratio=ratio), outliers.features)
  return loss + weight * found, {**parts, "outliers": found}
