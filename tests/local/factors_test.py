"""Kronecker factors released with BayesVLM, and what was published of them."""

import importlib.util
import json
import unittest

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from jaxcal.posterior import laplace
from jaxcal.posterior import marginal
from jaxcal.posterior import released
from tests import shared

_FOLDER = shared.path("data/bayesvlm_factors")
if importlib.util.find_spec("torch") is None:
  raise unittest.SkipTest("no torch to read the factors with")

_SIDES = ("img", "txt")


def _oracle():
  return shared.arrays("oracles/bayesvlm/bayesvlm_oracle.npz")


class FactorsTest(parameterized.TestCase):

  def test_read(self):
    got = released.read_folder(_FOLDER)
    self.assertEqual(
        [matrix.shape[0] for side in (got.image, got.text)
         for matrix in (side.a, side.b)], [768, 512, 512, 512])
    self.assertEqual(got.image.num_pairs, 327_680)
    np.testing.assert_allclose(
        list(got.prior.values()), [1708.94519, 1, 1255.33423, 1], rtol=1e-8)
    self.assertEqual(got.asymmetry["A_img_analytic.pt"], 0)
    self.assertBetween(got.asymmetry["B_img_analytic.pt"], 1e-8, 1e-6)
    for side in (got.image, got.text):
      np.testing.assert_array_equal(side.b, side.b.T)
    stored = _oracle()
    for key, matrix in (("A_img", got.image.a), ("B_img", got.image.b),
                        ("A_txt", got.text.a), ("B_txt", got.text.b)):
      spectrum = stored[f"b32.eig_{key}"]
      matrix = np.asarray(matrix, np.float64)
      np.testing.assert_allclose(np.trace(matrix), spectrum.sum(), rtol=1e-6)
      np.testing.assert_allclose(np.sum(matrix**2), np.sum(spectrum**2),
                                 rtol=1e-6)

    layer = laplace.kronecker_posterior(
        got.image, pseudo_count=4, prior_precision=3575.3)
    eye = np.asarray(layer.b_inv, np.float64) @ (
        2 * np.asarray(got.image.b, np.float64) + np.sqrt(3575.3) * np.eye(512))
    np.testing.assert_allclose(eye, np.eye(512), atol=1e-5)

  @parameterized.parameters(
      ("corrected", 10, 3913.3015, 4180.8232),
      ("superseded", 1, 1708.9452, 1255.3342))
  def test_published_prior_precisions(self, form, count, *published):
    import torch
    norms = _oracle()["b32.wnorm2_inferred"]
    found = []
    for side, norm in zip(_SIDES, norms):
      eig_a, eig_b = (
          marginal.spectrum(torch.load(
              _FOLDER / f"{name}_{side}_analytic.pt", weights_only=True,
              map_location="cpu").numpy())
          for name in "AB")
      found.append(marginal.fit_prior_precision(
          eig_a, eig_b, weight_norm2=norm, pseudo_count=count, form=form))
    np.testing.assert_allclose(found, published, rtol=3e-4)
    if form == "superseded":
      stored = json.loads(
          (_FOLDER / "prior_precision_analytic.json").read_text("utf-8"))
      np.testing.assert_allclose(
          found, [stored["lambda_img"], stored["lambda_txt"]], rtol=3e-4)


if __name__ == "__main__":
  absltest.main()
