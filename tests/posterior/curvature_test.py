"""Kronecker factors against released numbers, autodiff and their own parts."""

import functools
import io

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcal import sharding
from jaxcal.posterior import curvature
from tests import quick
from tests import shared

_LOSSES = (("infonce", None), ("sigmoid", -5.0))
_SCALE = 9.0
_infonce_blocks = quick.jit(
    jax.vmap(curvature.infonce_block, (0, None, None)))
_sum = quick.jit(curvature.ggn_sum, static_argnames="rows_per_chunk")


def _pairs(n, d=6, p=4, seed=0, dtype=np.float64):
  """Activations, embeddings and targets of pairs that belong together."""
  generator = np.random.default_rng(seed)
  activations = generator.normal(size=(n, p))
  common = generator.normal(size=(n, d)) + generator.normal(size=(1, d))
  embeddings = 3 * common + generator.normal(size=(n, d))
  targets = common + generator.normal(size=(n, d))
  return tuple(x.astype(dtype) for x in (activations, embeddings, targets))


def _block(embedding, targets, bias):
  if bias is None:
    return curvature.infonce_block(embedding, targets, _SCALE)
  return curvature.sigmoid_block(embedding, targets, _SCALE, bias)


@functools.partial(quick.jit, static_argnames="bias")
def _autodiff_block(embedding, targets, bias):
  """J^T H J of logits and loss as they are written down."""
  targets = targets / jnp.linalg.norm(targets, axis=1, keepdims=True)

  def logits(embedding):
    unit = embedding / jnp.sqrt(jnp.sum(embedding ** 2))
    return _SCALE * targets @ unit + (0.0 if bias is None else bias)

  def loss(logits):
    if bias is None:
      return -jax.nn.log_softmax(logits)[2]
    signs = jnp.where(jnp.arange(len(logits)) == 2, 1.0, -1.0)
    return -jnp.sum(jax.nn.log_sigmoid(signs * logits))

  jacobian = jax.jacfwd(logits)(embedding)
  return jacobian.T @ jax.hessian(loss)(logits(embedding)) @ jacobian


def _assert_near(actual, expected, tolerance):
  """Relative to the largest entry."""
  expected = np.asarray(expected)
  np.testing.assert_allclose(
      actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


class BlockTest(parameterized.TestCase):

  @parameterized.named_parameters(*_LOSSES)
  def test_autodiff(self, bias):
    with jax.enable_x64(True):
      _, embeddings, targets = _pairs(7)
      _assert_near(_block(embeddings[0], targets, bias),
                   _autodiff_block(embeddings[0], targets, bias), 1e-13)

  @parameterized.named_parameters(*_LOSSES)
  def test_the_embedding_is_in_its_null_space(self, bias):
    with jax.enable_x64(True):
      _, embeddings, targets = _pairs(7)
      block = _block(embeddings[0], targets, bias)
      np.testing.assert_allclose(block @ embeddings[0], 0, atol=1e-12)
      self.assertGreater(np.linalg.eigvalsh(block)[1], 1e-6)

  @parameterized.named_parameters(*_LOSSES)
  def test_only_the_length_of_embeddings_counts(self, bias):
    with jax.enable_x64(True):
      _, embeddings, targets = _pairs(7)
      lengths = np.arange(1.0, 8)[:, None]
      block = _block(embeddings[0], targets, bias)
      _assert_near(_block(embeddings[0], targets * lengths, bias), block, 1e-13)
      _assert_near(
          _block(embeddings[0] * 3, targets, bias), block / 9, 1e-13)

  def test_released_point(self):
    pairs, scale, bias, stored = _oracle("clip")
    with jax.enable_x64(True):
      _assert_near(
          curvature.infonce_block(
              pairs["img"][1][0], pairs["txt"][1][:32], scale),
          stored("H_point0_img"), 1e-12)

  def test_vmap_and_jit(self):
    _, embeddings, targets = _pairs(5, dtype=np.float32)
    _assert_near(
        _infonce_blocks(embeddings, targets, _SCALE)[3],
        curvature.infonce_block(embeddings[3], targets, _SCALE), 1e-5)

  def test_shapes(self):
    with self.assertRaisesRegex(ValueError, r"shape \[d\].*\(2, 6\).*vmap"):
      curvature.infonce_block(np.ones((2, 6)), np.ones((3, 6)), 1.0)
    with self.assertRaisesRegex(ValueError, r"same width.*\(1, 5\).*\(3, 6\)"):
      curvature.sigmoid_block(np.ones(5), np.ones((3, 6)), 1.0, 0.0)


class SumTest(parameterized.TestCase):

  @parameterized.product(
      bias=(None, -5.0), rows_per_chunk=(1, 4, 11, 256))
  def test_sum_of_blocks(self, bias, rows_per_chunk):
    with jax.enable_x64(True):
      _, embeddings, targets = _pairs(11)
      blocks = [_autodiff_block(x, targets, bias) for x in embeddings]
      total = _sum(embeddings, targets, _SCALE, bias,
                   rows_per_chunk=rows_per_chunk)
      _assert_near(total, sum(blocks), 1e-13)
      np.testing.assert_array_equal(total, total.T)

  @parameterized.named_parameters(*_LOSSES)
  def test_rows_that_do_not_count(self, bias):
    with jax.enable_x64(True):
      _, embeddings, targets = _pairs(9)
      where = np.arange(9) % 3 != 1
      spoilt = np.where(where[:, None], embeddings, np.nan)
      spoilt[4] = 0
      _assert_near(
          curvature.ggn_sum(spoilt, targets, _SCALE, bias, where=where,
                            rows_per_chunk=4),
          curvature.ggn_sum(embeddings[where], targets, _SCALE, bias), 1e-13)
      np.testing.assert_array_equal(
          _sum(embeddings, targets, _SCALE, bias, where=np.zeros(9, bool)), 0)

  @parameterized.named_parameters(*_LOSSES)
  def test_float32_of_a_narrow_cone(self, bias):
    # Embeddings of one tower lie close together, and logits are large.
    generator = np.random.default_rng(1)
    targets = generator.normal(size=(200, 16))
    embeddings = targets[:64] + generator.normal(size=(64, 16))
    embeddings += 5 * (-1) ** np.arange(16)[None]
    targets += 5
    with jax.enable_x64(True):
      expected = np.asarray(_sum(embeddings, targets, 100.0, bias))
    for dtype, tolerance in ((np.float32, 2e-6), (jnp.bfloat16, 2e-1)):
      total = _sum(
          embeddings.astype(dtype), targets.astype(dtype), 100.0, bias)
      self.assertEqual(total.dtype, np.float32)
      _assert_near(total, expected, tolerance)

  @parameterized.parameters(0.9, 0.3, 0.1)
  def test_float32_where_the_softmax_is_sure(self, noise):
    """Its covariance is then a small difference of large matrices."""
    generator = np.random.default_rng(2)
    targets = generator.normal(size=(64, 12))
    embeddings = targets[:20] + noise * generator.normal(size=(20, 12))
    with jax.enable_x64(True):
      blocks = _infonce_blocks(embeddings, targets, 40.0)
      expected = np.sum(blocks, axis=0)
      if noise < 0.5:
        self.assertLess(np.max(expected), 0.1)
    total = _sum(embeddings.astype(np.float32), targets.astype(np.float32),
                 40.0)
    _assert_near(total, expected, 2e-5)

  def test_float32_arrays_with_float64_scalars(self):
    _, embeddings, targets = _pairs(5, dtype=np.float32)
    expected = _sum(embeddings, targets, _SCALE, -5.0)
    with jax.enable_x64(True):
      total = _sum(embeddings, targets, np.float64(_SCALE), np.float64(-5))
    self.assertEqual(total.dtype, np.float32)
    _assert_near(total, expected, 1e-6)

  def test_errors(self):
    rows = np.ones((3, 4))
    cases = (
        (lambda: curvature.ggn_sum(rows, np.ones((5, 6)), 1.0),
         r"same width.*\(3, 4\).*\(5, 6\)"),
        (lambda: curvature.ggn_sum(rows[:0], rows, 1.0), "not empty"),
        (lambda: curvature.ggn_sum(rows, rows, 1.0, rows_per_chunk=0),
         "rows_per_chunk=0 must"),
        (lambda: curvature.ggn_sum(rows, rows, 1.0, where=np.ones(2, bool)),
         r"where of shape \[3\] expected.*\[2\]"),
        (lambda: curvature.ggn_sum(_spoilt(rows, 1, np.nan), rows, 1.0),
         "row 1 of the embeddings is not finite .1 of 3"),
        (lambda: curvature.ggn_sum(rows, _spoilt(rows, 2, 0.0), 1.0),
         "row 2 of the targets is zero, and has no direction"),
    )
    for call, message in cases:
      with self.assertRaisesRegex(ValueError, message):
        call()


class StreamTest(parameterized.TestCase):

  @parameterized.parameters(
      (8, 4, [(0, 4, 0), (4, 8, 4)]),
      (10, 4, [(0, 4, 0), (4, 8, 4), (8, 10, 6)]),
      (5, 4, [(0, 4, 0), (4, 5, 1)]),
      (3, 4, [(0, 3, 0)]),
      (2, 2, [(0, 2, 0)]))
  def test_blocks(self, num_pairs, block, expected):
    self.assertEqual(
        curvature.blocks(num_pairs, block),
        [(slice(first, end), slice(start, end))
         for first, end, start in expected])

  @parameterized.product(num_pairs=(2, 3, 4, 5, 6, 7, 11), block=(2, 3, 5, 20))
  def test_every_pair_once_against_as_many_candidates(self, num_pairs, block):
    rows = np.arange(num_pairs)
    cut = curvature.blocks(num_pairs, block)
    np.testing.assert_array_equal(
        np.concatenate([rows[some] for some, _ in cut]), rows)
    for some, candidates in cut:
      self.assertLen(rows[candidates], min(block, num_pairs))
      self.assertLessEqual(set(rows[some]), set(rows[candidates]))

  @parameterized.product(case=("clip", "siglip"), side=("img", "txt"))
  def test_released_factors(self, case, side):
    """Which drop what does not fill a block, and of B what no group of rows."""
    pairs, scale, bias, stored = _oracle(case)
    block, group = int(stored("cls")), int(stored("bs"))
    with jax.enable_x64(True):
      for dtype, suffix, tolerance in (
          (np.float64, "", 1e-13), (np.float32, "_f32", 1e-5)):
        activations, embeddings = (x.astype(dtype) for x in pairs[side])
        targets = pairs["txt" if side == "img" else "img"][1].astype(dtype)
        sums = curvature.start(activations.shape[1], 6, dtype)
        total = jnp.zeros((6, 6), dtype)
        for first in range(0, len(activations) // block * block, block):
          some = slice(first, first + block)
          given = targets[some], scale, bias
          sums = curvature.add(
              sums, activations[some], embeddings[some], *given)
          total += curvature.ggn_sum(
              embeddings[some], *given,
              where=np.arange(block) < block // group * group)
        factors = curvature.finish(sums._replace(b=total))
        self.assertEqual(factors.num_pairs, len(activations) // block * block)
        _assert_near(factors.a, stored(f"A_{side}{suffix}"), tolerance)
        _assert_near(factors.b, stored(f"B_{side}{suffix}"), tolerance)

  @parameterized.named_parameters(*_LOSSES)
  def test_factors_by_hand(self, bias):
    """Also the last rows, against the last pairs of the stream."""
    with jax.enable_x64(True):
      activations, embeddings, targets = _pairs(7)
      factors = curvature.kronecker_factors(
          activations, embeddings, targets, _SCALE, bias, block=3)
      rows = [(x, targets[:3]) for x in embeddings[:3]]
      rows += [(x, targets[3:6]) for x in embeddings[3:6]]
      rows += [(embeddings[6], targets[4:])]
      b = sum(_autodiff_block(x, y, bias) for x, y in rows) / 7 ** 0.5
      a = sum(np.outer(x, x) for x in activations) / 7 ** 0.5
      self.assertEqual(factors.num_pairs, 7)
      _assert_near(factors.a, a, 1e-13)
      _assert_near(factors.b, b, 1e-13)

  @pytest.mark.slow
  def test_resumed_from_a_file(self):
    activations, embeddings, targets = _pairs(10, dtype=np.float32)
    whole = curvature.kronecker_factors(
        activations, embeddings, targets, _SCALE, block=4)
    sums = curvature.start(4, 6)
    for rows, candidates in curvature.blocks(10, 4):
      sums = curvature.add(sums, activations[rows], embeddings[rows],
                           targets[candidates], _SCALE)
      file = io.BytesIO()
      np.savez(file, **sums._asdict())
      file.seek(0)
      with np.load(file) as stored:
        sums = curvature.Sums(**stored)
    self.assertEqual(sums.num_pairs, 10)
    for resumed, expected in zip(curvature.finish(sums), whole):
      np.testing.assert_array_equal(resumed, expected)

  def test_rows_that_do_not_count(self):
    activations, embeddings, targets = _pairs(6, dtype=np.float32)
    where = np.arange(6) < 4
    empty = curvature.start(4, 6)
    kept = curvature.add(empty, activations[:4], embeddings[:4], targets,
                         _SCALE)
    activations[4:], embeddings[4:] = np.nan, 0
    masked = curvature.add(
        empty, activations, embeddings, targets, _SCALE, where=where)
    self.assertEqual(masked.num_pairs, 4)
    _assert_near(masked.a, kept.a, 1e-6)
    _assert_near(masked.b, kept.b, 1e-6)

  @parameterized.product(bias=(None, -5.0), num_rows=(8, 6, 1))
  def test_shared_by_devices(self, bias, num_rows):
    mesh = sharding.data_mesh(jax.devices()[:4])
    with jax.enable_x64(True):
      activations, embeddings, targets = _pairs(8)
      rows = activations[:num_rows], embeddings[:num_rows]
      where = np.arange(num_rows) != 3
      alone = together = curvature.start(4, 6, np.float64)
      # Committed to one device, as what a tower computed there may be.
      placed = jax.device_put(rows, jax.devices()[0])
      for _ in range(2):
        alone = curvature.add(alone, *rows, targets, _SCALE, bias, where=where)
        together = curvature.add(together, *placed, targets, _SCALE, bias,
                                 where=where, rows_per_chunk=1, mesh=mesh)
      self.assertEqual(set(together.b.devices()), set(mesh.devices.flat))
      self.assertEqual(int(together.num_pairs), int(alone.num_pairs))
      _assert_near(together.a, alone.a, 1e-13)
      _assert_near(together.b, alone.b, 1e-13)

  def test_with_one(self):
    activations = np.arange(6.0).reshape(1, 2, 3)
    np.testing.assert_array_equal(
        curvature.with_one(activations),
        [[[0, 1, 2, 1], [3, 4, 5, 1]]])

  def test_errors(self):
    activations, embeddings, targets = _pairs(6, dtype=np.float32)
    sums = curvature.start(4, 6)
    add = lambda *rows, **kwargs: curvature.add(sums, *rows, _SCALE, **kwargs)
    factors = lambda *rows: curvature.kronecker_factors(*rows, _SCALE, block=4)
    cases = (
        (lambda: curvature.blocks(9, 1), "block=1: at least 2"),
        (lambda: curvature.blocks(1, 4), "num_pairs=1: at least 2"),
        (lambda: curvature.finish(sums), "no pair was added"),
        (lambda: add(curvature.with_one(activations), embeddings, targets),
         r"activations of shape \[6, 4\] expected.*\[6, 5\]"),
        (lambda: add(activations[:5], embeddings, targets),
         r"activations of shape \[6, 4\] expected.*\[5, 4\]"),
        (lambda: add(activations, embeddings[:, :5], targets),
         r"embeddings of shape \[6, 6\] expected.*\[6, 5\]"),
        (lambda: add(activations, embeddings, targets[:, :5]),
         r"targets of shape \[6, 6\] expected.*\[6, 5\]"),
        (lambda: add(activations, embeddings, targets, where=np.ones(5, bool)),
         r"where of shape \[6\] expected.*\[5\]"),
        (lambda: add(_spoilt(activations, 3, np.inf), embeddings, targets),
         "row 3 of the activations is not finite"),
        (lambda: add(activations, _spoilt(embeddings, 2, 0.0), targets),
         "row 2 of the embeddings is zero"),
        (lambda: factors(activations, embeddings, targets[:5]),
         r"targets of shape \[6, 6\] expected.*\[5, 6\]"),
        (lambda: factors(activations[:3], embeddings, targets),
         r"activations of shape \[6, 4\] expected.*\[3, 4\]"),
        (lambda: factors(activations, embeddings, _spoilt(targets, 5, np.nan)),
         "row 5 of the targets is not finite"),
    )
    for call, message in cases:
      with self.assertRaisesRegex(ValueError, message):
        call()

  @pytest.mark.slow
  def test_zero_activations_are_no_error(self):
    activations, embeddings, targets = _pairs(4, dtype=np.float32)
    sums = curvature.add(curvature.start(4, 6), _spoilt(activations, 1, 0.0),
                         embeddings, targets, _SCALE)
    self.assertEqual(sums.num_pairs, 4)


def _spoilt(rows, row, value):
  rows = rows.copy()
  rows[row] = value
  return rows


def _oracle(case):
  """(activations, embeddings) of each side, scale, bias, and all by name."""
  arrays = shared.arrays("oracles/bayesvlm/bayesvlm_oracle.npz")
  stored = lambda name: arrays[f"{case}.{name}"]
  pairs = {}
  for side in ("img", "txt"):
    activations = stored(f"act_{side}")
    embeddings = activations @ stored(f"W_{side}").T
    if case == "siglip":
      embeddings = embeddings + stored(f"b_{side}")[None]
      embeddings += stored("res_img") if side == "img" else 0
      with jax.enable_x64(True):
        activations = np.asarray(curvature.with_one(activations))
    pairs[side] = activations, embeddings
  bias = None if case == "clip" else stored("bias")
  return pairs, np.exp(stored("scale")), bias, stored


if __name__ == "__main__":
  absltest.main()
