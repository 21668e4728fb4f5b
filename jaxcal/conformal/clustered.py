"""Thresholds that classes of similar scores share: many classes, few images.

A threshold for each class needs (1 - alpha) / alpha images of it, and many more
for small sets. Here some of the calibration images say which classes are alike,
and the others calibrate each cluster of classes:

  parts = split_images(len(labels), 0.3, seed=0)
  of_class = clusters(own[parts.cluster], labels[parts.cluster], alpha=0.1,
                      num_classes=k, num_clusters=4)
  limits = thresholds(own[parts.calibrate], labels[parts.calibrate], of_class,
                      alpha=0.1, num_clusters=4)
  inside = split.prediction_sets(other_scores, limits)

Classes of a cluster are covered as often as promised on average over it; where
they are alike, each of them is nearly so. The images that made the clusters
must not calibrate them.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxcal.compiled import compiled_with
from jaxcal.conformal import split
from jaxcal.typing import AnyArray
from jaxcal.typing import Array
from jaxcal.typing import as_numpy
from jaxcal.typing import Float
from jaxcal.typing import Integer

# The shares of a class' scores that are below what describes it.
QUANTILES = (0.5, 0.6, 0.7, 0.8, 0.9)

_NUM_STARTS, _NUM_STEPS = 10, 300


class Parts(NamedTuple):
  """Positions of images that make clusters, and of those that calibrate."""
  cluster: Integer[np.ndarray, "a"]
  calibrate: Integer[np.ndarray, "b"]


def split_images(num_images: int, share: float, *, seed: int = 0) -> Parts:
  """Divides calibration images at random.

  Args:
    num_images: Number of calibration images.
    share: Share of the images that make clusters, in (0, 1).
    seed: Seed of the draw.

  Raises:
    ValueError: `share` is not in (0, 1).
  """
  if not 0 < share < 1:
    raise ValueError(f"expected a share in (0, 1), such as 0.3, but {share=}")
  order = np.random.default_rng(seed).permutation(num_images)
  return Parts(*np.split(order, [round(share * num_images)]))


def clusters(
    scores: Float[AnyArray, "n"],
    labels: Integer[AnyArray, "n"],
    *,
    alpha: float,
    num_classes: int,
    num_clusters: int,
    seed: int = 0,
) -> Integer[np.ndarray, "k"]:
  """Which classes have similar scores, by k-means of their quantiles.

  Args:
    scores: Scores of the images' own classes.
    labels: True classes.
    alpha: Share of images whose class may be missed, in (0, 1).
    num_classes: Number of classes.
    num_clusters: Number of clusters, at least one.
    seed: Seed of the starts of k-means.

  Returns:
    Cluster of each class; `num_clusters` for a class with too few images for a
    threshold of its own, and for all if no more classes than clusters are left.

  Raises:
    ValueError: `num_clusters` is less than one.

  Source: Ding et al., Class-Conditional Conformal Prediction with Many Classes,
  NeurIPS 2023.
  """
  if num_clusters < 1:
    raise ValueError(f"expected one cluster or more, but {num_clusters=}")
  scores, labels = as_numpy(scores), as_numpy(labels)
  counts = np.bincount(labels, minlength=num_classes)
  enough = np.array([split.threshold_rank(int(count), alpha) <= count
                     for count in counts])
  found = np.full(num_classes, num_clusters)
  if enough.sum() > num_clusters:
    points = np.stack([_quantiles(scores[labels == one])
                       for one in np.flatnonzero(enough)])
    found[enough] = _k_means(points, np.sqrt(counts[enough]), num_clusters,
                             np.random.default_rng(seed))
  return found


@compiled_with("alpha", "num_clusters")
def thresholds(
    scores: Float[AnyArray, "n"],
    labels: Integer[AnyArray, "n"],
    cluster_of_class: Integer[AnyArray, "k"],
    *,
    alpha: float,
    num_clusters: int,
) -> Float[Array, "k"]:
  """A threshold for each class, that of its cluster.

  Args:
    scores: Scores of the calibration images' own classes, of images that did
      not make the clusters.
    labels: True classes.
    cluster_of_class: Clusters from `clusters`.
    alpha: Share of images whose class may be missed, in (0, 1); static.
    num_clusters: Number of clusters.

  Returns:
    Thresholds for `split.prediction_sets`; of a class without a cluster, that
    of all images, as in the source.
  """
  of_class = jnp.asarray(cluster_of_class)
  found = split.group_thresholds(
      scores, of_class[jnp.asarray(labels)], alpha, num_groups=num_clusters)
  return jnp.append(found, split.threshold(scores, alpha))[of_class]


def _quantiles(scores):
  """What describes a class: its scores of these ranks."""
  ranks = np.ceil(np.array(QUANTILES) * len(scores)).astype(int)
  return np.sort(scores)[ranks - 1]


def _k_means(points, weights, num_clusters, rng):
  """Cluster of each point, the best of some starts."""
  runs = [_from_start(points, weights, points[rng.choice(
      len(points), num_clusters, replace=False)]) for _ in range(_NUM_STARTS)]
  return min(runs, key=lambda run: run[1])[0]


def _from_start(points, weights, centres):
  """Clusters and the weighted sum of squared distances."""
  for _ in range(_NUM_STEPS):
    distances = np.sum((points[:, None] - centres[None]) ** 2, axis=-1)
    nearest = distances.argmin(1)
    mass = (nearest == np.arange(len(centres))[:, None]) * weights
    total = mass.sum(1, keepdims=True)
    moved = np.where(total > 0, mass @ points / np.where(total > 0, total, 1),
                     centres)
    if np.array_equal(moved, centres):
      break
    centres = moved
  return nearest, float(weights @ distances.min(1))
