"""How strong the prior is: its marginal likelihood, from spectra on the host.

The posterior's precision is (sqrt(tau) A + sqrt(lam) I) x (sqrt(tau) B +
sqrt(lam) I) with the prior precision lam and the pseudo-data count tau. Its
determinant needs the eigenvalues of A [p p] and B [d d] alone, so everything
here is NumPy in float64 and no setting of JAX matters.

Baumann et al., Post-hoc Probabilistic Vision-Language Models, ICLR 2026.
"""

from collections.abc import Callable, Sequence
import math
from typing import NamedTuple

import numpy as np

from jaxcal.typing import AnyArray
from jaxcal.typing import Float

FORMS = ("corrected", "superseded")
# Eigenvalues below zero by no more than this part of the largest are rounding;
# in factors that were summed in float32 1e-6 has been seen.
_ROUNDING = 1e-4


class Search(NamedTuple):
  """The best of a grid, and what was found at every point of it."""

  pseudo_count: float
  prior_precision: float | None
  scores: np.ndarray  # one row per pseudo-data count, lower is better


def spectrum(matrix: Float[AnyArray, "p p"]) -> np.ndarray:
  """Eigenvalues of a Kronecker factor, float64, ascending, none negative.

  The matrix is made symmetric first, and what rounding put below zero is zero.

  Raises:
    ValueError: Not a square and finite matrix, or one with an eigenvalue so far
      below zero that it is no sum of GGN blocks.
  """
  matrix = np.asarray(matrix, np.float64)
  if matrix.ndim != 2 or len(matrix) != matrix.shape[1] or not matrix.size:
    raise ValueError(f"a square matrix expected, but {matrix.shape=}")
  if not np.isfinite(matrix).all():
    raise ValueError("the matrix has entries that are not finite; were all "
                     "embeddings of its pairs?")
  values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
  if values[0] < -_ROUNDING * max(values[-1], 0):
    raise ValueError(
        "a positive semi-definite matrix expected, but its eigenvalues reach "
        f"from {values[0]:.3g} to {values[-1]:.3g}")
  return np.maximum(values, 0)


def log_marginal_likelihood(
    prior_precision: float,
    eig_a: Float[AnyArray, "p"] | Sequence[float],
    eig_b: Float[AnyArray, "d"] | Sequence[float],
    *,
    weight_norm2: float,
    pseudo_count: float,
    form: str = "corrected",
) -> float:
  """Laplace's log marginal likelihood of the prior precision, in nats.

  Up to what does not depend on it: the fit to the data and, as the prior has
  mean 0 and the posterior the trained weights, log determinants alone. With
  P = p d weights W,

    -lam |W|^2 / 2 + P log(lam) / 2 - L(lam),

  where L is half the log determinant of the posterior's precision,
  (d logdet A' + p logdet B') / 2 with A' = sqrt(tau) A + sqrt(lam) I and B'
  alike. Concave in log(lam).

  Args:
    prior_precision: Prior precision lam, above 0.
    eig_a: Spectrum of A, see `spectrum`.
    eig_b: Spectrum of B.
    weight_norm2: Sum of the squared weights of the projection, its bias
      included where A has a row for it.
    pseudo_count: Pseudo-data count tau, the factor of the likelihood's
      curvature.
    form: Form, "corrected", or "superseded" for L = p logdet A' + d logdet B',
      of which the published prior precisions are the optimum.

  Raises:
    ValueError: A number out of range, eigenvalues that are negative or not
      finite, or an unknown form.

  Source: Baumann et al., ICLR 2026, and their released code.
  Differs from the released code in: float64. The corrected form is that of
  later releases, the superseded one that of the first.
  """
  _check_positive(prior_precision=prior_precision)
  problem = _Problem.of(eig_a, eig_b, weight_norm2, pseudo_count, form)
  return problem.value(math.log(prior_precision))


def fit_prior_precision(
    eig_a: Float[AnyArray, "p"] | Sequence[float],
    eig_b: Float[AnyArray, "d"] | Sequence[float],
    *,
    weight_norm2: float,
    pseudo_count: float,
    form: str = "corrected",
) -> float:
  """The prior precision of the highest `log_marginal_likelihood`.

  The derivative by log(lam) falls all the way, so the maximum is unique and
  bisection finds it, to the last digits and from nowhere.

  Args:
    eig_a: See `log_marginal_likelihood`, as all others.
    eig_b: Eigenvalues, see `log_marginal_likelihood`.
    weight_norm2: Squared norm, see `log_marginal_likelihood`.
    pseudo_count: Pseudo-data count, see `log_marginal_likelihood`.
    form: Form, see `log_marginal_likelihood`.

  Raises:
    ValueError: As `log_marginal_likelihood`; or there is no maximum, because
      the factors have no curvature (in the superseded form: too low a rank).

  Source: Baumann et al., ICLR 2026.
  Differs from the released code in: bisection instead of a fixed number of
  Adam steps, which from a distant start does not arrive.
  """
  problem = _Problem.of(eig_a, eig_b, weight_norm2, pseudo_count, form)
  # The slope is at most (P - lam |W|^2) / 2.
  high = math.log(problem.num_weights / weight_norm2)
  step = 1.0
  while problem.slope(high - step) <= 0:
    step *= 2
    if step > 512:
      raise ValueError(
          "the marginal likelihood has no maximum: it grows without end as the "
          "prior precision falls. Eigenvalues reach up to "
          f"{np.max(eig_a):.3g} (A) and {np.max(eig_b):.3g} (B); a zero factor "
          "has no curvature to weigh the prior against")
  low = high - step
  for _ in range(64):
    middle = (low + high) / 2
    if problem.slope(middle) > 0:
      low = middle
    else:
      high = middle
  return math.exp((low + high) / 2)


def grid_search(
    pseudo_counts: Sequence[float],
    prior_precisions: Sequence[float | None],
    score: Callable[[float, float | None], float],
) -> Search:
  """The pair with the lowest score; of equal ones the first.

  Args:
    pseudo_counts: Candidates of the pseudo-data count.
    prior_precisions: Candidates for each of them; None stands for that of the
      marginal likelihood at the same pseudo-data count, which `score` takes
      from `fit_prior_precision`, side by side.
    score: Function from a pair to e.g. the mean negative log-likelihood on
      validation data.

  Raises:
    ValueError: No candidates, or a score that is NaN.
  """
  if not len(pseudo_counts) or not len(prior_precisions):
    raise ValueError("at least one candidate of each expected, but "
                     f"{pseudo_counts=}, {prior_precisions=}")
  scores = np.array([[score(count, precision) for precision in prior_precisions]
                     for count in pseudo_counts], np.float64)
  row, column = divmod(int(np.argmin(scores)), scores.shape[1])
  if np.isnan(scores[row, column]):
    raise ValueError(
        f"the score of pseudo count {pseudo_counts[row]} and prior precision "
        f"{prior_precisions[column]} is NaN")
  return Search(pseudo_counts[row], prior_precisions[column], scores)


class _Problem(NamedTuple):
  """The objective in x = log(lam).

  With r = sqrt(tau / lam) alpha, logdet A' = p x / 2 + sum log(1 + r). Terms
  in x are collected, so that nothing large cancels.
  """

  curvatures: tuple[np.ndarray, np.ndarray]  # sqrt(tau) times the spectra
  factors: tuple[float, float]  # of the two log determinants in L
  weight_norm2: float
  num_weights: int

  @classmethod
  def of(cls, eig_a, eig_b, weight_norm2, pseudo_count, form):
    eig_a, eig_b = _checked("eig_a", eig_a), _checked("eig_b", eig_b)
    _check_positive(weight_norm2=weight_norm2, pseudo_count=pseudo_count)
    if form not in FORMS:
      raise ValueError(
          f"unknown form {form!r}; choose from: {', '.join(FORMS)}.")
    p, d = len(eig_a), len(eig_b)
    root = math.sqrt(pseudo_count)
    return cls((root * eig_a, root * eig_b),
               (d / 2, p / 2) if form == "corrected" else (p, d),
               weight_norm2, p * d)

  @property
  def of_x(self):
    """Factor of x beside the sums: 0 in the corrected form."""
    return (self.num_weights - sum(
        factor * len(values)
        for factor, values in zip(self.factors, self.curvatures))) / 2

  def value(self, x):
    return (self.of_x * x - self.weight_norm2 * math.exp(x) / 2 - sum(
        factor * np.log1p(values * math.exp(-x / 2)).sum()
        for factor, values in zip(self.factors, self.curvatures)))

  def slope(self, x):
    """Derivative of `value`."""
    return self.of_x - self.weight_norm2 * math.exp(x) / 2 + sum(
        factor * (values / (values + math.exp(x / 2))).sum() / 2
        for factor, values in zip(self.factors, self.curvatures))


def _check_positive(**numbers):
  for name, number in numbers.items():
    if not 0 < number < math.inf:
      raise ValueError(f"{name} must be above 0 and finite, but is {number}")


def _checked(name, values):
  values = np.asarray(values, np.float64)
  if values.ndim != 1 or not values.size:
    raise ValueError(f"{name} must be eigenvalues, shape [p], but its shape is "
                     f"{values.shape}")
  bad = ~np.isfinite(values) | (values < 0)
  if bad.any():
    raise ValueError(
        f"eigenvalues must be finite and not negative, but in {name} "
        f"{bad.sum()} of {len(values)} are not, the first "
        f"{values[bad][0]}; see spectrum")
  return values
