import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
from jax.extend import core
import jax.numpy as jnp
import numpy as np
import scipy.stats

from jaxcal.posterior import laplace
from jaxcal.posterior import predictive
from tests import error_bars
from tests import quick
from tests import shared
from tests.posterior import exact

_CASES = ("clip", "siglip")
_SIDES = ("both", "image", "text")
_FORMS = (predictive.prob_cosine, predictive.prob_cosine_full,
          predictive.prob_cosine_tangent)
_OVER_IMAGES = (0, None, None, None)

_over_images = {
    form: jax.jit(jax.vmap(form, _OVER_IMAGES)) for form in _FORMS}
_probit_softmax = quick.jit(jax.vmap(predictive.probit_softmax))
_coordinate_variance = quick.jit(
    jax.vmap(predictive.coordinate_variance, (0, None)))
_joint_covariance = quick.jit(
    jax.vmap(predictive.joint_covariance, (0, None, None, None, None)))
_split = quick.jit(jax.vmap(
    lambda one, noise: predictive.uncertainty(
        predictive.sample_logits(one, noise)), (0, 1)))
_draws = jax.jit(jax.vmap(predictive.sample_weights, (0, None)))
_sampled_cosines = jax.jit(
    jax.vmap(predictive.sampled_cosines, (1, None, None), 1))


class Case:
  """The recorded numbers of a model, and what our functions take of them."""

  def __init__(self, name, dtype=np.float64):
    path = shared.path("oracles/bayesvlm") / "bayesvlm_oracle.npz"
    ending = "_f32" if dtype == np.float32 else ""
    with np.load(path) as stored:
      self._stored = {key.removeprefix(name + "."): stored[key]
                      for key in stored.files if key.startswith(name + ".")}
    self._ending, self.dtype = ending, dtype
    cast = lambda key: jax.device_put(self._stored[key].astype(dtype))
    self.posterior = laplace.Posterior(
        laplace.Layer(cast("A_inv_img"), cast("B_inv_img")),
        laplace.Layer(cast("A_inv_txt"), cast("B_inv_txt")))
    self.image_inputs, self.text_inputs = cast("test_act"), cast("cls_act")
    self.image_means, self.text_means = cast("test_embeds"), cast("cls_embeds")
    self.scale = jax.device_put(np.exp(self._stored["scale"].astype(dtype)))
    self.images = predictive.embedding(
        self.image_inputs, self.image_means, self.posterior.image)
    self.texts = predictive.embedding(
        self.text_inputs, self.text_means, self.posterior.text)

  def __getitem__(self, key):
    return self._stored.get(key + self._ending, self._stored[key])

  def cosines(self, form, posterior=None):
    return _over_images[form](
        self.images, self.texts, posterior or self.posterior, self.scale)

  def only(self, side):
    """The posterior with the other side certain; `side` may be "both"."""
    certain = {
        name: laplace.deterministic(len(layer.a_inv), len(layer.b_inv))
        for name, layer in self.posterior._asdict().items()
        if side not in ("both", name)}
    return self.posterior._replace(**certain)

  def sampled_embeddings(self, num_samples=20_000):
    """Images [s n d] and texts [s k d] under draws of all weights."""
    draws = [
        _draws(jax.random.split(jax.random.key(seed), num_samples), layer)
        for seed, layer in enumerate(self.posterior)]
    return (
        predictive.sampled_embeddings(
            self.image_inputs, self.image_means, draws[0]),
        predictive.sampled_embeddings(
            self.text_inputs, self.text_means, draws[1]))


@functools.cache
def _sampled(name):
  """A case in single precision, with the draws that several tests look at."""
  case = Case(name, np.float32)
  return case, *case.sampled_embeddings()


class OracleTest(parameterized.TestCase):
  """Against numbers recorded from the released code."""

  @parameterized.product(name=_CASES, dtype=(np.float32, np.float64))
  def test_published_numbers(self, name, dtype):
    with jax.enable_x64(True):
      case = Case(name, dtype)
      cosines = case.cosines(predictive.prob_cosine)
      close = lambda got, key: np.testing.assert_allclose(
          got, case[key], atol=1e-5, rtol=2e-6, err_msg=key)
      close(_coordinate_variance(
          case.images, case.posterior.image), "test_diag_cov")
      close(cosines.mean, "logit_mean")
      close(cosines.variance, "logit_var")
      close(_probit_softmax(cosines), "prob_probit")
      self.assertEqual(cosines.variance.dtype, dtype)

      full = case.cosines(predictive.prob_cosine_full)
      close(full.variance, "ref_var_fullcov")
      close(full.mean, "logit_mean")

  @parameterized.parameters(*_CASES)
  def test_without_variance_the_predictions_are_the_models_own(self, name):
    with jax.enable_x64(True):
      case = Case(name)
      zeros = laplace.Posterior(*(
          laplace.deterministic(len(layer.a_inv), len(layer.b_inv))
          for layer in case.posterior))
      for form in _FORMS:
        cosines = _over_images[form](
            case.images._replace(spread=np.zeros(9)),
            case.texts._replace(spread=np.zeros(5)), zeros, case.scale)
        np.testing.assert_array_equal(cosines.variance, 0)
        bias = case["bias"]  # of SigLIP's logits; on no published path
        np.testing.assert_allclose(
            cosines.mean + bias, case["logit_map"], atol=1e-10)
        np.testing.assert_array_equal(
            predictive.probit_logits(cosines), cosines.mean)
        np.testing.assert_allclose(
            _probit_softmax(cosines), case["prob_map"],
            atol=1e-10)

  def test_entropies_of_the_recorded_draws(self):
    with jax.enable_x64(True):
      case = Case("clip")
      cosines = case.cosines(predictive.prob_cosine)
      split = functools.partial(_split, cosines)
      total = split(case["bald_eps_total"]).total
      aleatoric = split(case["bald_eps_alea"]).aleatoric
      np.testing.assert_allclose(total - aleatoric, case["bald_official_f32"],
                                 atol=2e-6)


class WeightSamplesTest(parameterized.TestCase):
  """Against sampled weights, which know of no approximation."""

  @parameterized.parameters(*_CASES)
  def test_cosines(self, name):
    case, images, texts = _sampled(name)
    logits = _sampled_cosines(images, texts, case.scale)
    mean, variance = exact.of_posterior(
        case.images, case.texts, case.posterior, case.scale)
    error_bars.assert_means(logits, mean)
    error_bars.assert_variances(logits, variance)
    # The recorded ones are of as many draws.
    for key, expected, error in (
        ("ref_mc_logit_mean", mean, error_bars.of_mean(logits)),
        ("ref_mc_logit_var", variance, error_bars.of_variance(logits))):
      np.testing.assert_array_less(
          np.abs(case[key] - expected), error_bars.LEVEL * error)

  @parameterized.parameters(*_CASES)
  def test_dot_products_over_root_mean_square_norms(self, name):
    # For these, means and (joint) covariances are exact.
    case, images, texts = _sampled(name)
    unit = lambda draws, side, layer: np.float64(draws) / np.sqrt(
        np.sum(side.mean**2, -1) + side.spread * np.trace(layer.b_inv)
    )[:, None]
    logits = float(case.scale) * np.einsum(
        "snd,skd->nsk", unit(images, case.images, case.posterior.image),
        unit(texts, case.texts, case.posterior.text), optimize=True)

    full = case.cosines(predictive.prob_cosine_full)
    spreads = predictive.joint_spread(case.text_inputs, case.posterior.text)
    joint = _joint_covariance(
        case.images, case.text_means, spreads, case.posterior, case.scale)
    np.testing.assert_allclose(
        np.diagonal(joint, axis1=1, axis2=2), full.variance, rtol=2e-5)
    for samples, mean, covariance in zip(logits, full.mean, joint):
      error_bars.assert_means(samples, mean)
      # Entry by entry; the mean is known.
      off = samples - np.asarray(mean, np.float64)
      error_bars.assert_means(
          off[:, :, None] * off[:, None], covariance, rounding=1e-5)
    # The test would notice classes without common weights.
    correlation = np.asarray(joint[0]) / np.sqrt(
        np.outer(np.diag(joint[0]), np.diag(joint[0])))
    self.assertGreater(np.abs(np.triu(correlation, 1)).max(), 0.3)

  def test_covariance_of_the_weights(self):
    layer = _random_posterior(p=3, d=2).text
    draws = np.reshape(_draws(
        jax.random.split(jax.random.key(3), 20_000), layer), (20_000, -1))
    covariance = np.einsum("jl,km->jklm", *layer).reshape(6, 6)
    white = np.linalg.solve(np.linalg.cholesky(covariance), draws.T).T
    error_bars.assert_means(white[:, :, None] * white[:, None], np.eye(6))
    certain = laplace.deterministic(3, 2)
    np.testing.assert_array_equal(
        predictive.sample_weights(jax.random.key(0), certain), np.zeros((3, 2)))

  def test_jointly_drawn_logits(self):
    root = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    covariance, mean = root @ root.T, np.arange(5.0, dtype=np.float32)
    # Linear in the noise, so that basis vectors tell all of it.
    root = np.asarray(predictive.sample_joint_logits(
        mean, covariance, np.eye(5))) - mean
    np.testing.assert_allclose(
        root.T @ root, covariance, atol=1e-5 * covariance.max())
    np.testing.assert_array_equal(predictive.sample_joint_logits(
        mean, covariance, np.zeros((1, 5))), mean[None])
    noise = np.random.default_rng(1).normal(size=(2, 5)).astype(np.float32)
    np.testing.assert_allclose(
        predictive.sample_joint_logits(mean, covariance, noise),
        mean + noise @ root, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(
        predictive.sample_joint_logits(mean, 0 * covariance, noise),
        np.stack([mean, mean]))


class FormsTest(parameterized.TestCase):
  """The closed forms among each other and against brute force."""

  @parameterized.parameters(*_CASES)
  def test_any_variances(self, name):
    with jax.enable_x64(True):
      case = Case(name)
      layers = case.posterior
      image = jax.tree.map(lambda leaf: np.asarray(leaf)[0], case.images)
      got = predictive.prob_cosine_diagonal(
          image.mean, predictive.coordinate_variance(image, layers.image),
          case.texts.mean,
          predictive.coordinate_variance(case.texts, layers.text), case.scale)
      expected = predictive.prob_cosine(image, case.texts, layers, case.scale)
      np.testing.assert_allclose(got.mean, expected.mean, rtol=1e-12)
      np.testing.assert_allclose(got.variance, expected.variance, rtol=1e-12)

  def test_variances_that_no_layer_has(self):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=4), rng.normal(size=(3, 4))
    v, w = rng.uniform(size=4), rng.uniform(size=(3, 4))
    with jax.enable_x64(True):
      got = predictive.prob_cosine_diagonal(x, v, y, w, 7.0)
    for k in range(3):
      squares = np.sum(x**2 + v) * np.sum(y[k]**2 + w[k])
      # Var(ab) = E(a^2) E(b^2) - E(a)^2 E(b)^2 for independent a, b.
      of_product = (x**2 + v) * (y[k]**2 + w[k]) - x**2 * y[k]**2
      np.testing.assert_allclose(
          got.variance[k], 49 * of_product.sum() / squares, rtol=1e-12)
      np.testing.assert_allclose(
          got.mean[k], 7 * (x @ y[k]) / np.sqrt(squares), rtol=1e-12)

  def test_forms_agree_where_coordinates_are_independent(self):
    case = Case("clip", np.float32)
    independent = laplace.Posterior(*(
        layer._replace(b_inv=np.diag(np.diagonal(layer.b_inv)))
        for layer in case.posterior))
    for got, expected in zip(
        case.cosines(predictive.prob_cosine_full, independent),
        case.cosines(predictive.prob_cosine)):
      np.testing.assert_allclose(got, expected, rtol=1e-5)

  @parameterized.parameters("image", "text")
  def test_one_sided(self, side):
    # A dot product is linear in one side's weights: its variance is exactly
    # J Cov J^T, with the whole covariance of the kernel.
    with jax.enable_x64(True):
      case = Case("siglip")
      other = {"image": "text", "text": "image"}[side]
      blank = getattr(case.posterior, other)
      posterior = case.posterior._replace(**{other: laplace.deterministic(
          len(blank.a_inv), len(blank.b_inv))})
      layer = getattr(posterior, side)
      image = predictive.embedding(
          case.image_inputs[0], case.image_means[0], posterior.image)
      texts = predictive.embedding(
          case.text_inputs, case.text_means, posterior.text)
      inputs = {"image": case.image_inputs[0], "text": case.text_inputs}[side]

      def dots(deviation):
        moved = predictive.sampled_embeddings(
            inputs, {"image": image, "text": texts}[side].mean,
            deviation[None])[0]
        left, right = ((moved, texts.mean) if side == "image" else
                       (image.mean, moved))
        return right @ left

      jacobian = np.asarray(quick.jit(jax.jacobian(dots))(
          np.zeros((len(layer.a_inv), len(layer.b_inv)))))
      expected = np.einsum("cjk,jl,km,elm->ce", jacobian, *layer, jacobian)
      square = lambda embedding, layer: np.sum(
          np.square(embedding.mean), -1) + (
              np.asarray(embedding.spread) * np.trace(layer.b_inv))
      norms = np.sqrt(square(image, posterior.image) *
                      square(texts, posterior.text))
      expected = float(case.scale)**2 * expected / np.outer(norms, norms)

      got = predictive.prob_cosine_full(image, texts, posterior, case.scale)
      np.testing.assert_allclose(got.variance, np.diag(expected), rtol=1e-9)
      joint = predictive.joint_covariance(
          image, texts.mean,
          predictive.joint_spread(case.text_inputs, posterior.text), posterior,
          case.scale)
      np.testing.assert_allclose(joint, expected, rtol=1e-9, atol=1e-9)
      published = predictive.prob_cosine(image, texts, posterior, case.scale)
      self.assertGreater(float(published.variance.min()), 0)

  @parameterized.product(name=_CASES, side=_SIDES)
  def test_tangent_pair_by_pair(self, name, side):
    with jax.enable_x64(True):
      case = Case(name)
      posterior = case.only(side)
      got = case.cosines(predictive.prob_cosine_tangent, posterior)
      (images, texts), scale = jax.tree.map(
          np.asarray, (_moments(case, posterior), case.scale))
    for n, (x, x_cov) in enumerate(zip(*images)):
      for k, (y, y_cov) in enumerate(zip(*texts)):
        (x_shifted, x_turns, x_norm) = _turning(x, x_cov)
        (y_shifted, y_turns, y_norm) = _turning(y, y_cov)
        norms = x_norm * y_norm
        variance = (x @ y_turns @ x + y @ x_turns @ y +
                    np.trace(x_turns @ y_turns)) / norms
        np.testing.assert_allclose(
            got.mean[n, k], scale * x_shifted @ y_shifted / np.sqrt(norms),
            rtol=1e-10)
        np.testing.assert_allclose(
            got.variance[n, k], scale**2 * variance, rtol=1e-10)

  @parameterized.product(name=_CASES, side=_SIDES)
  def test_tangent_is_the_delta_method_to_first_order(self, name, side):
    def cosine(x, y):
      return case.scale * x @ y / jnp.linalg.norm(x) / jnp.linalg.norm(y)

    def first_order(x, x_cov, y, y_cov):
      (by_x, by_y), ((by_xx, _), (_, by_yy)) = (
          derivative(cosine, (0, 1))(x, y)
          for derivative in (jax.jacfwd, jax.hessian))
      return ((jnp.sum(by_xx * x_cov) + jnp.sum(by_yy * y_cov)) / 2,
              by_x @ x_cov @ by_x + by_y @ y_cov @ by_y)

    def cosines(size):  # with all covariances times `size`
      smaller = jax.tree.map(lambda leaf: leaf * size, posterior)
      return case.cosines(predictive.prob_cosine_tangent, smaller)

    with jax.enable_x64(True):
      case = Case(name)
      posterior = case.only(side)
      images, texts = _moments(case, posterior)
      expected = quick.jit(jax.vmap(
          jax.vmap(first_order, (None, None, 0, 0)), (0, 0, None, None)))(
              *images, *texts)
      # Not at zero, where the bound of the variance has no slope.
      slope = quick.jit(jax.jacfwd(cosines))(1e-12)
      np.testing.assert_allclose(slope.mean, expected[0], rtol=1e-9)
      np.testing.assert_allclose(slope.variance, expected[1], rtol=1e-9)

  def test_stretching_changes_no_cosine(self):
    # Covariances along the embeddings alone.
    mean = np.array([3.0, -4.0, 12.0], np.float32)
    layer = laplace.Layer(
        np.eye(1, dtype=np.float32), np.outer(mean, mean) / 169)
    posterior = laplace.Posterior(layer, layer)
    image = predictive.Embedding(mean, np.ones((), np.float32))
    texts = predictive.Embedding(
        np.stack([mean, -mean]), np.ones(2, np.float32))
    got, full = (form(image, texts, posterior, 10.0) for form in (
        predictive.prob_cosine_tangent, predictive.prob_cosine_full))
    np.testing.assert_allclose(got.mean, [10, -10], rtol=1e-6)
    np.testing.assert_allclose(got.variance, 0, atol=1e-6)
    self.assertGreater(float(full.variance.min()), 1)

  def test_normalised_embeddings(self):
    with jax.enable_x64(True):
      case = Case("clip")
      layer = case.posterior.image
      each = lambda fn: quick.jit(jax.vmap(fn, (0, None)))(case.images, layer)
      got = each(predictive.normalised_embedding)
      got_full = each(predictive.normalised_embedding_full)
      turns = quick.jit(jax.jacobian(lambda x: x / jnp.linalg.norm(x)))
      layer = jax.device_get(layer)
      for row, mean in enumerate(np.asarray(case.image_means)):
        jacobian = np.asarray(turns(mean))
        covariance = np.asarray(case.images.spread)[row] * layer.b_inv
        expected = lambda c: np.diag(jacobian @ c @ jacobian.T)
        np.testing.assert_allclose(
            got.variance[row], expected(np.diag(np.diag(covariance))),
            rtol=1e-9)
        np.testing.assert_allclose(
            got_full.variance[row], expected(covariance), rtol=1e-9)
      np.testing.assert_allclose(np.linalg.norm(got.mean, axis=-1), 1)
      zero = predictive.normalised_embedding(
          predictive.Embedding(np.zeros(6), np.ones(())), layer)
      np.testing.assert_array_equal(zero.mean, 0)
      self.assertTrue(np.isfinite(zero.variance).all())

  def test_single_and_double_precision(self):
    with jax.enable_x64(True):
      for form in _FORMS:
        for single, double in zip(Case("clip", np.float32).cosines(form),
                                  Case("clip").cosines(form)):
          np.testing.assert_allclose(single, double, rtol=2e-5, atol=1e-5)


class OverImagesTest(parameterized.TestCase):

  @parameterized.parameters(*_FORMS)
  def test_vmap_is_a_loop(self, form):
    case = Case("siglip", np.float32)
    together = quick.jit(case.cosines, static_argnums=0)(form)
    for row in range(len(case.image_means)):
      image = predictive.embedding(
          case.image_inputs[row], case.image_means[row], case.posterior.image)
      alone = form(image, case.texts, case.posterior, case.scale)
      for got, expected in zip(together, alone):
        np.testing.assert_allclose(got[row], expected, rtol=2e-5, atol=1e-5)

  @parameterized.parameters(*zip(_FORMS, (1, 1, 4)))
  def test_few_similarity_matmuls(self, form, expected):
    n, k, d = 19, 17, 13
    posterior = _random_posterior(p=11, d=d)
    images = predictive.Embedding(jnp.ones((n, d)), jnp.ones(n))
    texts = predictive.Embedding(jnp.ones((k, d)), jnp.ones(k))
    program = jax.make_jaxpr(jax.vmap(form, _OVER_IMAGES))(
        images, texts, posterior, jnp.ones(()))
    of_size = lambda name: [
        eqn.outvars[0].aval.size for eqn in _equations(program.jaxpr)
        if name in ("", eqn.primitive.name)]
    self.assertEqual(of_size("dot_general").count(n * k), expected)
    self.assertEqual(max(of_size("")), n * k)


class EmbeddingTest(absltest.TestCase):

  def test_bias(self):
    layer = _random_posterior(p=4, d=2).image
    activations, mean = jnp.array([1.0, -2.0, 0.5]), jnp.zeros(2)
    got = predictive.embedding(activations, mean, layer)
    whole = np.append(activations, 1)
    np.testing.assert_allclose(got.spread, whole @ layer.a_inv @ whole,
                               rtol=1e-6)
    np.testing.assert_allclose(
        predictive.joint_spread(activations[None], layer)[0, 0], got.spread,
        rtol=1e-6)

  def test_sizes_are_checked(self):
    layer = _random_posterior(p=4, d=2).image
    with self.assertRaisesRegex(
        ValueError, r"2 activations fit .* 2 inputs \(or 3 with a bias\).* 4"):
      predictive.embedding(jnp.ones(2), jnp.ones(2), layer)
    with self.assertRaisesRegex(ValueError, r"mean.shape=\(3,\)"):
      predictive.embedding(jnp.ones(4), jnp.ones(3), layer)
    with self.assertRaisesRegex(ValueError, "2 outputs"):
      predictive.embedding(jnp.ones((5, 4)), jnp.ones((4, 2)), layer)
    image = predictive.Embedding(jnp.ones(2), jnp.ones(()))
    texts = predictive.Embedding(jnp.ones((5, 3)), jnp.ones(5))
    posterior = laplace.Posterior(layer, layer)
    with self.assertRaisesRegex(ValueError, r"one width.*\(2, 3, 2, 2\)"):
      predictive.prob_cosine(image, texts, posterior, 1.0)
    with self.assertRaisesRegex(ValueError, r"one width.*\(2, 3, 2, 2\)"):
      predictive.prob_cosine_tangent(image, texts, posterior, 1.0)


class UncertaintyTest(absltest.TestCase):

  def test_against_scipy(self):
    logits = np.random.default_rng(0).normal(size=(7, 5)) * 3
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    with jax.enable_x64(True):
      got = predictive.uncertainty(jnp.asarray(logits))
    total = scipy.stats.entropy(probs.mean(0))
    divergence = np.mean([scipy.stats.entropy(p, probs.mean(0)) for p in probs])
    np.testing.assert_allclose(got.total, total, rtol=1e-12)
    np.testing.assert_allclose(got.epistemic, divergence, rtol=1e-10)
    np.testing.assert_allclose(got.aleatoric, total - divergence, rtol=1e-10)

  def test_extremes(self):
    same = jnp.tile(jnp.array([[1.0, 2.0, 0.0]]), (4, 1))
    # Up to the rounding of a mean of equal numbers.
    self.assertBetween(predictive.uncertainty(same).epistemic, 0, 1e-14)
    torn = predictive.uncertainty(jnp.array([[1e4, 0.0], [0.0, 1e4]]))
    np.testing.assert_allclose(torn, [np.log(2), 0, np.log(2)], rtol=1e-6)
    impossible = jnp.array([[0.0, -jnp.inf, 0.0]])
    np.testing.assert_allclose(
        predictive.uncertainty(impossible), [np.log(2), np.log(2), 0],
        rtol=1e-6)
    half = predictive.uncertainty(jnp.ones((2, 3), jnp.bfloat16))
    self.assertEqual(half.total.dtype, jnp.float32)

  def test_small_uncertainty_is_not_lost_in_rounding(self):
    logits = np.random.default_rng(0).normal(size=(50, 4)) * 1e-4
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = np.mean(scipy.stats.entropy(probs.T, probs.mean(0)[:, None]))
    got = predictive.uncertainty(jnp.asarray(logits, jnp.float32))
    self.assertLess(expected, 1e-8)  # where entropies are known to 1e-7
    np.testing.assert_allclose(got.epistemic, expected, rtol=1e-3)

  def test_correlated_logits_say_less_about_the_label(self):
    # A common shift of all logits changes no prediction.
    noise = jax.random.normal(jax.random.key(0), (500, 3))
    cosines = predictive.Cosines(jnp.zeros(3), 4 * jnp.ones(3))
    apart = predictive.uncertainty(predictive.sample_logits(cosines, noise))
    together = predictive.uncertainty(predictive.sample_joint_logits(
        cosines.mean, 4 * jnp.ones((3, 3)), noise))
    self.assertGreater(float(apart.epistemic), 0.2)
    self.assertLess(abs(float(together.epistemic)), 1e-4)


class ProbitTest(absltest.TestCase):

  def test_two_classes_by_quadrature(self):
    # Only the first logit is random: its sigmoid's mean, which the
    # approximation meets to two percent points.
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    for mean, variance in ((0.5, 1.0), (2.0, 4.0), (-3.0, 9.0)):
      exact = np.sum(weights / (1 + np.exp(-mean - np.sqrt(variance) * points))
                     ) / np.sqrt(2 * np.pi)
      got = predictive.probit_softmax(predictive.Cosines(
          jnp.array([mean, 0.0]), jnp.array([variance, 0.0])))
      np.testing.assert_allclose(got[0], exact, atol=0.02)
      np.testing.assert_allclose(got.sum(), 1, rtol=1e-6)


def _moments(case, posterior):
  """Means and whole covariances of the images, and of the texts."""
  sides = (
      predictive.embedding(
          case.image_inputs, case.image_means, posterior.image),
      predictive.embedding(case.text_inputs, case.text_means, posterior.text))
  return [
      (side.mean, side.spread[:, None, None] * layer.b_inv[None])
      for side, layer in zip(sides, posterior)]


def _turning(mean, covariance):
  """Shifted mean, covariance across the mean, and squared norm that turns."""
  across = np.eye(len(mean)) - np.outer(mean, mean) / (mean @ mean)
  turns = across @ covariance @ across
  norm = mean @ mean + np.trace(turns)
  return mean - across @ covariance @ mean / norm, turns, norm


def _random_posterior(p, d):
  def covariance(seed, size):
    root = np.random.default_rng(seed).normal(size=(size, 2 * size))
    return jnp.asarray(root @ root.T / size, jnp.float32)

  return laplace.Posterior(
      laplace.Layer(covariance(0, p), covariance(1, d)),
      laplace.Layer(covariance(2, p), covariance(3, d)))


def _equations(jaxpr):
  """All equations, those of inner functions too."""
  for eqn in jaxpr.eqns:
    yield eqn
    for inner in core.jaxprs_in_params(eqn.params):
      yield from _equations(inner)


if __name__ == "__main__":
  absltest.main()
