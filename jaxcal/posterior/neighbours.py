"""Which images of a pool are like those that matter.

Baumann et al., Post-hoc Probabilistic Vision-Language Models, ICLR 2026.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.compiled import compiled
from jaxcal.posterior import laplace
from jaxcal.posterior import predictive
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Int

# Queries whose differences to all of the pool are held at a time.
_QUERIES_PER_BLOCK = 8


@compiled
def squared_wasserstein(
    query: predictive.Embedding,
    pool: predictive.Embedding,
    layer: laplace.Layer,
) -> Float[Array, "c"]:
  r"""Squared 2-Wasserstein distance of one image to each of a pool.

  .. math:: |\mu_x - \mu_z|^2 + (\sqrt{q_x} - \sqrt{q_z})^2 tr(B)

  The covariances q B of one layer commute, so this is the distance of the whole
  Gaussians and that of their diagonals alike. Formed from differences, so that
  nothing cancels.

  Args:
    query: One embedding, not normalised.
    pool: Embeddings, not normalised.
    layer: Posterior of the projection that made all of them.

  Source: Baumann et al., ICLR 2026. Differs from the released code in: nothing.
  """
  between = jnp.sum((query.mean[None] - pool.mean) ** 2, axis=-1)
  roots = jnp.sqrt(query.spread) - jnp.sqrt(pool.spread)
  return between + roots**2 * jnp.trace(layer.b_inv)


@compiled
def expected_cosine(
    query: predictive.Embedding,
    pool: predictive.Embedding,
    layer: laplace.Layer,
) -> Float[Array, "c"]:
  """Cosine of one image with each of a pool, norms by their second moments.

  Arguments as for `squared_wasserstein`.

  Returns:
    In [-1, 1]; below one even for an image and itself where its embedding is
    uncertain.

  Source: Baumann et al., ICLR 2026. Differs from the released code in: nothing.
  """
  def norm(embedding):
    square = jnp.sum(embedding.mean**2, axis=-1)
    return jnp.sqrt(square + embedding.spread * jnp.trace(layer.b_inv))

  dots = jnp.matmul(pool.mean, query.mean, precision="highest")
  return dots / (norm(query) * norm(pool))


# How near a pool is to a query: the higher the nearer.
METRICS = {
    "wasserstein": lambda *args: -squared_wasserstein(*args),
    "cosine": expected_cosine,
}


def nearest(
    queries: predictive.Embedding,
    pool: predictive.Embedding,
    layer: laplace.Layer,
    *,
    k: int = 1,
    metric: str = "wasserstein",
) -> Int[Array, "m k"]:
  """Rows of the pool that are nearest to each query, the nearest first.

  Args:
    queries: Embeddings, not normalised.
    pool: Embeddings, not normalised.
    layer: Posterior of the projection that made all of them.
    k: Rows per query, at most the pool's. Among equal ones lower rows first.
    metric: A key of `METRICS`.

  Raises:
    ValueError: An unknown metric, an empty pool, or k out of range.
  """
  if metric not in METRICS:
    raise ValueError(f"unknown metric {metric!r}; choose from: "
                     f"{', '.join(sorted(METRICS))}.")
  if not 1 <= k <= len(pool.mean):
    raise ValueError(f"{k=} nearest rows of a pool of {len(pool.mean)} do not "
                     "exist; k must be at least one and at most its size.")
  return _nearest(queries, pool, layer, k=k, metric=metric)


def support(
    queries: predictive.Embedding,
    pool: predictive.Embedding,
    layer: laplace.Layer,
    *,
    num_rows: int,
    metric: str = "wasserstein",
) -> Int[np.ndarray, "r"]:
  """Distinct rows of the pool around the queries, rank by rank.

  First come the nearest rows of all queries, in the order of the queries, then
  the second nearest, and so on until there are enough.

  Args:
    queries: Embeddings, not normalised; one at least.
    pool: Embeddings, not normalised.
    layer: Posterior of the projection that made all of them.
    num_rows: How many are wanted; k times the queries as published.
    metric: A key of `METRICS`.

  Returns:
    `num_rows` rows, or all of a pool that has fewer.

  Raises:
    ValueError: No queries, or as `nearest`.

  Source: Baumann et al., ICLR 2026. Differs from the released code in: looks
  past the 150 nearest rows of a query, so that it ends for every pool.
  """
  if not len(queries.mean):
    raise ValueError("there are no queries that rows could be near to.")
  size = len(pool.mean)
  num_rows = min(num_rows, size)
  k = min(size, 1 + num_rows // len(queries.mean))
  while True:
    found = distinct(nearest(queries, pool, layer, k=k, metric=metric))
    if len(found) >= num_rows:
      return found[:num_rows]
    k = min(size, 4 * k)


def distinct(ranked: Int[Array, "m k"]) -> Int[np.ndarray, "r"]:
  """Rows that `nearest` found, each once, rank by rank."""
  ordered = np.asarray(ranked).T.ravel()
  return ordered[np.sort(np.unique(ordered, return_index=True)[1])]


@functools.partial(jax.jit, static_argnames=("k", "metric"))
def _nearest(queries, pool, layer, *, k, metric):
  return jax.lax.map(
      lambda query: jax.lax.top_k(METRICS[metric](query, pool, layer), k)[1],
      queries, batch_size=min(_QUERIES_PER_BLOCK, len(queries.mean)))
