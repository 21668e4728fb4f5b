"""Greedy acquisition that learns from each label before it asks for the next.

Baumann et al., Post-hoc Probabilistic Vision-Language Models, ICLR 2026.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.posterior import acquisition
from jaxcal.posterior import curvature
from jaxcal.posterior import laplace
from jaxcal.posterior import marginal
from jaxcal.posterior import model as models
from jaxcal.posterior import predictive
from jaxcal.typing import AnyArray
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Key
from jaxcal.typing import Pooled

# Labels of a pool, or who gives that of one row when asked.
Labels = Int[AnyArray, "n"] | Callable[[int], int]


class Learner(NamedTuple):
  """What learning from single labels needs beside the model.

  Attributes:
    factors: Factors of the image projection, as estimated before.
    pseudo_count: How often the curvature of each pair counts.
    prior_precision: Prior precision of the image projection; where learning
      starts.
    learning_rate: Learning rate of the step that each label takes the weights.
    label_weight: How many pairs the curvature of one label counts for.
    refit: Whether the prior precision is fitted again after each label.
  """

  factors: curvature.Factors
  pseudo_count: float
  prior_precision: float
  learning_rate: float = 1e-4
  label_weight: float = 10.0
  refit: bool = True


class State(NamedTuple):
  """After some labels; all that the next one is chosen from.

  Attributes:
    model: Model with the weights and the image posterior of now.
    learner: Learner with the factors and the prior precision of now.
    picked: Rows of the pool, in the order of picking.
  """

  model: models.Model
  learner: Learner
  picked: tuple[int, ...] = ()


def start(model: models.Model, learner: Learner) -> State:
  """Before the first label; the image posterior becomes the learner's."""
  return State(_with_posterior(model, learner), learner)


def scores(
    key: Key[Array, ""],
    state: State,
    pool: Pooled,
    targets: Pooled,
    *,
    num_samples: int = 100,
) -> Float[Array, "n"]:
  """`acquisition.epig` of a pool's rows, in nats, from shared weight samples.

  Every number of labels has samples of its own: the draws come from `key` and
  from how many rows have been picked.

  Args:
    key: Random key, the same for all rounds.
    state: State from `start` or `learn`.
    pool: Candidates; picked rows are scored too.
    targets: Images whose predictions matter.
    num_samples: Number of samples of the weights.
  """
  return epig(jax.random.fold_in(key, len(state.picked)), state.model, pool,
              targets, num_samples=num_samples)


@functools.partial(jax.jit, static_argnames="num_samples")
def epig(
    key: Key[Array, ""],
    model: models.Model,
    pool: Pooled,
    targets: Pooled,
    *,
    num_samples: int = 100,
) -> Float[Array, "n"]:
  """`acquisition.epig` from weights that pool and targets share, in nats."""
  probs = jax.nn.softmax(models.sample_logits(
      key, model, models.join(pool, targets), num_samples=num_samples))
  size = models.size(pool)
  return acquisition.epig(probs[:size], probs[size:])


def learn(
    state: State, row: int, image: Pooled, label: int | np.integer) -> State:
  r"""Takes in one label.

  The weights go one step down the cross-entropy of the mean logits; then the
  image enters the curvature as `label_weight` pairs do,

  .. math:: A \leftarrow \frac{\sqrt{n} A + \eta \tilde a \tilde a^T}
            {\sqrt{n + 1}}, \quad
            B \leftarrow \frac{\sqrt{n} B + \eta H}{\sqrt{n + 1}}

  with H the GGN block of its embedding against the classes, for the loss that
  the model was trained with.

  Args:
    state: State before the label; stays as it is.
    row: Row of the pool, for `picked`.
    image: Inputs of this one image, [1 p].
    label: Class of the image.

  Returns:
    The state with new weights, factors, prior precision and posterior.

  Raises:
    ValueError: A label that is no class, or more than one image.

  Source: Baumann et al., ICLR 2026.
  Differs from the released code in: the curvature takes the outer product of
  the activations, not their squared norm in every entry; residual and bias
  have a part in the step and in the curvature; models of the sigmoid loss have
  their own block; the prior precision is fitted to the end instead of by 20
  small steps; nothing is changed in place.
  """
  num_classes = len(state.model.text_embeddings)
  if not 0 <= label < num_classes:
    raise ValueError(f"row {row} has the label {label}, but there are "
                     f"{num_classes} classes.")
  if models.size(image) != 1:
    raise ValueError(f"one image expected, but {models.size(image)} came.")
  learner = state.learner
  weights, a, b = _update(state.model, learner.factors, image, label,
                          learner.learning_rate, learner.label_weight)
  factors = curvature.Factors(a, b, learner.factors.num_pairs + 1)
  learner = learner._replace(factors=factors)
  if learner.refit:
    learner = learner._replace(prior_precision=marginal.fit_prior_precision(
        marginal.spectrum(factors.a), marginal.spectrum(factors.b),
        weight_norm2=float(np.sum(np.square(np.asarray(weights, np.float64)))),
        pseudo_count=learner.pseudo_count))
  model = _with_posterior(state.model._replace(weights=weights), learner)
  return State(model, learner, (*state.picked, int(row)))


def select(
    key: Key[Array, ""],
    state: State,
    pool: Pooled,
    targets: Pooled,
    labels: Labels,
    *,
    budget: int,
    num_samples: int = 100,
    candidates: Int[np.ndarray, "c"] | None = None,
) -> State:
  """Picks rows one at a time, learning from each, until there are `budget`.

  Picks the highest of `scores` among the rows that are not picked yet; of equal
  ones the lowest. Calling again with the state that came back, the same key and
  a larger budget goes on as if it had not stopped.

  Args:
    key: Random key of the weight samples.
    state: State from `start`, or from an earlier call.
    pool: Inputs of all rows.
    targets: Images whose predictions matter.
    labels: Labels of the pool; an array, or a function of a row that is called
      once for each pick.
    budget: Number of picks, those in `state` included.
    num_samples: Number of samples of the weights.
    candidates: Distinct rows that may be picked; all if None.

  Raises:
    ValueError: Fewer candidates than picks, or see `learn`.

  Source: Baumann et al., ICLR 2026.
  Differs from the released code in: pool and targets share their weight
  samples, see `acquisition.epig`; float32 instead of float16; the candidates
  are the caller's; see also `learn`.
  """
  rows = np.sort(np.arange(models.size(pool)) if candidates is None
                 else np.asarray(candidates))
  if len(np.setdiff1d(rows, state.picked)) < budget - len(state.picked):
    raise ValueError(f"{budget} picks need as many candidates, but there are "
                     f"{len(rows)}.")
  among = models.take(pool, rows)
  while len(state.picked) < budget:
    found = np.array(scores(key, state, among, targets,
                            num_samples=num_samples))
    found[np.isin(rows, state.picked)] = -np.inf
    row = int(rows[found.argmax()])
    label = labels(row) if callable(labels) else labels[row]
    state = learn(state, row, models.take(pool, np.array([row])), int(label))
  return state


def _with_posterior(model, learner):
  layer = laplace.kronecker_posterior(
      learner.factors, pseudo_count=learner.pseudo_count,
      prior_precision=learner.prior_precision)
  return model._replace(posterior=model.posterior._replace(image=layer))


@jax.jit
def _update(model, factors, image, label, learning_rate, label_weight):
  """Weights after a step, and the factors with one more image."""
  spread = models.image_embeddings(model, image).spread

  def loss(weights):
    embedded = predictive.Embedding(models.embed(weights, image), spread)
    cosines = models.cosines_of(model, embedded)
    return -jax.nn.log_softmax(cosines.mean[0])[label]

  weights = model.weights - learning_rate * jax.grad(loss)(model.weights)
  embedding = models.embed(weights, image)[0]
  point = (embedding, model.text_embeddings, model.logit_scale)
  block = (curvature.infonce_block(*point) if model.logit_bias is None
           else curvature.sigmoid_block(*point, model.logit_bias))
  inputs = models.widen(image.activations, len(weights))[0]
  old, new = jnp.sqrt(factors.num_pairs), jnp.sqrt(factors.num_pairs + 1.0)
  return (weights,
          (old * factors.a + label_weight * jnp.outer(inputs, inputs)) / new,
          (old * factors.b + label_weight * block) / new)
