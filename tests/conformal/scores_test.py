"""Scores: by hand, by loops, and as the stored ones of other libraries."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.conformal import scores

_KINDS = {"aps": scores.adaptive, "raps": scores.regularised_adaptive,
          "saps": scores.sorted_adaptive}


def _by_loop(kind, row, u, *, penalty=0.001, free_rank=1, weight=0.2):
  """Of the row's classes, one after the other."""
  order = sorted(range(len(row)), key=lambda c: (-row[c], c))
  found, mass = np.zeros(len(row)), 0.0
  for rank, c in enumerate(order, start=1):
    mass += row[c]
    if kind == "saps":
      found[c] = ((1 - u) * row[c] if rank == 1 else
                  max(row) + weight * (rank - 1 - u))
    else:
      extra = penalty * max(0, rank - free_rank) if kind == "raps" else 0
      found[c] = mass - u * row[c] + extra
  return found


class ScoresTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.enter_context(jax.enable_x64(True))
    rng = np.random.default_rng(0)
    self.probabilities = rng.dirichlet(np.full(7, 0.3), 50)
    self.uniforms = rng.uniform(size=50)

  def test_least_ambiguous(self):
    np.testing.assert_array_equal(
        scores.least_ambiguous(self.probabilities), 1 - self.probabilities)

  @parameterized.product(kind=list(_KINDS), randomised=(True, False))
  def test_equal_loops_also_where_classes_are_as_likely(self, kind, randomised):
    rows = np.concatenate([self.probabilities, np.full((1, 7), 1 / 7),
                           [[.1, .3, .1, .3, 0, 0, .2]]])
    uniforms = np.append(self.uniforms, [.3, .6])
    found = _KINDS[kind](rows, uniforms if randomised else None)
    np.testing.assert_allclose(found, [
        _by_loop(kind, row, u if randomised else 0)
        for row, u in zip(rows, uniforms)], atol=1e-14)

  def test_other_numbers(self):
    args = self.probabilities, self.uniforms
    for kind, given in (("raps", {"penalty": 0.1, "free_rank": 3}),
                        ("saps", {"weight": 0.5})):
      np.testing.assert_allclose(
          _KINDS[kind](*args, **given),
          [_by_loop(kind, *one, **given) for one in zip(*args)], atol=1e-14)

  def test_what_they_have_in_common(self):
    args = self.probabilities, self.uniforms
    np.testing.assert_allclose(
        scores.regularised_adaptive(*args, penalty=0.0),
        scores.adaptive(*args), rtol=0, atol=1e-15)
    top = self.probabilities.argmax(1)[:, None]
    for score in (scores.adaptive, scores.sorted_adaptive):
      found = np.take_along_axis(
          np.asarray(score(args[0], np.ones(50))), top, axis=1)
      np.testing.assert_allclose(found, 0, atol=1e-15)

  def test_saps_sees_only_the_highest_probability_and_ranks(self):
    ranked = jnp.asarray([[.5, .3, .15, .05], [.5, .2, .19, .11]])
    one, other = scores.sorted_adaptive(ranked, np.full(2, 0.7))
    np.testing.assert_array_equal(one, other)

  def test_permuted_classes_and_leading_axes(self):
    order = np.random.default_rng(1).permutation(7)
    for name, score in scores.SCORES.items():
      logs = np.log(self.probabilities)
      found = np.asarray(score(logs, self.uniforms))
      np.testing.assert_allclose(
          score(logs[:, order], self.uniforms), found[:, order], rtol=1e-12,
          err_msg=name)
      folded = score(logs.reshape(5, 10, 7), self.uniforms.reshape(5, 10))
      np.testing.assert_array_equal(folded.reshape(50, 7), found)

  def test_least_ambiguous_by_name_does_not_underflow(self):
    logs = jnp.asarray([[0.0, -800.0, -900.0]])
    found = scores.SCORES["lac"](logs, jnp.zeros(1))
    self.assertLess(found[0, 1], found[0, 2])

  def test_half_precision_is_widened(self):
    for score in (scores.least_ambiguous, *_KINDS.values()):
      found = score(jnp.asarray(self.probabilities, jnp.bfloat16))
      self.assertEqual(found.dtype, jnp.float32)

  def test_uniform_numbers_are_one_per_image(self):
    for score in _KINDS.values():
      with self.assertRaisesRegex(ValueError, r"shape \(50,\), but.*\(7,\)"):
        score(self.probabilities, self.uniforms[:7])


if __name__ == "__main__":
  absltest.main()
