"""Prior precisions against released numbers, dense determinants and scipy."""

import math

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from scipy import optimize

from jaxcal.posterior import marginal
from tests import shared

_RELEASED = {"corrected": "new", "superseded": "old"}
_SIDES = ("img", "txt")
# By form and pseudo-data count; image and text side.
_PUBLISHED = {("corrected", 10): (3913.3015, 4180.8232),
              ("superseded", 1): (1708.9452, 1255.3342)}


def _oracle():
  return shared.arrays("oracles/bayesvlm/bayesvlm_oracle.npz")


def _factor(seed, size, rank):
  rows = np.random.default_rng(seed).normal(size=(rank, size))
  return rows.T @ rows


def _dense_objective(log_precision, a, b, weight_norm2, count):
  """With the determinant of the whole precision matrix."""
  precision = math.exp(log_precision)
  dense = np.kron(
      math.sqrt(count) * a + math.sqrt(precision) * np.eye(len(a)),
      math.sqrt(count) * b + math.sqrt(precision) * np.eye(len(b)))
  return (-precision * weight_norm2 / 2 + len(dense) * log_precision / 2
          - np.linalg.slogdet(dense)[1] / 2)


class SpectrumTest(parameterized.TestCase):

  def test_symmetric_and_clipped(self):
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    matrix = rotation @ np.diag([-1e-6, 0.5, 2.0, 30.0]) @ rotation.T
    skew = np.triu(np.ones((4, 4)), 1)
    values = marginal.spectrum(matrix + skew - skew.T)
    np.testing.assert_allclose(values, [0, 0.5, 2, 30], atol=1e-13)
    self.assertEqual(values[0], 0)
    self.assertEqual(marginal.spectrum(np.eye(2, dtype=np.float32)).dtype,
                     np.float64)
    np.testing.assert_array_equal(marginal.spectrum(np.zeros((3, 3))), 0)

  def test_errors(self):
    for matrix, message in (
        (np.ones((2, 3)), r"square.*\(2, 3\)"),
        (np.ones((0, 0)), "square"),
        (np.array([[1, np.nan], [0, 1]]), "not finite"),
        (np.diag([-0.1, 1.0]), r"semi-definite.*-0.1 to 1"),
        (-np.eye(2), "semi-definite")):
      with self.assertRaisesRegex(ValueError, message):
        marginal.spectrum(matrix)


class MarginalLikelihoodTest(parameterized.TestCase):

  @parameterized.product(case=("clip", "siglip"), side=_SIDES,
                         count=(1, 4, 10), form=marginal.FORMS)
  def test_released(self, case, side, count, form):
    arrays = _oracle()
    eig_a, eig_b = (marginal.spectrum(arrays[f"{case}.{name}_{side}"])
                    for name in "AB")
    given = {"weight_norm2": float(arrays[f"{case}.wnorm2_{side}"]),
             "pseudo_count": count, "form": form}
    stored = f"{case}.{_RELEASED[form]}.{side}.tau{count}."
    self.assertEqual(
        len(eig_a) * len(eig_b), arrays[f"{case}.num_params_{side}"])
    np.testing.assert_allclose(
        [marginal.log_marginal_likelihood(precision, eig_a, eig_b, **given)
         for precision in arrays[f"{case}.lambda_grid"]],
        arrays[stored + "objective"], rtol=1e-6)
    found = marginal.fit_prior_precision(eig_a, eig_b, **given)
    np.testing.assert_allclose(
        found, arrays[stored + "lambda_exact"], rtol=1e-5)

  @parameterized.product(count=(0.1, 1, 30), rank=(2, 12))
  def test_scipy_and_the_dense_determinant(self, count, rank):
    a, b = _factor(0, 7, rank), _factor(1, 4, rank)
    eig_a, eig_b = marginal.spectrum(a), marginal.spectrum(b)
    given = {"weight_norm2": 0.7, "pseudo_count": count}
    for log_precision in (-3.0, 0.0, 4.0):
      np.testing.assert_allclose(
          marginal.log_marginal_likelihood(
              math.exp(log_precision), eig_a, eig_b, **given),
          _dense_objective(log_precision, a, b, 0.7, count), rtol=1e-10)
    dense = optimize.minimize_scalar(
        lambda x: -_dense_objective(x, a, b, 0.7, count), bounds=(-10, 10),
        method="bounded", options={"xatol": 1e-9})
    np.testing.assert_allclose(
        marginal.fit_prior_precision(eig_a, eig_b, **given),
        math.exp(dense.x), rtol=1e-5)

  @parameterized.product(form=marginal.FORMS, count=(1e-6, 1, 1e6),
                         size=(1e-9, 1, 1e9))
  def test_no_better_neighbour(self, form, count, size):
    """Also far from where a search would start."""
    eig_a, eig_b = (size * marginal.spectrum(_factor(seed, 5, 9))
                    for seed in (0, 1))
    given = {"weight_norm2": 3.0, "pseudo_count": count, "form": form}
    found = marginal.fit_prior_precision(eig_a, eig_b, **given)
    at = lambda precision: marginal.log_marginal_likelihood(
        precision, eig_a, eig_b, **given)
    self.assertGreater(at(found), at(found * 0.99))
    self.assertGreater(at(found), at(found * 1.01))

  @parameterized.parameters(*_PUBLISHED)
  def test_published_from_stored_spectra(self, form, count):
    arrays = _oracle()
    found = [
        marginal.fit_prior_precision(
            np.maximum(arrays[f"b32.eig_A_{side}"], 0),
            np.maximum(arrays[f"b32.eig_B_{side}"], 0),
            weight_norm2=norm, pseudo_count=count, form=form)
        for side, norm in zip(_SIDES, arrays["b32.wnorm2_inferred"])]
    np.testing.assert_allclose(found, _PUBLISHED[form, count], rtol=3e-4)

  @parameterized.parameters(
      ({"pseudo_count": 0}, "pseudo_count must be above 0 .* is 0"),
      ({"pseudo_count": math.nan}, "pseudo_count must be above 0 .* is nan"),
      ({"weight_norm2": -1.0}, "weight_norm2 must be above 0 .* is -1.0"),
      ({"weight_norm2": math.inf}, "weight_norm2 must be .* finite"),
      ({"eig_a": [1.0, -2.0]}, "in eig_a 1 of 2 are not, the first -2.0"),
      ({"eig_b": [math.nan]}, "in eig_b 1 of 1 are not, the first nan"),
      ({"eig_b": [[1.0]]}, r"eig_b .* shape \[p\], but .* \(1, 1\)"),
      ({"eig_a": []}, "eig_a"),
      ({"form": "new"}, "'new'; choose from: corrected, superseded"))
  def test_errors(self, changed, message):
    given = {"eig_a": [1.0, 2.0], "eig_b": [3.0], "weight_norm2": 1.0,
             "pseudo_count": 1.0, **changed}
    with self.assertRaisesRegex(ValueError, message):
      marginal.fit_prior_precision(**given)
    with self.assertRaisesRegex(ValueError, message):
      marginal.log_marginal_likelihood(1.0, **given)

  def test_prior_precision_above_zero(self):
    with self.assertRaisesRegex(ValueError, "prior_precision .* is 0"):
      marginal.log_marginal_likelihood(
          0.0, [1.0], [1.0], weight_norm2=1.0, pseudo_count=1.0)

  @parameterized.parameters("corrected", "superseded")
  def test_no_maximum(self, form):
    with self.assertRaisesRegex(ValueError, r"no maximum.*up to 0 \(A\)"):
      marginal.fit_prior_precision(
          np.zeros(4), np.zeros(3), weight_norm2=1.0, pseudo_count=1.0,
          form=form)

  def test_one_factor_suffices(self):
    # lam |W|^2 = (d / 2) / (1 + sqrt(lam)), so that lam + lam^1.5 = 3.
    found = marginal.fit_prior_precision(
        [1.0], np.zeros(6), weight_norm2=1.0, pseudo_count=1.0)
    np.testing.assert_allclose(found ** 1.5 + found, 3, rtol=1e-12)


class GridSearchTest(parameterized.TestCase):

  def test_lowest(self):
    found = marginal.grid_search(
        [1, 4, 10], [None, 5.0],
        lambda count, precision: abs(count - 3) + (precision or 0.25))
    self.assertEqual((found.pseudo_count, found.prior_precision), (4, None))
    np.testing.assert_array_equal(
        found.scores, [[2.25, 7], [1.25, 6], [7.25, 12]])

  def test_first_of_equals(self):
    found = marginal.grid_search([7, 8], [1.0, 2.0], lambda *_: 0.0)
    self.assertEqual((found.pseudo_count, found.prior_precision), (7, 1.0))

  def test_errors(self):
    with self.assertRaisesRegex(ValueError, "at least one candidate"):
      marginal.grid_search([], [1.0], lambda *_: 0.0)
    with self.assertRaisesRegex(
        ValueError, "pseudo count 2 and prior precision None is NaN"):
      marginal.grid_search(
          [1, 2], [3.0, None],
          lambda count, precision:
          math.nan if (count, precision) == (2, None) else 0.0)


if __name__ == "__main__":
  absltest.main()
