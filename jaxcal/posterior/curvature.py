"""Kronecker factors of a contrastive loss at a tower's last projection.

The embedding of a pair is g = W a with the activations a; everything else is
frozen. Given the other side's embeddings y as constants, every row is a problem
of its own: which of the candidates is its partner (InfoNCE), or for each
candidate whether it is (the pairwise sigmoid loss). The generalised
Gauss-Newton (GGN) matrix of the loss by W, summed over n rows, is approximated
by one Kronecker product,

  1/n (sum_i a_i a_i^T) x (sum_i H_i) = A x B,

where H_i [d d] is the GGN block of row i by its un-normalised embedding. Each
of A and B carries 1/sqrt(n).

Pairs come in blocks: start with `start`, `add` each block, end with `finish`;
`kronecker_factors` does it for whole arrays. Only one direction of the loss
enters a side's factors: for the image side embeddings are those of images and
targets those of texts, for the text side the other way round.

Baumann et al., Post-hoc Probabilistic Vision-Language Models, ICLR 2026.
"""

import functools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from jaxcal.compiled import compiled
from jaxcal.compiled import compiled_with
from jaxcal.typing import AnyArray
from jaxcal.typing import Array
from jaxcal.typing import at_least_float32
from jaxcal.typing import Bool
from jaxcal.typing import DTypeLike
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Number

# A curvature is small beside what is summed: no TF32 and no bfloat16.
_matmul = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
# Rows at a time; chunks of 128 to 1024 take the same time.
_ROWS_PER_CHUNK = 256


class Factors(NamedTuple):
  """Kronecker factors of one side; each is divided by sqrt(num_pairs)."""

  a: Float[AnyArray, "p p"]  # of the activations
  b: Float[AnyArray, "d d"]  # of the GGN by the un-normalised embedding
  num_pairs: int


class Sums(NamedTuple):
  """What the pairs seen so far add up to; arrays, so that it can be saved."""

  a: Float[Array, "p p"]
  b: Float[Array, "d d"]
  num_pairs: Int[Array, ""]


def infonce_block(
    embedding: Float[AnyArray, "d"],
    targets: Float[AnyArray, "c d"],
    logit_scale: Number,
) -> Float[Array, "d d"]:
  """GGN of one row's softmax cross-entropy by its un-normalised embedding.

  The form to read, and for single points; many rows are `ggn_sum`. The second
  derivative of the normalisation is left out, so the block is positive
  semi-definite, and the embedding itself is in its null space.

  Args:
    embedding: Embedding before normalisation, not zero.
    targets: Candidates of the other side; normalised here.
    logit_scale: Factor of the cosines, 100 for OpenAI's CLIP.

  Raises:
    ValueError: Shapes that do not fit.
  """
  _check_point(embedding, targets)
  return _infonce_block(embedding, targets, logit_scale)


@compiled
def _infonce_block(embedding, targets, logit_scale):
  embedding, targets = _of_one_width(embedding, targets)
  unit, targets = _unit(embedding), _unit(targets)
  probs = jax.nn.softmax(logit_scale * _matmul(targets, unit))
  spread = targets - _matmul(probs, targets)[None]
  return _pull_back(
      _matmul(spread.T, probs[:, None] * spread), embedding, logit_scale)


def sigmoid_block(
    embedding: Float[AnyArray, "d"],
    targets: Float[AnyArray, "c d"],
    logit_scale: Number,
    logit_bias: Number,
) -> Float[Array, "d d"]:
  """GGN of one row's pairwise sigmoid loss by its un-normalised embedding.

  The labels do not enter: the loss has the same curvature for a pair and for a
  mismatch. Otherwise as `infonce_block`; `logit_bias` is added to the logits.
  """
  _check_point(embedding, targets)
  return _sigmoid_block(embedding, targets, logit_scale, logit_bias)


@compiled
def _sigmoid_block(embedding, targets, logit_scale, logit_bias):
  embedding, targets = _of_one_width(embedding, targets)
  unit, targets = _unit(embedding), _unit(targets)
  weights = _logistic_variance(
      logit_scale * _matmul(targets, unit) + logit_bias)
  return _pull_back(
      _matmul(targets.T, weights[:, None] * targets), embedding, logit_scale)


def ggn_sum(
    embeddings: Float[AnyArray, "m d"],
    targets: Float[AnyArray, "c d"],
    logit_scale: Number,
    logit_bias: Number | Float[np.ndarray, ""] | None = None,
    *,
    where: Bool[AnyArray, "m"] | None = None,
    rows_per_chunk: int = _ROWS_PER_CHUNK,
) -> Float[Array, "d d"]:
  """Sum of the GGN blocks of many rows, by matrix products alone.

  Costs O(m c d) and a few arrays of [rows_per_chunk c], where a sum of blocks
  costs O(m c d^2) and holds a [d d] for each row.

  Args:
    embeddings: Embeddings before normalisation, none zero.
    targets: The candidates that every row is compared with; normalised here.
    logit_scale: Factor of the cosines, 100 for OpenAI's CLIP.
    logit_bias: Bias added to the logits of the sigmoid loss; None for InfoNCE.
    where: Rows that count; all if None. The others may hold anything.
    rows_per_chunk: Rows whose logits are held at once.

  Raises:
    ValueError: Shapes that do not fit; where not traced, an embedding or a
      target that is zero or not finite.

  Source: Baumann et al., ICLR 2026, whose GGN blocks are summed here before
  any of them is formed.
  Differs from the released code in: no [d d] per row and no [c c] identity,
  hence all rows at once; symmetric to the last bit; keeps its digits where a
  softmax is almost sure.
  """
  if where is None:
    where = np.ones(len(embeddings), bool)
  _check_block(embeddings, targets, where)
  if rows_per_chunk < 1:
    raise ValueError(f"{rows_per_chunk=} must be at least 1")
  return _ggn_sum(embeddings, targets, logit_scale, logit_bias, where,
                  rows_per_chunk=rows_per_chunk)


@compiled_with("rows_per_chunk")
def _ggn_sum(
    embeddings, targets, logit_scale, logit_bias, where, *, rows_per_chunk):
  embeddings, targets = _of_one_width(embeddings, targets)
  infonce = logit_bias is None
  targets, dtype = _unit(targets), targets.dtype
  logit_scale = jnp.asarray(logit_scale, dtype)
  if infonce:
    # A softmax does not see a shift of all candidates, and its covariance does
    # not either: around their mean less cancels.
    targets = targets - jnp.mean(targets, axis=0)[None]

  def add_chunk(sums, chunk):
    counts, crossed = sums
    rows, where = chunk
    norms = jnp.linalg.norm(rows, axis=-1)
    units = rows / norms[:, None]
    weights = jnp.where(where, jnp.square(logit_scale / norms), 0)[:, None]
    cosines = _matmul(units, targets.T)
    # With S a row's matrix by its unit embedding u, (I - u u^T) S (I - u u^T)
    # is S - u h^T - h u^T, where h = S u - (u^T S u) u / 2. S itself is a sum
    # of y y^T, each `count` times, which waits until all rows are counted.
    if infonce:
      share, count, cosines, top = _around_top(logit_scale * cosines, cosines)
      # With y the likeliest target, y + step is the mean of all of them.
      step = _matmul(count, targets)
      crossed += _matmul((targets[top] + step / 2).T, weights * step)
    else:
      share = count = _logistic_variance(
          logit_scale * cosines + jnp.asarray(logit_bias, dtype))
    along = jnp.sum(share * jnp.square(cosines), axis=-1, keepdims=True)
    half = _matmul(share * cosines, targets) - along / 2 * units
    crossed += _matmul(units.T, weights * half)
    return (counts + _matmul(weights[:, 0], count), crossed), None

  zeros = (jnp.zeros(len(targets), dtype),
           jnp.zeros((targets.shape[1],) * 2, dtype))
  # Rows that do not count could be NaN, which a weight of 0 would not stop.
  rows = jnp.where(where[:, None], embeddings, 1)
  (counts, crossed), _ = lax.scan(
      add_chunk, zeros,
      (_chunks(rows, rows_per_chunk, 1), _chunks(where, rows_per_chunk, False)))
  half = _matmul(targets.T, counts[:, None] * targets) / 2 - crossed
  return half + half.T


def blocks(num_pairs: int, block: int) -> list[tuple[slice, slice]]:
  """How a stream of pairs is cut: the rows and the candidates of each block.

  Every pair is a row exactly once and every row has `block` candidates, its
  partner among them. Where the pairs do not go round, the last block has fewer
  rows and takes the last `block` pairs of the stream as candidates; where there
  are fewer pairs than `block`, all of them are.

  Args:
    num_pairs: Number of pairs in the stream.
    block: Pairs that are compared with each other.

  Returns:
    Slices of the stream, (rows, candidates) for each block.

  Raises:
    ValueError: A block or a stream of less than two pairs.

  Differs from the released code in: the remainder is not dropped.
  """
  if block < 2:
    raise ValueError(f"{block=}: at least 2 pairs, or there is nothing to tell "
                     "apart")
  if num_pairs < 2:
    raise ValueError(f"{num_pairs=}: at least 2 pairs are compared")
  ends = [min(first + block, num_pairs) for first in range(0, num_pairs, block)]
  return [
      (slice(first, end), slice(max(end - block, 0), end))
      for first, end in zip(range(0, num_pairs, block), ends)]


def start(
    num_activations: int, projection: int, dtype: DTypeLike = jnp.float32
) -> Sums:
  """The sums of no pair.

  Args:
    num_activations: Number p of activations, the one of the bias included
      (`with_one`).
    projection: Width d of the projection.
    dtype: Type of the sums.
  """
  return Sums(*map(jax.device_put, (
      np.zeros((num_activations,) * 2, dtype),
      np.zeros((projection,) * 2, dtype), np.zeros((), np.int32))))


def add(
    sums: Sums,
    activations: Float[AnyArray, "m p"],
    embeddings: Float[AnyArray, "m d"],
    targets: Float[AnyArray, "c d"],
    logit_scale: Number,
    logit_bias: Number | Float[np.ndarray, ""] | None = None,
    *,
    where: Bool[AnyArray, "m"] | None = None,
    rows_per_chunk: int = _ROWS_PER_CHUNK,
    mesh: Mesh | None = None,
) -> Sums:
  """Adds the rows of one block.

  Args:
    sums: Sums so far; from `start`, `add`, or a file.
    activations: What the projection sees; `with_one` where it has a bias.
    embeddings: What it makes of them (and the residual, where there is one),
      before normalisation.
    targets: Embeddings of the other side, the rows' partners among them;
      normalised here. See `blocks`.
    logit_scale: Factor of the cosines.
    logit_bias: Bias added to the logits of the sigmoid loss; None for InfoNCE.
    where: Rows that count, in the number of pairs too; all if None.
    rows_per_chunk: See `ggn_sum`.
    mesh: Devices that share the rows, each with all targets. Where they are of
      several processes, each makes this call with the same arguments.

  Raises:
    ValueError: Shapes that do not fit; where not traced, a row that is not
      finite, or an embedding or a target that is zero.
  """
  p, d = len(sums.a), len(sums.b)
  _check_shape("activations", activations, (len(embeddings), p))
  _check_shape("embeddings", embeddings, (len(embeddings), d))
  _check_shape("targets", targets, (len(targets), d))
  if where is None:
    where = np.ones(len(embeddings), bool)
  _check_shape("where", where, (len(embeddings),))
  _check_rows("activations", activations, where, may_be_zero=True)
  _check_rows("embeddings", embeddings, where)
  _check_rows("targets", targets)
  rows = activations, embeddings, where
  shared = targets, logit_scale, logit_bias
  if mesh is not None:
    rows = _place(tuple(_pad(x, mesh.size, 0) for x in rows),
                  NamedSharding(mesh, PartitionSpec(mesh.axis_names)))
    sums, shared = _place(
        (sums, shared), NamedSharding(mesh, PartitionSpec()))
  return _add(sums, rows, shared, rows_per_chunk=rows_per_chunk, mesh=mesh)


def finish(sums: Sums) -> Factors:
  """The factors of all pairs that were added.

  Raises:
    ValueError: There was none.
  """
  num_pairs = int(sums.num_pairs)
  if num_pairs < 1:
    raise ValueError("no pair was added; factors need at least one")
  a, b = _over(sums[:2], num_pairs ** 0.5)
  return Factors(a, b, num_pairs)


def kronecker_factors(
    activations: Float[AnyArray, "n p"],
    embeddings: Float[AnyArray, "n d"],
    targets: Float[AnyArray, "n d"],
    logit_scale: Number,
    logit_bias: Number | Float[np.ndarray, ""] | None = None,
    *,
    block: int,
    rows_per_chunk: int = _ROWS_PER_CHUNK,
    mesh: Mesh | None = None,
) -> Factors:
  """Kronecker factors of one side from all its pairs.

  Args:
    activations: What the projection sees; `with_one` where it has a bias.
    embeddings: What it makes of them (and the residual, where there is one),
      before normalisation.
    targets: Partners of the rows, embeddings of the other side; normalised
      here.
    logit_scale: Factor of the cosines.
    logit_bias: Bias added to the logits of the sigmoid loss; None for InfoNCE.
    block: Candidates that each row is compared with, see `blocks`; the
      published factors have 32,768.
    rows_per_chunk: See `ggn_sum`.
    mesh: See `add`.

  Raises:
    ValueError: See `add` and `blocks`; rows are counted over all pairs.

  Source: Baumann et al., ICLR 2026, and their released estimation.
  Differs from the released code in: no pair is dropped, at the end of the
  stream or in B alone; see `ggn_sum`.
  """
  n = len(embeddings)
  _check_shape("activations", activations, (n, *jnp.shape(activations)[1:]))
  _check_shape("targets", targets, jnp.shape(embeddings))
  _check_rows("activations", activations, may_be_zero=True)
  _check_rows("embeddings", embeddings)
  _check_rows("targets", targets)
  sums = start(activations.shape[1], embeddings.shape[1],
               jax.eval_shape(at_least_float32, embeddings).dtype)
  for rows, candidates in blocks(n, block):
    sums = add(sums, activations[rows], embeddings[rows], targets[candidates],
               logit_scale, logit_bias, rows_per_chunk=rows_per_chunk,
               mesh=mesh)
  return finish(sums)


@compiled
def with_one(activations: Float[AnyArray, "*n p"]) -> Float[Array, "*n p+1"]:
  """Activations with the 1 that a projection's bias multiplies, at the end."""
  activations = jnp.asarray(activations)
  one = jnp.ones((*activations.shape[:-1], 1), activations.dtype)
  return jnp.concatenate([activations, one], axis=-1)


@compiled
def _over(sums, root):
  return jax.tree.map(lambda x: x / root, sums)


def _place(tree, sharding):
  """Arrays that every process has whole, on the devices."""
  if sharding.is_fully_addressable:
    return jax.device_put(tree, sharding)

  def place(x):
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, x.__getitem__)

  return jax.tree.map(place, tree)


@functools.partial(jax.jit, static_argnames=("rows_per_chunk", "mesh"))
def _add(sums, rows, shared, *, rows_per_chunk, mesh):
  """`add` without its checks."""

  def sums_of(rows, shared):
    activations, embeddings, where = rows
    activations = jnp.where(where[:, None], at_least_float32(activations), 0)
    return Sums(
        _matmul(activations.T, activations),
        ggn_sum(embeddings, *shared, where=where,
                rows_per_chunk=rows_per_chunk),
        jnp.sum(where, dtype=jnp.int32))

  if mesh is None:
    return jax.tree.map(jnp.add, sums, sums_of(rows, shared))
  # Without the check of varying axes: no derivative is taken, and with it the
  # zeros that a sum starts from would have to be marked by hand.
  sums_over = jax.shard_map(
      lambda *given: lax.psum(sums_of(*given), mesh.axis_names), mesh=mesh,
      in_specs=(PartitionSpec(mesh.axis_names), PartitionSpec()),
      out_specs=PartitionSpec(), check_vma=False)
  return jax.tree.map(jnp.add, sums, sums_over(rows, shared))


def _around_top(logits, cosines):
  """A softmax [m c] around its likeliest class, so that a sure one is exact.

  Where one class has all but a share e, its covariance is of order e, and the
  difference of two matrices of order 1. Without cancelling it is

    sum_c q_c y_c y_c^T - y s^T - s y^T - s s^T,    s = sum_c q_c y_c,

  with y the likeliest target and q the shares, but -e instead of 1 - e.

  Returns:
    The shares; q; cosines less their mean; and the likeliest class.
  """
  top = jnp.argmax(logits, axis=-1)
  shares = jax.nn.softmax(logits)
  is_top = jnp.arange(logits.shape[-1])[None] == top[:, None]
  others = jnp.where(is_top, 0, shares)
  counts = jnp.where(
      is_top, -jnp.sum(others, axis=-1, keepdims=True), others)
  cosines -= jnp.take_along_axis(cosines, top[:, None], axis=-1)
  cosines -= jnp.sum(others * cosines, axis=-1, keepdims=True)
  return shares, counts, cosines, top


def _pull_back(matrix, embedding, logit_scale):
  """From a matrix by the scaled unit embedding to one by the embedding."""
  unit = _unit(embedding)
  tangent = jnp.eye(len(unit), dtype=unit.dtype) - jnp.outer(unit, unit)
  scale = jnp.square(logit_scale / jnp.linalg.norm(embedding))
  return scale * _matmul(_matmul(tangent, matrix), tangent)


def _logistic_variance(logits):
  """sigmoid (1 - sigmoid), also where one of them rounds to 1."""
  return jax.nn.sigmoid(logits) * jax.nn.sigmoid(-logits)


def _unit(x):
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def _pad(x, multiple, value):
  """Rows of `value` up to a multiple."""
  x = jnp.asarray(x)
  return jnp.pad(x, [(0, -len(x) % multiple)] + [(0, 0)] * (x.ndim - 1),
                 constant_values=value)


def _chunks(x, rows_per_chunk, value):
  """Rows [m ...] as [chunks rows ...], padded."""
  rows = min(rows_per_chunk, len(x))
  return _pad(x, rows, value).reshape(-1, rows, *x.shape[1:])


def _check_point(embedding, targets):
  if jnp.ndim(embedding) != 1:
    raise ValueError("one embedding of shape [d] expected, but its shape is "
                     f"{jnp.shape(embedding)}; vmap over many, or ggn_sum")
  _check_block(embedding[None], targets, np.ones(1, bool))


def _check_block(embeddings, targets, where):
  """Refuses arrays that do not fit, and rows of no use."""
  shapes = jnp.shape(embeddings), jnp.shape(targets)
  if (len(shapes[0]) != 2 or len(shapes[1]) != 2 or 0 in sum(shapes, ())
      or shapes[0][1] != shapes[1][1]):
    raise ValueError("embeddings [m d] and targets [c d] expected, of the same "
                     f"width and not empty, but {shapes[0]} and {shapes[1]}")
  _check_shape("where", where, shapes[0][:1])
  _check_rows("embeddings", embeddings, where)
  _check_rows("targets", targets)


def _of_one_width(embeddings, targets):
  """In the wider of both floating point types, float32 at least."""
  embeddings, targets = at_least_float32(embeddings), at_least_float32(targets)
  dtype = jnp.promote_types(embeddings.dtype, targets.dtype)
  return embeddings.astype(dtype), targets.astype(dtype)


def _check_shape(name, x, expected):
  if jnp.shape(x) != expected:
    raise ValueError(
        f"{name} of shape {list(expected)} expected, as the other arrays have "
        f"it, but it is {list(jnp.shape(x))}")


def _check_rows(name, rows, where=None, *, may_be_zero=False):
  """Names the first row whose norm is of no use, unless it is traced."""
  if isinstance(rows, jax.core.Tracer) or isinstance(where, jax.core.Tracer):
    return
  squares = np.asarray(_squares(rows))
  bad = ~np.isfinite(squares) | ((squares == 0) & (not may_be_zero))
  if where is not None:
    bad &= np.asarray(where)
  if bad.any():
    row = int(np.argmax(bad))
    what = "zero, and has no direction" if squares[row] == 0 else "not finite"
    raise ValueError(
        f"row {row} of the {name} is {what} ({bad.sum()} of {len(bad)} rows "
        "are); leave such pairs out")


@jax.jit
def _squares(rows):
  return jnp.sum(jnp.square(at_least_float32(rows)), axis=-1)
