"""Gaussian posteriors over the last projections of a CLIP-style model.

Baumann et al., Post-hoc Probabilistic Vision-Language Models, ICLR 2026
(BayesVLM).
"""

from collections.abc import Mapping
import json
import math
import os
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.compiled import compiled
from jaxcal.posterior import curvature
from jaxcal.storage import arrays as arrays_lib
from jaxcal.storage import atomic
from jaxcal.storage import pair
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Number

_ENDING = "npz"
_ASYMMETRY = 1e-4  # of the largest entry; float32 inverses stay far below


class Layer(NamedTuple):
  """Gaussian around the kernel W [p d] of one linear map.

  Cov(W_jk, W_lm) = a_inv[j, l] * b_inv[k, m]. A bias is the last row of the
  kernel, so `a_inv` is then one wider than the input of the map.

  Attributes:
    a_inv: Covariance over the inputs.
    b_inv: Covariance over the outputs.
  """

  a_inv: Float[Array, "p p"]
  b_inv: Float[Array, "d d"]


class Posterior(NamedTuple):
  """The two towers' last maps, independent of each other."""

  image: Layer
  text: Layer


def kronecker_posterior(
    factors: curvature.Factors,
    *,
    pseudo_count: float,
    prior_precision: Number,
) -> Layer:
  r"""The Laplace posterior of one projection from its curvature factors.

  .. math:: A^{-1}_{post} = (\sqrt\tau A + \sqrt\lambda I)^{-1}, \quad
            B^{-1}_{post} = (\sqrt\tau B + \sqrt\lambda I)^{-1}

  The precision is the Kronecker product of the two bracketed matrices: beside
  the curvature and the prior it holds their cross terms ("damped" form), which
  dominate for published factors.

  Args:
    factors: Curvature over inputs and outputs, positive semi-definite up to
      rounding; symmetrised here.
    pseudo_count: Pseudo-data count tau > 0, how often the data count.
    prior_precision: Precision lambda > 0 of an isotropic Gaussian prior.

  Returns:
    Symmetric inverses in the dtype of the factors.

  Raises:
    ValueError: A number that is not positive and finite, or a factor that is
      not square, not finite or not positive enough to be inverted (what
      depends on values is checked where they are not traced).

  Source: Baumann et al., ICLR 2026, arXiv 2412.06014.
  Differs from the released code in: inverted by Cholesky, and symmetric; the
  rest is equal.
  """
  for name, value in (("pseudo_count", pseudo_count),
                      ("prior_precision", prior_precision)):
    if not _traced(value) and not 0 < value < math.inf:
      raise ValueError(f"{name} must be positive and finite, but is {value}.")
  return Layer(*(
      _checked_inverse(name, factor, pseudo_count, prior_precision)
      for name, factor in (("a", factors.a), ("b", factors.b))))


def deterministic(p: int, d: int) -> Layer:
  """A projection [p d] without uncertainty: a one-sided posterior's other side.

  Count the bias in `p` or leave it out; predictions are the same.
  """
  return Layer(*map(jax.device_put, (np.zeros((p, p)), np.zeros((d, d)))))


def check(
    posterior: Posterior, *, image: tuple[int, int], text: tuple[int, int]
) -> None:
  """Refuses a posterior that does not belong to a model's projections.

  Args:
    posterior: Posterior of both towers.
    image: Inputs and outputs (p, d) of the image projection, the bias not
      counted.
    text: Inputs and outputs of the text projection, likewise.

  Raises:
    ValueError: `a_inv` is neither p nor p + 1 wide (with a bias), or `b_inv`
      not d wide.
  """
  for side, layer, (p, d) in (("image", posterior.image, image),
                              ("text", posterior.text, text)):
    found_p, found_d = layer.a_inv.shape[-1], layer.b_inv.shape[-1]
    if found_p not in (p, p + 1) or found_d != d:
      raise ValueError(
          f"the model's {side} projection has {p} inputs (or {p + 1} with a "
          f"bias) and {d} outputs, but the posterior is over {found_p} inputs "
          f"and {found_d} outputs; was it estimated for another model?")


def save(
    path: str | os.PathLike, posterior: Posterior, about: Mapping[str, Any]
) -> None:
  """Writes `path`.npz and `path`.json, seen together or not at all.

  Args:
    path: Path without the ending; its folder is made.
    posterior: Posterior of both towers.
    about: How it was made (model, data, pseudo-count, prior precisions);
      anything that JSON holds.

  Raises:
    ValueError: A posterior that `load` would refuse.
  """
  arrays = {
      f"{side}.{name}": np.asarray(matrix)
      for side, layer in posterior._asdict().items()
      for name, matrix in layer._asdict().items()}
  for name, matrix in arrays.items():
    _check_covariance(name, matrix)
  json.dumps(about, allow_nan=False)  # NaN is no JSON
  atomic.make_folder(pathlib.Path(path).parent)
  pair.write(path, _ENDING, arrays_lib.pack(arrays), {"about": about})


def load(path: str | os.PathLike) -> tuple[Posterior, dict[str, Any]]:
  """Reads and checks what `save` wrote to the same path.

  Returns:
    The posterior, and what is known about it.

  Raises:
    FileNotFoundError: One of the two files is missing.
    ValueError: They are not of one `save`, or a matrix is missing, not square,
      not finite, not symmetric, or has a variance that is not positive (all
      zeros are a `deterministic` side).
  """
  arrays_path, json_path = (
      atomic.with_ending(path, ending) for ending in (_ENDING, "json"))
  for needed in (arrays_path, json_path):
    if not needed.exists():
      raise FileNotFoundError(f"no {needed}; a posterior is .npz and .json")
  content, described = pair.read(path, _ENDING)
  if not isinstance(described.get("about"), dict):
    raise pair.damaged(path, _ENDING, f"{json_path} says nothing about it")
  try:
    arrays = arrays_lib.unpack(content)
    posterior = Posterior(*(
        Layer(*(_read(arrays, f"{side}.{name}") for name in Layer._fields))
        for side in Posterior._fields))
  except ValueError as error:
    raise pair.damaged(path, _ENDING, error) from error
  return posterior, described["about"]


def write_arrays(
    path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes an .npz, whole or not at all."""
  atomic.write_whole(path, arrays_lib.pack(arrays))


def _checked_inverse(name, factor, pseudo_count, prior_precision):
  if factor.ndim != 2 or factor.shape[0] != factor.shape[1]:
    raise ValueError(f"factor {name} must be a square matrix, but has shape "
                     f"{factor.shape}.")
  if not _traced(factor) and not np.isfinite(np.asarray(factor)).all():
    raise ValueError(f"factor {name} has entries that are not finite.")
  inverse = _damped_inverse(factor, pseudo_count, prior_precision)
  if not _traced(inverse) and not np.isfinite(np.asarray(inverse)).all():
    raise ValueError(
        f"factor {name} has eigenvalues so far below zero that the prior does "
        "not make up for them; a curvature factor is positive semi-definite.")
  return inverse


@compiled
def _damped_inverse(factor, pseudo_count, prior_precision):
  """Inverse of sqrt(tau) F + sqrt(lambda) I."""
  identity = jnp.eye(len(factor), dtype=factor.dtype)
  curved = jnp.sqrt(pseudo_count).astype(factor.dtype) * _symmetric(factor)
  prior = jnp.sqrt(prior_precision).astype(factor.dtype)
  root = jnp.linalg.cholesky(curved + prior * identity)
  return _symmetric(jax.scipy.linalg.cho_solve((root, True), identity))


def _read(arrays, name):
  """One checked covariance of an .npz."""
  if name not in arrays:
    raise ValueError(f"no matrix {name!r}; found: {', '.join(arrays)}")
  matrix = arrays[name]
  if matrix.dtype.kind == "f":
    with np.errstate(over="ignore"):  # infinite, and refused
      matrix = matrix.astype(jax.dtypes.canonicalize_dtype(matrix.dtype))
  _check_covariance(name, matrix)
  return jax.device_put(matrix)


def _check_covariance(name, matrix):
  """Refuses what is no covariance and not all zeros either."""
  if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
    raise ValueError(f"{name} must be a square matrix, but has shape "
                     f"{matrix.shape}")
  if not np.issubdtype(matrix.dtype, np.floating):
    raise ValueError(f"{name} must be floating point, but is {matrix.dtype}")
  if not np.isfinite(matrix).all():
    raise ValueError(f"{name} has entries that are not finite")
  largest = np.abs(matrix).max(initial=0)
  asymmetry = np.abs(matrix - matrix.T).max(initial=0)
  if asymmetry > _ASYMMETRY * largest:
    raise ValueError(f"{name} is not symmetric: entries up to {largest:.3g} "
                     f"differ from their mirror images by {asymmetry:.3g}")
  smallest = np.diagonal(matrix).min(initial=np.inf)
  if largest and not smallest > 0:
    raise ValueError(f"{name} has a variance of {smallest:.3g}; all must be "
                     "positive, or the whole matrix zero")


def _symmetric(matrix):
  return (matrix + matrix.T) / 2


def _traced(value):
  return isinstance(value, jax.core.Tracer)
