"""What Gaussian last projections say about one image: cosines, not numbers.

All functions are for one image and all classes. `jax.vmap` over images, with
the texts and the posterior held fixed, computes what depends on those alone
once: images x classes cost one similarity matmul and elementwise work, for the
full covariance as for the diagonal, and four matmuls for the tangent form.

Baumann et al., Post-hoc Probabilistic Vision-Language Models, ICLR 2026
(BayesVLM). `logit_scale` is the factor of the cosines, the exponential of the
checkpoint's parameter of that name. A SigLIP model's bias of the logits is not
added anywhere; add it to the means where sigmoids are taken.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcal.compiled import compiled
from jaxcal.posterior import acquisition
from jaxcal.posterior import curvature
from jaxcal.posterior import laplace
from jaxcal.typing import AnyArray
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Key
from jaxcal.typing import Number

# Logits of size 100 with the three digits of TF32 would be off by 0.1.
_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Embedding(NamedTuple):
  """Gaussian embeddings before normalisation.

  Attributes:
    mean: What the model itself computes, W a (+ bias) (+ residual).
    spread: Factor of the covariance, `spread * b_inv` of the layer.
  """

  mean: Float[Array, "*n d"]
  spread: Float[Array, "*n"]


class Cosines(NamedTuple):
  """Mean and variance of each class's scaled cosine, that is, its logit."""

  mean: Float[Array, "k"]
  variance: Float[Array, "k"]


class Normalised(NamedTuple):
  """Mean and variance of each coordinate of a unit-norm embedding."""

  mean: Float[Array, "d"]
  variance: Float[Array, "d"]


class Uncertainty(NamedTuple):
  """Entropies in nats, total = aleatoric + epistemic."""

  total: Float[Array, ""]  # of the mean prediction
  aleatoric: Float[Array, ""]  # mean over predictions: stays with all data seen
  epistemic: Float[Array, ""]  # mutual information of label and weights


@compiled
def embedding(
    activations: Float[AnyArray, "*n p"],
    mean: Float[AnyArray, "*n d"],
    layer: laplace.Layer,
) -> Embedding:
  """The Gaussian embeddings of inputs to a Bayesian projection.

  Args:
    activations: What the projection sees; a constant one is appended where
      the layer is one wider (a bias).
    mean: The un-normalised embeddings of the same inputs, with bias and
      residual.
    layer: Posterior of the projection.

  Raises:
    ValueError: Sizes that do not fit together.

  Source: Baumann et al., ICLR 2026.
  Differs from the released code in: the whole covariance is kept, as a factor
  of the layer's.
  """
  activations = _append_one(activations, len(layer.a_inv))
  if mean.shape != (*activations.shape[:-1], layer.b_inv.shape[-1]):
    raise ValueError(
        f"activations of shape {activations.shape} and a layer with "
        f"{layer.b_inv.shape[-1]} outputs do not give means of {mean.shape=}.")
  return Embedding(jnp.asarray(mean), _quadratic(activations, layer.a_inv))


@compiled
def joint_spread(
    activations: Float[AnyArray, "k p"], layer: laplace.Layer
) -> Float[Array, "k k"]:
  """Factors of the covariances between embeddings, spreads on the diagonal.

  Embeddings i and j of one layer covary as `joint_spread[i, j] * b_inv`, since
  they share its weights.

  Raises:
    ValueError: Activations that do not fit the layer.
  """
  activations = _append_one(activations, len(layer.a_inv))
  return _matmul(_matmul(activations, layer.a_inv), activations.T)


@compiled
def coordinate_variance(
    embedding: Embedding, layer: laplace.Layer
) -> Float[Array, "*n d"]:
  """Variance of each coordinate of un-normalised Gaussian embeddings."""
  return jnp.multiply.outer(embedding.spread, jnp.diagonal(layer.b_inv))


@compiled
def normalised_embedding(
    embedding: Embedding, layer: laplace.Layer
) -> Normalised:
  """One unit-norm embedding, its variances by the delta method, as published.

  The coordinates of the un-normalised embedding count as independent; not so
  in `normalised_embedding_full`.

  Returns:
    A mean of norm one (a squared norm below 1e-6 counts as that), and variances
    that are not negative.

  Source: Baumann et al., ICLR 2026 (the model class of the released weights).
  Differs from the released code in: nothing.
  """
  return _normalised(embedding, jnp.diagonal(layer.b_inv))


@compiled
def normalised_embedding_full(
    embedding: Embedding, layer: laplace.Layer
) -> Normalised:
  """`normalised_embedding` with the whole covariance."""
  return _normalised(embedding, layer.b_inv)


@compiled
def prob_cosine(
    image: Embedding,
    texts: Embedding,
    posterior: laplace.Posterior,
    logit_scale: Number,
) -> Cosines:
  r"""Gaussian logits of one image, as published: coordinates independent.

  .. math:: E = s \frac{\mu_x^T \mu_y}{\sqrt{n_x n_y}}, \quad
            V = \frac{s^2}{n_x n_y} \sum_i \mu_{x,i}^2 v_{y,i} +
                v_{x,i} \mu_{y,i}^2 + v_{x,i} v_{y,i}

  with n = |mu|^2 + sum_i v_i, the expected squared norms. Since the variances
  are v = spread * diag(b_inv), this is `prob_cosine_full` with the diagonals
  of both `b_inv`.

  Directions that the data leave undetermined have much variance, and the
  diagonal spreads it over all coordinates: most variances are too large;
  where few directions have most of it, some are too small (docs/bayesvlm.md has
  ratios to the true ones).

  Args:
    image: One embedding.
    texts: One embedding per class.
    posterior: Posterior of both projections.
    logit_scale: Factor of the cosines.

  Returns:
    Means, and variances >= 0; with a posterior of zeros the model's own logits
    and zero.

  Raises:
    ValueError: Sizes that do not fit together.

  Source: Baumann et al., ICLR 2026, ProbCosine.
  Differs from the released code in: nothing but the order of sums; one matmul
  instead of three.
  """
  return _cosines(image, texts, jnp.diagonal(posterior.image.b_inv),
                  jnp.diagonal(posterior.text.b_inv), logit_scale)


@compiled
def prob_cosine_full(
    image: Embedding,
    texts: Embedding,
    posterior: laplace.Posterior,
    logit_scale: Number,
) -> Cosines:
  r"""`prob_cosine` with the whole covariances of the embeddings.

  .. math:: V = \frac{s^2}{n_x n_y} \big( q_y \mu_x^T B_y \mu_x +
                q_x \mu_y^T B_x \mu_y + q_x q_y tr(B_x B_y) \big)

  with spreads q and covariances q B. Mean and variance of the dot product are
  exact. The norms stand in for the random ones, which follow the embedding
  outwards: what moves it along itself, and no cosine feels, counts here by the
  square of the cosine c. For small isotropic covariances V is 1 / (1 - c^2)
  times the true one, for others more or less (docs/bayesvlm.md has ratios).
  `prob_cosine_tangent` leaves that out.

  Source: Follows from Baumann et al., ICLR 2026.
  Differs from the released code in: that one drops everything off the
  diagonals.
  """
  return _cosines(image, texts, posterior.image.b_inv, posterior.text.b_inv,
                  logit_scale)


@compiled
def prob_cosine_tangent(
    image: Embedding,
    texts: Embedding,
    posterior: laplace.Posterior,
    logit_scale: Number,
) -> Cosines:
  r"""`prob_cosine_full` of what turns an embedding; what stretches it is gone.

  Not part of the paper. For x = (1 + r) \mu + t, where t is across \mu with
  covariance T, the direction x / |x| has the mean and covariance

  .. math:: \frac{\mu - P \Sigma \mu / n}{\sqrt n} \quad \text{and} \quad
            \frac{T}{n}, \qquad T = P \Sigma P, \quad n = |\mu|^2 + tr(T)

  with P = I - \mu \mu^T / |\mu|^2 and \Sigma the spread times `b_inv`: |t|^2 is
  taken at its mean tr(T), as it is in many dimensions, r to first order. Image
  and text are independent, so exactly E = s m_x^T m_y and
  V = s^2 (m_y^T C_x m_y + m_x^T C_y m_x + tr(C_x C_y)) for means m and
  covariances C of their directions. Hence, the shifts left out of V,

  .. math:: E = \frac{s}{\sqrt{n_x n_y}} (\mu_x - P_x \Sigma_x \mu_x / n_x)^T
                (\mu_y - P_y \Sigma_y \mu_y / n_y), \quad
            V = \frac{s^2}{n_x n_y} \big( \mu_x^T T_y \mu_x +
                \mu_y^T T_x \mu_y + tr(T_x T_y) \big)

  To first order in the covariances this is the delta method: V is its
  J \Sigma J^T, and E the cosine plus half the trace of its Hessian with \Sigma.

  V lacks what the variance of |t|^2 adds, about E^2 (tr(T_x^2) / n_x^2 +
  tr(T_y^2) / n_y^2) / 2. So it is too small for cosines near one, the more so
  where few directions have most of tr(T) (docs/bayesvlm.md has ratios to the
  true variances).

  Args:
    image: One embedding; its mean must not be zero, nor those of the texts.
    texts: One embedding per class.
    posterior: Posterior of both projections.
    logit_scale: Factor of the cosines.

  Returns:
    Means, and variances >= 0; with a posterior of zeros the model's own logits
    and zero.

  Raises:
    ValueError: Sizes that do not fit together.
  """
  image_b, text_b = posterior.image.b_inv, posterior.text.b_inv
  _check_widths(image, texts, image_b, text_b)
  x = _direction(image, image_b, text_b)
  y = _direction(texts, text_b, image_b)
  cosine = _matmul(x.mean, y.mean.T)
  x_shift = _matmul(x.shift, y.mean.T)
  y_shift = _matmul(x.mean, y.shift.T)
  both = _matmul(x.shift, y.shift.T)
  growth = x.growth * y.growth
  mean = cosine - x_shift / x.growth - y_shift / y.growth + both / growth
  # y^T T_x y + x^T T_y x + tr(T_x T_y), multiplied out: for a unit mean m with
  # shift p, T = spread * b_inv - m p^T - p m^T - along * m m^T.
  variance = (
      x.spread * y.seen + y.spread * x.seen +
      x.spread * y.spread * jnp.sum(image_b * text_b) +
      2 * x_shift * y_shift +
      2 * cosine * (
          both - (1 - y.along) * x_shift - (1 - x.along) * y_shift) +
      jnp.square(cosine) * (x.along * y.along - x.along - y.along))
  return Cosines(
      logit_scale * mean / jnp.sqrt(growth),
      jnp.square(logit_scale) * jnp.maximum(variance, 0) / growth)


@compiled
def prob_cosine_diagonal(
    image_mean: Float[AnyArray, "d"],
    image_variance: Float[AnyArray, "d"],
    text_means: Float[AnyArray, "k d"],
    text_variances: Float[AnyArray, "k d"],
    logit_scale: Number,
) -> Cosines:
  """`prob_cosine` of any Gaussian embeddings with independent coordinates.

  For variances from elsewhere (an ensemble, another posterior); those of a
  `laplace.Layer` need two matmuls less in `prob_cosine`.

  Source: Baumann et al., ICLR 2026, ProbCosine.
  Differs from the released code in: nothing.
  """
  image_square = jnp.square(image_mean) + image_variance
  text_square = jnp.square(text_means) + text_variances
  image_norm = jnp.sum(image_square)
  text_norms = jnp.sum(text_square, -1)
  # mu_x^2 v_y + v_x mu_y^2 + v_x v_y, two of its products taken together.
  variance = (_matmul(image_square, text_variances.T) +
              _matmul(image_variance, jnp.square(text_means).T))
  return Cosines(
      logit_scale * _matmul(image_mean, text_means.T) /
      jnp.sqrt(image_norm * text_norms),
      jnp.square(logit_scale) * variance / (image_norm * text_norms))


@compiled
def joint_covariance(
    image: Embedding,
    text_means: Float[AnyArray, "k d"],
    text_spreads: Float[AnyArray, "k k"],
    posterior: laplace.Posterior,
    logit_scale: Number,
) -> Float[Array, "k k"]:
  r"""Covariances between the logits of one image, from the shared weights.

  .. math:: C_{cd} = \frac{s^2}{n_x \sqrt{n_c n_d}} \big(
                q_{cd} \mu_x^T B_y \mu_x + q_x \mu_c^T B_x \mu_d +
                q_x q_{cd} tr(B_x B_y) \big)

  Exact for the dot products; the norms are those of `prob_cosine_full`, whose
  variances are the diagonal.

  Args:
    image: One embedding.
    text_means: Un-normalised embeddings of the classes.
    text_spreads: Spreads of the texts, `joint_spread` of the same.
    posterior: Posterior of both projections.
    logit_scale: Factor of the cosines.

  Source: Follows from Baumann et al., ICLR 2026; the released code has no such
  form.
  """
  image_b, text_b = posterior.image.b_inv, posterior.text.b_inv
  texts = Embedding(jnp.asarray(text_means), jnp.diagonal(text_spreads))
  x, y = _ray(image, image_b, text_b), _ray(texts, text_b, image_b)
  spreads = text_spreads / jnp.outer(y.norm, y.norm)
  seen = _matmul(_matmul(y.mean, image_b), y.mean.T)
  from_texts = x.seen + x.spread * jnp.sum(image_b * text_b)
  return jnp.square(logit_scale) * (from_texts * spreads + x.spread * seen)


@compiled
def probit_logits(cosines: Cosines) -> Float[Array, "*n k"]:
  r"""Logits moderated by their variance, E / sqrt(1 + pi / 8 V).

  A softmax of them stands in for the mean softmax of Gaussian logits (MacKay's
  approximation, class by class); variance zero leaves the logits as they are.

  Source: MacKay, The Evidence Framework Applied to Classification Networks,
  Neural Computation 1992; Baumann et al., ICLR 2026.
  Differs from the released code in: nothing.
  """
  return cosines.mean / jnp.sqrt(1 + jnp.pi / 8 * cosines.variance)


@compiled
def probit_softmax(cosines: Cosines) -> Float[Array, "*n k"]:
  """Class probabilities of Gaussian logits: a softmax of `probit_logits`."""
  return jax.nn.softmax(probit_logits(cosines))


@compiled
def sample_logits(
    cosines: Cosines, noise: Float[Array, "s k"]
) -> Float[Array, "s k"]:
  """Logits drawn class by class, as published: classes share no weights.

  Args:
    cosines: Cosines of one image.
    noise: Standard normal.
  """
  return cosines.mean[None] + jnp.sqrt(cosines.variance)[None] * noise


@compiled
def sample_joint_logits(
    mean: Float[AnyArray, "k"],
    covariance: Float[AnyArray, "k k"],
    noise: Float[AnyArray, "s k"],
) -> Float[Array, "s k"]:
  """Logits drawn with their covariances between classes.

  Costs O(k^3). Covariances of less than full rank are no problem; with one
  deterministic side theirs is at most d.

  Args:
    mean: Mean of one image's logits.
    covariance: Covariance of the logits, `joint_covariance` of the same.
    noise: Standard normal.
  """
  eigenvalues, vectors = jnp.linalg.eigh(covariance)
  root = vectors * jnp.sqrt(jnp.maximum(eigenvalues, 0))[None]
  return jnp.asarray(mean)[None] + _matmul(noise, root.T)


@compiled
def uncertainty(logits: Float[Array, "s k"]) -> Uncertainty:
  """Splits the uncertainty of sampled predictions by where it comes from.

  The epistemic part is `acquisition.bald`, not negative and, up to rounding,
  zero where all samples agree. Logits drawn class by class move apart even
  where the weights would only shift them all, which changes no prediction; draw
  them jointly to tell.

  Args:
    logits: Samples, e.g. of `sample_joint_logits`; half precision is widened.

  Source: Baumann et al., ICLR 2026 (as the BALD score).
  Differs from the released code in: both entropies come from the same samples;
  a class without probability adds nothing instead of NaN.
  """
  logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
  aleatoric = jnp.mean(acquisition.entropy_of_logits(logits))
  epistemic = acquisition.bald(logits)
  return Uncertainty(aleatoric + epistemic, aleatoric, epistemic)


@compiled
def sample_weights(
    key: Key[Array, ""], layer: laplace.Layer
) -> Float[Array, "p d"]:
  """One draw of the kernel's deviation from its mean, a bias as last row.

  Draw many by `vmap` over keys.
  """
  noise = jax.random.normal(
      key, (len(layer.a_inv), len(layer.b_inv)), layer.a_inv.dtype)
  return _matmul(_matmul(_root(layer.a_inv), noise), _root(layer.b_inv).T)


@compiled
def sampled_embeddings(
    activations: Float[AnyArray, "*n p"],
    mean: Float[AnyArray, "*n d"],
    deviations: Float[AnyArray, "s q d"],
) -> Float[Array, "s *n d"]:
  """Embeddings under sampled weights, all inputs under the same ones.

  Args:
    activations: What the projection sees.
    mean: The un-normalised embeddings of the same inputs.
    deviations: Deviations of `sample_weights`; q is p, or p + 1 with a bias.
  """
  activations = _append_one(activations, deviations.shape[-2])
  return jnp.asarray(mean)[None] + jnp.einsum(
      "...p,spd->s...d", activations, deviations,
      precision=jax.lax.Precision.HIGHEST)


@compiled
def sampled_cosines(
    image: Float[AnyArray, "s d"],
    texts: Float[AnyArray, "s k d"],
    logit_scale: Number,
) -> Float[Array, "s k"]:
  """Logits under sampled weights: the reference for everything closed-form.

  Args:
    image: Embeddings of one image, from `sampled_embeddings`.
    texts: Embeddings of the classes, under samples of their own layer.
    logit_scale: Factor of the cosines.
  """
  dots = _matmul(texts, image[..., None])[..., 0]
  norms = jnp.linalg.norm(texts, axis=-1) * jnp.linalg.norm(
      image, axis=-1, keepdims=True)
  return logit_scale * dots / norms


class _Ray(NamedTuple):
  """An embedding over the root of its expected squared norm."""

  mean: Float[Array, "*n d"]
  spread: Float[Array, "*n"]
  seen: Float[Array, "*n"]  # mean^T b_other mean
  norm: Float[Array, "*n"]


def _ray(embedding, own, other):
  """What one side contributes; `own` and `other` as for `_cosines`."""
  trace = jnp.sum(own if own.ndim == 1 else jnp.diagonal(own))
  square = jnp.sum(jnp.square(embedding.mean), -1) + embedding.spread * trace
  norm = jnp.sqrt(square)
  mean = embedding.mean / norm[..., None]
  return _Ray(mean, embedding.spread / square, _quadratic(mean, other), norm)


def _cosines(image, texts, image_b, text_b, logit_scale):
  """The formula of both forms: `*_b` is a matrix, or its diagonal [d]."""
  _check_widths(image, texts, image_b, text_b)
  x, y = _ray(image, image_b, text_b), _ray(texts, text_b, image_b)
  # For symmetric matrices this sum is the trace of their product.
  from_texts = x.seen + x.spread * jnp.sum(image_b * text_b)
  square = jnp.square(logit_scale)
  return Cosines(
      logit_scale * _matmul(x.mean, y.mean.T),
      square * from_texts * y.spread + square * x.spread * y.seen)


class _Direction(NamedTuple):
  """An embedding over the norm of its mean, for `prob_cosine_tangent`."""

  mean: Float[Array, "*n d"]  # of unit norm
  shift: Float[Array, "*n d"]  # covariance of the parts across and along it
  spread: Float[Array, "*n"]
  along: Float[Array, "*n"]  # variance along the mean
  growth: Float[Array, "*n"]  # 1 + all variance across it
  seen: Float[Array, "*n"]  # mean^T b_other ((1 - along) mean - 2 shift)


def _direction(embedding, own, other):
  """What one side contributes to the tangent form."""
  square = jnp.sum(jnp.square(embedding.mean), -1)
  mean = embedding.mean / jnp.sqrt(square)[..., None]
  spread = embedding.spread / square
  covaries = spread[..., None] * _matmul(mean, own)
  along = jnp.sum(covaries * mean, -1)
  shift = covaries - along[..., None] * mean
  seen = jnp.sum(
      _matmul(mean, other) * ((1 - along)[..., None] * mean - 2 * shift), -1)
  growth = 1 + spread * jnp.trace(own) - along
  return _Direction(mean, shift, spread, along, growth, seen)


def _check_widths(image, texts, image_b, text_b):
  """Refuses embeddings and layers of different widths."""
  sizes = (image.mean.shape[-1], texts.mean.shape[-1], len(image_b),
           len(text_b))
  if len(set(sizes)) > 1:
    raise ValueError("image, texts and the two sides of the posterior must be "
                     f"of one width, but theirs are {sizes}.")


def _normalised(embedding, b):
  """Delta method; `b` is a matrix, or its diagonal [d]."""
  square = jnp.maximum(jnp.sum(jnp.square(embedding.mean)), 1e-6)
  mean = embedding.mean / jnp.sqrt(square)
  variances, covaries = (
      (b, b * mean) if b.ndim == 1 else (jnp.diagonal(b), _matmul(b, mean)))
  # The diagonal of (I - m m^T) B (I - m m^T).
  across = (variances - 2 * mean * covaries +
            jnp.square(mean) * jnp.sum(mean * covaries))
  variance = embedding.spread / square * across
  return Normalised(mean, jnp.maximum(variance, 0))


def _quadratic(vectors, matrix):
  """v^T M v for each vector; `matrix` may be a diagonal [d]."""
  if matrix.ndim == 1:
    return _matmul(jnp.square(vectors), matrix)
  return jnp.sum(_matmul(vectors, matrix) * vectors, -1)


def _append_one(activations, width):
  """Activations of this width, the one that a bias sees included."""
  found = activations.shape[-1]
  if width not in (found, found + 1):
    raise ValueError(f"{found} activations fit a posterior over {found} inputs "
                     f"(or {found + 1} with a bias), but this one has {width}.")
  return activations if width == found else curvature.with_one(activations)


def _root(covariance):
  """Cholesky factor; of zeros, zeros."""
  some = jnp.any(covariance != 0)
  identity = jnp.eye(len(covariance), dtype=covariance.dtype)
  root = jnp.linalg.cholesky(jnp.where(some, covariance, identity))
  return jnp.where(some, root, 0)
