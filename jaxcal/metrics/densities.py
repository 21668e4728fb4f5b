"""Gaussian densities of image features within classes, from labelled images."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.compiled import compiled
from jaxcal.metrics import examples
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Labels
from jaxcal.typing import Shaped


class Gaussians(NamedTuple):
  """A Gaussian for each class, in principal components of all images.

  Attributes:
    centre: Mean of all training features.
    components: Principal components, one per column.
    means: Mean of each class in them.
    factors: Lower Cholesky factor of the covariance of each class.
  """

  centre: Float[Array, "d"]
  components: Float[Array, "d p"]
  means: Float[Array, "k p"]
  factors: Float[Array, "k p p"]


def fit(
    features: Shaped[Any, "n d"] | Sequence[Any],
    labels: Labels,
    *,
    num_components: int = 128,
    ridge: float = 1e-8,
) -> Gaussians:
  """Mean and covariance of each class's images among few components.

  Args:
    features: Features of training images [n d]; those before normalisation in
      the source. Pass 64-bit ones where JAX's 64-bit mode is on: covariances
      are nearly singular.
    labels: Classes of the images; every class must occur.
    num_components: Number of principal components, less than the images of
      any class: with fewer images a covariance is singular, and the density
      only remembers them.
    ridge: Number added to the variance of each component.

  Raises:
    ValueError: Wrong shapes, a class without or with too few images, or more
      components than features.
    TypeError: `labels` are not integers.

  Source: zhenxianglin/ICPE.
  """
  features = np.asarray(examples.readable(features), float)
  labels = np.asarray(examples.readable(labels))
  if features.ndim != 2 or labels.shape != features.shape[:1]:
    raise ValueError("expected features [n d] and one label each, but their "
                     f"shapes are {features.shape} and {labels.shape}.")
  examples.check_labels(labels, int(labels.max(initial=0)) + 1)
  counts = np.bincount(labels)
  if counts.min() <= num_components or num_components > features.shape[1]:
    raise ValueError(
        f"{num_components=} must be below the number of images of every class, "
        f"of which the smallest has {counts.min()}, and at most the "
        f"{features.shape[1]} features; choose fewer.")
  centre = features.mean(axis=0)
  _, _, directions = np.linalg.svd(features - centre, full_matrices=False)
  components = directions[:num_components].T
  projected = (features - centre) @ components
  of_class = [projected[labels == one] for one in range(len(counts))]
  noise = ridge * np.eye(num_components)
  factors = [np.linalg.cholesky(
      np.cov(one, rowvar=False).reshape(noise.shape) + noise)
      for one in of_class]
  return Gaussians(*(jax.device_put(np.asarray(part)) for part in (
      centre, components, [one.mean(axis=0) for one in of_class], factors)))


def log_densities(
    gaussians: Gaussians,
    features: Shaped[Any, "n d"] | Sequence[Any],
) -> Float[Array, "n k"]:
  """Logarithm of the density of each image in each class, constants included.

  The constants differ by class, so that a softmax over classes needs them.

  Args:
    gaussians: Gaussians from `fit`.
    features: Features of images [n d].
  """
  return _log_densities(gaussians, examples.as_array(features))


@compiled
def _log_densities(gaussians, features):
  features = features.astype(gaussians.centre.dtype)
  projected = jnp.matmul(features - gaussians.centre[None],
                         gaussians.components,
                         precision=jax.lax.Precision.HIGHEST)

  def of_class(mean, factor):
    white = jax.scipy.linalg.solve_triangular(
        factor, (projected - mean[None]).T, lower=True)
    size = jnp.sum(jnp.square(white), axis=0)
    volume = 2 * jnp.sum(jnp.log(jnp.diagonal(factor)))
    return -(size + volume + len(mean) * jnp.log(2 * jnp.pi)) / 2

  return jax.vmap(of_class, out_axes=1)(gaussians.means, gaussians.factors)
