"""A data set to tune on: the shots of every seed, and test images by half."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxcal.data import image_set as image_sets
from jaxcal.tuning import classes as classes_lib
from jaxcal.tuning import protocol
from jaxcal.typing import Int

# Which halves are predicted, by which classes are trained on; the first is
# trained.
HALVES = {"base": ("base", "new"), "all": ("all",)}


class Task(NamedTuple):
  """One data set.

  Attributes:
    name: Name of the set.
    tests: Test images by half of the classes, see `HALVES`.
    train: Images of the trained classes that some seed drew.
    rows: Positions among these of what each seed drew, in the order drawn.
    template: Prompt of zero-shot predictions and of what is not tuned.
  """

  name: str
  tests: Mapping[str, image_sets.ImageSet]
  train: image_sets.ImageSet
  rows: Int[np.ndarray, "s n"]
  template: str = classes_lib.GENERIC

  @property
  def class_names(self) -> tuple[str, ...]:
    """Names of the classes that are trained, in label order."""
    return self.train.class_names

  @property
  def seeds(self) -> range:
    """The seeds, from 1 as published."""
    return range(1, len(self.rows) + 1)

  @property
  def left_out(self) -> dict[str, Mapping[str, str]]:
    """Images that cannot be used: reasons by id, by the place of the set."""
    return {self.name: next(iter(self.tests.values())).left_out,
            f"{self.name}/train": self.train.left_out}

  def shots(self, seed: int) -> image_sets.ImageSet:
    """The images that a seed drew."""
    return image_sets.take(self.train, self.rows[seed - 1])


def of_splits(
    train: image_sets.ImageSet,
    test: image_sets.ImageSet,
    *,
    classes: str = "base",
    num_shots: int = 16,
    num_seeds: int = 3,
    template: str = classes_lib.GENERIC,
    allow_fewer: bool = False,
) -> Task:
  """The shots of some seeds and the test images of a data set.

  Args:
    train: Images to draw the shots from.
    test: Images to predict, of the same classes and none of them in `train`.
    classes: Classes to train on: "base", the first half, so that both halves
      are predicted, each among its own classes; or "all".
    num_shots: Images of each class.
    num_seeds: Number of draws, with the seeds 1, 2, ...
    template: Prompt of what is not tuned, with {} for the class name.
    allow_fewer: Whether a class with fewer images gives all that it has.

  Raises:
    ValueError: Too few images, none to train on, or ones of other classes.
  """
  if classes not in HALVES:
    raise ValueError(f"{classes=}, expected one of {', '.join(HALVES)}")
  if image_sets.shared_ids(train, test):
    raise ValueError(f"{test.name} has no split to train on: images of "
                     f"{train.name} are among those to be predicted; draw the "
                     "shots from other ones")
  if train.class_names != test.class_names:
    raise ValueError(
        f"{train.name} and {test.name} should have the same classes, but one "
        f"has {len(train.class_names)} and the other {len(test.class_names)}, "
        "or they differ in name")
  labels = _labels(classes, train.labels)
  trained = next(iter(labels.values()))
  drawn = []
  for seed in range(1, num_seeds + 1):
    chosen = protocol.draw_shots(
        train.labels, None, num_shots=num_shots,
        num_classes=len(train.class_names), seed=seed,
        allow_fewer=allow_fewer, class_names=train.class_names).train
    kept, _ = protocol.keep_positions(train.labels[chosen], trained)
    drawn.append(chosen[kept])
  union, rows = np.unique(np.stack(drawn), return_inverse=True)
  return Task(
      test.name,
      {half: protocol.keep_classes(test, of_half)
       for half, of_half in labels.items()},
      protocol.keep_classes(image_sets.take(train, union), trained),
      rows.reshape(len(drawn), -1), template)


def _labels(classes, train_labels):
  if classes == "base":
    return dict(zip(HALVES[classes], protocol.halves(train_labels)))
  return {"all": np.unique(train_labels)}
