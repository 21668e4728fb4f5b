"""The fast encoder against the plain tower: values, gradients, memory."""

import dataclasses
import functools
import itertools

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcal.clip import prefix
from jaxcal.clip import prompts
from jaxcal.clip import towers
from tests import quick
from tests.clip import tiny

# As many positions as CLIP has, and a tower as small as can be.
_CONFIG = dataclasses.replace(
    tiny.CONFIG, context_length=77,
    text=towers.TowerConfig(width=8, layers=2, heads=2, mlp_width=12))
_M = 3
# Tokens of each class's name, and of what comes after it.
_LENGTHS = (1, 4, 9, 2, 2, 17)
_CLASSES = len(_LENGTHS)


@functools.cache
def _params(dtype, config=_CONFIG):
  return jax.device_put(jax.tree.map(
      lambda x: np.asarray(x, dtype), tiny.params(config)))


def _bank(lengths=_LENGTHS, in_front=_M, m=_M, num_tokens=77):
  """Random names; the fourth and fifth of `_LENGTHS` are the same."""
  rng = np.random.default_rng(0)
  ids = np.zeros((len(lengths), num_tokens), int)
  positions = np.zeros((len(lengths), m), int)
  ends = np.zeros(len(lengths), int)
  same = rng.integers(3, 28, 2)
  for row, length in enumerate(lengths):
    name = same if length == 2 else rng.integers(3, 28, length)
    end = 1 + m + length
    positions[row] = [
        1 + i + (length if i >= in_front else 0) for i in range(m)]
    ids[row, 0], ids[row, end], ends[row] = 28, 29, end
    ids[row, np.setdiff1d(np.arange(1, end), positions[row])] = name
  return prompts.from_token_ids(ids, positions, ends)


@quick.jit
def _pulled(encode, context, cotangent):
  """Features, and a gradient by them as one by the context."""
  features, pull_back = jax.vjp(encode, context)
  return features, pull_back(cotangent)[0]


def _random(*shape, seed=1):
  return np.random.default_rng(seed).standard_normal(shape)


@functools.cache
def _plain(in_front=_M):
  """Features and gradient of the plain tower with all of its positions."""
  encode = prompts.context_encoder(
      _CONFIG, _params(jnp.float64), _bank(in_front=in_front))
  return _pulled(encode, _random(_M, 8), _random(_CLASSES, 5, seed=2))


class EncoderTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.enterContext(jax.enable_x64(True))

  def _encoder(self, bank, **options):
    return prefix.context_encoder(
        _CONFIG, _params(jnp.float64), bank, **options)

  def _assert_same(self, encode, expected):
    features, gradient = _pulled(
        encode, _random(encode.num_context, 8),
        _random(len(encode.order), 5, seed=2))
    np.testing.assert_allclose(features, expected[0], atol=1e-10)
    np.testing.assert_allclose(gradient, expected[1], atol=1e-10)

  def test_the_plain_tower_is_not_flat(self):
    features, gradient = _plain()
    self.assertGreater(np.ptp(features, axis=0).max(), 0.1)
    self.assertGreater(np.abs(gradient).max(), 1e-2)
    np.testing.assert_array_equal(features[3], features[4])

  @parameterized.parameters((1, None), (2, 1), (3, 2), (4, 7))
  @pytest.mark.slow
  def test_groups_and_chunks(self, max_groups, classes_per_chunk):
    encode = self._encoder(_bank(), max_groups=max_groups,
                           classes_per_chunk=classes_per_chunk)
    self.assertLen(encode.groups, max_groups)
    self.assertEqual((encode.num_context, encode.num_shared), (_M, _M))
    self._assert_same(encode, _plain())

  @parameterized.parameters((1, None), (2, 2))
  @pytest.mark.slow
  def test_before_the_projection(self, max_groups, classes_per_chunk):
    encode = self._encoder(_bank(), max_groups=max_groups,
                           classes_per_chunk=classes_per_chunk)
    plain = prompts.context_encoder(_CONFIG, _params(jnp.float64), _bank())
    context = _random(_M, 8)
    pooled = encode.pooled(context)
    np.testing.assert_allclose(pooled, plain.pooled(context), atol=1e-10)
    embeddings = np.asarray(pooled) @ np.asarray(encode.projection.kernel)
    np.testing.assert_allclose(
        embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True),
        _plain()[0], atol=1e-10)

  @parameterized.parameters((0, None), (1, 2))
  def test_name_before_or_amid_the_context(self, in_front, chunk):
    encode = self._encoder(
        _bank(in_front=in_front), max_groups=1, classes_per_chunk=chunk)
    self.assertEqual((encode.num_context, encode.num_shared), (_M, in_front))
    self._assert_same(encode, _plain(in_front))

  @parameterized.parameters(((6,), _M), (_LENGTHS, 0))
  @pytest.mark.slow
  def test_one_class_and_no_context(self, lengths, m):
    bank = _bank(lengths, in_front=m, m=m)
    plain = prompts.context_encoder(_CONFIG, _params(jnp.float64), bank)
    expected = _pulled(
        plain, _random(m, 8), _random(len(lengths), 5, seed=2))
    self._assert_same(self._encoder(bank, max_groups=1), expected)

  @pytest.mark.slow
  def test_jacobian(self, in_front=1):
    encode = self._encoder(_bank(in_front=in_front), max_groups=1)
    plain = prompts.context_encoder(
        _CONFIG, _params(jnp.float64), _bank(in_front=in_front))
    context = _random(_M, 8)
    expected = quick.jit(lambda e, c: jax.jacrev(e)(c))(plain, context)
    self.assertEqual(expected.shape, (_CLASSES, 5, _M, 8))
    np.testing.assert_allclose(
        quick.jit(lambda e, c: e.jacobian(c))(encode, context), expected,
        atol=1e-10)

  @pytest.mark.slow
  def test_a_jacobian_has_no_copies_beside_it(self):
    """But for the one that XLA makes of the place where it is written."""
    encode = self._encoder(_bank(lengths=[1, 2, 3, 5] * 25), max_groups=3)
    program = jax.jit(lambda e, c: e.jacobian(c)).lower(
        encode, _random(_M, _CONFIG.text.width)).compile().memory_analysis()
    self.assertLess(program.temp_size_in_bytes,
                    1.2 * program.output_size_in_bytes)

  def test_offset(self, in_front=1):
    bank, params = _bank(in_front=in_front), _params(jnp.float64)
    encode = self._encoder(bank, max_groups=1, classes_per_chunk=2)

    @quick.jit
    def features(encode, context, offset):
      return encode(context, offset)

    @quick.jit
    def expected(context, offset):
      embeddings = prompts.insert_context(
          towers.token_embeddings(params, bank.token_ids), context,
          bank.context_positions)
      return towers.text_features(
          _CONFIG, params, embeddings + offset[None], bank.end_positions)

    context, offset = _random(_M, 8), _random(77, 8, seed=3)
    np.testing.assert_allclose(
        features(encode, context, offset), expected(context, offset),
        atol=1e-10)
    for row in (0, _M, _M + 2):  # each position matters
      moved = offset.copy()
      moved[row] += _random(8, seed=4)
      np.testing.assert_allclose(
          features(encode, context, moved), expected(context, moved),
          atol=1e-10)
      self.assertGreater(np.abs(
          features(encode, context, moved) -
          features(encode, context, offset)).max(), 1e-3)

  def test_vmapped_over_contexts(self):
    encode = self._encoder(_bank(), max_groups=1, classes_per_chunk=4)
    contexts = np.stack([_random(_M, 8), _random(_M, 8, seed=5)])
    together = quick.jit(jax.vmap(
        lambda e, c: e(c), (None, 0)))(encode, contexts)
    np.testing.assert_allclose(together[0], _plain()[0], atol=1e-10)
    self.assertFalse(np.allclose(together[0], together[1], atol=1e-3))

  def test_half_precision(self):
    encode = prefix.context_encoder(
        _CONFIG, _params(jnp.bfloat16), _bank(), max_groups=1)
    features = quick.jit(lambda e, c: e(c))(
        encode, np.float32(_random(_M, 8)))
    self.assertEqual(features.dtype, jnp.float32)
    np.testing.assert_allclose(
        np.linalg.norm(features, axis=-1), 1, rtol=1e-6)
    # bfloat16 keeps two to three digits, and the tower has two layers.
    np.testing.assert_allclose(features, _plain()[0], atol=0.1)

  @parameterized.parameters(
      (1, ([5, 0, 5], [1, 2, 3])), (4, ([5, 0, 2], [1, 4, 3])),
      (4, ([2, 0, 5, 1, 4, 3],)))
  def test_some_rows(self, max_groups, several):
    encode = self._encoder(_bank(), max_groups=max_groups)

    @quick.jit
    @chex.assert_max_traces(n=1)
    def some(encode, context, rows):
      taken = encode.take(rows)
      self.assertLessEqual(len(taken.groups), 2)
      return taken(context)

    for rows in several:
      np.testing.assert_allclose(
          some(encode, _random(_M, 8), np.array(rows)),
          np.asarray(_plain()[0])[list(rows)], atol=1e-10)

  def test_rows_have_room_for_the_longest(self):
    encode = self._encoder(_bank(), max_groups=5)
    self.assertEqual([group.embeddings.shape[1] for group in encode.groups],
                     [2, 3, 5, 10, 18])
    shapes = lambda rows, **options: [
        group.embeddings.shape[:2]
        for group in encode.take(np.array(rows), **options).groups]
    self.assertEqual(shapes([0, 3, 4]), [(2, 10), (1, 18)])
    self.assertEqual(shapes([0, 3, 4], max_groups=3),
                     [(1, 5), (1, 10), (1, 18)])
    self.assertEqual(shapes(range(6), max_groups=1), [(6, 18)])

  @pytest.mark.slow
  def test_copies_without_room(self):
    encode = self._encoder(_bank(), max_groups=5)
    features = encode.take(np.array([0, 5, 5]), max_groups=3)(_random(_M, 8))
    np.testing.assert_allclose(features[0], _plain()[0][0], atol=1e-10)
    self.assertEqual(np.isnan(features).all(axis=1).sum(), 1)
    self.assertEqual(np.isnan(features).any(axis=1).sum(), 1)

  def test_another_shape_of_context(self):
    encode = prefix.context_encoder(_CONFIG, _params(jnp.float32), _bank())
    for context in (np.ones((2, 8)), np.ones((_CLASSES, _M, 8))):
      for call in (encode, encode.jacobian):
        with self.assertRaisesRegex(
            ValueError, r"context of shape \(3, 8\).*context_encoder takes"):
          call(context)


class DeepTest(parameterized.TestCase):
  """Vectors that take the place of states inside the shared prefix."""

  def setUp(self):
    super().setUp()
    self.enterContext(jax.enable_x64(True))
    # A layer in which they enter, and one in which they may flow.
    self.config = dataclasses.replace(
        _CONFIG, text=dataclasses.replace(_CONFIG.text, layers=3))
    self.params = _params(jnp.float64, self.config)
    self.context = _random(_M, 8)

  def _encoders(self, in_front=_M, **options):
    bank = _bank(in_front=in_front)
    return [
        make(self.config, self.params, bank, **kwargs) for make, kwargs in (
            (prefix.context_encoder, options), (prompts.context_encoder, {}))]

  @parameterized.parameters(
      (2, _M, _M), (2, 2, _M), (1, 1, 2), (0, _M, _M))
  @pytest.mark.slow
  def test_against_the_plain_tower(self, depth, count, in_front):
    deep = _random(depth, count, 8, seed=6)

    @quick.jit
    def pulled(encode, context, deep):
      features, pull_back = jax.vjp(
          lambda c, d: encode(c, deep=d), context, deep)
      return features, pull_back(_random(_CLASSES, 5, seed=2))

    ours, plain = (
        pulled(encode, self.context, deep) for encode in self._encoders(
            in_front, max_groups=2, classes_per_chunk=2))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), ours, plain)
    without = self._encoders(in_front)[1](self.context)
    if depth:
      self.assertGreater(np.abs(ours[1][1]).max(axis=-1).min(), 1e-6)
      self.assertGreater(np.abs(ours[0] - without).max(), 1e-3)
    else:
      np.testing.assert_allclose(ours[0], without, atol=1e-10)

  def test_before_the_projection(self):
    deep = _random(2, _M, 8, seed=6)
    pooled, plain = (encode.pooled(self.context, deep=deep)
                     for encode in self._encoders(max_groups=1))
    np.testing.assert_allclose(pooled, plain, atol=1e-10)

  def _states(self, bank):
    """All that the plain tower computes of the prompts."""

    @quick.jit
    def states(params, context):
      embeddings = prompts.insert_context(
          towers.token_embeddings(params, bank.token_ids), context,
          bank.context_positions)
      return self.config.text_tower().apply(
          {"params": params["text_model"]}, embeddings, bank.end_positions,
          capture_intermediates=True)[1]

    return states(self.params, self.context)

  @parameterized.parameters((2, _M), (1, _M), (2, 2))
  def test_what_would_flow_anyway_changes_nothing(self, depth, count):
    bank = _bank()
    layers = self._states(bank)["intermediates"]["encoder"]["layers"]
    deep = np.stack([
        np.asarray(layers[str(layer)]["__call__"][0])[0, 1:1 + count]
        for layer in range(depth)])
    for encode in self._encoders(max_groups=1):
      expected = encode(self.context)
      np.testing.assert_allclose(
          encode(self.context, deep=deep), expected, atol=1e-12)
      other = encode(self.context, deep=deep + _random(8)[None, None])
      self.assertGreater(np.abs(other - expected).max(), 1e-4)

  def test_each_token_is_replaced(self):
    """With all of them replaced, the context feeds the layer before alone."""
    for encode in self._encoders(max_groups=1):
      deep = _random(1, _M, 8, seed=6)
      base = encode(self.context, deep=deep)
      for token in range(_M):
        other = deep.copy()
        other[0, token] += _random(8)
        moved = encode(self.context, deep=other)
        self.assertGreater(np.abs(moved - base).max(), 1e-3)

  def test_jit_takes_them_as_an_argument(self):
    encode, plain = self._encoders(max_groups=1)
    with_deep = quick.jit(lambda e, c, d: e(c, deep=d))
    for seed in (6, 7):
      deep = _random(2, _M, 8, seed=seed)
      np.testing.assert_allclose(
          with_deep(encode, self.context, deep), plain(self.context, deep=deep),
          atol=1e-10)

  @pytest.mark.slow
  def test_half_precision(self):
    half = prefix.context_encoder(
        self.config, _params(jnp.bfloat16, self.config), _bank(), max_groups=1)
    deep = np.float32(_random(2, _M, 8, seed=6))
    features = half(self.context, deep=deep)
    self.assertEqual(features.dtype, jnp.float32)
    np.testing.assert_allclose(
        features, self._encoders()[1](self.context, deep=deep), atol=0.1)

  @parameterized.parameters((3, _M, 8), (2, _M + 1, 8), (2, _M, 7), (_M, 8))
  def test_what_does_not_fit(self, *shape):
    for encode in self._encoders():
      with self.assertRaisesRegex(
          ValueError, r"\[e, n, 8\] expected, with e up to 2 and n up to 3"):
        encode(self.context, deep=np.zeros(shape))

  def test_only_before_the_name(self):
    ours, plain = self._encoders(in_front=1)
    deep = _random(1, 2, 8)
    self.assertEqual(plain(self.context, deep=deep).shape, (_CLASSES, 5))
    with self.assertRaisesRegex(ValueError, "n up to 1, "):
      ours(self.context, deep=deep)


class CausalityTest(parameterized.TestCase):

  @parameterized.parameters(True, False)
  def test_what_the_plain_tower_sees(self, causal):
    config = dataclasses.replace(_CONFIG, causal=causal)
    params = _params(jnp.float32, config)
    features = quick.jit(
        lambda x: towers.text_features(config, params, x, np.array([4])))
    tokens = _random(1, 9, 8)
    changed = np.stack([tokens, tokens])
    other = _random(1, 9, 8, seed=2)
    changed[0, :, 5:], changed[1, :, 3] = other[:, 5:], other[:, 3]
    base, *moved = map(np.asarray, map(features, (tokens, *changed)))
    later, earlier = (one - base for one in moved)
    self.assertGreater(np.abs(earlier).max(), 1e-3)
    if causal:
      np.testing.assert_array_equal(later, 0)
    else:
      self.assertGreater(np.abs(later).max(), 1e-3)

  def test_a_tower_that_looks_ahead_is_refused(self):
    config = dataclasses.replace(_CONFIG, causal=False)
    with self.assertRaisesRegex(
        ValueError, "only in a causal.*use prompts.context_encoder"):
      prefix.context_encoder(config, _params(jnp.float32), _bank())


class MemoryTest(absltest.TestCase):

  @pytest.mark.slow
  def test_chunks_bound_what_the_gradient_needs(self):
    def temporary(num_classes, classes_per_chunk, longer=0):
      bank = _bank((4,) * num_classes + (16,) * longer)
      encode = prefix.context_encoder(
          _CONFIG, _params(jnp.float32), bank,
          classes_per_chunk=classes_per_chunk)
      program = quick.jit(
          lambda encode, context: jax.grad(lambda c: encode(c).sum())(context))
      lowered = program.lower(encode, jnp.ones((_M, 8)))
      return lowered.compile().memory_analysis().temp_size_in_bytes

    self.assertLess(temporary(64, 4), 1.5 * temporary(8, 4))
    self.assertGreater(temporary(64, None), 3 * temporary(8, None))
    # Neither groups nor what their chunks leave over are on top of it.
    self.assertLess(temporary(61, 4, longer=13), 1.5 * temporary(0, 4, 8))


class ClassesWithinTest(parameterized.TestCase):

  def test_monotone_and_at_least_one(self):
    bank = _bank()
    budgets = [1, 10**4, 10**5, 10**6, 10**9]
    fits = [prefix.classes_within(_CONFIG, bank, max_bytes=b) for b in budgets]
    self.assertEqual(fits, sorted(fits))
    self.assertEqual(fits[0], 1)
    self.assertGreater(fits[-1], fits[-2])
    more = [
        prefix.classes_within(_CONFIG, bank, max_bytes=10**7, num_contexts=n)
        for n in (1, 4, 64)]
    self.assertEqual(more, sorted(more, reverse=True))
    self.assertLess(more[-1], more[0])
    short = _bank((1, 2))
    self.assertGreater(
        prefix.classes_within(_CONFIG, short, max_bytes=10**7), more[0])

  @parameterized.parameters((0, 1), (-1, 1), (1, 0))
  def test_errors(self, max_bytes, num_contexts):
    with self.assertRaisesRegex(ValueError, "of 1 or more"):
      prefix.classes_within(_CONFIG, _bank(), max_bytes=max_bytes,
                            num_contexts=num_contexts)


class GroupLengthsTest(parameterized.TestCase):

  @parameterized.product(seed=(0, 1, 2), max_groups=(1, 2, 3, 4))
  def test_against_all_choices(self, seed, max_groups):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 9 if seed else 30, 12)
    padded = lambda to: sum(min(p for p in to if p >= n) for n in lengths)
    values = sorted(set(map(int, lengths)))
    best = min(
        padded(choice) for count in range(1, max_groups + 1)
        for choice in itertools.combinations(values, min(count, len(values)))
        if choice[-1] == values[-1])
    chosen = prefix.group_lengths(lengths, max_groups)
    self.assertLessEqual(len(chosen), max_groups)
    self.assertEqual(chosen, sorted(chosen))
    self.assertEqual(padded(chosen), best)

  def test_one_length_is_one_group(self):
    self.assertEqual(prefix.group_lengths(np.array([5, 5, 5]), 4), [5])


if __name__ == "__main__":
  absltest.main()
