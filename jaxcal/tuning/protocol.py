"""The few-shot protocol: shots, base and new classes, and its summaries.

Zhou et al., Conditional Prompt Learning for Vision-Language Models, CVPR 2022,
trains on the first half of the classes and tests on both halves. Zhou et al.,
Learning to Prompt for Vision-Language Models, IJCV 2022, draws the shots and
tests on other data sets: for those, a trained method is only asked about other
class names, and `class_positions` says where they were in training.
"""

import collections
from collections.abc import Sequence
import random
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.compiled import compiled_with
from jaxcal.data import image_set as image_sets
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Int

# As many validation images per class are drawn as shots, but no more than:
MAX_VALIDATION_SHOTS = 4


class Shots(NamedTuple):
  """Positions of the images that were drawn, in the order drawn.

  Attributes:
    train: Rows in the training split.
    val: Rows in the validation split; None where there is none.
  """

  train: Int[np.ndarray, "n"]
  val: Int[np.ndarray, "n"] | None


class FewShot(NamedTuple):
  """The few images that a method may see; `val` is for recalibration."""

  train: image_sets.ImageSet
  val: image_sets.ImageSet | None


class Spread(NamedTuple):
  """A number over seeds.

  Attributes:
    mean: Mean over the seeds.
    std: Sample standard deviation over the seeds; NaN for a single one.
  """

  mean: float
  std: float


class BaseToNew(NamedTuple):
  """One metric on the base and on the new classes, over seeds.

  The means of the two are taken seed by seed. Tables of accuracy print the
  harmonic mean; the column "HM" of the paper on Dynamic Outlier Regularisation
  is the arithmetic mean.
  """

  base: Spread
  new: Spread
  arithmetic_mean: Spread
  harmonic_mean: Spread


def draw_shots(
    train_labels: Int[np.ndarray, "n"],
    val_labels: Int[np.ndarray, "m"] | None,
    *,
    num_shots: int,
    num_classes: int,
    seed: int,
    allow_fewer: bool = False,
    class_names: Sequence[str] | None = None,
) -> Shots:
  """Which images of each class are the few shots.

  One generator serves both splits: for each class in the order of its first
  image, `num_shots` training images, then for validation as many but at most
  `MAX_VALIDATION_SHOTS`. The draw covers all classes, those to be left out for
  base or new included. It depends on the order of the images, so that order
  must be the same on every machine.

  Args:
    train_labels: Labels of the training split, in its order.
    val_labels: Labels of the validation split; None where there is none.
    num_shots: Images per class, at least 1.
    num_classes: How many classes there are.
    seed: Seed of the draw; published results use 1, 2 and 3.
    allow_fewer: Whether to take all images of a class that has fewer than it
      should.
    class_names: Names of the classes in label order, for errors.

  Raises:
    ValueError: If `num_shots` is below 1, a label is outside the classes, or a
      class has no images or (without `allow_fewer`) too few.

  Source: Zhou et al., IJCV 2022 (KaiyangZhou/CoOp with Dassl.pytorch).
  Differs from the released code in: classes without images or with too few are
  refused unless asked otherwise; no draw is read from a cached file.
  """
  if num_shots < 1:
    raise ValueError(f"expected at least 1 shot per class, got {num_shots}.")
  rng = random.Random(seed)
  names = class_names or [f"label {label}" for label in range(num_classes)]
  train = _draw(rng, train_labels, num_shots, names, "training", allow_fewer)
  if val_labels is None:
    return Shots(train, None)
  return Shots(train, _draw(
      rng, val_labels, min(num_shots, MAX_VALIDATION_SHOTS), names,
      "validation", allow_fewer))


def few_shot(
    train: image_sets.ImageSet,
    val: image_sets.ImageSet | None,
    *,
    num_shots: int,
    seed: int,
    allow_fewer: bool = False,
) -> FewShot:
  """The few shots of two splits of a data set; see `draw_shots`.

  Args:
    train: The training split.
    val: The validation split, with the same classes; None where there is none.
    num_shots: Images per class, at least 1.
    seed: Seed of the draw.
    allow_fewer: Whether to take all images of a class that has fewer than it
      should.

  Raises:
    ValueError: As `draw_shots` does, or if the splits differ in their classes.
  """
  if val is not None and val.class_names != train.class_names:
    raise ValueError(
        f"training has {len(train.class_names)} classes and validation "
        f"{len(val.class_names)}, or they differ in name; expected two splits "
        "of one data set.")
  shots = draw_shots(
      train.labels, None if val is None else val.labels, num_shots=num_shots,
      num_classes=len(train.class_names), seed=seed, allow_fewer=allow_fewer,
      class_names=train.class_names)
  return FewShot(
      image_sets.take(train, shots.train),
      None if val is None or shots.val is None
      else image_sets.take(val, shots.val))


def halves(labels: Int[np.ndarray, "n"]) -> tuple[
    Int[np.ndarray, "b"], Int[np.ndarray, "c"]]:
  """Base and new classes: the distinct labels in order, cut in the middle.

  Args:
    labels: Labels of the training split; repeated ones count once.

  Returns:
    Sorted labels of the base classes, one more where their number is odd, and
    of the new classes.

  Raises:
    ValueError: If there are fewer than two distinct labels.
  """
  classes = np.unique(np.asarray(labels))
  if classes.size < 2:
    raise ValueError("expected at least two classes to have base and new ones, "
                     f"got {classes.tolist()}.")
  middle = (classes.size + 1) // 2
  return classes[:middle], classes[middle:]


def keep_positions(
    labels: Int[np.ndarray, "n"], classes: Int[np.ndarray, "k"]
) -> tuple[Int[np.ndarray, "m"], Int[np.ndarray, "m"]]:
  """The examples of some classes, and their labels counted from 0.

  Args:
    labels: Labels of all examples.
    classes: Distinct labels to keep; the i-th becomes the label i.

  Returns:
    Positions in `labels`, ascending, and new labels in [0, k).

  Raises:
    ValueError: If there are no classes, or one occurs twice.
  """
  labels, classes = np.asarray(labels), np.asarray(classes)
  order = np.argsort(classes)
  ordered = classes[order]
  if classes.ndim != 1 or not classes.size or (np.diff(ordered) == 0).any():
    raise ValueError("expected distinct classes, at least one, got "
                     f"{classes.tolist()}.")
  kept = np.flatnonzero(np.isin(labels, classes))
  relabelled = order[np.searchsorted(ordered, labels[kept])]
  return kept, relabelled.astype(np.int32)


def keep_classes(
    image_set: image_sets.ImageSet, classes: Int[np.ndarray, "k"]
) -> image_sets.ImageSet:
  """The images of some classes, with those classes as the only candidates.

  Args:
    image_set: Image set, any split.
    classes: Distinct labels to keep, such as one of the `halves` of the
      training split; the i-th becomes the label i.

  Raises:
    ValueError: If there are no classes, one occurs twice or is not in the set,
      or none has an image.
  """
  kept, labels = keep_positions(image_set.labels, classes)
  outside = [int(c) for c in classes if not 0 <= c < len(image_set.class_names)]
  if outside:
    raise ValueError(f"{image_set.name!r} has {len(image_set.class_names)} "
                     f"classes and none with the labels {outside[:10]}.")
  if not kept.size:
    raise ValueError(f"{image_set.name!r} has no image of the {len(classes)} "
                     "classes to keep.")
  return image_sets.take(image_set, kept)._replace(
      labels=labels,
      class_names=tuple(image_set.class_names[int(c)] for c in classes))


def plain_name(name: str) -> str:
  """A class name for comparison: lower case, underscores as spaces."""
  return " ".join(name.replace("_", " ").lower().split())


def class_positions(
    class_names: Sequence[str], trained_names: Sequence[str]
) -> Int[np.ndarray, "k"]:
  """Where the classes of a data set were among those of training.

  For parameters that belong to a class each, when only some of the classes are
  asked for: ImageNet-A and ImageNet-R have 200 of ImageNet's thousand.

  Args:
    class_names: What is asked for. Compared by `plain_name`; a name that
      training had twice must be there twice, and keeps its order.
    trained_names: Names of the classes in the order of training.

  Raises:
    ValueError: If training did not have a name, or not as often.
  """
  places = collections.defaultdict(list)
  for place, name in enumerate(trained_names):
    places[plain_name(name)].append(place)
  asked = collections.Counter(map(plain_name, class_names))
  unknown = [name for name in asked if name not in places]
  if unknown:
    raise ValueError(
        f"{len(unknown)} of {len(class_names)} classes were not among the "
        f"{len(trained_names)} of training, such as {', '.join(unknown[:10])}; "
        "their parameters are not known.")
  unequal = [name for name, count in asked.items()
             if count != len(places[name])]
  if unequal:
    raise ValueError(
        f"the name {unequal[0]!r} stands for {len(places[unequal[0]])} classes "
        f"of training and is asked for {asked[unequal[0]]} times; which one is "
        "meant cannot be told by name.")
  return np.array(
      [places[plain_name(name)].pop(0) for name in class_names], np.int32)


def harmonic_mean(
    base: Float[np.ndarray, "s"], new: Float[np.ndarray, "s"]
) -> Float[np.ndarray, "s"]:
  """2 / (1 / base + 1 / new), zero where either is.

  Raises:
    ValueError: If a value is negative.
  """
  base, new = np.asarray(base, np.float64), np.asarray(new, np.float64)
  if (base < 0).any() or (new < 0).any():
    raise ValueError("a harmonic mean is of values that are not negative.")
  total = base + new
  return 2 * base * new / np.where(total > 0, total, 1)


def summarise(
    base: Float[np.ndarray, "s"], new: Float[np.ndarray, "s"]
) -> BaseToNew:
  """A metric of base and new classes over seeds, and both means of the two.

  Over several data sets, average a seed's values over them first.

  Args:
    base: Values on the base classes, one per seed, at least one; not negative.
    new: Values on the new classes, of the same seeds.

  Returns:
    Numbers in the unit of the values.

  Raises:
    ValueError: If there are no values, not as many of each, or negative ones.
  """
  base, new = np.asarray(base, np.float64), np.asarray(new, np.float64)
  if base.ndim != 1 or not base.size or base.shape != new.shape:
    raise ValueError("expected one value per seed of base and of new classes, "
                     f"but {base.shape=} and {new.shape=}.")
  return BaseToNew(*map(_spread, (
      base, new, (base + new) / 2, harmonic_mean(base, new))))


@compiled_with("num_neighbours")
def neighbour_distances(
    features: Float[Array, "k d"], num_neighbours: int = 5
) -> Float[Array, "k"]:
  """Mean distance of each class feature to its nearest others; see `fd_score`.

  Raises:
    ValueError: If there are fewer than two features or no neighbours.
  """
  if features.ndim != 2 or features.shape[0] < 2:
    raise ValueError("expected features [classes, dimensions] of at least two "
                     f"classes, but {features.shape=}.")
  if num_neighbours < 1:
    raise ValueError(f"expected at least 1 neighbour, got {num_neighbours}.")
  num_classes = features.shape[0]
  taken = min(num_neighbours, num_classes - 1)

  def distance(i):
    distances = jnp.linalg.norm(features - features[i][None], axis=-1)
    return jnp.sort(distances.at[i].set(jnp.inf))[:taken].mean()

  # One class after the other: all differences at once are [k k d].
  return jax.lax.map(distance, jnp.arange(num_classes))


@compiled_with("num_neighbours")
def fd_score(
    features: Float[Array, "k d"], num_neighbours: int = 5
) -> Float[Array, ""]:
  r"""Textual divergence: mean distance of class features to their neighbours.

  .. math:: \frac{1}{K} \sum_i \frac{1}{M} \sum_{j \in N_M(i)}
            \lVert w_i - w_j \rVert_2

  Grows where tuning pushes classes apart, for new classes along with the base
  classes.

  Args:
    features: Unit-norm text features.
    num_neighbours: Number M of nearest other classes that count; all others
      where there are not so many.

  Returns:
    Distance in [0, 2].

  Raises:
    ValueError: If there are fewer than two features or no neighbours.

  Source: Wang, Li, Wei, Dynamic Outlier Regularization, ICML 2025, arXiv
  2410.02681, Definition 3.1.
  Differs from the released code in: could not be compared with one. The
  distance (Euclidean) and M are not published.
  """
  return jnp.mean(neighbour_distances(features, num_neighbours))


def _draw(rng, labels, num_shots, names, split, allow_fewer):
  """Positions of a split: classes by first appearance, then as drawn."""
  of_class: dict[int, list[int]] = {}
  num_classes = len(names)
  for position, label in enumerate(np.asarray(labels).tolist()):
    of_class.setdefault(label, []).append(position)
  outside = sorted(set(of_class) - set(range(num_classes)))
  if outside:
    raise ValueError(f"the {split} split has the label {outside[0]}, outside "
                     f"[0, {num_classes}).")
  empty = sorted(set(range(num_classes)) - set(of_class))
  if empty:
    raise ValueError(f"{len(empty)} of {num_classes} classes have no image in "
                     f"the {split} split, such as {names[empty[0]]}.")
  few = [c for c, positions in of_class.items() if len(positions) < num_shots]
  if few and not allow_fewer:
    raise ValueError(
        f"{len(few)} of {num_classes} classes have fewer than {num_shots} "
        f"images in the {split} split, such as {names[few[0]]} with "
        f"{len(of_class[few[0]])}; ask for fewer shots, or take all images of "
        "such classes with allow_fewer=True (--config.tune.allow_fewer).")
  drawn: list[int] = []
  for label, positions in of_class.items():
    # As released, a class that is short does not touch the generator.
    short = len(positions) < num_shots
    drawn += positions if short else rng.sample(positions, num_shots)
  return np.array(drawn, np.int64)


def _spread(values):
  std = float(values.std(ddof=1)) if values.size > 1 else float("nan")
  return Spread(float(values.mean()), std)
