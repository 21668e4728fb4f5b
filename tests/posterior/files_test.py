"""A posterior's folder: what is written comes back, damage is named."""

import json
import pathlib

from absl.testing import absltest
import numpy as np
from scipy import optimize

from jaxcal.posterior import curvature
from jaxcal.posterior import files
from jaxcal.posterior import laplace


def _factors(rng, p, d, num_pairs=50):
  square = lambda size: (lambda x: np.float32(x @ x.T))(
      rng.standard_normal((size, 2 * size)))
  return curvature.Factors(square(p), square(d), num_pairs)


class FilesTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    self.found = files.fitted(
        {"image": _factors(rng, 5, 3), "text": _factors(rng, 4, 3)},
        {"model": "tiny", "model_fingerprint": "abc",
         "weight_norm2": {"image": 2.5, "text": 1.5}})
    self.evidence = files.maximise_evidence(self.found, 4.0)
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    files.write(self.folder, self.found, self.evidence)

  def test_what_is_written_comes_back(self):
    found = files.read(self.folder)
    for side in files.SIDES:
      for ours, theirs in zip(self.found.factors[side], found.factors[side]):
        np.testing.assert_array_equal(ours, theirs)
      for ours, theirs in zip(self.found.spectra[side], found.spectra[side]):
        np.testing.assert_array_equal(ours, theirs)
    self.assertEqual(found.manifest["weight_norm2"]["image"], 2.5)
    posterior, about = laplace.load(self.folder / "posterior")
    self.assertEqual(about["pseudo_count"], 4.0)
    self.assertEqual(about["model_fingerprint"], "abc")
    again = files.posterior(found, self.evidence)
    for side in files.SIDES:
      for ours, theirs in zip(getattr(posterior, side), getattr(again, side)):
        np.testing.assert_array_equal(ours, theirs)

  def test_posterior_is_the_inverse_of_the_damped_factors(self):
    posterior = files.posterior(self.found, self.evidence)
    for side in files.SIDES:
      prior = np.sqrt(self.evidence.prior_precision[side])
      for matrix, inverse in zip(self.found.factors[side],
                                 getattr(posterior, side)):
        precision = 2.0 * matrix + prior * np.eye(len(matrix))  # sqrt(4) = 2
        np.testing.assert_allclose(
            inverse, np.linalg.inv(precision), rtol=1e-3, atol=1e-6)

  def test_prior_precision_maximises_the_dense_evidence(self):
    # With the determinant of the whole Kronecker product, not its spectra.
    a, b, _ = self.found.factors["text"]

    def negative(log_prior):
      root = np.exp(log_prior / 2)
      whole = np.kron(2.0 * np.float64(a) + root * np.eye(4),
                      2.0 * np.float64(b) + root * np.eye(3))
      return (0.5 * np.exp(log_prior) * 1.5 - 0.5 * 12 * log_prior +
              0.5 * np.linalg.slogdet(whole)[1])

    best = optimize.minimize_scalar(
        negative, bounds=(-10, 10), method="bounded",
        options={"xatol": 1e-10})
    self.assertAlmostEqual(
        np.log(self.evidence.prior_precision["text"]), best.x, places=4)

  def test_a_folder_without_posterior_says_who_writes_one(self):
    with self.assertRaisesRegex(FileNotFoundError, "jaxcal posterior fit"):
      files.read(self.create_tempdir().full_path)

  def test_damage_is_named(self):
    path = self.folder / "factors.npz"
    path.write_bytes(path.read_bytes()[:100])
    with self.assertRaisesRegex(ValueError, "damaged.*fit or import"):
      files.read(self.folder)

  def test_factor_of_another_size_is_named(self):
    with np.load(self.folder / "factors.npz") as arrays:
      content = dict(arrays)
    content["image/a"] = np.eye(6)
    np.savez(self.folder / "factors.npz", **content)
    with self.assertRaisesRegex(
        ValueError, r"image factor a is \[6, 6\].*5 eigenvalues"):
      files.read(self.folder)

  def test_manifest_of_another_version_is_refused(self):
    path = self.folder / "manifest.json"
    path.write_text(json.dumps(
        json.loads(path.read_text()) | {"format_version": 99}))
    with self.assertRaisesRegex(ValueError, "format version 1"):
      files.read(self.folder)

  def _put(self, file, name, value):
    with np.load(self.folder / file) as arrays:
      content = dict(arrays)
    np.savez(self.folder / file, **content | {name: value})

  def test_numbers_that_are_none(self):
    for file, name, value in (
        ("factors.npz", "image/a", np.full((5, 5), np.nan)),
        ("factors.npz", "image/a", np.full((5, 5), "x")),
        ("factors.npz", "text/num_pairs", np.ones((2, 2))),
        ("spectra.npz", "text/a", np.full(4, -1.0)),
        ("spectra.npz", "text/a", np.full(4, np.inf))):
      files.write(self.folder, self.found, self.evidence)
      self._put(file, name, value)
      with self.assertRaisesRegex(ValueError, "is damaged.*fit or import"):
        files.read(self.folder)

  def test_norms_that_are_none(self):
    path = self.folder / "manifest.json"
    sound = json.loads(path.read_text())
    for norms in (3, {}, {"image": 1.0}, {"image": 1.0, "text": "x"},
                  {"image": -1.0, "text": 1.0}):
      path.write_text(json.dumps(sound | {"weight_norm2": norms}))
      with self.assertRaisesRegex(ValueError, "lacks numbers in weight_norm2"):
        files.read(self.folder)

  def test_both_sides_are_needed(self):
    with self.assertRaisesRegex(ValueError, "image, text expected.*got image"):
      files.fitted({"image": self.found.factors["image"]}, {})

  def test_pseudo_count_must_be_positive(self):
    with self.assertRaisesRegex(ValueError, "pseudo_count"):
      files.maximise_evidence(self.found, 0.0)


if __name__ == "__main__":
  absltest.main()
