"""The one type by which labelled images travel: names, labels and a reader."""

from collections.abc import Callable, Mapping
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from jaxcal.storage import identity
from jaxcal.typing import Int
from jaxcal.typing import Positions
from jaxcal.typing import UInt8


class ImageSet(NamedTuple):
  """Labelled images that are decoded only when they are read.

  Attributes:
    name: What the set is called in predictions and reports.
    class_names: The classes in label order. Names may repeat (ImageNet has two
      classes called "missile"); labels, not names, tell classes apart.
    ids: One stable, distinct id per image; seeds and stored features go by it.
    labels: int32 [n], each in [0, len(class_names)).
    read: Position -> uint8 [h w 3], RGB. Called from several threads at once.
    path: Position -> the image's file; None where images are no files.
    left_out: Images that belong to the set but cannot be used: reasons by id.
    holder: Position -> the file that holds the image among others; None where
      images are files, or made by code.
    encoded: Position -> what would be the image's file, out of its holder; None
      where holders have pixels.
    corruption: What identifies the corruption of the images, by the names of
      the fields of the config; None where they are as they were taken.
  """

  name: str
  class_names: tuple[str, ...]
  ids: tuple[str, ...]
  labels: Int[np.ndarray, "n"]
  read: Callable[[int], UInt8[np.ndarray, "h w 3"]]
  path: Callable[[int], pathlib.Path] | None = None
  left_out: Mapping[str, str] = {}
  holder: Callable[[int], pathlib.Path] | None = None
  encoded: Callable[[int], bytes] | None = None
  corruption: Mapping[str, Any] | None = None


def check(image_set: ImageSet) -> None:
  """Refuses a set whose ids, labels and class names do not fit together.

  No image is read.

  Args:
    image_set: The set to look at.

  Raises:
    ValueError: If the set is empty, has no classes, an id occurs twice, there
      is not one integer label per id, or a label has no class name, or the set
      or a class has a name that is no text (from a file system in another
      encoding than UTF-8).
  """
  name, class_names, ids = image_set.name, image_set.class_names, image_set.ids
  labels = np.asarray(image_set.labels)
  if not ids:
    raise ValueError(f"image set {name!r} has no images, expected at least "
                     "one.")
  if not class_names:
    raise ValueError(f"image set {name!r} has no class names, expected at "
                     "least one.")
  for one in (name, *class_names):
    if not _is_text(one):
      raise ValueError(
          f"image set {name!r}: the name {one!r} is not UTF-8, so that no "
          "tokenizer and no file could take it; rename the folder, or give "
          "class names (class_names, --config.data.class_names).")
  if labels.shape != (len(ids),):
    raise ValueError(
        f"image set {name!r} has {len(ids)} ids but labels of shape "
        f"{labels.shape}; expected one label per id."
    )
  if not np.issubdtype(labels.dtype, np.integer):
    raise ValueError(
        f"image set {name!r} has labels of type {labels.dtype}; expected "
        "integers (positions in the class names)."
    )
  outside = (labels < 0) | (labels >= len(class_names))
  if outside.any():
    first = int(np.argmax(outside))
    raise ValueError(
        f"image set {name!r} has {int(outside.sum())} labels outside "
        f"[0, {len(class_names)}), the first one {int(labels[first])} of "
        f"{ids[first]!r}; are the class names complete?"
    )
  seen = set()
  for example_id in ids:
    if example_id in seen:
      raise ValueError(
          f"image set {name!r} has the id {example_id!r} more than once; "
          "predictions and stored views go by the id."
      )
    seen.add(example_id)


def check_apart(target: ImageSet, other: ImageSet, *, split: str) -> None:
  """Refuses images to choose or to fit by that are judged, too.

  Args:
    target: Image set that is judged.
    other: Image set of other images of the same classes.
    split: Name of the split that the others are of, for the message.

  Raises:
    ValueError: The other set has other classes, or images of the target.
  """
  if other.class_names != target.class_names:
    raise ValueError(f"{other.name} has other classes than {target.name}; both "
                     "must have the same")
  shared = shared_ids(target, other)
  if shared:
    raise ValueError(
        f"{len(shared)} images of {target.name} are in the split {split!r} of "
        f"{other.name}, too, the first one {shared[0]!r}; choose another split "
        "or set (folders and CSV files have no splits), or none with "
        "--config.temperature.split=none")


def shared_ids(target: ImageSet, other: ImageSet) -> list[str]:
  """Ids of images that are in both sets; of one id there may be two images.

  Two folders may well call different images alike. Files are compared by what
  they hold, of which their sizes mostly tell, other images by their pixels,
  unless one set is corrupted: then the ids alone tell.

  Args:
    target: One image set.
    other: Another image set.
  """
  position = {image_id: i for i, image_id in enumerate(other.ids)}
  both = [(i, position[image_id]) for i, image_id in enumerate(target.ids)
          if image_id in position]
  if target.path is not None and other.path is not None:
    same = _same_files([(target.path(i), other.path(j)) for i, j in both])
  elif target.corruption != other.corruption:
    same = [True] * len(both)  # an image looks different once it is corrupted
  else:
    same = [np.array_equal(target.read(i), other.read(j)) for i, j in both]
  return [target.ids[i] for (i, _), equal in zip(both, same) if equal]


def take(image_set: ImageSet, indices: Positions) -> ImageSet:
  """The images at the given positions, in the given order.

  Args:
    image_set: The set to take from; its class names are kept.
    indices: Positions in [0, n), each at most once.

  Returns:
    A set of `len(indices)` images that keep their ids.

  Raises:
    ValueError: If there are no indices, or one is outside the set or repeated.
  """
  indices = np.asarray(indices)
  num_images = len(image_set.ids)
  if indices.ndim != 1 or not indices.size:
    raise ValueError(
        f"expected at least one position in one dimension, got {indices.shape=}"
    )
  outside = (indices < 0) | (indices >= num_images)
  if outside.any():
    raise ValueError(
        f"position {indices[outside][0]} is outside image set "
        f"{image_set.name!r} of {num_images} images."
    )
  values, counts = np.unique(indices, return_counts=True)
  if counts.max() > 1:
    raise ValueError(f"position {values[counts.argmax()]} is taken twice.")
  positions = [int(index) for index in indices]
  at = lambda function: function and (
      lambda position: function(positions[position]))
  return image_set._replace(
      ids=tuple(image_set.ids[position] for position in positions),
      labels=np.asarray(image_set.labels)[indices],
      read=lambda position: image_set.read(positions[position]),
      path=at(image_set.path),
      holder=at(image_set.holder),
      encoded=at(image_set.encoded),
  )


def read_by_id(
    image_set: ImageSet, image_id: str) -> UInt8[np.ndarray, "h w 3"]:
  """The image that has an id.

  Raises:
    ValueError: There is none.
  """
  return image_set.read(image_set.ids.index(image_id))


def unlabelled(
    image_set: ImageSet, class_names: tuple[str, ...]) -> ImageSet:
  """The images as of none of some classes; their labels, 0, mean nothing."""
  return image_set._replace(
      class_names=class_names,
      labels=np.zeros(len(image_set.ids), np.int32))


def num_of_share(num_images: int, share: float) -> int:
  """How many images beside others make a share of all; at least one.

  Args:
    num_images: Number of the others.
    share: Share, in (0, 1).
  """
  return max(1, round(num_images * share / (1 - share)))


def joined(image_set: ImageSet, others: ImageSet) -> ImageSet:
  """The images and, after them, images of none of their classes.

  Args:
    image_set: The images.
    others: Images of other classes.

  Returns:
    A set with the name and the classes of the first one, which does not tell
    where images lie. The labels of the others, 0, mean nothing. Those of their
    ids that the first set has, too, begin with the name of their own set.
  """
  num_images, taken = len(image_set.ids), set(image_set.ids)
  others = unlabelled(others, image_set.class_names)
  ids = (f"{others.name}/{one}" if one in taken else one for one in others.ids)
  read = lambda position: (
      image_set.read(position) if position < num_images else
      others.read(position - num_images))
  corruption = {**(image_set.corruption or {}), **{
      f"others.{name}": value
      for name, value in (others.corruption or {}).items()}}
  return image_set._replace(
      ids=(*image_set.ids, *ids),
      labels=np.concatenate([image_set.labels, others.labels]),
      read=read, path=None, holder=None, encoded=None,
      corruption=corruption or None)


def limit(
    image_set: ImageSet, num_images: int, *, skip: int = 0) -> ImageSet:
  """At most `num_images` images, spread over the classes; for short runs.

  The rule has no randomness: first the first image of each class in label
  order, then the second of each class, and so on. So a short run over a folder
  sees as many classes as it can, and a longer run begins with the shorter one.

  Args:
    image_set: The set to shorten.
    num_images: How many images to keep, at least 1.
    skip: How many images to leave out before these, by the same rule: those
      that a choice was made on.

  Returns:
    The images in the order of the rule; all that are left, in that order, where
    the set has no more than `num_images`.

  Raises:
    ValueError: If `num_images` is below 1, `skip` below 0, or no image is left.
  """
  if num_images < 1:
    raise ValueError(f"expected at least 1 image to keep, got {num_images}.")
  labels = np.asarray(image_set.labels)
  if not 0 <= skip < len(labels):
    raise ValueError(
        f"expected to skip fewer than the {len(labels)} images of "
        f"{image_set.name!r}, got {skip}.")
  by_class = np.argsort(labels, kind="stable")
  starts = np.searchsorted(labels[by_class], labels[by_class])
  rank = np.empty(len(labels), np.int64)
  rank[by_class] = np.arange(len(labels)) - starts
  order = np.lexsort((labels, rank))
  return take(image_set, order[skip:skip + num_images])


def imbalanced(image_set: ImageSet, ratio: float) -> ImageSet:
  """The images, those of later classes ever fewer: a long tail.

  Of each class a share of its images is kept that falls exponentially from 1,
  of the first class, to 1 / `ratio`, of the last one, rounded down and at least
  one image, as in the long-tailed sets made of CIFAR. There is no randomness:
  the first images of each class are kept, so that a higher ratio keeps some of
  those that a lower one does.

  Args:
    image_set: The set to take from.
    ratio: How many times as often as the last class the first one occurs, where
      they have as many images; 1 keeps all.

  Returns:
    The images that are kept, in their order.

  Raises:
    ValueError: A ratio below 1.

  Source: Cui et al., Class-Balanced Loss Based on Effective Number of Samples,
  CVPR 2019.
  """
  if ratio < 1:
    raise ValueError(f"expected a ratio of at least 1, got {ratio}")
  if ratio == 1:
    return image_set
  labels = np.asarray(image_set.labels)
  classes, counts = np.unique(labels, return_counts=True)
  fall = np.arange(len(classes)) / max(1, len(classes) - 1)
  # A hair more: of a power that rounding left just below a whole number, too.
  kept = np.maximum(1, np.floor(counts * ratio ** -fall + 1e-9)).astype(int)
  return take(image_set, np.sort(np.concatenate([
      np.flatnonzero(labels == label)[:number]
      for label, number in zip(classes, kept)])))


def _same_files(pairs):
  """Of each pair of files, whether they hold the same; few need be read."""
  stats = [(os.stat(one), os.stat(other)) for one, other in pairs]
  same = np.array([os.path.samestat(*of) for of in stats], bool)
  rows = [row for row, (one, other) in enumerate(stats)
          if not same[row] and one.st_size == other.st_size]
  ours, theirs = (identity.file_digests([pairs[row][side] for row in rows])
                  for side in (0, 1))
  same[rows] = (ours.digests == theirs.digests).all(axis=1)
  return same


def _is_text(name):
  """Whether a name from the file system could be read as letters."""
  try:
    name.encode("utf-8")
  except UnicodeEncodeError:
    return False
  return True
