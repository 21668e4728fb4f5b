"""Neighbours against the released code's and against loops in float64."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.posterior import laplace
from jaxcal.posterior import model
from jaxcal.posterior import neighbours
from jaxcal.posterior import predictive
from tests.posterior import small


def _embeddings(seed, n, d=4):
  rng = np.random.default_rng(seed)
  return predictive.Embedding(
      *jax.device_put((rng.standard_normal((n, d)).astype(np.float32),
                       rng.uniform(0.1, 2, n).astype(np.float32))))


def _layer(d=4):
  return laplace.Layer(*jax.device_put((
      np.eye(3, dtype=np.float32),
      np.diag(np.linspace(0.1, 1, d, dtype=np.float32)))))


def _take(embedded, rows):
  return jax.tree.map(lambda x: jax.device_put(np.asarray(x)[rows]), embedded)


class NeighboursTest(parameterized.TestCase):

  @parameterized.named_parameters(*small.CASES)
  def test_released(self, case):
    get, (found, pool, targets) = small.oracle(case), small.released(case)
    layer = found.posterior.image
    embedded = model.image_embeddings(found, pool)
    queries = model.image_embeddings(found, targets)
    distances = [neighbours.squared_wasserstein(
        _take(queries, row), embedded, layer) for row in range(9)]
    np.testing.assert_allclose(distances, get("w2_sq"), rtol=1e-5, atol=1e-6)
    queries = _take(queries, get("knn_query"))
    for metric in ("cosine", "wasserstein"):
      rows = neighbours.support(
          queries, embedded, layer, num_rows=6, metric=metric)
      np.testing.assert_array_equal(np.sort(rows), get(f"knn_{metric}"))

  def test_close_points_far_from_the_origin(self):
    # |x|^2 + |z|^2 - 2 <x, z> would be off by 1 here.
    point = predictive.Embedding(jnp.full(4, 1000.0), jnp.asarray(0.5))
    pool = predictive.Embedding(
        jnp.full((1, 4), 1000.0) + jnp.array([[0, 0, 0, 0.25]]), jnp.ones(1))
    expected = 0.25**2 + (1 - np.sqrt(0.5))**2 * np.linspace(0.1, 1, 4).sum()
    np.testing.assert_allclose(
        neighbours.squared_wasserstein(point, pool, _layer()), [expected],
        rtol=1e-5)

  @parameterized.product(metric=("cosine", "wasserstein"), num_rows=(1, 7, 15))
  def test_order_of_a_loop(self, metric, num_rows):
    queries, pool, layer = _embeddings(0, 5), _embeddings(1, 15), _layer()
    ranked = []
    trace = 2.2
    for x, q in zip(np.float64(queries.mean), np.float64(queries.spread)):
      far = []
      for z, r in zip(np.float64(pool.mean), np.float64(pool.spread)):
        if metric == "cosine":
          norms = np.sqrt((x @ x + q * trace) * (z @ z + r * trace))
          far.append(-x @ z / norms)
        else:
          far.append((x - z) @ (x - z) + (np.sqrt(q) - np.sqrt(r))**2 * trace)
      ranked.append(np.argsort(far, kind="stable"))
    expected = list(dict.fromkeys(
        int(row) for rank in zip(*ranked) for row in rank))[:num_rows]
    np.testing.assert_array_equal(
        neighbours.support(queries, pool, layer, num_rows=num_rows,
                           metric=metric), expected)

  def test_a_pool_that_is_too_small_ends(self):
    same = predictive.Embedding(jnp.ones((30, 4)), jnp.ones(30))
    pool = _embeddings(1, 9)
    rows = neighbours.support(same, pool, _layer(), num_rows=30)
    np.testing.assert_array_equal(np.sort(rows), np.arange(9))

  def test_equal_distances_lower_rows_first(self):
    same = predictive.Embedding(jnp.ones((3, 4)), jnp.ones(3))
    np.testing.assert_array_equal(
        neighbours.nearest(same, same, _layer(), k=2), [[0, 1]] * 3)

  def test_errors(self):
    some, none = _embeddings(0, 3), _embeddings(0, 0)
    with self.assertRaisesRegex(ValueError, "choose from: cosine, wasserstein"):
      neighbours.nearest(some, some, _layer(), metric="euclidean")
    with self.assertRaisesRegex(ValueError, "do not exist"):
      neighbours.nearest(some, some, _layer(), k=4)
    with self.assertRaisesRegex(ValueError, "no queries"):
      neighbours.support(none, some, _layer(), num_rows=1)
    with self.assertRaisesRegex(ValueError, "pool of 0"):
      neighbours.support(some, none, _layer(), num_rows=1)


if __name__ == "__main__":
  absltest.main()
