"""A model from its last projections on: what acquisition and tuning act upon.

Everything before the projections is frozen and has been computed; arrays of it
go in.

Baumann et al., Post-hoc Probabilistic Vision-Language Models, ICLR 2026.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcal.compiled import compiled
from jaxcal.posterior import curvature
from jaxcal.posterior import laplace
from jaxcal.posterior import predictive
from jaxcal.typing import AnyArray
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Key
from jaxcal.typing import Pooled

# Samples of weights that are held at a time.
_SAMPLES_PER_BLOCK = 8


class Labelled(NamedTuple):
  """Images whose classes are known."""

  inputs: Pooled
  labels: Int[Array, "n"]


class Model(NamedTuple):
  """Both projections, the classes and the posterior.

  Attributes:
    weights: Kernel of the image projection; q is p, or p + 1 with a bias,
      which is the last row (see `with_bias`).
    text_activations: What the text projection sees of each class's prompt.
    text_embeddings: What it makes of it, not normalised.
    posterior: Posterior over both projections; its image side is q wide.
    logit_scale: Factor of the cosines, 100 for OpenAI's CLIP.
    logit_bias: Bias of a model that was trained with the pairwise sigmoid loss;
      None for a softmax. No logit here has it added: it would cancel.
  """

  weights: Float[Array, "q d"]
  text_activations: Float[Array, "k w"]
  text_embeddings: Float[Array, "k d"]
  posterior: laplace.Posterior
  logit_scale: Float[Array, ""]
  logit_bias: Float[Array, ""] | None = None


@compiled
def with_bias(
    kernel: Float[AnyArray, "p d"], bias: Float[AnyArray, "d"] | None
) -> Float[Array, "q d"]:
  """The two parts of a projection as one array, the bias as its last row."""
  kernel = jnp.asarray(kernel)
  return kernel if bias is None else jnp.concatenate([kernel, bias[None]])


def size(inputs: Pooled) -> int:
  """Number of images."""
  return len(inputs.activations)


def take(inputs: Pooled, rows: Int[AnyArray, "*m"] | slice) -> Pooled:
  """Some of the images."""
  on_host = not isinstance(inputs.activations, jax.Array)  # and stays there
  if on_host or isinstance(rows, slice):
    return jax.tree.map(lambda x: x[rows], inputs)
  return _rows(inputs, rows)


@compiled
def join(first: Pooled, second: Pooled) -> Pooled:
  """The images of both, of which both or neither have a residual."""
  return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)


@compiled
def embed(
    weights: Float[Array, "q d"], inputs: Pooled
) -> Float[Array, "n d"]:
  """Embeddings under these weights, not normalised.

  Raises:
    ValueError: Activations of another width than the weights.
  """
  means = jnp.matmul(widen(inputs.activations, len(weights)), weights,
                     precision="highest")
  return means if inputs.residual is None else means + inputs.residual


def widen(
    activations: Float[AnyArray, "n p"], width: int
) -> Float[AnyArray, "n q"]:
  """Activations as wide as the weights: with a one for the bias, if any.

  Raises:
    ValueError: `width` is neither p nor p + 1.
  """
  found = activations.shape[-1]
  if width not in (found, found + 1):
    raise ValueError(
        f"activations of width {found} need weights of as many rows, or one "
        f"more with a bias, but these have {width}.")
  return activations if width == found else curvature.with_one(activations)


@compiled
def image_embeddings(model: Model, inputs: Pooled) -> predictive.Embedding:
  """Gaussian embeddings of images, not normalised."""
  return predictive.embedding(
      inputs.activations, embed(model.weights, inputs), model.posterior.image)


@compiled
def text_embeddings(model: Model) -> predictive.Embedding:
  """Gaussian embeddings of the classes, not normalised."""
  return predictive.embedding(
      model.text_activations, model.text_embeddings, model.posterior.text)


@compiled
def cosines(model: Model, inputs: Pooled) -> predictive.Cosines:
  """Means and variances of the logits, [n k], as published (ProbCosine)."""
  return cosines_of(model, image_embeddings(model, inputs))


@compiled
def cosines_of(
    model: Model, images: predictive.Embedding) -> predictive.Cosines:
  """The same of images that are embedded already."""
  return jax.vmap(predictive.prob_cosine, (0, None, None, None))(
      images, text_embeddings(model), model.posterior, model.logit_scale)


@compiled
def logits(model: Model, inputs: Pooled) -> Float[Array, "n k"]:
  """What the model predicts without a posterior."""
  return model.logit_scale * jnp.matmul(
      _unit(embed(model.weights, inputs)), _unit(model.text_embeddings).T,
      precision="highest")


@functools.partial(jax.jit, static_argnames="num_samples")
def sample_logits(
    key: Key[Array, ""], model: Model, inputs: Pooled, *, num_samples: int
) -> Float[Array, "n s k"]:
  """Logits under sampled weights of both projections.

  Sample s has the same weights for all images and classes, and again the same
  wherever the key is: images of two calls with one key are coupled. The norms
  are those of the sampled embeddings.

  Args:
    key: Random key of the weights.
    model: Means and posterior.
    inputs: Images.
    num_samples: Number s of samples.
  """
  means = embed(model.weights, inputs)

  def one(keys):
    image, text = (
        predictive.sample_weights(key, layer)[None]
        for key, layer in zip(keys, model.posterior))
    images = predictive.sampled_embeddings(inputs.activations, means, image)
    texts = predictive.sampled_embeddings(
        model.text_activations, model.text_embeddings, text)
    return jax.vmap(predictive.sampled_cosines, (1, None, None))(
        images, texts, model.logit_scale)[:, 0]

  keys = jax.random.split(key, (num_samples, 2))
  samples = jax.lax.map(
      one, keys, batch_size=min(num_samples, _SAMPLES_PER_BLOCK))
  return jnp.moveaxis(samples, 0, 1)


@compiled
def _rows(inputs, rows):
  return jax.tree.map(lambda x: x[rows], inputs)


def _unit(x):
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
