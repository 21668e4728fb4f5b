"""What a few-shot method is: a few pure functions over arrays.

A method does not own data or a loop. It says how its parameters begin, what
their loss is on a batch, and what they predict among any list of class names:
the same parameters predict the classes they were trained on and new ones.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Key
from jaxcal.typing import Pooled
from jaxcal.typing import PyTree

# A method's own arrays, by name.
Params = Mapping[str, PyTree]
Parts = Mapping[str, Float[Array, ""]]


class Images(NamedTuple):
  """A batch of images; what a method does not look at may be None.

  Attributes:
    features: Features of the frozen tower, unit norm.
    embeddings: Features before normalisation.
    pooled: Features before the projection.
    pixels: Normalised, for methods that tune the image tower's prompts.
  """

  features: Float[Array, "b d"]
  embeddings: Float[Array, "b d"] | None = None
  pooled: Pooled | None = None
  pixels: Float[Array, "b s s 3"] | None = None


class Prompts(NamedTuple):
  """A list of class names as the text side sees it.

  Attributes:
    encode: Prompt encoder of these names, of `prefix` or `prompts`: from a
      context to unit-norm features.
    zero_shot: Unit-norm features of "a photo of a {}.", frozen.
    target: Unit-norm features of the data set's own template, frozen.
    embeddings: Embeddings of that template before normalisation, frozen.
  """

  encode: Any
  zero_shot: Float[Array, "k d"]
  target: Float[Array, "k d"]
  embeddings: Float[Array, "k d"]


class Batch(NamedTuple):
  """What one step sees.

  Attributes:
    images: The images.
    labels: Positions in the class names.
    outliers: Outliers drawn for this step, for outlier regularisation: names,
      or images for methods on the image side; or None.
  """

  images: Images
  labels: Int[Array, "b"]
  outliers: Prompts | Images | None = None


class Method(NamedTuple):
  """A way to tune.

  Attributes:
    init: Function (key, prompts) -> parameters.
    loss: Function (parameters, prompts, batch) -> (what is minimised, its parts
      by name).
    logits: Function (parameters, prompts, images) -> [b k], cosines times the
      scale.
    text_features: Function (parameters, prompts, images) -> unit-norm [k d], or
      [b k d] where they depend on the image; None where the text side is not
      tuned, or not for any names but those of the training.
    gradient: Gradient as `jax.value_and_grad(loss, has_aux=True)`, where the
      direction of the step is not the loss's own; None otherwise.
  """

  init: Callable[[Key[Array, ""], Prompts], Params]
  loss: Callable[[Params, Prompts, Batch], tuple[Float[Array, ""], Parts]]
  logits: Callable[[Params, Prompts, Images], Float[Array, "b k"]]
  text_features: Callable[[Params, Prompts, Images | None], Array] | None = None
  gradient: Callable[..., Any] | None = None
