"""What prediction sets are worth, and what perfect ones would show.

`measure` is of arrays, for `jit` and `vmap`; the rest is exact arithmetic on
the host.
"""

import fractions
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxcal.compiled import compiled_with
from jaxcal.conformal import split
from jaxcal.typing import AnyArray
from jaxcal.typing import Array
from jaxcal.typing import Bool
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Integer

# The largest sizes of sets of the strata but for the last, which has the rest.
STRATA = (1, 3, 10, 100)

# A split is valid if its coverage is at most this much below what is promised.
SLACK = 0.005


class Measures(NamedTuple):
  """Measures of the sets of some images; shares, sizes and images.

  Attributes:
    coverage: Share of the images whose class is in their set.
    mean_size: Mean number of classes in a set.
    median_size: Median number of classes in a set.
    empty: Share of the sets without a class.
    singletons: Share of the sets of one class.
    singleton_hits: Share of the images whose set is their class alone.
    class_gap: Mean distance of a class' coverage from 1 - alpha, over the
      classes that there are images of; 100 of it are the CCV of some papers.
    stratum_gap: Largest distance of a stratum's coverage from 1 - alpha, where
      strata are images with sets of similar size (SSCV), see `STRATA`.
    stratum_images: Number of images in that stratum, often few.
    classes_below: Number of classes with a coverage below 1 - alpha.
  """

  coverage: Float[Array, ""]
  mean_size: Float[Array, ""]
  median_size: Float[Array, ""]
  empty: Float[Array, ""]
  singletons: Float[Array, ""]
  singleton_hits: Float[Array, ""]
  class_gap: Float[Array, ""]
  stratum_gap: Float[Array, ""]
  stratum_images: Int[Array, ""]
  classes_below: Int[Array, ""]


class Promise(NamedTuple):
  """The coverage of a correct method, over draws of all its images.

  Attributes:
    mean: Mean coverage, at least 1 - alpha.
    std: Standard deviation of the coverage.
    low: Lower end of the band.
    high: Upper end of the band.
    valid: Probability of a coverage of 1 - alpha - `SLACK` or more.
  """

  mean: float
  std: float
  low: float
  high: float
  valid: float


@compiled_with("alpha")
def measure(
    sets: Bool[AnyArray, "m k"],
    labels: Integer[AnyArray, "m"],
    alpha: float,
) -> Measures:
  """All measures of the sets of some images.

  Args:
    sets: Sets, as `split.prediction_sets` gives them.
    labels: True classes.
    alpha: Share of images whose class may be missed; static.
  """
  sets, labels = jnp.asarray(sets), jnp.asarray(labels)
  covered = jnp.take_along_axis(sets, labels[:, None], axis=-1)[:, 0]
  return of_sizes(jnp.sum(sets, axis=-1), covered, labels, alpha,
                  num_classes=sets.shape[-1])


@compiled_with("alpha", "num_classes")
def of_sizes(
    size: Int[Array, "m"],
    covered: Bool[Array, "m"],
    labels: Integer[Array, "m"],
    alpha: float,
    *,
    num_classes: int,
) -> Measures:
  """All measures of sets, from what they need to know of each.

  Args:
    size: Number of classes in each set.
    covered: Whether the true class is among them.
    labels: True classes.
    alpha: Share of images whose class may be missed; static.
    num_classes: Number of classes.
  """
  strata = jnp.searchsorted(jnp.asarray(STRATA), size)
  by_class, _ = _coverage_by(labels, covered, num_classes)
  by_stratum, counts = _coverage_by(strata, covered, len(STRATA) + 1)
  gaps = jnp.abs(by_stratum - (1 - alpha))
  worst = jnp.nanargmax(gaps)
  # Of booleans, jax takes means in float32 whatever its width.
  mean = lambda values: jnp.mean(values.astype(float))
  return Measures(
      coverage=mean(covered), mean_size=mean(size),
      median_size=jnp.median(size), empty=mean(size == 0),
      singletons=mean(size == 1),
      singleton_hits=mean((size == 1) & covered),
      class_gap=jnp.nanmean(jnp.abs(by_class - (1 - alpha))),
      stratum_gap=gaps[worst], stratum_images=counts[worst],
      classes_below=jnp.sum(by_class < 1 - alpha))


def promise(
    num_calibration: int, num_images: int, alpha: float, *,
    level: float = 0.95,
) -> Promise:
  """What split conformal prediction promises of the coverage on some images.

  The number of images that are covered is beta-binomial, Beta(r, n + 1 - r)
  with r of `split.threshold_rank`, if no two scores are equal; of equal ones it
  can only be higher. It holds for random splits of one set of images, too.

  Args:
    num_calibration: Number of calibration images, n.
    num_images: Number of images with sets.
    alpha: Share of images whose class may be missed, in (0, 1).
    level: Probability of the band, in (0, 1).

  Raises:
    ValueError: `alpha` is not in (0, 1).
  """
  rank = split.threshold_rank(num_calibration, alpha)
  if rank > num_calibration:  # full sets
    return Promise(1.0, 0.0, 1.0, 1.0, 1.0)
  from scipy import stats
  law = stats.betabinom(num_images, rank, num_calibration + 1 - rank)
  lowest = 1 - fractions.Fraction(str(alpha)) - fractions.Fraction(str(SLACK))
  tail = (1 - level) / 2
  return Promise(
      mean=rank / (num_calibration + 1),
      std=float(law.std()) / num_images,
      low=float(law.ppf(tail)) / num_images,
      high=float(law.ppf(1 - tail)) / num_images,
      valid=float(law.sf(math.ceil(num_images * lowest) - 1)))


def class_gap_floor(
    images_of_class: Integer[AnyArray, "*s k"], alpha: float) -> float:
  """The class gap of sets that cover every class with probability 1 - alpha.

  Args:
    images_of_class: Numbers of images of each class, perhaps of several splits,
      over which the floor is a mean.
    alpha: Share of images whose class may be missed, in (0, 1).

  Returns:
    The mean over classes with images of E|B / n - (1 - alpha)|, where B is
    binomial.
  """
  counts = np.asarray(images_of_class).reshape(-1, images_of_class.shape[-1])
  of_count = {int(count): _mean_distance(int(count), 1 - alpha)
              for count in np.unique(counts) if count}
  return float(np.mean([
      np.mean([of_count[int(count)] for count in row if count])
      for row in counts]))


def _mean_distance(count, share):
  """Of a binomial share from its expectation."""
  from scipy import stats
  hits = np.arange(count + 1)
  return np.sum(
      stats.binom.pmf(hits, count, share) * np.abs(hits / count - share))


def _coverage_by(groups, covered, num_groups):
  """Coverage of each group, NaN without images, and the number of these."""
  count = jnp.bincount(groups, length=num_groups)
  hits = jnp.bincount(groups, weights=covered.astype(float), length=num_groups)
  return hits / count, count
