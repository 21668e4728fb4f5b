import hashlib
import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.posterior import curvature
from jaxcal.posterior import laplace
from jaxcal.storage import atomic
from tests import quick
from tests import shared


class KroneckerPosteriorTest(parameterized.TestCase):

  @parameterized.parameters("clip", "siglip")
  def test_recorded_inverses(self, name):
    path = shared.path("oracles/bayesvlm") / "bayesvlm_oracle.npz"
    with np.load(path) as stored, jax.enable_x64(True):
      number = lambda key: float(stored[f"{name}.{key}"])
      for side in ("img", "txt"):
        for ending, dtype in (("", np.float64), ("_f32", np.float32)):
          array = lambda key: stored[f"{name}.{key}_{side}{ending}"]
          got = laplace.kronecker_posterior(
              curvature.Factors(array("A"), array("B"), 1),
              pseudo_count=number("tau"),
              prior_precision=number(f"lambda_{side}"))
          for matrix, expected in ((got.a_inv, array("A_inv")),
                                   (got.b_inv, array("B_inv"))):
            self.assertEqual(matrix.dtype, dtype)
            np.testing.assert_allclose(matrix, expected, rtol=1e-5, atol=1e-7)
            np.testing.assert_array_equal(matrix, matrix.T)

  def test_by_hand(self):
    # sqrt(4) * 3 + sqrt(4) = 8 and sqrt(4) * 1 + sqrt(4) = 4.
    got = laplace.kronecker_posterior(
        curvature.Factors(3 * np.eye(2, dtype=np.float32),
                          np.eye(3, dtype=np.float32), 10),
        pseudo_count=4, prior_precision=4)
    np.testing.assert_allclose(got.a_inv, np.eye(2) / 8, rtol=1e-6)
    np.testing.assert_allclose(got.b_inv, np.eye(3) / 4, rtol=1e-6)

  def test_directions_without_curvature_and_asymmetry(self):
    a = np.diag([2.0, -1e-7]).astype(np.float32)
    b = np.array([[1.0, 0.2], [0.0, 1.0]], np.float32)
    got = laplace.kronecker_posterior(
        curvature.Factors(a, b, 1), pseudo_count=1, prior_precision=9)
    np.testing.assert_allclose(got.a_inv, np.diag([1 / 5, 1 / 3]), rtol=1e-5)
    np.testing.assert_allclose(
        got.b_inv, np.linalg.inv([[4.0, 0.1], [0.1, 4.0]]), rtol=1e-5)

  def test_many_prior_precisions_at_once(self):
    factors = _factors()
    several = quick.jit(jax.vmap(
        lambda precision: laplace.kronecker_posterior(
            factors, pseudo_count=10, prior_precision=precision)))(
                jnp.array([1.0, 50.0]))
    one = laplace.kronecker_posterior(
        factors, pseudo_count=10, prior_precision=50.0)
    np.testing.assert_allclose(several.a_inv[1], one.a_inv, rtol=1e-5)

  @parameterized.parameters(0, -1.0, float("nan"), float("inf"))
  def test_numbers_must_be_positive(self, value):
    with self.assertRaisesRegex(ValueError, f"pseudo_count .* is {value}"):
      laplace.kronecker_posterior(_factors(), pseudo_count=value,
                                  prior_precision=1.0)
    with self.assertRaisesRegex(ValueError, f"prior_precision .* is {value}"):
      laplace.kronecker_posterior(_factors(), pseudo_count=1.0,
                                  prior_precision=value)

  def test_strange_factors(self):
    eye = np.eye(3, dtype=np.float32)
    for a, b, message in (
        (np.ones((2, 3), np.float32), eye, r"factor a .* square.*\(2, 3\)"),
        (eye, np.ones(3, np.float32), r"factor b .* square.*\(3,\)"),
        (eye, np.nan * eye, "factor b .* not finite"),
        (-2 * eye, eye, "factor a has eigenvalues .* below zero")):
      with self.assertRaisesRegex(ValueError, message):
        laplace.kronecker_posterior(
            curvature.Factors(a, b, 1), pseudo_count=1, prior_precision=1)


class CheckTest(absltest.TestCase):

  def test_sizes_of_a_model(self):
    posterior = laplace.Posterior(
        laplace.deterministic(5, 3), laplace.deterministic(4, 3))
    laplace.check(posterior, image=(5, 3), text=(4, 3))
    laplace.check(posterior, image=(4, 3), text=(3, 3))  # with biases
    for image, text, message in (
        ((6, 3), (4, 3), r"image projection has 6 inputs \(or 7 with a bias\) "
                         "and 3 outputs, but .* over 5 inputs and 3 outputs"),
        ((5, 3), (4, 2), "text projection has 4 inputs .* and 2 outputs, but "
                         ".* over 4 inputs and 3 outputs")):
      with self.assertRaisesRegex(ValueError, message):
        laplace.check(posterior, image=image, text=text)


class FileTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.path = pathlib.Path(self.create_tempdir()) / "new" / "ViT-B.32"

  def test_there_and_back(self):
    layer = laplace.kronecker_posterior(
        _factors(), pseudo_count=10, prior_precision=3)
    posterior = laplace.Posterior(layer, laplace.deterministic(5, 3))
    about = {"model": "ViT-B/32", "prior_precision": {"image": 3.5}, "s": "µ"}
    laplace.save(self.path, posterior, about)
    self.assertEqual({path.name for path in self.path.parent.iterdir()},
                     {"ViT-B.32.npz", "ViT-B.32.json"})
    got, got_about = laplace.load(self.path)
    jax.tree.map(np.testing.assert_array_equal, got, posterior)
    self.assertEqual(got_about, about)
    self.assertIsInstance(got.image, laplace.Layer)

  def test_same_bytes(self):
    for name in ("a", "b"):
      laplace.save(self.path.with_name(name), _posterior(), {"x": 1})
    read = lambda name: [
        (self.path.with_name(name + ending)).read_bytes()
        for ending in (".npz", ".json")]
    self.assertEqual(read("a"), read("b"))

  def test_missing_files(self):
    with self.assertRaisesRegex(FileNotFoundError, "ViT-B.32.npz"):
      laplace.load(self.path)
    laplace.save(self.path, _posterior(), {})
    (self.path.parent / "ViT-B.32.json").unlink()
    with self.assertRaisesRegex(FileNotFoundError, "ViT-B.32.json"):
      laplace.load(self.path)

  def test_files_of_two_posteriors(self):
    laplace.save(self.path, _posterior(), {"number": 1})
    arrays = self.path.parent / "ViT-B.32.npz"
    before = arrays.read_bytes()
    laplace.save(self.path, _posterior(size=4), {"number": 2})
    arrays.write_bytes(before)
    with self.assertRaisesRegex(ValueError, "not the file that .*json"):
      laplace.load(self.path)

  @parameterized.named_parameters(
      ("shape", "a_inv", np.ones((2, 3)), r"image.a_inv .* square.*\(2, 3\)"),
      ("infinite", "b_inv", np.diag([1, np.inf]), "image.b_inv .* not finite"),
      ("asymmetric", "a_inv", np.array([[1, 0.1], [0, 1]]),
       "image.a_inv is not symmetric.* by 0.1"),
      ("negative", "b_inv", np.diag([1.0, -0.5]), "variance of -0.5"),
      ("half_zero", "b_inv", np.diag([1.0, 0]), "variance of 0; .* positive"),
      ("integers", "b_inv", np.eye(2, dtype=int), "floating point, .* int64"))
  def test_what_is_no_covariance(self, name, matrix, message):
    sound = _posterior()
    broken = sound._replace(image=sound.image._replace(**{name: matrix}))
    with self.assertRaisesRegex(ValueError, message):
      laplace.save(self.path, broken, {})
    self.assertFalse(self.path.parent.exists())
    # The same in a file from elsewhere.
    arrays = {f"{side}.{key}": value
              for side, layer in broken._asdict().items()
              for key, value in layer._asdict().items()}
    self._write(arrays)
    with self.assertRaisesRegex(ValueError, message):
      laplace.load(self.path)

  def test_missing_matrix_and_pickles(self):
    self._write({"image.a_inv": np.eye(2)})
    with self.assertRaisesRegex(ValueError, "no matrix 'image.b_inv'; found: "
                                "image.a_inv"):
      laplace.load(self.path)
    self._write({"image.a_inv": np.array([{}], dtype=object)})
    with self.assertRaisesRegex(ValueError, "allow_pickle=False"):
      laplace.load(self.path)

  def test_the_file_is_named(self):
    for value, message in ((np.full((2, 2), 1e300), "not finite"),
                           (np.full((2, 2), "x"), "must be floating point")):
      self._write({"image.a_inv": value})
      with self.assertRaisesRegex(
          ValueError, f"{self.path.name}.npz is damaged.*{message}.*Remove"):
        laplace.load(self.path)
    self._write({"image.a_inv": np.eye(2)})
    about = self.path.with_name(f"{self.path.name}.json")
    about.write_text('{"about": 3}')
    with self.assertRaisesRegex(ValueError, "says nothing about it"):
      laplace.load(self.path)

  def test_failed_write_leaves_the_old_file(self):
    laplace.save(self.path, _posterior(), {"number": 1})
    with self.assertRaises(TypeError):
      laplace.save(self.path, _posterior(), {"number": object()})
    with self.assertRaises(ValueError):
      laplace.save(self.path, _posterior(), {"number": float("nan")})
    self.assertEqual(laplace.load(self.path)[1], {"number": 1})

  def _write(self, arrays):
    self.path.parent.mkdir(exist_ok=True)
    laplace.write_arrays(f"{self.path}.npz", arrays)
    content = pathlib.Path(f"{self.path}.npz").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    atomic.write_whole(f"{self.path}.json", json.dumps(
        {"about": {}, "sha256": digest}).encode())


def _factors():
  rng = np.random.default_rng(0)
  square = lambda n: rng.normal(size=(2 * n, n)).astype(np.float32)
  a, b = square(5), square(3)
  return curvature.Factors(a.T @ a, b.T @ b, 100)


def _posterior(size=2):
  layer = laplace.Layer(np.eye(size, dtype=np.float32),
                        np.eye(2, dtype=np.float32))
  return laplace.Posterior(layer, layer)


if __name__ == "__main__":
  absltest.main()
