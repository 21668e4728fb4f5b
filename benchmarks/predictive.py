"""What a posterior costs beside the similarities that every prediction needs.

The diagonal and the full form of ProbCosine need one matmul of images by
classes, as the model's own logits do; the tangent form needs four. The claim is
on the diagonal form with its moderated softmax, from embeddings and their
spreads on, over that matmul alone. Rows "with spreads" start at the
activations.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import sizes
from benchmarks import timing
from jaxcal.posterior import laplace
from jaxcal.posterior import predictive

_CEILING = 3.0
_CHECKED = 20  # images and classes that are also computed the long way
_FORMS = {"diagonal": predictive.prob_cosine,
          "full": predictive.prob_cosine_full,
          "tangent": predictive.prob_cosine_tangent}


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--num_images", type=int, default=10_000)
  parser.add_argument("--num_classes", type=int, default=1_000)
  parser.add_argument("--width", type=int, default=512, help="of embeddings")
  parser.add_argument("--image_inputs", type=int, default=768,
                      help="of the image projection")
  parser.add_argument("--text_inputs", type=int, default=512)
  parser.add_argument("--repeats", type=int, default=5)
  args = parser.parse_args()

  posterior = laplace.Posterior(
      laplace.Layer(_covariance(0, args.image_inputs),
                    _covariance(1, args.width)),
      laplace.Layer(_covariance(2, args.text_inputs),
                    _covariance(3, args.width)))
  activations, images = _embed(
      4, args.num_images, args.image_inputs, posterior.image)
  _, texts = _embed(5, args.num_classes, args.text_inputs, posterior.text)

  ways = {"matmul": (_similarities, (images.mean, texts.mean)),
          "matmul + softmax": (_own_predictions, (images.mean, texts.mean))}
  for name, form in _FORMS.items():
    ways[name] = (functools.partial(_predictions, form),
                  (images, texts, posterior))
    ways[f"{name} with spreads"] = (
        functools.partial(_predictions_with_spreads, form),
        (activations, images.mean, texts, posterior))
  ways["diagonal, any variances"] = (
      _predictions_of_any_variances, (images, texts, posterior))

  programs = {name: timing.compiled(fn, *given)
              for name, (fn, given) in ways.items()}
  differences = _check(programs, ways, images, texts, posterior)
  seconds = timing.measure_in_turns(
      {name: functools.partial(programs[name], *given)
       for name, (_, given) in ways.items()}, args.repeats)
  rows = [{
      "what": name, "ms": 1e3 * seconds[name],
      "over_matmul": seconds[name] / seconds["matmul"],
      "over_matmul_and_softmax": seconds[name] / seconds["matmul + softmax"],
      "temporary_mb": timing.temporary_bytes(program) / 1e6,
      "largest_error": differences.get(name),
  } for name, program in programs.items()]
  print(timing.table(rows))
  claims = [timing.Claim(
      f"{args.num_images} images, {args.num_classes} classes: diagonal "
      "ProbCosine and probit softmax over the similarity matmul alone",
      seconds["diagonal"] / seconds["matmul"], ceiling=_CEILING)]
  timing.write("predictive", {
      "dtype": "float32", "matmul_precision": "highest", **vars(args),
      "rows": rows}, claims)
  timing.finish(claims)


def _similarities(images, texts):
  """The model's own logits; both sides are of unit norm here.

  The scale is on the side with fewer rows: one pass over the logits less.
  """
  return jnp.matmul(images, (sizes.LOGIT_SCALE * texts).T,
                    precision=jax.lax.Precision.HIGHEST)


def _own_predictions(images, texts):
  return jax.nn.softmax(_similarities(images, texts))


def _predictions(form, images, texts, posterior):
  return jax.vmap(lambda image, texts, posterior: predictive.probit_softmax(
      form(image, texts, posterior, sizes.LOGIT_SCALE)), (0, None, None))(
          images, texts, posterior)


def _predictions_with_spreads(form, activations, means, texts, posterior):
  images = predictive.embedding(activations, means, posterior.image)
  return _predictions(form, images, texts, posterior)


def _predictions_of_any_variances(images, texts, posterior):
  """The diagonal form by three matmuls, blind to where variances come from."""
  variance = predictive.coordinate_variance
  return jax.vmap(
      lambda *image_and_texts: predictive.probit_softmax(
          predictive.prob_cosine_diagonal(*image_and_texts, sizes.LOGIT_SCALE)),
      (0, 0, None, None))(
          images.mean, variance(images, posterior.image),
          texts.mean, variance(texts, posterior.text))


def _check(programs, ways, images, texts, posterior):
  """Largest error of a probability, against a float64 loop over pairs.

  Raises:
    AssertionError: it is beyond 2e-5.
  """
  rows = slice(min(_CHECKED, len(images.mean)))
  found = {}
  for form in _FORMS:
    expected = _by_pairs(form, images, texts, posterior, rows)
    for name, (_, given) in ways.items():
      if name.startswith(form):
        got = np.asarray(programs[name](*given))[rows]
        found[name] = float(np.abs(got - expected).max())
        assert found[name] < 2e-5, f"{name}: off by {found[name]}"
  return found


def _by_pairs(form, images, texts, posterior, rows):
  """Probabilities from explicit covariances, one pair after the other."""
  double = lambda leaf: np.asarray(leaf, np.float64)
  images, texts, posterior = jax.tree.map(double, (images, texts, posterior))
  b_image, b_text = posterior.image.b_inv, posterior.text.b_inv
  if form == "diagonal":
    b_image, b_text = (np.diag(np.diag(b)) for b in (b_image, b_text))
  side = _turning if form == "tangent" else _whole
  images = [side(x, q * b_image)
            for x, q in zip(images.mean[rows], images.spread[rows])]
  logits = []
  for y, q in zip(texts.mean, texts.spread):
    y, y_shifted, y_cov = side(y, q * b_text)
    for x, x_shifted, x_cov in images:
      norms = (x @ x + np.trace(x_cov)) * (y @ y + np.trace(y_cov))
      variance = sizes.LOGIT_SCALE**2 / norms * (
          x @ y_cov @ x + y @ x_cov @ y + np.vdot(x_cov, y_cov))
      logits.append(sizes.LOGIT_SCALE * (x_shifted @ y_shifted) /
                    np.sqrt(norms) / np.sqrt(1 + np.pi / 8 * variance))
  logits = np.reshape(logits, (len(texts.mean), -1)).T
  exponents = np.exp(logits - logits.max(-1, keepdims=True))
  return exponents / exponents.sum(-1, keepdims=True)


def _whole(mean, covariance):
  return mean, mean, covariance


def _turning(mean, covariance):
  """A mean, it shifted, and what of the covariance is across it."""
  across = np.eye(len(mean)) - np.outer(mean, mean) / (mean @ mean)
  turns = across @ covariance @ across
  square = mean @ mean + np.trace(turns)
  return mean, mean - across @ covariance @ mean / square, turns


def _embed(seed, number, inputs, layer):
  """Random activations, and embeddings of unit norm that pretend to be theirs.
  """
  width = len(layer.b_inv)
  activations = jax.random.normal(jax.random.key(seed), (number, inputs))
  means = jax.random.normal(jax.random.key(seed + 10), (number, width))
  means = means / jnp.linalg.norm(means, axis=-1, keepdims=True)
  return activations, predictive.embedding(activations, means, layer)


def _covariance(seed, size):
  """A random one of trace 0.2: embeddings then vary by a fifth of their norm.
  """
  root = np.random.default_rng(seed).normal(size=(size, 2 * size))
  return jnp.asarray(0.1 / size**2 * root @ root.T, jnp.float32)


if __name__ == "__main__":
  main()
