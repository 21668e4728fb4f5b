"""Orders in which methods with a state see the images of a set."""

from collections.abc import Sequence

import numpy as np

from jaxcal.typing import as_numpy
from jaxcal.typing import Int
from jaxcal.typing import Labels
from jaxcal.typing import Positions

# "sorted" is one class after the other.
KINDS = ("shuffled", "given", "sorted")


def order(
    kind: str, labels: Labels, seed: int, *, num_others: int = 0
) -> Int[np.ndarray, "n"]:
  """Positions of the images in the order of a stream.

  Images of other classes, which come after these in the set, stand among them:
  "shuffled", at random places; "given", spread evenly; "sorted", all of them
  together, as a class of their own. The images keep the order that they have
  without the others.

  Args:
    kind: Kind of the order: "shuffled", all images at random; "given", as they
      come; "sorted", one class after the other, the classes at random and the
      images of each at random.
    labels: True classes of the images, at which "sorted" alone looks.
    seed: Seed of what is random in it.
    num_others: Number of images of other classes.

  Raises:
    ValueError: An unknown kind.
  """
  labels = as_numpy(labels)
  found = _order(kind, labels, seed)
  if not num_others:
    return found
  return _among(kind, labels[found], found, num_others, seed)


def _order(kind, labels, seed):
  if kind == "given":
    return np.arange(len(labels))
  rng = np.random.default_rng(seed)
  shuffled = rng.permutation(len(labels))
  if kind == "shuffled":
    return shuffled
  if kind != "sorted":
    raise ValueError(f"unknown order {kind!r} of the images; choose from: "
                     f"{', '.join(KINDS)}")
  classes = np.unique(labels)
  place = rng.permutation(len(classes))[np.searchsorted(classes, labels)]
  return shuffled[np.argsort(place[shuffled], kind="stable")]


def _among(kind, labels, order, num_others, seed):
  """The order with others among its images, whose labels are in that order."""
  total = len(order) + num_others
  others = np.arange(len(order), total)
  if kind == "given":
    # The middle of each one's share of the stream.
    middle = lambda number: (np.arange(number) + 0.5) / number
    return np.argsort(np.concatenate([middle(len(order)), middle(num_others)]),
                      kind="stable")
  rng = np.random.default_rng([seed, num_others])
  others = rng.permutation(others)
  if kind == "sorted":
    begins = np.flatnonzero(np.diff(labels)) + 1
    return np.insert(order, rng.choice([0, *begins, len(order)]), others)
  found, is_other = np.empty(total, int), np.zeros(total, bool)
  is_other[rng.choice(total, num_others, replace=False)] = True
  found[is_other], found[~is_other] = others, order
  return found


def orders(
    kind: str, labels: Labels, seeds: Sequence[int], *, num_others: int = 0
) -> dict[int, Int[np.ndarray, "n"]]:
  """An order for each seed, see `order`."""
  return {seed: order(kind, labels, seed, num_others=num_others)
          for seed in seeds}


def checked(
    order: Positions | None, num_images: int) -> Int[np.ndarray, "n"]:
  """An order that somebody gives; the images as they come if None.

  Args:
    order: Positions of the images.
    num_images: Number of images.

  Raises:
    ValueError: It has not each position once.
  """
  if order is None:
    return np.arange(num_images)
  order = as_numpy(order)
  if order.dtype.kind not in "iu" or not np.array_equal(
      np.sort(order, axis=None), np.arange(num_images)):
    raise ValueError(
        f"expected an order that has each position in [0, {num_images}) once, "
        "such as np.random.default_rng(0).permutation(len(features)), got "
        f"{order.dtype}{list(order.shape)}")
  return order
