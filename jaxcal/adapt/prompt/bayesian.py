"""Predictions of a Laplace posterior, on top of whatever context was tuned.

The posterior is over the last projections, which come after everything that a
context can change. So it adds to zero-shot prompts, to tuned ones and to the
contexts of single images alike what the projections do not know.

Baumann et al., Post-hoc Probabilistic Vision-Language Models, ICLR 2026.
"""

from typing import NamedTuple

from jaxcal.clip import towers
from jaxcal.compiled import compiled
from jaxcal.posterior import laplace
from jaxcal.posterior import predictive
from jaxcal.typing import AnyArray
from jaxcal.typing import Array
from jaxcal.typing import at_least_float32
from jaxcal.typing import Float

# What stands behind METHOD+ in names of predictions.
FORMS = {
    "diagonal": predictive.prob_cosine,
    "full": predictive.prob_cosine_full,
    "tangent": predictive.prob_cosine_tangent,
}


class Head(NamedTuple):
  """What takes the place of the cosines' softmax; the same for all images."""

  posterior: laplace.Posterior
  image: towers.Projection
  text: towers.Projection
  logit_scale: Float[Array, ""]
  noise: Float[Array, "s k"]  # standard normal, shared by all images


class Uncertainty(NamedTuple):
  """What is uncertain about one prediction.

  Attributes:
    variance: Variance of the predicted class's logit.
    image_variance: Variance of the image's embedding, a~^T A^-1 a~: the same
      for all prompts.
    aleatoric: Expected entropy of the prediction in nats, which is left if the
      projections are known.
    epistemic: Rest of its entropy in nats, from not knowing them.
  """

  variance: Float[Array, ""]
  image_variance: Float[Array, ""]
  aleatoric: Float[Array, ""]
  epistemic: Float[Array, ""]


@compiled
def embed(
    activations: Float[AnyArray, "*n p"],
    projection: towers.Projection,
    layer: laplace.Layer,
    residual: Float[AnyArray, "*n d"] | None = None,
) -> predictive.Embedding:
  """Gaussians of embeddings, from what the last projection sees."""
  activations = at_least_float32(activations)
  means = towers.project(activations, projection, residual)
  return predictive.embedding(activations, means, layer)


@compiled
def predict(
    head: Head,
    texts: predictive.Embedding,
    image: predictive.Embedding,
) -> dict[str, tuple[Float[Array, "k"], Uncertainty]]:
  """Logits and uncertainty for one image, by form.

  The softmax of the logits is the probit approximation of the mean prediction.

  Args:
    head: The posterior and what it needs.
    texts: Embeddings of all classes, from `embed`.
    image: Embedding of the clean view.
  """
  return {
      form: _predict(
          cosines(image, texts, head.posterior, head.logit_scale),
          image.spread, head.noise)
      for form, cosines in FORMS.items()}


def _predict(cosines, spread, noise):
  logits = predictive.probit_logits(cosines)
  split = predictive.uncertainty(predictive.sample_logits(cosines, noise))
  return logits, Uncertainty(cosines.variance[logits.argmax()], spread,
                             split.aleatoric, split.epistemic)
